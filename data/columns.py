"""Which columns hold the text and which the label: by their usual names, or else by what is in them."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = ("text", "sentence", "content", "review", "question")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "coarse_label")
# These, too, tell that the first row of a table holds names.
OTHER_NAMES = ("comment", "message", "body", "tweet", "post", "title", "description", "document", "query", "summary")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LETTER = re.compile(r"[^\W\d_]")

# Values of each column: some hundreds from all over the rows, none of them missing.
Samples = Mapping[str, Sequence[Any]]


def find_text_columns(samples: Samples, given: Sequence[str] | None, labels: Sequence[str]) -> list[str]:
    """
    The columns that are given; or those with a usual name; or the one whose texts vary and are far longer than all
    others; or the only one with words.
    """
    if given is not None:
        check_columns("text_columns", given, list(samples))
        return list(given)
    others = {name.lower(): name for name in samples if name not in labels}
    found = [[others[part] for part in pair] for pair in TEXT_PAIRS if others.keys() >= set(pair)]
    in_pairs = list(chain(*found))
    found += [[name] for lower, name in others.items() if lower in TEXT_COLUMNS and name not in in_pairs]
    if not found:
        lengths = {name: sum(map(len, samples[name])) for name in others.values() if is_text(samples[name])}
        longest = sorted(lengths, key=lambda name: -lengths[name])
        is_clear = len(longest) == 1 or (longest and lengths[longest[0]] > 3 * lengths[longest[1]])
        found = [longest[:1]] if is_clear else [[name] for name in longest]
    found = found or [[name] for name in others.values() if has_words(samples[name])]
    if len(found) != 1:
        reason = f"several may hold the text: {list(chain(*found))}" if found else "none of them holds words"
        raise ValueError(f"`text_columns` must be given: the columns are {list(samples)}, and {reason}.")
    return found[0]


def find_label_column(samples: Samples, text_columns: Sequence[str]) -> str:
    """The column with a usual name; or the only one whose values repeat; or the only one beside the text."""
    others = [name for name in samples if name not in text_columns]
    rules: tuple[Callable[[str], bool], ...] = (is_label_name, lambda name: repeats(samples[name]), lambda name: True)
    found = next((found for rule in rules if (found := list(filter(rule, others)))), [])
    if len(found) != 1:
        reason = f"may hold the label: {found}" if found else f"is beside the text ({', '.join(text_columns)})"
        number = "several" if found else "none"
        raise ValueError(f"`label_column` must be given: the columns are {list(samples)}, and {number} {reason}.")
    return found[0]


def is_label_name(name: str) -> bool:
    return name.lower() in LABEL_COLUMNS


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # NaN is what pandas has for a gap


def check_columns(argument: str, given: Sequence[str], names: Sequence[str]) -> None:
    if not given or not set(given) <= set(names) or len(set(given)) < len(given):
        raise ValueError(f"`{argument}` must be among the columns {list(names)}, got {', '.join(map(repr, given))}.")


def is_text(values: Sequence[Any]) -> bool:
    """Whether most values differ, and are more than one word: spaced, or in a script that needs no spaces."""
    texts = [value.strip() for value in values if isinstance(value, str)]
    several = [text for text in texts if LETTER.search(text) and (" " in text or not text.isascii())]
    return len(several) > len(values) / 2 < len(set(texts))


def has_words(values: Sequence[Any]) -> bool:
    """Whether these are strings that are not all numbers (every column of a CSV file holds strings)."""
    texts = [value for value in values if isinstance(value, str)]
    return len(texts) == len(values) and any(value and not NUMBER.fullmatch(value) for value in texts)


def repeats(values: Sequence[Any]) -> bool:
    """Whether these may be labels: few different values, none of them a date or the like."""
    distinct = set(map(str, values))
    are_labels = all(LETTER.search(value) or NUMBER.fullmatch(value) or value[0] == "[" for value in distinct if value)
    return are_labels and 2 <= len(distinct) <= len(values) / 2
