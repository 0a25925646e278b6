"""What `wave-network sweep` chooses from: the settings, and for each a list of values or a range."""

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import yaml

from .settings import EPOCHS, ModelArguments, RunArguments

if TYPE_CHECKING:
    import optuna

# Of each setting a list of values, or a range: `low`, `high`, maybe `log` or `step`. Whole ends make a whole range.
Space: TypeAlias = dict[str, list[Any] | dict[str, Any]]

OF_THE_MODEL: dict[str, type] = {
    "hidden_size": int,
    "num_hidden_layers": int,
    "intermediate_size": int,
    "conv_kernel_size": int,
    "ngram_vocab_size": int,
    "ngram_size": int,
    "ngram_hidden_size": int,
    "token_dropout_prob": float,
    "hidden_dropout_prob": float,
    "wave_operation": str,
    "magnitude": str,
    "restore": str,
    "classifier_pooling": str,
    "position_embedding_type": str,
}
OF_THE_RUN: dict[str, type] = {
    "learning_rate": float,
    "lr_scheduler_type": str,
    "warmup_steps": float,
    "weight_decay": float,
    "adam_beta1": float,
    "adam_beta2": float,
    "max_grad_norm": float,
    "num_train_epochs": float,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "class_weights": str,
    "focal_gamma": float,
    "label_smoothing_factor": float,
    "mixup_alpha": float,
    "subword_buckets": int,
    "ema_decay": float,
}
SEARCHABLE = OF_THE_MODEL | OF_THE_RUN
MAY_BE_NONE = ("intermediate_size", "ngram_vocab_size", "ngram_hidden_size")
MAY_BE_OFF = ("conv_kernel_size", "subword_buckets")  # 0 is none; without a value they are on

FEW = 50  # of a range of whole numbers so many values are tried out, and the last one

EPOCHS_AROUND = {"low": 3, "high": 15}
DEFAULT_SPACE: Space = {
    "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
    "hidden_dropout_prob": {"low": 0.0, "high": 0.6},
    "num_train_epochs": EPOCHS_AROUND,
    "per_device_train_batch_size": [16, 32, 64],
    "weight_decay": {"low": 0.0, "high": 0.1},
}


def choose_space(
    file: str | None, given: Collection[str], model_arguments: ModelArguments, arguments: RunArguments
) -> Space:
    """
    The space of a sweep: that of a YAML file, or the default one without what is settled already.

    Args:
        file: Lines of `name: [value, value]` or `name: {low: ..., high: ..., log: true}`. None: the default space.
        given: The settings that the user has given a value.
        model_arguments: Those of the sweep.
        arguments: Those of the sweep.

    Raises:
        ValueError: The file is not as described, or asks for what the settings rule out; the message names it.
    """
    settled = {name: "has a value of its own" for name in given if name in SEARCHABLE}
    if model_arguments.model is not None:
        settled |= dict.fromkeys(OF_THE_MODEL, f"is for a new model, and --model {model_arguments.model} has its own")
    if arguments.max_steps > 0:
        settled["num_train_epochs"] = f"has no effect beside `max_steps` ({arguments.max_steps})"
    if file is None:
        return {name: choice for name, choice in DEFAULT_SPACE.items() if name not in settled}
    space = read_space(file)
    for name in space:
        if name in settled:
            raise ValueError(f"--space {file}: `{name}` {settled[name]}. Leave out one of the two.")
    return space


def fit_epochs(space: Space, arguments: RunArguments, rows: int, is_new: bool) -> Space:
    """The default space, with epochs as far around those that `finetune` takes for so many rows as around EPOCHS."""
    if "num_train_epochs" not in space:
        return space
    usual = replace(arguments).settle_epochs(rows, is_new)
    ends = {end: round(epochs * usual / EPOCHS) for end, epochs in EPOCHS_AROUND.items()}
    return space | {"num_train_epochs": ends}


def read_space(file: str) -> Space:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--space {file}: is not YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"--space {file}: must hold lines of `name: choices`, got {content!r}.")
    space = {}
    for name, choice in content.items():
        if name not in SEARCHABLE:
            close = difflib.get_close_matches(str(name), SEARCHABLE, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(SEARCHABLE)}."
            raise ValueError(f"--space {file}: {name!r} is no setting that a sweep can choose; {hint}")
        try:
            space[name] = read_choice(name, choice)
        except ValueError as error:
            raise ValueError(f"--space {file}: `{name}` {error}") from error
    return space


def read_choice(name: str, choice: Any) -> list[Any] | dict[str, Any]:
    """A list of values or a range, checked; a ValueError that goes on from the name if it is none."""
    if isinstance(choice, list):
        values = [read_value(name, value) for value in choice]
        if len(values) < 2 or any(value in values[:place] for place, value in enumerate(values)):
            raise ValueError(f"must have two or more different values to choose from, got {choice!r}.")
        return values
    if not isinstance(choice, dict) or not {"low", "high"} <= choice.keys() <= {"low", "high", "log", "step"}:
        raise ValueError(f"must be a list of values, or low and high and maybe log or step, got {choice!r}.")
    if SEARCHABLE[name] is str:
        raise ValueError(f"must be a list of values: it has no range; got {choice!r}.")
    low, high = read_value(name, choice["low"]), read_value(name, choice["high"])
    log, step = choice.get("log", False), choice.get("step")
    if low is None or high is None or not low < high:
        raise ValueError(f"must have a low that is less than high, got {choice!r}.")
    if not isinstance(log, bool) or (log and (low == 0 or step is not None)):
        raise ValueError(f"must have log true or false, and with true a low above 0 and no step, got {choice!r}.")
    if step is not None and not 0 < read_value(name, step) <= high - low:
        raise ValueError(f"must have a step above 0 that fits between low and high, got {choice!r}.")
    ends: dict[str, Any] = {"low": low, "high": high}
    if log:
        ends["log"] = True
    if step is not None:
        ends["step"] = read_value(name, step)
        if is_whole(ends) and not isinstance(ends["step"], int):
            raise ValueError(f"must have a whole step between whole ends, got {choice!r}.")
    return ends


def read_value(name: str, value: Any) -> Any:
    """One value of a setting, by its kind. Epochs that are whole in the file stay so."""
    kind = SEARCHABLE[name]
    if value is None and name in MAY_BE_NONE:
        return None
    if value in (None, 0) and name in MAY_BE_OFF:
        return 0
    if kind is str:
        arguments = ModelArguments if name in OF_THE_MODEL else RunArguments
        allowed = get_args(arguments.__dataclass_fields__[name].type)
        if not isinstance(value, str) or (allowed and value not in allowed):
            raise ValueError(f"must be {f'one of {list(allowed)}' if allowed else 'a name'}, got {value!r}.")
        return value
    try:
        # YAML takes 1e-3 for a string.
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    least = 1 if kind is int else 0
    if not least <= number < math.inf or (kind is int and not number.is_integer()):
        raise ValueError(f"must be {'a whole' if kind is int else 'a'} number of at least {least}, got {value!r}.")
    return int(number) if kind is int or (name == "num_train_epochs" and number.is_integer()) else number


def suggest(trial: "optuna.Trial", space: Mapping[str, list[Any] | dict[str, Any]]) -> dict[str, Any]:
    """The settings of a trial."""
    values: dict[str, Any] = {}
    for name, choice in space.items():
        if isinstance(choice, list):
            values[name] = trial.suggest_categorical(name, choice)
            continue
        low, high, log, step = choice["low"], choice["high"], choice.get("log", False), choice.get("step")
        if is_whole(choice):
            values[name] = trial.suggest_int(name, low, high, log=log, step=step or 1)
        else:
            values[name] = trial.suggest_float(name, low, high, log=log, step=step)
    return values


def is_whole(ends: dict[str, Any]) -> bool:
    """Whether a range is one of whole numbers."""
    return isinstance(ends["low"], int) and isinstance(ends["high"], int)


def list_tried(choice: list[Any] | dict[str, Any]) -> list[Any]:
    """All values of a list, the first ones of a range of whole numbers and its last one, or the two ends of a range."""
    if isinstance(choice, list):
        return choice
    if not is_whole(choice):
        return [choice["low"], choice["high"]]
    values = range(choice["low"], choice["high"] + 1, choice.get("step", 1))
    return [*values[:FEW], *values[FEW:][-1:]]
