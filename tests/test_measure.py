"""What is measured at the end of a run: against values worked by hand, published ones, and many samples."""

import numpy as np
import pytest
from scipy.special import softmax

from wave_network.data.measure import calibrate, describe_calibration, fit_temperature, measure, negative_log_likelihood


def draw(rows: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, `scale` times as certain as their labels allow."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 4)) * 2
    labels = np.array([generator.choice(4, p=row) for row in softmax(logits, axis=-1)])
    return logits * scale, labels


def test_the_figures_are_those_worked_by_hand():
    result = measure("single", np.eye(3)[[0, 1, 1, 0, 1]], [0, 1, 0, 0, 1], ["a", "b", "none"])
    assert (result["rows"], result["accuracy"]) == (5, 0.8)
    assert result["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert result["per_class"]["a"] == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": 0.8, "support": 3}
    assert result["per_class"]["none"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert result["macro_f1"] == pytest.approx(0.8)  # over the classes that occur


def test_the_figures_of_several_labels_are_those_worked_by_hand():
    labels = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]
    logits = np.array([[2.0, -1, -9], [-1, 2, -9], [-1, -1, -9], [-1, 0.5, -9]])
    result = measure("multi", logits, labels, ["a", "b", "none"])
    assert result["subset_accuracy"] == 0.75
    assert result["micro_f1"] == pytest.approx(6 / 7)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)  # over the labels that occur
    assert result["per_class"]["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    low = measure("multi", logits, labels, ["a", "b", "none"], thresholds=[0.2, 0.5, 0.5])
    assert low["per_class"]["a"]["precision"] == 0.5
    assert low["per_class"]["b"] == result["per_class"]["b"]
    assert measure("multi", logits, np.zeros((4, 3)), ["a", "b", "none"])["micro_f1"] == 0


def test_the_figures_of_numbers_are_those_worked_by_hand():
    result = measure("number", [[1.0], [2.0], [4.0]], [1, 3, 2], [])
    assert result == {
        "rows": 3,
        "spearman": pytest.approx(0.5),
        "pearson": pytest.approx(1 / 84**0.5 * 3),
        "mse": pytest.approx(5 / 3),
        "mae": 1.0,
        "points": [[1, 1], [3, 2], [2, 4]],
    }
    assert measure("number", [1.0, 1.0], [1.0, 2.0], [])["spearman"] == 0


def test_the_interval_is_wilsons():
    # Newcombe, 1998, table I: 81 of 263.
    result = measure("single", np.eye(2)[[0] * 81 + [1] * 182], [0] * 263, ["a", "b"])
    assert (round(result["accuracy_low"], 4), round(result["accuracy_high"], 4)) == (0.2553, 0.3662)
    for right in (0, 7):
        result = measure("single", np.eye(2)[[0] * right + [1] * (7 - right)], [0] * 7, ["a", "b"])
        assert 0 <= result["accuracy_low"] < result["accuracy_high"] <= 1


def test_the_calibration_is_that_worked_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.55, 0.45]])
    labels = np.array([0, 1, 1, 0])
    found = describe_calibration(np.log(p), labels)
    # Confidences 0.9, 0.8, 0.7 and 0.55 are in four bins of a fifteenth.
    assert found["ece"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.45) / 4)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.2, 0.7, 0.55]).mean())
    assert found["brier"] == pytest.approx(2 * np.square([0.1, 0.8, 0.3, 0.45]).mean())
    assert sum(each["count"] for each in found["bins"]) == 4
    assert len(found["bins"]) == 15
    assert found["bins"][0] == {
        "low": 0.0,
        "high": pytest.approx(1 / 15),
        "count": 0,
        "confidence": None,
        "accuracy": None,
    }


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_temperature_undoes_a_scale(scale: float):
    plain, scaled = draw(2000, 1.0), draw(2000, scale)
    temperature = fit_temperature(*scaled) or 0
    assert temperature == pytest.approx((fit_temperature(*plain) or 0) * scale, rel=1e-5)
    likelihoods = [negative_log_likelihood(scaled[0] / (temperature * factor), scaled[1]) for factor in (0.98, 1, 1.02)]
    assert likelihoods[1] == min(likelihoods)


def test_a_temperature_that_does_not_fit_is_not_set(capsys: pytest.CaptureFixture[str]):
    labels = np.array([0, 1, 0, 1])
    right = np.eye(2)[labels] * 3.0
    assert fit_temperature(right, labels) is None  # ever more certainty
    assert fit_temperature(-right, labels) is None  # ever less
    assert fit_temperature(np.ones((4, 2)), labels) is None
    calibration = calibrate({"validation": (right, labels)}, fit=True)
    assert calibration == {"temperature": None, "validation": describe_calibration(right, labels)}
    assert "No temperature fits the validation rows" in capsys.readouterr().err
    assert calibrate({"validation": (right * np.nan, labels)}, fit=True) is None


def test_a_fitted_temperature_tells_of_before_and_after():
    splits = {"validation": draw(500, 3.0), "test": draw(100, 3.0, seed=1)}
    calibration = calibrate(splits, fit=True)
    assert calibration is not None
    for name, (logits, labels) in splits.items():
        assert calibration[name]["before"] == describe_calibration(logits, labels)
        assert calibration[name]["ece"] < calibration[name]["before"]["ece"]
