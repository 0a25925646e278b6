"""What dataclasses of settings share: their fields, the ones of a file of texts, and what is said of an unknown one."""

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any


def setting(default: Any = MISSING, about: str = "", choices: Sequence[str] | None = None) -> Any:
    """A field of a dataclass of settings. `about` is what `--help_all` says of it."""
    return field(default=default, metadata={"help": about} | ({"choices": choices} if choices else {}))


@dataclass(kw_only=True)
class FileArguments:
    text_columns: list[str] | None = setting(
        None, "Column with the text, two for pairs. Default: as trained, or found."
    )
    delimiter: str | None = setting(None, "Between the columns of CSV. Default: found.")
    encoding: str | None = setting(None, "Of text files, such as cp1252. Default: found.")
    no_header: bool = setting(False, "The first row of CSV and Excel is data; columns are column_1, column_2 ...")


def list_settings(*kinds: Any) -> list[str]:
    return [each.name for kind in kinds for each in fields(kind) if each.init]


def refuse_unknown(word: str, *kinds: Any) -> ValueError:
    """The error for a setting that the dataclasses do not have, with those that may be meant."""
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    if any(name in kind.__dataclass_fields__ for kind in kinds):
        return ValueError(f"{word} is no setting here; use transformers' Trainer for it: examples/trainer.py")
    close = difflib.get_close_matches(name, list_settings(*kinds), n=3)
    advice = f"; did you mean {' or '.join(f'`{each}`' for each in close)}?" if close else "."
    return ValueError(f"unknown setting {word}{advice}")
