"""What the settings of verbs share: those of a file of texts, and what is said of an unknown one."""

import difflib
from dataclasses import dataclass, fields
from typing import Any

from ..files import setting


@dataclass(kw_only=True)
class FileArguments:
    text_columns: list[str] | None = setting(
        "Column with the text, two for pairs. Default: as trained, or found.", None
    )
    delimiter: str | None = setting("Between the columns of CSV. Default: found.", None)
    encoding: str | None = setting("Of text files, such as cp1252. Default: found.", None)
    no_header: bool = setting("The first row of CSV and Excel is data; columns are column_1, column_2 ...", False)


def list_settings(*kinds: Any) -> list[str]:
    return [each.name for kind in kinds for each in fields(kind) if each.init]


def refuse_unknown(word: str, *kinds: Any) -> ValueError:
    """The error for a setting that the dataclasses do not have, with those that may be meant."""
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    known = list_settings(*kinds)
    if name not in known and any(name in kind.__dataclass_fields__ for kind in kinds):
        return ValueError(f"{word} is not a setting of finetune; use transformers' Trainer for it: examples/trainer.py")
    close = difflib.get_close_matches(name, known, n=3)
    advice = f"; did you mean {' or '.join(f'`{each}`' for each in close)}?" if close else "."
    return ValueError(f"unknown setting {word}{advice}")
