"""Labelled texts: source -> splits -> columns -> task and labels -> validation cut, in this order."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from .columns import check_columns, find_label_column, find_text_columns, is_label_name, is_missing
from .cuts import cut_validation
from .labels import Labels, find_indices, index_labels, read_labels, resolve_task
from .read import Batch, Format, find_kind, read_batches
from .sources import choose_splits, find_sources

__all__ = ["TextData", "load_text_data", "read_labelled", "read_texts"]

logger = logging.getLogger(__name__)

Rows = dict[str, list[Any]]

# What the rows of a labelled file are called in messages.
GIVEN = "given"


@dataclass(frozen=True)
class TextData:
    """
    Labelled texts. The splits have the columns `text`, `text_pair` (only for pairs) and `label`, in the order of the
    source. `fingerprint` is the sha256 over their rows, the same on every machine.

    By `task`, a label is an index into `label_names` ("single"), a list of 0.0 or 1.0 for each of them ("multi"), or a
    number ("number"; no names). `label_column` is a list of columns if each is for one label. `numbers` says for each
    split which rows of its source these are, from 0.
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
    label_column: str | list[str]
    task: str
    numbers: dict[str, Sequence[int]]

    @property
    def splits(self) -> dict[str, Dataset]:
        """Those that there are, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    @property
    def found(self) -> str:
        """What was read, in one line."""
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        labels = self.label_column if isinstance(self.label_column, str) else ", ".join(self.label_column)
        names = len(self.label_names)
        kind = {"single": f"{names:,} classes", "multi": f"any of {names:,}", "number": "a number"}[self.task]
        return f"{sizes} rows; text: {', '.join(self.text_columns)}; label: {labels} ({kind})."


def load_text_data(
    dataset: Any = None,
    *,
    train_file: str | os.PathLike | None = None,
    validation_file: str | os.PathLike | None = None,
    test_file: str | os.PathLike | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    task: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    no_header: bool = False,
    validation_fraction: float = 0.1,
    validation_cut: str = "random",
    dataset_config: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> TextData:
    """
    The splits of a text classification or regression data set.

    Training rows with an empty text or no label are dropped, and counted in a warning. In validation and test they
    stay: a score over fewer rows compares with nothing. Such a split without any labels is left out, with a warning.

    Args:
        dataset: A built-in name (`bbc_news`); a file or its http address; a folder with a file, or all its parts
            (`train-00000-of-00002` ...), for each split and, optionally, a `classes.txt` with one label name a line in
            label order; a folder of texts as `train/sport/1.txt`, or `sport/1.txt`; a folder that `save_to_disk` of
            the datasets library wrote; or a name on the Hub, with its `dataset_config`. In Python also a DataFrame, a
            Dataset, a dict of columns, a list of dicts, a pair `(texts, labels)`, or a dict with one for each split.
        train_file, validation_file, test_file: A file for each split, instead of or beside `dataset`.
        text_columns: The columns with the text. Two are a pair of texts; more are joined by spaces into one.
        label_column: The column with the label, or several that hold 0 or 1 for one label each.
        label_separator: What stands between the labels of a cell, such as `;`: each row has any number of labels.
        task: "single", "multi" or "number". Without it: "multi" for lists of labels, "number" for more than 20
            different numbers with fractions, or else "single".
        delimiter, encoding: Of CSV and other text files. Without them: found from the content.
        no_header: The first row of CSV and Excel files is data. The columns are `column_1`, `column_2` ...
        validation_fraction: Which part of every class is cut from the training rows, if there is no validation split.
        validation_cut: Which rows these are: "random" ones or "whole_texts" (see cuts.py).
        train_split, validation_split, test_split: The names of the splits, where they are not the usual ones.
        seed: Decides which rows are cut.

    Returns:
        The splits, with one label map: integers in their order, strings in alphabetical order, or the order of the
        names that `classes.txt` or the training rows declare.

    Raises:
        OSError: There is no such file, folder or name on the Hub, or it cannot be reached; or `bbc_news` lacks its
            package.
        ValueError: An argument, a column, a file's content or a label is not as described; the message says which.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"`validation_fraction` must be greater than 0 and less than 1, got {validation_fraction}.")
    if validation_cut not in ("random", "whole_texts"):
        raise ValueError(f"`validation_cut` must be 'random' or 'whole_texts', got {validation_cut!r}.")
    label_columns = [label_column] if isinstance(label_column, str) else list(label_column or ())
    text_columns = [text_columns] if isinstance(text_columns, str) else text_columns
    form = Format(delimiter, encoding, no_header, [*(text_columns or ()), *label_columns])
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    name, is_on_hub, sources, class_names = find_sources(dataset, dataset_config, files, form)
    asked = {"train": train_split, "validation": validation_split, "test": test_split}
    keys = choose_splits(name, list(sources), asked)
    batches = {split: [batch for batch in sources[key]() if len(batch)] for split, key in keys.items()}
    samples = sample_columns(batches["train"])
    text_columns, label_columns = find_columns(samples, text_columns, label_columns)
    splits = {split: read_split_texts(split, part, text_columns) for split, part in batches.items()}
    labels = {split: read_labels(part, label_columns) for split, part in batches.items()}
    class_names = class_names or batches["train"][0].class_names.get(label_columns[0])
    task = resolve_task(labels, task, label_separator, bool(class_names))
    leave_out_splits(labels, bool(class_names))
    kept = find_usable(splits["train"], labels["train"], class_names)
    labels["train"] = [labels["train"][index] for index in kept]
    label_names = index_labels(labels, class_names, task)
    rows = {split: {**splits[split], "label": values} for split, values in labels.items()}
    rows["train"] |= take_rows(splits["train"], kept)
    numbers: dict[str, Sequence[int]] = {split: range(len(part["label"])) for split, part in rows.items()}
    numbers["train"] = kept

    validation_was_split = "validation" not in rows
    if validation_was_split:
        texts = list(zip(*(rows["train"][name] for name in splits["train"]), strict=True))
        sets = [label if task == "multi" else [label] if task == "single" else [] for label in labels["train"]]
        chosen, cut = cut_validation(texts, sets, validation_cut, validation_fraction, seed)
        rows |= {"validation": take_rows(rows["train"], cut), "train": take_rows(rows["train"], chosen)}
        numbers |= {"validation": [kept[index] for index in cut], "train": [kept[index] for index in chosen]}
    elif validation_cut != "random":
        raise ValueError(f"`validation_cut` {validation_cut!r} is for data without a validation split; this has one.")
    rows = {split: rows[split] for split in asked if split in rows}
    made = {split: make_dataset(part, label_names, task) for split, part in rows.items()}
    return TextData(
        name=name,
        is_on_hub=is_on_hub,
        train=made["train"],
        validation=made["validation"],
        test=made.get("test"),
        label_names=label_names,
        fingerprint=fingerprint_rows(rows, label_names),
        validation_was_split=validation_was_split,
        text_columns=text_columns,
        label_column=label_columns[0] if len(label_columns) == 1 else label_columns,
        task=task,
        numbers=numbers,
    )


def read_texts(
    path: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    no_header: bool = False,
    keep: Sequence[str] = (),
    batch_size: int = 1024,
) -> Iterator[list[dict[str, Any]]]:
    """
    Reads the texts of a file of any size as lists of `batch_size` rows, `{"text": ...}` or `{"text": ...,
    "text_pair": ...}`. A row in is a row out: a missing text is an empty one. The columns are found before it returns.

    Args:
        path: A file, or its http address, read in the memory of one batch; or a JSON list, read at once.
        text_columns: As in `load_text_data`; or one, which the only column of a file stands for.
        keep: Columns whose values are returned as well: `{"text": ..., "kept": {name: value}}`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: `batch_size`, the file or a column is not as described; the message says which.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    text_columns = [text_columns] if isinstance(text_columns, str) else text_columns
    batches = read_batches(path, Format(delimiter, encoding, no_header, [*(text_columns or ()), *keep]), batch_size)
    first = next(batches)
    samples = sample_columns([first])
    names = [name for name in samples if name not in keep]
    is_plain = len(names) == 1 or find_kind(Path(first.where)) == ".txt"
    if text_columns is not None and len(text_columns) == 1 and is_plain:
        text_columns = names[:1]
    columns = find_text_columns(samples, text_columns, list(filter(is_label_name, samples)))
    if keep:
        check_columns("keep", keep, list(samples))

    def read_rows(batch: Batch) -> list[dict[str, Any]]:
        texts = batch.read_texts(columns)
        rows: list[dict[str, Any]] = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
        kept = zip(*map(batch.read, keep), strict=True) if keep else ()
        for row, values in zip(rows, kept, strict=False):
            row["kept"] = dict(zip(keep, values, strict=True))
        return rows

    return map(read_rows, chain([first], batches))


def read_labelled(
    path: str | Path,
    label_names: Sequence[str],
    task: str,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    no_header: bool = False,
) -> tuple[list[dict[str, str]], list[Any]]:
    """
    Reads a file whose labels are among given ones, as to measure a trained model.

    Returns:
        The rows, as `read_texts` has them, and their labels as `TextData` has them for the task.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file, a column or a label is not as described: a row has no label, or one that is not among
            `label_names`; the message says which.
    """
    label_columns = [label_column] if isinstance(label_column, str) else list(label_column or ())
    form = Format(delimiter, encoding, no_header, [*(text_columns or ()), *label_columns])
    batches = list(read_batches(path, form))
    text_columns, label_columns = find_columns(sample_columns(batches), text_columns, label_columns)
    texts = read_split_texts(GIVEN, batches, text_columns)
    labels = {GIVEN: read_labels(batches, label_columns)}
    resolve_task(labels, task, label_separator, True, GIVEN)
    if None in labels[GIVEN]:
        raise ValueError(f"Every row must have a label; row {labels[GIVEN].index(None) + 1} of {str(path)!r} has none.")
    found = labels[GIVEN] if task == "number" else find_indices(labels[GIVEN], label_names, task)
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)], found


def sample_columns(batches: Sequence[Batch], size: int = 1000) -> dict[str, list[Any]]:
    """Up to some `size` values of each column, from all over the rows, without those that are missing."""
    step = max(1, sum(map(len, batches)) // size)
    samples: dict[str, list[Any]] = {name: [] for batch in batches for name in batch.columns}
    for batch in batches:
        for name in batch.columns:
            with suppress(ValueError):  # it is told only if the column is used
                samples[name] += [value for value in batch.read(name, step) if not is_missing(value) and value != ""]
    return samples


def find_columns(
    samples: Mapping[str, list[Any]], text_columns: Sequence[str] | None, label_columns: list[str]
) -> tuple[list[str], list[str]]:
    if label_columns:
        check_columns("label_column", label_columns, list(samples))
    labels = label_columns or [name for name in samples if is_label_name(name) and name not in (text_columns or ())]
    texts = find_text_columns(samples, text_columns, labels)
    label_columns = label_columns or [find_label_column(samples, texts)]
    if set(label_columns) & set(texts):
        raise ValueError(f"`label_column` must not be a text column, got {label_columns} and {texts}.")
    return texts, label_columns


def read_split_texts(split: str, batches: Sequence[Batch], text_columns: Sequence[str]) -> Rows:
    if not batches:
        raise ValueError(f"The {split} split must hold at least one row, got none.")
    names = list(dict.fromkeys(chain.from_iterable(batch.columns for batch in batches)))
    if not set(text_columns) <= set(names):
        raise ValueError(f"The {split} split must have the columns {text_columns}, got {names}.")
    texts = [batch.read_texts(text_columns) for batch in batches]
    return {name: [text for part in texts for text in part[name]] for name in texts[0]}


def leave_out_splits(labels: Labels, are_declared: bool) -> None:
    """Deletes splits of which no row has a label; refuses those of which some rows have none."""
    for split in {"validation", "test"} & labels.keys():
        none: list[Any] = [None, []] if "-1" in labels["train"] and not are_declared else [None, [], "-1"]
        if all(label in none for label in labels[split]):
            logger.warning("The %s split has no labels (none, or all -1): it is left out.", split)
            del labels[split]
        elif None in labels[split]:
            row = labels[split].index(None) + 1
            raise ValueError(f"Every row of the {split} split must have a label; row {row} has none.")


def find_usable(texts: Rows, labels: Sequence[Any], class_names: Sequence[str] | None) -> list[int]:
    """The training rows with a text and a label."""
    empty = [not any(map(str.strip, parts)) for parts in zip(*texts.values(), strict=True)]
    bare = [label is None or bool(label == "-1" and class_names and "-1" not in class_names) for label in labels]
    for what, wrong in (("their text is empty", empty), ("they have no label", bare)):
        if any(wrong):
            logger.warning("Dropped %d of %d training rows: %s.", sum(wrong), len(wrong), what)
    return [index for index, wrong in enumerate(map(any, zip(empty, bare, strict=True))) if not wrong]


def take_rows(rows: Rows, indices: Sequence[int]) -> Rows:
    return {name: [values[index] for index in indices] for name, values in rows.items()}


def make_dataset(rows: Rows, label_names: list[str], task: str) -> Dataset:
    kinds = {name: Value("string") for name in rows}
    kinds["label"] = ClassLabel(names=label_names) if task == "single" else Value("float32")
    if task == "multi":
        flags = [[float(index in label) for index in range(len(label_names))] for label in rows["label"]]
        kinds, rows = kinds | {"label": List(Value("float32"))}, rows | {"label": flags}
    return Dataset.from_dict(rows, features=Features(kinds))


def fingerprint_rows(splits: Mapping[str, Rows], label_names: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(label_names).encode())
    for split, rows in splits.items():
        digest.update(json.dumps([split, len(rows["text"])]).encode())
        for row in zip(rows["text"], rows.get("text_pair", [None] * len(rows["text"])), rows["label"], strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()
