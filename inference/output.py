"""Answers as CSV, TSV, JSON lines or Parquet, by the ending of the file."""

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

Rows = list[dict[str, Any]]


def write_rows(path: Path | None, batches: Iterator[Rows]) -> None:
    """
    Writes rows with the same names to a file, which takes its name when it is whole; None: to standard output. A batch
    is written at a time; of Parquet all at the end, when the types of the columns are known.
    """
    first = next(batches, None)
    if first is None:
        raise ValueError("There must be at least one text, got none.")
    kind = ".csv" if path is None else path.suffix.lower()
    if path is None and isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # as a file, on any code page
    whole = nullcontext(sys.stdout) if path is None else open_whole(path, "wb" if kind == ".parquet" else "w")
    rows = chain(first, chain.from_iterable(batches))
    with whole as file:
        if kind == ".parquet":
            write_parquet(file, chain([first], batches))
        elif kind == ".jsonl":
            file.writelines(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows)
        else:
            writer = csv.writer(file, delimiter="\t" if kind == ".tsv" else ",")
            writer.writerow(first[0])
            writer.writerows(map(format_cell, row.values()) for row in rows)


def write_parquet(file: Any, batches: Iterator[Rows]) -> None:
    try:
        tables = pa.concat_tables(map(pa.Table.from_pylist, batches), promote_options="permissive")
        pq.write_table(tables, file)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"`keep` has values that no Parquet column holds together: {error}. Write .jsonl.") from error


def format_cell(value: Any) -> Any:
    """The strongest word first, as in `great +0.412; film -0.020`; and what `to_cell` makes of other values."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(f"{word['word']} {word['weight']:+.3g}" for word in value)
    return to_cell(value)
