"""`wave-network finetune` from data to run folder, on small runs: what it leaves, repeats, resumes and pushes."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shlex
import shutil
import sqlite3
import struct
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from loopback_hub import LoopbackHub
from packaging.version import Version
from safetensors.torch import load_file
from small_runs import (
    WORDS,
    finetune_small,
    interrupt,
    make_rows,
    read_metrics,
    refuse,
    small_words,
    write_csv,
    write_data,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    modeling_utils,
    pipeline,
    set_seed,
)

from wave_network import WaveForSequenceClassification
from wave_network.hub_card import push_run, write_card
from wave_network.training import finetune, resuming
from wave_network.training import settings as settings_module
from wave_network.training.cli import main, parse_settings, print_results
from wave_network.training.record import as_json
from wave_network.training.settings import DataArguments
from wave_network.training.tracking import track

RUN_FILES = {
    ".eval_results/texts.yaml",
    "README.md",
    "config.json",
    "configuration_wave.py",
    "confusion_matrix.png",
    "embeddings_wave.py",
    "fused_wave.py",
    "metrics.json",
    "model.safetensors",
    "modeling_wave.py",
    "ops_wave.py",
    "pooling_wave.py",
    "reliability.png",
    "reliability.svg",
    "tokenizer.json",
    "tokenizer_config.json",
    "triton_wave.py",
}
SKEW = {"sport": 90, "money": 9, "space": 9}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ended run, which the tests only read."""
    return finetune_small(data, tmp_path_factory.mktemp("runs") / "run")


def read_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def distance(run: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    weights, others = read_weights(run), read_weights(other)
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def snapshot(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def list_files(run: Path) -> set[str]:
    """The files of a run folder without its checkpoints."""
    return {name for name in snapshot(run) if not name.startswith("checkpoint-")}


# What a run leaves


def test_a_run_folder_is_whole(run: Path):
    assert list_files(run) == RUN_FILES
    config = json.loads((run / "config.json").read_text())
    assert config["id2label"] == {"0": "money", "1": "space", "2": "sport"}
    assert config["auto_map"]["AutoModelForSequenceClassification"] == "modeling_wave.WaveForSequenceClassification"
    assert (run / "README.md").read_text().count("confusion_matrix.png") == 1


def test_metrics_say_how_the_run_was_made(run: Path, data: Path):
    metrics = read_metrics(run)
    assert list(metrics) == [
        "schema",
        "created",
        "duration_seconds",
        "seed",
        "device",
        "versions",
        "command",
        "base_model",
        "data",
        "model",
        "settings",
        "best",
        "end",
        "results",
        "calibration",
    ]
    created = datetime.fromisoformat(metrics["created"])
    assert timedelta() <= datetime.now(timezone.utc) - created < timedelta(hours=1)
    assert 0 < metrics["duration_seconds"] < 600
    assert metrics["seed"] == 42
    assert metrics["device"].startswith("cpu (")
    assert metrics["versions"]["torch"] == torch.__version__
    assert metrics["versions"]["wave_network"] == importlib.metadata.version("wave-network")
    assert metrics["base_model"] is None
    assert len(metrics["data"].pop("fingerprint")) == 64
    assert metrics["data"] == {
        "name": "texts",
        "is_on_hub": False,
        "rows": {"train": 108, "validation": 12, "test": 43},
        "label_names": ["money", "space", "sport"],
        "text_columns": ["text"],
        "label_column": "label",
        "validation_was_split": True,
    }
    settings = metrics["settings"]
    expected = {
        "learning_rate": 0.01,
        "num_train_epochs": 3,
        "hidden_size": 16,
        "class_weights": "none",
        "loss": "cross_entropy",
        "weight_column": None,
        "early_stopping_patience": None,
        "processes": 1,
    }
    assert {name: settings[name] for name in expected} == expected
    assert settings["tokenizer"] == "trained on the training texts"
    assert settings["vocab_size"] == len(AutoTokenizer.from_pretrained(run))
    assert metrics["end"] == {"step": 42, "epoch": 3.0, "reason": "num_train_epochs"}


def test_metrics_count_the_parameters_of_the_model(run: Path):
    counts = read_metrics(run)["model"]
    weights = read_weights(run)
    assert counts["parameters"] == sum(weight.numel() for weight in weights.values())
    assert counts["table_parameters"] == weights["wave.embeddings.word_embeddings.weight"].numel()
    assert counts["core_parameters"] == counts["parameters"] - counts["table_parameters"]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_of_equally_good_epochs_the_last_is_kept(
    metric: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # By accuracy the second epoch is as good as the third; by loss the first is the best alone.
    values = {"accuracy": iter([0.5, 0.75, 0.75, 0.25]), "loss": iter([0.5, 0.75, 0.75, 0.75])}[metric]
    evaluate = finetune.WaveTrainer.evaluate

    def measure(self: Any, *arguments: Any, **settings: Any) -> dict[str, float]:
        metrics = evaluate(self, *arguments, **settings)
        metrics[f"eval_{metric}"] = self.state.log_history[-1][f"eval_{metric}"] = next(values)
        return metrics

    monkeypatch.setattr(finetune.WaveTrainer, "evaluate", measure)
    run = finetune_small(data, tmp_path / "run", num_train_epochs=4, metric_for_best_model=metric)
    best = read_metrics(run)["best"]
    assert (best["epoch"], best["value"]) == {"accuracy": (3, 0.75), "loss": (1, 0.5)}[metric]
    kept = read_weights(run / f"checkpoint-{best['step']}")
    assert all(torch.equal(weight, kept[name]) for name, weight in read_weights(run).items())


def test_the_confusion_matrix_is_a_picture_that_can_be_read(run: Path):
    picture = (run / "confusion_matrix.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert 500 < height < width < 2000


def test_a_run_loads_through_the_auto_classes_and_the_pipeline(run: Path):
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert isinstance(model, WaveForSequenceClassification)
    classify = pipeline("text-classification", model=str(run), device="cpu")
    found = [prediction["label"] for prediction in classify([" ".join(words) for words in WORDS.values()])]
    assert found == ["sport", "money", "space"]


def test_the_results_are_those_of_the_saved_model(run: Path):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    confusion = [[0] * 3 for _ in range(3)]
    for row in make_rows(43, seed=1):
        with torch.inference_mode():
            predicted = int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())
        confusion[model.config.label2id[row["label"]]][predicted] += 1
    result = read_metrics(run)["results"]["test"]
    right = sum(confusion[index][index] for index in range(3))
    assert result["confusion"] == confusion
    assert result["rows"] == 43
    assert result["accuracy"] == pytest.approx(right / 43)
    assert 30 < right < 43  # else every test row is alike, and this proves little


def test_the_saved_weights_are_the_best_by_validation(run: Path):
    best = read_metrics(run)["best"]
    assert best["value"] == read_metrics(run)["results"]["validation"]["accuracy"]
    assert best["step"] == 14 * best["epoch"]
    assert (run / f"checkpoint-{best['step']}" / "model.safetensors").read_bytes() == (
        run / "model.safetensors"
    ).read_bytes()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run: Path, data: Path, tmp_path: Path):
    again = finetune_small(data, tmp_path / "again")
    other = finetune_small(data, tmp_path / "other", seed=7)
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert read_metrics(again)["results"] == read_metrics(run)["results"]
    assert distance(other, run) > 0.01
    assert read_metrics(other)["seed"] == 7


# A folder with something in it


@pytest.mark.parametrize("resume", [False, True])
def test_an_ended_run_is_refused_and_nothing_in_it_changes(
    run: Path, data: Path, resume: bool, capsys: pytest.CaptureFixture[str]
):
    before = snapshot(run)
    error = refuse(small_words(data, run, resume=resume), capsys)
    assert "FileExistsError" in error
    assert str(run) in error
    assert "has ended" in error
    assert snapshot(run) == before


def test_a_folder_with_anything_in_it_is_refused_and_nothing_in_it_changes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "thesis.txt").write_text("years of work")
    error = refuse(small_words(data, tmp_path), capsys)
    assert str(tmp_path) in error
    assert "--resume" in error
    assert snapshot(tmp_path) == {"thesis.txt": hashlib.sha256(b"years of work").hexdigest()}


@pytest.mark.parametrize("name", ["config.json", "checkpoint-14/trainer_state.json"])
def test_a_folder_that_is_no_run_is_no_run_to_go_on_with(
    data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "README.md").write_text("years of work")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    before = snapshot(tmp_path)
    error = refuse(small_words(data, tmp_path, resume=True), capsys)
    assert f"{str(tmp_path)!r} is no run to go on with" in error
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("dataset", ["data/texts.csv.gz", "data/.texts.csv", "data/texts", "data/texts/"])
def test_the_run_folder_is_called_after_the_data(dataset: str):
    assert finetune.name_of(DataArguments(dataset)) == "texts"


def test_data_behind_a_link_are_called_as_the_link_is(data: Path, tmp_path: Path):
    (tmp_path / "reviews").symlink_to(data)
    assert finetune.name_of(DataArguments(str(tmp_path / "reviews"))) == "reviews"
    assert finetune.read_data(DataArguments(str(tmp_path / "reviews"))).name == "reviews"


@pytest.mark.parametrize(("name", "value"), [("learning_rate", -1.0), ("learning_rate", "nan"), ("weight_decay", -0.1)])
def test_rates_that_cannot_be_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, name: str, value: Any, capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data, tmp_path / "run", **{name: value}), capsys)
    assert f"`{name}` must be a finite number of at least 0, got {value}" in error
    assert not (tmp_path / "run").exists()


def test_noise_is_added_to_the_embeddings_as_of_any_model(run: Path, data: Path, tmp_path: Path):
    noisy = finetune_small(data, tmp_path / "noisy", neftune_noise_alpha=5)
    assert distance(run, noisy) > 1e-3


# A run that stops early

EARLY = {
    "num_train_epochs": 10,
    "early_stopping_patience": 2,
    "early_stopping_threshold": 100,  # no validation after the first is so much better
    "metric_for_best_model": "loss",
    "save_total_limit": 5,
}


@pytest.fixture(scope="module")
def early(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune_small(data, tmp_path_factory.mktemp("early") / "run", **EARLY)


def test_a_run_stops_early_and_says_so(early: Path, capsys: pytest.CaptureFixture[str]):
    print_results(early, "The model")
    assert "Stopped early, after epoch 3." in capsys.readouterr().out
    metrics = read_metrics(early)
    assert metrics["end"] == {"step": 42, "epoch": 3.0, "reason": "early_stopping_patience"}
    assert metrics["settings"]["early_stopping_patience"] == 2
    assert metrics["settings"]["early_stopping_threshold"] == 100
    assert "--early_stopping_patience 2" in metrics["command"]
    assert metrics["best"]["step"] > 14  # a better loss is kept, also one that is not so much better
    assert {path.name for path in early.glob("checkpoint-*")} == {"checkpoint-14", "checkpoint-28", "checkpoint-42"}


# Interrupted in its count, and after its end.
@pytest.mark.parametrize("saves", [2, 3])
def test_a_run_that_is_resumed_stops_where_it_would_have_stopped(early: Path, data: Path, tmp_path: Path, saves: int):
    parted = interrupt(data, tmp_path / "parted", saves, **EARLY)
    finetune_small(data, parted, resume=True, **EARLY)
    assert distance(early, parted) == 0
    assert {name: read_metrics(parted)[name] for name in ("best", "end", "results")} == {
        name: read_metrics(early)[name] for name in ("best", "end", "results")
    }
    assert snapshot(parted).keys() == snapshot(early).keys()


def test_early_stopping_may_be_added_to_a_run_that_goes_on(early: Path, data: Path, tmp_path: Path):
    plain = {name: value for name, value in EARLY.items() if not name.startswith("early")}
    parted = interrupt(data, tmp_path / "parted", 1, **plain)
    finetune_small(data, parted, resume=True, **EARLY)
    assert distance(early, parted) == 0
    assert read_metrics(parted)["end"] == read_metrics(early)["end"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"early_stopping_patience": -1}, ["`early_stopping_patience`", "-1"]),
        ({"early_stopping_patience": 2, "early_stopping_threshold": -0.1}, ["`early_stopping_threshold`", "-0.1"]),
        ({"early_stopping_patience": 2, "early_stopping_threshold": "nan"}, ["`early_stopping_threshold`", "nan"]),
        ({"early_stopping_threshold": 0.1}, ["`early_stopping_threshold` (0.1)", "`early_stopping_patience`"]),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no", "load_best_model_at_end": False},
            ["`early_stopping_patience` (2)", "`eval_strategy`", "'no'"],
        ),
        ({"metric_for_best_model": "f1"}, ["`metric_for_best_model`", "'f1'", "macro_f1"]),
    ],
)
def test_early_stopping_without_anything_to_go_by_is_refused(
    data: Path, tmp_path: Path, settings: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data, tmp_path / "run", **settings), capsys)
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_bad_name_on_the_hub_is_refused_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data, tmp_path / "run", hub_model_id="a bad name/x/y"), capsys)
    assert "`hub_model_id`" in error
    assert "'a bad name/x/y'" in error
    assert list(tmp_path.iterdir()) == []


def test_a_patience_of_zero_is_none(data: Path, tmp_path: Path):
    run = finetune_small(data, tmp_path / "run", early_stopping_patience=0, max_steps=2)
    assert read_metrics(run)["end"] == {"step": 2, "epoch": pytest.approx(2 / 14), "reason": "max_steps"}


# A run that is interrupted


# The second case stops within an epoch, which has 14 steps.
@pytest.mark.parametrize(
    ("saves", "settings"), [(1, {}), (2, {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 9})]
)
def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(
    data: Path, tmp_path: Path, saves: int, settings: dict[str, Any]
):
    settings = settings | {"eval_steps": 9, "load_best_model_at_end": False}
    whole = finetune_small(data, tmp_path / "whole", **settings)
    parted = interrupt(data, tmp_path / "parted", saves, **settings)
    finetune_small(data, parted, resume=True, **settings)
    assert distance(whole, parted) == 0
    assert read_metrics(whole)["results"] == read_metrics(parted)["results"]
    assert read_metrics(whole)["best"] is None
    assert list_files(parted) == RUN_FILES


def test_a_run_interrupted_before_its_first_checkpoint_starts_again(run: Path, data: Path, tmp_path: Path):
    parted = interrupt(data, tmp_path / "parted", saves=1)
    for checkpoint in parted.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    finetune_small(data, parted, resume=True)
    assert distance(run, parted) == 0


def test_a_run_that_has_learned_nothing_yet_may_be_begun_with_other_settings(data: Path, tmp_path: Path):
    parted = interrupt(data, tmp_path / "parted", saves=1, seed=5)
    shutil.rmtree(parted / "checkpoint-14")
    finetune_small(data, parted, resume=True, num_train_epochs=1)
    assert read_metrics(parted)["seed"] == 42
    assert read_metrics(parted)["settings"]["num_train_epochs"] == 1


def test_a_run_does_not_go_on_from_checkpoints_without_the_optimizer(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parted = interrupt(data, tmp_path / "parted", saves=1, save_only_model=True)
    before = snapshot(parted)
    error = refuse(small_words(data, parted, save_only_model=True, resume=True), capsys)
    assert f"`save_only_model` (True) leaves nothing to go on from: {parted / 'checkpoint-14'}" in error
    assert snapshot(parted) == before


def test_two_processes_do_not_write_in_one_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parted = interrupt(data, tmp_path / "parted", saves=1)
    before = snapshot(parted)
    with resuming.alone_in(parted):
        error = refuse(small_words(data, parted, resume=True), capsys)
    assert f"Another process is writing in `output_dir` {str(parted)!r}" in error
    assert snapshot(parted) == before
    with pytest.raises(FileExistsError, match="Another process has begun"), resuming.alone_in(parted, is_new=True):
        pass
    finetune_small(data, parted, resume=True)  # both are free again


def test_a_run_without_a_best_epoch_has_a_record_and_a_card(data: Path, tmp_path: Path):
    diverging = {"learning_rate": 1e10, "max_grad_norm": 0, "optim": "sgd", "metric_for_best_model": "loss"}
    run = finetune_small(data, tmp_path / "run", **diverging)
    assert read_metrics(run)["best"] is None
    assert "# run" in (run / "README.md").read_text()


def test_the_length_on_record_is_that_of_the_tokenizer(run: Path, data: Path, tmp_path: Path):
    again = finetune_small(data, tmp_path / "again", model=run, max_length=64, num_train_epochs=1)
    assert read_metrics(again)["settings"]["max_length"] == 32


@pytest.mark.parametrize(
    ("name", "was", "value"),
    [
        ("learning_rate", 0.01, 0.5),
        ("seed", 42, 1),
        ("num_train_epochs", 3.0, 4.0),
        ("per_device_train_batch_size", 8, 16),
        ("hidden_size", 16, 32),
        ("wave_operation", "modulation", "interference"),
        ("class_weights", "none", "balanced"),
        ("adam_beta2", 0.999, 0.99),
        ("data_seed", None, 7),
        ("train_sampling_strategy", "group_by_length", "random"),
        ("metric_for_best_model", "accuracy", "loss"),
        ("save_only_model", False, True),
    ],
)
def test_a_run_goes_on_with_the_settings_that_it_was_begun_with(
    data: Path, tmp_path: Path, name: str, was: Any, value: Any, capsys: pytest.CaptureFixture[str]
):
    parted = interrupt(data, tmp_path / "parted", saves=1)
    before = snapshot(parted)
    error = refuse(small_words(data, parted, resume=True, **{name: value}), capsys)
    assert f"`{name}` ({value!r}) must be what it was" in error
    assert f"begun with {was!r}" in error
    assert snapshot(parted) == before


def test_a_run_goes_on_with_the_rows_that_it_was_begun_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parted = interrupt(data, tmp_path / "parted", saves=1)
    before = snapshot(parted)
    (tmp_path / "other").mkdir()
    write_csv(tmp_path / "other" / "train.csv", make_rows(120, seed=5))
    error = refuse(small_words(tmp_path / "other", parted, resume=True), capsys)
    assert "`dataset`" in error
    assert f"--dataset {data}" in error  # how it was begun
    assert snapshot(parted) == before


def test_an_ended_run_goes_back_to_a_checkpoint_in_a_copy(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(run, tmp_path / "copy")
    for name in ("metrics.json", "model.safetensors"):
        (copy / name).unlink()
    before = snapshot(copy)
    assert "`seed` (1) must be what it was" in refuse(small_words(data, copy, resume=True, seed=1), capsys)
    assert snapshot(copy) == before
    finetune_small(data, copy, resume=True)
    assert distance(run, copy) == 0
    assert list_files(copy) == RUN_FILES


def test_a_run_that_goes_on_has_taken_the_time_before_too(data: Path, tmp_path: Path):
    parted = interrupt(data, tmp_path / "parted", saves=1)
    path = parted / "checkpoint-14" / "run.json"
    begun = json.loads(path.read_text())
    assert 0 < begun["seconds"] < 600
    path.write_text(json.dumps(begun | {"seconds": 5000}))
    finetune_small(data, parted, resume=True)
    assert 5000 < read_metrics(parted)["duration_seconds"] < 5600


def test_a_best_step_between_two_saves_is_kept(data: Path, tmp_path: Path):
    steps = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 40}
    run = finetune_small(data, tmp_path / "run", metric_for_best_model="loss", learning_rate=0.1, **steps)
    metrics = read_metrics(run)
    assert metrics["best"]["step"] not in (40, 42)
    assert metrics["best"]["value"] == pytest.approx(metrics["calibration"]["validation"]["nll"], abs=1e-6)


def test_a_run_that_goes_on_is_validated_and_saved_as_it_is_told_now(data: Path, tmp_path: Path):
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "save_total_limit": 9}
    parted = interrupt(data, tmp_path / "parted", saves=1, eval_steps=12, save_steps=12, **steps)
    finetune_small(data, parted, resume=True, eval_steps=10, save_steps=10, **steps)
    saved = {path.name for path in parted.glob("checkpoint-*")}
    assert saved == {f"checkpoint-{step}" for step in (12, 20, 30, 40, 42)}


def test_all_rows_are_measured_where_training_drops_some(run: Path, data: Path, tmp_path: Path):
    dropping = finetune_small(data, tmp_path / "run", dataloader_drop_last=True, per_device_eval_batch_size=16)
    for split, result in read_metrics(dropping)["results"].items():
        assert result["rows"] == read_metrics(run)["results"][split]["rows"]
    assert read_metrics(dropping)["end"]["step"] == 3 * (108 // 8)


@pytest.mark.parametrize("name", ["prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches"])
def test_predictions_that_would_not_be_in_one_piece_are_refused(
    data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    wrong = name != "eval_do_concat_batches"
    error = refuse(small_words(data, tmp_path / "run", **{name: wrong}), capsys)
    assert f"`{name}` must be {not wrong}" in error
    assert f"got {wrong}" in error


def test_the_command_says_what_was_given_as_nothing_in_python():
    types = [finetune.DataArguments, finetune.ModelArguments, finetune.RunArguments]
    given = types[0]("texts"), types[1](conv_kernel_size=None), types[2](use_cpu=True, metric_for_best_model=None)
    command = shlex.split(settings_module.describe_command(*given))
    _, model_arguments, arguments = parse_settings("finetune", types, command[2:])
    assert not model_arguments.conv_kernel_size
    assert arguments.metric_for_best_model == "loss"


def test_a_model_in_a_folder_is_on_record_as_one(data: Path, run: Path, tmp_path: Path, monkeypatch: Any):
    shutil.copytree(run, tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    finetune_small(data, Path("second"), model="runs/first", tokenizer="runs/first", num_train_epochs=1)
    assert read_metrics(Path("second"))["base_model"] == "./runs/first"
    monkeypatch.chdir("/")
    card = write_card(tmp_path / "second", repo_id="you/second").read_text()
    assert "base_model:" not in card


def test_counts_of_many_classes_take_a_line_for_each():
    matrix = [[row * column % 7 for column in range(300)] for row in range(300)]
    results = {split: {"rows": 1, "confusion": matrix} for split in ("validation", "test")}
    text = as_json({"label_names": ["größe"], "results": results})
    assert json.loads(text) == {"label_names": ["größe"], "results": results}
    assert len(text.splitlines()) < 640


def test_an_order_of_the_rows_that_there_is_not_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data, tmp_path / "run", train_sampling_strategy="grouped"), capsys)
    assert "`train_sampling_strategy` must be one of ['random'" in error
    assert "got 'grouped'" in error
    assert not (tmp_path / "run").exists()


@pytest.fixture
def moved(data: Path, tmp_path: Path) -> Path:
    """A run whose best checkpoint is its first one, interrupted after its last, in a folder that was renamed then."""
    parted = interrupt(data, tmp_path / "parted", saves=3, save_total_limit=3)
    path = parted / "checkpoint-42" / "trainer_state.json"
    state = json.loads(path.read_text())
    state |= {"best_global_step": 14, "best_metric": 1.0, "best_model_checkpoint": str(parted / "checkpoint-14")}
    path.write_text(json.dumps(state))
    return parted.rename(tmp_path / "moved")


def test_a_run_that_was_moved_keeps_its_best_model(data: Path, moved: Path):
    finetune_small(data, moved, resume=True, save_total_limit=3)
    assert distance(moved, moved / "checkpoint-14") == 0
    assert distance(moved, moved / "checkpoint-42") > 0
    assert read_metrics(moved)["best"]["step"] == 14


def test_a_run_without_its_best_model_does_not_go_on(data: Path, moved: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(moved / "checkpoint-14")
    error = refuse(small_words(data, moved, resume=True, save_total_limit=3), capsys)
    assert str(moved / "checkpoint-14") in error
    assert not (moved / "metrics.json").exists()


@pytest.mark.parametrize("damage", ["weights", "state", "no state"])
def test_a_checkpoint_cut_short_is_passed_over(
    run: Path, data: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    parted = interrupt(data, tmp_path / "parted", saves=2)
    last = parted / "checkpoint-28"
    if damage == "no state":
        (last / "trainer_state.json").unlink()
    else:
        file = last / ("model.safetensors" if damage == "weights" else "trainer_state.json")
        file.write_bytes(file.read_bytes()[:-100])
    finetune_small(data, parted, resume=True)
    assert f"{last} is not complete and is passed over." in capsys.readouterr().err
    assert distance(run, parted) == 0


def test_an_interrupted_run_cannot_be_pushed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parted = interrupt(data, tmp_path / "parted", saves=1)
    assert str(parted / "metrics.json") in refuse(["push", str(parted), "tester/parted"], capsys)
    with pytest.raises(FileNotFoundError, match=r"parted' is not a finished run folder: it lacks model\.safetensors"):
        push_run(parted, "tester/parted")


# The order of the rows, and the loss


def make_trainer(tmp_path: Path, lengths: list[int]) -> finetune.WaveTrainer:
    arguments = finetune.RunArguments(str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    rows = [{"input_ids": [1] * length} for length in lengths]
    return finetune.WaveTrainer(model=torch.nn.Linear(1, 1), args=arguments, train_dataset=rows)


def test_the_order_of_the_rows_depends_on_seed_and_epoch_alone(tmp_path: Path):
    lengths = [1 + index % 13 for index in range(90)]
    orders = []
    for global_seed in (1, 2):
        trainer = make_trainer(tmp_path, lengths)
        sampler = trainer._get_train_sampler()
        for epoch in (0.0, 1.0, 1.5):  # the last one: a run that goes on
            set_seed(global_seed)  # what the processes of torchrun share at first, and lose
            trainer.state.epoch = epoch
            orders.append(list(sampler))
    assert orders[:3] == orders[3:]
    assert orders[0] != orders[1]
    assert orders[1] == orders[2]
    assert all(sorted(order) == list(range(90)) for order in orders)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_four_accumulated_steps_of_four_rows_equal_one_of_sixteen(tmp_path: Path, class_weights: str):
    rows = [row for name, count in SKEW.items() for row in make_rows(count, 2, [name])]
    write_csv(tmp_path / "train.csv", rows)
    settings = {
        "class_weights": class_weights,
        "hidden_dropout_prob": 0,
        "optim": "sgd",  # a step is as far as the gradient is long; AdamW would hide a wrong scale
        "max_grad_norm": 0,
        "learning_rate": 0.5,
        "num_train_epochs": 1,
    }
    whole = finetune_small(tmp_path, tmp_path / "whole", per_device_train_batch_size=16, **settings)
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    parted = finetune_small(tmp_path, tmp_path / "parted", **parts, **settings)
    still = finetune_small(tmp_path, tmp_path / "still", **settings | {"learning_rate": 0})
    assert distance(whole, parted) < 1e-5
    assert distance(whole, still) > 0.01


def test_balanced_weights_find_the_rare_classes_of_skewed_data(tmp_path: Path):
    rows = [row for name, count in SKEW.items() for row in make_rows(count, 3, [name])]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", make_rows(60, seed=4))
    recalls = {}
    for choice in ("none", "balanced"):
        run = finetune_small(tmp_path, tmp_path / choice, class_weights=choice, metric_for_best_model="loss")
        assert read_metrics(run)["settings"]["class_weights"] == choice
        by_class = read_metrics(run)["results"]["test"]["per_class"]
        recalls[choice] = by_class["money"]["recall"] + by_class["space"]["recall"]
    assert recalls["balanced"] > recalls["none"] + 0.2


# Other ways to the same weights

SHORT = {"hidden_dropout_prob": 0, "max_steps": 4, "per_device_train_batch_size": 108, "metric_for_best_model": "loss"}


@pytest.fixture(scope="module")
def short(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune_small(data, tmp_path_factory.mktemp("short") / "run", **SHORT)


def test_checkpointed_activations_give_the_same_weights(
    short: Path, data: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    calls = []
    checkpoint = modeling_utils.checkpoint

    def count(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        return checkpoint(*arguments, **settings)

    with patch.object(modeling_utils, "checkpoint", count):
        run = finetune_small(data, tmp_path / "run", gradient_checkpointing=True, **SHORT)
    assert len(calls) == 4
    assert distance(short, run) < 1e-6
    assert read_metrics(run)["settings"]["gradient_checkpointing"] is True
    assert not [
        warning for warning in recwarn if "deprecated" in str(warning.message) and "checkpointing" in str(warning)
    ]


def test_compiled_training_gives_the_same_weights_and_an_ordinary_model(short: Path, data: Path, tmp_path: Path):
    torch._dynamo.utils.counters.clear()
    # The backend that compiles nothing further is enough to test our side, and quick.
    run = finetune_small(data, tmp_path / "run", torch_compile=True, torch_compile_backend="eager", **SHORT)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert distance(short, run) < 1e-5
    assert read_metrics(run)["settings"]["torch_compile"] is True
    assert read_metrics(run)["results"] == read_metrics(short)["results"]
    AutoModelForSequenceClassification.from_pretrained(run)


def test_bf16_autocast_trains_float32_weights(short: Path, data: Path, tmp_path: Path):
    run = finetune_small(data, tmp_path / "run", bf16=True, **SHORT)
    weights = read_weights(run)
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights.values())
    assert 0 < distance(short, run) < 0.1
    assert read_metrics(run)["settings"]["bf16"] is True


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_processor_without_bf16_is_told_apart(
    has_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    for bf16 in (True, False):
        finetune.warn_of_slow_bf16(finetune.RunArguments(str(tmp_path), bf16=bf16, use_cpu=True))
        assert ("no bf16 of its own" in capsys.readouterr().err) == (bf16 and not has_bf16)


# Trackers

TRACKED = """
import json, sys
from pathlib import Path
from wave_network.training.finetune import finetune
from wave_network.training.cli import parse_settings
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments
words, trackers = json.loads(sys.argv[1])
data, model, arguments = parse_settings("finetune", [DataArguments, ModelArguments, RunArguments], words[1:])
arguments.report_to = trackers
finetune(data, model, arguments)
"""


def test_trackers_log_into_the_run_folder_and_nowhere_else(data: Path, tmp_path: Path):
    home, run = tmp_path / "home", tmp_path / "runs" / "first"
    home.mkdir()
    trackers = ["tensorboard", "trackio"] + ["wandb"] * (importlib.util.find_spec("wandb") is not None)
    words = small_words(data, run, num_train_epochs=2, hub_token="hf_secret")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "WANDB_"))}
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = [sys.executable, "-c", TRACKED, json.dumps([words, trackers])]
    process = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert process.returncode == 0, process.stderr
    assert list(home.rglob("*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "runs"]
    assert sorted(path.name for path in run.parent.iterdir()) == ["first"]
    assert f"tensorboard --logdir {run}" in process.stdout
    assert f"TRACKIO_DIR={run / 'trackio'} trackio show" in process.stdout
    assert [path for path in run.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()] == []

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    metrics = read_metrics(run)
    accuracies = [event.value for event in events.Scalars("eval/accuracy")]
    assert len(accuracies) == 2
    assert max(accuracies) == pytest.approx(metrics["results"]["validation"]["accuracy"])
    with contextlib.closing(sqlite3.connect(run / "trackio" / "texts.db")) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert {name for name, _ in rows} == {"first"}
    logged = [json.loads(values) for _, values in rows]
    assert [values["eval/accuracy"] for values in logged if "eval/accuracy" in values][:2] == pytest.approx(accuracies)
    tests = [values["test/accuracy"] for values in logged if "test/accuracy" in values]
    # Before transformers 5.15 Trainer's tracker logs nothing after the training.
    sent = Version(importlib.metadata.version("transformers")) >= Version("5.15")
    assert tests == pytest.approx([metrics["results"]["test"]["accuracy"]] if sent else [])
    if "wandb" in trackers:
        assert list(run.glob("wandb/offline-run-*/*.wandb"))


def test_the_command_line_that_a_tracker_notes_has_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = ["wave-network", "finetune", "--hub_token", "hf_secret", "--hub-token=hf_secret"]
    monkeypatch.setattr(sys, "argv", words)
    with track(finetune.RunArguments(use_cpu=True, hub_token="hf_secret"), tmp_path):
        assert sys.argv == [word.replace("hf_secret", "<HUB_TOKEN>") for word in words]
    assert sys.argv == words


def test_a_place_that_the_user_has_chosen_is_kept(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    before = dict(os.environ)
    run = finetune_small(data, tmp_path / "run", report_to="tensorboard", max_steps=1)
    assert len(list((tmp_path / "mine").glob("events.*"))) == 1
    assert not (run / "tensorboard").exists()
    changed = {name for name in os.environ.keys() | before if os.environ.get(name) != before.get(name)}
    assert not {name for name in changed if name.startswith(("TENSORBOARD", "TRACKIO", "WANDB"))}


@pytest.mark.parametrize(("tracker", "extra"), [("trackio", "track"), ("tensorboard", "track"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra_before_the_training(
    tracker: str,
    extra: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setitem(sys.modules, tracker, None)
    error = refuse(small_words(data, tmp_path / "run", report_to=tracker), capsys)
    assert "ImportError" in error
    assert f'pip install "wave-network[{extra}]"' in error
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_there_is_not_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    error = refuse(small_words(data, tmp_path / "run", report_to="tensorbord"), capsys)
    assert "`report_to`" in error
    assert "'tensorbord'" in error
    assert "'tensorboard'" in error


# Other data, tokenizers and models


def test_a_vocabulary_file_is_used_as_it_is(data: Path, tmp_path: Path):
    words = [word for words in WORDS.values() for word in words]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    run = finetune_small(data, tmp_path / "run", tokenizer=tmp_path / "vocab.txt", num_train_epochs=1)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == vocabulary
    assert tokenizer.model_max_length == 32
    assert read_metrics(run)["settings"]["vocab_size"] == len(vocabulary)
    assert read_metrics(run)["settings"]["tokenizer"] == str(tmp_path / "vocab.txt")


def test_a_run_goes_on_from_a_model_with_other_labels(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    rows = [row | {"label": "terrestrial" if row["label"] != "space" else "space"} for row in make_rows(60, seed=5)]
    dataset = write_csv(tmp_path / "two.csv", rows)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    still = finetune_small(dataset, tmp_path / "still", model=run, learning_rate=0, num_train_epochs=1)
    assert "classifier.weight" in caplog.text  # the report of transformers on what it did not load
    before, after = read_weights(run), read_weights(still)
    assert {name for name in after if not torch.equal(before.get(name), after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert after["classifier.bias"].shape == (2,)
    assert (still / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    assert json.loads((still / "config.json").read_text())["id2label"] == {"0": "space", "1": "terrestrial"}
    metrics = read_metrics(still)
    assert metrics["base_model"] == str(run)
    # Without a test split there are no test results, and the picture shows validation.
    assert list(metrics["results"]) == ["validation"]
    assert metrics["data"]["rows"] == {"train": 54, "validation": 6}
    assert (still / "confusion_matrix.png").exists()


def test_a_model_of_another_family_is_trained_and_gets_no_card(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=200, **sizes)).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(run).save_pretrained(tmp_path / "bert")
    output = finetune_small(data, tmp_path / "run", model=tmp_path / "bert", num_train_epochs=1)
    assert "The model (a card is for a Wave Network alone) and metrics.json are in" in capsys.readouterr().out
    assert not (output / "README.md").exists()
    assert type(AutoModelForSequenceClassification.from_pretrained(output)) is BertForSequenceClassification


def test_an_architecture_for_an_existing_model_is_refused(run: Path, data: Path, tmp_path: Path):
    settings = finetune.ModelArguments(model=str(run), hidden_size=16)
    with pytest.raises(ValueError, match="`hidden_size` \\(16\\) is for a new model"):
        finetune.finetune(finetune.DataArguments(str(data)), settings, finetune.RunArguments(str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_a_run_without_a_name_is_called_after_its_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    words = small_words(data, tmp_path, max_steps=1)
    at = words.index("--output_dir")
    main(words[:at] + words[at + 2 :])
    assert (tmp_path / "runs" / "texts" / "metrics.json").is_file()
    assert "skewed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "settings", "epochs"),
    [
        (1, {}, 30),
        (300, {}, 30),  # 300 steps
        (300, {"per_device_train_batch_size": 8}, 13),  # 38 steps an epoch
        (900, {}, 17),  # 29 steps an epoch
        (900, {"gradient_accumulation_steps": 2}, 30),
        (1536, {}, 10),  # 48 steps an epoch
        (50_000, {}, 10),
        (300, {"num_train_epochs": 10}, 10),
    ],
)
def test_few_rows_are_passed_over_more_often(rows: int, settings: dict, epochs: int, tmp_path: Path):
    arguments = finetune.RunArguments(str(tmp_path), use_cpu=True, **settings)
    command = dict(arguments.changed)
    arguments.settle_epochs(rows, is_new=True)
    assert arguments.num_train_epochs == epochs
    arguments = finetune.RunArguments(str(tmp_path), use_cpu=True, **settings)
    arguments.settle_epochs(rows, is_new=False)  # what knows something already
    assert arguments.num_train_epochs == 10
    assert arguments.changed == command  # the command that repeats the run leaves the default to the rows


def test_a_run_that_says_nothing_of_epochs_takes_those_for_its_rows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in (("EPOCHS", 1.0), ("FEW_STEPS", 28)):
        monkeypatch.setattr(settings_module, name, value)
    words = small_words(data, tmp_path / "run")
    at = words.index("--num_train_epochs")
    main(words[:at] + words[at + 2 :])
    metrics = read_metrics(tmp_path / "run")
    assert metrics["end"] == {"step": 28, "epoch": 2.0, "reason": "num_train_epochs"}  # 108 rows in batches of 8
    assert metrics["settings"]["num_train_epochs"] == 2
    assert "num_train_epochs" not in metrics["command"]


def test_skewed_classes_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [row for name, count in SKEW.items() for row in make_rows(count, seed=1, names=[name])]
    finetune_small(write_csv(tmp_path / "skew.csv", rows), tmp_path / "run", max_steps=1)
    assert "The classes are skewed: 81 training rows of 'sport', 8 of" in capsys.readouterr().out


def test_pairs_and_a_validation_split_are_taken_as_they_are(tmp_path: Path):
    for split, count, seed in (("train", 60, 6), ("validation", 15, 7)):
        rows = make_rows(count, seed)
        pairs = [{"question1": row["text"], "question2": "is it so", "label": row["label"]} for row in rows]
        write_csv(tmp_path / f"{split}.csv", pairs)
    run = finetune_small(tmp_path, tmp_path / "run", num_train_epochs=1)
    data = read_metrics(run)["data"]
    assert data["text_columns"] == ["question1", "question2"]
    assert data["rows"] == {"train": 60, "validation": 15}
    assert data["validation_was_split"] is False
    tokens = AutoTokenizer.from_pretrained(run)
    assert tokens.decode(tokens("so", "is it")["input_ids"]) == "[CLS] so [SEP] is it [SEP]"


# Two processes


def run_in_two_processes(words: list[str]) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, *launch, "-m", "wave_network.training.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Done in") == 1  # one process speaks


def test_two_processes_evaluate_as_one(run: Path, data: Path, tmp_path: Path):
    settings = {"model": run, "learning_rate": 0, "num_train_epochs": 1, "per_device_eval_batch_size": 4}
    two = tmp_path / "two"
    run_in_two_processes(small_words(data, two, **settings))
    assert distance(two, run) == 0
    assert read_metrics(two)["settings"]["processes"] == 2
    assert read_metrics(two)["results"] == read_metrics(run)["results"]
    assert list_files(two) == RUN_FILES


def test_two_processes_train_as_one(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [row | {"weight": index % 3} for index, row in enumerate(make_rows(120, seed=0))]
    write_csv(data / "train.csv", rows)
    write_csv(data / "test.csv", make_rows(43, seed=1))
    settings = {
        "train_sampling_strategy": "random",  # grouped by length, the batches of one process and of two differ
        "loss": "focal",
        "class_weights": "balanced",
        "weight_column": "weight",
        "hidden_dropout_prob": 0,
        "optim": "sgd",
        "max_grad_norm": 0,
        "learning_rate": 0.5,
        "max_steps": 13,  # the 14th step of an epoch has too few rows for two processes
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
    }
    one = finetune_small(data, tmp_path / "one", **settings)
    two = tmp_path / "two"
    run_in_two_processes(small_words(data, two, **settings | {"per_device_train_batch_size": 4}))
    assert distance(one, two) < 1e-4
    assert read_metrics(one)["results"] == read_metrics(two)["results"]


# The Hub. The process that speaks with it is a fresh one: its address is read at import.

COMMANDS = """
import contextlib, io, json, sys
from unittest.mock import patch
from wave_network.training.cli import main, parse_settings
answers = []
for words in json.loads(sys.argv[1]):
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch("time.sleep"):
        sys.argv[1:] = words
        try:
            main()
        except SystemExit as error:
            code = error.code
    answers.append([code, out.getvalue(), err.getvalue().rstrip().rpartition(chr(10))[2]])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def pushed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with a wrong token; with the right one, but a Hub that fails at the commit; and the push again."""
    folder = tmp_path_factory.mktemp("push")
    words = small_words(data, folder / "run", push_to_hub=True, hub_model_id="tester/news", report_to="trackio")
    commands = [
        [*words, "--hub_token", "hf_wrong"],
        [*words, "--hub_token", "hf_right"],
        ["push", str(folder / "run"), "tester/news", "--token", "hf_right"],
        ["push", str(folder / "run"), "news", "--token", "hf_right"],
        small_words(data, folder / "often", push_to_hub=True, hub_strategy="every_save", hub_token="hf_right"),
    ]
    with LoopbackHub(token="hf_right") as hub:
        hub.failures = {"commit": 1}
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "home"),
            "HF_TOKEN": "hf_other",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("HF_HUB_OFFLINE", None)
        process = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert process.returncode == 0, process.stderr
        answers = json.loads(process.stdout.splitlines()[-1])
        files = {name: hub.files(f"tester/{name}") for name in ("news", "often")}
        return {"answers": answers, "files": files["news"], "often": files["often"], "folder": folder}


def test_a_refused_token_stops_the_run_before_it_trains(pushed: dict[str, Any]):
    code, out, error = pushed["answers"][0]
    assert code == 2
    assert "401" in error
    assert "Invalid credentials" in error
    assert "parameters" not in out  # the summary that stands before the training


def test_a_card_names_the_repository_with_its_owner_where_the_command_does_not(pushed: dict[str, Any]):
    code, out, error = pushed["answers"][3]
    assert code == 0, error
    assert "/tester/news/" in out
    card = pushed["files"]["README.md"].decode()
    assert "name = 'tester/news'" in card
    assert card == (pushed["folder"] / "run" / "README.md").read_text()


def test_a_push_that_fails_leaves_the_run_whole_and_says_how_to_repeat_it(pushed: dict[str, Any]):
    code, out, error = pushed["answers"][1]
    run = pushed["folder"] / "run"
    assert code == 2
    assert "500" in error
    assert f"wave-network push {run} tester/news" in out
    assert {name for name in list_files(run) if not name.startswith("trackio")} == RUN_FILES
    AutoModelForSequenceClassification.from_pretrained(run)


def test_the_repeated_push_is_complete_and_carries_no_checkpoints_no_pickles_and_no_logs(pushed: dict[str, Any]):
    code, out, _ = pushed["answers"][2]
    assert code == 0
    assert "tester/news/commit/" in out
    run, files = pushed["folder"] / "run", pushed["files"]
    assert any(run.glob("checkpoint-*/training_args.bin"))
    assert any(run.glob("trackio/*"))
    assert files == {name: (run / name).read_bytes() for name in RUN_FILES}
    assert b"tester/news" in files["README.md"]


def test_what_was_pushed_while_a_run_was_under_way_is_no_more_there(pushed: dict[str, Any]):
    code, out, error = pushed["answers"][4]
    assert code == 0, error
    assert f"wave-network push {pushed['folder'] / 'often'} often" in out
    assert set(pushed["often"]) == RUN_FILES


def test_the_token_lands_in_no_file_and_the_command_can_be_typed_again(pushed: dict[str, Any]):
    files = [path for path in pushed["folder"].rglob("*") if path.is_file()]
    assert [path for path in files if b"hf_right" in path.read_bytes() or b"hf_wrong" in path.read_bytes()] == []
    command = shlex.split(read_metrics(pushed["folder"] / "run")["command"])
    types = [finetune.DataArguments, finetune.ModelArguments, finetune.RunArguments]
    _, model_arguments, arguments = parse_settings("finetune", types, command[2:])
    assert command[:2] == ["wave-network", "finetune"]
    assert (model_arguments.hidden_size, arguments.learning_rate, arguments.hub_token) == (16, 0.01, None)
