"""
How good answers are, for each task, and how far probabilities can be trusted.

N rows, K classes, z logits, p = softmax(z) probabilities, y labels.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, softmax
from scipy.stats import binomtest, pearsonr, spearmanr
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support
from transformers.trainer_utils import EvalPrediction

# What is measured of a task, after each epoch and at the end. The first one is its headline.
METRICS = {
    "single": ("accuracy", "macro_f1"),
    "multi": ("micro_f1", "macro_f1", "subset_accuracy"),
    "number": ("spearman", "pearson", "mse", "mae"),
}
# How they are called for a person: shares, and other numbers.
SHARES = {"accuracy": "accuracy", "macro_f1": "macro F1", "micro_f1": "micro F1", "subset_accuracy": "all labels right"}
TITLES = {**SHARES, "spearman": "Spearman", "pearson": "Pearson", "mse": "MSE", "mae": "MAE"}
# What a classifier is compared with.
BASELINES = {
    "single": {"tfidf": "TF-IDF, logistic regression", "majority": "always the largest class"},
    "multi": {"tfidf": "TF-IDF, logistic regression", "majority": "always the same labels"},
    "number": {"tfidf": "TF-IDF, ridge regression", "majority": "always the mean"},
}
# How transformers calls each task in `problem_type`.
PROBLEMS = {"single": "single_label_classification", "multi": "multi_label_classification", "number": "regression"}
MOST_POINTS = 1000  # true and predicted numbers that are kept for a picture
BINS = 15  # as Guo et al. have them
COLDEST, HOTTEST = 0.01, 100.0  # where a temperature is looked for


def compute_metrics(prediction: EvalPrediction, task: str = "single") -> dict[str, float]:
    """What is measured after an epoch: the `METRICS` of a task."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    if task == "single":
        return measure_single(logits.argmax(-1), labels)
    return measure_number(logits, labels) if task == "number" else measure_multi(decide(logits), labels > 0)


def show(name: str, value: float) -> str:
    """The value of a metric, for a person."""
    return f"{value:.2%}" if name in SHARES else f"{value:.4g}"


def measure(
    task: str,
    logits: ArrayLike,
    labels: ArrayLike,
    label_names: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """
    What is measured at the end, of logits (N, K) and labels: indices into the K `label_names` (N,) or, of "multi", 0 or
    1 for each (N, K). Of "number" both are numbers, without names. `thresholds` are those of "multi", one half if None.

    Returns:
        `rows` and the `METRICS` of the task. Of "single" also the 95 % Wilson interval of the accuracy (`accuracy_low`,
        `accuracy_high`) and `confusion`, the counts with a row for each true class. Of "single" and "multi" `per_class`
        (`precision`, `recall`, `f1`, `support` of each name). Macro F1 is over the classes that occur. Of "number"
        `points`, the true and the predicted number of rows spread over all.
    """
    values, truth, indices = np.asarray(logits), np.asarray(labels), range(len(label_names))
    found: dict[str, Any] = {"rows": len(truth)}
    if task == "number":
        points_N2 = np.column_stack([truth, values.reshape(-1)])[:: -(-len(truth) // MOST_POINTS)]
        return found | measure_number(values, truth) | {"points": points_N2.tolist()}
    if task == "single":
        predicted = values.argmax(-1)
        found |= measure_single(predicted, truth)
        interval = binomtest(int((predicted == truth).sum()), len(truth)).proportion_ci(method="wilson")
        found |= {"accuracy_low": float(interval.low), "accuracy_high": float(interval.high)}
        found["confusion"] = confusion_matrix(truth, predicted, labels=indices).tolist()
    else:
        predicted, truth = decide(values, thresholds), truth > 0
        found |= measure_multi(predicted, truth)
    scores = precision_recall_fscore_support(truth, predicted, labels=indices, average=None, zero_division=0)
    table = dict(zip(("precision", "recall", "f1", "support"), scores, strict=True))
    return found | {"per_class": pd.DataFrame(table, label_names).to_dict("index")}


def decide(logits_NK: NDArray, thresholds: Sequence[float] | None = None) -> NDArray:
    """Which labels each row gets, (N, K): those whose probability is above their threshold."""
    return expit(np.asarray(logits_NK, np.float64)) > (0.5 if thresholds is None else np.asarray(thresholds))


def measure_single(predicted_N: NDArray, labels_N: NDArray) -> dict[str, float]:
    macro_f1 = f1_score(labels_N, predicted_N, average="macro", zero_division=0)
    return {"accuracy": float(np.mean(predicted_N == labels_N)), "macro_f1": float(macro_f1)}


def measure_multi(predicted_NK: NDArray, labels_NK: NDArray) -> dict[str, float]:
    """F1 over all decisions, F1 of each label that occurs, and the share of rows with all labels right."""
    occurs_K = (predicted_NK | labels_NK).any(axis=0)
    f1_K = f1_score(labels_NK, predicted_NK, average=None, zero_division=0)
    return {
        "micro_f1": float(f1_score(labels_NK, predicted_NK, average="micro", zero_division=0)),
        "macro_f1": float(f1_K[occurs_K].mean()) if occurs_K.any() else 0.0,
        "subset_accuracy": float((predicted_NK == labels_NK).all(axis=1).mean()),
    }


def measure_number(values: NDArray, labels_N: NDArray) -> dict[str, float]:
    """Correlations of ranks and of values, 0 where all are the same, and errors."""
    values_N, labels_N = (np.asarray(each, np.float64).reshape(-1) for each in (values, labels_N))
    has_spread = len(labels_N) > 1 and np.ptp(values_N) > 0 and np.ptp(labels_N) > 0
    return {
        "spearman": float(spearmanr(values_N, labels_N).statistic) if has_spread else 0.0,
        "pearson": float(pearsonr(values_N, labels_N).statistic) if has_spread else 0.0,
        "mse": float(np.square(values_N - labels_N).mean()),
        "mae": float(np.abs(values_N - labels_N).mean()),
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
    counts, confidences, hits = (np.bincount(places_N, each, BINS) for each in (None, confidence_N, right_N))
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": counts})
    table = table.assign(confidence=confidences / table["count"], accuracy=hits / table["count"]).astype(object)
    return {
        "ece": float(np.abs(hits - confidences).sum() / len(labels_N)),
        "nll": negative_log_likelihood(logits_NK, labels_N),
        "brier": float(np.square(p_NK - np.eye(p_NK.shape[1])[labels_N]).sum(axis=-1).mean()),
        "bins": table.where(table.notna(), None).to_dict("records"),
    }


def negative_log_likelihood(logits_NK: NDArray, labels_N: NDArray) -> float:
    log_p_NK = log_softmax(np.asarray(logits_NK, np.float64), axis=-1)
    return -float(log_p_NK[np.arange(len(labels_N)), labels_N].mean())


def fit_temperature(logits_NK: NDArray, labels_N: NDArray) -> float | None:
    """
    The temperature T with the smallest negative log-likelihood of softmax(z / T) (Guo et al., section 4.2). None if
    there is no minimum, as where all rows are right.
    """
    values_NK = np.asarray(logits_NK, np.float64)
    true_N = values_NK[np.arange(len(labels_N)), labels_N]

    def slope(inverse: float) -> float:
        """The derivative of the negative log-likelihood by 1 / T, mean of E_p[z] - z_y. It never falls."""
        return float(((softmax(inverse * values_NK, axis=-1) * values_NK).sum(axis=-1) - true_N).mean())

    if not slope(1 / HOTTEST) < 0 < slope(1 / COLDEST):
        return None
    return 1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12)


def calibrate(splits: Mapping[str, tuple[NDArray, NDArray]], fit: bool) -> dict[str, Any] | None:
    """
    What `describe_calibration` says of each split: its logits (N, K), of a model of temperature 1, and labels (N,).

    With `fit` also the `temperature` of the "validation" split, None if none fits. The figures of a split are then
    those with it, and those without it are in `before`. None if the logits are not all finite.
    """
    if not all(np.isfinite(logits_NK).all() for logits_NK, _ in splits.values()):
        print("The logits are not finite: their calibration is not measured.", file=sys.stderr)
        return None
    before = {name: describe_calibration(*split) for name, split in splits.items()}
    temperature = fit_temperature(*splits["validation"]) if fit else None
    if temperature is None:
        if fit:
            print("No temperature fits the validation rows: none is set.", file=sys.stderr)
        return {"temperature": None, **before}
    after = {name: describe_calibration(logits / temperature, labels) for name, (logits, labels) in splits.items()}
    return {"temperature": temperature} | {name: after[name] | {"before": before[name]} for name in splits}
