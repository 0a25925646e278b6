"""`--resume`: what a run was begun with, and from which checkpoint it goes on."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .data import TextData
from .record import write_atomically
from .settings import DataArguments, ModelArguments, RunArguments, describe_command
from .sharding import is_sharded

try:
    import fcntl
except ImportError:  # on Windows, where runs are not kept apart
    fcntl = None  # type: ignore[assignment]

# What a run is begun with: in its folder, until the record at its end says the same and more, and in each checkpoint.
BEGUN = "run.json"

# What decides what a run learns and keeps, beside its rows and its model, so that it stays as it was begun. The texts
# of a step do too, but are left to those who go on with other processes.
DECISIVE = (
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "optim_target_modules",
    "neftune_noise_alpha",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "loss",
    "focal_gamma",
    "label_smoothing_factor",
    "mixup_alpha",
    "class_weights",
    "ema_decay",
    "subword_buckets",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "save_only_model",
)
OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")


def describe_beginning(
    data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments, data: TextData
) -> dict[str, Any]:
    """What a run is begun with: the command, and what must be the same when it goes on."""
    settings = asdict(model_arguments) | {name: getattr(arguments, name) for name in (*DECISIVE, *OF_A_STEP)}
    beginning = {
        "command": describe_command(data_arguments, model_arguments, arguments),
        "fingerprint": data.fingerprint,
        "processes": arguments.world_size,
        "settings": {name: getattr(value, "value", value) for name, value in settings.items()},
    }
    return json.loads(json.dumps(beginning))


def read_beginning(folder: Path, checkpoint: Path | None) -> dict[str, Any] | None:
    """
    What the run in a folder was begun with; None if nothing was begun there.

    Raises:
        FileExistsError: There is something else in the folder, which a run that goes on there would overwrite.
    """
    for place in (folder, checkpoint):
        if place is not None and (place / BEGUN).exists():
            return json.loads((place / BEGUN).read_text(encoding="utf-8"))
    if not is_empty(folder):
        raise FileExistsError(
            f"`output_dir` {str(folder)!r} is no run to go on with: there is no {BEGUN} in it. Choose another folder."
        )
    return None


def write_beginning(folder: Path, beginning: Mapping[str, Any], seconds: float = 0.0) -> None:
    """`seconds` are those that the run took so far."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**beginning, "seconds": round(seconds, 1)}
    write_atomically(folder / BEGUN, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_seconds(checkpoint: Path) -> float:
    """How long a run had taken when a checkpoint was written; 0 if that is not told."""
    path = checkpoint / BEGUN
    return json.loads(path.read_text(encoding="utf-8")).get("seconds", 0.0) if path.exists() else 0.0


@contextlib.contextmanager
def alone_in(folder: Path, is_new: bool = False) -> Iterator[None]:
    """
    Nobody else writes in the folder meanwhile. The system frees it when the process ends, however that comes.

    Raises:
        FileExistsError: Another process is writing in it, or has begun in it what is new here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, folder)
        if is_new and (folder / BEGUN).exists():
            raise FileExistsError(f"Another process has begun in `output_dir` {str(folder)!r}. Choose another folder.")
        yield
    finally:
        os.close(handle)


def lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(
            f"Another process is writing in `output_dir` {str(folder)!r}. Wait for its end, or choose another folder."
        ) from error
    except OSError:  # a file system without locks
        pass


def refuse_existing(folder: Path, resume: bool) -> None:
    """A run is never overwritten: a folder with anything in it needs `--resume`, and an ended run another folder."""
    if (folder / "metrics.json").exists():
        raise FileExistsError(f"The run in `output_dir` {str(folder)!r} has ended. Choose another folder.")
    if not resume and not is_empty(folder):
        raise FileExistsError(
            f"`output_dir` {str(folder)!r} exists and is not empty. Choose another folder, or go on with --resume."
        )


def is_empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def refuse_other_beginning(folder: Path, dataset: str, beginning: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """A ValueError if a run that is resumed was begun with other rows or settings: its record would be of neither."""
    if beginning["fingerprint"] != before["fingerprint"]:
        raise ValueError(
            f"`dataset` ({dataset!r}) must have the rows and labels with which the run in {folder} was begun, and be "
            f"read and cut alike; it has others. The run was begun by: {before['command']}"
        )
    same = beginning["settings"].keys() - (OF_A_STEP if beginning["processes"] != before["processes"] else ())
    for name, value in beginning["settings"].items():
        if name in same and value != before["settings"].get(name, value):
            raise ValueError(
                f"`{name}` ({value!r}) must be what it was in the run that is resumed: that in {folder} was begun with "
                f"{before['settings'][name]!r}."
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
        if is_sharded(checkpoint):
            return True
        with safe_open(checkpoint / "model.safetensors", framework="pt"):
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def refuse_bare(checkpoint: Path, arguments: RunArguments) -> None:
    """A ValueError if a run cannot go on as it would have: without the state of its optimizer it starts anew."""
    if arguments.save_only_model:
        raise ValueError(
            f"`save_only_model` (True) leaves nothing to go on from: {checkpoint} has no state of the optimizer. "
            "Choose another folder, and leave it out."
        )


def settle_best(checkpoint: Path, is_wanted: bool) -> None:
    """
    A checkpoint names the best one so far by its path. Where the folder was moved or copied since, writes the new one.

    Raises:
        FileNotFoundError: It is wanted and not there. The last weights would be kept and called the best.
    """
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"] is None:
        return
    best = checkpoint.parent / Path(state["best_model_checkpoint"]).name
    if is_wanted and not best.is_dir():
        raise FileNotFoundError(f"The best checkpoint of the run that is resumed must be in {best}; it is not there.")
    if best.resolve() != Path(state["best_model_checkpoint"]).resolve():
        write_atomically(path, json.dumps(state | {"best_model_checkpoint": str(best)}, indent=2) + "\n")
