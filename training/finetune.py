"""`wave-network finetune`: data by name or path in, a run folder with a model ready to share out."""

import inspect
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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

from ..data.load import load_text_data
from ..data.measure import METRICS, TITLES, calibrate, compute_metrics, measure, show
from ..data.tokens import DataCollatorWithPadding, Losses
from ..files import name_failures, read_json, refuse_existing, write_json
from ..modeling_wave import WaveForSequenceClassification
from .baselines import measure_baselines
from .decisions import describe_abstain, tune_abstain, tune_thresholds
from .mistakes import write_mistakes
from .probe import Choice, choose, choose_pooling, compares_pairs, goes_on_from_probe, start_head
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
from .trainer import DataCollatorWithPacking, WaveTrainer, find_classifier, find_last, make_loss

# What a run was begun with, in its folder until `metrics.json` says it.
BEGUN = "run.json"
# Settings that are not for every task.
OF_TASKS = {
    **dict.fromkeys(("class_weights", "label_smoothing_factor", "calibrate", "teacher"), ("single",)),
    "save_dtype": ("single", "multi"),  # float16 has three digits
}

MakeModel = Callable[[ModelArguments, PreTrainedTokenizerBase, Sequence[str]], PreTrainedModel]


@quiet()
def finetune(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    make_model: MakeModel | None = None,
    dataset: Any = None,
) -> Path:
    """
    Trains a classifier and leaves a run folder: the best model by validation with its tokenizer and code,
    `metrics.json`, which says how it was made and what it reached, `mistakes.csv` and checkpoints.

    Under `torchrun` all processes call it; the first one writes.

    Args:
        data_arguments: What to learn from.
        model_arguments: What to train.
        arguments: How to train.
        make_model: A model of your own: called with `model_arguments`, the tokenizer and the names of the classes,
            after the seed was set.
        dataset: Data in memory, as `load_text_data` takes them, in place of the name in `data_arguments`.

    Returns:
        The run folder.

    Raises:
        FileExistsError: There is something in the run folder, and it is not gone on with.
        ImportError: The package of a tracker in `report_to` is not installed.
        ValueError, OSError: Bad data, settings or files; the message names them.
    """
    run = Run(data_arguments, model_arguments, arguments, make_model)
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
    if run.is_main:
        run.save(run.measure())
    arguments.distributed_state.wait_for_everyone()
    return run.folder


@dataclass
class Run:
    """What the steps of `finetune` hand on. Each is a method, in their order."""

    data_arguments: DataArguments
    model_arguments: ModelArguments
    arguments: RunArguments
    make_model: MakeModel | None

    def __post_init__(self) -> None:
        self.since, self.is_main = time.perf_counter(), self.arguments.process_index == 0
        source = os.path.abspath(self.data_arguments.dataset or self.data_arguments.train_file or "")
        self.folder = Path(self.arguments.output_dir or Path("runs", Path(source).name.lstrip(".").split(".")[0]))
        self.arguments.output_dir = str(self.folder)

    def say(self, *lines: str) -> None:
        if self.is_main:
            print(*lines, sep="\n", flush=True)

    def read(self, dataset: Any) -> None:
        """Reads the rows, and settles what goes by them alone."""
        given = asdict(self.data_arguments) | ({} if dataset is None else {"dataset": dataset})
        arguments, self.data = self.arguments, load_text_data(**given)
        labels, task = self.data.train["label"], self.data.task
        self.say(f"{self.data.name}: {self.data.found}")
        if not self.data.validation_was_split and "validation_fraction" in find_changed(self.data_arguments):
            raise ValueError("`validation_fraction` is for data without a validation split; these data have one.")
        check_task(task, find_changed(self.model_arguments) | arguments.changed)
        arguments.resolve_task(task)
        self.scale = Scale.find(labels) if task == "number" else None
        self.classes = Counter(labels).most_common() if task == "single" else []  # with their rows, the largest first
        self.is_skewed = bool(self.classes) and self.classes[0][1] >= SKEWED * self.classes[-1][1]
        arguments.resolve_skew(self.is_skewed)

    def prepare_model(self) -> None:
        arguments, data = self.arguments, self.data
        if self.model_arguments.teacher is not None:  # one that is not there is said before anything is written
            AutoTokenizer.from_pretrained(self.model_arguments.teacher, trust_remote_code=False)
        self.model_arguments = resolve_start(self.model_arguments, data, self.make_model is not None)
        self.tokenizer = get_tokenizer(self.model_arguments, data)
        self.is_new = find_start(self.model_arguments) is None and self.make_model is None
        arguments.subword_buckets = resolve_subwords(arguments.subword_buckets, self.tokenizer, self.is_new)
        set_seed(arguments.seed)
        make = self.make_model or partial(get_model, task=data.task, is_pair="text_pair" in data.train.column_names)
        self.model = make(self.model_arguments, self.tokenizer, data.label_names)
        columns = {"text_columns": data.text_columns, "label_column": data.label_column}  # for predict and evaluate
        separator = self.data_arguments.label_separator
        self.model.config.update(columns | ({} if separator is None else {"label_separator": separator}))
        check_model(self.model, arguments, data.task)

    def encode(self) -> None:
        """Cuts the texts into tokens, and says what is lost and what is trained."""
        losses, counts = Losses(self.tokenizer), count_parameters(self.model)
        with self.arguments.main_process_first(desc="tokenize"):
            splits = self.data.splits.items()
            self.encoded = {name: encode(rows, self.tokenizer, losses, self.scale) for name, rows in splits}
        self.say(
            *losses.describe(": --max_length"),
            f"{type(self.model).__name__}: {counts['parameters']:,} parameters "
            f"(core {counts['core_parameters']:,}, table {counts['table_parameters']:,})",
            f"Run folder: {self.folder}",
        )

    def choose_start(self) -> None:
        """Puts a probe into the head of an encoder, cross-validates few rows, and completes how it is trained."""
        arguments, model_arguments, data, model = self.arguments, self.model_arguments, self.data, self.model
        self.choice: Choice | None = None
        self.logits: dict[str, tuple[NDArray, NDArray]] = {}
        self.texts: Texts = []  # that a teacher is asked about
        if model_arguments.teacher is not None:
            self.texts = gather_texts(model_arguments, data, self.data_arguments.text_columns, arguments.seed)
        has_probe = self.make_model is None and (is_encoder(model.config) or (self.is_new and compares_pairs(model)))
        is_one = has_probe and arguments.world_size == 1
        is_asked = {*find_changed(self.data_arguments), *arguments.changed} & set(OF_VALIDATION)
        is_few = len(data.train) + len(data.validation) <= FEW and not self.texts
        self.is_crossed = is_one and is_few and data.validation_was_split and not is_asked
        if self.is_crossed:
            self.join_validation()
        if self.is_skewed:
            self.say(describe_skew(self.classes, data.label_names, arguments))
        if is_one and model_arguments.classifier_pooling is None and not compares_pairs(model):
            texts, task = self.data.train.remove_columns("label"), data.task
            if choose_pooling(model, self.encoded["train"], texts, arguments, self.make_trainer, task) == "opening":
                self.say("The classifier reads the first words apart, too: --classifier_pooling opening")
        rows = len(self.texts or self.data.train)
        if is_one and rows <= FEW and not self.texts:
            self.choose_by_probe()
        elif is_one and compares_pairs(model):
            start_head(model, self.encoded["train"], arguments, self.make_trainer, data.task)
        if has_probe:
            arguments.set_defaults(suggest_finetuning(rows))
        arguments.resolve_numbers(rows, self.is_new)
        dropout = getattr(model.config, "hidden_dropout_prob", None)
        if arguments.num_train_epochs:
            self.say(
                f"Training: {arguments.num_train_epochs:g} epochs, learning rate {arguments.learning_rate:g}, batches "
                f"of {arguments.per_device_train_batch_size}{'' if dropout is None else f', dropout {dropout:g}'}."
            )

    def join_validation(self) -> None:
        """No row is wasted: those that were split off are trained on, too."""
        data, encoded = self.data, self.encoded
        numbers = {**data.numbers, "train": [*data.numbers["train"], *data.numbers["validation"]]}
        joined = concatenate_datasets([data.train, data.validation])
        self.data = replace(data, train=joined, numbers=numbers, validation_was_split=False)
        encoded["train"] = concatenate_datasets([encoded["train"], encoded.pop("validation")])
        self.arguments.set({"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False})
        self.say(f"Few rows: all {len(joined):,} are trained on. They are held out in turn to validate.")

    def choose_by_probe(self) -> None:
        """Chooses by cross-validation how to fine-tune from a probe, if at all. Rows held out in turn validate."""
        arguments, data, model, encoded = self.arguments, self.data, self.model, self.encoded["train"]
        may_stay = arguments.num_train_epochs is None and arguments.max_steps <= 0
        arguments.set_defaults(suggest_finetuning(len(encoded)))
        texts, metric = data.train.remove_columns("label"), METRICS[data.task][0]
        self.choice = choice = choose(model, encoded, texts, arguments, self.make_trainer, data.task, may_stay)
        if choice.is_alone:
            arguments.num_train_epochs = 0.0
        if choice.is_alone or goes_on_from_probe(model, len(encoded)):
            choice.probe.put_into(model)
        found = ", ".join(f"{name} {show(metric, score)}" for name, score in choice.scores.items())
        title, kept = TITLES[metric], " The probe is kept as it is." if choice.is_alone else ""
        title = title[0].upper() + title[1:]
        self.say(f"{title} on {len(choice.rows):,} training rows held out in turn: {found}.{kept}")
        if self.is_crossed:
            numbers = data.numbers | {"validation": [data.numbers["train"][row] for row in choice.rows]}
            self.data = replace(data, validation=data.train.select(choice.rows), numbers=numbers)
            self.keep_logits("validation", choice.logits)

    def keep_logits(self, split: str, logits: NDArray) -> None:
        """What is measured of a split: logits, or numbers as they were before they were scaled, and its labels."""
        labels = np.asarray(self.data.splits[split]["label"])
        self.logits[split] = (logits if self.scale is None else self.scale.undo(logits)), labels

    def make_trainer(self, model: PreTrainedModel, arguments: RunArguments, rows: Dataset) -> WaveTrainer:
        labels, names, task = self.data.train["label"], self.data.label_names, self.data.task
        loss = make_loss(arguments, labels, len(names), task)

        def measure_epoch(found: EvalPrediction) -> dict[str, float]:
            if self.scale is not None:
                found = EvalPrediction(self.scale.undo(found.predictions), self.scale.undo(found.label_ids))
            return compute_metrics(found, task)

        return WaveTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=self.encoded["validation"] if arguments.eval_strategy != "no" else None,
            processing_class=self.tokenizer,
            data_collator=DataCollatorWithPacking() if arguments.packing else DataCollatorWithPadding(self.tokenizer),
            compute_metrics=measure_epoch,
            compute_loss_func=TeacherLoss(loss) if self.texts else loss,
        )

    def begin(self, checkpoint: Path | None) -> None:
        """Notes what is trained on what, or compares it with what was noted before the run was stopped."""
        settings = describe_settings(self.model_arguments, self.arguments, self.model.config, self.tokenizer)
        if self.make_model is not None:
            settings["make_model"] = getattr(self.make_model, "__qualname__", type(self.make_model).__qualname__)
        if self.texts:
            settings |= {"teacher": self.model_arguments.teacher, "texts_of_teacher": len(self.texts)}
        self.begun = {"data": describe_data(self.data, self.is_crossed), "settings": settings}
        before = self.begun if checkpoint is None else read_json(self.folder / BEGUN)
        for part, values in self.begun.items():  # the record of a mixture would be of neither
            for name, value in values.items():
                if (was := before[part].get(name)) != value:
                    raise ValueError(f"`{name}` ({value!r}) must be what it was in the run that is resumed: {was!r}.")
        if self.is_main:
            # From the first checkpoint on, a push of the run folder finds code and tokenizer in it.
            self.folder.mkdir(parents=True, exist_ok=True)
            with name_failures(self.folder):
                write_json(self.folder / BEGUN, self.begun)
                self.model.config.save_pretrained(self.folder)
                self.tokenizer.save_pretrained(self.folder)

    def train(self, checkpoint: Path | None) -> None:
        arguments, model, rows = self.arguments, self.model, self.encoded["train"]
        if self.texts:
            with arguments.main_process_first(desc="ask the teacher"):
                teacher = cast(str, self.model_arguments.teacher)
                taught = ask_teacher(teacher, self.data, self.texts, arguments, self.folder, encode)
            rows = encode(taught, self.tokenizer)
        add_subwords(model, self.tokenizer, cast(int, arguments.subword_buckets))
        self.trainer = self.make_trainer(model, arguments, rows)
        if patience := arguments.early_stopping_patience:
            self.trainer.add_callback(EarlyStoppingCallback(patience, arguments.early_stopping_threshold))
        has_ended = checkpoint is not None and load_stopped(self.trainer, checkpoint)
        if arguments.num_train_epochs and not has_ended:
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        fold_subwords(model)

    def predict(self) -> None:
        """The logits of the rows that are measured, in the order in which they are given, whatever trained."""
        if self.arguments.save_dtype == "float16":
            self.model.half().float()  # what is measured is what is saved
        self.arguments.train_sampling_strategy = "random"  # of none, the order of length
        for name in [name for name in self.encoded if name != "train"]:
            order = np.argsort(self.encoded[name]["length"], kind="stable")
            logits = np.asarray(self.trainer.predict(self.encoded[name].select(order)).predictions)
            self.keep_logits(name, logits[np.argsort(order)])

    def measure(self) -> dict[str, Any]:
        """What was reached. What is decided by validation rows goes into the config."""
        task, logits, names = self.data.task, self.logits, self.data.label_names
        self.thresholds = tune_thresholds(*logits["validation"]) if task == "multi" else None
        results = {name: measure(task, *split, names, self.thresholds) for name, split in logits.items()}
        calibration = calibrate(logits, fit=self.arguments.calibrate) if task == "single" else None
        self.temperature = calibration["temperature"] if calibration else None
        chosen = tune_abstain(*logits["validation"], self.temperature) if calibration else None
        decided = {"temperature": self.temperature, "thresholds": self.thresholds, "abstain": chosen}
        config = {f"classifier_{name}": value for name, value in decided.items() if value is not None}
        self.model.config.update(config)
        held = logits.get("test", logits["validation"])
        abstain = None if chosen is None else describe_abstain(chosen, *held, self.temperature)
        return {"task": task, "results": results, "calibration": calibration, "abstain": abstain}

    def save(self, measured: dict[str, Any]) -> None:
        """Writes the model, its mistakes and its record; `metrics.json` says that the run has ended."""
        data, folder, arguments, model = self.data, self.folder, self.arguments, self.model
        if self.scale is not None:
            self.scale.fold_into(find_classifier(model))
        save(folder, model, self.tokenizer, arguments.save_dtype)
        write_mistakes(folder / "mistakes.csv", data, self.logits, self.temperature or 1.0, self.thresholds)
        baselines: dict[str, Any] = {}
        if not arguments.no_baseline:
            folds = self.choice.folds if self.is_crossed and self.choice is not None else None
            baselines = measure_baselines(data, folds, arguments.class_weights == "balanced", arguments.seed)
        given = self.data_arguments, self.model_arguments, arguments
        record = make_record(*given, self.trainer, time.perf_counter() - self.since)
        record |= {**self.begun, **measured, "baselines": baselines}
        record["advice"] = advise(record) if baselines else None
        write_json(folder / "metrics.json", record)
        (folder / BEGUN).unlink(missing_ok=True)


class Scale(NamedTuple):
    """The mean and deviation of the training rows' numbers, which are learned with a mean of 0 and a deviation of 1."""

    mean: float
    deviation: float

    @classmethod
    def find(cls, numbers: ArrayLike) -> "Scale":
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
        """What is saved gives numbers as they were."""
        classifier.weight.copy_(classifier.weight.double() * self.deviation)
        classifier.bias.copy_(classifier.bias.double() * self.deviation + self.mean)


def find_checkpoint(folder: Path, wanted: str | None) -> Path | None:
    """
    The last complete checkpoint in the run folder, from which the training goes on, if that is wanted and there is one.

    Raises:
        FileExistsError: The run in the folder has ended, or is not to go on, or there is something else in it.
        ValueError: The checkpoint cannot be gone on from.
    """
    if wanted is not None and str(wanted).lower() not in ("last", "true"):
        raise ValueError(f"`resume_from_checkpoint` must be last, got {wanted!r}.")
    if (folder / "metrics.json").exists():
        raise FileExistsError(f"The run in `output_dir` {str(folder)!r} has ended. Choose another folder.")
    refuse_existing(folder, overwrite=True)
    is_begun = (folder / BEGUN).exists()
    # A process that was killed may leave a file that had no name yet.
    is_used = folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir())
    if is_used and not (is_begun and wanted):
        advice = " It goes on with --resume_from_checkpoint last." if is_begun else ""
        raise FileExistsError(f"`output_dir` {str(folder)!r} is not empty. Choose another folder.{advice}")
    checkpoint = find_last(folder) if wanted else None
    if checkpoint is None:
        return None
    best = read_json(checkpoint / "trainer_state.json")["best_model_checkpoint"]
    if best is not None and not Path(best).is_dir():
        raise ValueError(f"The best checkpoint so far, {best!r}, is not there: start where the run was started.")
    return checkpoint


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


def check_task(task: str, changed: Mapping[str, Any]) -> None:
    """A ValueError if a setting is for another task."""
    kinds = {"single": "one label a row", "multi": "several labels a row", "number": "numbers"}
    for name, tasks in OF_TASKS.items():
        value, wanted = changed.get(name), " or ".join(kinds[each] for each in tasks)
        if task not in tasks and value not in (None, "none", "float32"):
            raise ValueError(f"`{name}` ({value!r}) is for {wanted}; these rows have {kinds[task]}. Leave it out.")


def check_model(model: PreTrainedModel, arguments: RunArguments, task: str) -> None:
    """A ValueError if a setting asks for what the model has not."""
    name = type(model).__name__
    if arguments.calibrate and not isinstance(model, WaveForSequenceClassification):
        raise ValueError(f"`calibrate` is for a Wave Network, whose config has a temperature; {name} has none.")
    if arguments.packing and "cu_seq_lens" not in inspect.signature(model.forward).parameters:
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


def describe_skew(classes: list[tuple[int, int]], names: Sequence[str], arguments: RunArguments) -> str:
    """What the training rows of the largest and the smallest class change."""
    (largest, most), (smallest, least) = ((names[label], rows) for label, rows in (classes[0], classes[-1]))
    said = f"The classes are skewed: {most:,} training rows of {largest!r}, {least:,} of {smallest!r}."
    if "class_weights" not in arguments.changed:
        said += "\nSo each class weighs the same in the loss; each row does with --class_weights none."
    if "metric_for_best_model" not in arguments.changed and arguments.eval_strategy != "no":
        said += "\nSo macro F1 says which epoch is best; accuracy does with --metric_for_best_model accuracy."
    return said


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
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
