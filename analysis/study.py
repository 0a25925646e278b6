"""`wave-network analyze`: the frame in which the studies of *The Backpropagation of the Wave Network* run.

    OUTPUT/
        result.json    all numbers, with settings, model, data, seed, machine and versions: the rest is made from it
        table.csv      one row for each thing measured, in full precision
        *.png, *.svg   the figures
        report.md      what was found, in words, with the figures, the table and the settings

A study is a module of this room with a `Study` in it: phase.py is the smallest.
"""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    HfArgumentParser,
    set_seed,
)

from ..data.load import load_text_data
from ..files import (
    check_source,
    describe_run,
    open_folder,
    read_json,
    refuse_existing,
    setting,
    write_json,
    write_table,
    write_text,
)
from ..modeling_wave import WaveForSequenceClassification, WaveModel
from .figures import save_figure

# In the order of the paper. The name of a study is that of its module.
STUDIES = {
    "convergence": "test accuracy by batches and by time, of Wave Networks, a Transformer layer and BERT",
    "gradients": "what the loss sends back to [CLS], to the text and to the classifier, step by step",
    "independence": "how far dimensions stay apart: Jacobians of the layer, correlations in the table",
    "complexity": "operations, memory and time of a layer, by the length of the text",
    "waves": "the waves of one text, beside integrated gradients, with a page to send on",
    "phase": "how the phase spreads, by the length of the texts, with the L2 and the RMS magnitude",
}


@dataclass
class AnalyzeArguments:
    """What to study, and where to write it."""

    model: str = setting("Trained Wave Network: folder, or name on the Hub.")
    data: str | None = setting("What `finetune --dataset` takes: bbc_news, a file, a folder, a name on the Hub.", None)
    dataset_config: str | None = setting("Configuration of a data set on the Hub.", None)
    text_columns: list[str] | None = setting("Column with the text, or two for pairs. Found if unambiguous.", None)
    label_column: str | None = setting("Column with the label. Found if unambiguous.", None)
    bert: str | None = setting(
        "BERT to compare with, where a study does: folder, or name on the Hub, such as bert-base-uncased. Default: one "
        "of BERT-base's shape with random weights.",
        None,
    )
    output_dir: str | None = setting("Folder to write. Default: runs/analyze/MODEL/STUDY.", None)
    seed: int = setting("Decides which texts are drawn, and all random weights.", 0)
    device: str | None = setting("cpu, cuda, cuda:1 ... Default: a GPU if there is one.", None)
    overwrite: bool = setting("Replace the study that is in the folder.", False)


@dataclass
class Settings:
    """The settings of a study. All their numbers are sizes or rates: ValueError for 0 or less."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not number > 0:
                    raise ValueError(f"`{name}` must be greater than 0, got {number}.")


@dataclass(frozen=True)
class Result:
    """
    What a study found, in plain numbers, strings, lists and dictionaries, as JSON keeps them.

    Attributes:
        table: One dictionary for each row, with the same keys: names of columns, with their units. A cell is a number,
            a string, or None where there is nothing.
        details: What else the figures and the report need; the function `measure` of a study describes it.
    """

    table: list[dict[str, Any]]
    details: dict[str, Any]


class Picture(NamedTuple):
    """A figure of a study: the name of its files, matplotlib's figure, and the text under it."""

    name: str
    figure: Any
    caption: str


@dataclass(frozen=True)
class Study:
    """
    A study: how it is set up, measured, drawn and told.

    Attributes:
        title: The heading of its report.
        settings: Its own settings, a subclass of `Settings` with a default for each field.
        measure: Measures it.
        draw, describe, pages: The figures of a result, its findings in words, as Markdown, and other files by their
            names, from the record of the run and the result.
        lengths: Which settings say how many tokens a model reads.
        needs_data, needs_classifier: Whether it needs labelled data, and a trained classifier.
    """

    title: str
    settings: type
    measure: Callable[["Experiment", Any], Result]
    draw: Callable[[dict[str, Any], Result], Iterator[Picture]]
    describe: Callable[[dict[str, Any], Result], str]
    pages: Callable[[dict[str, Any], Result], dict[str, str]] = lambda record, result: {}
    lengths: Sequence[str] = ()
    needs_data: bool = True
    needs_classifier: bool = False


def load_study(name: str) -> Study:
    """The study of that name. ValueError if there is none."""
    if name not in STUDIES:
        raise ValueError(f"`study` must be one of {list(STUDIES)}, got {name!r}.")
    return importlib.import_module(f".{name}", __package__).STUDY


def analyze(study: str, model: str, **settings: Any) -> Result:
    """
    Runs a study and writes its table, figures and report; the same as `wave-network analyze STUDY`.

    Args:
        study: One of `STUDIES`.
        model: A trained Wave Network: folder, or name on the Hub.
        settings: The fields of `AnalyzeArguments` and of the study's own settings.

    Raises:
        ValueError: A setting, the model or the data are not allowed; the message names it.
        OSError: The model or the data cannot be found, or the output folder exists.
    """
    types: Any = [AnalyzeArguments, load_study(study).settings]
    return run_study(study, *HfArgumentParser(types).parse_dict({"model": model, **settings}))[1]


def run_study(name: str, arguments: AnalyzeArguments, settings: Any) -> tuple[Path, Result]:
    """`analyze` with settings that are made. The folder, which appears once all in it is complete, and the result."""
    default = Path("runs", "analyze", Path(arguments.model).resolve().name, name)
    folder = Path(arguments.output_dir or default)
    refuse_existing(folder, arguments.overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "result.json").is_file():
        raise ValueError(f"`output_dir` {str(folder)!r} holds no study, so it is not replaced. Choose another one.")
    experiment = Experiment(name, arguments, settings)
    set_seed(arguments.seed)
    result = load_study(name).measure(experiment, settings)
    with open_folder(folder, arguments.overwrite) as target:
        write_json(target / "result.json", {"study": experiment.record, "result": asdict(result)})
        record, result = read_result(target / "result.json")  # so that all else can be made again from it alone
        write_files(record, result, target)
    return folder, result


class Experiment:
    """What a study measures with: the model, the texts and the device. Loads them, or raises what `analyze` does."""

    def __init__(self, name: str, arguments: AnalyzeArguments, settings: Any):
        study, self.arguments, self.seed = load_study(name), arguments, arguments.seed
        self.device = resolve_device(arguments.device)
        config = read_config("model", arguments.model, "wave")
        check_lengths(study, settings, config)
        if arguments.bert is not None:
            check_lengths(study, settings, read_config("bert", arguments.bert, "bert"))
        if arguments.data is None and study.needs_data:
            raise ValueError(f"`data` must be given for the study {name!r}: what `finetune --dataset` takes.")
        self.model = load_model(arguments.model, config, name, study.needs_classifier).to(self.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        columns = {"text_columns": arguments.text_columns, "label_column": arguments.label_column}
        how: dict[str, Any] = {"dataset_config": arguments.dataset_config, **columns}
        self.data: Any = arguments.data and load_text_data(arguments.data, **how)
        self.record = self.describe(name, settings)

    @property
    def held_out(self) -> Dataset:
        """The rows to measure on: the test split, or the validation split if there is no other."""
        return self.data.validation if self.data.test is None else self.data.test

    def draw_rows(self, count: int | None = None) -> Dataset:
        """The rows to measure on in an order drawn by the seed: all, or so many at most."""
        return self.held_out.shuffle(seed=self.seed).take(min(count or len(self.held_out), len(self.held_out)))

    def encode(
        self, rows: Mapping[str, Sequence[Any]], max_length: int, tokenizer: Any | None = None
    ) -> list[list[int]]:
        """The token ids of rows, `[CLS] text [SEP]`, cut to a length; by the model's own tokenizer unless given."""
        return (tokenizer or self.tokenizer)(*list_texts(rows), truncation=True, max_length=max_length)["input_ids"]

    def load_bert(self, num_labels: int, **shape: Any) -> Any:
        """The BERT of `bert`, with a new classifier for other labels; or one of this shape with random weights."""
        labels: dict[str, Any] = {"num_labels": num_labels}
        if self.arguments.bert is None:
            model: Any = BertForSequenceClassification(BertConfig(**labels, **shape))
        else:
            labels["ignore_mismatched_sizes"] = True
            model = BertForSequenceClassification.from_pretrained(self.arguments.bert, use_safetensors=True, **labels)
        return model.to(self.device)

    def describe(self, name: str, settings: Any) -> dict[str, Any]:
        """The record of the run: what decides the findings of a study, and on which machine."""
        config, data = self.model.config, self.data
        record: dict[str, Any] = {"study": name, "seed": self.seed, "settings": asdict(settings)}
        record["bert"] = shorten(self.arguments.bert)
        record["model"] = {"name": shorten(self.arguments.model), "parameters": self.model.num_parameters()}
        for key in ("hidden_size", "num_hidden_layers", "wave_operation", "magnitude"):
            record["model"][key] = getattr(config, key)
        record["data"] = data and {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "rows": {"train": len(data.train), "measured": len(self.held_out)},
            "held_out_split": "validation" if data.test is None else "test",
            "classes": len(data.label_names),
        }
        is_gpu = self.device.type == "cuda"
        return record | describe_run(torch.cuda.get_device_name(self.device) if is_gpu else "cpu")


def check_lengths(study: Study, settings: Any, config: Any) -> None:
    """ValueError that names the setting if a model has no positions for so many tokens."""
    if getattr(config, "position_embedding_type", "absolute") == "absolute":
        for name in study.lengths:
            value, most = getattr(settings, name), config.max_position_embeddings
            if (length := max(value) if isinstance(value, list) else value) > most:
                raise ValueError(f"`{name}` must be at most {most}, as {config.name_or_path!r} has it; got {length}.")


def load_model(name: str, config: Any, study: str, needs_classifier: bool) -> Any:
    """A Wave Network with its trained classifier, or without one if there is none and none is needed."""
    is_classifier = WaveForSequenceClassification.__name__ in (config.architectures or [])
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    if needs_classifier and not (is_classifier and problem == "single_label_classification"):
        raise ValueError(
            f"`model` must be a classifier of one label out of several for the study {study!r}, and {name!r} is none. "
            f"Train one: `wave-network finetune --model {name}`."
        )
    return (WaveForSequenceClassification if is_classifier else WaveModel).from_pretrained(name, use_safetensors=True)


def read_config(setting: str, name: str, family: str) -> Any:
    """The config of a model; ValueError if it is of another family."""
    check_source(setting, name)
    config = AutoConfig.from_pretrained(name)
    if config.model_type != family:
        raise ValueError(f"`{setting}` must be of the family {family!r}, and {name!r} is of {config.model_type!r}.")
    return config


def resolve_device(name: str | None) -> torch.device:
    """The device of this name; without one a GPU, if there is one. ValueError if torch cannot compute on it."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` must be one that torch finds here, such as 'cpu', got {name!r}.") from error
    return device


def list_texts(rows: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The texts of rows, and the second texts of pairs, as a tokenizer takes them."""
    return [list(rows[name]) for name in ("text", "text_pair") if name in rows]


def shorten(name: str | None) -> str | None:
    """A folder without its path, which says nothing elsewhere; a name on the Hub as it is."""
    return Path(name).resolve().name if name and Path(name).exists() else name


def read_result(path: Path) -> tuple[dict[str, Any], Result]:
    """The record of a run and its result, from `result.json`."""
    written = read_json(path)
    return written["study"], Result(**written["result"])


def write_files(record: dict[str, Any], result: Result, folder: Path) -> None:
    """Makes the table, the figures, the pages and the report of a result."""
    import pandas

    study = load_study(record["study"])
    pandas.DataFrame(result.table, dtype=object).to_csv(folder / "table.csv", index=False)
    sections = [f"# {study.title}", study.describe(record, result)]
    for picture in study.draw(record, result):
        save_figure(picture.figure, folder / picture.name)
        sections.append(f"![{picture.name}]({picture.name}.png)\n\n*{picture.caption}*")
    for name, text in study.pages(record, result).items():
        write_text(folder / name, text)
        sections.append(f"To open in a browser: [{name}]({name}).")
    settings = f"```json\n{json.dumps(record, indent=2, ensure_ascii=False)}\n```"
    write_text(
        folder / "report.md",
        "\n\n".join([*sections, "## Table", make_table(result.table), "## Settings", settings]) + "\n",
    )


def make_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, numbers with as many digits as one reads."""
    return write_table({name: format_cell(value) for name, value in row.items()} for row in rows).rstrip("\n")


def format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
