"""The settings of `wave-network finetune`: what to learn from, what to train, and how."""

# mypy: disable-error-code="assignment"
# Settings of transformers are None here until the rows are known.

import copy
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub.utils import validate_repo_id
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations

from ..configuration import WaveConfig
from ..data.arguments import FileArguments, list_settings, refuse_unknown
from ..data.measure import METRICS
from ..files import check_source, setting

# By what the best model of a run is chosen. Of numbers by their errors: ranks alone say little on few rows.
BEST = {"single": "accuracy", "multi": "micro_f1", "number": "mse"}
SMALLER_IS_BETTER = ("loss", "mse", "mae")
# What `--model` may be besides a folder or a name.
AUTO, ENGLISH, NONE = "auto", "english", "none"
# A new model that would take fewer steps in EPOCHS has learned too little from few rows: it takes as many as these.
RATE, BATCH, EPOCHS = 1e-3, 32, 10.0
FEW_STEPS, MANY_EPOCHS = 480, 30
SKEWED = 5  # from this ratio of the largest to the smallest class on, the classes weigh the same
MAX_LENGTH = 512
# Up to so many rows no validation rows are split off: all are trained on, and cross-validated before.
FEW = 5000
# Not if one of these settings is given.
OF_VALIDATION = (
    *("validation_fraction", "validation_cut", "eval_strategy", "eval_steps", "save_strategy", "save_steps"),
    *("save_total_limit", "load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"),
)
DROPOUT = 0.3  # of a model that starts from an encoder
# Of a fine-tuning of an encoder on at most so many training rows.
OF_FINETUNING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")
FINETUNING = (
    (32, RATE, 20.0, 8),
    (200, RATE, 10.0, 8),
    (1000, RATE, 20.0, 16),
    (FEW, 2 * RATE, 10.0, 32),
    (math.inf, RATE, 5.0, 32),
)
FROM_PROBE = 200  # up to so many rows it goes on from a probe; a new head learns more from more rows
# The settings of transformers' TrainingArguments that `finetune` has, beside those with a default of our own.
KEPT = {
    *("max_steps", "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "label_smoothing_factor", "seed"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "bf16", "fp16", "use_cpu", "gradient_checkpointing", "torch_compile", "dataloader_num_workers"),
    *("eval_steps", "save_steps", "logging_steps", "run_name", "disable_tqdm", "push_to_hub", "hub_model_id"),
    *("hub_token", "hub_private_repo"),
}
# Settings that have no effect if another one has one of these values, or where these are None, any value.
IDLE: dict[str, tuple[str, Sequence[Any] | None]] = {
    **dict.fromkeys(("vocab_size", "lowercase"), ("tokenizer", None)),
    **dict.fromkeys(("ngram_size", "ngram_hidden_size"), ("ngram_vocab_size", [None])),
    "unlabelled": ("teacher", [None]),
    "eval_steps": ("eval_strategy", ["no", "epoch"]),
    "save_steps": ("save_strategy", ["no", "epoch", "best"]),
    "logging_steps": ("logging_strategy", ["no", "epoch"]),
    **dict.fromkeys(("metric_for_best_model", "early_stopping_patience"), ("eval_strategy", ["no"])),
    "early_stopping_threshold": ("early_stopping_patience", [None, 0]),
    "save_total_limit": ("save_strategy", ["no"]),
    "warmup_steps": ("lr_scheduler_type", ["constant", "reduce_lr_on_plateau", "greedy"]),
    "lr_scheduler_kwargs": ("lr_scheduler_type", ["constant", "constant_with_warmup"]),
    **dict.fromkeys(("hub_private_repo", "hub_strategy"), ("push_to_hub", [False])),
    "run_name": ("report_to", ["none"]),
    "num_train_epochs": ("max_steps", range(1, sys.maxsize)),
}
# What numbers must be at least, and less than.
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, math.inf)),
    **dict.fromkeys(("gradient_accumulation_steps", "max_steps", "save_total_limit"), (1, math.inf)),
    **dict.fromkeys(("eval_steps", "save_steps", "logging_steps"), (1, math.inf)),
    **dict.fromkeys(("ema_decay", "label_smoothing_factor", "adam_beta1", "adam_beta2"), (0, 1)),
    "num_train_epochs": (0.001, math.inf),
    "max_length": (3, math.inf),  # a token between two marks
    # The largest model that is tried: beyond it memory ends, and with it other programs.
    "hidden_size": (1, 2**14 + 1),
    "intermediate_size": (1, 2**16 + 1),
    "num_hidden_layers": (1, 1001),
    "seed": (0, 2**32),
    "subword_buckets": (0, 2**24),
}


@dataclass
class DataArguments(FileArguments):
    """What to learn from."""

    _argument_group_name = "data"

    dataset: str | None = setting(
        "File (CSV, Excel, JSON, JSON lines, Parquet ...; compressed too), its address on the web, folder with "
        "train/validation/test files, or with a folder of texts for each class, name on the Hub, or bbc_news.",
        None,
    )
    train_file: str | None = setting("File to train on, in place of --dataset.", None)
    validation_file: str | None = setting("File to validate on.", None)
    test_file: str | None = setting("File to test on.", None)
    dataset_config: str | None = setting("Configuration of a data set on the Hub.", None)
    label_column: list[str] | None = setting(
        "Column with the label, or one of 0 and 1 for each label. Default: found.", None
    )
    task: Literal["single", "multi", "number"] | None = setting("What a label is. Default: by its column.", None)
    label_separator: str | None = setting("What stands between the labels of a cell, such as ';'.", None)
    validation_fraction: float = setting("Share of the training rows to validate on, without a validation split.", 0.1)
    validation_cut: Literal["random", "whole_texts"] = setting("'whole_texts' if rows are parts of others.", "random")
    train_split: str | None = setting("Split to train on, where it is not called so.", None)
    validation_split: str | None = setting("Split to validate on, such as 'validation_matched' of MNLI.", None)
    test_split: str | None = setting("Split to test on, such as 'validation' of SST-2.", None)


@dataclass
class ModelArguments:
    """What to train: a new Wave Network, or with --model an existing one."""

    _argument_group_name = "model"

    model: str = setting(
        "Start: a folder or name; english, our encoder; none, a new model; auto is english for English, else none.",
        AUTO,
    )
    tokenizer: str | None = setting("Folder, name on the Hub, or vocabulary file. Default: trained on the texts.", None)
    teacher: str | None = setting(
        "Classifier (folder, name) whose logits are learned; or a sentence encoder, which is fine-tuned first.", None
    )
    unlabelled: list[str] | None = setting("Files of texts that the teacher is asked about besides.", None)
    vocab_size: int = setting("Vocabulary of a tokenizer that is trained here.", 8192)
    lowercase: bool = setting("Such a tokenizer lower-cases (BERT's do_lower_case). false: it keeps case.", True)
    max_length: int | None = setting(f"Longest text in tokens. Default: {MAX_LENGTH}, or that of --model.", None)
    hidden_size: int = setting("Width of a new model.", 128)
    num_hidden_layers: int = setting("Wave layers of a new model.", 1)
    intermediate_size: int | None = setting("Width of a feed-forward block after each wave layer.", None)
    conv_kernel_size: int = setting("Width (3, 5 ...) of a convolution, which sees the order of tokens; 0 is none.", 3)
    ngram_vocab_size: int | None = setting("Rows of a table of hashed n-grams of tokens, such as 16384.", None)
    ngram_size: int = setting("Longest n-grams in that table: pairs, or 3 for triples as well.", WaveConfig.ngram_size)
    ngram_hidden_size: int | None = setting("Width of that table, such as 12, with a map to --hidden_size.", None)
    wave_operation: Literal["modulation", "interference"] = setting("How waves are superposed.", "modulation")
    magnitude: Literal["l2", "rms"] = setting("Norm of the context.", "l2")
    restore: Literal["linear", "magnitude"] = setting("How waves become real: a linear map, or |Z|.", "linear")
    classifier_pooling: Literal["mean", "cls", "max", "opening", "segments"] | None = setting(
        "How the tokens are read. Default: mean; or, from an encoder, opening; of pairs segments.", None
    )
    position_embedding_type: Literal["sinusoidal", "absolute", "none"] = setting(
        "Kind of positions of a new model.", WaveConfig.position_embedding_type
    )
    hidden_dropout_prob: float | None = setting(
        f"Dropout. Default: {WaveConfig.hidden_dropout_prob} of a new model, {DROPOUT} from an encoder.", None
    )
    token_dropout_prob: float = setting(
        "Share of the tokens that lose their embedding in a step.", WaveConfig.token_dropout_prob
    )

    def __post_init__(self) -> None:
        for name in ("model", "tokenizer", "teacher"):
            check_source(name, getattr(self, name))
        for name in self.of_a_new_model if self.model not in (AUTO, NONE) else ():
            raise ValueError(
                f"`{name}` ({getattr(self, name)!r}) is for a new model; --model {self.model} has its own."
            )
        check_settings(self, find_changed(self))

    @property
    def of_a_new_model(self) -> list[str]:
        """The settings that were given and are for a new model alone."""
        names = {name for name in find_changed(self) if hasattr(WaveConfig, name) or name == "lowercase"}
        return sorted(names - {"hidden_dropout_prob"})


if TYPE_CHECKING:
    KeptArguments = TrainingArguments
else:
    # The others have their defaults, and are no settings: neither of the command line, nor of RunArguments.
    KeptArguments = make_dataclass(
        "KeptArguments",
        [
            (each.name, Any, field(default=each.default, default_factory=each.default_factory, init=False))
            for each in fields(TrainingArguments)
            if each.name not in KEPT
        ],
        bases=(TrainingArguments,),
    )


@dataclass
class RunArguments(KeptArguments):
    """How to train: some of transformers' TrainingArguments, with defaults for a small model, and some of our own."""

    _argument_group_name = "training"

    output_dir: str | None = setting("Run folder. Default: runs/ and the name of the data set.", None)
    resume_from_checkpoint: str | None = setting("'last': go on with the run in --output_dir.", None)
    learning_rate: float | None = setting(
        f"Highest learning rate. Default: {RATE:g}; from an encoder, by the rows.", None
    )
    num_train_epochs: float | None = setting(
        f"Passes over the training rows. Default: {EPOCHS:g}, or by the rows: on few rows, from an encoder.", None
    )
    per_device_train_batch_size: int | None = setting(
        f"Training texts in a batch, per device. Default: {BATCH}; from an encoder, by the rows.", None
    )
    per_device_eval_batch_size: int = setting("Evaluation texts in a batch, per device.", 64)
    class_weights: str | None = setting(
        f"Default: balanced if one class has {SKEWED} times the rows of another.", None, ["none", "balanced"]
    )
    calibrate: bool = setting("Fit a temperature, so that probabilities mean what they say.", False)
    no_baseline: bool = setting("Do not measure a majority guess and TF-IDF on the same rows.", False)
    save_dtype: str = setting("Of the saved weights. It computes in float32.", "float32", ["float32", "float16"])
    mixup_alpha: float = setting(
        "Mix the vectors of two texts, and their losses, by a share from Beta(alpha, alpha); 0 is no mixing.", 0.0
    )
    subword_buckets: int | None = setting(
        "Rows of embeddings of character n-grams, which tokens share in training. Default: 16384 for a new model.", None
    )
    packing: bool = setting("Lay the texts of a batch end to end: the same results, without padding.", False)
    ema_decay: float = setting("Share that the moving average of the weights keeps in a step, such as 0.999.", 0.0)
    early_stopping_patience: int | None = setting("Stop after so many validations without a new best; 0: never.", None)
    early_stopping_threshold: float = setting("How much better than the best counts as new.", 0.0)
    eval_strategy: str = setting("When to validate.", "epoch", ["no", "steps", "epoch"])
    save_strategy: str | None = setting("Default: eval_strategy.", None, ["no", "steps", "epoch", "best"])
    logging_strategy: str = setting("When to log.", "epoch", ["no", "steps", "epoch"])
    save_total_limit: int | None = setting("Checkpoints to keep; the best one is kept.", 2)
    load_best_model_at_end: bool | None = setting("Keep the best model. Default: if it is validated.", None)
    metric_for_best_model: str | None = setting(
        "loss; accuracy, macro_f1; of several labels micro_f1, macro_f1, subset_accuracy; of numbers mse ...", None
    )
    train_sampling_strategy: str = setting(
        "The last one pads least.", "group_by_length", ["random", "sequential", "group_by_length"]
    )
    report_to: str | None = setting("Experiment tracker, such as tensorboard.", "none")
    hub_strategy: str = setting(
        "When to push with --push_to_hub.", "end", ["end", "every_save", "checkpoint", "all_checkpoints"]
    )

    def __new__(cls, *values: Any, **settings: Any) -> "RunArguments":
        kinds = (DataArguments, ModelArguments, cls)
        if unknown := settings.keys() - set(list_settings(*kinds)):
            raise refuse_unknown(min(unknown), *kinds)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.metric_for_best_model is not None:
            self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval_")
        self.changed = find_changed(self, leave_out=("hub_token", "resume_from_checkpoint"))
        self.set_defaults({"metric_for_best_model": BEST["single"]})  # until the task is known
        self.resolve_saving()
        check_settings(self, self.changed)
        self.check_values()
        # transformers would call it `trainer_output`; `finetune` calls it after the data.
        self.output_dir = self.output_dir or ""
        super().__post_init__()
        self.disable_tqdm = bool(self.disable_tqdm) or not sys.stderr.isatty()
        self.dataloader_pin_memory &= self.device.type == "cuda"  # torch warns elsewhere
        self.check_together()

    def check_values(self) -> None:
        for each in fields(self):
            allowed = each.metadata.get("choices")
            if each.init and allowed and getattr(self, each.name) not in (None, *allowed):
                raise ValueError(f"`{each.name}` must be one of {allowed}, got {getattr(self, each.name)!r}.")
        if isinstance(given := self.lr_scheduler_kwargs, str):
            try:
                self.lr_scheduler_kwargs = {**json.loads(given)}
            except (TypeError, ValueError) as error:
                must = '`lr_scheduler_kwargs` must be a JSON object such as {"power": 2}'
                raise ValueError(f"{must}, got {given!r}.") from error
        if self.hub_model_id is not None:
            validate_repo_id(self.hub_model_id)

    def resolve_saving(self) -> None:
        """Checkpoints are written where it is validated, so that the best one is kept."""
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self.eval_strategy != "no" and self.save_strategy != "no"
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy if self.eval_strategy != "no" else "epoch"
            if self.save_strategy == "steps" and self.eval_steps and "save_steps" not in self.changed:
                self.save_steps = self.eval_steps
        if self.load_best_model_at_end and self.save_strategy not in ("best", self.eval_strategy):
            raise ValueError("`save_strategy` must be best, or that of `eval_strategy`, with `load_best_model_at_end`.")

    def check_together(self) -> None:
        """A ValueError for settings that may be right alone but not with the others, or here."""
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("`fp16` is for a GPU, and there is none.")
        if self.mixup_alpha and (self.torch_compile or self.n_gpu > 1):
            raise ValueError("`mixup_alpha` goes neither with `torch_compile` nor with several GPUs in one process.")
        if self.packing and self.n_gpu > 1:
            raise ValueError(f"`packing` is for one GPU in each process: use torchrun --nproc_per_node {self.n_gpu}.")
        installed = get_available_reporting_integrations()
        if wrong := set(self.report_to or []) - set(installed):
            raise ValueError(
                f"`report_to` must be none or one of {installed}, which are installed, got {min(wrong)!r}."
            )
        self.check_optimizer()

    def check_optimizer(self) -> None:
        trial = set_quietly(self, {"learning_rate": self.learning_rate or RATE})
        try:
            optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(trial)
            optimizer = optimizer_class([torch.zeros(1, requires_grad=True)], **settings)
            for name in self.changed.keys() & {"optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"}:
                without = set_quietly(trial, {name: type(self).__dataclass_fields__[name].default})
                if Trainer.get_optimizer_cls_and_kwargs(without)[1] == settings:
                    raise ValueError(f"{getattr(self.optim, 'value', self.optim)} does not read `{name}`")
            kwargs: Any = self.lr_scheduler_kwargs
            get_scheduler(self.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=kwargs)
        except (TypeError, ValueError, ImportError) as error:
            raise ValueError(f"`optim` or `lr_scheduler_type`, with what they are given, cannot be: {error}") from error

    def resolve_numbers(self, rows: int, is_new: bool) -> None:
        """Completes learning rate, batch and epochs, of which a new model takes more on few rows."""
        self.set_defaults({"learning_rate": RATE, "per_device_train_batch_size": BATCH})
        batch = self.train_batch_size * self.world_size * self.gradient_accumulation_steps
        enough = math.ceil(FEW_STEPS / math.ceil(rows / batch)) if is_new else 0
        self.set_defaults({"num_train_epochs": float(max(EPOCHS, min(enough, MANY_EPOCHS)))})

    def resolve_task(self, task: str) -> None:
        """Completes by which metric a model is the best one. A ValueError if it is one of another task."""
        metric, allowed = self.changed.get("metric_for_best_model", BEST[task]), [*METRICS[task], "loss"]
        if metric not in allowed:
            raise ValueError(f"`metric_for_best_model` must be one of {allowed} for the task {task!r}, got {metric!r}.")
        self.metric_for_best_model, self.greater_is_better = metric, metric not in SMALLER_IS_BETTER

    def resolve_skew(self, is_skewed: bool) -> None:
        """Completes class weights and metric: of skewed classes a rare one counts as much as a frequent one."""
        self.set_defaults({"class_weights": "balanced" if is_skewed else "none"})
        if is_skewed and "metric_for_best_model" not in self.changed:
            self.metric_for_best_model = "macro_f1"

    def set(self, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def set_defaults(self, settings: Mapping[str, Any]) -> None:
        self.set({name: value for name, value in settings.items() if getattr(self, name) is None})

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments into every checkpoint; the access token must not land on the disk.
        return self.__dict__ | {"hub_token": None}


def check_settings(settings: Any, changed: Mapping[str, Any]) -> None:
    """A ValueError for a number out of its limits, and for a setting that has no effect because of another one."""
    for name, value in changed.items():
        least, below = LIMITS.get(name, (0, math.inf))
        if isinstance(value, int | float) and not least <= value < below:
            most = f"less than {below}" if below < math.inf else "finite"
            raise ValueError(f"`{name}` must be at least {least} and {most}, got {value}.")
    for name in changed.keys() & IDLE.keys():
        other, values = IDLE[name]
        value = getattr(settings, other)
        if value in values if values else value is not None:
            why = f"with `{other}` {getattr(value, 'value', value)}" if value else f"without `{other}`"
            raise ValueError(f"`{name}` has no effect {why}.")


def set_quietly(arguments: RunArguments, settings: Mapping[str, Any]) -> RunArguments:
    """The settings of a trial, of which nothing is written, shown or validated on the way."""
    trial = copy.copy(arguments)
    quiet = {"eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no", "load_best_model_at_end": False}
    trial.set({**quiet, "disable_tqdm": True, "report_to": [], "push_to_hub": False, **settings})
    return trial


def suggest_finetuning(rows: int) -> dict[str, Any]:
    """How an encoder is fine-tuned on so many training rows."""
    return dict(zip(OF_FINETUNING, next(values for most, *values in FINETUNING if rows <= most), strict=True))


def find_changed(settings: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that have a value, and not their default one."""
    changed = {}
    for each in fields(settings):
        value = getattr(settings, each.name) if each.init and each.name not in leave_out else None
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if value is not None and value != default:
            changed[each.name] = value
    return changed


def describe_command(data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments) -> str:
    """The command that repeats the run, without the access token."""
    settings = find_changed(data_arguments) | find_changed(model_arguments) | arguments.changed
    if data_arguments.dataset is None and data_arguments.train_file is None:  # they were in memory
        return f"wave_network.finetune(data, {', '.join(f'{name}={value!r}' for name, value in settings.items())})"
    words = ["wave-network", "finetune"]
    for name, value in settings.items():
        values = value if isinstance(value, list) else [getattr(value, "value", value)]
        words += [f"--{name}", *(json.dumps(each) if isinstance(each, dict) else str(each) for each in values)]
    return shlex.join(words)
