"""
What a run reached: accuracy with its interval, F1, and how far its probabilities can be trusted.

N rows, K classes, z logits, p = softmax(z) probabilities, y labels.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support
from transformers.trainer_utils import EvalPrediction

BINS = 15  # as Guo et al. have them
# Where a temperature is looked for. At an end there is no minimum: the rows ask for ever more, or less, certainty.
COLDEST, HOTTEST = 0.01, 100.0


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """What is measured after an epoch."""
    predicted_N, labels_N = np.argmax(prediction.predictions, axis=-1), prediction.label_ids
    return {
        "accuracy": float(np.mean(predicted_N == labels_N)),
        "macro_f1": float(f1_score(labels_N, predicted_N, average="macro", zero_division=0)),
    }


def measure(predicted_N: Sequence[int], labels_N: Sequence[int], label_names: Sequence[str]) -> dict[str, Any]:
    """
    What is measured at the end.

    Returns:
        `rows`, `accuracy` with its 95 % Wilson interval (`accuracy_low`, `accuracy_high`), `macro_f1` (over the classes
        that occur), `per_class` (`precision`, `recall`, `f1`, `support` of each name) and `confusion`, the counts with
        a row for each true class.
    """
    labels = list(range(len(label_names)))
    right, rows = int(np.sum(np.asarray(predicted_N) == np.asarray(labels_N))), len(labels_N)
    interval = binomtest(right, rows).proportion_ci(method="wilson")
    scores = precision_recall_fscore_support(labels_N, predicted_N, labels=labels, zero_division=0)
    return {
        "rows": rows,
        "accuracy": right / rows,
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "macro_f1": float(f1_score(labels_N, predicted_N, average="macro", zero_division=0)),
        "per_class": {
            name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
            for name, precision, recall, f1, support in zip(label_names, *scores, strict=True)
        },
        "confusion": confusion_matrix(labels_N, predicted_N, labels=labels).tolist(),
    }


def describe_calibration(logits_NK: NDArray, labels_N: NDArray) -> dict[str, Any]:
    """
    The expected calibration error (Guo et al., 2017, arXiv 1706.04599, equation 3), the mean negative log-likelihood
    and Brier score, the sum over the classes of (p_k - [k = y])^2. The error is

        ECE = sum_m |B_m| / N * |acc(B_m) - conf(B_m)|,    B_m: the rows with max p in ((m - 1) / M, m / M]

    Returns:
        `ece`, `nll`, `brier`, and the `bins`: `low`, `high`, `count`, mean `confidence` and `accuracy` (None if empty).
    """
    p_NK = softmax(np.asarray(logits_NK, np.float64), axis=-1)
    confidence_N, right_N = p_NK.max(axis=-1), p_NK.argmax(axis=-1) == labels_N
    edges = np.linspace(0, 1, BINS + 1)
    places_N = np.digitize(confidence_N, edges[1:-1], right=True)
    bins: list[dict[str, Any]] = []
    for place in range(BINS):
        inside_N = places_N == place
        means = (confidence_N[inside_N].mean(), right_N[inside_N].mean()) if inside_N.any() else (None, None)
        numbers = (edges[place], edges[place + 1], *means)
        low, high, confidence, accuracy = (None if number is None else float(number) for number in numbers)
        count = int(inside_N.sum())
        bins.append({"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy})
    errors = [each["count"] * abs(each["accuracy"] - each["confidence"]) for each in bins if each["count"]]
    return {
        "ece": sum(errors) / len(labels_N),
        "nll": negative_log_likelihood(logits_NK, labels_N),
        "brier": float(np.square(p_NK - np.eye(p_NK.shape[1])[labels_N]).sum(axis=-1).mean()),
        "bins": bins,
    }


def negative_log_likelihood(logits_NK: NDArray, labels_N: NDArray) -> float:
    log_p_NK = log_softmax(np.asarray(logits_NK, np.float64), axis=-1)
    return -float(log_p_NK[np.arange(len(labels_N)), labels_N].mean())


def fit_temperature(logits_NK: NDArray, labels_N: NDArray) -> tuple[float, float] | None:
    """
    The temperature T with the smallest negative log-likelihood of softmax(z / T) (Guo et al., section 4.2), and its
    standard error by the Fisher information of 1 / T: N times the mean variance of z under softmax(z / T). None if
    there is no minimum, as where all rows are right.
    """
    values_NK = np.asarray(logits_NK, np.float64)
    true_N = values_NK[np.arange(len(labels_N)), labels_N]

    def slope(inverse: float) -> float:
        """The derivative of the negative log-likelihood by 1 / T, mean of E_p[z] - z_y. It never falls."""
        return float(((softmax(inverse * values_NK, axis=-1) * values_NK).sum(axis=-1) - true_N).mean())

    if not slope(1 / HOTTEST) < 0 < slope(1 / COLDEST):
        return None
    temperature = 1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12)
    p_NK = softmax(values_NK / temperature, axis=-1)
    information = float((p_NK * np.square(values_NK - (p_NK * values_NK).sum(axis=-1, keepdims=True))).sum())
    return temperature, float(temperature**2 / np.sqrt(information))


def calibrate(splits: Mapping[str, tuple[NDArray, NDArray]], fit: bool) -> dict[str, Any] | None:
    """
    How calibrated a model is and, with `fit`, the temperature of its "validation" split.

    Args:
        splits: By name, the logits (N, K) of a model of temperature 1, and the labels (N,).
        fit: Whether to fit a temperature.

    Returns:
        What `describe_calibration` says of each split; `temperature`, None if none is fitted, or none fits. If there is
        one, `temperature_error` is its standard error, the figures of a split are those with it, and those without it
        are in `before`. None if the logits are not all finite.
    """
    if not all(np.isfinite(logits_NK).all() for logits_NK, _ in splits.values()):
        print("The logits are not finite: their calibration is not measured.", file=sys.stderr)
        return None
    before = {name: describe_calibration(*split) for name, split in splits.items()}
    fitted = fit_temperature(*splits["validation"]) if fit else None
    if fitted is None:
        if fit:
            print("No temperature fits the validation rows: none is set.", file=sys.stderr)
        return {"temperature": None, **before}
    temperature, error = fitted
    if error > 0.1 * temperature:
        print(
            f"The temperature, {temperature:.3g} ± {error:.2g}, is uncertain: validate on more rows.", file=sys.stderr
        )
    after = {name: describe_calibration(logits / temperature, labels) for name, (logits, labels) in splits.items()}
    results = {name: after[name] | {"before": before[name]} for name in splits}
    return {"temperature": temperature, "temperature_error": error, **results}
