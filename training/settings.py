"""The settings of `wave-network finetune`: what to learn from, what to train, and how."""

import copy
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import chain
from typing import Any, Literal, cast

import torch
from accelerate.utils import DynamoBackend
from huggingface_hub.utils import validate_repo_id
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType

from ..configuration import WaveConfig
from ..data.arguments import FileArguments
from ..data.measure import METRICS
from ..files import check_source

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
# Up to so many rows no validation rows are split off: all are trained on, and cross-validated before. Not if one of
# these settings is given.
FEW = 5000
# Of a model that starts from an encoder.
DROPOUT = 0.3
# Of a fine-tuning of an encoder on at most so many training rows.
OF_FINETUNING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")
FINETUNING = (
    (32, RATE, 20.0, 8),
    (200, RATE, 10.0, 8),
    (1000, RATE, 20.0, 16),
    (FEW, 2 * RATE, 10.0, 32),
    (math.inf, RATE, 5.0, 32),
)
# Up to so many rows it goes on from a probe; a new head learns more from more rows.
FROM_PROBE = 200
OF_VALIDATION = (
    *("validation_fraction", "validation_cut", "eval_strategy", "eval_steps", "save_strategy", "save_steps"),
    *("eval_delay", "eval_on_start", "save_total_limit", "save_only_model"),
    *("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"),
)
# The largest model that is tried: beyond it memory ends, and with it other programs.
MOST = {"hidden_size": 2**14, "intermediate_size": 2**16, "num_hidden_layers": 1000}
# Settings of transformers that have no effect here, or would spoil what is measured.
FIXED = {
    "finetune trains, validates and tests": ("do_train", "do_eval", "do_predict"),
    "all rows are measured together, in float32": (
        *("prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches", "bf16_full_eval", "fp16_full_eval"),
    ),
    "every row is read, by one process": ("dataloader_drop_last", "accelerator_config", "local_rank"),
    "the columns are those that the tokenizer makes": ("remove_unused_columns", "label_names", "length_column_name"),
    "the metrics are those of the task": ("include_for_metrics", "greater_is_better"),
    "a run is trained as its record says": ("auto_find_batch_size", "restore_callback_states_from_checkpoint"),
    "it does not read the masks of a model": ("debug",),
    "a Wave Network has none": ("use_cache", "use_liger_kernel", "liger_kernel_config"),
    "the model fits on one device; for several start it with torchrun": (
        "fsdp",
        "fsdp_config",
        "deepspeed",
        "parallelism_config",
    ),
}
# Settings that have an effect only beside another one, and which values that must have. None: any that turns it on.
BESIDE: dict[str, tuple[str, Sequence[str] | None]] = {
    "eval_steps": ("eval_strategy", ["steps"]),
    "save_steps": ("save_strategy", ["steps"]),
    "logging_steps": ("logging_strategy", ["steps"]),
    **dict.fromkeys(("eval_delay", "eval_on_start", "metric_for_best_model"), ("eval_strategy", ["steps", "epoch"])),
    **dict.fromkeys(("save_total_limit", "save_only_model"), ("save_strategy", ["steps", "epoch", "best"])),
    **dict.fromkeys(("hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision"), ("push_to_hub", None)),
    **dict.fromkeys(
        ("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), ("report_to", None)
    ),
    **dict.fromkeys(
        (
            *("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
            "dataloader_in_order",
        ),
        ("dataloader_num_workers", None),
    ),
    "data_seed": ("train_sampling_strategy", ["random", "group_by_length", "batch_rebalance"]),
    "activation_checkpointing_kwargs": ("activation_checkpointing", None),
    "gradient_checkpointing_kwargs": ("gradient_checkpointing", None),
    "early_stopping_threshold": ("early_stopping_patience", None),
    "ignore_data_skip": ("resume_from_checkpoint", None),
    "warmup_steps": (
        "lr_scheduler_type",
        [each.value for each in SchedulerType if each.value not in ("constant", "reduce_lr_on_plateau", "greedy")],
    ),
    "lr_scheduler_kwargs": (
        "lr_scheduler_type",
        [each.value for each in SchedulerType if not each.value.startswith("constant")],
    ),
}
OF_GPU = ("fp16", "tf32", "torch_empty_cache_steps")
OF_PROCESSES = (
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend"),
    *("ddp_timeout", "average_tokens_across_devices", "log_level_replica", "log_on_each_node", "save_on_each_node"),
)
# By which a process knows that torchrun, or MPI, has started it beside others.
LAUNCHED = {"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}
OF_OPTIMIZER = ("optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon")
# What numbers must be at least (0 if not said), greater than, and less than.
LEAST = dict.fromkeys(
    (
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_steps"),
        *("eval_accumulation_steps", "save_total_limit", "torch_empty_cache_steps", "dataloader_prefetch_factor"),
    ),
    1,
)
ABOVE = dict.fromkeys(("num_train_epochs", "eval_steps", "save_steps", "logging_steps"), 0)
BELOW = {
    **dict.fromkeys(("ema_decay", "label_smoothing_factor", "adam_beta1", "adam_beta2"), 1),
    **dict.fromkeys(("seed", "data_seed"), 2**32),
    "subword_buckets": 2**24,
}


@dataclass
class DataArguments(FileArguments):
    """What to learn from."""

    _argument_group_name = "data"

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "File (CSV, Excel, JSON, JSON lines, Parquet ...; compressed too), its address on the web, folder "
            "with train/validation/test files, or with a folder of texts for each class, name on the Hub, or bbc_news."
        },
    )
    train_file: str | None = field(default=None, metadata={"help": "File to train on, in place of --dataset."})
    validation_file: str | None = field(default=None, metadata={"help": "File to validate on."})
    test_file: str | None = field(default=None, metadata={"help": "File to test on."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    label_column: list[str] | None = field(
        default=None,
        metadata={"help": "Column with the label, or several of 0 and 1, one for each label. Default: found."},
    )
    task: Literal["single", "multi", "number"] | None = field(
        default=None, metadata={"help": "What a label is. 'single': one class a row. Default: by the label column."}
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "What stands between the labels of a cell, such as ';'."}
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training rows to validate on, if there is no validation split."}
    )
    validation_cut: Literal["random", "whole_texts"] = field(
        default="random",
        metadata={"help": "Which rows these are: 'whole_texts' where rows are parts of others, as phrases are."},
    )
    train_split: str | None = field(default=None, metadata={"help": "Split to train on, where it is not called so."})
    validation_split: str | None = field(
        default=None, metadata={"help": "Split to validate on, such as 'validation_matched' of MNLI."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split to test on, such as 'validation' of SST-2."})


@dataclass
class ModelArguments:
    """What to train: a new Wave Network, or with --model an existing one."""

    _argument_group_name = "model"

    model: str = field(
        default=AUTO,
        metadata={
            "help": "What to start from: a folder or name on the Hub; english, the encoder in the package; none, a new "
            "model; auto is english for English texts, and else none."
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer: folder, name on the Hub, or vocabulary file. Default: trained on the texts."},
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Classifier of the same classes (folder, name) whose logits are learned; or a sentence encoder, "
            "which is fine-tuned first."
        },
    )
    unlabelled: list[str] | None = field(
        default=None, metadata={"help": "Files of texts that the teacher is asked about, beside the training rows."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Vocabulary of a tokenizer that is trained here."})
    lowercase: bool = field(
        default=True, metadata={"help": "Such a tokenizer lower-cases (BERT's do_lower_case). false: it keeps case."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": f"Longest text in tokens; the rest is cut off. Default: {MAX_LENGTH}, or that of --model."},
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of a new model."})
    num_hidden_layers: int = field(default=1, metadata={"help": "Wave layers of a new model."})
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Width of a feed-forward block after each wave layer of a new model."}
    )
    conv_kernel_size: int = field(
        default=3,
        metadata={
            "help": "Width (3, 5 ...) of a convolution that shows a new model the order of its tokens; 0 is none."
        },
    )
    ngram_vocab_size: int | None = field(
        default=None,
        metadata={"help": "Rows of a table of hashed n-grams of tokens for a new model, such as 16384. Default: none."},
    )
    ngram_size: int = field(
        default=WaveConfig.ngram_size,
        metadata={"help": "Longest n-grams in that table: 2 for pairs of tokens, 3 for triples as well."},
    )
    ngram_hidden_size: int | None = field(
        default=None,
        metadata={"help": "Width of that table, such as 12, with a map to --hidden_size: more rows in the same size."},
    )
    wave_operation: Literal["modulation", "interference"] = field(
        default="modulation", metadata={"help": "How the two variants of a token are superposed."}
    )
    magnitude: Literal["l2", "rms"] = field(default="l2", metadata={"help": "Norm of the context."})
    restore: Literal["linear", "magnitude"] = field(
        default="linear", metadata={"help": "How waves become real again: a linear map of both parts, or |Z|."}
    )
    classifier_pooling: Literal["mean", "cls", "max", "opening", "segments"] | None = field(
        default=None,
        metadata={
            "help": "How the classifier reads the tokens. Default: mean; from an encoder also opening, the first ones "
            "apart, if better on rows held out; of pairs segments, which compares both."
        },
    )
    position_embedding_type: Literal["sinusoidal", "absolute", "none"] = field(
        default=WaveConfig.position_embedding_type, metadata={"help": "Kind of positions of a new model."}
    )
    hidden_dropout_prob: float | None = field(
        default=None,
        metadata={
            "help": f"Dropout. Default: {WaveConfig.hidden_dropout_prob} of a new model; by the rows, from an encoder."
        },
    )
    token_dropout_prob: float = field(
        default=WaveConfig.token_dropout_prob,
        metadata={"help": "Share of the tokens of a new model that lose their whole embedding in a training step."},
    )

    def __post_init__(self) -> None:
        # Two tokens stand around a text.
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(f"`max_length` must be at least 3, for a token between two marks, got {self.max_length}.")
        for name, most in MOST.items():
            if (getattr(self, name) or 0) > most:
                raise ValueError(f"`{name}` must be at most {most:,}, got {getattr(self, name)}.")
        for name in ("model", "tokenizer", "teacher"):
            check_source(name, getattr(self, name))
        changed = find_changed(self)
        if self.model not in (AUTO, NONE) and self.of_a_new_model:
            name = self.of_a_new_model[0]
            raise ValueError(
                f"`{name}` ({changed[name]!r}) is for a new model; --model {self.model} has its own. Leave out one."
            )
        for name in ("vocab_size", "lowercase"):
            if self.tokenizer is not None and name in changed:
                raise ValueError(f"`{name}` ({changed[name]}) is for a new tokenizer; `tokenizer` has its own.")
        if self.unlabelled and self.teacher is None:
            raise ValueError(f"`unlabelled` ({self.unlabelled}) is for a `teacher`: give both.")
        for name in ("ngram_size", "ngram_hidden_size"):
            if name in changed and self.ngram_vocab_size is None:
                raise ValueError(f"`{name}` ({changed[name]}) is for `ngram_vocab_size`: give both.")

    @property
    def of_a_new_model(self) -> list[str]:
        """The settings that were given and are for a new model alone."""
        names = {name for name in find_changed(self) if hasattr(WaveConfig, name) or name == "lowercase"}
        return sorted(names - {"hidden_dropout_prob"})


@dataclass
class RunArguments(TrainingArguments):
    """How to train: transformers' TrainingArguments, with defaults for a small model trained from scratch."""

    _argument_group_name = "training"

    output_dir: str | None = field(
        default=None, metadata={"help": "Run folder. Default: runs/ and the name of the data set."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "'last': go on with the run in --output_dir."},
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Mix the vectors of two texts before the classifier, and their losses alike, by a share from "
            "Beta(alpha, alpha): 1 is any share, 0 is no mixing."
        },
    )
    subword_buckets: int | None = field(
        default=None,
        metadata={
            "help": "While training, tokens share the embeddings of their character n-grams, hashed to so many rows; "
            "the saved model has plain embeddings; 0 is none. Default: 16384 for a new model, else none."
        },
    )
    class_weights: Literal["none", "balanced"] | None = field(
        default=None,
        metadata={
            "help": "'balanced' weights each class by the inverse of its frequency. Default: balanced if one class has "
            f"{SKEWED} times the rows of another."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many validations in a row without a new best; 0 is never."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "How much better than the best one counts as new, for early stopping."}
    )
    packing: bool = field(
        default=False,
        metadata={"help": "Lay the texts of a batch end to end instead of padding them: the same results."},
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Validate and save the moving average of the weights: how much of it a step keeps, such as 0.999."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={"help": "Fit a temperature on the validation rows, so that probabilities mean what they say."},
    )
    learning_rate: float | None = field(  # type: ignore[assignment]  # None until the rows are known
        default=None,
        metadata={"help": f"Initial learning rate of AdamW. Default: {RATE:g}; from an encoder, by the rows."},
    )
    num_train_epochs: float | None = field(  # type: ignore[assignment]  # None until the rows are known
        default=None,
        metadata={
            "help": f"Passes over the training rows. Default: {EPOCHS:g}, more for a new model on few rows; by the "
            "rows, from an encoder."
        },
    )
    per_device_train_batch_size: int | None = field(  # type: ignore[assignment]  # None until the rows are known
        default=None,
        metadata={"help": f"Training texts in a batch, per device. Default: {BATCH}; by the rows, from an encoder."},
    )
    no_baseline: bool = field(
        default=False, metadata={"help": "Do not measure a majority guess and TF-IDF on the same rows."}
    )
    save_dtype: Literal["float32", "float16"] = field(
        default="float32",
        metadata={"help": "Precision of the saved weights. The model computes in float32 all the same."},
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Evaluation texts in a batch, per device."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate: no, steps or epoch."})
    save_strategy: str | None = field(  # type: ignore[assignment]  # None until it is resolved
        default=None, metadata={"help": "When to save a checkpoint: no, steps, epoch or best. Default: eval_strategy."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best one is kept."})
    load_best_model_at_end: bool | None = field(  # type: ignore[assignment]  # None until it is resolved
        default=None, metadata={"help": "Keep the best model of the run. Default: if there is validation."}
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={
            "help": "What is best in validation: loss; accuracy (default) or macro_f1 (default if one class has "
            f"{SKEWED} times the rows of another); of several labels micro_f1 (default), macro_f1 or subset_accuracy; "
            "of numbers mse (default), mae, pearson or spearman."
        },
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    report_to: str | None = field(default="none", metadata={"help": "Experiment tracker, such as tensorboard."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the training rows; group_by_length pads least."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "When to push with --push_to_hub."})
    # None: also `false`, transformers' default, would have no effect.
    do_train: bool | None = field(default=None, metadata={"help": "Not here: finetune trains, validates and tests."})  # type: ignore[assignment]
    do_eval: bool | None = field(default=None, metadata={"help": "Not here."})  # type: ignore[assignment]
    do_predict: bool | None = field(default=None, metadata={"help": "Not here."})  # type: ignore[assignment]

    def __post_init__(self) -> None:
        # transformers' default is the word "no", which the command line reads as a boolean.
        if self.include_num_input_tokens_seen is False:
            self.include_num_input_tokens_seen = "no"
        if self.metric_for_best_model is not None:
            self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval_")
        self.changed = find_changed(self, leave_out=("hub_token", "resume_from_checkpoint"))
        self.set_defaults({"metric_for_best_model": BEST["single"]})  # until the task is known
        self.check_numbers()
        self.check_choices()
        self.read_dictionaries()
        self.resolve_saving()
        # transformers would call it `trainer_output`; `finetune` calls it after the data.
        self.output_dir = self.output_dir or ""
        super().__post_init__()
        self.disable_tqdm = bool(self.disable_tqdm) or not sys.stderr.isatty()
        self.dataloader_pin_memory &= self.device.type == "cuda"  # torch warns elsewhere
        self.check_together()

    def resolve_saving(self) -> None:
        """Checkpoints are written where it is validated, so that the best one is kept."""
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self.eval_strategy != "no" and self.save_strategy != "no"
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy if self.eval_strategy != "no" else "epoch"
            if self.save_strategy == "steps" and self.eval_steps and "save_steps" not in self.changed:
                self.save_steps = self.eval_steps
        if self.load_best_model_at_end and self.save_strategy not in ("best", self.eval_strategy):
            raise ValueError(
                f"`save_strategy` must be as `eval_strategy` ({self.eval_strategy}) or best, so that the best model is "
                f"kept, or `load_best_model_at_end` false; got {self.save_strategy!r}."
            )

    def read_dictionaries(self) -> None:
        for name in ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
            value = getattr(self, name, None)
            if isinstance(value, str):
                try:
                    setattr(self, name, json.loads(value))
                except ValueError as error:
                    raise ValueError(f"`{name}` must be JSON, got {value!r}: {error}") from error
            if not isinstance(getattr(self, name, None), dict | None):
                raise ValueError(f'`{name}` must be a JSON object such as {{"power": 2}}, got {value!r}.')

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
        self.metric_for_best_model = metric
        self.greater_is_better = self.changed.get("greater_is_better", metric not in SMALLER_IS_BETTER)

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

    def check_numbers(self) -> None:
        for name, value in self.changed.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            least, above, below = LEAST.get(name, 0), ABOVE.get(name, -math.inf), BELOW.get(name, math.inf)
            if name in ABOVE and not above < value < below:
                raise ValueError(f"`{name}` must be a finite number greater than {above}, got {value}.")
            if not least <= value < below:
                must = (
                    f"at least {least} and less than {below}"
                    if name in BELOW
                    else f"a finite number of at least {least}"
                )
                raise ValueError(f"`{name}` must be {must}, got {value}.")
        if "max_steps" in self.changed and "num_train_epochs" in self.changed:
            raise ValueError("`num_train_epochs` has no effect beside `max_steps`. Leave out one.")

    def check_choices(self) -> None:
        orders = {each.name: each.metadata for each in fields(TrainingArguments)}["train_sampling_strategy"]
        for name, allowed in {
            "metric_for_best_model": ("loss", *sorted(set(chain.from_iterable(METRICS.values())))),
            "class_weights": ("none", "balanced"),
            "save_dtype": ("float32", "float16"),
            **{f"{name}_strategy": [each.value for each in IntervalStrategy] for name in ("eval", "logging")},
            "save_strategy": [each.value for each in SaveStrategy],
            "torch_compile_backend": [each.value.lower() for each in DynamoBackend],
            "hub_strategy": [each.value for each in HubStrategy],
            "train_sampling_strategy": orders.get("choices", ["random", "sequential", "group_by_length"]),
        }.items():
            if getattr(self, name) not in (None, *allowed):
                raise ValueError(f"`{name}` must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        for reason, names in FIXED.items():
            for name in names:
                if name in self.changed:
                    raise ValueError(f"`{name}` ({self.changed[name]!r}) cannot be set: {reason}. Leave it out.")
        for name in (
            self.changed.keys() & OF_PROCESSES
        ):  # before processes are looked for, which these settings tell how
            if not LAUNCHED & os.environ.keys():
                raise ValueError(f"`{name}` is for several processes: start them with torchrun.")
        if self.hub_model_id is not None:
            validate_repo_id(self.hub_model_id)

    def check_together(self) -> None:
        """A ValueError, or ImportError, for settings that may be right alone but not with the others, or here."""
        for name, (other, values) in BESIDE.items():
            value = getattr(self, other, None)
            if name in self.changed and (value not in values if values else not value):
                wanted = f" {' or '.join(values)}, got {getattr(value, 'value', value)}." if values else ": give both."
                raise ValueError(f"`{name}` is for `{other}`{wanted}")
        for name in self.changed.keys() & OF_GPU:
            if self.device.type == "cpu":
                raise ValueError(f"`{name}` is for a GPU, and there is none.")
        if self.early_stopping_patience and self.eval_strategy == "no":
            raise ValueError("`early_stopping_patience` goes by validation: `eval_strategy` must not be 'no'.")
        if self.mixup_alpha and (self.torch_compile or self.n_gpu > 1):
            raise ValueError("`mixup_alpha` goes neither with `torch_compile` nor with several GPUs in one process.")
        if self.packing and self.n_gpu > 1:
            raise ValueError(f"`packing` is for one GPU in each process: use torchrun --nproc_per_node {self.n_gpu}.")
        for tracker in self.report_to or []:
            if tracker not in INTEGRATION_TO_CALLBACK:
                raise ValueError(f"`report_to` must be among {sorted(INTEGRATION_TO_CALLBACK)}, got {tracker!r}.")
            if tracker not in get_available_reporting_integrations():
                raise ImportError(f"`report_to` {tracker!r} needs its package, which is not installed.")
        weight = torch.zeros(1, requires_grad=True)
        try:
            trial = set_quietly(self, {"learning_rate": self.learning_rate or RATE})
            optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(trial)
            optimizer = optimizer_class([weight], **settings)
            for name in self.changed.keys() & OF_OPTIMIZER:
                without = set_quietly(trial, {name: type(self).__dataclass_fields__[name].default})
                if Trainer.get_optimizer_cls_and_kwargs(without)[1] == settings:
                    raise ValueError(f"{getattr(self.optim, 'value', self.optim)} does not read `{name}`")
            kwargs = cast(dict | None, self.lr_scheduler_kwargs)
            get_scheduler(self.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=kwargs)
        except (TypeError, ValueError, ImportError) as error:
            raise ValueError(f"`optim` or `lr_scheduler_type`, with what they are given, cannot be: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments into every checkpoint; the access token must not land on the disk.
        return self.__dict__ | {"hub_token": None}


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
    return shlex.join(["wave-network", "finetune", *as_words(settings)])


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [getattr(value, "value", value)]
        words += [f"--{name}", *(json.dumps(each) if isinstance(each, dict) else str(each) for each in values)]
    return words
