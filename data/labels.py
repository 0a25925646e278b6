"""From what a label column holds to a task: one label a row ("single"), several ("multi"), or a number ("number")."""

import ast
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

from .columns import NUMBER, is_missing
from .read import Batch

logger = logging.getLogger(__name__)

TASKS = ("single", "multi", "number")
# Labels that are read as integers: pandas writes 1.0 for 1 in a column with gaps. 01 and 1e5 are names.
INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
KINDS = {bool: "truth", int: "number", float: "number", Decimal: "number", str: "word"}

# The labels of each split.
Labels = dict[str, list[Any]]


def read_labels(batches: Sequence[Batch], columns: Sequence[str]) -> list[Any]:
    """The labels of a split: strings, numbers, None or lists of these. Several columns of 0 and 1 make a list."""
    if len(columns) == 1:
        return [value for batch in batches for value in read_label_column(batch, columns[0])]
    labels: list[Any] = []
    for batch in batches:
        flags = zip(*(map(read_label, batch.read(name)) for name in columns), strict=True)
        for row, values in enumerate(flags, start=batch.start + 1):
            is_hidden = set(values) <= {None, "-1"}
            if not is_hidden and not set(values) <= {"0", "1", "False", "True"}:
                got = f"{list(values)} in row {row} of {batch.where}"
                raise ValueError(f"Each of several label columns must hold 0 or 1, got {got}.")
            names = [name for name, value in zip(columns, values, strict=True) if value in ("1", "True")]
            labels.append(None if is_hidden else names)
    return labels


def read_label_column(batch: Batch, column: str) -> list[Any]:
    """A column of values of one kind. Numbers that have declared names become these, and -1, which has none, None."""
    values = [value.tolist() if hasattr(value, "tolist") else value for value in batch.read(column)]
    values = [None if is_missing(value) else list(value) if type(value) is tuple else value for value in values]
    first = next(filter(None, map(find_kind, values)), None)
    for row, value in enumerate(values, start=batch.start + 1):
        if find_kind(value) not in (None, first):
            wrong = f"{value!r:.60} in row {row} of {batch.where}"
            raise ValueError(f"The label column {column!r} must hold numbers, strings or lists, one kind, got {wrong}.")
    if column not in batch.class_names:
        return values
    names: dict[Any, Any] = {**dict(enumerate(batch.class_names[column])), -1: None}
    return [
        [names.get(each, each) for each in value] if is_list(value) else names.get(value, value) for value in values
    ]


def find_kind(value: Any) -> str | None:
    """None for a missing value, and "" for one that is no label."""
    if is_list(value):
        return "list" if "" not in map(find_kind, value) and not any(map(is_list, value)) else ""
    return None if value is None else KINDS.get(type(value), "")


def is_list(value: Any) -> bool:
    return isinstance(value, list)


def read_label(value: Any) -> str | None:
    is_whole = isinstance(value, float | Decimal) and value == value // 1
    return None if is_missing(value) else str(int(value) if is_whole else value).strip() or None


def resolve_task(labels: Labels, task: str | None, separator: str | None, declared: bool, by: str = "train") -> str:
    """The task, by the labels of the training rows. All labels become strings, lists of strings, or floats."""
    if task not in (None, *TASKS):
        raise ValueError(f"`task` must be one of {list(TASKS)}, got {task!r}.")
    if separator is not None and (task in ("single", "number") or not separator.strip()):
        raise ValueError(f"`label_separator` ({separator!r}) is for several labels in a cell, got `task` {task!r}.")
    present = [label for label in labels[by] if label not in (None, "")]
    if separator is not None:
        change(labels, lambda label: label if is_list(label) else (read_label(label) or "").split(separator))
    elif task != "single" and present and all(type(label) is str and label[0] + label[-1] == "[]" for label in present):
        change(labels, parse_list)
    lists = list(filter(is_list, labels[by]))
    if lists and task != "multi" and separator is None and set(map(len, lists)) == {1}:
        change(labels, lambda label: label[0] if is_list(label) and len(label) == 1 else label)
        lists = []
    if task is not None and bool(lists) != (task == "multi"):
        got = f"{task!r} for labels such as {present[:1]}"
        raise ValueError(f"`task` 'multi' is for lists, several label columns, or a `label_separator`, got {got}.")
    if lists:
        # Lists of 0 and 1, all of one length, say of each label whether a row has it.
        are_flags = len(set(map(len, lists))) == 1 and set(chain.from_iterable(lists)) <= {0, 1}
        if are_flags and any(len(set(label)) < len(label) for label in lists):
            change(labels, lambda label: label and [index for index, flag in enumerate(label) if flag])
        change(labels, lambda label: label and [*dict.fromkeys(filter(None, map(read_label, label)))])
        return "multi"
    change(labels, read_label)
    distinct = set(filter(None, labels[by]))
    fractions = all(map(NUMBER.fullmatch, distinct)) and any(float(label) % 1 for label in distinct) and not declared
    if task == "number" or (task is None and fractions and len(distinct) > 20):
        change(labels, read_number)
        return "number"
    if task is None and fractions:
        got = f"{sorted(distinct)[:5]}: set `task` to 'number' or 'single'"
        raise ValueError(f"Labels must be integers or names, for classification, got {got}.")
    if task is None:
        check_separators(distinct)
    return "single"


def change(labels: Labels, make: Callable[[Any], Any]) -> None:
    for split, values in labels.items():
        for row, value in enumerate(values):
            try:
                values[row] = make(value)
            except ValueError as error:
                raise ValueError(f"{error} in row {row + 1} of the {split} split.") from error


def parse_list(label: Any) -> list[Any] | None:
    """The list that a string such as "['a', 'b']" or "[1, 0, 1]" writes."""
    if not label:
        return None
    try:
        parts = ast.literal_eval(label)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parts = None
    # Python reads 'a' 'b', which numpy writes, as one string.
    if not is_list(parts) or not set(map(type, parts)) <= {bool, int, str} or re.search(r"""['"]\s+['"]""", label):
        hint = "or write a;b and set `label_separator`, or set `task` to 'single'"
        raise ValueError(f"A label must be a list such as ['a', 'b'] ({hint}), got {label!r:.60}")
    return parts


def read_number(label: str | None) -> float | None:
    if label is not None and not (NUMBER.fullmatch(label) and math.isfinite(float(label))):
        raise ValueError(f"Labels must be numbers such as 3.5 for `task` 'number', got {label!r:.60}")
    return None if label is None else float(label)


def check_separators(labels: Iterable[str]) -> None:
    """Refuses labels that combine others, since each combination would be a class."""
    for separator in (";", "|", ","):
        parts = {label: {part.strip() for part in label.split(separator)} for label in labels}
        counts = Counter(chain.from_iterable(parts.values()))
        joined = [label for label in parts if len(parts[label]) > 1]
        combined = set(chain.from_iterable(parts[label] for label in joined))
        if len(joined) > 1 and sum(counts[part] > 1 for part in combined) > len(combined) / 2:
            hint = f"set `label_separator` to {separator!r}, or `task` to 'single' to have a class for each combination"
            raise ValueError(f"Labels such as {min(joined)!r:.60} look like several labels each: {hint}.")


def index_labels(labels: Labels, declared: list[str] | None, task: str) -> list[str]:
    """Puts indices in place of the labels of all splits, and returns the names in label order."""
    if task == "number":
        if len(set(labels["train"])) < 2:
            raise ValueError(f"The training rows must have two different numbers, got {labels['train'][:1]}.")
        return []
    named: dict[str, dict[str, str]] = {}  # of each split, the names that its labels stand for
    known = dict(enumerate(declared or ()))
    for split, values in labels.items():
        found = set(chain.from_iterable(values) if task == "multi" else values)
        named[split] = {label: label for label in found}
        if all(map(INTEGER.fullmatch, found)) and not found <= set(declared or ()):
            named[split] = {label: known.get(number := int(Decimal(label)), str(number)) for label in found}
    trained = set(named["train"].values())
    names = declared or sorted(trained, key=int if all(map(INTEGER.fullmatch, trained)) else str)
    allowed = [name for name in names if name in trained]
    for split, found_names in named.items():
        if unknown := sorted(set(found_names.values()) - set(allowed)):
            raise ValueError(f"The labels of the {split} split must be among {allowed}, got {unknown}.")
    if len(trained) < 2:
        raise ValueError(f"The training rows must have at least two classes, got only {sorted(trained)}.")
    warn_of_names(names)
    for split, values in labels.items():
        indices = {label: names.index(name) for label, name in named[split].items()}
        values[:] = [sorted(map(indices.__getitem__, each)) if task == "multi" else indices[each] for each in values]
    return names


def find_indices(labels: Sequence[Any], label_names: Sequence[str], task: str) -> list[Any]:
    """
    Labels of one split as indices into given names, or for "multi" as 0.0 or 1.0 for each of them. Numbers stand for
    the names that transformers gives to labels without one. Raises a ValueError for other names.
    """
    known = {name: index for index, name in enumerate(label_names)}
    if label_names == [f"LABEL_{index}" for index in range(len(label_names))]:
        known |= {str(index): index for index in range(len(label_names))}
    names = set(chain.from_iterable(labels) if task == "multi" else labels)
    whole = {name: str(int(Decimal(name))) if INTEGER.fullmatch(name) else name for name in names}
    indices = {name: known.get(name, known.get(whole[name])) for name in names}
    if unknown := sorted(name for name, index in indices.items() if index is None):
        raise ValueError(f"The labels must be among those of the model, {list(label_names)}, got {unknown[:5]}.")
    if task != "multi":
        return [indices[label] for label in labels]
    return [make_flags({indices[name] for name in label}, len(label_names)) for label in labels]


def make_flags(label: set[Any] | list[int], count: int) -> list[float]:
    return [float(index in label) for index in range(count)]


def warn_of_names(names: Sequence[str]) -> None:
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    if doubled := [group for group in alike.values() if len(group) > 1]:
        logger.warning("Labels that differ by case or spaces alone are different classes: %s.", doubled[:5])
    if "-1" in names:
        logger.warning("The label -1 is a class like the others. Remove its rows if it means that they have no label.")
