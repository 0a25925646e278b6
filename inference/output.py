"""Answers as CSV, TSV, JSON lines or Parquet, by the ending of the file. A batch of rows is written at a time."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import open_whole
from .classify import to_cell

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
# Words with their weights are a list of these.
WORDS = pa.list_(pa.struct({"word": pa.string(), "weight": pa.float64()}))

Rows = list[dict[str, Any]]


def write_rows(path: Path | None, batches: Iterator[Rows]) -> None:
    """Writes rows with the same names to a file, which takes its name when it is whole; None: to standard output."""
    first = next(batches, None)
    if first is None:
        raise ValueError("There must be at least one text, got none.")
    rows = chain(first, chain.from_iterable(batches))
    kind = ".csv" if path is None else path.suffix.lower()
    if path is None and isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # as a file, on any code page
    whole = nullcontext(sys.stdout) if path is None else open_whole(path, "wb" if kind == ".parquet" else "w")
    with whole as file:
        if kind == ".parquet":
            write_parquet(file, chain([first], batches))
        elif kind == ".jsonl":
            file.writelines(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows)
        else:
            writer = csv.writer(file, delimiter="\t" if kind == ".tsv" else ",")
            writer.writerow(first[0])
            writer.writerows(map(format_cell, row.values()) for row in rows)


def format_cell(value: Any) -> Any:
    """The strongest word first, as in `great +0.412; film -0.020`; and what `to_cell` makes of other values."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(f"{word['word']} {word['weight']:+.3g}" for word in value)
    return to_cell(value)


def write_parquet(file: Any, batches: Iterator[Rows]) -> None:
    first = next(batches)
    try:
        schema = pa.schema(map(resolve_field, pa.Table.from_pylist(first).schema))
        with pq.ParquetWriter(file, schema) as writer:
            for rows in chain([first], batches):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"`keep` has values that no Parquet column holds together: {error}. Write .jsonl.") from error


def resolve_field(field: pa.Field) -> pa.Field:
    """A type for what is missing, or an empty list, in all rows of the first batch."""
    if field.name == "words" or field.type == pa.list_(pa.null()):
        return field.with_type(WORDS if field.name == "words" else pa.list_(pa.string()))
    return field.with_type(pa.string()) if pa.types.is_null(field.type) else field
