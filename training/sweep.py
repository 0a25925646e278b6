"""`wave-network sweep`: many runs with other settings, and the best of them as a file for `wave-network finetune`."""

import contextlib
import csv
import functools
import importlib.util
import io
import json
import math
import shlex
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import yaml
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    get_scheduler,
    set_seed,
)
from transformers.trainer_utils import SaveStrategy

from .data import TextData
from .finetune import (
    EarlyStopping,
    WaveTrainer,
    compute_metrics,
    encode,
    get_collator,
    get_model,
    get_tokenizer,
    name_of,
    read_data,
    refuse_unfit,
    refuse_useless,
)
from .losses import WithSampleWeights, make_loss
from .metrics import ClassificationReport
from .record import describe_device, get_versions, write_atomically
from .resuming import alone_in, refuse_existing
from .settings import FEW_STEPS, DataArguments, ModelArguments, RunArguments, as_words, find_changed
from .spaces import OF_THE_MODEL, OF_THE_RUN, Space, choose_space, fit_epochs, list_tried, suggest
from .subwords import add_subwords, settle_subwords
from .tracking import print_trackers, refuse_missing_trackers, track

if TYPE_CHECKING:
    import optuna

SWEEP_SCHEMA = 1
STUDY = "sweep"

# A trial is stopped if its best value is worse than the median of what others had reached at the same validation: from
# the second one on, once five trials are complete.
TRIALS_BEFORE_PRUNING = 5
VALIDATIONS_BEFORE_PRUNING = 2

# What optuna calls the ends of a trial, in our words.
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "interrupted", "RUNNING": "running"}

# What belongs to the sweep, and not to a run of its best settings.
NOT_OF_A_RUN = ("output_dir", "run_name", "disable_tqdm")


@dataclass
class SweepArguments:
    """How far to search."""

    _argument_group_name = "sweep"

    trials: int = field(default=20, metadata={"help": "Runs to make; with --resume, those that are there included."})
    space: str | None = field(
        default=None,
        metadata={
            "help": "YAML file of what to choose from: lines of `name: [value, value]` or `name: {low: 1e-4, high: "
            "1e-2, log: true}`. Default: learning rate, dropout, epochs, batch size and weight decay, but for what is "
            "given on the command line."
        },
    )


class SweepTrainer(WaveTrainer):
    """Trainer of one trial after the other, each from a fresh model, which it does not save."""

    def __init__(
        self,
        space: Space,
        model_arguments: ModelArguments,
        arguments: RunArguments,
        tokenizer: PreTrainedTokenizerBase,
        data: TextData,
    ):
        self.space = space
        self.model_arguments = model_arguments
        self.data = data
        self.tokenizer = tokenizer
        self.keeps_best = arguments.load_best_model_at_end
        arguments.save_strategy, arguments.load_best_model_at_end = SaveStrategy.NO, False
        settle_subwords(arguments, tokenizer, is_new=model_arguments.model is None)
        self.base = replace(arguments)
        arguments.settle_epochs(len(data.train), is_new=model_arguments.model is None)  # Trainer takes no None
        super().__init__(
            model_init=self.make_model,
            args=arguments,
            train_dataset=encode(data.train, tokenizer),
            eval_dataset=encode(data.validation, tokenizer),
            processing_class=tokenizer,
            compute_metrics=functools.partial(compute_metrics, ClassificationReport()),
        )
        self.data_collator = WithSampleWeights(get_collator(arguments, cast(PreTrainedModel, self.model), tokenizer))
        if arguments.early_stopping_patience:
            self.add_callback(EarlyStopping(arguments.early_stopping_patience, arguments.early_stopping_threshold))
        # The bar of the sweep stands in their place.
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def make_model(self, trial: "optuna.Trial | None") -> PreTrainedModel:
        """A fresh model of a trial; that of no trial is not trained."""
        chosen = suggest(trial, self.space) if trial is not None else {}
        own = {name: value for name, value in chosen.items() if name in OF_THE_MODEL}
        set_seed(self.base.seed)
        model = get_model(replace(self.model_arguments, **own), self.tokenizer, self.data.label_names)
        add_subwords(model, self.tokenizer, chosen.get("subword_buckets", self.base.subword_buckets))
        set_seed(self.base.seed)  # as Trainer does in `finetune`, after the model
        return model

    def set_up(self, trial: "optuna.Trial") -> dict[str, Any]:
        """
        Takes over the other settings of a trial. None are left for Trainer, which would cast them to the kind that the
        last ones had.
        """
        own = {name: value for name, value in suggest(trial, self.space).items() if name in OF_THE_RUN}
        settled = replace(self.base, **own)
        settled.settle_epochs(len(self.data.train), is_new=self.model_arguments.model is None)
        for name in (*OF_THE_RUN, "loss"):
            setattr(self.args, name, getattr(settled, name))
        self.args.run_name = f"{self.base.run_name}-{name_trial(trial)}"
        self.compute_loss_func = make_loss(self.args, self.data)
        return {}

    def compute_value(self, metrics: dict[str, float], metric: str) -> float:
        """What a trial is worth so far: its best validation or, without `load_best_model_at_end`, its last one."""
        value, best = metrics[f"eval_{metric}"], self.state.best_metric
        if not math.isfinite(value):
            value = self.worst_value
        if best is None or not self.keeps_best:
            return value
        return max(value, best) if self.args.greater_is_better else min(value, best)

    @property
    def worst_value(self) -> float:
        return -math.inf if self.args.greater_is_better else math.inf

    def _report_to_hp_search(self, trial, step: int, metrics: dict[str, float]) -> None:
        # By the count of validations: at one and the same step, trials of other batch sizes have seen other rows.
        super()._report_to_hp_search(trial, sum("eval_loss" in entry for entry in self.state.log_history), metrics)

    def train(self, *arguments: Any, **settings: Any):
        try:
            return super().train(*arguments, **settings)
        except torch.cuda.OutOfMemoryError:
            self.objective: float = self.worst_value  # and the next trial has its chance


class TrialProgress(TrainerCallback):
    """Says on the bar of the sweep where its trial stands."""

    def __init__(self, bar: tqdm, metric: str):
        self.bar = bar
        self.metric = metric

    def on_evaluate(self, args, state, control, **kwargs: Any) -> None:
        value = kwargs["metrics"][f"eval_{self.metric}"]
        self.bar.set_postfix_str(f"epoch {state.epoch:g} of {args.num_train_epochs:g}, {self.metric} {value:.4f}")


def sweep(
    sweep_arguments: SweepArguments,
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    given: Collection[str] | None = None,
) -> Path:
    """
    Searches for the settings that are best in validation. Leaves a folder with every trial in `sweep.json` and
    `trials.csv`, the settings of the best one in `best.yaml`, and what `resume` needs in `sweep.db`, which is optuna's.

    A trial is a run of `finetune` that saves nothing: the same data, seed, model and steps, so that a run with the best
    settings repeats their trial. Its value is that of its best validation, or of its last one without
    `load_best_model_at_end`. The test split is left alone. What to try next is suggested by TPE, seeded by `seed` and
    the number of finished trials: a sweep that is interrupted and resumed tries what it would have tried. An
    interrupted trial is made again, from its start.

    Args:
        sweep_arguments: How far to search.
        data_arguments: What to learn from.
        model_arguments: What to train, beside what is searched.
        arguments: How to train, beside what is searched.
        given: The settings that have been given a value, be it their default. None: those that have another one.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder is not empty, and `resume` is not set.
        ImportError: optuna or the package of a tracker is not installed.
        ValueError, OSError: Bad data, settings or files; the message names them.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ImportError('A sweep needs the package optuna, which is not installed: pip install "wave-network[sweep]"')
    refuse_useless(model_arguments)
    refuse_unfit(arguments)
    refuse_missing_trackers(arguments)
    refuse_no_search(sweep_arguments, arguments)
    settings = find_changed(data_arguments) | find_changed(model_arguments) | arguments.changed
    space = choose_space(sweep_arguments.space, settings if given is None else given, model_arguments, arguments)
    folder = Path(arguments.output_dir or f"runs/{name_of(data_arguments)}_sweep")
    arguments.output_dir = str(folder)
    refuse_existing(folder, arguments.resume)
    arguments.dataloader_pin_memory &= arguments.device.type == "cuda"
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)

    data = read_data(data_arguments)
    if sweep_arguments.space is None:
        space = fit_epochs(space, arguments, len(data.train), is_new=model_arguments.model is None)
    tokenizer = get_tokenizer(model_arguments, data, None)
    refuse_bad_values(space, model_arguments, arguments, tokenizer, data)
    record = begin(folder, sweep_arguments, settings, space, arguments, data)
    arguments.run_name = arguments.run_name or folder.name
    arguments.project = arguments.project or data.name.replace("/", "--")
    rows = f"{len(data.train):,} training, {len(data.validation):,} validation rows"
    print(f"{data.name}: {rows}\nSweep folder: {folder}")
    with alone_in(folder), track(arguments, folder), quiet_optuna():
        print_trackers(arguments, folder)
        trainer = SweepTrainer(space, model_arguments, arguments, tokenizer, data)
        run_trials(trainer, folder, record, sweep_arguments.trials)
    return folder


def refuse_no_search(sweep_arguments: SweepArguments, arguments: RunArguments) -> None:
    """Raises a ValueError if the settings leave nothing to compare."""
    if sweep_arguments.trials < 1:
        raise ValueError(f"`trials` must be at least 1, got {sweep_arguments.trials}.")
    if arguments.eval_strategy == "no":
        raise ValueError("A sweep goes by validation: `eval_strategy` must be 'epoch' or 'steps', got 'no'.")
    if arguments.world_size > 1:
        raise ValueError(f"A sweep runs in one process, got {arguments.world_size}. Start it without torchrun.")
    if arguments.push_to_hub:
        raise ValueError(
            "`push_to_hub` (True): a sweep leaves no model. Train one with its best settings, and push that."
        )


def refuse_bad_values(
    space: Space,
    model_arguments: ModelArguments,
    arguments: RunArguments,
    tokenizer: PreTrainedTokenizerBase,
    data: TextData,
) -> None:
    """
    Tries the values of each list and each small range of whole numbers, and the ends of the others, before the first
    trial; a ValueError names a bad one.
    """
    if not space:
        raise ValueError("There is nothing left to search: give fewer settings a value, or name others by --space.")
    for name, choice in space.items():
        for value in list_tried(choice):
            try:
                if name in OF_THE_RUN:
                    settled = replace(arguments, **{name: value})
                    refuse_unfit(settled)
                    make_scheduler(settled)
                else:
                    with torch.device("meta"):
                        get_model(replace(model_arguments, **{name: value}), tokenizer, data.label_names)
            except Exception as error:
                raise ValueError(f"`{name}` of the space cannot be {value!r}: {error}") from error


def make_scheduler(arguments: RunArguments) -> torch.optim.lr_scheduler.LRScheduler:
    """
    The scheduler of some training with an optimizer that has nothing to do. Both refuse values that the arguments let
    pass. `optim` may need a model of its own; what can be searched is checked by AdamW as by others.
    """
    optimizer = torch.optim.AdamW(
        [torch.zeros(1)],
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        weight_decay=arguments.weight_decay,
    )
    return get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=arguments.get_warmup_steps(FEW_STEPS),
        num_training_steps=FEW_STEPS,
        scheduler_specific_kwargs=cast(dict[str, Any] | None, arguments.lr_scheduler_kwargs),
    )


def begin(
    folder: Path,
    sweep_arguments: SweepArguments,
    settings: dict[str, Any],
    space: Space,
    arguments: RunArguments,
    data: TextData,
) -> dict[str, Any]:
    """
    The record of a sweep without its trials, new or as it was: a ValueError if the sweep in the folder is another one.
    """
    plain = {name: getattr(value, "value", value) for name, value in settings.items()}
    metric = str(arguments.metric_for_best_model)
    record: dict[str, Any] = {
        "schema": SWEEP_SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["wave-network", "sweep", *as_words(find_changed(sweep_arguments) | plain)]),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "seed": arguments.seed,
        "metric": metric.removeprefix("eval_"),
        "direction": "maximize" if arguments.greater_is_better else "minimize",
        "space": space,
        "settings": {name: value for name, value in plain.items() if name not in NOT_OF_A_RUN},
        "device": describe_device(arguments),
        "versions": get_versions(),
        "trials": [],
        "best": None,
    }
    path = folder / "sweep.json"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"`output_dir` {str(folder)!r} is not the folder of a sweep: it has no sweep.json.")
        folder.mkdir(parents=True, exist_ok=True)
        write_sweep(folder, record)
        return record
    old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("schema", "data", "seed", "metric", "direction", "space", "settings"):
        new = json.loads(json.dumps(record[name]))
        if new != old[name]:
            raise ValueError(
                f"`{name}` must be that of the sweep in {str(folder)!r}, {old[name]!r}, got {new!r}. Choose another "
                "folder."
            )
    return old


def run_trials(trainer: SweepTrainer, folder: Path, record: dict[str, Any], trials: int) -> None:
    """Makes the trials that are missing, and writes the record after each, and before if some have ended."""
    import optuna
    from sqlalchemy.engine import URL

    storage = optuna.storages.RDBStorage(str(URL.create("sqlite", database=str(folder / "sweep.db"))))
    where = {"study_name": STUDY, "storage": storage, "direction": record["direction"], "load_if_exists": True}
    study = optuna.create_study(**where)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
    finished = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)))
    if finished:
        # A process that was killed may have stored a trial that it did not get to write.
        record |= describe_trials(study)
        write_sweep(folder, record)
    with tqdm(total=trials, initial=finished, desc="Trials", unit=" trials", disable=trainer.args.disable_tqdm) as bar:
        trainer.add_callback(TrialProgress(bar, record["metric"]))
        for number in range(finished, trials):
            trainer.hyperparameter_search(
                hp_space=trainer.set_up,
                compute_objective=functools.partial(trainer.compute_value, metric=record["metric"]),
                n_trials=1,
                backend="optuna",
                hp_name=name_trial,
                sampler=optuna.samplers.TPESampler(seed=trainer.args.seed + number),
                pruner=optuna.pruners.MedianPruner(TRIALS_BEFORE_PRUNING, VALIDATIONS_BEFORE_PRUNING),
                **where,
            )
            record |= describe_trials(study)
            write_sweep(folder, record)
            bar.write(describe_last(record), file=sys.stdout)
            bar.update()


def name_trial(trial: "optuna.Trial") -> str:
    return f"trial-{trial.number}"


def describe_trials(study: "optuna.Study") -> dict[str, Any]:
    trials = [
        {
            "number": trial.number,
            "state": STATES[trial.state.name],
            "value": trial.value if trial.value is not None and math.isfinite(trial.value) else None,
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration is not None else None,
            "settings": trial.params,
            "validations": list(trial.intermediate_values.values()),
        }
        for trial in study.trials
    ]
    best = study.best_trial
    return {"trials": trials, "best": trials[best.number] if trials[best.number]["value"] is not None else None}


def describe_last(record: dict[str, Any]) -> str:
    trial = record["trials"][-1]
    value = trial["state"]
    if value == "complete":
        value = f"{record['metric']} {trial['value']:.4f}" if trial["value"] is not None else "no value"
    settings = ", ".join(f"{name} {describe_value(value)}" for name, value in trial["settings"].items())
    mark = ", the best so far" if trial == record["best"] else ""
    return f"trial {trial['number']}: {value}{mark} ({settings}; {trial['seconds']} s)"


def describe_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_sweep(folder: Path, record: dict[str, Any]) -> None:
    """Writes `sweep.json`, `trials.csv` and, once there is a best trial, `best.yaml`."""
    names = list(record["space"])
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "state", record["metric"], "seconds", *names])
    for trial in record["trials"]:
        values = [trial["settings"].get(name) for name in names]
        writer.writerow([trial["number"], trial["state"], trial["value"], trial["seconds"], *values])
    best = record["best"]
    if best is not None:
        settings = {**record["settings"], "seed": record["seed"], **best["settings"]}
        title = f"# Trial {best['number']} of a sweep: {record['metric']} {best['value']:.4f} in validation\n"
        text = title + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write_atomically(folder / "best.yaml", text)
    write_atomically(folder / "trials.csv", table.getvalue())
    write_atomically(folder / "sweep.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """The lines of the sweep stand in place of optuna's."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
