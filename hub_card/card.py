"""Writes the model card of a finished run: README.md and `.eval_results/*.yaml`.

The card is made of files alone: `config.json`, `metrics.json` and `tokenizer_config.json`, as `wave-network finetune`
leaves them. Every result is computed again from the confusion counts, and a run folder that contradicts itself gets no
card.

The prose is in `model_card.md`; this file checks, computes and fills in.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
    hf_hub_url,
)
from huggingface_hub.utils import HFValidationError, validate_repo_id

SCHEMA = 1
TOLERANCE = 1e-6  # how far a written figure may be from the counts: rounding, no more
TEMPLATE = Path(__file__).with_name("model_card.md")
PICTURES = {"picture": "confusion_matrix.png", "reliability_picture": "reliability.png"}
MANY_CLASSES = 20  # beyond this, lists of classes are folded away
MODES = {
    "wave_operation": ("modulation", "interference"),
    "magnitude": ("l2", "rms"),
    "restore": ("linear", "real", "magnitude"),
    "position_embedding_type": ("sinusoidal", "absolute", "none"),
    "classifier_pooling": ("mean", "cls", "max"),
}


def write_card(run_folder: str | os.PathLike, *, repo_id: str | None = None, license: str = "apache-2.0") -> Path:
    """
    Writes the model card of a run into its folder, over any card that is there.

    Call it after the last save with Trainer, whose own card it replaces, and before the upload. A later
    `model.save_pretrained(run_folder)` leaves it alone; `Trainer.push_to_hub` writes a card of its own over it.

    `.eval_results/<data>.yaml` has one entry, the accuracy, under the task id "default". A leaderboard of the Hub takes
    it only if the data set is there, is registered as a benchmark, and has such a task; the entry's note says what the
    rows were, and whether the data are on the Hub at all.

    Args:
        run_folder: What `wave-network finetune` left: `config.json`, `metrics.json`, `tokenizer_config.json`, and, for
            the card to show it, `confusion_matrix.png` and `reliability.png`.
        repo_id: Where the folder will be pushed, "user/name". None: the card calls the model by its folder's name.
        license: The license of the model, as a Hub identifier.

    Returns:
        The path of the card, `run_folder/README.md`.

    Raises:
        ValueError: A file is missing, cut short or of another schema, `repo_id` is not a Hub id, or a figure disagrees
            with the counts, with another figure, or with the configuration. Nothing is written then.
        OSError: The folder cannot be written to. An older card is left as it was.
    """
    folder = Path(run_folder).resolve()
    if repo_id is not None:
        validate_repo_id(repo_id)
    metrics, config = RunFile(folder / "metrics.json"), RunFile(folder / "config.json")
    check_run(metrics, config)
    results = check_results(metrics)
    check_calibration(metrics, config, results)

    split = "test" if "test" in results else "validation"
    name = repo_id or folder.name
    # Without its namespace a repository has no address yet.
    source_url = hf_hub_url(repo_id, "metrics.json") if repo_id and "/" in repo_id else None
    card = ModelCard.from_template(
        card_metadata(metrics, results[split], split, name, source_url, license),
        template_path=str(TEMPLATE),
        **card_prose(metrics, config, results, split, name),
        **{name: file if (folder / file).is_file() else None for name, file in PICTURES.items()},
    )
    texts = {folder / "README.md": str(card).rstrip("\n") + "\n"}
    entries = eval_result_entries_to_yaml(result_entries(metrics, results[split], split, source_url))
    file_name = metrics.read("data", "name", kind="a text").replace("/", "--") + ".yaml"
    texts[folder / ".eval_results" / file_name] = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
    write_together(texts)
    return folder / "README.md"


# ---- Reading a run, and refusing one that contradicts itself


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_bin(value: Any) -> bool:
    """Whether a value is the count of a bin with its mean confidence and accuracy, which an empty one does not have."""
    if not isinstance(value, dict) or not is_count(value.get("count")):
        return False
    return value["count"] == 0 or all(is_number(value.get(name)) for name in ("confidence", "accuracy"))


KINDS = {
    "a text": is_text,
    "a text or null": lambda value: value is None or is_text(value),
    "a list of texts": lambda value: isinstance(value, list) and all(map(is_text, value)),
    "a count": is_count,
    "a count or null": lambda value: value is None or is_count(value),
    "a number": is_number,
    "a number or null": lambda value: value is None or is_number(value),
    "true or false": lambda value: isinstance(value, bool),
    "a record": lambda value: isinstance(value, dict),
    "a record or null": lambda value: value is None or isinstance(value, dict),
    "a list of bins": lambda value: isinstance(value, list) and len(value) > 0 and all(map(is_bin, value)),
    "a square table of counts": lambda value: (
        isinstance(value, list)
        and all(isinstance(row, list) and len(row) == len(value) and all(map(is_count, row)) for row in value)
    ),
}


class RunFile:
    """A JSON file of the run folder. Every error names the file and the field."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file. `wave-network finetune` writes it when a run ends.") from error
        except ValueError as error:
            raise ValueError(f"{path}: cut short, or not JSON: {error}.") from error

    def read(self, *field: str, kind: str) -> Any:
        """The value of a field, given by the names on the way to it; a ValueError if it is not of that kind."""
        value = self.content
        for name in field:
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"{self.path}: `{'.'.join(field)}` must be {kind}, but it is missing.")
            value = value[name]
        if not KINDS[kind](value):
            raise ValueError(f"{self.path}: `{'.'.join(field)}` must be {kind}, got {value!r}.")
        return value

    def refuse(self, *field: str, found: Any, because: str) -> None:
        raise ValueError(f"{self.path}: `{'.'.join(field)}` is {found!r}, but {because}.")


def read_date(metrics: RunFile) -> datetime:
    created = metrics.read("created", kind="a text")
    try:
        return datetime.fromisoformat(created.replace("Z", "+00:00"))  # Python 3.10 does not know the Z
    except ValueError as error:
        raise ValueError(f"{metrics.path}: `created` is {created!r}, but it must be a date in ISO 8601.") from error


def check_run(metrics: RunFile, config: RunFile) -> None:
    """Raises a ValueError if the two files are not those of one finished run of a Wave Network."""
    schema = metrics.read("schema", kind="a count")
    if schema != SCHEMA:
        metrics.refuse("schema", found=schema, because=f"this version reads schema {SCHEMA}")
    model_type = config.read("model_type", kind="a text")
    if model_type != "wave":
        config.refuse("model_type", found=model_type, because="a card is written for 'wave'")
    for mode, choices in MODES.items():
        value = config.read(mode, kind="a text")
        if value not in choices:
            config.refuse(mode, found=value, because=f"it must be one of {choices}")

    labels = metrics.read("data", "label_names", kind="a list of texts")
    if "id2label" not in config.content:  # transformers leaves out its default
        config.content["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    id2label = config.read("id2label", kind="a record")
    in_config = [id2label.get(str(index)) for index in range(len(id2label))]
    if labels != in_config:
        metrics.refuse("data", "label_names", found=labels, because=f"`id2label` of {config.path} is {id2label!r}")
    if len(set(labels)) < len(labels):
        metrics.refuse("data", "label_names", found=labels, because="no two classes may have the same name")

    total, core, table = (
        metrics.read("model", name, kind="a count") for name in ("parameters", "core_parameters", "table_parameters")
    )
    if total != core + table:
        because = f"`core_parameters` and `table_parameters` add up to {core} + {table} = {core + table}"
        metrics.refuse("model", "parameters", found=total, because=because)
    words = config.read("vocab_size", kind="a count") * config.read("hidden_size", kind="a count")
    if table < words:
        because = f"`vocab_size` times `hidden_size` of {config.path} is {words}"
        metrics.refuse("model", "table_parameters", found=table, because=because)


@dataclass(frozen=True)
class ClassScores:
    """What one class scores; 0 where a quotient is 0 / 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. `macro_f1` is the mean over the classes that occur, as in scikit-learn."""

    rows: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    per_class: list[ClassScores]


def score(confusion: list[list[int]]) -> Scores:
    """The scores of a confusion matrix (at least one count; rows are true classes, columns predicted ones)."""
    per_class, occurring_f1 = [], []
    for index, (row, column) in enumerate(zip(confusion, zip(*confusion, strict=True), strict=True)):
        support, predicted, correct = sum(row), sum(column), row[index]
        f1 = 2 * correct / max(support + predicted, 1)
        per_class.append(ClassScores(correct / max(predicted, 1), correct / max(support, 1), f1, support))
        if support + predicted > 0:
            occurring_f1.append(f1)
    rows = sum(scores.support for scores in per_class)
    correct = sum(row[index] for index, row in enumerate(confusion))
    low, high = wilson_interval(correct, rows)
    return Scores(rows, correct / rows, low, high, math.fsum(occurring_f1) / len(occurring_f1), per_class)


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson, 1927)."""
    z = NormalDist().inv_cdf(0.975)
    proportion = correct / rows
    middle = proportion + z**2 / (2 * rows)
    half = z * math.sqrt(proportion * (1 - proportion) / rows + z**2 / (4 * rows**2))
    low, high = (bound / (1 + z**2 / rows) for bound in (middle - half, middle + half))
    return max(low, 0.0), min(high, 1.0)


def check_results(metrics: RunFile) -> dict[str, Scores]:
    """The scores of each evaluated split, from its counts; a ValueError if the file's own figures are others."""
    labels = metrics.read("data", "label_names", kind="a list of texts")
    rows = metrics.read("data", "rows", kind="a record")
    splits = [split for split in ("validation", "test") if rows.get(split)]
    written = list(metrics.read("results", kind="a record"))
    if set(written) != set(splits) or not splits:
        metrics.refuse("results", found=written, because=f"`data.rows` has rows to evaluate in {splits}")

    results = {}
    for split in splits:
        field = ("results", split)
        confusion = metrics.read(*field, "confusion", kind="a square table of counts")
        if len(confusion) != len(labels) or not any(map(any, confusion)):
            because = f"it must count the rows of the {len(labels)} classes of `data.label_names`"
            metrics.refuse(*field, "confusion", found=confusion, because=because)
        scores = results[split] = score(confusion)

        in_data = metrics.read("data", "rows", split, kind="a count")
        if scores.rows != in_data:
            because = f"the counts of `results.{split}.confusion` add up to {scores.rows}"
            metrics.refuse("data", "rows", split, found=in_data, because=because)
        for name in ("rows", "accuracy", "accuracy_low", "accuracy_high", "macro_f1"):
            check_figure(metrics, *field, name, expected=getattr(scores, name))
        classes = list(metrics.read(*field, "per_class", kind="a record"))
        if set(classes) != set(labels):
            metrics.refuse(*field, "per_class", found=classes, because=f"`data.label_names` is {labels!r}")
        for label, class_scores in zip(labels, scores.per_class, strict=True):
            for name, expected in vars(class_scores).items():
                check_figure(metrics, *field, "per_class", label, name, expected=expected)
    return results


def check_figure(metrics: RunFile, *field: str, expected: float) -> None:
    found = metrics.read(*field, kind="a number")
    if abs(found - expected) > TOLERANCE:
        metrics.refuse(*field, found=found, because=f"the confusion counts give {expected!r}")


def check_calibration(metrics: RunFile, config: RunFile, results: dict[str, Scores]) -> None:
    """
    Raises a ValueError if the bins are not those of the evaluated rows, an error is not that of its bins, or the model
    has another temperature. Runs of the first version have no calibration and no temperature.
    """
    temperature = None
    if metrics.content.get("calibration") is not None:
        temperature = metrics.read("calibration", "temperature", kind="a number or null")
        for split, scores in results.items():
            fields: list[tuple[str, ...]] = [("calibration", split)]
            if temperature is not None:
                fields.append(("calibration", split, "before"))
            for field in fields:
                check_bins(metrics, *field, scores=scores)
    in_model = config.content.get("classifier_temperature", 1.0)
    if in_model != (temperature or 1.0):
        because = f"`classifier_temperature` of {config.path} is {in_model!r}"
        metrics.refuse("calibration", "temperature", found=temperature, because=because)


def check_bins(metrics: RunFile, *field: str, scores: Scores) -> None:
    bins = metrics.read(*field, "bins", kind="a list of bins")
    filled = [each for each in bins if each["count"]]
    rows, correct = sum(each["count"] for each in filled), sum(each["count"] * each["accuracy"] for each in filled)
    if rows != scores.rows or abs(correct / rows - scores.accuracy) > TOLERANCE:
        because = f"the confusion counts have {scores.accuracy * scores.rows:.0f} of {scores.rows} rows right"
        metrics.refuse(*field, "bins", found=bins, because=because)
    error = sum(each["count"] * abs(each["accuracy"] - each["confidence"]) for each in filled) / rows
    found = metrics.read(*field, "ece", kind="a number")
    if abs(found - error) > TOLERANCE:
        metrics.refuse(*field, "ece", found=found, because=f"the bins give {error!r}")


# ---- The machine-readable results


def card_metadata(
    metrics: RunFile, scores: Scores, split: str, model_name: str, source_url: str | None, license: str
) -> ModelCardData:
    """The YAML block at the top of the card."""
    data_name = metrics.read("data", "name", kind="a text")
    base_model = metrics.read("base_model", kind="a text or null")
    figures: list[tuple[str, str, float, dict[str, Any] | None]] = [
        ("accuracy", "Accuracy", scores.accuracy, None),
        ("accuracy_low", "Accuracy, lower end of the 95 % interval", scores.accuracy_low, None),
        ("accuracy_high", "Accuracy, upper end of the 95 % interval", scores.accuracy_high, None),
        ("f1", "Macro F1", scores.macro_f1, {"average": "macro"}),
    ]
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["wave-network", "text-classification"],
        base_model=base_model if base_model and looks_like_hub_id(base_model) else None,
        datasets=[data_name] if metrics.read("data", "is_on_hub", kind="true or false") else None,
        metrics=["accuracy", "f1"],
        model_name=model_name,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                task_name="Text classification",
                dataset_type=data_name,
                dataset_name=data_name,
                dataset_split=split,
                metric_type=metric,
                metric_name=title,
                metric_value=value,
                metric_args=args,
                source_name="metrics.json" if source_url else None,
                source_url=source_url,
            )
            for metric, title, value, args in figures
        ],
    )


def result_entries(metrics: RunFile, scores: Scores, split: str, source_url: str | None) -> list[EvalResultEntry]:
    """The entries of `.eval_results`."""
    notes = (
        f"accuracy on the {scores.rows} rows of the {split} split, 95 % Wilson interval "
        f"{scores.accuracy_low:.4f} to {scores.accuracy_high:.4f}"
    )
    if split == "validation" and metrics.read("data", "validation_was_split", kind="true or false"):
        notes += "; the rows were split off the training data"
    if not metrics.read("data", "is_on_hub", kind="true or false"):
        notes += "; the data set is not on the Hub"
    return [
        EvalResultEntry(
            dataset_id=metrics.read("data", "name", kind="a text"),
            task_id="default",
            value=scores.accuracy,
            date=read_date(metrics).isoformat(),
            source_url=source_url,
            source_name="metrics.json" if source_url else None,
            notes=notes,
        )
    ]


def looks_like_hub_id(name: str) -> bool:
    """Whether a name is `namespace/name` as on the Hub, and not a local file or folder, which goes before the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


# ---- The prose


def card_prose(metrics: RunFile, config: RunFile, results: dict[str, Scores], split: str, name: str) -> dict[str, Any]:
    """What `model_card.md` is filled with. Texts from the files are escaped here, so the template holds prose only."""
    labels = metrics.read("data", "label_names", kind="a list of texts")
    data_name = metrics.read("data", "name", kind="a text")
    base_model = metrics.read("base_model", kind="a text or null")
    best = metrics.read("best", kind="a record or null")
    shape = {
        "Layers": f"{config.read('num_hidden_layers', kind='a count'):,}",
        "Hidden size": f"{config.read('hidden_size', kind='a count'):,}",
        "Feed-forward width": config.read("intermediate_size", kind="a count or null") or "none",
        "Vocabulary": f"{config.read('vocab_size', kind='a count'):,} tokens",
        "Core parameters": f"{metrics.read('model', 'core_parameters', kind='a count'):,}",
        "Embedding table": f"{metrics.read('model', 'table_parameters', kind='a count'):,}",
        "All parameters": f"{metrics.read('model', 'parameters', kind='a count'):,}",
    }
    return {
        "title": escape(name),
        "name_in_code": repr(name),
        **{mode: config.read(mode, kind="a text") for mode in MODES},
        # Runs of the first version do not have it.
        "conv_kernel_size": "conv_kernel_size" in config.content
        and config.read("conv_kernel_size", kind="a count or null"),
        "ngram_size": config.content.get("ngram_vocab_size") and config.read("ngram_size", kind="a count"),
        "longest": read_longest(config),
        "shape_table": table(["Property", "Value"], shape.items()),
        "base_model": escape(base_model) if base_model else None,
        "data_link": f"[{data_name}](https://huggingface.co/datasets/{data_name})"
        if metrics.read("data", "is_on_hub", kind="true or false")
        else escape(data_name),
        "fingerprint": escape(metrics.read("data", "fingerprint", kind="a text")),
        "text_columns": escape(", ".join(metrics.read("data", "text_columns", kind="a list of texts"))),
        "label_column": escape(metrics.read("data", "label_column", kind="a text")),
        "validation_was_split": metrics.read("data", "validation_was_split", kind="true or false"),
        "train_rows": f"{metrics.read('data', 'rows', 'train', kind='a count'):,}",
        "rows": {split: f"{scores.rows:,}" for split, scores in results.items()},
        "class_count": f"{len(labels):,}",
        "many_classes": len(labels) > MANY_CLASSES,
        "settings_table": table(["Setting", "Value"], metrics.read("settings", kind="a record").items()),
        "command": fenced(metrics.read("command", kind="a text")),
        "best_step": f"{metrics.read('best', 'step', kind='a count'):,}" if best else None,
        "best_metric": escape(metrics.read("best", "metric", kind="a text")) if best else None,
        "split": split,
        "results_table": table(
            ["Split", "Rows", "Accuracy (%)", "95 % interval", "Macro F1 (%)"],
            (
                [
                    split,
                    f"{scores.rows:,}",
                    percent(scores.accuracy),
                    f"{percent(scores.accuracy_low)} to {percent(scores.accuracy_high)}",
                    percent(scores.macro_f1),
                ]
                for split, scores in results.items()
            ),
        ),
        "class_table": table(
            ["Class", "Precision (%)", "Recall (%)", "F1 (%)", "Rows"],
            (
                [label, percent(scores.precision), percent(scores.recall), percent(scores.f1), f"{scores.support:,}"]
                for label, scores in zip(labels, results[split].per_class, strict=True)
            ),
        ),
        "calibration": card_calibration(metrics, split),
        "seed": metrics.read("seed", kind="a count"),
        "device": escape(metrics.read("device", kind="a text")),
        "created": read_date(metrics).isoformat(" "),
        "duration": f"{metrics.read('duration_seconds', kind='a number'):,.1f}",
        "versions_table": table(["Package", "Version"], metrics.read("versions", kind="a record").items()),
    }


def read_longest(config: RunFile) -> int:
    """The tokens that a model with learned positions can read; of another one, those that its tokenizer leaves."""
    positions = config.read("max_position_embeddings", kind="a count")
    path = config.path.with_name("tokenizer_config.json")
    if config.read("position_embedding_type", kind="a text") == "absolute" or not path.is_file():
        return positions
    tokenizer = RunFile(path)
    return tokenizer.read("model_max_length", kind="a count") if "model_max_length" in tokenizer.content else positions


def card_calibration(metrics: RunFile, split: str) -> dict[str, Any] | None:
    """What the card says of the probabilities; None if the run did not measure it."""
    if metrics.content.get("calibration") is None:
        return None
    temperature = metrics.read("calibration", "temperature", kind="a number or null")
    said = {
        "ece": percent(metrics.read("calibration", split, "ece", kind="a number")),
        "bins": len(metrics.read("calibration", split, "bins", kind="a list of bins")),
        "temperature": None,
    }
    if temperature is not None:
        error = metrics.read("calibration", "temperature_error", kind="a number")
        said["temperature"] = f"{temperature:.3f} ± {error:.3f}"
        said["before"] = percent(metrics.read("calibration", split, "before", "ece", kind="a number"))
    return said


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def table(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table, its cells escaped."""
    lines = [head, ["---"] * len(head), *([escape(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """A text as one line of Markdown or HTML that shows it and does nothing else.

    Character references, and not backslashes: they mean the same in tables and in HTML. An underscore inside a word is
    no markup and stays readable.
    """
    # Control characters could end a cell, direction overrides could swap two.
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", text).split())
    markup = r"[&<>\"'`|\\*\[\]~$#!:]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(markup, lambda match: f"&#{ord(match.group())};", line)


def fenced(text: str) -> str:
    """A text as a block of shell code, in a fence longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


# ---- Writing


def write_together(texts: dict[Path, str]) -> None:
    """Writes every file beside its place first, and moves them there when all are written."""
    drafts = {path: path.with_name(f".{path.name}.tmp") for path in texts}
    try:
        for path, draft in drafts.items():
            path.parent.mkdir(exist_ok=True)
            draft.write_text(texts[path], encoding="utf-8", newline="\n")
        for path, draft in drafts.items():
            os.replace(draft, path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


__all__ = ["write_card"]
