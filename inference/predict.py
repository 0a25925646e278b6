"""`wave-network predict`: texts in, labels and probabilities out, from the command line or files of any size."""

import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from ..data.arguments import FileArguments
from ..data.columns import is_missing
from ..data.load import read_texts
from ..data.read import ENDINGS, is_url
from ..files import refuse_existing, setting
from .classifier import Classifier, load, logger
from .classify import CHUNK, clean, resolve_abstain
from .explain import SHOWN, Word, explain_row, list_words, write_page
from .output import ENDINGS as OUTPUTS
from .output import Rows, write_rows

STDIN = "-"
PAGE = ".html"
# What a word may end in that is a file all the same, if of a kind that is not read.
OTHER_ENDINGS = (".doc", ".docx", ".html", ".ods", ".odt", ".pdf", ".pickle", ".pkl", ".rtf", ".xls", ".xml")
# Settings that say how a file is read.
OF_FILES = ("text_columns", "delimiter", "no_header", "keep")

Shown = tuple[str, Mapping[str, str], list[Word]]  # the answer, the texts and their words


@dataclass(kw_only=True)
class ReadArguments(FileArguments):
    """How texts are read and put through a model."""

    batch_size: int = setting("Texts in a batch, at most.", 64)
    device: str | None = setting("cpu, cuda, cuda:1 ... Default: a GPU if there is one.", None)
    overwrite: bool = setting("Replace the output file if it exists.", False)
    trust_remote_code: bool = setting("Run the code in the model folder. Not needed for a Wave Network.", False)


@dataclass
class PredictArguments(ReadArguments):
    """What to classify, and with what."""

    _argument_group_name = "settings"

    model: str = setting("Run folder, or name of a model on the Hub.")
    file: str | None = setting("File of texts: CSV, Excel, JSON, Parquet, plain text; - is standard input.", None)
    output: str | None = setting("File to write: .csv, .tsv, .jsonl, .parquet, or - for CSV to standard output.", None)
    texts: list[str] = setting("Texts, or one file of them. They may follow the model.", default_factory=list)
    top_k: int | None = setting("So many labels with the highest probabilities, in place of all.", None)
    abstain: float | None = setting("Leave a label empty where its precision would be less than this: 0.95.", None)
    explain: bool = setting("Add the words that decided. An HTML page beside the output shows them.", False)
    keep: list[str] = setting("Columns to copy, such as an id.", default_factory=list)

    def __post_init__(self) -> None:
        if (self.file is None) == (not self.texts):
            got = f"`file` {self.file!r} and the texts {self.texts}"
            raise ValueError(f"Texts, one file, or - for standard input must be given, got {got:.200}.")
        files = [] if self.file else [word for word in self.texts if word == STDIN or is_file(word)]
        if files and len(self.texts) > 1:
            advice = "Give it alone. A text that is called so is read from standard input: -"
            raise ValueError(f"{files[0]!r} stands for a file, among {len(self.texts)} texts. {advice}")
        if files:
            self.file, self.texts = files[0], []
        others = (*OF_FILES, "encoding") if self.file is None else OF_FILES if self.file == STDIN else ()
        for name in others:
            if getattr(self, name):
                raise ValueError(f"`{name}` ({getattr(self, name)!r}) is for a file of texts.")


def is_file(word: str) -> bool:
    """Whether a word is the path of a file, or would be one if the file were there."""
    if " " not in word and (word.startswith(("./", "../", "~/", "/")) or word.lower().endswith(OTHER_ENDINGS)):
        return True
    path = os.path.expanduser(word)
    return word.lower().endswith(ENDINGS) or os.path.isfile(path) or (os.sep in word and os.path.isdir(path))


def predict(arguments: PredictArguments) -> Path | None:
    """
    Classifies texts, and writes one row for each, in order: row number, label, its probability, and the probability of
    every label, or with `top_k` the best labels; the columns of `keep`; the text; with `explain` the words that decide,
    strongest first. A regression model writes its value, a multi-label model all labels above their thresholds. Without
    a file and an `output`, texts are answered on standard output, in lines for people.

    Returns the output file, which takes its name only when it is complete; None for standard output. Raises a
    ValueError or an OSError that names what is not as it must be: the model, the file, a column, the output.
    """
    output = resolve_output(arguments)
    classifier = load_model(arguments)
    if arguments.file in (None, STDIN):
        batches = read_given(arguments, 2 if len(classifier.text_columns or ()) == 2 else 1)
    else:
        form = {name: getattr(arguments, name) for name in ("delimiter", "encoding", "no_header", "keep")}
        columns = arguments.text_columns or classifier.text_columns
        batches = read_texts(arguments.file, text_columns=columns, batch_size=CHUNK, **form)
    most = 0 if classifier.problem == "regression" else len(classifier.labels)
    if arguments.top_k is not None and not 1 <= arguments.top_k <= most:
        raise ValueError(f"`top_k` must be 1 to the number of labels, {most}, got {arguments.top_k}.")
    header = classifier.make_header(arguments.top_k)
    shown: list[Shown] = []
    answers = answer(arguments, classifier, batches, header, shown)
    if output is None and arguments.output is None:
        for rows in answers:
            print_rows(rows, header)
    else:
        write_rows(output, answers)
    if output is not None and arguments.explain:
        write_page(output.with_suffix(PAGE), Path(arguments.model).name, shown)
    for line in classifier.losses.describe():
        logger.warning(line)
    return output


def load_model(arguments: Any) -> Classifier:
    names = ("device", "batch_size", "trust_remote_code")
    return load(arguments.model, **{name: getattr(arguments, name) for name in names})


def answer(
    arguments: PredictArguments, classifier: Classifier, batches: Iterator[Rows], header: list[str], shown: list[Shown]
) -> Iterator[Rows]:
    """The rows of the output, batch by batch. The first ones go to `shown`, too, for the page."""
    number, least = 0, resolve_abstain(classifier.config, arguments.abstain)
    with tqdm(desc="Classifying", unit=" texts", disable=arguments.file in (None, STDIN)) as bar:
        for batch in batches:
            values = classifier.make_rows(classifier.logits(batch), number, arguments.top_k, least)
            rows = [dict(zip(header, row, strict=True)) for row in values]
            for row, named in zip(batch, rows, strict=True):
                for name, value in row.pop("kept", {}).items():
                    while name in (*named, *row, "words"):
                        name = f"kept_{name}"
                    named[name] = None if is_missing(value) else value
                named |= row
                if arguments.explain:
                    words = explain_row(classifier, row)
                    strongest = sorted(list_words(row, words), key=lambda word: -abs(word[1]))
                    named["words"] = [{"word": word, "weight": weight} for word, weight in strongest]
                    shown += [(describe(named, header), row, words)] * (len(shown) < SHOWN)
            number += len(batch)
            bar.update(len(batch))
            yield rows


def read_given(arguments: PredictArguments, width: int) -> Iterator[Rows]:
    """
    The texts of the command line, or of the lines of standard input. In a model of pairs two texts are one row; on
    standard input a tab stands between them.
    """
    texts = arguments.texts
    parts = iter([texts[place : place + width] for place in range(0, len(texts), width)])
    if arguments.file == STDIN:
        parts = (line.split("\t") if width == 2 else [line] for line in read_stdin(arguments.encoding))
    size = 1 if sys.stdin.isatty() else CHUNK  # who types is answered line by line
    while batch := list(islice(parts, size)):
        if wrong := [part for part in batch if len(part) != width]:
            raise ValueError(f"The model reads pairs: two texts, in a line with a tab between them, got {wrong[0]}.")
        yield [dict(zip(("text", "text_pair"), map(clean, part), strict=False)) for part in batch]


def read_stdin(encoding: str | None) -> Iterator[str]:
    try:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding=encoding or "utf-8-sig", newline="\n")
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"Standard input must be in `encoding` ({encoding or 'utf-8'}): {error}") from error


def resolve_output(arguments: PredictArguments) -> Path | None:
    """The file to write. Raises a ValueError or an OSError if it cannot be written, or must not be."""
    if arguments.output == "-" or (arguments.output is None and arguments.file in (None, STDIN)):
        return None
    file = arguments.file or ""
    source = Path(Path(urlsplit(file).path).name) if is_url(file) else Path(file).expanduser()
    output = Path(arguments.output or source.with_name(f"{source.name}.predictions.csv")).expanduser()
    if output.suffix.lower() not in OUTPUTS or output.is_dir():
        allowed = f"{', '.join(OUTPUTS)}, or - for standard output"
        raise ValueError(f"`output` must be a file that ends in {allowed}, got {str(output)!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must be in a folder that exists, got {str(output)!r}.")
    if output.exists() and source.is_file() and output.samefile(source):
        raise ValueError(f"`output` must be another file than `file` ({arguments.file!r}), got {str(output)!r}.")
    for path in [output, output.with_suffix(PAGE)][: 1 + arguments.explain]:
        refuse_existing(path, arguments.overwrite)
    return output


def print_rows(rows: Rows, header: Sequence[str]) -> None:
    """A line for each text, and one for its words."""
    answers = [describe(row, header) for row in rows]
    width = max(map(len, answers))
    for answer, row in zip(answers, rows, strict=True):
        line = f"{answer:<{width}}  {show(' | '.join(row[name] for name in ('text', 'text_pair') if name in row))}"
        print(line[: shutil.get_terminal_size().columns] if sys.stdout.isatty() else line)
        if row.get("words"):
            print("   ", show(", ".join(f"{word['word']} {word['weight']:+.3g}" for word in row["words"][:8])))
    sys.stdout.flush()


def describe(row: Mapping[str, Any], header: Sequence[str]) -> str:
    """The answer in words: labels with their probabilities, or a number."""
    if "label" not in header:
        return ", ".join(f"{row[name]:.4g}" for name in header[1:])
    best = [(row[name], row[name.replace("label", "probability")]) for name in header if name.startswith("label")]
    if isinstance(row["label"], list):
        best = best[1:] or [(label, row[f"probability_{label}"]) for label in row["label"]]
    named = (f"{'no answer' if label is None else label} {probability:.1%}" for label, probability in best)
    return show(", ".join(named)) or "no label"


def show(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return " ".join("".join(part if part.isprintable() else " " for part in text).split())
