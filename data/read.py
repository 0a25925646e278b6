"""Data files as a stream of tables, and which of their columns hold the text."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = ("text", "sentence", "content", "review", "question")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "coarse_label")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_texts(
    path: str | Path, *, text_columns: Sequence[str] | None = None, batch_size: int = 1024
) -> Iterator[list[dict[str, str]]]:
    """
    Reads the texts of a file of any size as lists of `batch_size` rows, `{"text": ...}` or `{"text": ...,
    "text_pair": ...}`. A row in is a row out: a missing text is an empty one. The columns are found before it returns.

    Args:
        path: A CSV, TSV, JSON lines, Parquet or plain text file (one text a line), read in the memory of one batch; or
            a JSON list, read at once.
        text_columns: As in `load_text_data`.
        batch_size: At least 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: `batch_size`, the file or a column is not as described; the message says which.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    tables = read_tables(path, batch_size)
    first = next(tables)
    columns = find_text_columns(first, text_columns, find_label_columns(first.column_names))
    texts = (read_columns(table, columns, str(path)) for table in chain([first], tables))
    return ([dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)] for batch in texts)


def read_tables(path: str | Path, batch_size: int = 8192) -> Iterator[pa.Table]:
    """The rows of a file as tables of `batch_size` rows, at least one. All values of CSV and text files are strings."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if find_kind(path) not in READERS:
        endings = f"{list(READERS)}, also with one of {list(COMPRESSIONS)}"
        raise ValueError(f"A data file must end in one of {endings}, got {str(path)!r}.")
    count = 0
    try:
        for table in READERS[find_kind(path)](path, batch_size):
            count += len(table)
            yield table
    except (pa.ArrowException, UnicodeError, EOFError, OSError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"The file {str(path)!r} cannot be read: {error}") from error
    if not count:
        raise ValueError(f"The file {str(path)!r} must hold at least one row, got none.")


def find_kind(path: Path) -> str:
    """The ending of a file in lower case, without that of its compression."""
    name = path.name.lower()
    return Path(next((name.removesuffix(end) for end in COMPRESSIONS if name.endswith(end)), name)).suffix


def open_text(path: Path, newline: str) -> IO[str]:
    return fsspec.open(str(path), "rt", compression="infer", encoding="utf-8-sig", newline=newline)


def read_csv(path: Path, batch_size: int) -> Iterator[pa.Table]:
    csv.field_size_limit(2**31 - 1)  # Python's own limit is less than a long document
    with open_text(path, newline="") as file:
        # Strict, since a stray quote would otherwise swallow the lines up to the next one.
        reader = csv.reader(file, delimiter="\t" if find_kind(path) == ".tsv" else ",", strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"The columns of {str(path)!r} must have different names, got {header}.")

        def check(row: list[str]) -> list[str]:
            if len(row) != len(header):
                raise csv.Error(f"{len(row)} fields up to line {reader.line_num}, where the header has {len(header)}")
            return row

        rows = map(check, filter(None, reader))
        while batch := list(islice(rows, batch_size)):
            yield pa.table([pa.array(column, pa.string()) for column in zip(*batch, strict=True)], names=header)


def read_json(path: Path, batch_size: int) -> Iterator[pa.Table]:
    """A list of objects, or an object on each line."""
    with open_text(path, newline="\n") as file:
        first = next(filter(str.strip, file), "")
        is_list = first.lstrip().startswith("[")
        lines = filter(str.strip, chain([first], file))
        rows: Iterable[Any] = iter(json.loads(first + file.read())) if is_list else map(json.loads, lines)
        while batch := list(islice(rows, batch_size)):
            if not all(isinstance(row, dict) for row in batch):
                raise ValueError(f"The file {str(path)!r} must hold JSON objects, one for each row.")
            names = dict.fromkeys(chain.from_iterable(batch))
            yield pa.table({name: [row.get(name) for row in batch] for name in names})


def read_parquet(path: Path, batch_size: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size):
            yield pa.Table.from_batches([batch], schema=file.schema_arrow)


def read_lines(path: Path, batch_size: int) -> Iterator[pa.Table]:
    """One text a line; a line ends where a line feed stands."""
    with open_text(path, newline="\n") as file:
        while batch := [line.rstrip("\r\n") for line in islice(file, batch_size)]:
            yield pa.table({"text": batch})


READERS: dict[str, Callable[[Path, int], Iterator[pa.Table]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".parquet": read_parquet,
    ".txt": read_lines,
}


def find_label_columns(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower() in LABEL_COLUMNS]


def find_text_columns(table: pa.Table, given: Sequence[str] | None, labels: Sequence[str]) -> list[str]:
    """The columns that are given; or those with a usual name; or else the only one that holds words."""
    names = table.column_names
    if given is not None:
        given = [given] if isinstance(given, str) else list(given)
        check_columns("text_columns", given, names)
        return given
    others = {name.lower(): name for name in names if name not in labels}
    found = [[others[part] for part in pair] for pair in TEXT_PAIRS if others.keys() >= set(pair)]
    in_pairs = list(chain(*found))
    found += [[name] for lower, name in others.items() if lower in TEXT_COLUMNS and name not in in_pairs]
    found = found or [[name] for name in others.values() if has_words(table.column(name))]
    if len(found) != 1:
        reason = f"several may hold the text: {list(chain(*found))}" if found else "none of them holds words"
        raise ValueError(f"`text_columns` must be given: the columns are {names}, and {reason}.")
    return found[0]


def check_columns(argument: str, given: Sequence[str], names: Sequence[str]) -> None:
    if not given or not set(given) <= set(names) or len(set(given)) < len(given):
        raise ValueError(f"`{argument}` must be among the columns {list(names)}, got {', '.join(map(repr, given))}.")


def has_words(column: pa.ChunkedArray) -> bool:
    """Whether a column holds strings that are not all numbers (every column of a CSV file holds strings)."""
    values = column.slice(0, 1000).to_pylist() if is_text(column.type) else []
    return any(value and not NUMBER.fullmatch(value) for value in values)


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def read_columns(table: pa.Table, text_columns: Sequence[str], where: str) -> dict[str, list[str]]:
    """The texts of a table as `text` and, for two columns, `text_pair`; more than two are joined by spaces."""
    texts = []
    for name in text_columns:
        # JSON lines may lack a key, and a batch all of them.
        column = table.column(name) if name in table.column_names else pa.nulls(len(table))
        if not (is_text(column.type) or pa.types.is_null(column.type)):
            raise ValueError(f"The text column {name!r} of {where} must hold strings, got {str(column.type)[:100]}.")
        texts.append([value or "" for value in column.to_pylist()])
    if len(texts) > 2:
        return {"text": [" ".join(filter(None, parts)) for parts in zip(*texts, strict=True)]}
    return dict(zip(("text", "text_pair"), texts, strict=False))
