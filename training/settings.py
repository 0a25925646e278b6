"""The settings of `wave-network finetune`: what to learn from, what to train, and how."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from transformers import TrainingArguments

from ..configuration import WaveConfig

LOSSES = ("cross_entropy", "focal", "label_smoothing")
# What validation measures.
METRICS = ("accuracy", "macro_f1", "loss")
# The orders of the training rows that transformers has here, and passes over others in silence.
SAMPLINGS = next(each for each in fields(TrainingArguments) if each.name == "train_sampling_strategy").metadata.get(
    "choices", ["random", "sequential", "group_by_length"]
)

# How often the training rows are passed over where nothing is said. A new model that would take fewer steps than these
# has learned too little from few rows (benchmarks/few_rows.py): it takes as many, in at most so many passes.
EPOCHS = 10.0
FEW_STEPS, MANY_EPOCHS = 480, 30


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
    weight_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with a weight for each training row, a number of at least 0. Only their ratios count; "
            "validation and test are not weighted."
        },
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training rows to validate on, if there is no validation split."}
    )
    validation_cut: Literal["random", "newest", "whole_texts"] = field(
        default="random",
        metadata={
            "help": "Which rows these are: 'newest' by --order_column; 'whole_texts' where rows are parts of other "
            "rows, as phrases are of sentences: what is found in texts of validation alone is not trained on."
        },
    )
    order_column: str | None = field(
        default=None, metadata={"help": "Column by which --validation_cut newest goes: numbers, or ISO dates."}
    )
    train_split: str | None = field(default=None, metadata={"help": "Split to train on, where it is not called so."})
    validation_split: str | None = field(
        default=None,
        metadata={"help": "Split to validate on, where it is not called so, such as 'validation_matched' of MNLI."},
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split to test on, where it is not called so, such as 'validation' of SST-2."}
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
    conv_kernel_size: int | None = field(
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
    restore: Literal["linear", "real", "magnitude"] = field(
        default=WaveConfig.restore,
        metadata={"help": "How waves become real again: a linear map of both parts, the real part, or the magnitude."},
    )
    classifier_pooling: Literal["mean", "cls", "max"] = field(
        default="mean", metadata={"help": "How the classifier reads the tokens."}
    )
    position_embedding_type: Literal["sinusoidal", "absolute", "none"] = field(
        default=WaveConfig.position_embedding_type, metadata={"help": "Kind of positions of a new model."}
    )
    hidden_dropout_prob: float = field(
        default=WaveConfig.hidden_dropout_prob, metadata={"help": "Dropout of a new model."}
    )
    token_dropout_prob: float = field(
        default=WaveConfig.token_dropout_prob,
        metadata={"help": "Share of the tokens of a new model that lose their whole embedding in a training step."},
    )

    def __post_init__(self) -> None:
        # Two tokens stand around a text. With these alone nothing is left of it, and with fewer nothing is cut off.
        if self.max_length < 3:
            raise ValueError(
                f"`max_length` must be at least 3, for two special tokens and one of the text, got {self.max_length}."
            )
        if self.conv_kernel_size is None:
            self.conv_kernel_size = 0  # which a command line can say


@dataclass
class RunArguments(TrainingArguments):
    """How to train: transformers' TrainingArguments, with defaults for a small model trained from scratch."""

    _argument_group_name = "training"

    output_dir: str | None = field(
        default=None, metadata={"help": "Run folder. Default: runs/ and the name of the data set."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in the run folder."})
    loss: Literal["cross_entropy", "focal", "label_smoothing"] = field(
        default="cross_entropy",
        metadata={
            "help": "'focal' turns to the texts that are still hard (--focal_gamma), 'label_smoothing' asks for no "
            "certainty (--label_smoothing_factor)."
        },
    )
    focal_gamma: float = field(
        default=2.0, metadata={"help": "How far --loss focal turns away from what is easy; 0 is cross-entropy."}
    )
    label_smoothing_factor: float | None = field(  # type: ignore[assignment]  # None until it is settled
        default=None,
        metadata={
            "help": "Share of a label that all classes get alike, from 0 up to 1. Default: 0.1 with --loss "
            "label_smoothing, which it stands for where it is given alone."
        },
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Mix the vectors of two texts before the classifier, and their losses alike, by a share from "
            "Beta(alpha, alpha): 1 is any share, 0 is no mixing. Meant against overfitting and false certainty."
        },
    )
    subword_buckets: int | None = field(
        default=None,
        metadata={
            "help": "While training, tokens share the embeddings of their character n-grams, hashed to so many rows, "
            "and the saved model has plain embeddings; 0 is none. Default: 16384 for a new model with a WordPiece "
            "tokenizer, without --fsdp and --deepspeed; else none."
        },
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "'balanced' weights each class by the inverse of its frequency."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many validations in a row without a new best; 0 is never."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "How much better than the best one counts as new, for early stopping."}
    )
    packing: bool = field(
        default=False,
        metadata={
            "help": "Lay the texts of a batch end to end instead of padding them: the same results, without work on "
            "padding. For a Wave Network; on a CPU a small one may be slower with it on very short texts."
        },
    )
    sparse_embeddings: bool = field(
        default=False,
        metadata={
            "help": "Update only the rows of the tables of words and n-grams that are in the batch: faster steps at "
            "small batches on a CPU, and another update than AdamW's. See docs/sparse.md."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Exponential moving average of the weights, validated and saved in place of them: how much of it a "
            "step keeps, such as 0.999; 0 is none."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={
            "help": "Fit a temperature on the validation rows and save it in the model, so that its probabilities are "
            "calibrated; the labels stay as they are. For a Wave Network."
        },
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate of AdamW."})
    num_train_epochs: float | None = field(  # type: ignore[assignment]  # None until `finetune` knows the rows
        default=None,
        metadata={
            "help": f"Passes over the training rows. Default: {EPOCHS:g}; for a new model on few rows as many as make "
            f"{FEW_STEPS} steps, but no more than {MANY_EPOCHS}."
        },
    )
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
    report_to: str | None = field(
        default="none",
        metadata={"help": "Experiment tracker: trackio, tensorboard or wandb. It logs in the run folder."},
    )
    run_name: str | None = field(
        default=None, metadata={"help": "Name of the run in the tracker. Default: that of the run folder."}
    )
    project: str | None = field(  # type: ignore[assignment]  # None until `finetune` knows the data
        default=None, metadata={"help": "Project in the tracker. Default: the name of the data set."}
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "Compute activations again for the gradient, not keep them: less memory, more time."},
    )
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the training rows; group_by_length pads least."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "When to push with --push_to_hub."})

    def __post_init__(self) -> None:
        # In a settings file, and in the command that a record gives, it is a word.
        words: dict[str, Any] = {"true": True, "false": False}
        self.fsdp = words.get(str(self.fsdp).lower(), self.fsdp)
        # transformers' default is the word "no", which the command line reads as a boolean.
        if self.include_num_input_tokens_seen is False:
            self.include_num_input_tokens_seen = "no"
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"  # as in transformers, and a command line can say it
        # What was set, before transformers works out the rest.
        self.changed = find_changed(self, leave_out=("hub_token", "resume"))
        self.settle_loss()
        self.check_choice_of_best()
        self.check_evaluation()
        self.check_steps()
        if self.train_sampling_strategy not in SAMPLINGS:
            raise ValueError(
                f"`train_sampling_strategy` must be one of {SAMPLINGS}, got {self.train_sampling_strategy!r}."
            )
        if not 0 <= self.mixup_alpha < math.inf:
            raise ValueError(f"`mixup_alpha` must be a finite number of at least 0, got {self.mixup_alpha}.")
        if self.subword_buckets is not None and self.subword_buckets < 0:
            raise ValueError(f"`subword_buckets` must be at least 1, or 0 for none, got {self.subword_buckets}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0, for none, and less than 1, got {self.ema_decay}.")
        # The new name of the same setting, in versions of transformers that have it and call ours an old one.
        if getattr(self, "activation_checkpointing", False) is None:
            self.activation_checkpointing = self.gradient_checkpointing
        # transformers would call it `trainer_output`; `finetune` calls it after the data.
        self.output_dir = self.output_dir or ""
        super().__post_init__()

    def settle_loss(self) -> None:
        """Works out `loss` and `label_smoothing_factor` from each other; a ValueError if they or gamma contradict."""
        epsilon = self.label_smoothing_factor
        if self.loss not in LOSSES:
            raise ValueError(f"`loss` must be one of {list(LOSSES)}, got {self.loss!r}.")
        if epsilon is not None and not 0 <= epsilon < 1:
            raise ValueError(f"`label_smoothing_factor` must be at least 0 and less than 1, got {epsilon}.")
        if not 0 <= self.focal_gamma < math.inf:
            raise ValueError(f"`focal_gamma` must be a finite number of at least 0, got {self.focal_gamma}.")
        if self.loss != "focal" and self.focal_gamma != 2:
            raise ValueError(f"`focal_gamma` ({self.focal_gamma}) is for `loss` 'focal', got {self.loss!r}.")
        if self.loss == "focal" and epsilon:
            raise ValueError(f"`label_smoothing_factor` ({epsilon}) does not go with `loss` 'focal'. Leave out one.")
        if self.loss == "label_smoothing" and epsilon == 0:
            raise ValueError("`label_smoothing_factor` must be greater than 0 with `loss` 'label_smoothing', got 0.")
        if self.loss == "cross_entropy" and epsilon:
            self.loss = "label_smoothing"
        self.label_smoothing_factor = (0.1 if self.loss == "label_smoothing" else 0.0) if epsilon is None else epsilon

    def settle_epochs(self, rows: int, is_new: bool) -> float:
        """Gives `num_train_epochs` its value where it has none, more for a new model on few rows; and returns it."""
        if self.num_train_epochs is None:
            batch = self.train_batch_size * self.world_size * self.gradient_accumulation_steps
            enough = math.ceil(FEW_STEPS / math.ceil(rows / batch)) if is_new else 0
            self.num_train_epochs = float(max(EPOCHS, min(enough, MANY_EPOCHS)))
        return self.num_train_epochs

    def check_steps(self) -> None:
        """Raises a ValueError if a batch would be empty, a step of no batch, or training over before it begins."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        epochs = self.num_train_epochs
        # With `max_steps` it has no effect.
        if self.max_steps <= 0 and epochs is not None and not 0 < epochs < math.inf:
            raise ValueError(f"`num_train_epochs` must be a finite number greater than 0, got {epochs}.")

    def check_evaluation(self) -> None:
        """Raises a ValueError if not all predictions would be there in one piece, from which every figure is made."""
        for name, needed in {
            "prediction_loss_only": False,
            "batch_eval_metrics": False,
            "eval_do_concat_batches": True,
        }.items():
            if getattr(self, name) is not needed:
                raise ValueError(f"`{name}` must be {needed}, as all rows are measured together, got {not needed}.")

    def check_choice_of_best(self) -> None:
        """Raises a ValueError if the metric is none of ours, or early stopping has nothing to go by."""
        metric = str(self.metric_for_best_model).removeprefix("eval_")
        if metric not in METRICS:
            raise ValueError(f"`metric_for_best_model` must be one of {list(METRICS)}, got {metric!r}.")
        patience, threshold = self.early_stopping_patience, self.early_stopping_threshold
        if patience is not None and patience < 0:
            raise ValueError(f"`early_stopping_patience` must be at least 1, or 0 for none, got {patience}.")
        if not 0 <= threshold < math.inf:
            raise ValueError(f"`early_stopping_threshold` must be a finite number of at least 0, got {threshold}.")
        if threshold and not patience:
            raise ValueError(f"`early_stopping_threshold` ({threshold}) is for `early_stopping_patience`: give both.")
        if patience and self.eval_strategy == "no":
            raise ValueError(
                f"`early_stopping_patience` ({patience}) goes by validation: `eval_strategy` must be 'epoch' or "
                "'steps', got 'no'."
            )

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments into every checkpoint; the access token must not land on the disk.
        return self.__dict__ | {"hub_token": None}


def find_changed(settings: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that have a value, and not their default one."""
    changed = {}
    for each in fields(settings):
        value = getattr(settings, each.name) if each.init and each.name not in leave_out else None
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if value is not None and value != default:
            changed[each.name] = value
    return changed


def refuse_together(settings: Any, name: str, others: Mapping[str, str]) -> None:
    """A ValueError if a setting is on, and so is one of others with which it does not go, for the reason given."""
    value = getattr(settings, name)
    for other, because in others.items():
        if value and getattr(settings, other):
            raise ValueError(
                f"`{name}` ({value}) does not go with `{other}` ({getattr(settings, other)!r}), {because}. Leave out "
                "one of the two."
            )


def describe_command(data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments) -> str:
    """The command that repeats the run, also one that was set up in a file or in Python; without the access token."""
    settings = find_changed(data_arguments) | find_changed(model_arguments) | arguments.changed
    return shlex.join(["wave-network", "finetune", *as_words(settings)])


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [getattr(value, "value", value)]
        words += [f"--{name}", *(json.dumps(each) if isinstance(each, dict) else str(each) for each in values)]
    return words
