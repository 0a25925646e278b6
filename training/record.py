"""What a run leaves in words and numbers: `metrics.json`, from which the card and the picture are made."""

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from .data import TextData
from .metrics import ClassificationReport, confusion_counts
from .settings import DataArguments, ModelArguments, RunArguments, describe_command

METRICS_SCHEMA = 1


def write_record(
    folder: Path,
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    data: TextData,
    trainer: Trainer,
    results: dict[str, dict[str, Any]],
    calibration: dict[str, Any] | None,
    *,
    start: float,
    own_loss: Callable | None = None,
    own_model: Callable | None = None,
) -> None:
    """
    Writes `metrics.json`: how the model was made, and what it reached. `calibration` is what `calibrate` says of it,
    `start` is of `time.perf_counter`, less the seconds that a resumed run had taken before; `own_loss` and `own_model`
    are the loss and the model that were given in Python.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    settings = describe_settings(data_arguments, model_arguments, arguments, model.config)
    # That of a tokenizer or model may be less than what was asked for.
    settings["max_length"] = cast(PreTrainedTokenizerBase, trainer.processing_class).model_max_length
    if own_loss is not None:
        settings["loss"] = f"compute_loss_func={getattr(own_loss, '__qualname__', type(own_loss).__qualname__)}"
    if own_model is not None:
        settings["model"] = f"make_model={getattr(own_model, '__qualname__', own_model)}"
    record = {
        "schema": METRICS_SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "duration_seconds": round(time.perf_counter() - start, 1),
        "seed": arguments.seed,
        "device": describe_device(arguments),
        "versions": get_versions(),
        "command": describe_command(data_arguments, model_arguments, arguments),
        "base_model": name_base(model_arguments.model),
        "data": describe_data(data),
        "model": count_parameters(model),
        "settings": settings,
        "best": describe_best(trainer, arguments.metric_for_best_model),
        "end": describe_end(trainer),
        "results": results,
        "calibration": calibration,
    }
    write_atomically(folder / "metrics.json", as_json(record) + "\n")


def as_json(record: dict[str, Any]) -> str:
    """Indented, but for the counts: a line for each class, as of a thousand classes there are a million."""
    matrices = {}

    def set_aside(split: str, result: dict[str, Any]) -> dict[str, Any]:
        matrices[f"confusion of {split}"] = result["confusion"]
        return result | {"confusion": f"confusion of {split}"}

    results = {split: set_aside(split, result) for split, result in record["results"].items()}
    text = json.dumps(record | {"results": results}, indent=2, ensure_ascii=False)
    for name, matrix in matrices.items():
        rows = ",\n".join(f"{' ' * 8}{json.dumps(row)}" for row in matrix)
        text = text.replace(f'"confusion": "{name}"', f'"confusion": [\n{rows}\n{" " * 6}]')
    return text


def name_base(model: str | None) -> str | None:
    """The model that a run starts from. A folder is called so that it is none on the Hub, wherever it is read."""
    if model is None or model.startswith(".") or Path(model).is_absolute() or not Path(model).exists():
        return model
    return f".{os.sep}{model}"


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


def describe_settings(
    data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments, config
) -> dict[str, Any]:
    """The settings that decide the result, flat."""
    names = (
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "optim",
        "sparse_embeddings",
        "ema_decay",
        "max_grad_norm",
        "loss",
        "focal_gamma",
        "label_smoothing_factor",
        "mixup_alpha",
        "subword_buckets",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "class_weights",
        "calibrate",
        "early_stopping_patience",
        "early_stopping_threshold",
        "packing",
        "gradient_checkpointing",
        "torch_compile",
        "bf16",
        "fp16",
    )
    settings = {name: getattr(arguments, name) for name in names} | {
        "weight_column": data_arguments.weight_column,
        "processes": arguments.world_size,
        "tokenizer": model_arguments.tokenizer or model_arguments.model or "trained on the training texts",
        "vocab_size": config.vocab_size,
    }
    settings |= {name: getattr(config, name) for name in asdict(model_arguments) if hasattr(config, name)}
    return {name: getattr(value, "value", value) for name, value in settings.items()}


def describe_best(trainer: Trainer, metric: str | None) -> dict[str, Any] | None:
    """Where in the run the saved weights stood; None if they are those of its end."""
    state = trainer.state
    if not trainer.args.load_best_model_at_end or not state.best_global_step:
        return None
    epochs = [entry["epoch"] for entry in state.log_history if entry["step"] == state.best_global_step]
    return {
        "epoch": epochs[0] if epochs else None,
        "step": state.best_global_step,
        "metric": metric,
        "value": state.best_metric,
    }


def describe_end(trainer: Trainer) -> dict[str, Any]:
    """Where the training ended, and by which setting."""
    state, arguments = trainer.state, cast(RunArguments, trainer.args)
    if state.global_step >= state.max_steps:
        reason = "max_steps" if arguments.max_steps > 0 else "num_train_epochs"
    else:
        reason = "early_stopping_patience" if arguments.early_stopping_patience else "a callback"
    return {"step": state.global_step, "epoch": state.epoch, "reason": reason}


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
    versions = {name.replace("-", "_"): version(name) for name in packages}
    # torch itself also says for which device it was built.
    return versions | {"torch": str(torch.__version__), "python": platform.python_version()}


def read_commit() -> str | None:
    """The commit of this code, with "-dirty" if a file of it was changed since; None where it is no git checkout."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=False).stdout.strip()

    try:
        if not (package / ".git").exists():
            return None
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "*.py") else "")
    except OSError:
        return None


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
