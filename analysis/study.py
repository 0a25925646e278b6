"""`wave-network analyze`: the frame in which the studies of *The Backpropagation of the Wave Network* run.

    OUTPUT/
        result.json    all numbers, with settings, model, data, seed, machine and versions: the rest is made from it
        table.csv      one row for each thing measured, in full precision
        *.png, *.svg   the figures
        report.md      what was found, in words, with the figures, the table and the settings

A study is a module of this room with a `Study` in it: phase.py is the smallest.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from ..data.load import TextData, load_text_data
from ..files import describe_run, open_folder, read_json, refuse_existing, write_json, write_table, write_text
from ..modeling_wave import WaveForSequenceClassification, WaveModel
from .figures import save_figure

# In the order of the paper. The name of a study is that of its module.
STUDIES = {
    "convergence": "test accuracy by batches and by time, of Wave Networks, a Transformer layer and BERT",
    "gradients": "what the loss sends back to [CLS], to the text and to the classifier, step by step",
    "independence": "how far dimensions stay apart: Jacobians of the layer, correlations in the table",
    "complexity": "operations, bytes, time and memory of a layer, by the length of the text and by the width",
    "waves": "the waves of one text, beside integrated gradients, with a page to send on",
    "phase": "how the phase spreads, by the length of the texts, with the L2 and the RMS magnitude",
}
MOST_ROWS = 40  # of the table in the report


@dataclass
class AnalyzeArguments:
    """What to study, and where to write it."""

    _argument_group_name = "study"

    model: str = field(metadata={"help": "Trained Wave Network: folder, or name on the Hub."})
    data: str | None = field(
        default=None,
        metadata={"help": "What `finetune --dataset` takes: bbc_news, a file, a folder, a name on the Hub."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Column with the text, or two for pairs. Found by itself if unambiguous."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column with the label. Found by itself if unambiguous."}
    )
    bert: str | None = field(
        default=None,
        metadata={
            "help": "BERT to compare with, where a study does: folder, or name on the Hub, such as bert-base-uncased. "
            "Default: one of BERT-base's shape with random weights."
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write. Default: runs/analyze/MODEL/STUDY."}
    )
    seed: int = field(default=0, metadata={"help": "Decides which texts are drawn, and all random weights."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 ... Default: a GPU if there is one."})
    paper: bool = field(
        default=False, metadata={"help": "The sizes of the paper, but for those that are given: hours on a CPU."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the study that is in the folder."})


class Settings:
    """The settings of a study, a dataclass. All their numbers are sizes or rates; ValueError for 0 or less."""

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
        details: What else the figures and the report need; the `measure_*` function of a study describes it.
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
        settings: Its own settings, a subclass of `Settings` with a default and a help text for each field.
        measure: Measures it.
        draw: The figures of a result, from the record of the run and the result.
        describe: The findings in words, as Markdown, from the same.
        pages: Other files by their names, from the same.
        paper: The values that `--paper` gives to settings.
        lengths: Which settings say how many tokens a model reads.
        packages: What must be installed beside the package's own dependencies.
        needs_data, needs_classifier: Whether it needs labelled data, and a trained classifier.
    """

    title: str
    settings: type
    measure: Callable[["Experiment", Any], Result]
    draw: Callable[[dict[str, Any], Result], Iterator[Picture]]
    describe: Callable[[dict[str, Any], Result], str]
    pages: Callable[[dict[str, Any], Result], dict[str, str]] = lambda record, result: {}
    paper: Mapping[str, Any] = field(default_factory=dict)
    lengths: Sequence[str] = ()
    packages: Sequence[str] = ()
    needs_data: bool = True
    needs_classifier: bool = False


def load_study(name: str) -> Study:
    """The study of that name. ValueError if there is none."""
    if name not in STUDIES:
        raise ValueError(f"`study` must be one of {list(STUDIES)}, got {name!r}.")
    return importlib.import_module(f".{name}", __package__).STUDY


def analyze(study: str, **settings: Any) -> Result:
    """
    Runs a study and writes its table, figures and report; the same as `wave-network analyze STUDY`.

    Args:
        study: One of `STUDIES`.
        settings: The fields of `AnalyzeArguments` (`model` must be among them) and of the study's own settings.

    Raises:
        ValueError: A setting, the model or the data are not allowed; the message names it.
        ImportError: A package is missing; the message says how to install it.
        OSError: The model or the data cannot be found, or the output folder is in use.
    """
    return run_study(study, *make_settings(study, settings)).result


def make_settings(name: str, given: Mapping[str, Any]) -> tuple[AnalyzeArguments, Any]:
    """The arguments and the study's own settings from values by name; `paper` fills in what is not given."""
    study = load_study(name)
    common, own = ({each.name for each in fields(kind)} for kind in (AnalyzeArguments, study.settings))
    unknown = sorted(given.keys() - common - own)
    if unknown:
        raise ValueError(f"The settings of the study {name!r} are {sorted(common | own)}, got {unknown[0]!r}.")
    if "model" not in given:
        raise ValueError("`model` must be given: the folder of a trained Wave Network, or its name on the Hub.")
    arguments = AnalyzeArguments(**{key: given[key] for key in given.keys() & common})
    raised = study.paper if arguments.paper else {}
    return arguments, study.settings(**{**raised, **{key: given[key] for key in given.keys() & own}})


class Finished(NamedTuple):
    """A finished study: its folder and its result."""

    folder: Path
    result: Result


def run_study(name: str, arguments: AnalyzeArguments, settings: Any) -> Finished:
    """`analyze` with settings that are made. The folder appears when everything in it is complete."""
    study = load_study(name)
    default = Path("runs", "analyze", Path(arguments.model).resolve().name, name)
    folder = Path(arguments.output_dir or default)
    refuse_existing(folder, arguments.overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "result.json").is_file():
        raise ValueError(f"`output_dir` {str(folder)!r} holds no study, so it is not replaced. Choose another one.")
    for package in study.packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'The study {name!r} needs {package}: pip install "wave-network[analyze]"')
    experiment = Experiment(name, arguments, settings)
    set_seed(arguments.seed)
    result = study.measure(experiment, settings)
    with open_folder(folder, arguments.overwrite) as target:
        write_json(target / "result.json", {"study": experiment.record, "result": asdict(result)})
        record, result = read_result(target / "result.json")  # so the files below can be made again from it alone
        write_files(record, result, target)
    return Finished(folder, result)


class Experiment:
    """What a study measures with: the model, the texts and the device. Loads them, or raises what `analyze` does."""

    def __init__(self, name: str, arguments: AnalyzeArguments, settings: Any):
        study, self.arguments, self.seed = load_study(name), arguments, arguments.seed
        self.device = resolve_device(arguments.device)
        config = read_config("model", arguments.model, "wave")
        self.check_lengths(study, settings, config)
        self.model: Any = load_model(arguments.model, config, name, study.needs_classifier).to(self.device).eval()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(arguments.model)
        if arguments.bert is not None:
            self.check_lengths(study, settings, read_config("bert", arguments.bert, "bert"))
        if arguments.data is None and study.needs_data:
            raise ValueError(f"`data` must be given for the study {name!r}: what `finetune --dataset` takes.")
        self.data: TextData | None = None
        if arguments.data is not None:
            columns = {"text_columns": arguments.text_columns, "label_column": arguments.label_column}
            self.data = load_text_data(arguments.data, dataset_config=arguments.dataset_config, **columns)
        self.record = self.describe(name, settings)

    @property
    def held_out(self) -> Dataset:
        """The rows to measure on: the test split, or the validation split if there is no other."""
        return self.data.validation if self.data.test is None else self.data.test

    def encode(
        self, rows: Mapping[str, Sequence[Any]], max_length: int, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> list[list[int]]:
        """The token ids of rows, `[CLS] text [SEP]`, cut to a length; by the model's own tokenizer unless given."""
        encoded = (tokenizer or self.tokenizer)(*list_texts(rows), truncation=True, max_length=max_length)
        return encoded["input_ids"]

    def draw_rows(self, count: int) -> Dataset:
        """So many rows of those to measure on, at most, drawn by the seed."""
        return self.held_out.shuffle(seed=self.seed).select(range(min(count, len(self.held_out))))

    def load_bert(self, num_labels: int, **shape: Any) -> Any:
        """The BERT of `bert`, or transformers' own of this shape with random weights. Other labels: a new classifier."""
        if self.arguments.bert is None:
            return BertForSequenceClassification(BertConfig(num_labels=num_labels, **shape)).to(self.device)
        model: Any = BertForSequenceClassification.from_pretrained(
            self.arguments.bert, num_labels=num_labels, ignore_mismatched_sizes=True
        )
        return model.to(self.device)

    def describe(self, name: str, settings: Any) -> dict[str, Any]:
        """The record of the run: all that decides what a study finds, and on which machine."""
        config, data = self.model.config, self.data
        model = {"name": shorten(self.arguments.model), "parameters": self.model.num_parameters()}
        for key in ("hidden_size", "num_hidden_layers", "wave_operation", "magnitude"):
            model[key] = getattr(config, key)
        described = None
        if data is not None:
            split = "validation" if data.test is None else "test"
            described = {"name": data.name, "fingerprint": data.fingerprint, "train_rows": len(data.train)}
            described |= {
                "held_out_rows": len(self.held_out),
                "held_out_split": split,
                "classes": len(data.label_names),
            }
        return {
            "study": name,
            "seed": self.seed,
            "settings": asdict(settings),
            "model": model,
            "bert": self.arguments.bert and shorten(self.arguments.bert),
            "data": described,
            **describe_run(torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"),
        }

    @staticmethod
    def check_lengths(study: Study, settings: Any, config: PreTrainedConfig) -> None:
        """ValueError that names the setting if a model has no positions for so many tokens."""
        if getattr(config, "position_embedding_type", "absolute") != "absolute":
            return
        for name in study.lengths:
            value, most = getattr(settings, name), config.max_position_embeddings
            length = max(value) if isinstance(value, list) else value
            if length > most:
                raise ValueError(
                    f"`{name}` must be at most {most}, the positions of {config.name_or_path!r}; got {length}."
                )


def load_model(name: str, config: PreTrainedConfig, study: str, needs_classifier: bool) -> PreTrainedModel:
    """A Wave Network with its trained classifier, or without one if there is none and none is needed."""
    if WaveForSequenceClassification.__name__ not in (config.architectures or []):
        if needs_classifier:
            raise ValueError(
                f"`model` must have a trained classifier for the study {study!r}, and {name!r} has none. Train one: "
                f"`wave-network finetune --model {name}`."
            )
        return WaveModel.from_pretrained(name)
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    if needs_classifier and problem != "single_label_classification":
        raise ValueError(
            f"`model` must have been trained for 'single_label_classification' for the study {study!r}, and {name!r} "
            f"was trained for {problem!r}."
        )
    return WaveForSequenceClassification.from_pretrained(name)


def read_config(setting: str, name: str, family: str) -> PreTrainedConfig:
    """The config of a model; ValueError if it is of another family."""
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


@torch.no_grad()
def find_variants(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """
    The two variants of each token from which the first layer of a Wave Network makes waves (paper 2411.02674, 3.2),
    side by side, shape (B, L, 2D): the input of `ops_wave.lift`. The texts have no padding.
    """
    return model.base_model.layers[0].mixing.variants(find_embeddings(model, input_ids))


@torch.no_grad()
def find_embeddings(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """What the first layer of a Wave Network or of BERT is given, shape (B, L, D)."""
    return model.base_model(input_ids, output_hidden_states=True).hidden_states[0]


def list_texts(rows: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The texts of rows, and the second texts of pairs, as a tokenizer takes them."""
    return [list(rows[name]) for name in ("text", "text_pair") if name in rows]


def shorten(name: str) -> str:
    """A folder without its path, which says nothing elsewhere; a name on the Hub as it is."""
    return Path(name).resolve().name if Path(name).exists() else name


# What is written.


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
    table = make_table(result.table) if len(result.table) <= MOST_ROWS else f"{len(result.table)} rows: table.csv."
    sections += ["## Table", table, "## Settings", make_table(list_settings(record))]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def make_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, numbers with as many digits as one reads."""
    return write_table({name: format_cell(value) for name, value in row.items()} for row in rows).rstrip("\n")


def format_cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def list_settings(record: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The record as rows of a table of two columns."""
    for name, value in record.items():
        for key, each in value.items() if isinstance(value, dict) else [("", value)]:
            if each is not None:
                yield {"setting": f"{name}: {key}" if key else name, "value": str(each)}


def describe_command(record: Mapping[str, Any]) -> str:
    """The command of a run, with the settings that are not the default, and the machine, as Markdown."""
    words = ["wave-network", "analyze", record["study"], "--model", record["model"]["name"]]
    words += ["--data", record["data"]["name"]] if record["data"] else []
    words += ["--bert", record["bert"]] if record["bert"] else []
    defaults = asdict(load_study(record["study"]).settings())
    for name, value in record["settings"].items():
        if value != defaults[name]:
            words += [f"--{name}", *(map(json.dumps, value if isinstance(value, list) else [value]))]
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("transformers", "torch", "python"))
    return f"`{' '.join(words)}`, seed {record['seed']}, {record['date']}, {record['device']}, {versions}."
