"""Several labels a row, numbers, pairs of texts, and answers that are left out: from the rows to what is exported."""

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import WORDS, finetune_small, read_metrics, refuse, small_words, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from wave_network import WaveConfig, WaveModel, train_wave_tokenizer
from wave_network.cli import main
from wave_network.hub_card import write_card
from wave_network.inference import classify as classify_module
from wave_network.inference.classify import resolve_abstain
from wave_network.inference.export import ExportArguments, export_model
from wave_network.training.decisions import describe_abstain, tune_abstain, tune_thresholds
from wave_network.training.finetune import Scale
from wave_network.training.settings import ModelArguments
from wave_network.training.start import get_model


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Texts about any of three things, often none, and a number in the thousands that the words decide."""
    chooser, rows = random.Random(seed), []
    for _ in range(count):
        names = [name for name in WORDS if chooser.random() < 0.4]
        words = [word for name in names for word in chooser.choices(WORDS[name], k=2)] + ["report"]
        number = 5000 + 1000 * len(names) + 2000 * ("sport" in names)
        rows.append({"text": " ".join(words), "label": ";".join(names), "price": f"{number + chooser.random():.2f}"})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for seed, (split, count) in enumerate({"train": 160, "test": 41}.items()):
        write_csv(folder / f"{split}.csv", make_rows(count, seed))
    return folder


SETTINGS: dict[str, dict[str, Any]] = {
    "multi": {"text_columns": "text", "label_column": "label", "label_separator": ";"},
    "number": {"text_columns": "text", "label_column": "price"},
}


@pytest.fixture(scope="module", params=SETTINGS)
def task_run(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp("run") / request.param
    return request.param, finetune_small(folder, run, num_train_epochs=12, **SETTINGS[request.param])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_a_run_says_of_itself_is_what_its_model_answers(task_run: tuple[str, Path], folder: Path, tmp_path: Path):
    task, run = task_run
    rows, result = read_rows(folder / "test.csv"), read_metrics(run)["results"]["test"]
    model = AutoModelForSequenceClassification.from_pretrained(run)
    encoding = AutoTokenizer.from_pretrained(run)([row["text"] for row in rows], padding=True, return_tensors="pt")
    logits = model(**encoding).logits.detach().double().numpy()
    main(["predict", str(run), "--file", str(folder / "test.csv"), "--output", str(tmp_path / "out.csv")])
    answers = read_rows(tmp_path / "out.csv")
    if task == "number":
        expected = np.array([float(row["price"]) for row in rows])
        assert result["mse"] == pytest.approx(np.square(logits[:, 0] - expected).mean(), rel=1e-3)
        assert result["mse"] < 0.3 * expected.var()
        assert result["spearman"] > 0.8
        np.testing.assert_allclose([float(row["value"]) for row in answers], logits[:, 0], rtol=1e-4)
        one = pipeline("text-classification", model=str(run))(rows[0]["text"])[0]
        assert one == {"label": "value", "score": pytest.approx(logits[0, 0], rel=1e-4)}
    else:
        assert len(model.config.classifier_thresholds) == 3
        found = 1 / (1 + np.exp(-logits)) > np.array(model.config.classifier_thresholds)
        assert [row["label"] for row in answers] == [";".join(np.array(sorted(WORDS))[each]) for each in found]
        wanted = np.array([[name in row["label"].split(";") for name in sorted(WORDS)] for row in rows])
        assert result["subset_accuracy"] == pytest.approx((found == wanted).all(axis=1).mean())
        assert result["micro_f1"] > 0.9
    assert ("spearmanr" if task == "number" else "Threshold") in write_card(run).read_text(encoding="utf-8")


def test_an_export_answers_as_the_model_does(
    task_run: tuple[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, run = task_run
    exported = export_model(ExportArguments(str(run), output_dir=str(tmp_path / "onnx")))
    main(["predict", str(run), "--file", str(folder / "test.csv"), "--output", str(tmp_path / "out.csv")])
    capsys.readouterr()
    classify_module.main(["--file", str(folder / "test.csv"), "--folder", str(exported)])
    found = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for row, other in zip(found, read_rows(tmp_path / "out.csv"), strict=True):
        assert row.get("label") == other.get("label")
        for name in row.keys() - {"label"}:
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("task", SETTINGS)
def test_few_rows_are_cross_validated_by_a_probe(folder: Path, tmp_path: Path, task: str):
    tokenizer = train_wave_tokenizer([row["text"] for row in make_rows(160, 0)], 200, show_progress=False)
    settings = {"hidden_size": 16, "pad_token_id": 0, "position_embedding_type": "none", "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    WaveModel(WaveConfig(**settings)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    automatic = {"learning_rate": None, "num_train_epochs": None, "per_device_train_batch_size": None}
    started = {"model": str(tmp_path / "encoder"), "subword_buckets": None, **automatic, **SETTINGS[task]}
    run = finetune_small(folder, tmp_path / "run", **started)
    metrics = read_metrics(run)
    assert metrics["data"]["cross_validated"]
    assert metrics["results"]["validation"]["rows"] == 160
    assert metrics["results"]["test"]["micro_f1" if task == "multi" else "spearman"] > 0.5


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("number", {"calibrate": True}, "--calibrate (True) is for one label a row; these rows have numbers"),
        ("multi", {"class_weights": "balanced"}, "--class_weights ('balanced') is for one label a row"),
        ("multi", {"teacher": "anywhere"}, "--teacher ('anywhere') is for one label a row"),
        ("number", {"save_dtype": "float16"}, "is for one label a row or several labels a row; these"),
        (
            "number",
            {"metric_for_best_model": "accuracy"},
            "must be one of ['spearman', 'pearson', 'mse', 'mae', 'loss']",
        ),
        ("multi", {"classifier_pooling": "segments"}, "'segments' is for pairs of texts"),
    ],
)
def test_settings_of_other_tasks_are_refused_in_one_line(
    folder: Path, tmp_path: Path, task: str, settings: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
):
    assert message in refuse(small_words(folder, tmp_path / "run", **SETTINGS[task], **settings), capsys)
    assert not (tmp_path / "run").exists()


def test_a_model_of_pairs_knows_which_text_is_which(pairs_run: Path):
    model = AutoModelForSequenceClassification.from_pretrained(pairs_run)
    assert (model.config.classifier_pooling, model.config.type_vocab_size) == ("segments", 2)
    tokenizer = AutoTokenizer.from_pretrained(pairs_run)
    pairs = [("goal match", "bank"), ("rocket", "orbit comet galaxy"), ("bank", "goal match")]
    alone = [model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    together = model(**tokenizer(pairs, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-5)
    assert not torch.allclose(alone[0], alone[2], atol=1e-3)


def test_an_encoder_reads_pairs_as_before_until_it_learns(tmp_path: Path):
    tokenizer = train_wave_tokenizer(["goal match bank"] * 9, 60, show_progress=False)
    encoder = WaveModel(WaveConfig(vocab_size=len(tokenizer), hidden_size=16, pad_token_id=0)).eval()
    encoder.save_pretrained(tmp_path)
    model = get_model(ModelArguments(str(tmp_path)), tokenizer, ["no", "yes"], is_pair=True).eval()
    assert model.classifier.in_features == 4 * 16
    inputs = tokenizer("goal", "match", return_tensors="pt")
    assert torch.equal(model.wave(**inputs)[0], encoder(**inputs)[0])
    new = get_model(ModelArguments(model="none"), tokenizer, ["no", "yes"], is_pair=True).eval()
    together = new.wave(**tokenizer("goal", "goal", return_tensors="pt"), pooling="segments").pooler_output
    assert not new.wave.embeddings.token_type_embeddings.weight.any()  # a word is the same in both texts
    assert together.shape == (1, 4 * 128)


def test_thresholds_are_those_of_the_best_f1_and_careful_with_few_rows():
    generator = np.random.default_rng(0)
    labels = generator.random((4000, 2)) < (0.3, 0.0005)
    logits = np.where(labels, -1.0, -3.0) + 0.3 * generator.normal(size=labels.shape)
    often, seldom = tune_thresholds(logits, labels)
    assert 0.1 < often < 0.2
    assert often < seldom < 0.5
    assert tune_thresholds(np.zeros((3, 2)), np.zeros((3, 2))) == [0.5, 0.5]
    assert tune_thresholds(np.full((3, 2), np.nan), np.ones((3, 2))) == [0.5, 0.5]


def test_answers_are_left_out_below_the_probability_that_validation_chose():
    def draw(rows: int, right: float, p: float) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(np.log([p, 1 - p]), (rows, 1)), (np.arange(rows) >= round(rows * right)).astype(int)

    sure, unsure = draw(200, 1.0, 0.95), draw(100, 0.5, 0.6)
    logits, labels = (np.concatenate(each) for each in zip(sure, unsure, strict=True))
    chosen = tune_abstain(logits, labels, None)
    assert chosen == {"0.8": 0.0, "0.9": 0.95, "0.95": 0.95, "0.98": 0.95, "0.99": 0.95}
    lines = describe_abstain(chosen, logits, labels, None)
    assert lines[1] == {"precision_wanted": 0.9, "threshold": 0.95, "coverage": 2 / 3, "precision": 1.0, "rows": 200}
    assert list(tune_abstain(*draw(20, 1.0, 0.95), None)) == ["0.8", "0.9"]  # few rows prove no more
    assert tune_abstain(logits, labels, 2.0)["0.9"] == pytest.approx(1 / (1 + (0.05 / 0.95) ** 0.5), abs=1e-6)
    logits = np.stack([sure[0][0], unsure[0][0]])
    rows = classify_module.Answers({"id2label": {"0": "a", "1": "b"}}).make_rows(logits, least=0.95)
    assert [row[1] for row in rows] == ["a", None]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "is for a model of `finetune` with one label a row"),
        ({"classifier_abstain": {}}, "validation reached no precision"),
        ({"classifier_abstain": {"0.8": 0.3, "0.9": 0.5}}, r"must be one of \[0.8, 0.9\], got 0.95"),
    ],
)
def test_a_precision_that_was_not_reached_is_refused(config: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        resolve_abstain(config, 0.95)
    assert resolve_abstain(config, None) == 0
    assert resolve_abstain({"classifier_abstain": {"0.95": 0.7}}, 0.95) == 0.7


def test_numbers_that_float32_does_not_hold_are_refused():
    with pytest.raises(ValueError, match="float32"):
        Scale.find([1.0, np.inf])
