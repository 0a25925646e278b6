"""`wave-network finetune` from data to run folder: what it leaves, repeats, goes on with and refuses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import (
    SMALL,
    distance,
    finetune_small,
    interrupt,
    make_rows,
    read_metrics,
    refuse,
    small_words,
    write_csv,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

from wave_network import WaveForSequenceClassification
from wave_network.data.load import load_text_data
from wave_network.training.finetune import finetune
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments
from wave_network.training.start import get_model

RUN_FILES = {"config.json", "metrics.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
LAST = {"resume_from_checkpoint": "last"}


def snapshot(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# What a run leaves


def test_a_run_folder_has_all_that_is_needed_and_says_how_it_was_made(run: Path, data_folder: Path):
    names = {path.name for path in run.iterdir() if path.is_file()}
    assert RUN_FILES | {"confusion_matrix.png", "reliability.png"} <= names
    assert not [name for name in names if name.endswith(".tmp") or name == "run.json"]
    metrics, data = read_metrics(run), load_text_data(data_folder)
    assert metrics["data"]["fingerprint"] == data.fingerprint
    assert metrics["data"]["rows"] == {"train": 108, "validation": 12, "test": 43}
    assert metrics["settings"]["subword_buckets"] == 16384
    assert metrics["settings"]["hidden_size"] == SMALL["hidden_size"]
    assert metrics["settings"]["max_length"] == SMALL["max_length"]
    assert f"--dataset {data_folder}" in metrics["command"]
    assert metrics["end"] == {"step": 42, "epoch": 3.0, "reason": "num_train_epochs"}
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert metrics["model"]["parameters"] == model.num_parameters()
    assert type(model.get_input_embeddings()) is torch.nn.Embedding


def test_the_results_are_those_of_the_saved_model_which_is_the_best_by_validation(run: Path, data_folder: Path):
    metrics, data = read_metrics(run), load_text_data(data_folder)
    classify = pipeline("text-classification", model=str(run), tokenizer=str(run), device="cpu")
    for name, split in (("validation", data.validation), ("test", data.test)):
        assert split is not None
        predicted = [data.label_names.index(each["label"]) for each in classify(split["text"][:], batch_size=64)]
        confusion = [[0] * 3 for _ in range(3)]
        for label, found in zip(split["label"], predicted, strict=True):
            confusion[label][found] += 1
        assert metrics["results"][name]["confusion"] == confusion
    assert metrics["results"]["validation"]["accuracy"] == metrics["best"]["value"]


def test_a_checkpoint_is_a_plain_model_and_the_best_one_is_the_run(run: Path):
    checkpoint = run / f"checkpoint-{read_metrics(run)['best']['step']}"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    batch = tokenizer(["goal match", "orbit"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = [
            AutoModelForSequenceClassification.from_pretrained(each)(**batch).logits for each in (checkpoint, run)
        ]
    assert torch.equal(*logits)


def test_of_two_equal_epochs_the_later_one_is_kept(data_folder: Path, tmp_path: Path):
    run = finetune_small(data_folder, tmp_path / "run", learning_rate=0)  # all epochs are equal
    assert read_metrics(run)["best"]["step"] == 42


def test_a_best_step_between_two_saves_is_kept(data_folder: Path, tmp_path: Path):
    steps = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 40}
    run = finetune_small(data_folder, tmp_path / "run", metric_for_best_model="loss", learning_rate=0.1, **steps)
    metrics = read_metrics(run)
    assert metrics["best"]["step"] not in (40, 42)
    assert metrics["best"]["value"] == pytest.approx(metrics["calibration"]["validation"]["nll"], abs=1e-6)


def test_calibration_sets_a_temperature_and_changes_no_label(data_folder: Path, tmp_path: Path):
    # Half of the rows to validate on, since a model that is always right has no temperature.
    settings = {"validation_fraction": 0.5}
    plain, calibrated = (
        finetune_small(data_folder, tmp_path / name, calibrate=name == "calibrated", **settings)
        for name in ("plain", "calibrated")
    )
    assert distance(plain, calibrated) == 0
    calibration, before = (read_metrics(run)["calibration"] for run in (calibrated, plain))
    config = AutoModelForSequenceClassification.from_pretrained(calibrated).config
    assert config.classifier_temperature == calibration["temperature"] != 1
    assert calibration["validation"]["before"] == before["validation"]
    assert calibration["validation"]["nll"] < before["validation"]["nll"]
    assert read_metrics(calibrated)["results"] == read_metrics(plain)["results"]
    again = finetune_small(data_folder, tmp_path / "again", model=calibrated, num_train_epochs=1, **settings)
    assert AutoModelForSequenceClassification.from_pretrained(again).config.classifier_temperature == 1


# A run that goes on


@pytest.mark.parametrize(
    ("saves", "settings"),
    [
        (2, {"subword_buckets": None}),
        (1, {"ema_decay": 0.6, "mixup_alpha": 1.0, "packing": True}),
        (2, {"eval_strategy": "steps", "eval_steps": 9, "class_weights": "balanced"}),  # in the middle of an epoch
        (2, {"early_stopping_patience": 2, "learning_rate": 1e-9, "num_train_epochs": 9}),
        (3, {"early_stopping_patience": 2, "learning_rate": 1e-9, "num_train_epochs": 9}),  # it has stopped already
    ],
)
def test_a_run_that_goes_on_ends_as_if_it_had_not_been_interrupted(
    data_folder: Path, tmp_path: Path, saves: int, settings: dict[str, Any]
):
    expected = finetune_small(data_folder, tmp_path / "one", **settings)
    parted = interrupt(data_folder, tmp_path / "parted", saves, **settings)
    finetune_small(data_folder, parted, **settings, **LAST)
    assert distance(expected, parted) == 0
    for part in ("best", "end", "results", "calibration", "settings", "data"):
        assert read_metrics(parted)[part] == read_metrics(expected)[part]
    assert not (parted / "run.json").exists()


@pytest.mark.parametrize("saves", [1, 2])
def test_a_checkpoint_cut_short_is_passed_over(saves: int, run: Path, data_folder: Path, tmp_path: Path):
    parted = interrupt(data_folder, tmp_path / "parted", saves, subword_buckets=None)
    state = parted / f"checkpoint-{14 * saves}" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:-100])
    finetune_small(data_folder, parted, subword_buckets=None, **LAST)
    assert distance(run, parted) == 0


def test_what_cannot_go_on_is_refused_and_stays_as_it_is(
    run: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parted = interrupt(data_folder, tmp_path / "parted", saves=1)
    for name in ("other", "foreign"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "train.csv", make_rows(120, seed=5))
    before = {folder: snapshot(folder) for folder in (run, parted, tmp_path / "foreign")}
    for dataset, output, settings, message in (
        (data_folder, run, LAST, "has ended. Choose another folder"),
        (data_folder, parted, {}, "is not empty. Choose another folder. It goes on with --resume_from_checkpoint last"),
        (data_folder, tmp_path / "foreign", LAST, "is not empty. Choose another folder"),
        (data_folder, parted, LAST | {"learning_rate": 0.5}, "--learning_rate (0.5) must be what it was"),
        (data_folder, parted, LAST | {"hidden_size": 32}, "--hidden_size (32) must be what it was"),
        (tmp_path / "other", parted, LAST, "`name` ('other') must be what it was"),
        (
            data_folder,
            tmp_path / "new",
            {"resume_from_checkpoint": "/nowhere"},
            "--resume_from_checkpoint must be last",
        ),
    ):
        assert message in refuse(small_words(dataset, output, **settings), capsys)
    assert {folder: snapshot(folder) for folder in before} == before
    assert not (tmp_path / "new").exists()


# Epochs, classes and models


@pytest.mark.parametrize(
    ("rows", "settings", "is_new", "epochs"),
    [
        (1600, {}, True, 10),
        (800, {}, True, 20),
        (100, {}, True, 30),
        (100, {}, False, 10),
        (100, {"num_train_epochs": 2}, True, 2),
        (800, {"gradient_accumulation_steps": 2}, True, 30),
    ],
)
def test_few_rows_are_passed_over_more_often(
    rows: int, settings: dict[str, Any], is_new: bool, epochs: int, tmp_path: Path
):
    arguments = RunArguments(str(tmp_path), use_cpu=True, **settings)
    arguments.resolve_numbers(rows, is_new)
    assert arguments.num_train_epochs == epochs


def test_balanced_weights_find_the_rare_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    skew = {"sport": 90, "money": 9, "space": 9}
    for split, seed in (("train", 2), ("test", 3)):
        rows = [row for name, count in skew.items() for row in make_rows(count, seed, [name])]
        write_csv(tmp_path / f"{split}.csv", rows)
    recalls = []
    for class_weights in ("none", "balanced"):
        run = finetune_small(tmp_path, tmp_path / class_weights, class_weights=class_weights, num_train_epochs=4)
        scores = read_metrics(run)["results"]["test"]["per_class"]
        recalls.append(scores["money"]["recall"] + scores["space"]["recall"])
    assert recalls[1] > recalls[0]
    assert "The classes are skewed: 81 training rows of 'sport'" in capsys.readouterr().out


def test_a_run_starts_from_a_model_with_other_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_csv(tmp_path / "two.csv", make_rows(60, 0, ["space", "sport"]))
    again = finetune_small(data, tmp_path / "again", model=run, learning_rate=0, subword_buckets=None)
    weights, before = (load_file(folder / "model.safetensors") for folder in (again, run))
    assert torch.equal(
        weights["wave.embeddings.word_embeddings.weight"], before["wave.embeddings.word_embeddings.weight"]
    )
    assert weights["classifier.weight"].shape[0] == 2
    metrics = read_metrics(again)
    assert (metrics["base_model"], metrics["settings"]["subword_buckets"]) == (str(run), 0)
    for settings, message in (
        ({"hidden_size": 32}, "--hidden_size (32) is for a new model"),
        ({"max_length": 64}, "--max_length must be at most 32"),
    ):
        assert message in refuse(small_words(data, tmp_path / "other", model=run, **settings), capsys)


def test_a_model_of_ones_own_is_trained_and_recorded(data_folder: Path, tmp_path: Path):
    def make_own(arguments: ModelArguments, tokenizer: Any, names: list[str]) -> WaveForSequenceClassification:
        assert names == ["money", "space", "sport"]
        return get_model(arguments, tokenizer, names)

    settings, model = (
        {name: value for name, value in SMALL.items() if name in kind.__dataclass_fields__}
        for kind in (RunArguments, ModelArguments)
    )
    arguments = RunArguments(str(tmp_path / "run"), **settings | {"num_train_epochs": 1})
    finetune(DataArguments(str(data_folder)), ModelArguments(**model), arguments, make_own)
    assert "make_own" in read_metrics(tmp_path / "run")["settings"]["make_model"]


def test_a_model_of_another_family_is_trained(
    run: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tokenizer = AutoTokenizer.from_pretrained(run)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    settings = {"model": tmp_path / "bert", "num_train_epochs": 1}
    metrics = read_metrics(finetune_small(data_folder, tmp_path / "run", **settings))
    assert metrics["results"]["test"]["rows"] == 43
    for setting in ("calibrate", "packing"):
        error = refuse(small_words(data_folder, tmp_path / "other", **settings, **{setting: True}), capsys)
        assert f"--{setting} is for a" in error


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"mixup_alpha": -1},
        {"ema_decay": 1},
        {"label_smoothing_factor": 1},
        {"subword_buckets": -1},
        {"metric_for_best_model": "f1"},
        {"train_sampling_strategy": "grouped"},
        {"early_stopping_patience": 2, "eval_strategy": "no"},
        {"load_best_model_at_end": True, "eval_strategy": "no"},
        {"mixup_alpha": 1, "torch_compile": True},
        {"report_to": "paper"},
        {"hub_model_id": "a/b/c"},
        {"ngram_size": 3},
        {"ngram_hidden_size": 8},
    ],
    ids=str,
)
def test_settings_that_have_no_effect_or_contradict_are_refused_in_one_line(
    data_folder: Path, tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data_folder, tmp_path / "run", **settings), capsys)
    name = next(iter(settings))
    assert error.startswith("wave-network finetune: ")
    assert f"--{name}" in error or settings[name] in error
    assert not (tmp_path / "run").exists()


def test_a_fraction_beside_a_validation_split_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for split in ("train", "validation"):
        write_csv(tmp_path / f"{split}.csv", make_rows(30, seed=0))
    error = refuse(small_words(tmp_path, tmp_path / "run", validation_fraction=0.2), capsys)
    assert "--validation_fraction is for data without a validation split" in error


def test_other_settings_of_transformers_have_their_effect(data_folder: Path, tmp_path: Path):
    settings = {"num_train_epochs": 1, "hidden_dropout_prob": 0}
    plain = finetune_small(data_folder, tmp_path / "plain", **settings)
    same = finetune_small(data_folder, tmp_path / "checkpointed", gradient_checkpointing=True, **settings)
    assert distance(plain, same) < 1e-6
    for other in ({"weight_decay": 0.5}, {"seed": 1}, {"label_smoothing_factor": 0.5}):
        assert distance(plain, finetune_small(data_folder, tmp_path / str(other), **settings, **other)) > 1e-4


def test_the_token_lands_in_no_file(data_folder: Path, tmp_path: Path):
    run = finetune_small(data_folder, tmp_path / "run", num_train_epochs=1, hub_token="hf_secret")
    assert not [path for path in run.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    assert "hub_token" not in json.dumps(read_metrics(run))
