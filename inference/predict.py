"""`wave-network predict`: texts in, labels and probabilities out, from the command line or files of any size."""

import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm
from transformers import AutoConfig

from ..data.arguments import FileArguments
from ..data.columns import is_missing
from ..data.load import read_texts
from ..data.read import ENDINGS, is_url
from ..files import check_source, refuse_existing
from .classifier import Classifier, load, logger, resolve_device
from .classify import CHUNK, clean, make_header, resolve_abstain
from .explain import SHOWN, Word, explain_row, list_words, write_page
from .output import FORMATS, Rows, Write, open_rows

STDIN = "-"
PAGE = ".html"
# What a word may end in that is a file all the same, if of a kind that is not read.
OTHER_ENDINGS = (".doc", ".docx", ".html", ".ods", ".odt", ".pdf", ".pickle", ".pkl", ".rtf", ".xls", ".xml")
# Settings that say how a file is read.
OF_FILES = ("text_columns", "delimiter", "no_header", "keep")


@dataclass(kw_only=True)
class ReadArguments(FileArguments):
    """How texts are read and put through a model."""

    batch_size: int = field(default=64, metadata={"help": "Texts in a batch, at most."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 ... Default: a GPU if there is one."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output file if it exists."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the model folder. Not needed for a Wave Network."}
    )


@dataclass
class PredictArguments(ReadArguments):
    """What to classify, and with what."""

    _argument_group_name = "settings"

    model: str = field(metadata={"help": "Run folder, or name of a model on the Hub."})
    file: str | None = field(
        default=None,
        metadata={"help": "File of texts: CSV, Excel, JSON, JSON lines, Parquet or plain text; - is standard input."},
    )
    output: str | None = field(
        default=None,
        metadata={
            "help": "File to write: .csv, .tsv, .json, .jsonl or .parquet, or .html with --explain; - is CSV to "
            "standard output. Default: for a file, CSV beside it."
        },
    )
    texts: list[str] = field(
        default_factory=list, metadata={"help": "Texts to classify, or one file of them. They may follow the model."}
    )
    top_k: int | None = field(
        default=None, metadata={"help": "So many labels with the highest probabilities, in place of all."}
    )
    abstain: float | None = field(
        default=None,
        metadata={"help": "Leave a label empty where its precision would be less than this, such as 0.95."},
    )
    explain: bool = field(
        default=False,
        metadata={"help": "Add the words that decided. An HTML page beside the output shows them."},
    )
    keep: list[str] = field(default_factory=list, metadata={"help": "Columns to copy, such as an id."})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if (self.file is None) == (not self.texts):
            got = f"`file` {self.file!r} and the texts {self.texts}"
            raise ValueError(f"Texts, one file, or - for standard input must be given, got {got:.200}.")
        if self.file is None and (file := find_file(self.texts)):
            self.file, self.texts = file, []
        for name in OF_FILES if self.file in (None, STDIN) else ():
            if getattr(self, name):
                raise ValueError(f"`{name}` ({getattr(self, name)!r}) is for a file of texts.")
        if self.encoding is not None and self.file is None:
            raise ValueError(f"`encoding` ({self.encoding!r}) is for a file of texts, or standard input.")


def find_file(words: Sequence[str]) -> str | None:
    """The file that a word is the path of. Raises a ValueError if it is not alone."""
    files = [word for word in words if word == STDIN or is_file(word)]
    if files and len(words) > 1:
        advice = "Give it alone. A text that is called so is read from standard input: -"
        raise ValueError(f"{files[0]!r} stands for a file, among {len(words)} texts. {advice}")
    return files[0] if files else None


def is_file(word: str) -> bool:
    """Whether a word is the path of a file, or would be one if the file were there."""
    path = os.path.expanduser(word)
    is_named = word.startswith(("./", "../", "~/", "/")) and " " not in word
    is_named |= word.lower().endswith(ENDINGS) or (" " not in word and word.lower().endswith(OTHER_ENDINGS))
    return is_named or os.path.isfile(path) or (os.sep in word and os.path.isdir(path))


def predict(arguments: PredictArguments) -> Path | None:
    """
    Classifies texts, and writes one row for each, in order: row number, label, its probability, and the probability of
    every label, or with `top_k` the best labels; then the columns of `keep` and the text. A regression model writes its
    value, a multi-label model all labels above their thresholds. With `explain` there are the words that decided,
    strongest first, and a page of the first rows, beside the output, shows them.

    Texts that are not from a file, without `output`, are answered on standard output, in lines for people.

    Only safetensors weights are read, and no code from the model folder unless `trust_remote_code` is set. Texts that
    are longer than the model allows are cut off, and counted in a warning, as are unknown tokens.

    Returns:
        The output file, which takes its name only when it is complete. None for standard output.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set.
        ValueError, OSError: The model, the file, a column or the device is not as it must be; the message names it.
    """
    output = resolve_output(arguments)
    page = output.with_suffix(PAGE) if output is not None and arguments.explain else None
    is_given = arguments.file in (None, STDIN)
    resolve_device(arguments.device)
    check_source("model", arguments.model)
    # The texts before the weights, which may have to come from the Hub.
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    least = resolve_abstain(config.to_dict(), arguments.abstain)
    batches = read_given(arguments, config) if is_given else read_file(arguments, config)
    names = ("device", "batch_size", "trust_remote_code")
    classifier = load(arguments.model, **{name: getattr(arguments, name) for name in names})
    answers = Answers(classifier, arguments, least)
    if page is not None and output == page:  # which shows no more
        batches = iter([next(batches)[:SHOWN]])
    with (
        choose_writer(arguments, output, answers.header) as write,
        tqdm(desc="Classifying", unit=" texts", disable=is_given) as bar,
    ):
        for batch in batches:
            write(answers.make(batch))
            bar.update(len(batch))
    if page is not None:
        write_page(page, Path(arguments.model).name, answers.shown)
    for line in classifier.losses.describe():
        logger.warning(line)
    return output


class Answers:
    """Makes the rows of the output, and keeps the first ones for the page."""

    def __init__(self, classifier: Classifier, arguments: PredictArguments, least: float):
        self.classifier, self.least = classifier, least
        self.top_k, self.explain = arguments.top_k, arguments.explain
        most = 0 if classifier.problem == "regression" else len(classifier.labels)
        if self.top_k is not None and not 1 <= self.top_k <= most:
            raise ValueError(f"`top_k` must be 1 to the number of labels, {most}, got {self.top_k}.")
        self.header = make_header(classifier.labels, classifier.problem, self.top_k)[1:]
        self.kept = name_kept(arguments.keep, {"row", "text", "text_pair", "words", *self.header})
        self.number = 0
        self.shown: list[tuple[str, Mapping[str, str], list[Word]]] = []

    def make(self, batch: Rows) -> Rows:
        rows = []
        answers = self.classifier.answer(self.classifier.logits(batch), self.number, self.top_k, self.least)
        for row, answer in zip(batch, answers, strict=True):
            kept = [None if is_missing(value) else value for value in row.pop("kept", {}).values()]
            named = {"row": answer[0], **dict(zip(self.header, answer[1:], strict=True))}
            named |= {**dict(zip(self.kept, kept, strict=True)), **row}
            if self.explain:
                words = explain_row(self.classifier, row)
                strongest = sorted(list_words(row, words), key=lambda word: -abs(word[1]))
                named["words"] = [{"word": word, "weight": weight} for word, weight in strongest]
                self.shown += [(describe(named, self.header), row, words)] * (len(self.shown) < SHOWN)
            rows.append(named)
        self.number += len(rows)
        return rows


def name_kept(names: Sequence[str], taken: set[str]) -> list[str]:
    """The names of kept columns in the output: others than those of the answers."""
    kept: list[str] = []
    for name in names:
        while name in taken:
            name = f"kept_{name}"
        taken.add(name)
        kept.append(name)
    return kept


# In


def read_given(arguments: PredictArguments, config: Any) -> Iterator[Rows]:
    """
    The texts of the command line, or of the lines of standard input. In a model of pairs two texts are one row; on
    standard input a tab stands between them.
    """
    columns = ["text", "text_pair"] if len(getattr(config, "text_columns", None) or ()) == 2 else ["text"]
    width, size = len(columns), CHUNK
    if arguments.file is None:
        texts = list(map(clean, arguments.texts))
        parts = iter([texts[start : start + width] for start in range(0, len(texts), width)])
    else:
        size = 1 if sys.stdin.isatty() else CHUNK  # who types is answered line by line
        parts = (line.split("\t") if width == 2 else [line] for line in read_stdin(arguments.encoding))
    is_empty = True
    while batch := list(islice(parts, size)):
        is_empty = False
        if wrong := [part for part in batch if len(part) != width]:
            how = "two texts" if arguments.file is None else "two texts with a tab between them, in each line"
            raise ValueError(f"The model reads pairs: {how}, got {wrong[0]}.")
        yield [dict(zip(columns, part, strict=True)) for part in batch]
    if is_empty:
        raise ValueError("Standard input must hold at least one text, got none.")


def read_stdin(encoding: str | None) -> Iterator[str]:
    try:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding=encoding or "utf-8-sig", newline="\n")
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"Standard input must be in `encoding` ({encoding or 'utf-8'}): {error}") from error


def read_file(arguments: PredictArguments, config: Any) -> Iterator[Rows]:
    names = ("delimiter", "encoding", "no_header", "keep")
    settings = {name: getattr(arguments, name) for name in names}
    return read_trained(str(arguments.file), arguments.text_columns, config, batch_size=CHUNK, **settings)


def read_trained(
    path: str, text_columns: list[str] | None, config: Any, **settings: Any
) -> Iterator[list[dict[str, Any]]]:
    """The texts of a file, by default of the columns that the model was trained on."""
    trained = getattr(config, "text_columns", None)
    try:
        return read_texts(path, text_columns=text_columns or trained, **settings)
    except ValueError as error:
        if text_columns or not str(error).startswith("`text_columns`"):
            raise
        raise ValueError(f"{error} The model was trained on {trained}.") from error


# Out


def resolve_output(arguments: PredictArguments) -> Path | None:
    """The file to write. Raises a ValueError or an OSError if it cannot be written, or must not be."""
    if arguments.output == "-" or (arguments.output is None and arguments.file in (None, STDIN)):
        return None
    file = arguments.file or ""
    source = Path(Path(urlsplit(file).path).name) if is_url(file) else Path(file).expanduser()
    output = Path(arguments.output or source.with_name(f"{source.name}.predictions.csv")).expanduser()
    if output.exists() and not output.is_file():
        raise ValueError(f"`output` must be a file, or - for standard output, got {str(output)!r}.")
    endings = [*FORMATS, *[PAGE] * arguments.explain]
    if output.suffix.lower() not in endings:
        raise ValueError(f"`output` must end in one of {', '.join(endings)}, got {str(output)!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must be in a folder that exists, got {str(output)!r}.")
    if output.exists() and source.is_file() and output.samefile(source):
        raise ValueError(f"`output` must be another file than `file` ({arguments.file!r}), got {str(output)!r}.")
    for path in {output, output.with_suffix(PAGE) if arguments.explain else output}:
        refuse_existing(path, arguments.overwrite)
    return output


def choose_writer(
    arguments: PredictArguments, output: Path | None, header: Sequence[str]
) -> AbstractContextManager[Write]:
    if output is None and arguments.output is None:
        return nullcontext(partial(print_rows, header))
    if output is not None and output.suffix.lower() == PAGE:
        return nullcontext(lambda rows: None)
    return open_rows(output)


def print_rows(header: Sequence[str], rows: Rows) -> None:
    """A line for each text, and one for its words."""
    answers = [describe(row, header) for row in rows]
    width = max(map(len, answers))
    for answer, row in zip(answers, rows, strict=True):
        texts = " | ".join(row[name] for name in ("text", "text_pair") if name in row)
        line = f"{answer:<{width}}  {show(texts)}"
        print(line[: shutil.get_terminal_size().columns] if sys.stdout.isatty() else line)
        if row.get("words"):
            print("   ", show(", ".join(f"{word['word']} {word['weight']:+.3g}" for word in row["words"][:8])))
    sys.stdout.flush()


def describe(row: Mapping[str, Any], header: Sequence[str]) -> str:
    """The answer in words: labels with their probabilities, or a number."""
    if "label" not in header:
        return ", ".join(f"{row[name]:.4g}" for name in header)
    places = [name.removeprefix("label_") for name in header if name.startswith("label_")]
    best = [(row[f"label_{place}"], row[f"probability_{place}"]) for place in places]
    if not isinstance(row["label"], list):
        best = [(row["label"] or "no answer", row["probability"]), *best]
    elif not places:
        best = [(label, row[f"probability_{label}"]) for label in row["label"]]
    return show(", ".join(f"{label} {probability:.1%}" for label, probability in best)) or "no label"


def show(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return " ".join("".join(part if part.isprintable() else " " for part in text).split())
