"""`wave-network finetune`: data by name or path in, a run folder with a model ready to share out."""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_model
from torch import nn
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction

from ..data.load import TextData, load_text_data
from ..data.measure import METRICS, calibrate, compute_metrics, measure
from ..data.tokens import DataCollatorWithPadding, Losses
from ..files import name_failures, read_json, refuse_existing, write_json
from ..modeling_wave import WaveForSequenceClassification
from .baselines import measure_baselines
from .decisions import describe_abstain, tune_abstain, tune_thresholds
from .mistakes import write_mistakes
from .packing import DataCollatorWithPacking, takes_packed
from .probe import Choice, choose, compares_pairs, goes_on_from_probe, start_head
from .progress import quiet
from .record import count_parameters, describe_data, describe_settings, make_record
from .results import advise
from .settings import (
    FEW,
    OF_VALIDATION,
    SKEWED,
    DataArguments,
    ModelArguments,
    RunArguments,
    find_changed,
    suggest_finetuning,
)
from .start import find_start, get_model, get_tokenizer, is_encoder, resolve_start
from .subwords import add_subwords, fold_subwords, resolve_subwords
from .teacher import TeacherLoss, Texts, ask_teacher, gather_texts
from .trainer import WaveTrainer, find_classifier, find_last, make_loss, read_state

# What a run was begun with, in its folder until `metrics.json` says it.
BEGUN = "run.json"
# Settings that are not for every task, and those that a loss of one's own leaves without an effect.
OF_TASKS = {
    **dict.fromkeys(("class_weights", "label_smoothing_factor", "calibrate", "teacher"), ("single",)),
    "save_dtype": ("single", "multi"),  # float16 has three digits
}
OF_LOSS = ("class_weights", "label_smoothing_factor", "teacher")

MakeModel = Callable[[ModelArguments, PreTrainedTokenizerBase, Sequence[str]], PreTrainedModel]


@quiet()
def finetune(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    make_model: MakeModel | None = None,
    compute_loss_func: Callable[..., torch.Tensor] | None = None,
    dataset: Any = None,
) -> Path:
    """
    Trains a classifier and leaves a run folder: the best model by validation with its tokenizer and code, and
    `metrics.json`, which says how it was made and what it reached. `mistakes.csv` has the rows that it gets wrong, and
    checkpoints stay beside them.

    Under `torchrun` all processes call it; the first one writes.

    Args:
        data_arguments: What to learn from.
        model_arguments: What to train.
        arguments: How to train.
        make_model: A model of your own: called with `model_arguments`, the tokenizer and the names of the classes,
            after the seed was set.
        compute_loss_func: A loss of your own, Trainer's hook: called with the outputs of the model, the labels (N,)
            or (N, K), numbers with a mean of 0 and a deviation of 1, and `num_items_in_batch`, the labels of the whole
            step.
        dataset: Data in memory, as `load_text_data` takes them, in place of the name in `data_arguments`.

    Returns:
        The run folder.

    Raises:
        FileExistsError: There is something in the run folder, and it is not gone on with.
        ImportError: The package of a tracker in `report_to` is not installed.
        ValueError, OSError: Bad data, settings or files; the message names them.
    """
    run = Run(data_arguments, model_arguments, arguments, make_model, compute_loss_func)
    with arguments.main_process_first(desc="look at the run folder"):  # before anything is written
        checkpoint = find_checkpoint(run.folder, arguments.resume_from_checkpoint)
    arguments.restore_callback_states_from_checkpoint = True  # the patience of early stopping
    # Tiny activations and moments become denormal numbers, which a CPU handles slowly. Threads inherit this when they
    # start, so it stands before anything that starts them.
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)
    run.read(dataset)
    run.prepare_model()
    run.encode()
    run.choose_start()
    run.begin(checkpoint)
    run.train(checkpoint)
    run.predict()
    measured = run.measure()
    if run.is_main:
        run.save(measured)
    arguments.distributed_state.wait_for_everyone()
    return run.folder


@dataclass
class Run:
    """What the steps of `finetune` hand on: each is a method, in their order."""

    data_arguments: DataArguments
    model_arguments: ModelArguments
    arguments: RunArguments
    make_model: MakeModel | None
    loss: Callable[..., torch.Tensor] | None
    since: float = field(default_factory=time.perf_counter)
    scale: "Scale | None" = None
    choice: Choice | None = None
    texts: Texts = field(default_factory=list)  # that a teacher is asked about
    logits: dict[str, tuple[NDArray, NDArray]] = field(default_factory=dict)  # of a split, and its labels

    def __post_init__(self) -> None:
        source = os.path.abspath(self.data_arguments.dataset or self.data_arguments.train_file or "")
        name = Path(source).name.lstrip(".").split(".")[0]
        self.folder = Path(self.arguments.output_dir or f"runs/{name}")
        self.arguments.output_dir = str(self.folder)
        self.is_main = self.arguments.process_index == 0

    def say(self, *lines: str) -> None:
        if self.is_main and lines:
            print(*lines, sep="\n", flush=True)

    def read(self, dataset: Any) -> None:
        """Reads the rows, and settles what goes by them alone."""
        self.data = data = read_data(self.data_arguments, dataset)
        self.say(f"{data.name}: {data.found}")
        changed = find_changed(self.model_arguments) | self.arguments.changed
        check_settings(changed, data.task, self.loss is not None)
        self.arguments.resolve_task(data.task)
        if data.task == "number":
            self.scale = Scale.find(data.train["label"])
        # The classes with their training rows, the largest first.
        self.classes = Counter(data.train["label"]).most_common() if data.task == "single" else []
        self.is_skewed = bool(self.classes) and self.classes[0][1] >= SKEWED * self.classes[-1][1]
        self.arguments.resolve_skew(self.is_skewed and self.loss is None)

    def prepare_model(self) -> None:
        arguments, data = self.arguments, self.data
        if self.model_arguments.teacher is not None:  # one that is not there is said before anything is written
            AutoTokenizer.from_pretrained(self.model_arguments.teacher, trust_remote_code=False)
        self.model_arguments = resolve_start(self.model_arguments, data, self.make_model is not None)
        self.tokenizer = get_tokenizer(self.model_arguments, data)
        self.is_new = find_start(self.model_arguments) is None and self.make_model is None
        arguments.subword_buckets = resolve_subwords(arguments.subword_buckets, self.tokenizer, self.is_new)
        set_seed(arguments.seed)
        given = self.model_arguments, self.tokenizer, data.label_names
        is_pair = "text_pair" in data.train.column_names
        self.model = self.make_model(*given) if self.make_model else get_model(*given, data.task, is_pair)
        self.model.config.update({"text_columns": data.text_columns, "label_column": data.label_column})  # for predict
        if self.data_arguments.label_separator is not None:
            self.model.config.update({"label_separator": self.data_arguments.label_separator})  # for evaluate
        check_model(self.model, arguments, data.task)

    def encode(self) -> None:
        """Cuts the texts into tokens, and says what is lost and what is trained."""
        losses, counts = Losses(self.tokenizer), count_parameters(self.model)
        splits = {"train": self.data.train, "validation": self.data.validation, "test": self.data.test}
        with self.arguments.main_process_first(desc="tokenize"):
            self.encoded = {
                name: encode(split, self.tokenizer, losses, self.scale)
                for name, split in splits.items()
                if split is not None
            }
        self.say(
            *losses.describe(": --max_length"),
            f"{type(self.model).__name__}: {counts['parameters']:,} parameters "
            f"(core {counts['core_parameters']:,}, table {counts['table_parameters']:,})",
            f"Run folder: {self.folder}",
        )

    def choose_start(self) -> None:
        """Puts a probe into the head of an encoder, cross-validates few rows, and completes how it is trained."""
        arguments, model_arguments, model = self.arguments, self.model_arguments, self.model
        if model_arguments.teacher is not None:
            self.texts = gather_texts(model_arguments, self.data, self.data_arguments.text_columns, arguments.seed)
        is_known = is_encoder(model.config) or (self.is_new and compares_pairs(model))
        has_probe = self.make_model is None and is_known
        self.is_crossed = has_probe and not self.texts and self.is_cross_validated()
        if self.is_crossed:
            self.join_validation()
        if self.is_skewed:
            self.say(*describe_skew(self.classes, self.data, arguments))
        rows = len(self.texts or self.data.train)
        if has_probe:
            if rows <= FEW and not self.texts and arguments.world_size == 1:
                self.choose_by_probe()
            elif compares_pairs(model) and arguments.world_size == 1:
                start_head(model, self.encoded["train"], arguments, self.make_trainer, self.data.task)
            arguments.set_defaults(suggest_finetuning(rows))
        arguments.resolve_numbers(rows, self.is_new)
        dropout = getattr(model.config, "hidden_dropout_prob", None)
        self.say(
            f"Training: {arguments.num_train_epochs:g} epochs, learning rate {arguments.learning_rate:g}, batches of "
            f"{arguments.per_device_train_batch_size}{'' if dropout is None else f', dropout {dropout:g}'}."
            if arguments.num_train_epochs
            else "Training: the probe is kept as it is."
        )

    def is_cross_validated(self) -> bool:
        """Whether all rows are trained on: few ones, with no validation split and nothing said about validation."""
        rows = len(self.data.train) + len(self.data.validation)
        is_asked = {*find_changed(self.data_arguments), *self.arguments.changed} & set(OF_VALIDATION)
        return self.data.validation_was_split and rows <= FEW and not is_asked and self.arguments.world_size == 1

    def join_validation(self) -> None:
        data = self.data
        numbers = {**data.numbers, "train": [*data.numbers["train"], *data.numbers["validation"]]}
        joined = concatenate_datasets([data.train, data.validation])
        self.data = replace(data, train=joined, numbers=numbers, validation_was_split=False)
        self.encoded["train"] = concatenate_datasets([self.encoded["train"], self.encoded.pop("validation")])
        self.arguments.set({"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False})
        self.say(f"Few rows: all {len(joined):,} are trained on. They are held out in turn to validate.")

    def choose_by_probe(self) -> None:
        """Chooses by cross-validation how to fine-tune from a probe, if at all. Rows held out in turn validate."""
        arguments, data, model, encoded = self.arguments, self.data, self.model, self.encoded["train"]
        may_stay = arguments.num_train_epochs is None and arguments.max_steps <= 0
        arguments.set_defaults(suggest_finetuning(len(encoded)))
        texts = data.train.remove_columns("label")
        self.choice = choice = choose(model, encoded, texts, arguments, self.make_trainer, data.task, may_stay)
        if choice.is_alone:
            arguments.num_train_epochs = 0.0
        if choice.is_alone or goes_on_from_probe(model, len(encoded)):
            choice.probe.put_into(model)
        metric, style = METRICS[data.task][0], ".3f" if data.task == "number" else ".1%"
        found = ", ".join(f"{name} {score:{style}}" for name, score in choice.scores.items())
        title = metric.replace("_", " ").replace("f1", "F1").capitalize()
        self.say(f"{title} on {len(choice.rows):,} training rows held out in turn: {found}.")
        if self.is_crossed:
            numbers = data.numbers | {"validation": [data.numbers["train"][row] for row in choice.rows]}
            self.data = replace(data, validation=data.train.select(choice.rows), numbers=numbers)
            self.logits["validation"] = self.restore(choice.logits), np.asarray(self.data.validation["label"])

    def restore(self, values: ArrayLike) -> NDArray:
        """Logits as they are, and numbers as they were before they were scaled."""
        return np.asarray(values) if self.scale is None else self.scale.undo(values)

    def make_trainer(self, model: PreTrainedModel, arguments: RunArguments, rows: Dataset) -> WaveTrainer:
        labels, names, task = self.data.train["label"], self.data.label_names, self.data.task

        def measure_epoch(found: EvalPrediction) -> dict[str, float]:
            return compute_metrics(EvalPrediction(self.restore(found.predictions), self.restore(found.label_ids)), task)

        return WaveTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=self.encoded["validation"] if arguments.eval_strategy != "no" else None,
            processing_class=self.tokenizer,
            data_collator=DataCollatorWithPacking() if arguments.packing else DataCollatorWithPadding(self.tokenizer),
            compute_metrics=measure_epoch,
            compute_loss_func=self.loss or make_loss(arguments, labels, len(names), task),
        )

    def begin(self, checkpoint: Path | None) -> None:
        """Notes what is trained on what, or compares it with what was noted before the run was stopped."""
        self.settings = describe_settings(self.model_arguments, self.arguments, self.model.config, self.tokenizer)
        for name, function in (("compute_loss_func", self.loss), ("make_model", self.make_model)):
            if function is not None:
                self.settings[name] = getattr(function, "__qualname__", type(function).__qualname__)
        if self.texts:
            self.settings |= {"teacher": self.model_arguments.teacher, "texts_of_teacher": len(self.texts)}
        self.described = describe_data(self.data, self.is_crossed)
        begun = {"data": self.described, "settings": self.settings}
        if checkpoint is not None:
            check_begun(checkpoint, begun)
        if self.is_main:
            # From the first checkpoint on, a push of the run folder finds code and tokenizer in it.
            self.folder.mkdir(parents=True, exist_ok=True)
            with name_failures(self.folder):
                write_json(self.folder / BEGUN, begun)
                self.model.config.save_pretrained(self.folder)
                self.tokenizer.save_pretrained(self.folder)

    def train(self, checkpoint: Path | None) -> None:
        arguments, data, model = self.arguments, self.data, self.model
        if self.texts:
            self.loss = TeacherLoss(make_loss(arguments, data.train["label"], len(data.label_names)))
            with arguments.main_process_first(desc="ask the teacher"):
                teacher = cast(str, self.model_arguments.teacher)
                taught = ask_teacher(teacher, data, self.texts, arguments, self.folder, encode)
            self.encoded["train"] = encode(taught, self.tokenizer)
        add_subwords(model, self.tokenizer, cast(int, arguments.subword_buckets))
        self.trainer = self.make_trainer(model, arguments, self.encoded["train"])
        if patience := arguments.early_stopping_patience:
            self.trainer.add_callback(EarlyStoppingCallback(patience, arguments.early_stopping_threshold))
        is_trained = arguments.num_train_epochs == 0 or (
            checkpoint is not None and load_stopped(self.trainer, checkpoint)
        )
        if not is_trained:
            self.trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        fold_subwords(model)

    def predict(self) -> None:
        """The logits of the rows that are measured, in the order in which they are given, whatever trained."""
        if self.arguments.save_dtype == "float16":
            self.model.half().float()  # what is measured is what is saved
        self.arguments.train_sampling_strategy = "random"  # of none, the order of length
        for name in [name for name in ("validation", "test") if name in self.encoded]:
            order = np.argsort(self.encoded[name]["length"], kind="stable")
            prediction, places = self.trainer.predict(self.encoded[name].select(order)), np.argsort(order)
            self.logits[name] = self.restore(prediction.predictions)[places], self.restore(prediction.label_ids)[places]

    def measure(self) -> dict[str, Any]:
        """What was reached. What is decided by validation rows goes into the config."""
        data, logits, config = self.data, self.logits, self.model.config
        thresholds = calibration = abstain = None
        if data.task == "multi":
            thresholds = tune_thresholds(*logits["validation"])
            config.update({"classifier_thresholds": thresholds})
        elif data.task == "single" and self.is_main:
            calibration = calibrate(logits, fit=self.arguments.calibrate)
            if calibration is not None:
                temperature = calibration["temperature"]
                config.update({} if temperature is None else {"classifier_temperature": temperature})
                chosen = tune_abstain(*logits["validation"], temperature)
                config.update({"classifier_abstain": chosen})
                abstain = describe_abstain(chosen, *logits.get("test", logits["validation"]), temperature)
        results = {name: measure(data.task, *split, data.label_names, thresholds) for name, split in logits.items()}
        return {"task": data.task, "results": results, "calibration": calibration, "abstain": abstain}

    def save(self, measured: dict[str, Any]) -> None:
        """Writes the model, its mistakes and its record; `metrics.json` says that the run has ended."""
        data, folder, config, arguments = self.data, self.folder, self.model.config, self.arguments
        if self.scale is not None:
            self.scale.fold_into(find_classifier(self.model))
        save_model(folder, self.model, self.tokenizer, arguments.save_dtype)
        temperature = (measured["calibration"] or {}).get("temperature") or 1.0
        thresholds = getattr(config, "classifier_thresholds", None)
        logits = {name: values for name, (values, _) in self.logits.items()}
        write_mistakes(folder / "mistakes.csv", data, logits, temperature, thresholds)
        measured["baselines"] = {}
        if not arguments.no_baseline:
            folds = self.choice.folds if self.is_crossed and self.choice is not None else None
            is_balanced = arguments.class_weights == "balanced"
            measured["baselines"] = measure_baselines(data, folds, is_balanced, arguments.seed)
        given = self.data_arguments, self.model_arguments, arguments
        parts = {"data": self.described, "settings": self.settings, **measured}
        record = make_record(*given, self.trainer, time.perf_counter() - self.since, parts)
        record["advice"] = advise(record) if record["baselines"] else None
        write_json(folder / "metrics.json", record)
        (folder / BEGUN).unlink(missing_ok=True)


class Scale(NamedTuple):
    """
    The mean and the deviation of the numbers of the training rows. They are learned with a mean of 0 and a deviation of
    1; the saved classifier gives them as they were.
    """

    mean: float
    deviation: float

    @classmethod
    def find(cls, numbers: ArrayLike) -> "Scale":
        """A ValueError if the numbers are too large for float32."""
        values = np.asarray(numbers, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Labels must be numbers that float32 holds, less than 3.4e38: divide them.")
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def apply(self, numbers: ArrayLike) -> NDArray:
        return (np.asarray(numbers, np.float64) - self.mean) / self.deviation

    def undo(self, values: ArrayLike) -> NDArray:
        return np.asarray(values, np.float64) * self.deviation + self.mean

    @torch.no_grad()
    def fold_into(self, classifier: nn.Linear) -> None:
        classifier.weight.copy_(classifier.weight.double() * self.deviation)
        classifier.bias.copy_(classifier.bias.double() * self.deviation + self.mean)


def find_checkpoint(folder: Path, wanted: str | None) -> Path | None:
    """
    The checkpoint from which the training goes on: the one that is given, or of "last" the last complete one in the run
    folder, or none if there is none yet.

    Raises:
        FileExistsError: The run in the folder has ended, or there is something else in it.
        FileNotFoundError: There is no such checkpoint, or no best one so far, which its run would keep.
        ValueError: The checkpoint has no state of the optimizer.
    """
    if (folder / "metrics.json").exists():
        raise FileExistsError(f"The run in `output_dir` {str(folder)!r} has ended. Choose another folder.")
    refuse_existing(folder, overwrite=True)
    is_last, is_begun = str(wanted).lower() in ("last", "true"), (folder / BEGUN).exists()
    is_own = is_begun and (is_last or (wanted is not None and Path(wanted).resolve().parent == folder.resolve()))
    # A process that was killed may leave a file that had no name yet.
    if folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir()) and not is_own:
        advice = " It goes on with --resume_from_checkpoint last." if is_begun else ""
        raise FileExistsError(f"`output_dir` {str(folder)!r} is not empty. Choose another folder.{advice}")
    checkpoint = find_last(folder) if is_last else wanted and Path(wanted)
    if not checkpoint:
        return None
    state = read_state(checkpoint)
    if state is None:
        raise FileNotFoundError(f"`resume_from_checkpoint` {wanted!r} is no complete checkpoint.")
    if not (checkpoint / "optimizer.pt").exists():
        raise ValueError(f"{str(checkpoint)!r} has no state of the optimizer: nothing can go on from it.")
    best = state["best_model_checkpoint"]
    if best is not None and not Path(best).is_dir():
        raise FileNotFoundError(f"The best checkpoint so far, {best!r}, is not there: start where the run was started.")
    return checkpoint


def check_begun(checkpoint: Path, begun: Mapping[str, Any]) -> None:
    """A ValueError if a run that is resumed was begun with other rows or settings: its record would be of neither."""
    noted = [path for name in (BEGUN, "metrics.json") if (path := checkpoint.parent / name).exists()]
    if not noted:
        raise FileNotFoundError(f"{str(checkpoint)!r} is not in the folder of a run of finetune.")
    record = read_json(noted[0])
    for part, values in begun.items():
        for name, value in values.items():
            if (before := record[part].get(name)) != value:
                raise ValueError(f"`{name}` ({value!r}) must be what it was in the run that is resumed: {before!r}.")


def load_stopped(trainer: WaveTrainer, checkpoint: Path) -> bool:
    """Loads the weights of a run that had stopped early and was ended before it had written its results."""
    patience = trainer.args.early_stopping_patience
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    stopping = (state.stateful_callbacks or {}).get(EarlyStoppingCallback.__name__)
    if not patience or not stopping or stopping["attributes"]["early_stopping_patience_counter"] < patience:
        return False
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    load_model(cast(nn.Module, trainer.model), Path(best or checkpoint, "model.safetensors"))
    trainer.state = state
    return True


def read_data(arguments: DataArguments, dataset: Any = None) -> TextData:
    data = load_text_data(**asdict(arguments) | ({} if dataset is None else {"dataset": dataset}))
    if not data.validation_was_split and "validation_fraction" in find_changed(arguments):
        raise ValueError(f"`validation_fraction` is for data without a validation split; {data.name!r} has one.")
    return data


def check_settings(changed: Mapping[str, Any], task: str, has_loss: bool) -> None:
    """A ValueError if a setting is for another task, or for our own loss."""
    kinds = {"single": "one label a row", "multi": "several labels a row", "number": "numbers"}
    for name, tasks in OF_TASKS.items():
        value = changed.get(name)
        if value in (None, "none", "float32"):
            continue
        if has_loss and name in OF_LOSS:
            raise ValueError(f"`{name}` ({value!r}) does not go with a `compute_loss_func`. Leave out one.")
        if task not in tasks:
            wanted = " or ".join(kinds[each] for each in tasks)
            raise ValueError(f"`{name}` ({value!r}) is for {wanted}; these rows have {kinds[task]}. Leave it out.")


def check_model(model: PreTrainedModel, arguments: RunArguments, task: str) -> None:
    """A ValueError if a setting asks for what the model has not."""
    name = type(model).__name__
    if arguments.calibrate and not isinstance(model, WaveForSequenceClassification):
        raise ValueError(f"`calibrate` is for a Wave Network, whose config has a temperature; {name} has none.")
    if arguments.packing and not takes_packed(model):
        raise ValueError(f"`packing` is for a model whose `forward` takes `cu_seq_lens`; that of {name} does not.")
    if arguments.mixup_alpha:
        find_classifier(model)
    if task == "number":
        find_classifier(model, "`task` 'number'")


def encode(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, losses: Losses | None = None, scale: Scale | None = None
) -> Dataset:
    """The rows as token ids, with their length for length grouping and without the text. Numbers are scaled."""

    def encode_rows(rows: dict[str, list]) -> dict[str, list]:
        encoding = tokenizer(rows["text"], rows.get("text_pair"), truncation=True)
        if losses is not None:
            losses.count(encoding)
        labels = rows["label"] if scale is None else scale.apply(rows["label"]).tolist()
        return {**encoding, "length": [len(ids) for ids in encoding["input_ids"]], "labels": labels}

    return split.map(encode_rows, batched=True, remove_columns=split.column_names, desc="Tokenizing")


def describe_skew(classes: list[tuple[int, int]], data: TextData, arguments: RunArguments) -> list[str]:
    """What the training rows of the largest and the smallest class change, a sentence a line."""
    (largest, most), (smallest, least) = ((data.label_names[label], rows) for label, rows in (classes[0], classes[-1]))
    lines = [f"The classes are skewed: {most:,} training rows of {largest!r}, {least:,} of {smallest!r}."]
    if arguments.class_weights == "balanced" and "class_weights" not in arguments.changed:
        lines.append("So each class weighs the same in the loss; each row does with --class_weights none.")
    is_chosen = arguments.metric_for_best_model == "macro_f1" and "metric_for_best_model" not in arguments.changed
    if is_chosen and arguments.eval_strategy != "no":
        lines.append("So macro F1 says which epoch is best; accuracy does with --metric_for_best_model accuracy.")
    return lines


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
    """Saves beside the folder first and moves file by file, weights last, so that nothing is ever half written."""
    for left in folder.glob("_saving-*"):  # by a process that was killed
        shutil.rmtree(left)
    with name_failures(folder), tempfile.TemporaryDirectory(dir=folder, prefix="_saving-") as temporary:
        model.to(getattr(torch, dtype)).save_pretrained(temporary)
        model.float()
        config = Path(temporary, "config.json")
        write_json(config, read_json(config) | {"dtype": "float32"})  # what it computes in, wherever it is loaded
        tokenizer.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: "safetensors" in path.name):
            os.replace(path, folder / path.name)
