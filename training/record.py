"""What a run leaves in words and numbers: `metrics.json`, from which the card and the pictures are made."""

import os
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from ..data.load import TextData
from ..files import read_processor, read_versions
from .settings import ENGLISH, NONE, DataArguments, ModelArguments, RunArguments, describe_command

DECISIVE = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "ema_decay", "max_grad_norm"),
    *("label_smoothing_factor", "mixup_alpha", "subword_buckets", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "class_weights", "calibrate"),
    *("metric_for_best_model", "early_stopping_patience", "early_stopping_threshold", "packing"),
    *("gradient_checkpointing", "torch_compile", "bf16", "fp16"),
)


def make_record(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    trainer: Trainer,
    seconds: float,
) -> dict[str, Any]:
    """The content of `metrics.json`: how the model was made, and what it reached."""
    return {
        "schema": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "duration_seconds": round(seconds, 1),
        "seed": arguments.seed,
        "device": describe_device(arguments.device),
        "versions": read_versions() | {"torch": str(torch.__version__)},  # which says for which device it was built
        "command": describe_command(data_arguments, model_arguments, arguments),
        "base_model": name_base(model_arguments.model),
        "model": count_parameters(trainer.accelerator.unwrap_model(trainer.model)),
        "best": describe_best(trainer),
        "end": describe_end(trainer),
    }


def name_base(model: str) -> str | None:
    """The model that a run starts from. A folder is called so that it is none on the Hub, wherever it is read."""
    if model in (NONE, ENGLISH):
        return None if model == NONE else model
    is_relative = Path(model).exists() and not (model.startswith(".") or Path(model).is_absolute())
    return f".{os.sep}{model}" if is_relative else model


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """All parameters; those of the table (every embedding); and the core, which is the rest."""
    total, core = model.num_parameters(), model.num_parameters(exclude_embeddings=True)
    return {"parameters": total, "core_parameters": core, "table_parameters": total - core}


def describe_data(data: TextData, is_crossed: bool) -> dict[str, Any]:
    names = ("name", "is_on_hub", "fingerprint", "label_names", "text_columns", "label_column", "validation_was_split")
    return {
        **{name: getattr(data, name) for name in names},
        "rows": {name: len(rows) for name, rows in data.splits.items()},
        "cross_validated": is_crossed,  # the validation rows are training rows, held out in turn
    }


def describe_settings(
    model_arguments: ModelArguments, arguments: RunArguments, config: Any, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """The settings that decide the result, flat."""
    own = "trained on the training texts" if model_arguments.model == NONE else model_arguments.model
    settings = {name: getattr(arguments, name) for name in DECISIVE} | {"processes": arguments.world_size}
    settings |= {"tokenizer": model_arguments.tokenizer or own, "vocab_size": config.vocab_size}
    settings |= {name: getattr(config, name) for name in asdict(model_arguments) if hasattr(config, name)}
    settings["max_length"] = tokenizer.model_max_length
    return {name: getattr(value, "value", value) for name, value in settings.items()}


def describe_best(trainer: Trainer) -> dict[str, Any] | None:
    """Where in the run the saved weights stood; None if they are those of its end."""
    state, step = trainer.state, trainer.state.best_global_step
    if not trainer.args.load_best_model_at_end or not step:
        return None
    epoch = next((entry["epoch"] for entry in state.log_history if entry["step"] == step), None)
    return {"epoch": epoch, "step": step, "metric": trainer.args.metric_for_best_model, "value": state.best_metric}


def describe_end(trainer: Trainer) -> dict[str, Any]:
    """Where the training ended, and by which setting."""
    state, arguments = trainer.state, cast(RunArguments, trainer.args)
    if state.global_step >= state.max_steps:
        reason = "max_steps" if arguments.max_steps > 0 else "num_train_epochs"
    else:
        reason = "early_stopping_patience" if arguments.early_stopping_patience else "a callback"
    return {"step": state.global_step, "epoch": state.epoch, "reason": reason}


def describe_device(device: torch.device) -> str:
    is_gpu = device.type == "cuda"
    what = torch.cuda.get_device_name(device) if is_gpu else f"{read_processor()}, {torch.get_num_threads()} threads"
    return f"{device.type} ({what})"
