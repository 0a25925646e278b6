"""
From probabilities to answers, by validation rows: a threshold for each of several labels, and below which probability a
single label is better left out.

N rows, K labels, p probabilities, y labels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import binomtest

PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)
# The precision of new rows is at least the lower end of this interval in 9 of 10 cases.
CONFIDENCE = 0.8
# A label with so many rows is decided half by its own best threshold and half by that of all labels.
ROWS = 10


def tune_thresholds(logits_NK: NDArray, labels_NK: NDArray) -> list[float]:
    """
    The threshold of each label with the best F1 on some rows. Few rows with a label say little: its threshold is moved
    towards that of all labels together, and this one towards one half, by rows / (rows + `ROWS`).
    """
    if not np.isfinite(logits_NK).all():
        return [0.5] * np.shape(logits_NK)[1]
    p_NK, labels_NK = expit(np.asarray(logits_NK, np.float64)), np.asarray(labels_NK) > 0
    common = find_threshold(p_NK.ravel(), labels_NK.ravel(), 0.5)
    return [find_threshold(p_N, y_N, common) for p_N, y_N in zip(p_NK.T, labels_NK.T, strict=True)]


def find_threshold(p_N: NDArray, labels_N: NDArray, other: float) -> float:
    order_N = np.argsort(-p_N, kind="stable")
    p_N, right_N = p_N[order_N], labels_N[order_N]
    f1_N = 2 * right_N.cumsum() / (np.arange(1, len(p_N) + 1) + right_N.sum())
    f1_N[:-1][p_N[:-1] == p_N[1:]] = 0  # no threshold is between these
    last, rows = int(f1_N.argmax()), int(right_N.sum())
    best = (p_N[last] + np.append(p_N, 0)[last + 1]) / 2
    return round(float((rows * best + ROWS * other) / (rows + ROWS)), 6)


def tune_abstain(logits_NK: NDArray, labels_N: NDArray, temperature: float | None) -> dict[str, float]:
    """
    For each of the `PRECISIONS` the lowest probability from which on answers have it, by the lower end of the 80 %
    Wilson interval: a guard against few rows. A precision that is not reached is left out.
    """
    p_N, right_N = read_answers(logits_NK, labels_N, temperature)
    order_N = np.argsort(-p_N, kind="stable")
    p_N, right_N = p_N[order_N], right_N[order_N].cumsum()
    ends = np.flatnonzero(np.append(p_N[:-1] > p_N[1:], True))
    lows = np.array([binomtest(right_N[end], end + 1).proportion_ci(CONFIDENCE, "wilson").low for end in ends])
    reached = {f"{wanted:g}": ends[lows >= wanted][-1] for wanted in PRECISIONS if (lows >= wanted).any()}
    return {wanted: float(p_N[end]) if end < len(p_N) - 1 else 0.0 for wanted, end in reached.items()}


def describe_abstain(
    found: dict[str, float], logits_NK: NDArray, labels_N: NDArray, temperature: float | None
) -> list[dict[str, Any]]:
    """What the thresholds of `tune_abstain` do on some rows: `coverage` is the share of rows that are answered."""
    p_N, right_N = read_answers(logits_NK, labels_N, temperature)
    lines: list[dict[str, Any]] = []
    for wanted, threshold in found.items():
        answered = right_N[p_N >= threshold]
        precision = float(answered.mean()) if len(answered) else None
        line = {"precision_wanted": float(wanted), "threshold": threshold, "coverage": len(answered) / len(p_N)}
        lines.append(line | {"precision": precision, "rows": len(answered)})
    return lines


def read_answers(logits_NK: NDArray, labels_N: NDArray, temperature: float | None) -> tuple[NDArray, NDArray]:
    """The probability of the best class of each row, as `predict` rounds it, and whether it is right."""
    p_NK = softmax(np.asarray(logits_NK, np.float64) / (temperature or 1.0), axis=-1)
    return p_NK.max(axis=-1).round(6), np.asarray(logits_NK).argmax(axis=-1) == labels_N
