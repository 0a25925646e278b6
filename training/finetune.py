"""`wave-network finetune`: data by name or path in, a run folder with a model ready to share out."""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction

from ..configuration import WaveConfig
from ..data.load import TextData, load_text_data
from ..data.measure import METRICS, PROBLEMS, calibrate, compute_metrics, measure
from ..data.tokens import DataCollatorWithPadding, Losses
from ..files import name_failures, read_json, refuse_existing, write_json
from ..modeling_wave import WaveForSequenceClassification, WaveModel
from ..tokenization import load_wave_tokenizer, train_wave_tokenizer
from .baselines import measure_baselines
from .decisions import describe_abstain, tune_abstain, tune_thresholds
from .mistakes import write_mistakes
from .numbers import Scale
from .packing import DataCollatorWithPacking, takes_packed
from .probe import Choice, MakeTrainer, choose, compares_pairs, goes_on_from_probe, start_head
from .progress import quiet
from .record import count_parameters, describe_data, describe_settings, make_record
from .results import advise
from .settings import (
    DROPOUT,
    FEW,
    MAX_LENGTH,
    OF_VALIDATION,
    SKEWED,
    DataArguments,
    ModelArguments,
    RunArguments,
    find_changed,
    suggest_finetuning,
)
from .start import find_start, resolve_start
from .subwords import add_subwords, fold_subwords, resolve_subwords
from .teacher import TeacherLoss, ask_teacher, gather_texts
from .trainer import WaveTrainer, find_classifier, find_last, make_loss, read_state

# What a run was begun with, in its folder until `metrics.json` says it.
BEGUN = "run.json"
# Settings that are not for every task.
OF_TASKS = {
    **dict.fromkeys(("class_weights", "label_smoothing_factor", "calibrate", "teacher"), ("single",)),
    "save_dtype": ("single", "multi"),  # float16 has three digits
}


@quiet()
def finetune(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    make_model: Callable[[ModelArguments, PreTrainedTokenizerBase, Sequence[str]], PreTrainedModel] | None = None,
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
    start = time.perf_counter()
    folder = Path(arguments.output_dir or f"runs/{name_run(data_arguments)}")
    arguments.output_dir = str(folder)
    if compute_loss_func is not None:
        check_own_loss(model_arguments, arguments)
    with arguments.main_process_first(desc="look at the run folder"):  # before anything is written
        checkpoint = find_checkpoint(folder, arguments.resume_from_checkpoint)
    arguments.restore_callback_states_from_checkpoint = True  # the patience of early stopping
    # Tiny activations and moments become denormal numbers, which a CPU handles slowly. Threads inherit this when they
    # start, so it stands before anything that starts them.
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)

    data, is_main = read_data(data_arguments, dataset), arguments.process_index == 0
    if is_main:
        print(f"{data.name}: {data.found}", flush=True)
    check_task(data, model_arguments, arguments)
    arguments.resolve_task(data.task)
    scale = Scale.find(data.train["label"]) if data.task == "number" else None
    restore: Callable[[Any], np.ndarray] = np.asarray if scale is None else scale.undo
    skew = find_skew(data)
    arguments.resolve_skew(skew is not None and compute_loss_func is None)
    if model_arguments.teacher is not None:  # one that is not there is said before anything is written
        AutoTokenizer.from_pretrained(model_arguments.teacher, trust_remote_code=False)
    model_arguments = resolve_start(model_arguments, data, make_model is not None)
    tokenizer = get_tokenizer(model_arguments, data)
    is_new = find_start(model_arguments) is None and make_model is None
    arguments.subword_buckets = resolve_subwords(arguments.subword_buckets, tokenizer, is_new)
    set_seed(arguments.seed)
    own = partial(get_model, task=data.task, is_pair="text_pair" in data.train.column_names)
    model = (make_model or own)(model_arguments, tokenizer, data.label_names)
    model.config.update({"text_columns": data.text_columns, "label_column": data.label_column})  # for predict
    if data_arguments.label_separator is not None:
        model.config.update({"label_separator": data_arguments.label_separator})  # for evaluate
    check_model(model, arguments, data.task)
    counts = count_parameters(model)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    losses = Losses(tokenizer)
    with arguments.main_process_first(desc="tokenize"):
        encoded = {name: encode(split, tokenizer, losses, scale) for name, split in splits.items() if split is not None}
    if is_main:
        print_summary(model, counts, folder, losses)

    def measure_epoch(found: EvalPrediction) -> dict[str, float]:
        return compute_metrics(EvalPrediction(restore(found.predictions), restore(found.label_ids)), data.task)

    def make_trainer(model: PreTrainedModel, arguments: RunArguments, rows: Dataset) -> WaveTrainer:
        return WaveTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=encoded["validation"] if arguments.eval_strategy != "no" else None,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPacking() if arguments.packing else DataCollatorWithPadding(tokenizer),
            compute_metrics=measure_epoch,
            compute_loss_func=compute_loss_func
            or make_loss(arguments, data.train["label"], len(data.label_names), data.task),
        )

    is_taught, rows = model_arguments.teacher is not None, len(data.train)
    if is_taught:
        texts = gather_texts(model_arguments, data, data_arguments.text_columns, arguments.seed)
        rows = len(texts)
    choice: Choice | None = None
    logits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    has_probe = make_model is None and (is_encoder(model.config) or (is_new and compares_pairs(model)))
    is_crossed = has_probe and not is_taught and is_cross_validated(data, data_arguments, arguments)
    if is_crossed:
        numbers = {**data.numbers, "train": [*data.numbers["train"], *data.numbers["validation"]]}
        joined = concatenate_datasets([data.train, data.validation])
        data = replace(data, train=joined, numbers=numbers, validation_was_split=False)
        encoded["train"] = concatenate_datasets([encoded["train"], encoded.pop("validation")])
        arguments.set({"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False})
        print(f"Few rows: all {len(joined):,} are trained on. They are held out in turn to validate.", flush=True)
    if skew is not None and is_main:
        print_skew(skew, data, arguments)
    if has_probe:
        is_few = not is_taught and rows <= FEW and arguments.world_size == 1
        choice = start_from_encoder(model, data, encoded["train"], arguments, make_trainer) if is_few else None
        if not is_few and compares_pairs(model) and arguments.world_size == 1:
            start_head(model, encoded["train"], arguments, make_trainer, data.task)
        arguments.set_defaults(suggest_finetuning(rows))
        if is_crossed and choice is not None:
            numbers = data.numbers | {"validation": [data.numbers["train"][row] for row in choice.rows]}
            data = replace(data, validation=data.train.select(choice.rows), numbers=numbers)
            logits["validation"] = restore(choice.logits), np.asarray(data.validation["label"])
    arguments.resolve_numbers(rows, is_new)
    if is_main:
        print_training(arguments, model)
    settings = describe_settings(model_arguments, arguments, model.config, tokenizer)
    if compute_loss_func is not None:
        settings["loss"] = f"compute_loss_func={name_function(compute_loss_func)}"
    if make_model is not None:
        settings["model"] = f"make_model={name_function(make_model)}"
    if is_taught:
        settings |= {"teacher": model_arguments.teacher, "texts_of_teacher": rows}
    begun = {"data": describe_data(data, is_crossed), "settings": settings}
    if checkpoint is not None:
        check_begun(checkpoint, begun)
    if is_main:
        # From the first checkpoint on, a push of the run folder finds code and tokenizer in it.
        folder.mkdir(parents=True, exist_ok=True)
        with name_failures(folder):
            write_json(folder / BEGUN, begun)
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    if is_taught:
        compute_loss_func = TeacherLoss(make_loss(arguments, data.train["label"], len(data.label_names)))
        with arguments.main_process_first(desc="ask the teacher"):
            taught = ask_teacher(cast(str, model_arguments.teacher), data, texts, arguments, folder, encode)
        encoded["train"] = encode(taught, tokenizer)
    add_subwords(model, tokenizer, arguments.subword_buckets)

    trainer = make_trainer(model, arguments, encoded["train"])
    if arguments.early_stopping_patience:
        stopping = EarlyStoppingCallback(arguments.early_stopping_patience, arguments.early_stopping_threshold)
        trainer.add_callback(stopping)
    is_trained = arguments.num_train_epochs == 0 or (checkpoint is not None and load_stopped(trainer, checkpoint))
    if not is_trained:
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    fold_subwords(model)

    if arguments.save_dtype == "float16":
        model.half().float()  # what is measured is what is saved
    arguments.train_sampling_strategy = "random"  # measured in the order that is given, whatever trained
    for name in [name for name in ("validation", "test") if name in encoded]:
        order = np.argsort(encoded[name]["length"], kind="stable")
        prediction = trainer.predict(encoded[name].select(order))
        places = np.argsort(order)
        logits[name] = restore(prediction.predictions)[places], restore(prediction.label_ids)[places]
    thresholds = tune_thresholds(*logits["validation"]) if data.task == "multi" else None
    results = {name: measure(data.task, *split, data.label_names, thresholds) for name, split in logits.items()}
    if scale is not None:
        scale.fold_into(find_classifier(model))
    if trainer.is_world_process_zero():
        calibration = calibrate(logits, fit=arguments.calibrate) if data.task == "single" else None
        abstain = None
        if thresholds is not None:
            model.config.update({"classifier_thresholds": thresholds})
        if calibration is not None:
            temperature = calibration["temperature"]
            model.config.update({} if temperature is None else {"classifier_temperature": temperature})
            chosen = tune_abstain(*logits["validation"], temperature)
            model.config.update({"classifier_abstain": chosen})
            abstain = describe_abstain(chosen, *logits.get("test", logits["validation"]), temperature)
        save(folder, model, tokenizer, arguments.save_dtype)
        decided = (calibration or {}).get("temperature") or 1.0, thresholds
        write_mistakes(folder / "mistakes.csv", data, {name: each for name, (each, _) in logits.items()}, *decided)
        baselines = {}
        if not arguments.no_baseline:
            folds = choice.folds if is_crossed and choice is not None else None
            baselines = measure_baselines(data, folds, arguments.class_weights == "balanced", arguments.seed)
        arguments_of_run = (data_arguments, model_arguments, arguments)
        seconds = time.perf_counter() - start
        measured: dict[str, Any] = {"task": data.task, "results": results, "baselines": baselines}
        measured |= {"calibration": calibration, "abstain": abstain}
        record = make_record(*arguments_of_run, begun["data"], trainer, measured, settings, seconds)
        record["advice"] = advise(record, data) if baselines else None
        write_json(folder / "metrics.json", record)
        (folder / BEGUN).unlink(missing_ok=True)
    arguments.distributed_state.wait_for_everyone()
    return folder


def name_run(arguments: DataArguments) -> str:
    """What a folder is called after its data."""
    return Path(os.path.abspath(arguments.dataset or arguments.train_file or "")).name.lstrip(".").split(".")[0]


def name_function(function: Callable) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def check_own_loss(model_arguments: ModelArguments, arguments: RunArguments) -> None:
    changed = find_changed(model_arguments) | arguments.changed
    for name in ("class_weights", "label_smoothing_factor", "teacher"):
        if name in changed:
            value = changed[name]
            raise ValueError(f"`{name}` ({value!r}) does not go with a `compute_loss_func`. Leave out one.")


def find_checkpoint(folder: Path, wanted: str | None) -> Path | None:
    """
    The checkpoint from which the training goes on: the one that is given, or of "last" the last complete one in the run
    folder, or none if there is none yet.

    Raises:
        FileExistsError: The run in the folder has ended, or there is something else in it.
        FileNotFoundError: There is no such checkpoint, or no best one so far, which its run would keep.
        ValueError: The checkpoint has no state of the optimizer.
    """
    is_last = str(wanted).lower() in ("last", "true")
    if (folder / "metrics.json").exists():
        raise FileExistsError(f"The run in `output_dir` {str(folder)!r} has ended. Choose another folder.")
    refuse_existing(folder, overwrite=True)
    is_own = (folder / BEGUN).exists() and (is_last or (wanted and Path(wanted).resolve().parent == folder.resolve()))
    # A process that was killed may leave a file that had no name yet.
    if folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir()) and not is_own:
        advice = " It goes on with --resume_from_checkpoint last." if (folder / BEGUN).exists() else ""
        raise FileExistsError(f"`output_dir` {str(folder)!r} is not empty. Choose another folder.{advice}")
    if wanted is None:
        return None
    if is_last:
        checkpoint = find_last(folder)
        if checkpoint is None:
            return None
    else:
        checkpoint = Path(wanted)
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
    before = next(
        (checkpoint.parent / name for name in (BEGUN, "metrics.json") if (checkpoint.parent / name).exists()), None
    )
    if before is None:
        raise FileNotFoundError(f"{str(checkpoint)!r} is not in the folder of a run of finetune.")
    record = read_json(before)
    for part in ("data", "settings"):
        for name, value in begun[part].items():
            if record[part].get(name) != value:
                raise ValueError(
                    f"`{name}` ({value!r}) must be what it was in the run that is resumed: {record[part].get(name)!r}."
                )


def load_stopped(trainer: WaveTrainer, checkpoint: Path) -> bool:
    """Loads the weights of a run that had stopped early and was ended before it had written its results."""
    patience = trainer.args.early_stopping_patience
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    stopping = (state.stateful_callbacks or {}).get(EarlyStoppingCallback.__name__)
    if not patience or not stopping or stopping["attributes"]["early_stopping_patience_counter"] < patience:
        return False
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    trainer._load_from_checkpoint(str(best or checkpoint))
    trainer.state = state
    return True


def read_data(arguments: DataArguments, dataset: Any = None) -> TextData:
    data = load_text_data(**asdict(arguments) | ({} if dataset is None else {"dataset": dataset}))
    if not data.validation_was_split and "validation_fraction" in find_changed(arguments):
        raise ValueError(f"`validation_fraction` is for data without a validation split; {data.name!r} has one.")
    return data


def find_skew(data: TextData) -> list[tuple[int, int]] | None:
    """The classes with their training rows, the largest first, if it is far larger than the smallest."""
    classes = Counter(data.train["label"]).most_common() if data.task == "single" else []
    return classes if classes and classes[0][1] >= SKEWED * classes[-1][1] else None


def check_task(data: TextData, model_arguments: ModelArguments, arguments: RunArguments) -> None:
    """A ValueError if a setting is for another task."""
    changed = find_changed(model_arguments) | arguments.changed
    kinds = {"single": "one label a row", "multi": "several labels a row", "number": "numbers"}
    for name, tasks in OF_TASKS.items():
        if data.task not in tasks and changed.get(name) not in (None, "none", "float32"):
            raise ValueError(
                f"`{name}` ({changed[name]!r}) is for {' or '.join(map(kinds.__getitem__, tasks))}; these rows have "
                f"{kinds[data.task]}. Leave it out."
            )


def get_tokenizer(arguments: ModelArguments, data: TextData) -> PreTrainedTokenizerBase:
    source = arguments.tokenizer or find_start(arguments)
    if source is None:
        texts = [text for name in ("text", "text_pair") if name in data.train.column_names for text in data.train[name]]
        settings: dict[str, Any] = {
            "lowercase": arguments.lowercase,
            "model_max_length": arguments.max_length or MAX_LENGTH,
            "show_progress": False,
        }
        return train_wave_tokenizer(texts, arguments.vocab_size, **settings)
    tokenizer = load_wave_tokenizer(source)
    longest = tokenizer.model_max_length
    if arguments.max_length is not None and arguments.max_length > longest:
        raise ValueError(
            f"`max_length` must be at most {longest}, as that of {source!r} is, got {arguments.max_length}."
        )
    tokenizer.model_max_length = arguments.max_length or min(longest, MAX_LENGTH)
    return tokenizer


def get_model(
    arguments: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    label_names: Sequence[str],
    task: str = "single",
    is_pair: bool = False,
) -> PreTrainedModel:
    names = label_names if task != "number" else ["value"]
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": PROBLEMS[task],
    }
    if arguments.classifier_pooling == "segments" and not is_pair:
        raise ValueError("`classifier_pooling` 'segments' is for pairs of texts, got rows of one text.")
    start, dropout = find_start(arguments), arguments.hidden_dropout_prob
    if start is not None:
        config = AutoConfig.from_pretrained(start, trust_remote_code=False, **labels)
        if dropout is not None and not hasattr(config, "hidden_dropout_prob"):
            raise ValueError(f"`hidden_dropout_prob` ({dropout}) is not a field of {type(config).__name__}.")
        for name in ("classifier_thresholds", "classifier_abstain"):  # of the weights as they were
            vars(config).pop(name, None)
        segments = getattr(config, "type_vocab_size", 0)
        if is_encoder(config):
            dropout = DROPOUT if dropout is None else dropout
            if is_pair:
                config.update({"classifier_pooling": "segments", "type_vocab_size": max(segments, 2)})
        config.update({} if dropout is None else {"hidden_dropout_prob": dropout})
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            start,
            config=config,
            ignore_mismatched_sizes=True,  # of the classifier, if the classes are others
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        for weight, found, expected in sorted(loaded["mismatched_keys"]):
            if weight.startswith(f"{model.base_model_prefix}.") and "token_type_embeddings" not in weight:
                raise ValueError(
                    f"`model` {start!r} must have the {weight!r} that its config.json asks for, of shape "
                    f"{tuple(expected)}, got one of shape {tuple(found)}."
                )
        if getattr(model.config, "type_vocab_size", 0) > segments:
            nn.init.zeros_(cast(Any, model).wave.embeddings.token_type_embeddings.weight)  # reads as before
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        if isinstance(model, WaveForSequenceClassification):
            model.config.classifier_temperature = 1.0  # another one belongs to the weights as they were
        return model
    own = {name: value for name, value in asdict(arguments).items() if hasattr(WaveConfig, name)}
    own["hidden_dropout_prob"] = WaveConfig.hidden_dropout_prob if dropout is None else dropout
    own |= {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    own["conv_kernel_size"] = arguments.conv_kernel_size or None
    own["classifier_pooling"] = arguments.classifier_pooling or ("segments" if is_pair else "mean")
    own["type_vocab_size"] = 2 if is_pair else 0
    model = WaveForSequenceClassification(WaveConfig(**own, pad_token_id=tokenizer.pad_token_id, **labels))
    if is_pair:
        nn.init.zeros_(model.wave.embeddings.token_type_embeddings.weight)  # a word is the same in both texts
    return model


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model is a Wave Network that has no classifier yet."""
    return config.model_type == WaveConfig.model_type and config.architectures == [WaveModel.__name__]


def is_cross_validated(data: TextData, data_arguments: DataArguments, arguments: RunArguments) -> bool:
    """Whether all rows are trained on: few ones, with no validation split and nothing said about validation."""
    rows = len(data.train) + len(data.validation)
    is_asked = {*find_changed(data_arguments), *arguments.changed} & set(OF_VALIDATION)
    return data.validation_was_split and rows <= FEW and not is_asked and arguments.world_size == 1


def start_from_encoder(
    model: PreTrainedModel, data: TextData, encoded: Dataset, arguments: RunArguments, make_trainer: MakeTrainer
) -> Choice:
    """Puts a probe into the head, and chooses by cross-validation how to fine-tune from there, if at all."""
    may_stay = arguments.num_train_epochs is None and arguments.max_steps <= 0
    arguments.set_defaults(suggest_finetuning(len(encoded)))
    choice = choose(model, encoded, data.train.remove_columns("label"), arguments, make_trainer, data.task, may_stay)
    if choice.is_alone:
        arguments.num_train_epochs = 0.0
    if choice.is_alone or goes_on_from_probe(model, len(encoded)):
        choice.probe.put_into(model)
    metric, style = METRICS[data.task][0], ".3f" if data.task == "number" else ".1%"
    found = ", ".join(f"{name} {score:{style}}" for name, score in choice.scores.items())
    title = metric.replace("_", " ").replace("f1", "F1").capitalize()
    print(f"{title} on {len(choice.rows):,} training rows held out in turn: {found}.", flush=True)
    return choice


def print_training(arguments: RunArguments, model: PreTrainedModel) -> None:
    if not arguments.num_train_epochs:
        print("Training: the probe is kept as it is.")
        return
    dropout = getattr(model.config, "hidden_dropout_prob", None)
    print(
        f"Training: {arguments.num_train_epochs:g} epochs, learning rate {arguments.learning_rate:g}, batches of "
        f"{arguments.per_device_train_batch_size}{'' if dropout is None else f', dropout {dropout:g}'}.",
        flush=True,
    )


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


def print_summary(model: PreTrainedModel, counts: dict[str, int], folder: Path, losses: Losses) -> None:
    print(*(f"{line}\n" for line in losses.describe(": --max_length")), sep="", end="")
    print(
        f"{type(model).__name__}: {counts['parameters']:,} parameters "
        f"(core {counts['core_parameters']:,}, table {counts['table_parameters']:,})\n"
        f"Run folder: {folder}",
        flush=True,
    )


def print_skew(classes: list[tuple[int, int]], data: TextData, arguments: RunArguments) -> None:
    (most, largest), (least, smallest) = classes[0], classes[-1]
    print(
        f"The classes are skewed: {largest:,} training rows of {data.label_names[most]!r}, {smallest:,} of "
        f"{data.label_names[least]!r}."
    )
    if arguments.class_weights == "balanced" and "class_weights" not in arguments.changed:
        print("So each class weighs the same in the loss; each row does with --class_weights none.")
    is_chosen = arguments.metric_for_best_model == "macro_f1" and "metric_for_best_model" not in arguments.changed
    if is_chosen and arguments.eval_strategy != "no":
        print("So macro F1 says which epoch is best; accuracy does with --metric_for_best_model accuracy.")


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> None:
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
