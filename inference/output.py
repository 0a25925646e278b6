"""Answers as CSV, TSV, JSON, JSON lines or Parquet, by the ending of the file. A batch of rows is written at a time."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import open_whole
from .classify import to_cell

Rows = list[dict[str, Any]]
Write = Callable[[Rows], None]

# Words with their weights are a list of these.
WORDS = pa.list_(pa.struct({"word": pa.string(), "weight": pa.float64()}))


@contextmanager
def open_rows(path: Path | None) -> Iterator[Write]:
    """What writes rows with the same names to a file, which takes its name when it is whole; None: standard output."""
    kind = ".csv" if path is None else path.suffix.lower()
    if path is None and isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # as a file, on any code page
    whole = nullcontext(sys.stdout) if path is None else open_whole(path, "wb" if kind == ".parquet" else "w")
    with whole as file, FORMATS[kind](file) as write:
        yield write


@contextmanager
def write_csv(file: Any, delimiter: str = ",") -> Iterator[Write]:
    writer = csv.writer(file, delimiter=delimiter)
    names: list[str] = []

    def write(rows: Rows) -> None:
        if rows and not names:
            names.extend(rows[0])
            writer.writerow(names)
        writer.writerows(map(format_cell, row.values()) for row in rows)

    yield write


def format_cell(value: Any) -> Any:
    """The strongest word first, as in `great +0.412; film -0.020`; and what `to_cell` makes of other values."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(f"{word['word']} {word['weight']:+.3g}" for word in value)
    return to_cell(value)


@contextmanager
def write_json(file: Any, start: str, between: str, end: str) -> Iterator[Write]:
    before = start

    def write(rows: Rows) -> None:
        nonlocal before
        for row in rows:
            file.write(before + json.dumps(row, ensure_ascii=False, default=str))
            before = between

    yield write
    file.write(end)


@contextmanager
def write_parquet(file: Any) -> Iterator[Write]:
    writers: list[pq.ParquetWriter] = []

    def write(rows: Rows) -> None:
        try:
            if not writers:
                schema = pa.schema(map(resolve_field, pa.Table.from_pylist(rows).schema))
                writers.append(pq.ParquetWriter(file, schema))
            writers[0].write_table(pa.Table.from_pylist(rows, schema=writers[0].schema))
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(
                f"`keep` has values that no Parquet column holds together: {error}. Write .jsonl."
            ) from error

    yield write
    for writer in writers:
        writer.close()


def resolve_field(field: pa.Field) -> pa.Field:
    """A type for what is missing, or an empty list, in all rows of the first batch."""
    if field.name == "words":
        return field.with_type(WORDS)
    if pa.types.is_list(field.type) and pa.types.is_null(field.type.value_type):
        return field.with_type(pa.list_(pa.string()))
    return field.with_type(pa.string()) if pa.types.is_null(field.type) else field


FORMATS: dict[str, Callable[[Any], AbstractContextManager[Write]]] = {
    ".csv": write_csv,
    ".tsv": partial(write_csv, delimiter="\t"),
    ".json": partial(write_json, start="[\n", between=",\n", end="\n]\n"),
    ".jsonl": partial(write_json, start="", between="\n", end="\n"),
    ".ndjson": partial(write_json, start="", between="\n", end="\n"),
    ".parquet": write_parquet,
}
