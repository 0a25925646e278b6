"""Data files as a stream of batches. Compression, encoding, delimiter and header are found, or refused in a line."""

import bz2
import codecs
import csv
import gzip
import io
import json
import logging
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlretrieve

import charset_normalizer
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from .columns import LABEL_COLUMNS, LETTER, OTHER_NAMES, TEXT_COLUMNS, is_missing

logger = logging.getLogger(__name__)

COMPRESSIONS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(pa.input_stream(str(path), compression="zstd")),
    ".zip": lambda path: zipfile.ZipFile(path).open(find_member(path)),  # noqa: SIM115
}
DELIMITERS = (",", ";", "\t", "|")
SAMPLE, MOST_LINES = 2**18, 2000  # bytes and lines that a legacy encoding is found from
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LEGACY = ["cp1252", "cp1257", "cp1255", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1256"]
LEGACY += ["big5", "cp932", "euc_jp", "gb18030", "cp949", "cp874"]
# How files begin that stand in the place of data.
STRANGERS = {b"version https://git-lfs": "a Git LFS pointer, whose data `git lfs pull` fetches"}
STRANGERS |= dict.fromkeys([b"<!doctype html", b"<html", b"<?xml"], "a web page")


class FileError(ValueError):
    """A file is refused. The message is one line that names it."""


class Format(NamedTuple):
    """What the user says of text files; `names` are of columns."""

    delimiter: str | None = None
    encoding: str | None = None
    no_header: bool = False
    names: Sequence[str] = ()


@dataclass
class Batch:
    """Some rows of a source. A column is a list, or an Arrow array that becomes one only when it is used."""

    where: str
    columns: dict[str, Any]
    start: int = 0
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def read(self, name: str, step: int = 1) -> list[Any]:
        """Each `step`-th value of a column; those of one that this batch lacks, as JSON lines may, are missing."""
        column = self.columns.get(name, [None] * len(self))
        if isinstance(column, list):
            return column[::step]
        try:
            column.validate(full=True)  # the memory of a damaged Arrow file is read as it is
            return (column.take(range(0, len(column), step)) if step > 1 else column).to_pylist()
        except Exception as error:  # such as strings that are not UTF-8, or dates that Python does not know
            raise FileError(f"The column {name!r} of {self.where} cannot be read: {error}") from error

    def read_texts(self, text_columns: Sequence[str]) -> dict[str, list[str]]:
        """The texts as `text` and, for two columns, `text_pair`; more than two are joined by spaces."""
        texts = [["" if is_missing(value) else value for value in self.read(name)] for name in text_columns]
        for name, values in zip(text_columns, texts, strict=True):
            for row, value in enumerate(values, start=self.start + 1):
                # Half a character of UTF-16, which JSON may hold, has no encoding.
                if not isinstance(value, str) or (
                    not value.isascii() and value.encode(errors="ignore").decode() != value
                ):
                    wrong = f"{value!r:.60} in row {row} of {self.where}"
                    raise FileError(f"The text column {name!r} must hold strings of Unicode, got {wrong}.")
        if len(texts) > 2:
            return {"text": [" ".join(filter(None, parts)) for parts in zip(*texts, strict=True)]}
        return dict(zip(("text", "text_pair"), texts, strict=False))


def read_batches(path: str | Path, form: Format, batch_size: int = 8192) -> Iterator[Batch]:
    """The rows of a file in batches, at least one row. All values of CSV and text files are strings."""
    if is_url(path):
        with TemporaryDirectory() as folder:
            copy = Path(folder) / (Path(urlsplit(str(path)).path).name or "data")
            try:
                urlretrieve(str(path), copy)  # which sees when a file comes incomplete
            except (OSError, HTTPException, ValueError) as error:
                raise OSError(f"{str(path)!r} cannot be downloaded: {error}") from error
            yield from read_batches(copy, form, batch_size)
        return
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    count = 0
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower()
        for start, what in STRANGERS.items():
            if head.startswith(start):
                raise FileError(f"The file {str(path)!r} is {what}, not data.")
        if find_kind(path) not in READERS:
            raise FileError(f"A data file must end in one of {', '.join(ENDINGS)}, got {str(path)!r}.")
        for batch in READERS[find_kind(path)](path, form, batch_size):
            batch.start = count
            count += len(batch)
            yield batch
    except FileError:
        raise
    except Exception as error:  # readers of compressed and binary files raise anything when a file is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"The file {str(path)!r} cannot be read: {reason:.300}") from error
    if not count:
        raise FileError(f"The file {str(path)!r} must hold at least one row, got none.")


def is_url(name: str | Path) -> bool:
    return str(name).startswith(("http://", "https://"))


def find_kind(path: Path) -> str:
    """The ending of a file in lower case, without that of its compression; in a zip file, of its only member."""
    path = Path(find_member(path)) if path.suffix.lower() == ".zip" and path.is_file() else path
    return Path(path.stem if path.suffix.lower() in COMPRESSIONS else path.name).suffix.lower()


def find_member(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    if len(names) != 1:
        raise FileError(f"The file {str(path)!r} must hold one file, got {len(names)}: {names[:5]}.")
    return names[0]


def open_bytes(path: Path) -> IO[bytes]:
    return COMPRESSIONS.get(path.suffix.lower(), lambda path: path.open("rb"))(path)


def open_text(path: Path, form: Format, newline: str) -> io.TextIOWrapper:
    encoding = form.encoding or find_encoding(path)
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline)


def find_encoding(path: Path) -> str:
    """UTF-8, or what a byte order mark says; or else what charset-normalizer finds, with a warning."""
    good, bad = 0, dict[int, bytes]()
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            marks = [name for mark, name in MARKS.items() if number == 1 and line.startswith(mark)]
            if marks:
                return marks[0]
            if 0 in line:
                raise FileError(f"{str(path)!r} is no text file: line {number} has zero bytes. Or set `encoding`.")
            if line.isascii() or is_utf8(line):
                good += not line.isascii()
            elif len(bad) < MOST_LINES:
                bad[number] = line
    if 0 < len(bad) < good:  # another encoding is hardly ever UTF-8 by chance
        raise FileError(f"Line {min(bad)} of {str(path)!r} is not UTF-8, as others are: mend it, or set `encoding`.")
    return find_legacy_encoding(b"".join(bad.values()), str(path)) if bad else "utf-8"


def is_utf8(text: bytes) -> bool:
    return text.decode(errors="ignore").encode() == text


def find_legacy_encoding(content: bytes, where: str) -> str:
    """Of the encodings that are equally likely, the first one of `LEGACY`."""
    found = [
        (round(match.chaos, 2), -match.coherence, min(map(LEGACY.index, {*match.could_be_from_charset} & {*LEGACY})))
        for match in charset_normalizer.from_bytes(content[:SAMPLE], cp_isolation=LEGACY)
    ]
    if not found:
        raise FileError(f"{where!r} is not UTF-8, and its encoding is not clear: set `encoding`.")
    encoding = LEGACY[min(found)[-1]]
    logger.warning("%r is not UTF-8 and is read as %s. If letters are wrong, set `encoding`.", where, encoding)
    return encoding


def read_csv(path: Path, form: Format, batch_size: int) -> Iterator[Batch]:
    csv.field_size_limit(2**31 - 1)  # Python's own limit is less than a long document
    form = form._replace(encoding=form.encoding or find_encoding(path))
    form = form._replace(delimiter=form.delimiter or find_delimiter(path, form))
    yield from name_columns(path, read_rows(path, form), form, batch_size)


def read_rows(path: Path, form: Format) -> Iterator[list[str]]:
    """The rows that are not empty, all of one number of fields."""
    with open_text(path, form, newline="") as file:
        is_old = file.readline().endswith("\r")  # as a Mac once wrote
    # Lines end as the first one does. Programs leave the other line break in a cell without quotes, where the csv
    # module takes none: half a character of UTF-16, which no file holds, stands for it.
    end, other = ("\r", "\n") if is_old else ("\n", "\r")
    with open_text(path, form, newline=end) as file:
        lines = (line[:-2].replace(other, "\ud800") + line[-2:] for line in file)
        # Strict, since a stray quote would otherwise swallow the lines up to the next one.
        reader = csv.reader(lines, delimiter=form.delimiter or "", strict=True)
        width = 0
        try:
            for row in filter(None, reader):
                width = width or len(row)
                if len(row) != width:
                    wrong = f"{len(row)} fields where the first row has {width}, by {form.delimiter!r}"
                    raise csv.Error(f"{wrong}. Quote the field, or set `delimiter`")
                yield [cell.replace("\ud800", other) for cell in row]
        except csv.Error as error:
            raise FileError(f"{str(path)!r} cannot be read up to line {reader.line_num}: {error}.") from error


def find_delimiter(path: Path, form: Format) -> str:
    """The one by which the first rows all have the same number of fields, of two or more."""
    fits = []
    for delimiter in DELIMITERS:
        with suppress(FileError):
            widths = set(map(len, islice(read_rows(path, form._replace(delimiter=delimiter)), MOST_LINES)))
            fits += [delimiter] if widths and max(widths) > 1 else []
    if find_kind(path) == ".tsv" and (not fits or "\t" in fits):
        return "\t"
    if len(fits) > 1:
        raise FileError(f"The delimiter of {str(path)!r} may be one of {fits}: set `delimiter`.")
    with open_text(path, form, newline="") as file:  # where none fits, the row that does not is named when it is read
        return fits[0] if fits else max(DELIMITERS, key=file.readline().count)


def name_columns(path: Path, rows: Iterator[list[Any]], form: Format, batch_size: int) -> Iterator[Batch]:
    """Rows of a table as batches, named by the first row. Columns without a name have that of their position."""
    header = [] if form.no_header else ["" if cell is None else str(cell).strip() for cell in next(rows, [])]
    batch = list(islice(rows, batch_size))
    if header and batch:
        check_header(path, header, batch, form.names)
    header = header or [""] * len(next(iter(batch), ()))
    names = [name or f"column_{index}" for index, name in enumerate(header, start=1)]
    while batch:
        yield Batch(str(path), dict(zip(names, map(list, zip(*batch, strict=True)), strict=True)))
        batch = list(islice(rows, batch_size))


def check_header(path: Path, header: list[str], rows: list[list[Any]], given: Sequence[str]) -> None:
    """Refuses a first row that repeats a name, or has no usual name and may be a row of data."""
    values = [{str(value).strip() for value in column} for column in zip(*rows, strict=True)]
    named = [(name, values[index]) for index, name in enumerate(header) if name]
    usual = {*given, *TEXT_COLUMNS, *LABEL_COLUMNS, *OTHER_NAMES}
    is_usual = any({name, name.lower()} & usual and name not in column for name, column in named)
    wrong = [f"{name!r} stands there twice" for name, count in Counter(header).items() if name and count > 1]
    for name, column in [] if is_usual else named:
        is_data = name in column or not LETTER.search(name) or len(name.split()) > 3 or len(header) == 1
        wrong += [f"{name!r:.60} may be data"] if is_data else []
    if wrong:
        reason = f"{wrong[0]}: set `no_header` if it is data, or give other names"
        raise FileError(f"Line 1 of {str(path)!r} must hold the names of the columns, but {reason}.")


def read_json(path: Path, form: Format, batch_size: int) -> Iterator[Batch]:
    """A list of objects, or an object on each line. Fields of nested objects are columns such as `ticket.body`."""

    def read_rows(file: IO[str]) -> Iterator[Any]:
        for number, line in enumerate(file, start=1):
            is_list = line.lstrip().startswith("[")
            try:
                values = json.loads(line + file.read() if is_list else line) if line.strip() else []
            except (ValueError, RecursionError) as error:
                place = "as a list of objects" if is_list else f"as an object on each line, in line {number}"
                raise FileError(f"The file {str(path)!r} cannot be read {place}: {error}") from error
            yield from values if isinstance(values, list) else [values]

    with open_text(path, form, newline="\n") as file:
        rows, names = read_rows(file), dict[str, None]()
        while batch := list(islice(rows, batch_size)):
            if wrong := [row for row in batch if not isinstance(row, dict)]:
                raise FileError(f"The file {str(path)!r} must hold JSON objects, got {wrong[0]!r:.60}.")
            flat = list(map(flatten, batch))
            names |= dict.fromkeys(chain.from_iterable(flat))
            yield Batch(str(path), {name: [row.get(name) for row in flat] for name in names})


def flatten(row: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def read_parquet(path: Path, form: Format, batch_size: int) -> Iterator[Batch]:
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size):
            yield from split_table(str(path), pa.Table.from_batches([batch], schema=table.schema_arrow), batch_size)


def read_arrow(path: Path, form: Format, batch_size: int) -> Iterator[Batch]:
    """Feather and Arrow files, or the streams that the datasets library keeps."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    table.validate()
    yield from split_table(str(path), table, batch_size)


def split_table(where: str, table: pa.Table, batch_size: int) -> Iterator[Batch]:
    """An Arrow table in batches, with the label names that the datasets library keeps beside it."""
    features = Features.from_arrow_schema(table.schema) if b"huggingface" in (table.schema.metadata or ()) else {}
    kinds = {name: getattr(feature, "feature", feature) for name, feature in features.items()}  # of lists, their items
    names = {name: kind.names for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
    while any(map(pa.types.is_struct, table.schema.types)):
        table = table.flatten()
    for start in range(0, len(table), batch_size):
        part = table.slice(start, batch_size)
        yield Batch(where, dict(zip(part.column_names, part.columns, strict=True)), start, names)


def read_excel(path: Path, form: Format, batch_size: int) -> Iterator[Batch]:
    """The first sheet, without the empty rows before and after what is in it."""
    with pd.ExcelFile(path, "openpyxl") as book:
        if len(book.sheet_names) > 1:
            logger.warning("Only the first sheet of %r is read: %r.", str(path), book.sheet_names[0])
    settings = {"header": None, "dtype": object, "na_filter": False, "engine": "openpyxl"}
    values, written = (pd.read_excel(path, engine_kwargs={"data_only": kind}, **settings) for kind in (True, False))
    values = values.reindex(index=written.index, columns=written.columns, fill_value="")
    # A formula whose value is an error, or lacks in the file, is none that a text or a label can be.
    lacks = values.isna() | (values == "") & (written != "")
    values = values.mask(lacks, written.map(lambda formula: {"formula without a value": formula}))
    rows = values[(written != "").any(axis=1).cummax()].values.tolist()
    yield from name_columns(path, ([None if cell == "" else cell for cell in row] for row in rows), form, batch_size)


def read_lines(path: Path, form: Format, batch_size: int) -> Iterator[Batch]:
    """One text a line, which ends at a line feed. In files of fastText, labels stand before it as `__label__x`."""
    with open_text(path, form, newline="\n") as file:
        is_fasttext = None
        while batch := [line.rstrip("\r\n") for line in islice(file, batch_size)]:
            is_fasttext = batch[0].startswith("__label__") if is_fasttext is None else is_fasttext
            texts = [re.sub(r"^(__label__\S*\s*)+", "", line) for line in batch] if is_fasttext else batch
            columns: dict[str, list[Any]] = {"text": texts}
            if is_fasttext:
                marks = [line[: len(line) - len(text)] for line, text in zip(batch, texts, strict=True)]
                columns["label"] = [re.findall(r"__label__(\S+)", mark) for mark in marks]
            yield Batch(str(path), columns)


READERS: dict[str, Callable[[Path, Format, int], Iterator[Batch]]] = {
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), read_json),
    ".parquet": read_parquet,
    **dict.fromkeys((".arrow", ".feather"), read_arrow),
    **dict.fromkeys((".xlsx", ".xlsm"), read_excel),
    ".txt": read_lines,
}
ENDINGS = (*READERS, *COMPRESSIONS)
