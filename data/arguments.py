"""The settings of a file of texts, which `finetune`, `predict` and `evaluate` share."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class FileArguments:
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Column with the text, or two for pairs. Default: as trained, or found."}
    )
    delimiter: str | None = field(default=None, metadata={"help": "Between the columns of CSV. Default: found."})
    encoding: str | None = field(default=None, metadata={"help": "Of text files, such as cp1252. Default: found."})
    no_header: bool = field(
        default=False, metadata={"help": "The first row of CSV and Excel is data; columns are column_1, column_2 ..."}
    )
