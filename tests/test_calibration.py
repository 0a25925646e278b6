"""Calibration: its measures against numbers worked by hand, the fit, and what a run makes of them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import finetune_small, make_rows, small_words, write_csv
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

from wave_network.training.calibration import (
    COLDEST,
    HOTTEST,
    brier_score,
    calibrate,
    describe_calibration,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    temperature_error,
)
from wave_network.training.cli import main

# Five rows, five bins of 0.2. By hand: confidence 0.6 is the upper end of the third bin, and belongs to it.
#   third bin:  0.5 right, 0.6 wrong: confidence 0.55, accuracy 1/2, 2 rows: 2/5 * 0.05
#   fourth bin: 0.7 right:            confidence 0.70, accuracy 1,   1 row:  1/5 * 0.30
#   fifth bin:  0.9 wrong, 1.0 right: confidence 0.95, accuracy 1/2, 2 rows: 2/5 * 0.45
PROBABILITIES = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0]]
LABELS = [0, 2, 2, 1, 1]

NAN, INFINITE = math.nan, math.inf


def draw(rows: int, classes: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K), and labels (N,) that are drawn from their softmax."""
    chooser = np.random.default_rng(0)
    logits = scale * chooser.normal(size=(rows, classes))
    return logits, (logits + chooser.gumbel(size=(rows, classes))).argmax(-1)


# The measures


def test_the_calibration_error_is_the_one_worked_by_hand():
    error, bins = expected_calibration_error(PROBABILITIES, LABELS, bins=5)
    assert error == pytest.approx(2 / 5 * 0.05 + 1 / 5 * 0.30 + 2 / 5 * 0.45)
    assert [each["count"] for each in bins] == [0, 0, 2, 1, 2]
    assert [each["high"] for each in bins] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [each["confidence"] for each in bins[2:]] == pytest.approx([0.55, 0.7, 0.95])
    assert [each["accuracy"] for each in bins] == [None, None, 0.5, 1.0, 0.5]
    assert expected_calibration_error(PROBABILITIES, LABELS, bins=1)[0] == pytest.approx(0.74 - 3 / 5)


def test_the_likelihood_and_the_brier_score_are_those_worked_by_hand():
    # Squares: 0.25 + 0.09 + 0.04, 0.04 + 0.36 + 0.64, 0.01 + 0.04 + 0.09, 0.81 + 0.81, 0.
    assert brier_score(PROBABILITIES, LABELS) == pytest.approx((0.38 + 1.04 + 0.14 + 1.62) / 5)
    logits = np.log([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2]]) + 7  # a constant changes nothing
    assert negative_log_likelihood(logits, [0, 2]) == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    assert negative_log_likelihood([[1000.0, 0.0]], [1]) == 1000  # a probability of 0 in any precision


def test_what_is_certain_and_right_has_no_error():
    logits = np.array([[400.0, 0, 0], [0, 0, 400]], dtype=np.float32)
    found = describe_calibration(logits, np.array([0, 2]))
    assert {name: found[name] for name in ("ece", "nll", "brier")} == {"ece": 0, "nll": 0, "brier": 0}
    assert len(found["bins"]) == 15
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 2.0], [NAN, 0.0]], [0, 1], r"`logits_NK` must be finite, got \[nan, 0\.0\] in row 1"),
        ([[1.0, -INFINITE]], [0], "`logits_NK` must be finite, got .*inf"),
        (np.zeros((0, 3)), [], r"`logits_NK` .* at least one row .* got \(0, 3\)"),
        ([1.0, 2.0], [0, 1], r"`logits_NK` .* got \(2,\)"),
        ([[1.0]], [0], r"two classes, got \(1, 1\)"),
        ([[1.0, 2.0]], [2], r"`labels_N` must be labels from 0 to 1, got \[2\]"),
        ([[1.0, 2.0]], [-1], r"`labels_N` .*got \[-1\]"),
        ([[1.0, 2.0]], [0, 1], r"`labels_N` must be 1 integers.* \(2,\)"),
        ([[1.0, 2.0]], [0.0], "`labels_N` must be 1 integers.* float64"),
    ],
)
def test_bad_logits_and_labels_are_named(logits: Any, labels: Any, message: str):
    for measure in (fit_temperature, negative_log_likelihood):
        with pytest.raises(ValueError, match=message):
            measure(logits, labels)


@pytest.mark.parametrize(
    "probabilities", [[[0.5, 0.5], [1.2, -0.2]], [[0.5, 0.5], [0.5, 0.6]], [[0.5, 0.5], [2.0, 3.0]]]
)
def test_what_are_no_probabilities_is_refused(probabilities: list[list[float]]):
    for measure in (expected_calibration_error, brier_score):
        with pytest.raises(ValueError, match=r"`probabilities_NK` must .* in row 1"):
            measure(probabilities, [0, 1])
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        expected_calibration_error([[0.5, 0.5]], [0], bins=0)


# The fit


@pytest.mark.parametrize("scale", [0.03, 1.0, 5.0, 30.0])
def test_the_temperature_undoes_a_scale(scale: float):
    logits, labels = draw(4000, 5, scale=2.0)
    temperature = fit_temperature(scale * logits, labels)
    assert temperature == pytest.approx(scale, rel=0.05)  # the labels were drawn at 1
    assert temperature == pytest.approx(scale * fit_temperature(logits, labels), rel=1e-9)
    likelihoods = [negative_log_likelihood(scale * logits / (temperature * by), labels) for by in (0.99, 1, 1.01)]
    assert likelihoods[1] == min(likelihoods)
    assert temperature == pytest.approx(fit_temperature((scale * logits).astype(np.float32), labels), rel=1e-5)


def test_the_standard_error_is_that_of_many_samples():
    logits, labels = draw(40_000, 3, scale=2.0)
    parts = [
        fit_temperature(logits[start : start + 400], labels[start : start + 400]) for start in range(0, 40_000, 400)
    ]
    assert temperature_error(logits[:400], 1.0) == pytest.approx(np.std(parts), rel=0.3)
    assert temperature_error(np.ones((5, 3)), 1.0) == INFINITE


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[3.0, 1.0], [0.0, 2.0]], [0, 1], COLDEST),  # all right
        ([[1e-3, 0.0]], [0], COLDEST),
        ([[1e30, 0.0]], [0], COLDEST),
        ([[1.0, 0.0]], [1], HOTTEST),  # a row that is wrong
        ([[1e30, 0.0]], [1], HOTTEST),
        ([[2.0, 2.0], [-5.0, -5.0]], [0, 1], 1.0),  # nothing to go by
    ],
)
def test_where_there_is_no_minimum_the_temperature_is_at_an_end(logits: Any, labels: list[int], expected: float):
    assert fit_temperature(logits, labels) == expected


def test_a_temperature_that_does_not_fit_is_not_set(capsys: pytest.CaptureFixture[str]):
    right = np.array([[3.0, 1.0], [0.0, 2.0]]), np.array([0, 1])
    found = calibrate({"validation": right, "test": right}, fit=True)
    assert found == {"temperature": None} | dict.fromkeys(["validation", "test"], describe_calibration(*right))
    assert "No temperature fits the 2 validation rows" in capsys.readouterr().err
    calibrate({"validation": draw(100, 2, 2.0)}, fit=True)
    assert "is uncertain: the 100 validation rows" in capsys.readouterr().err
    calibrate({"validation": draw(4000, 2, 2.0)}, fit=True)
    assert calibrate({"validation": (np.array([[NAN, 1.0]]), np.array([0]))}, fit=True) is None
    assert capsys.readouterr().err == "The logits are not finite: their calibration is not measured.\n"


# A run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    for split, count in (("train", 90), ("validation", 150), ("test", 43)):
        write_csv(folder / f"{split}.csv", make_rows(count, seed=count))
    return folder


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune_small(data, tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def calibrated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune_small(data, tmp_path_factory.mktemp("runs") / "calibrated", calibrate=True)


def read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def edit(file: Path, *field: Any, value: Any) -> None:
    content = inner = read_json(file)
    for name in field[:-1]:
        inner = inner[name]
    inner[field[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def compute_logits(run: Path, texts: list[str], **settings: Any) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(run, **settings)
    tokenizer = AutoTokenizer.from_pretrained(run)
    with torch.inference_mode():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def test_the_calibrated_run_is_the_plain_one_with_a_temperature(plain: Path, calibrated: Path):
    weights, others = (load_file(run / "model.safetensors") for run in (plain, calibrated))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    temperature = read_json(calibrated / "config.json")["classifier_temperature"]
    assert abs(temperature - 1) > 0.1  # else this proves little
    assert read_json(plain / "config.json") == read_json(calibrated / "config.json") | {"classifier_temperature": 1.0}
    assert read_json(plain / "metrics.json")["results"] == read_json(calibrated / "metrics.json")["results"]
    texts = [row["text"] for row in make_rows(43, seed=43)]
    logits = compute_logits(plain, texts)
    assert torch.equal(compute_logits(calibrated, texts, classifier_temperature=1.0), logits)
    assert torch.equal(compute_logits(calibrated, texts), logits / temperature)


def test_the_record_has_the_figures_before_and_after(plain: Path, calibrated: Path):
    before, after = (read_json(run / "metrics.json") for run in (plain, calibrated))
    assert before["settings"]["calibrate"] is False
    assert after["settings"]["calibrate"] is True
    assert before["calibration"]["temperature"] is None
    before, after = before["calibration"], after["calibration"]
    assert after["temperature"] == read_json(calibrated / "config.json")["classifier_temperature"]
    for split in ("validation", "test"):
        assert after[split].pop("before") == before[split]
        assert after[split].keys() == before[split].keys() == {"ece", "nll", "brier", "bins"}
    assert after["validation"]["nll"] < before["validation"]["nll"]


def test_the_figures_are_those_of_the_saved_model(calibrated: Path):
    rows = make_rows(43, seed=43)
    labels = read_json(calibrated / "config.json")["label2id"]
    found = read_json(calibrated / "metrics.json")["calibration"]["test"]
    logits = compute_logits(calibrated, [row["text"] for row in rows])
    expected = describe_calibration(logits.numpy(), np.array([labels[row["label"]] for row in rows]))
    for name in ("ece", "nll", "brier"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert [each["count"] for each in found["bins"]] == [each["count"] for each in expected["bins"]]


def test_the_pipeline_gives_calibrated_probabilities(plain: Path, calibrated: Path):
    texts = [row["text"] for row in make_rows(9, seed=9)]
    temperature = read_json(calibrated / "config.json")["classifier_temperature"]
    expected = (compute_logits(plain, texts) / temperature).softmax(-1)
    names = read_json(calibrated / "config.json")["id2label"]
    classify = pipeline("text-classification", model=str(calibrated), device="cpu", top_k=None)
    for scores, row in zip(classify(texts), expected, strict=True):
        by_name = {each["label"]: each["score"] for each in scores}
        assert [by_name[names[str(index)]] for index in range(3)] == pytest.approx(row.tolist(), abs=1e-6)


def test_a_run_that_starts_from_a_calibrated_model_has_no_temperature(calibrated: Path, data: Path, tmp_path: Path):
    run = finetune_small(data, tmp_path / "run", model=calibrated, learning_rate=0, max_steps=1)
    assert read_json(run / "config.json")["classifier_temperature"] == 1
    before = read_json(calibrated / "metrics.json")["calibration"]["test"]["before"]
    assert read_json(run / "metrics.json")["calibration"]["test"]["nll"] == pytest.approx(before["nll"], abs=1e-6)


def test_another_model_is_refused_before_the_training(
    plain: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tokenizer = AutoTokenizer.from_pretrained(plain)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(SystemExit):
        main(small_words(data, tmp_path / "run", model=tmp_path / "bert", calibrate=True))
    error = capsys.readouterr().err.splitlines()[-1]
    assert "`calibrate` (True) is for a WaveForSequenceClassification" in error
    assert "BertForSequenceClassification" in error
    assert not (tmp_path / "run").exists()
