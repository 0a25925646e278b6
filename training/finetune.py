"""`wave-network finetune`: data by name or path in, a run folder with a model ready to share out."""

import contextlib
import functools
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalPrediction

from ..configuration import WaveConfig
from ..modeling_wave import WaveForSequenceClassification
from ..tokenization import load_wave_tokenizer, train_wave_tokenizer
from .averaging import AveragingTrainer, refuse_unfit_averaging
from .calibration import calibrate
from .data import TextData, load_text_data
from .losses import SAMPLE_WEIGHT, ClassificationLoss, WithSampleWeights, make_loss
from .metrics import ClassificationReport
from .mixup import Mixup, find_classifier, refuse_unfit_mixup
from .optimizer import LazyAdamW, with_dense_gradients
from .packing import DataCollatorWithPacking, takes_packed
from .record import count_parameters, summarise, write_record
from .resuming import (
    BEGUN,
    alone_in,
    describe_beginning,
    find_checkpoint,
    read_beginning,
    read_seconds,
    refuse_bare,
    refuse_existing,
    refuse_other_beginning,
    settle_best,
    write_beginning,
)
from .settings import DataArguments, ModelArguments, RunArguments, find_changed
from .sharding import refuse_unfit_sharding, set_up_sharding
from .subwords import (
    SubwordEmbedding,
    add_subwords,
    fold_subwords,
    refuse_unfit_subwords,
    settle_subwords,
)
from .tracking import print_trackers, refuse_missing_trackers, track

# What `--sparse_embeddings` has a row-sparse form of.
ADAMW = ("adamw_torch", "adamw_torch_fused")

# From this ratio of the largest to the smallest class on, class weights are suggested.
SKEWED = 5


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


class EarlyStopping(EarlyStoppingCallback):
    """Stops where transformers' own does; its count goes on with a run that is resumed."""

    def on_train_begin(self, args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = read_patience_counter(state)
        # A checkpoint of a run that was begun without early stopping has no place for its state.
        list_callbacks(state)[type(self).__name__] = self.state()


class OwnSteps(TrainerCallback):
    """A run that is resumed is logged, validated and saved by the steps that are given now, and not as it was begun."""

    def on_train_begin(self, args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)


def read_patience_counter(state: TrainerState) -> int:
    """How many validations in a row had brought no new best when a checkpoint was written."""
    saved = list_callbacks(state).get(EarlyStopping.__name__, {"attributes": {}})
    return saved["attributes"].get("early_stopping_patience_counter", 0)


def list_callbacks(state: TrainerState) -> dict[str, Any]:
    """The states of the callbacks, by the names of their classes."""
    return cast(dict[str, Any], state.stateful_callbacks)


class WaveTrainer(AveragingTrainer):
    """
    Trainer with our order of the training rows, with weights of the rows, mixup and `sparse_embeddings`. Of epochs that
    are equally good in validation it keeps the last. Each checkpoint says what the run was begun with.
    """

    args: RunArguments

    def __init__(
        self, *arguments: Any, beginning: Mapping[str, Any] | None = None, start: float | None = None, **settings: Any
    ):
        super().__init__(*arguments, **settings)
        self.add_callback(OwnSteps())
        self.beginning = beginning
        self.start = time.perf_counter() if start is None else start

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            self.is_fsdp_enabled = set_up_sharding(self.accelerator, self.args, cast(PreTrainedModel, self.model))
        if self.args.sparse_embeddings:
            # Through this method every version of Trainer clips the gradients and takes their norm.
            clip = self.accelerator.clip_grad_norm_
            self.accelerator.clip_grad_norm_ = lambda parameters, *arguments, **settings: clip(
                with_dense_gradients(parameters), *arguments, **settings
            )

    def create_optimizer(self, *arguments: Any) -> torch.optim.Optimizer:
        if self.args.sparse_embeddings:
            table = cast(PreTrainedModel, self.model).get_input_embeddings()
            if not isinstance(table, (nn.Embedding, SubwordEmbedding)):
                raise ValueError(
                    f"`sparse_embeddings` (True) is for a model whose words are in an nn.Embedding; those of "
                    f"{type(self.model).__name__} are in {type(table).__name__}. Leave it out."
                )
            # Before the model is wrapped for several processes: the wrapper asks then which gradients will be sparse.
            table.sparse = True
            for name, module in cast(PreTrainedModel, self.model).named_modules():
                if name.endswith("embeddings.ngram_embeddings") and isinstance(module, nn.Embedding):
                    module.sparse = True
            _, settings = self.get_optimizer_cls_and_kwargs(self.args, cast(PreTrainedModel, self.model))
            self.optimizer_cls_and_kwargs = LazyAdamW, settings
        return super().create_optimizer(*arguments)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        metric = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        # By few rows several epochs are equally good, and Trainer keeps the first of them, which has learned least.
        if not is_best and self.state.best_global_step and metrics[metric] == self.state.best_metric:
            self.state.best_global_step = self.state.global_step
            is_best = True
        # Between two saves, too, when `save_steps` is a multiple of `eval_steps`: Trainer would record the one and keep
        # another.
        self.control.should_save |= bool(is_best and self.args.load_best_model_at_end)
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.beginning is not None and self.args.should_save:
            # Before the state of Trainer, by which a checkpoint is known to be complete.
            checkpoint = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
            write_beginning(checkpoint, self.beginning, seconds=time.perf_counter() - self.start)
        super()._save_checkpoint(model, trial)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = cast(list[str], self._signature_columns)
        if SAMPLE_WEIGHT not in columns:
            columns.append(SAMPLE_WEIGHT)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The model does not take the weights, and the hook would not pass them.
        weights = inputs.pop(SAMPLE_WEIGHT, None)
        hook = self.compute_loss_func
        mixing: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.args.mixup_alpha and model.training:
            mixup = Mixup(self.args.mixup_alpha)
            mixing = mixup.in_front_of(find_classifier(self.accelerator.unwrap_model(model)))
            self.compute_loss_func = mixup.over(hook or ClassificationLoss())
        if weights is not None:
            self.compute_loss_func = functools.partial(self.compute_loss_func, sample_weight=weights)
        try:
            with mixing:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.compute_loss_func = hook

    def get_eval_dataloader(self, eval_dataset=None):
        with self.every_row():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self.every_row():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def every_row(self) -> Iterator[None]:
        """`dataloader_drop_last` is about training: a figure is of all rows."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        return SeededSampler(self, sampler.batch_size, sampler.lengths)

    def _get_eval_sampler(self, eval_dataset):
        sampler = super()._get_eval_sampler(eval_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            # Before transformers 5.16 every process has an order of its own: some rows count twice, others never.
            sampler.generator = torch.Generator().manual_seed(self.args.seed)
        return sampler


def finetune(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    compute_loss_func: Callable[..., torch.Tensor] | None = None,
    make_model: Callable[[ModelArguments, PreTrainedTokenizerBase, Sequence[str]], PreTrainedModel] | None = None,
) -> Path:
    """
    Trains a classifier and leaves a run folder: the best model by validation with its tokenizer and code, and
    `metrics.json`, which says how it was made and what it reached. Checkpoints stay beside them.

    Under `torchrun` all processes call it; the first one writes.

    Args:
        data_arguments: What to learn from.
        model_arguments: What to train.
        arguments: How to train.
        compute_loss_func: A loss of your own, in place of `loss`: Trainer's hook. It is called with the outputs of the
            model, the labels (N,), and `num_items_in_batch`, the rows of the whole step, accumulated batches and other
            processes included. For the loss to be a mean over the step, divide the sum over the rows by that number,
            or by N where it is None.
        make_model: A model of your own, in place of the one that `model_arguments` describe: called with these, the
            tokenizer and the names of the classes, after the seed was set.

    Returns:
        The run folder.

    Raises:
        FileExistsError: There is a run in the folder already, and `resume` is not set or it has ended.
        ImportError: The package of a tracker in `report_to` is not installed.
        ValueError, OSError: Bad data, settings or files; the message names them.
    """
    start = time.perf_counter()
    refuse_useless(model_arguments)
    refuse_bad_rates(arguments)
    refuse_unfit(arguments)
    refuse_bad_name(arguments.hub_model_id)
    refuse_missing_trackers(arguments)
    if compute_loss_func is not None:
        refuse_other_losses(data_arguments, arguments)
    folder = Path(arguments.output_dir or f"runs/{name_of(data_arguments)}")
    arguments.output_dir = str(folder)
    # Before anything is written, all processes look at the folder.
    with arguments.main_process_first(desc="look at the run folder"):
        refuse_existing(folder, arguments.resume)
        checkpoint = find_checkpoint(folder) if arguments.resume else None
        before = read_beginning(folder, checkpoint)
    refuse_unfit_sharding(arguments, checkpoint)
    arguments.dataloader_pin_memory &= arguments.device.type == "cuda"
    # Tiny activations and moments become denormal numbers, which a CPU handles slowly. Threads inherit this when they
    # start, so it stands before anything that starts them.
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)

    data = read_data(data_arguments)
    arguments.run_name = arguments.run_name or folder.name
    arguments.project = arguments.project or data.name.replace("/", "--")
    tokenizer = get_tokenizer(model_arguments, data, folder if checkpoint else None)
    is_new = model_arguments.model is None and make_model is None
    settle_subwords(arguments, tokenizer, is_new)
    arguments.settle_epochs(len(data.train), is_new)
    beginning = describe_beginning(data_arguments, model_arguments, arguments, data)
    if before is not None and checkpoint is not None:  # else nothing was learned yet
        start -= read_seconds(checkpoint)
        refuse_other_beginning(folder, data_arguments.dataset, beginning, before)
        refuse_bare(checkpoint, arguments)
        beginning = before
        with arguments.main_process_first(desc="settle the best checkpoint"):
            settle_best(checkpoint, is_wanted=arguments.load_best_model_at_end)
    set_seed(arguments.seed)
    model = (make_model or get_model)(model_arguments, tokenizer, data.label_names)
    if arguments.calibrate:
        refuse_uncalibrated(model)
    if arguments.mixup_alpha:
        find_classifier(model)
    counts = count_parameters(model)
    add_subwords(model, tokenizer, arguments.subword_buckets)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    with arguments.main_process_first(desc="tokenize"):
        encoded = {name: encode(split, tokenizer) for name, split in splits.items() if split is not None}

    report = ClassificationReport()
    with track(arguments, folder), contextlib.ExitStack() as stack:
        trainer = WaveTrainer(
            model=model,
            args=arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            processing_class=tokenizer,
            data_collator=WithSampleWeights(get_collator(arguments, model, tokenizer)),
            compute_metrics=functools.partial(compute_metrics, report),
            compute_loss_func=compute_loss_func or make_loss(arguments, data),
            beginning=beginning,
            start=start,
        )
        if arguments.early_stopping_patience:
            trainer.add_callback(EarlyStopping(arguments.early_stopping_patience, arguments.early_stopping_threshold))
        is_main = trainer.is_world_process_zero()
        if is_main:
            stack.enter_context(alone_in(folder, is_new=before is None))
            # From the first checkpoint on, a push of the run folder finds code, tokenizer and settings in it.
            write_beginning(folder, beginning)
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            print_summary(model, counts, data, folder)
            print_trackers(arguments, folder)
            warn_of_slow_bf16(arguments)
        train(trainer, checkpoint)
        fold_subwords(model)

        results: dict[str, dict[str, Any]] = {}
        logits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, prefix in (("validation", "eval"), ("test", "test")):
            if name in encoded:
                prediction = trainer.predict(encoded[name], metric_key_prefix=prefix)
                results[name] = summarise(report, prediction, data.label_names)
                logits[name] = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    # Where the model is split, it takes all processes to put it together.
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if is_main:
        trained = trainer.accelerator.unwrap_model(trainer.model)
        calibration = calibrate(logits, fit=arguments.calibrate)
        if calibration is not None and calibration["temperature"] is not None:
            trained.config.classifier_temperature = calibration["temperature"]
        save_atomically(folder, trained, tokenizer, weights)
        write_record(
            folder,
            data_arguments,
            model_arguments,
            arguments,
            data,
            trainer,
            results,
            calibration,
            start=start,
            own_loss=compute_loss_func,
            own_model=make_model,
        )
        (folder / BEGUN).unlink(missing_ok=True)
    arguments.distributed_state.wait_for_everyone()
    return folder


def warn_of_slow_bf16(arguments: RunArguments) -> None:
    """Where a processor has to make up for bf16, each product takes many times as long: better said than waited for."""
    is_known = arguments.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if arguments.bf16 and is_known and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(
            "`bf16` (True): this processor has no bf16 of its own, so products in it take many times as long as in "
            "float32. Leave it out, unless it is meant as a test.",
            file=sys.stderr,
        )


def train(trainer: WaveTrainer, checkpoint: Path | None) -> None:
    """Trains from the start, or on from a checkpoint."""
    patience = trainer.args.early_stopping_patience
    if checkpoint is not None and patience:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if read_patience_counter(state) >= patience:
            # The run had stopped and was interrupted before it had written its results. Trainer would train on.
            best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
            trainer._load_from_checkpoint(str(best or checkpoint))
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def compute_metrics(report: ClassificationReport, prediction: EvalPrediction) -> dict[str, float]:
    predicted = np.argmax(prediction.predictions, axis=-1)
    result = report.compute(predictions=predicted, references=prediction.label_ids)
    return {"accuracy": result["accuracy"], "macro_f1": result["macro_f1"]}


def refuse_useless(arguments: ModelArguments) -> None:
    """The architecture of an existing model is what it is: a setting for a new one would be passed over in silence."""
    changed = [name for name in find_changed(arguments) if hasattr(WaveConfig, name)]
    if arguments.model is not None and changed:
        raise ValueError(
            f"`{changed[0]}` ({getattr(arguments, changed[0])!r}) is for a new model; --model {arguments.model} has "
            "its own. Leave out one of the two."
        )


def refuse_bad_rates(arguments: RunArguments) -> None:
    """A ValueError for what torch refuses too, but only once the run has begun."""
    for name in ("learning_rate", "weight_decay"):
        value = getattr(arguments, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}.")


def refuse_unfit(arguments: RunArguments) -> None:
    """A ValueError if settings of the training do not go together. Each may be right alone."""
    refuse_unfit_averaging(arguments)
    refuse_unfit_mixup(arguments)
    refuse_unfit_subwords(arguments)
    if arguments.sparse_embeddings:
        refuse_unfit_for_sparse(arguments)


def refuse_unfit_for_sparse(arguments: RunArguments) -> None:
    """Row-sparse gradients need an optimizer, a backend and a compiler that take them: raises a ValueError if not."""
    optimizer = getattr(arguments.optim, "value", arguments.optim)
    unfit = None
    if optimizer not in ADAMW:
        unfit = f"`optim` ({optimizer!r}): allowed are {' and '.join(map(repr, ADAMW))}"
    elif arguments.torch_compile:
        unfit = "`torch_compile` (True): the compiler cannot build row-sparse gradients; allowed is False"
    elif arguments.fsdp or arguments.deepspeed:
        name = "fsdp" if arguments.fsdp else "deepspeed"
        unfit = f"`{name}` ({getattr(arguments, name)!r}), which splits dense gradients only; allowed is none"
    elif arguments.device.type not in ("cpu", "cuda"):
        unfit = f"a device of type {arguments.device.type!r}: allowed are 'cuda', or 'cpu' by `use_cpu`"
    elif arguments.device.type == "cuda" and max(arguments.n_gpu, arguments.world_size) > 1:
        count = max(arguments.n_gpu, arguments.world_size)
        unfit = f"{count} devices of type 'cuda': allowed are one, or any number of processes with `use_cpu`"
    if unfit is not None:
        raise ValueError(f"`sparse_embeddings` (True) does not go with {unfit}. Leave out one of the two.")


def refuse_bad_name(hub_model_id: str | None) -> None:
    """The card names the repository, at the end of the training: a ValueError before it if it is no name on the Hub."""
    if hub_model_id is not None:
        try:
            validate_repo_id(hub_model_id)
        except HFValidationError as error:
            raise ValueError(
                f"`hub_model_id` must be a name, or an owner and a name, got {hub_model_id!r}: {error}"
            ) from error


def refuse_uncalibrated(model: PreTrainedModel) -> None:
    """A temperature must have its place in the model: raises a ValueError if it has none."""
    if not isinstance(model, WaveForSequenceClassification):
        raise ValueError(
            f"`calibrate` (True) is for a WaveForSequenceClassification, which divides its logits by the temperature "
            f"in its configuration; {type(model).__name__} does not. Leave it out."
        )


def refuse_other_losses(data_arguments: DataArguments, arguments: RunArguments) -> None:
    """A loss that is given is the whole of it: a ValueError if a setting asks for another one, or for weights."""
    settings = find_changed(data_arguments) | find_changed(arguments)
    for name in ("loss", "class_weights", "weight_column"):
        if name in settings:
            raise ValueError(f"`{name}` ({settings[name]!r}) does not go with a `compute_loss_func`. Leave out one.")


def name_of(arguments: DataArguments) -> str:
    """What a folder is called after its data."""
    return Path(os.path.abspath(arguments.dataset)).name.lstrip(".").split(".")[0]


def read_data(arguments: DataArguments) -> TextData:
    return load_text_data(
        arguments.dataset,
        dataset_config=arguments.dataset_config,
        text_columns=arguments.text_columns,
        label_column=arguments.label_column,
        weight_column=arguments.weight_column,
        validation_fraction=arguments.validation_fraction,
        validation_cut=arguments.validation_cut,
        order_column=arguments.order_column,
        train_split=arguments.train_split,
        validation_split=arguments.validation_split,
        test_split=arguments.test_split,
    )


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
        if isinstance(model, WaveForSequenceClassification):
            model.config.classifier_temperature = 1.0  # another one belongs to the weights as they were
        return model
    own = {name: value for name, value in asdict(arguments).items() if hasattr(WaveConfig, name)}
    own["conv_kernel_size"] = arguments.conv_kernel_size or None
    config = WaveConfig(
        **own | {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length},
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )
    return WaveForSequenceClassification(config)


def get_collator(
    arguments: RunArguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> DataCollatorWithPacking | DataCollatorWithPadding:
    if not arguments.packing:
        return DataCollatorWithPadding(tokenizer)
    if not takes_packed(model):
        raise ValueError(
            f"`packing` (True) is for a model whose `forward` takes `cu_seq_lens`, as that of a Wave Network does; "
            f"that of {type(model).__name__} does not. Leave it out."
        )
    if arguments.n_gpu > 1:
        raise ValueError(
            f"`packing` (True) is for one GPU in each process, and this one would share a row of texts out to "
            f"{arguments.n_gpu}. Start it with `torchrun --nproc_per_node {arguments.n_gpu}`, or let it see one GPU by "
            "CUDA_VISIBLE_DEVICES."
        )
    return DataCollatorWithPacking()


def encode(split: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The rows as token ids, with their length for length grouping and without the text."""

    def encode_rows(rows: dict[str, list]) -> dict[str, list]:
        encoding = tokenizer(rows["text"], rows.get("text_pair"), truncation=True)
        weights = {SAMPLE_WEIGHT: rows["weight"]} if "weight" in rows else {}
        return {
            **encoding,
            "length": [len(ids) for ids in encoding["input_ids"]],
            "labels": rows["label"],
            **weights,
        }

    return split.map(encode_rows, batched=True, remove_columns=split.column_names, desc="Tokenizing")


def print_summary(model: PreTrainedModel, counts: dict[str, int], data: TextData, folder: Path) -> None:
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


def save_atomically(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """
    Saves beside the folder first and moves file by file, so that no file in it is ever half written. `weights` are
    those of the model, where it does not hold all of them.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="_saving-") as temporary:
        model.save_pretrained(temporary, state_dict=weights)
        tokenizer.save_pretrained(temporary)
        for path in Path(temporary).iterdir():
            os.replace(path, folder / path.name)
