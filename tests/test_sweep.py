"""`wave-network sweep` on small sweeps: what it tries, what it leaves, repeats, resumes and refuses."""

import csv
import gc
import hashlib
import json
import math
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import yaml
from small_runs import INTERRUPTED, make_rows, refuse, small_words, write_csv, write_data

from wave_network.training import cli, spaces
from wave_network.training import settings as settings_module
from wave_network.training import sweep as sweep_module
from wave_network.training.settings import ModelArguments, RunArguments
from wave_network.training.spaces import choose_space, list_tried, read_space, suggest

SPACE = """
learning_rate: {low: 1e-3, high: 5e-2, log: true}
hidden_dropout_prob: {low: 0, high: 0.4}
num_train_epochs: {low: 2, high: 3}
per_device_train_batch_size: [12, 27]
label_smoothing_factor: {low: 0, high: 0.2, step: 0.1}
position_embedding_type: [none, sinusoidal]
subword_buckets: [null, 40]
"""
SEARCHED = {
    "learning_rate",
    "hidden_dropout_prob",
    "num_train_epochs",
    "per_device_train_batch_size",
    "subword_buckets",
}
TRIALS = 3
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """Each trial ends with several collections of garbage, which take longer than it if much is loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("space") / "space.yaml"
    file.write_text(SPACE)
    return file


def sweep_words(data: Path, output: Path, space: Path | None, *, leave_out: set[str] = SEARCHED, **settings: Any):
    """The command line of a small sweep; what is searched has no value."""
    words = small_words(data, output, **{"trials": TRIALS, "metric_for_best_model": "loss"} | settings)
    words[0] = "sweep"
    for name in leave_out - settings.keys():
        at = words.index(f"--{name}")
        del words[at : at + 2]
    return [*words, "--space", str(space)] if space is not None else words


def sweep_small(data: Path, output: Path, space: Path, **settings: Any) -> dict[str, Any]:
    cli.main(sweep_words(data, output, space, **settings))
    return read_sweep(output)


def read_sweep(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text(encoding="utf-8"))


def snapshot(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tried(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What was tried and what came of it, without what was interrupted."""
    ended = [trial for trial in record["trials"] if trial["state"] != "interrupted"]
    return [(trial["settings"], trial["value"], trial["validations"], trial["state"]) for trial in ended]


@pytest.fixture(scope="module")
def swept(data: Path, space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ended sweep, which the tests only read; its folder has a name that must be quoted."""
    folder = tmp_path_factory.mktemp("sweeps") / "a sweep?#%"
    sweep_small(data, folder, space)
    return folder


# What a sweep leaves


def test_a_sweep_leaves_its_record_and_no_models(swept: Path):
    assert snapshot(swept).keys() == {"best.yaml", "sweep.db", "sweep.json", "sweep.png", "trials.csv"}
    record = read_sweep(swept)
    assert record["schema"] == 1
    assert (record["metric"], record["direction"], record["seed"]) == ("loss", "minimize", 42)
    assert record["data"]["name"] == "texts"
    assert record["settings"]["hidden_size"] == 16
    assert record["settings"].keys().isdisjoint({"output_dir", "resume", "trials", "space", *SEARCHED})
    assert len(record["trials"]) == TRIALS
    values = [trial["value"] for trial in record["trials"] if trial["state"] == "complete"]
    assert record["best"]["value"] == min(values)
    assert record["best"] == record["trials"][record["best"]["number"]]


def test_each_trial_is_within_the_space_and_another_one(swept: Path):
    trials = read_sweep(swept)["trials"]
    for trial in trials:
        chosen = trial["settings"]
        assert chosen.keys() == yaml.safe_load(SPACE).keys()
        assert 1e-3 <= chosen["learning_rate"] <= 5e-2
        assert 0 <= chosen["hidden_dropout_prob"] <= 0.4
        assert chosen["num_train_epochs"] in (2, 3)
        assert isinstance(chosen["num_train_epochs"], int)
        assert chosen["per_device_train_batch_size"] in (12, 27)
        assert min(abs(chosen["label_smoothing_factor"] - value) for value in (0, 0.1, 0.2)) < 1e-12
        assert chosen["position_embedding_type"] in ("none", "sinusoidal")
        assert len(trial["validations"]) == chosen["num_train_epochs"]
        assert trial["value"] == min(trial["validations"])
    assert len({trial["settings"]["learning_rate"] for trial in trials}) == TRIALS


def test_the_table_says_what_the_record_says(swept: Path):
    with (swept / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, trial in zip(rows, read_sweep(swept)["trials"], strict=True):
        assert (int(row["trial"]), row["state"]) == (trial["number"], trial["state"])
        assert float(row["loss"]) == trial["value"]
        for name, value in trial["settings"].items():
            assert row[name] == str(value)


def test_a_run_with_the_best_settings_repeats_their_trial(swept: Path, capsys: pytest.CaptureFixture[str]):
    cli.print_best(swept)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["wave-network", "finetune"]
    run = Path(f"{swept}_best")
    assert command[2:] == ["--config", str(swept / "best.yaml"), "--output_dir", str(run)]
    cli.main(command[1:])
    metrics = json.loads((run / "metrics.json").read_text())
    best = read_sweep(swept)["best"]
    assert metrics["best"]["value"] == best["value"]
    assert (metrics["settings"]["hidden_size"], metrics["settings"]["vocab_size"]) == (16, 172)
    for name, value in best["settings"].items():
        assert metrics["settings"][name] == value


def test_the_picture_has_a_panel_for_each_setting(swept: Path, tmp_path: Path):
    from wave_network.analysis.sweep import draw_sweep

    assert (swept / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    record = read_sweep(swept)
    # A name that matplotlib would read as mathematics, and no trial with a value.
    record["data"]["name"] = "$\\alpha"
    for trial in record["trials"]:
        trial["value"] = None
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    assert draw_sweep(tmp_path).stat().st_size > 1000


# Going on


class Killed(BaseException):
    """Ends a process as SIGKILL does: nobody gets to say that the trial has ended."""


@pytest.mark.parametrize(("error", "at"), [(KeyboardInterrupt, 0), (Killed, 1)])
def test_a_resumed_sweep_tries_what_it_would_have_tried(
    swept: Path, data: Path, space: Path, tmp_path: Path, error: type, at: int, monkeypatch: pytest.MonkeyPatch
):
    evaluate = sweep_module.SweepTrainer.evaluate

    def stop(self: Any, *arguments: Any, **settings: Any) -> Any:
        if self.args.run_name.endswith(f"trial-{at}"):
            raise error
        return evaluate(self, *arguments, **settings)

    monkeypatch.setattr(sweep_module.SweepTrainer, "evaluate", stop)
    with pytest.raises((SystemExit, Killed)) as ended:
        sweep_small(data, tmp_path / "parted", space)
    assert getattr(ended.value, "code", None) == (INTERRUPTED if error is KeyboardInterrupt else None)
    monkeypatch.undo()
    assert len(read_sweep(tmp_path / "parted")["trials"]) == at
    record = sweep_small(data, tmp_path / "parted", space, resume=True)
    assert tried(record) == tried(read_sweep(swept))
    assert [trial["state"] for trial in record["trials"]].count("interrupted") == 1
    assert record["best"]["value"] == read_sweep(swept)["best"]["value"]
    first, second = ((folder / "best.yaml").read_text().split("\n", 1)[1] for folder in (tmp_path / "parted", swept))
    assert first == second


def test_a_sweep_that_has_ended_is_left_as_it_is_or_goes_on_with_more_trials(
    swept: Path, data: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(swept, tmp_path / "more")
    before = snapshot(folder)
    assert "FileExistsError" in refuse(sweep_words(data, folder, space), capsys)
    assert snapshot(folder) == before
    assert read_sweep(swept) == sweep_small(data, folder, space, resume=True)
    record = sweep_small(data, folder, space, resume=True, trials=TRIALS + 1)
    assert tried(record)[:TRIALS] == tried(read_sweep(swept))
    assert len(record["trials"]) == TRIALS + 1


def test_a_trial_that_a_killed_sweep_had_not_written_is_written_by_the_next_one(
    swept: Path, data: Path, space: Path, tmp_path: Path
):
    folder = shutil.copytree(swept, tmp_path / "killed")
    record = read_sweep(swept)
    before = record | {"trials": record["trials"][:-1], "best": None}
    (folder / "sweep.json").write_text(json.dumps(before))
    for name in ("best.yaml", "trials.csv"):
        (folder / name).unlink()
    assert sweep_small(data, folder, space, resume=True) == record
    for name in ("best.yaml", "trials.csv"):
        assert (folder / name).read_bytes() == (swept / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 7}, ["`seed`", "42", "7"]),
        ({"hidden_size": 8}, ["`settings`", "'hidden_size': 16", "'hidden_size': 8"]),
        ({"metric_for_best_model": "accuracy"}, ["`metric`", "'loss'", "'accuracy'"]),
        ({"learning_rate": 0.01}, ["`learning_rate` has a value of its own"]),
    ],
)
def test_another_sweep_does_not_go_on_in_the_folder(
    swept: Path,
    data: Path,
    space: Path,
    settings: dict[str, Any],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
):
    before = snapshot(swept)
    error = refuse(sweep_words(data, swept, space, resume=True, **settings), capsys)
    for word in words:
        assert word in error
    assert snapshot(swept) == before


def test_other_data_or_another_space_do_not_go_on_in_the_folder(
    swept: Path, data: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = write_csv(tmp_path / "texts.csv", make_rows(60, seed=5))
    assert "`data`" in refuse(sweep_words(other, swept, space, resume=True), capsys)
    (tmp_path / "space.yaml").write_text(SPACE.replace("0.4", "0.5"))
    assert "`space`" in refuse(sweep_words(data, swept, tmp_path / "space.yaml", resume=True), capsys)


def test_a_folder_of_something_else_is_refused(
    data: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = snapshot(tmp_path)
    assert "FileExistsError" in refuse(sweep_words(data, tmp_path, space), capsys)
    assert "no sweep.json" in refuse(sweep_words(data, tmp_path, space, resume=True), capsys)
    assert snapshot(tmp_path) == before


# Trials


def test_trials_count_validations_for_themselves_and_one_that_falls_behind_is_pruned(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    encoded, encode = [], sweep_module.encode

    def note(split: Any, tokenizer: Any) -> Any:
        encoded.append(len(split))
        return encode(split, tokenizer)

    def compute_value(self: Any, metrics: dict[str, float], metric: str) -> float:
        assert (metric, 0 <= metrics["eval_accuracy"] <= 1) == ("accuracy", True)
        return [0.5, 0.9, 0.7, 0.1][int(self.args.run_name[-1])]

    monkeypatch.setattr(sweep_module, "encode", note)
    monkeypatch.setattr(sweep_module, "TRIALS_BEFORE_PRUNING", 2)
    monkeypatch.setattr(sweep_module.SweepTrainer, "compute_value", compute_value)
    # Other sizes of the batches: the n-th validation of a trial is not at the same step as that of another one.
    (tmp_path / "space.yaml").write_text("per_device_train_batch_size: [12, 18, 27, 54]\n")
    record = sweep_small(
        data,
        tmp_path / "sweep",
        tmp_path / "space.yaml",
        leave_out={"per_device_train_batch_size"},
        trials=4,
        num_train_epochs=5,
        metric_for_best_model="accuracy",
        early_stopping_patience=3,
        early_stopping_threshold=1,
        report_to="tensorboard",
    )
    # The third is not behind: it is the median itself.
    assert [trial["state"] for trial in record["trials"]] == ["complete", "complete", "complete", "pruned"]
    # One validation sets the best, three more are not so much better: each trial counts from the start.
    assert [len(trial["validations"]) for trial in record["trials"]] == [4, 4, 4, 2]
    assert record["best"]["value"] == 0.9
    assert encoded == [108, 12]  # the 43 rows of the test split are not looked at
    events = {path.parent.name for path in (tmp_path / "sweep").rglob("events.out.*")}
    assert events == {f"trial-{number}" for number in range(4)}
    out = capsys.readouterr().out
    assert "trial 1: accuracy 0.9000, the best so far" in out
    assert "trial 3: pruned" in out
    assert "3 trials complete, 1 pruned" in out


@pytest.mark.parametrize(
    ("greater", "keeps_best", "best", "value", "expected"),
    [
        (True, True, None, 0.5, 0.5),
        (True, True, 0.7, 0.5, 0.7),
        (True, True, 0.7, 0.8, 0.8),
        (True, False, 0.7, 0.5, 0.5),
        (False, True, 0.3, 0.5, 0.3),
        (False, True, None, math.nan, math.inf),
        (False, True, 0.3, math.nan, 0.3),
        (False, False, 0.3, math.inf, math.inf),
        (True, False, None, math.nan, -math.inf),
    ],
)
def test_a_trial_is_worth_its_best_validation(
    greater: bool, keeps_best: bool, best: float | None, value: float, expected: float
):
    trainer = object.__new__(sweep_module.SweepTrainer)
    trainer.args, trainer.keeps_best = SimpleNamespace(greater_is_better=greater), keeps_best
    trainer.state = SimpleNamespace(best_metric=best)
    assert trainer.compute_value({"eval_loss": value}, "loss") == expected


def test_a_trial_that_does_not_fit_into_memory_is_not_the_end(
    data: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def run_out(self: Any, *_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sweep_module.WaveTrainer, "train", run_out)
    record = sweep_small(data, tmp_path / "sweep", space, trials=2)
    assert [(trial["state"], trial["value"]) for trial in record["trials"]] == [("complete", None)] * 2
    assert record["best"] is None
    assert not (tmp_path / "sweep" / "best.yaml").exists()
    assert "No trial came to a value" in capsys.readouterr().out
    json.loads((tmp_path / "sweep" / "sweep.json").read_text(), parse_constant=pytest.fail)  # no Infinity, no NaN


def test_the_example_searches_trains_and_tests(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(data), "2"])
    runpy.run_path(str(EXAMPLES / "sweep.py"), run_name="__main__")
    assert len(read_sweep(tmp_path / "runs" / "texts_sweep")["trials"]) == 2
    metrics = json.loads((tmp_path / "runs" / "texts_sweep_best" / "metrics.json").read_text())
    assert metrics["best"]["value"] == read_sweep(tmp_path / "runs" / "texts_sweep")["best"]["value"]
    assert "test" in metrics["results"]


def test_a_trial_has_the_epochs_that_a_run_with_its_batch_would_have(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in (("EPOCHS", 1.0), ("FEW_STEPS", 12)):
        monkeypatch.setattr(settings_module, name, value)
    space = tmp_path / "space.yaml"
    space.write_text("per_device_train_batch_size: [12, 27, 108]\n")
    searched = {"per_device_train_batch_size", "num_train_epochs"}
    record = sweep_small(data, tmp_path / "sweep", space, leave_out=searched, trials=4)
    epochs = {12: 2, 27: 3, 108: 12}  # 9, 4 and 1 steps in each
    for trial in record["trials"]:
        assert len(trial["validations"]) == epochs[trial["settings"]["per_device_train_batch_size"]]
    assert len({trial["settings"]["per_device_train_batch_size"] for trial in record["trials"]}) > 1


def test_trials_may_be_of_so_many_steps(data: Path, tmp_path: Path):
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: [0.01, 0.02]\n")
    searched = {"learning_rate", "num_train_epochs"}
    record = sweep_small(data, tmp_path / "sweep", space, leave_out=searched, trials=1, max_steps=5)
    assert [trial["state"] for trial in record["trials"]] == ["complete"]


# The space


def test_few_rows_are_searched_around_more_epochs():
    arguments = RunArguments(use_cpu=True)
    space = spaces.DEFAULT_SPACE
    assert spaces.fit_epochs(space, arguments, 50_000, is_new=True) == space
    assert spaces.fit_epochs(space, arguments, 300, is_new=False) == space
    few = spaces.fit_epochs(space, arguments, 300, is_new=True)
    assert few == space | {"num_train_epochs": {"low": 9, "high": 45}}
    assert arguments.num_train_epochs is None
    assert spaces.fit_epochs({}, arguments, 300, is_new=True) == {}


def test_what_is_given_is_not_searched():
    arguments = RunArguments(use_cpu=True)
    assert choose_space(None, [], ModelArguments(), arguments) == spaces.DEFAULT_SPACE
    given = cli.list_given(["--learning-rate", "1e-3", "--weight_decay=0", "--dataset", "news.csv"])
    assert given == {"learning_rate", "weight_decay", "dataset"}
    left = choose_space(None, given, ModelArguments(), arguments)
    assert left.keys() == spaces.DEFAULT_SPACE.keys() - {"learning_rate", "weight_decay"}
    left = choose_space(None, [], ModelArguments(model="runs/base"), RunArguments(use_cpu=True, max_steps=10))
    assert left.keys() == spaces.DEFAULT_SPACE.keys() - {"hidden_dropout_prob", "num_train_epochs"}


def test_what_a_settings_file_gives_is_not_searched_either(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("weight_decay: 0.0\nnum_train_epochs: 5\n")
    given = cli.list_given(["--config", str(tmp_path / "run.yaml"), "--seed", "1"])
    assert given == {"weight_decay", "num_train_epochs", "seed"}


def test_a_space_is_read_with_the_kinds_of_its_settings(tmp_path: Path):
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"  # which YAML takes for strings
        "weight_decay: {low: 0, high: 1}\n"  # whole ends, and not a whole number
        "num_train_epochs: {low: 2, high: 8, step: 2}\n"
        "hidden_size: {low: 32, high: 256, log: true}\n"
        "warmup_steps: [0, 0.1, 50]\n"
        "intermediate_size: [null, 64]\n"
        "lr_scheduler_type: [linear, cosine]\n"
        "class_weights: [none, balanced]\n"
    )
    space = read_space(str(tmp_path / "space.yaml"))
    assert space["learning_rate"] == {"low": 1e-4, "high": 1e-2, "log": True}
    assert isinstance(space["weight_decay"]["high"], float)
    assert space["warmup_steps"] == [0.0, 0.1, 50.0]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = [suggest(study.ask(), space) for _ in range(60)]
    assert {each["num_train_epochs"] for each in chosen} == {2, 4, 6, 8}
    assert len({each["weight_decay"] for each in chosen}) == 60
    assert all(isinstance(each["hidden_size"], int) and 32 <= each["hidden_size"] <= 256 for each in chosen)
    assert {each["intermediate_size"] for each in chosen} == {None, 64}
    trial = study.ask()
    assert suggest(trial, space) == suggest(trial, space)  # as often as it is asked


@pytest.mark.parametrize(
    ("choice", "tried"),
    [
        ([0.1, 0.9, 0.5], [0.1, 0.9, 0.5]),
        ({"low": 3, "high": 6}, [3, 4, 5, 6]),
        ({"low": 16, "high": 18, "log": True}, [16, 17, 18]),
        ({"low": 3, "high": 8, "step": 2}, [3, 5, 7]),
        ({"low": 1, "high": 400}, [*range(1, 51), 400]),
        ({"low": 0.0, "high": 1.0, "step": 0.5}, [0.0, 1.0]),
        ({"low": 1, "high": 2.5}, [1, 2.5]),
    ],
)
def test_all_values_of_a_list_or_of_a_small_range_of_whole_numbers_are_tried_out(choice: Any, tried: list[Any]):
    assert list_tried(choice) == tried


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["must hold lines"]),
        ("- learning_rate\n", ["must hold lines"]),
        ("a: [b\n", ["is not YAML"]),
        (None, ["space.yaml"]),
        ("learning_rat: [1, 2]\n", ["'learning_rat'", "did you mean learning_rate"]),
        ("output_dir: [a, b]\n", ["'output_dir'", "allowed are"]),
        ("seed: [1, 2]\n", ["'seed'"]),
        ("learning_rate: 0.1\n", ["`learning_rate`", "list of values", "0.1"]),
        ("learning_rate: [0.1]\n", ["`learning_rate`", "two or more", "[0.1]"]),
        ("learning_rate: [0.1, 1e-1]\n", ["`learning_rate`", "different"]),
        ("learning_rate: [0.1, fast]\n", ["`learning_rate`", "a number of at least 0", "'fast'"]),
        ("learning_rate: {low: 1e-3}\n", ["`learning_rate`", "low and high"]),
        ("learning_rate: {low: 1e-3, high: 1e-2, scale: log}\n", ["`learning_rate`", "low and high"]),
        ("learning_rate: {low: 1e-2, high: 1e-3}\n", ["`learning_rate`", "low that is less"]),
        ("learning_rate: {low: 0, high: 1e-3, log: true}\n", ["`learning_rate`", "low above 0"]),
        ("learning_rate: {low: 1e-3, high: 1e-2, log: 1}\n", ["`learning_rate`", "true or false"]),
        ("learning_rate: {low: -1, high: 1}\n", ["`learning_rate`", "at least 0", "-1"]),
        ("learning_rate: {low: .nan, high: 1}\n", ["`learning_rate`", "at least 0"]),
        ("learning_rate: {low: 0, high: .inf}\n", ["`learning_rate`", "at least 0"]),
        ("weight_decay: {low: 0, high: 0.1, step: 0.5}\n", ["`weight_decay`", "step"]),
        ("weight_decay: {low: 0, high: 0.1, log: true, step: 0.05}\n", ["`weight_decay`", "no step"]),
        ("hidden_size: [32, 64.5]\n", ["`hidden_size`", "whole number of at least 1", "64.5"]),
        ("hidden_size: [0, 64]\n", ["`hidden_size`", "at least 1", "0"]),
        ("hidden_size: [null, 64]\n", ["`hidden_size`", "None"]),
        ("per_device_train_batch_size: [true, 8]\n", ["`per_device_train_batch_size`", "True"]),
        ("class_weights: [none, heavy]\n", ["`class_weights`", "'heavy'", "balanced"]),
        ("class_weights: {low: 0, high: 1}\n", ["`class_weights`", "no range"]),
        ("wave_operation: [modulation, attention]\n", ["`wave_operation`", "'attention'"]),
        ("lr_scheduler_type: [linear, steep]\n", ["`lr_scheduler_type`", "'steep'"]),
        ("focal_gamma: [1, 2]\n", ["`focal_gamma`", "1.0", "'focal'"]),
        ("label_smoothing_factor: {low: 0, high: 1}\n", ["`label_smoothing_factor`", "less than 1"]),
        ("ema_decay: {low: 0, high: 1}\n", ["`ema_decay`", "less than 1"]),
        ("hidden_dropout_prob: {low: 0, high: 2}\n", ["`hidden_dropout_prob`", "2.0"]),
        ("conv_kernel_size: [null, 4]\n", ["`conv_kernel_size`", "4"]),
        ("conv_kernel_size: {low: 3, high: 7}\n", ["`conv_kernel_size`", "cannot be 4"]),
        ("num_train_epochs: {low: 1, high: 4, step: 1.5}\n", ["`num_train_epochs`", "a whole step", "1.5"]),
        ("num_train_epochs: [0, 4]\n", ["`num_train_epochs`", "cannot be 0", "greater than 0"]),
        ("adam_beta1: [0.9, 1.0]\n", ["`adam_beta1`", "cannot be 1.0"]),
        ("adam_beta2: {low: 0.9, high: 1}\n", ["`adam_beta2`", "cannot be 1.0"]),
        (
            "lr_scheduler_type: [linear, cosine_with_min_lr]\n",
            ["`lr_scheduler_type`", "cannot be 'cosine_with_min_lr'", "min_lr"],
        ),
        ("vocab_size: [100, 200]\n", ["'vocab_size'"]),
    ],
)
def test_a_bad_space_is_refused_before_anything_is_tried(
    data: Path, tmp_path: Path, content: str | None, words: list[str], capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "space.yaml"
    if content is not None:
        file.write_text(content)
    every = {name for name in SEARCHED | {"hidden_size"} if content and name in content}
    error = refuse(sweep_words(data, tmp_path / "sweep", file, leave_out=every), capsys)
    for word in words:
        assert word in error
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trials": 0}, ["`trials`", "at least 1"]),
        ({"eval_strategy": "no", "load_best_model_at_end": False}, ["`eval_strategy`", "'no'"]),
        ({"push_to_hub": True}, ["`push_to_hub`"]),
        ({"model": "runs/base", "hidden_size": 16}, ["`hidden_size`", "runs/base"]),
        ({"report_to": "tensorbord"}, ["`report_to`"]),
        ({"ema_decay": 0.9, "sparse_embeddings": True}, ["`ema_decay` (0.9)", "`sparse_embeddings` (True)"]),
        ({"mixup_alpha": 1.0, "torch_compile": True}, ["`mixup_alpha` (1.0)", "`torch_compile` (True)"]),
    ],
)
def test_what_makes_no_sweep_is_refused(
    data: Path, tmp_path: Path, settings: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
):
    error = refuse(sweep_words(data, tmp_path / "sweep", None, leave_out=set(), **settings), capsys)
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_searched_setting_must_go_with_those_that_are_not(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "space.yaml"
    file.write_text("ema_decay: [0, 0.9]\n")
    words = sweep_words(data, tmp_path / "sweep", file, leave_out=set(), sparse_embeddings=True)
    error = refuse(words, capsys)
    assert "`ema_decay` of the space cannot be 0.9" in error
    assert "`sparse_embeddings` (True)" in error
    assert not (tmp_path / "sweep").exists()


def test_with_nothing_left_to_search_a_sweep_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    error = refuse(sweep_words(data, tmp_path / "sweep", None, leave_out=set(), weight_decay=0), capsys)
    assert "nothing left to search" in error


def test_a_sweep_without_optuna_names_the_extra(
    data: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "optuna", None)
    error = refuse(sweep_words(data, tmp_path / "sweep", space), capsys)
    assert "ImportError" in error
    assert 'pip install "wave-network[sweep]"' in error
    assert list(tmp_path.iterdir()) == []
