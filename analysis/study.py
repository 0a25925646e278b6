"""`wave-network analyze`: the frame in which the studies of *The Backpropagation of the Wave Network* run.

    OUTPUT/
        study.json     what is studied: settings, model, data, seed, device, versions, date; written first
        parts/         what has been measured so far: the same command goes on from there
        result.json    the result, and study.json with it: all that the files below are made from
        table.csv      one row for each thing measured, in full precision
        table.md       the same to read
        *.png, *.svg   the figures
        report.md      what was found, in words, with the figures, the table and the settings

A study is a module of this room with a `Study` in it: see phase.py, the smallest. It measures part by part, and what it
makes of the parts is a `Result`, of plain numbers alone. Everything else is made from that, here or months later:
`python -m wave_network.analysis.docs` draws the figures of the documentation again.
"""

import csv
import datetime
import hashlib
import importlib
import importlib.util
import io
import json
import os
import platform
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from tqdm.auto import tqdm
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

from ..modeling_wave import WaveForSequenceClassification, WaveModel
from ..modeling_wave.embeddings_wave import WaveTokens
from ..training.data import TextData, load_text_data
from .figures import save_figure

STUDY_SCHEMA = 2

# In the order of the paper: the name of a study is that of its module.
STUDIES = {
    "convergence": "test accuracy by batches and by time, of Wave Networks, a Transformer layer and BERT",
    "gradients": "what the loss sends back to [CLS], to the text and to the classifier, step by step",
    "independence": "how far dimensions stay apart: Jacobians of the layer, correlations in the table",
    "complexity": "operations, bytes, time and memory of a layer, by the length of the text and by the width",
    "waves": "the waves of one text, beside integrated gradients, with a page to send on",
    "phase": "how the phase spreads, by the length of the texts, with the L2 and the RMS magnitude",
}

# The families that a setting may name a model of, by their `model_type`.
FAMILIES = {"model": ("wave",), "bert": ("bert",)}

# What a run of the same study must have in common with what lies in its folder.
DECISIVE = ("study", "seed", "settings", "model", "bert", "data")

# Fields of a config in which two copies of one model may differ.
OF_ORIGIN = ("_name_or_path", "auto_map", "transformers_version")

# What is made from the parts, beside the figures.
WRITTEN = ("result.json", "table.csv", "table.md", "report.md")


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
        default=None,
        metadata={"help": "Folder to write. Same command: go on. Default: runs/analyze/MODEL/STUDY."},
    )
    seed: int = field(default=0, metadata={"help": "Decides which texts are drawn, and all random weights."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 ... Default: a GPU if there is one."})
    paper: bool = field(
        default=False, metadata={"help": "The sizes of the paper, but for those that are given: hours on a CPU."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Drop what the same study with other settings left in the folder."}
    )


@dataclass(frozen=True)
class Result:
    """
    What a study found, in plain numbers, strings, lists and dictionaries, as JSON keeps them.

    Attributes:
        table: One dictionary for each row, with the same keys: names of columns, with their units. Cells are numbers,
            strings, or None where there is nothing.
    """

    table: list[dict[str, Any]]


class Picture(NamedTuple):
    """A figure of a study: the name of its files, matplotlib's figure, and a line under it in the report."""

    name: str
    figure: Any
    caption: str


@dataclass(frozen=True)
class Study:
    """
    A study: how it is set up, measured, drawn and told.

    Attributes:
        title: The heading of its report.
        settings: Its own settings, a dataclass with a default for each field and with help, as of a command line.
        paper: The fields to which `--paper` gives another value.
        result: The class of its result.
        measure: Measures it, part by part: `experiment.part(name, compute)`.
        draw: The figures of a result, from the record (`study.json`) and the result alone.
        describe: The findings of a result in words, as Markdown, from the same.
        pages: Other files of a result by their names, from the same.
        packages: What must be installed beside what the package itself needs: the extra `analyze`.
        needs_data, needs_classifier: Whether it needs labelled data, and a trained classifier.
        check: Raises a ValueError if a setting is not as it must be.
        lengths: The longest text that a model is given, in tokens, by the name of the setting that says so.
    """

    title: str
    settings: type
    paper: Mapping[str, Any]
    result: type[Result]
    measure: Callable[["Experiment", Any], Result]
    draw: Callable[[dict[str, Any], Any], Iterator[Picture]]
    describe: Callable[[dict[str, Any], Any], str]
    pages: Callable[[dict[str, Any], Any], dict[str, str]] = lambda record, result: {}
    packages: Sequence[str] = ("matplotlib",)
    needs_data: bool = True
    needs_classifier: bool = False
    check: Callable[[Any], None] = lambda settings: None
    lengths: Callable[[Any], Mapping[str, int]] = lambda settings: {}


def load_study(name: str) -> Study:
    """The study of that name. ValueError if there is none."""
    if name not in STUDIES:
        raise ValueError(f"`study` must be one of {list(STUDIES)}, got {name!r}.")
    return importlib.import_module(f".{name}", __package__).STUDY


def analyze(study: str, **settings: Any) -> Any:
    """
    Runs a study and writes its table, figures and report; the same as `wave-network analyze STUDY`.

    What was measured is kept: the same call goes on with an interrupted study, and of a finished one makes the files
    again.

    Args:
        study: One of `STUDIES`.
        settings: The fields of `AnalyzeArguments` (`model` must be among them) and those of the study's own settings.

    Returns:
        The study's result, such as a `PhaseResult`; its `table` is a list of rows.

    Raises:
        ValueError: A setting, the model or the data are not as they must be, or the folder holds something else; the
            message names it.
        ImportError: A package is missing; the message says how to install it.
        OSError: The model or the data cannot be found.
    """
    return run_study(study, *make_settings(study, settings)).result


def make_settings(name: str, given: Mapping[str, Any]) -> tuple[AnalyzeArguments, Any]:
    """The arguments and the study's own settings from what is given by name; `paper` fills in what is not."""
    study = load_study(name)
    of_all = {each.name for each in fields(AnalyzeArguments)}
    of_study = {each.name for each in fields(study.settings)}
    unknown = sorted(given.keys() - of_all - of_study)
    if unknown:
        raise ValueError(f"The settings of the study {name!r} are {sorted(of_all | of_study)}, got {unknown[0]!r}.")
    if "model" not in given:
        raise ValueError("`model` must be given: the folder of a trained Wave Network, or its name on the Hub.")
    arguments = AnalyzeArguments(**{key: value for key, value in given.items() if key in of_all})
    raised = study.paper if arguments.paper else {}
    settings = study.settings(**{**raised, **{key: value for key, value in given.items() if key in of_study}})
    refuse_too_small(settings)
    study.check(settings)
    return arguments, settings


def refuse_too_small(settings: Any) -> None:
    """A ValueError for a size below 1: all whole numbers among the settings of the studies are sizes."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and number < 1:
                raise ValueError(f"`{each.name}` must be at least 1, got {number}.")


class Finished(NamedTuple):
    """A finished study: its folder and its result."""

    folder: Path
    result: Any


def run_study(name: str, arguments: AnalyzeArguments, settings: Any) -> Finished:
    """`analyze` with settings that are made."""
    study = load_study(name)
    refuse_missing_packages(name, study.packages)
    experiment = Experiment(name, study, arguments, settings)
    record = experiment.begin()
    result = study.measure(experiment, settings)
    # As it will be read: what JSON cannot keep must not be drawn either.
    result = study.result(**json.loads(json.dumps(asdict(result), allow_nan=False)))
    write_atomically(
        experiment.folder / "result.json",
        json.dumps({"study": record, "result": asdict(result)}, ensure_ascii=False) + "\n",
    )
    write_tables(experiment.folder, result)
    pictures = save_pictures(study, record, result, experiment.folder)
    for file, text in study.pages(record, result).items():
        write_atomically(experiment.folder / file, text)
    write_atomically(experiment.folder / "report.md", make_report(study, record, result, pictures))
    return Finished(experiment.folder, result)


def refuse_missing_packages(name: str, packages: Sequence[str]) -> None:
    """An ImportError before anything is measured, not after it."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"The study {name!r} needs the package {package}, which is not installed: "
                'pip install "wave-network[analyze]"'
            )


# What is studied: the model, the data, and what has been measured.


class Experiment:
    """What a study measures with: the model, the texts, the device, and the parts that are finished."""

    def __init__(self, name: str, study: Study, arguments: AnalyzeArguments, settings: Any):
        self.name = name
        self.study = study
        self.arguments = arguments
        self.settings = settings
        self.seed = arguments.seed
        self.folder = Path(
            arguments.output_dir or Path("runs", "analyze", Path(arguments.model).resolve().name or "model", name)
        )
        self.device = find_device(arguments.device)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model of `model`, in evaluation mode: a classifier if it has a trained one, else the encoder alone."""
        model = load_model(self.arguments.model, self.name, self.study.needs_classifier)
        return place(model, self.device).eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.arguments.model)

    @cached_property
    def data(self) -> TextData:
        """The splits of `data`. ValueError if it was not given."""
        arguments = self.arguments
        if arguments.data is None:
            raise ValueError(f"`data` must be given for the study {self.name!r}: what `finetune --dataset` takes.")
        return load_text_data(
            arguments.data,
            dataset_config=arguments.dataset_config,
            text_columns=arguments.text_columns,
            label_column=arguments.label_column,
        )

    @property
    def labels(self) -> dict[int, str]:
        """The classes of the model by their number."""
        return cast(dict[int, str], self.model.config.id2label)

    @property
    def held_out(self) -> Dataset:
        """The rows to measure on: those of the test split, or of validation if there is none."""
        return self.data.validation if self.data.test is None else self.data.test

    def encode(
        self, rows: Mapping[str, Sequence[Any]], max_length: int, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> list[list[int]]:
        """The token ids of rows, `[CLS] text [SEP]`, cut to a length; by the model's own tokenizer unless given."""
        pairs = list(rows["text_pair"]) if "text_pair" in rows else None
        encode = tokenizer or self.tokenizer
        return encode(list(rows["text"]), pairs, truncation=True, max_length=max_length)["input_ids"]

    def begin(self) -> dict[str, Any]:
        """
        Makes the folder, or finds the same study in it, and returns its record.

        Raises:
            ValueError: Something else lies there.
        """
        record = self.describe()
        path = self.folder / "study.json"
        if self.folder.is_dir() and any(self.folder.iterdir()) and not path.is_file():
            raise ValueError(
                f"`output_dir` {str(self.folder)!r} is not empty, and no study lies in it. Choose another one."
            )
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            other = find_difference(before, record)
            if other is None:
                return before
            is_same_study = before["study"] == self.name
            if not (is_same_study and self.arguments.overwrite):
                raise ValueError(
                    f"`output_dir` {str(self.folder)!r} holds a study with another {other}. Choose another `output_dir`"
                    + (", or drop that study with --overwrite." if is_same_study else ".")
                )
            # What is made from the parts says nothing of the new ones; the figures are drawn anew.
            for old in (*(self.folder / "parts").glob("*.json"), *map(self.folder.joinpath, WRITTEN)):
                old.unlink(missing_ok=True)
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return record

    def describe(self) -> dict[str, Any]:
        """`study.json`. Loads the models and the data, so that what is wrong with them is said first."""
        needed = self.arguments.data is not None or self.study.needs_data
        model, lengths = self.model, self.study.lengths(self.settings)
        refuse_too_long(model.config, lengths)
        if self.arguments.bert is not None:
            refuse_too_long(refuse_other_family("bert", self.arguments.bert), lengths)
        return {
            "schema": STUDY_SCHEMA,
            "study": self.name,
            "seed": self.seed,
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "model": {
                "name": shorten(self.arguments.model),
                **fingerprint(self.arguments.model, model),
                "parameters": model.num_parameters(),
                "hidden_size": model.config.hidden_size,
                "num_hidden_layers": model.config.num_hidden_layers,
                "wave_operation": model.config.wave_operation,
                "magnitude": model.config.magnitude,
            },
            "bert": self.describe_bert(),
            "data": describe_data(self.data, self.held_out) if needed else None,
            "device": describe_device(self.device),
            "versions": read_versions(self.study.packages),
            "date": datetime.date.today().isoformat(),
        }

    def describe_bert(self) -> dict[str, Any] | None:
        """What is recorded of the BERT that was given, if one was."""
        name = self.arguments.bert
        if name is None:
            return None
        found: Any = BertForSequenceClassification.from_pretrained(name, use_safetensors=True, output_loading_info=True)
        model, loaded = found
        # What a file lacks, such as the classifier, is random, and another each time.
        return {"name": shorten(name), **fingerprint(name, model, left_out=loaded["missing_keys"])}

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """
        What `compute` returns, as JSON keeps it; read from the folder if the part is finished. Each part has a seed of
        its own, so that it does not depend on which others were computed before it.
        """
        path = self.folder / "parts" / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        set_seed(zlib.crc32(f"{self.seed}/{name}".encode()))
        found = json.loads(json.dumps(compute(), allow_nan=False))
        write_atomically(path, json.dumps(found) + "\n")
        return found

    def progress(self, things: Sequence[Any], unit: str, **settings: Any) -> Iterator[Any]:
        """The things one by one, with a bar."""
        return iter(tqdm(things, desc=self.name, unit=f" {unit}", **settings))

    def load_bert(self, num_labels: int | None = None, **shape: Any) -> BertForSequenceClassification:
        """
        Transformers' own BERT: that of `bert`, or one of BERT-base's shape, but for what is given, with random weights
        from the seed of the part. For another number of labels than it was trained on, its classifier is a new one.
        """
        name = self.arguments.bert
        labels: dict[str, Any] = {} if num_labels is None else {"num_labels": num_labels}
        if name is None:
            config: Any = BertConfig(**shape)
            config.num_labels = num_labels or config.num_labels
            model = BertForSequenceClassification(config)
        else:
            refuse_other_family("bert", name)
            model = BertForSequenceClassification.from_pretrained(
                name, use_safetensors=True, ignore_mismatched_sizes=True, **labels
            )
        return place(model, self.device)


def load_model(name: str, study: str, needs_classifier: bool) -> PreTrainedModel:
    """A Wave Network with its trained classifier, or without one if there is none and none is needed."""
    config = refuse_other_family("model", name)
    architectures = config.architectures or ["unknown"]
    if WaveForSequenceClassification.__name__ in architectures:
        if needs_classifier:
            refuse_other_problem(name, study, config)
        return WaveForSequenceClassification.from_pretrained(name, use_safetensors=True)
    if needs_classifier:
        others = [other for other in STUDIES if not load_study(other).needs_classifier]
        raise ValueError(
            f"`model` must have a trained classifier for the study {study!r}, and {name!r} has none (architecture: "
            f"{architectures[0]}). Train one: `wave-network finetune --model {name}`. Studies that need none: {others}."
        )
    return WaveModel.from_pretrained(name, use_safetensors=True)


def refuse_other_problem(name: str, study: str, config: PreTrainedConfig) -> None:
    """A ValueError if the probabilities of a classifier are not those of classes of which one is right."""
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    if problem != "single_label_classification":
        raise ValueError(
            f"`model` must have classes of which one is right for the study {study!r} (`problem_type` "
            f"'single_label_classification'), and {name!r} was trained for {problem!r}."
        )


def find_device(name: str | None) -> torch.device:
    """The device of this name; without one a GPU, if there is one. A ValueError if torch cannot compute on it."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` must be one that torch finds here, such as 'cpu', got {name!r}.") from error
    return device


def place(model: Any, device: torch.device) -> Any:
    """The model on a device: transformers types `to` in a way that refuses one."""
    return model.to(device)


def refuse_other_family(setting: str, name: str) -> PreTrainedConfig:
    """The config of a model; a ValueError that names the families that can be studied, if it is of another one."""
    config = AutoConfig.from_pretrained(name)
    if config.model_type not in FAMILIES[setting]:
        raise ValueError(
            f"`{setting}` must be of one of the families {list(FAMILIES[setting])} (its `model_type`), and {name!r} is "
            f"of {config.model_type!r}."
        )
    return config


def refuse_too_long(config: PreTrainedConfig, lengths: Mapping[str, int]) -> None:
    """A ValueError that names the setting, before anything is measured, if a model has no positions for its length."""
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return
    for name, length in lengths.items():
        if length > config.max_position_embeddings:
            raise ValueError(
                f"`{name}` must be at most {config.max_position_embeddings}, for so many tokens has "
                f"{config.name_or_path!r} positions; got {length}."
            )


def find_variants(model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """
    The two variants of each token that the first layer of a Wave Network makes waves of (paper 2411.02674, 3.2), side
    by side, shape (B, L, 2D): what `ops_wave.lift` takes. Without dropout if the model is in evaluation mode.
    """
    encoder: Any = model.base_model
    hidden_states = encoder.embeddings(WaveTokens.check(input_ids, attention_mask))
    return encoder.layers[0].mixing.variants(hidden_states)


def fingerprint(name: str, model: PreTrainedModel, left_out: Collection[str] = ()) -> dict[str, str]:
    """What decides what a model computes, wherever it lies: its weights, but for those left out, config, tokenizer."""
    return {
        "fingerprint": fingerprint_weights(model, left_out),
        "config_fingerprint": fingerprint_config(model.config),
        "tokenizer_fingerprint": fingerprint_tokenizer(name),
    }


def fingerprint_weights(model: PreTrainedModel, left_out: Collection[str] = ()) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in left_out:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_config(config: PreTrainedConfig) -> str:
    """Of all fields but those that say where a model comes from, not what it computes."""
    return hash_json({name: value for name, value in config.to_diff_dict().items() if name not in OF_ORIGIN})


def fingerprint_tokenizer(name: str) -> str:
    """Of what is in tokenizer.json. Where there is none, transformers makes a tokenizer of the special tokens alone."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.is_fast:
        return hash_json(tokenizer.get_vocab())
    # How much is cut off and padded is for each call to say; on which side, for the tokenizer.
    sides = {"truncation": tokenizer.truncation_side, "padding": tokenizer.padding_side}
    return hash_json(json.loads(tokenizer.backend_tokenizer.to_str()) | sides)


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def find_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What decides a result and is not as it was, by name and with both values."""
    for name in DECISIVE:
        old, new = before.get(name), now[name]
        if isinstance(old, dict) and isinstance(new, dict):
            for key in {**old, **new}:
                # A model or a data set may have moved; what it is says its fingerprint.
                if key != "name" and old.get(key) != new.get(key):
                    what = key if name == "settings" else f"{name} {key}"
                    return f"`{what}`: {old.get(key)!r}, and now it is {new.get(key)!r}"
        elif old != new:
            return f"`{name}`: {old!r}, and now it is {new!r}"
    return None


def describe_data(data: TextData, held_out: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "train_rows": len(data.train),
        "held_out_rows": len(held_out),
        "held_out_split": "validation" if data.test is None else "test",
        "classes": len(data.label_names),
    }


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"cpu ({next(names, platform.machine())}, {torch.get_num_threads()} of {os.cpu_count()} threads)"


def read_versions(packages: Sequence[str]) -> dict[str, str]:
    names = ("wave-network", "transformers", "tokenizers", *packages)
    versions = {name.replace("-", "_"): version(name) for name in names}
    return versions | {"torch": str(torch.__version__), "python": platform.python_version()}


def read_bert(record: Mapping[str, Any]) -> str | None:
    """The name of the BERT that was given, from a record."""
    bert = record["bert"]
    # Of the first schema that is all there is.
    return bert["name"] if isinstance(bert, dict) else bert


def shorten(name: str) -> str:
    """A folder without its path, which says nothing elsewhere; a name on the Hub as it is."""
    return Path(name).resolve().name if Path(name).exists() else name


# What is written.


def save_pictures(
    study: Study, record: dict[str, Any], result: Result, folder: Path, prefix: str = ""
) -> list[Picture]:
    """Draws the figures of a result into a folder, as PNG and SVG, and returns them."""
    pictures = list(study.draw(record, result))
    for picture in pictures:
        save_figure(picture.figure, folder / f"{prefix}{picture.name}")
    return pictures


def write_tables(folder: Path, result: Result) -> None:
    """`table.csv`, in full precision, and `table.md`."""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(result.table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.table)
    write_atomically(folder / "table.csv", written.getvalue())
    write_atomically(folder / "table.md", make_table(result.table) + "\n")


def make_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, numbers with as many digits as one reads."""
    lines = [f"| {' | '.join(map(escape, rows[0]))} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(escape(format_cell(value)) for value in row.values())} |" for row in rows]
    return "\n".join(lines)


def format_cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def escape(text: str) -> str:
    """A text as a cell of a Markdown table: words and classes come from the data."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def make_report(study: Study, record: dict[str, Any], result: Result, pictures: Sequence[Picture]) -> str:
    """`report.md`: what was found, the figures, the table, and how it was measured."""
    sections = [f"# {study.title}", study.describe(record, result)]
    for picture in pictures:
        sections.append(f"![{picture.caption}]({picture.name}.png)\n\n*{picture.caption}*")
    for page in study.pages(record, result):
        sections.append(f"To open in a browser: [{page}]({page}).")
    sections += ["## Table", make_table(result.table), "## Settings", make_table(list_settings(record))]
    return "\n\n".join(sections) + "\n"


def list_settings(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The record as rows of a table of two columns."""
    rows = []
    for name, value in record.items():
        if isinstance(value, dict):
            rows += [{"setting": f"{name}: {key}", "value": str(each)} for key, each in value.items()]
        elif value is not None:
            rows.append({"setting": name, "value": str(value)})
    return rows


def write_atomically(path: Path, text: str) -> None:
    """A file is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
