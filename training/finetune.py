"""`wave-network finetune`: data by name or path in, a run folder with a model ready to share out."""

import contextlib
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalPrediction

from ..configuration import WaveConfig
from ..modeling_wave import WaveForSequenceClassification
from ..tokenization import load_wave_tokenizer, train_wave_tokenizer
from .data import TextData, load_text_data
from .metrics import ClassificationReport, confusion_counts

METRICS_SCHEMA = 1
# From this ratio of the largest to the smallest class on, class weights are suggested.
SKEWED = 5


@dataclass
class DataArguments:
    """What to learn from."""

    _argument_group_name = "data"

    dataset: str = field(
        metadata={
            "help": "Built-in name (bbc_news), local file (CSV, TSV, JSON, JSONL, Parquet; .gz too), local folder with "
            "train/validation/test files, or a name on the Hub."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Column with the text, or two for pairs. Found by itself if unambiguous."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column with the label. Found by itself if unambiguous."}
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training rows to validate on, if there is no validation split."}
    )


@dataclass
class ModelArguments:
    """What to train: a new Wave Network, or with --model an existing one."""

    _argument_group_name = "model"

    model: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from (folder or name on the Hub). Default: a new model."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer: folder, name on the Hub, or vocabulary file. Default: trained on the texts."},
    )
    vocab_size: int = field(default=8192, metadata={"help": "Vocabulary of a tokenizer that is trained here."})
    max_length: int = field(default=512, metadata={"help": "Longest text in tokens; the rest is cut off."})
    hidden_size: int = field(default=128, metadata={"help": "Width of a new model."})
    num_hidden_layers: int = field(default=1, metadata={"help": "Wave layers of a new model."})
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Width of a feed-forward block after each wave layer of a new model."}
    )
    wave_operation: Literal["modulation", "interference"] = field(
        default="modulation", metadata={"help": "How the two variants of a token are superposed."}
    )
    magnitude: Literal["l2", "rms"] = field(default="l2", metadata={"help": "Norm of the context."})
    classifier_pooling: Literal["mean", "cls", "max"] = field(
        default="mean", metadata={"help": "How the classifier reads the tokens."}
    )
    position_embedding_type: Literal["sinusoidal", "absolute", "none"] = field(
        default=WaveConfig.position_embedding_type, metadata={"help": "Kind of positions of a new model."}
    )
    hidden_dropout_prob: float = field(
        default=WaveConfig.hidden_dropout_prob, metadata={"help": "Dropout of a new model."}
    )


@dataclass
class RunArguments(TrainingArguments):
    """How to train: transformers' TrainingArguments, with defaults for a small model trained from scratch."""

    _argument_group_name = "training"

    output_dir: str | None = field(
        default=None, metadata={"help": "Run folder. Default: runs/ and the name of the data set."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in the run folder."})
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "'balanced' weights each class by the inverse of its frequency."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate of AdamW."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training rows."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Training texts in a batch, per device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Evaluation texts in a batch, per device."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best one is kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best model of the run."})
    metric_for_best_model: str | None = field(
        default="accuracy", metadata={"help": "What is best in validation: accuracy, macro_f1 or loss."}
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    report_to: str | None = field(default="none", metadata={"help": "Experiment tracker to report to."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the training rows; group_by_length pads least."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "When to push with --push_to_hub."})

    def __post_init__(self) -> None:
        # What was set, before transformers works out the rest.
        self.changed = find_changed(self, leave_out=("hub_token", "resume"))
        # transformers would call it `trainer_output`; `finetune` calls it after the data.
        self.output_dir = self.output_dir or ""
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments into every checkpoint; the access token must not land on the disk.
        return self.__dict__ | {"hub_token": None}


class SeededSampler(LengthGroupedSampler):
    """
    Rows grouped by length, in an order that depends on the seed and the epoch alone.

    The base class draws from the global generator, which dropout advances differently in each process: after the first
    epoch the processes of `torchrun` would share out different orders, with some rows in both and some in none. And a
    run that goes on from the middle of an epoch would leave out other rows than it had seen.
    """

    def __init__(self, trainer: Trainer, batch_size: int, lengths: list[int]):
        super().__init__(batch_size, lengths=lengths)
        self.trainer = trainer

    def __iter__(self):
        arguments = self.trainer.args
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        # Not by `set_epoch`, which reaches no sampler in a run that several processes resume within an epoch.
        self.generator = torch.Generator().manual_seed(seed + int(self.trainer.state.epoch or 0))
        return super().__iter__()


class WaveTrainer(Trainer):
    """Trainer with our order of the training rows."""

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        return SeededSampler(self, sampler.batch_size, sampler.lengths)


def finetune(data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments) -> Path:
    """
    Trains a classifier and leaves a run folder: the best model by validation with its tokenizer and code, and
    `metrics.json`, which says how it was made and what it reached. Checkpoints stay beside them.

    Under `torchrun` all processes call it; the first one writes.

    Returns:
        The run folder.

    Raises:
        FileExistsError: There is a run in the folder already, and `resume` is not set or it has ended.
        ValueError, OSError: Bad data, settings or files; the message names them.
    """
    start = time.perf_counter()
    refuse_useless(model_arguments)
    folder = Path(arguments.output_dir or f"runs/{Path(data_arguments.dataset).resolve().name.split('.')[0]}")
    arguments.output_dir = str(folder)
    # Before anything is written, all processes look at the folder.
    with arguments.main_process_first(desc="look at the run folder"):
        checkpoint = find_checkpoint(folder) if arguments.resume else None
        refuse_existing(folder, arguments.resume)
    arguments.dataloader_pin_memory = arguments.device.type == "cuda"
    # Tiny activations and second moments become denormal numbers, which a CPU handles slowly.
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)

    data = load_text_data(
        data_arguments.dataset,
        dataset_config=data_arguments.dataset_config,
        text_columns=data_arguments.text_columns,
        label_column=data_arguments.label_column,
        validation_fraction=data_arguments.validation_fraction,
    )
    tokenizer = get_tokenizer(model_arguments, data, folder if checkpoint else None)
    set_seed(arguments.seed)
    model = get_model(model_arguments, tokenizer, data.label_names)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    with arguments.main_process_first(desc="tokenize"):
        encoded = {name: encode(split, tokenizer) for name, split in splits.items() if split is not None}

    report = ClassificationReport()

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted = np.argmax(prediction.predictions, axis=-1)
        result = report.compute(predictions=predicted, references=prediction.label_ids)
        return {"accuracy": result["accuracy"], "macro_f1": result["macro_f1"]}

    is_balanced = arguments.class_weights == "balanced"
    if is_balanced:
        class_weights = balance(data.train["label"], len(data.label_names))
    trainer = WaveTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        compute_loss_func=weighted_loss(class_weights, arguments.label_smoothing_factor) if is_balanced else None,
    )
    is_main = trainer.is_world_process_zero()
    if is_main:
        # From the first checkpoint on, a push of the run folder finds the code, the tokenizer and the settings in it.
        folder.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        print_summary(model, data, folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    results = {}
    for name in ("validation", "test"):
        if name in encoded:
            prediction = trainer.predict(encoded[name], metric_key_prefix=name)
            results[name] = summarise(report, prediction, data.label_names)
    if is_main:
        save_atomically(folder, trainer.accelerator.unwrap_model(trainer.model), tokenizer)
        metrics = {
            "schema": METRICS_SCHEMA,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "duration_seconds": round(time.perf_counter() - start, 1),
            "seed": arguments.seed,
            "device": describe_device(arguments),
            "versions": get_versions(),
            "command": describe_command(data_arguments, model_arguments, arguments),
            "base_model": model_arguments.model,
            "data": describe_data(data),
            "model": count_parameters(model),
            "settings": describe_settings(model_arguments, arguments, model.config),
            "best": describe_best(trainer, arguments.metric_for_best_model),
            "results": results,
        }
        write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    arguments.distributed_state.wait_for_everyone()
    return folder


def refuse_useless(arguments: ModelArguments) -> None:
    """The architecture of an existing model is what it is: a setting for a new one would be passed over in silence."""
    changed = [name for name in find_changed(arguments) if hasattr(WaveConfig, name)]
    if arguments.model is not None and changed:
        raise ValueError(
            f"`{changed[0]}` ({getattr(arguments, changed[0])!r}) is for a new model; --model {arguments.model} has "
            "its own. Leave out one of the two."
        )


def refuse_existing(folder: Path, resume: bool) -> None:
    """A run is never overwritten: a folder with anything in it needs `--resume`, and an ended run another folder."""
    if (folder / "metrics.json").exists():
        raise FileExistsError(f"The run in `output_dir` {str(folder)!r} has ended. Choose another folder.")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"`output_dir` {str(folder)!r} exists and is not empty. Choose another folder, or go on with --resume."
        )


def find_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a run; one that was cut short while it was written is passed over."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if is_complete(checkpoint):
            return checkpoint
        print(f"{checkpoint} is not complete and is passed over.", file=sys.stderr)
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether Trainer got to the end of a checkpoint: it writes its state last. Weights say how long they must be."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", framework="pt"):
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def get_tokenizer(arguments: ModelArguments, data: TextData, resumed: Path | None) -> PreTrainedTokenizerBase:
    source = resumed or arguments.tokenizer or arguments.model
    if source is not None:
        tokenizer = load_wave_tokenizer(source)
        tokenizer.model_max_length = min(tokenizer.model_max_length, arguments.max_length)
        return tokenizer
    columns = [name for name in ("text", "text_pair") if name in data.train.column_names]
    texts = [text for name in columns for text in data.train[name]]
    return train_wave_tokenizer(texts, arguments.vocab_size, model_max_length=arguments.max_length)


def get_model(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str]
) -> PreTrainedModel:
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": "single_label_classification",
    }
    if arguments.model is not None:
        model = AutoModelForSequenceClassification.from_pretrained(
            arguments.model, ignore_mismatched_sizes=True, use_safetensors=True, trust_remote_code=False, **labels
        )
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        return model
    own = {name: value for name, value in asdict(arguments).items() if hasattr(WaveConfig, name)}
    config = WaveConfig(
        **own | {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length},
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )
    return WaveForSequenceClassification(config)


def encode(split: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The rows as token ids, with their length for length grouping and without the text."""

    def encode_rows(rows: dict[str, list]) -> dict[str, list]:
        encoding = tokenizer(rows["text"], rows.get("text_pair"), truncation=True)
        return {
            **encoding,
            "length": [len(ids) for ids in encoding["input_ids"]],
            "labels": rows["label"],
        }

    return split.map(encode_rows, batched=True, remove_columns=split.column_names, desc="Tokenizing")


def balance(labels: Sequence[int], num_labels: int) -> torch.Tensor:
    """Class weights, inverse to the frequencies and 1 on average over the rows. A class without rows counts as one."""
    counts = np.bincount(labels, minlength=num_labels)
    return torch.tensor(len(labels) / (np.count_nonzero(counts) * counts.clip(min=1)), dtype=torch.float32)


def weighted_loss(class_weights: torch.Tensor, label_smoothing: float):
    """A loss for Trainer: cross-entropy weighted by class, a mean over all rows of the step, accumulated ones too."""

    def compute_loss(outputs, labels, num_items_in_batch=None):
        losses = torch.nn.functional.cross_entropy(
            outputs.logits.float(),
            labels,
            weight=class_weights.to(outputs.logits.device),
            reduction="none",
            label_smoothing=label_smoothing,  # Trainer leaves this to a loss that it is given
        )
        return losses.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return compute_loss


def summarise(report: ClassificationReport, prediction, label_names: list[str]) -> dict[str, Any]:
    predicted, labels = prediction.predictions.argmax(-1), prediction.label_ids
    return {
        "rows": len(labels),
        **report.compute(predictions=predicted, references=labels, label_names=label_names),
        "confusion": confusion_counts(predicted, labels, len(label_names)),
    }


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """All parameters; those of the table (every embedding); and the core, which is the rest."""
    total, core = model.num_parameters(), model.num_parameters(exclude_embeddings=True)
    return {"parameters": total, "core_parameters": core, "table_parameters": total - core}


def print_summary(model: PreTrainedModel, data: TextData, folder: Path) -> None:
    counts = count_parameters(model)
    test = f", {len(data.test):,} test" if data.test is not None else ""
    print(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation{test} rows, "
        f"{len(data.label_names)} classes\n"
        f"{type(model).__name__}: {counts['parameters']:,} parameters "
        f"(core {counts['core_parameters']:,}, table {counts['table_parameters']:,})\n"
        f"Run folder: {folder}"
    )
    counts_by_class = Counter(data.train["label"])
    (most, largest), (least, smallest) = counts_by_class.most_common()[0], counts_by_class.most_common()[-1]
    if largest >= SKEWED * smallest:
        print(
            f"The classes are skewed: {largest:,} training rows of {data.label_names[most]!r}, {smallest:,} of "
            f"{data.label_names[least]!r}. If the rare ones matter as much: --class_weights balanced"
        )


def describe_data(data: TextData) -> dict[str, Any]:
    rows = {"train": len(data.train), "validation": len(data.validation)}
    return {
        "name": data.name,
        "is_on_hub": data.is_on_hub,
        "fingerprint": data.fingerprint,
        "rows": rows | ({"test": len(data.test)} if data.test is not None else {}),
        "label_names": data.label_names,
        "text_columns": data.text_columns,
        "label_column": data.label_column,
        "validation_was_split": data.validation_was_split,
    }


def describe_settings(model_arguments: ModelArguments, arguments: RunArguments, config) -> dict[str, Any]:
    """The settings that decide the result, flat."""
    names = (
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "optim",
        "max_grad_norm",
        "label_smoothing_factor",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "class_weights",
        "bf16",
        "fp16",
    )
    settings = {name: getattr(arguments, name) for name in names} | {
        "processes": arguments.world_size,
        "max_length": model_arguments.max_length,
        "tokenizer": model_arguments.tokenizer or model_arguments.model or "trained on the training texts",
        "vocab_size": config.vocab_size,
    }
    settings |= {name: getattr(config, name) for name in asdict(model_arguments) if hasattr(config, name)}
    return {name: getattr(value, "value", value) for name, value in settings.items()}


def describe_best(trainer: Trainer, metric: str | None) -> dict[str, Any] | None:
    """Where in the run the saved weights stood; None if they are those of its end."""
    state = trainer.state
    if not trainer.args.load_best_model_at_end or state.best_metric is None:
        return None
    epochs = [entry["epoch"] for entry in state.log_history if entry["step"] == state.best_global_step]
    return {
        "epoch": epochs[0] if epochs else None,
        "step": state.best_global_step,
        "metric": metric,
        "value": state.best_metric,
    }


def describe_command(data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments) -> str:
    """The command that repeats the run, also one that was set up in a file or in Python; without the access token."""
    words = ["wave-network", "finetune"]
    for name, value in (find_changed(data_arguments) | find_changed(model_arguments) | arguments.changed).items():
        values = value if isinstance(value, list) else [getattr(value, "value", value)]
        words += [f"--{name}", *(json.dumps(each) if isinstance(each, dict) else str(each) for each in values)]
    return shlex.join(words)


def find_changed(settings: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that have a value, and not their default one."""
    changed = {}
    for each in fields(settings):
        value = getattr(settings, each.name) if each.init and each.name not in leave_out else None
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if value is not None and value != default:
            changed[each.name] = value
    return changed


def describe_device(arguments: TrainingArguments) -> str:
    if arguments.device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(arguments.device)})"
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return f"{arguments.device.type} ({processor}, {torch.get_num_threads()} threads)"


def get_versions() -> dict[str, str]:
    packages = ("wave-network", "transformers", "torch", "datasets", "evaluate", "tokenizers", "accelerate")
    return {name.replace("-", "_"): version(name) for name in packages} | {"python": platform.python_version()}


def save_atomically(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Saves beside the folder first and moves file by file, so that no file in it is ever half written."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="_saving-") as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in Path(temporary).iterdir():
            os.replace(path, folder / path.name)


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
