"""
How far the probabilities of a classifier can be believed, and the temperature that makes them more believable.

N rows, K classes, z logits, p = softmax(z) probabilities, y labels. All is computed in float64.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from .metrics import check_labels

BINS = 15  # as Guo et al. have them

# Where a temperature is looked for. One at an end is none: the rows ask for ever more, or ever less, certainty.
COLDEST, HOTTEST = 0.01, 100.0

# A temperature with a larger standard error, as a share of it, is called uncertain.
UNCERTAIN = 0.1


def expected_calibration_error(
    probabilities_NK: ArrayLike, labels_N: ArrayLike, bins: int = BINS
) -> tuple[float, list[dict[str, Any]]]:
    """
    The expected calibration error of Guo et al., 2017 (arXiv 1706.04599, equation 3): rows are sorted by their largest
    probability, their confidence, into M bins of equal width, B_m = ((m - 1) / M, m / M], and

        ECE = sum_m |B_m| / N * |acc(B_m) - conf(B_m)|

    Args:
        probabilities_NK: Of each row and class, (N, K); rows sum to one.
        labels_N: The true classes, (N,), from 0 to K - 1.
        bins: M, at least 1.

    Returns:
        The error, from 0 to 1, and the bins from the lowest confidence to the highest: `low`, `high`, `count`, and the
        mean `confidence` and the `accuracy` in them, None where there is no row.

    Raises:
        ValueError: There are no rows, a probability or label is out of range or not finite, or the shapes disagree.
    """
    probabilities_NK, labels_N = check_probabilities(probabilities_NK, labels_N)
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}.")
    confidence_N = probabilities_NK.max(axis=-1)
    right_N = probabilities_NK.argmax(axis=-1) == labels_N
    edges = np.linspace(0, 1, bins + 1)
    places_N = np.digitize(confidence_N, edges[1:-1], right=True)
    error, found = 0.0, []
    for place in range(bins):
        inside_N = places_N == place
        count = int(inside_N.sum())
        confidence = float(confidence_N[inside_N].mean()) if count else None
        accuracy = float(right_N[inside_N].mean()) if count else None
        found.append(
            {
                "low": float(edges[place]),
                "high": float(edges[place + 1]),
                "count": count,
                "confidence": confidence,
                "accuracy": accuracy,
            }
        )
        if confidence is not None and accuracy is not None:
            error += count / len(labels_N) * abs(accuracy - confidence)
    return error, found


def negative_log_likelihood(logits_NK: ArrayLike, labels_N: ArrayLike) -> float:
    """The mean of -log p_y over the rows, finite for all finite logits. Raises what `fit_temperature` does."""
    logits_NK, labels_N = check_logits(logits_NK, labels_N)
    return -float(log_softmax(logits_NK, axis=-1)[np.arange(len(labels_N)), labels_N].mean())


def brier_score(probabilities_NK: ArrayLike, labels_N: ArrayLike) -> float:
    """
    The mean over the rows of sum_k (p_k - [k = y])^2 over all classes (Brier, 1950), from 0 to 2: with two classes
    twice what is also called by this name. Raises what `expected_calibration_error` does.
    """
    probabilities_NK, labels_N = check_probabilities(probabilities_NK, labels_N)
    target_NK = np.eye(probabilities_NK.shape[1])[labels_N]
    return float(np.square(probabilities_NK - target_NK).sum(axis=-1).mean())


def fit_temperature(logits_NK: ArrayLike, labels_N: ArrayLike) -> float:
    """
    The temperature T > 0 with the smallest negative log-likelihood of softmax(z / T) (Guo et al., 2017, section 4.2).

    The likelihood is convex in 1 / T, so there is one minimum, or none: rows that are all classified right ask for ever
    more certainty, and T is COLDEST; rows on which more certainty is always worse give HOTTEST. Logits that are alike
    in each row say nothing, and give 1.

    Args:
        logits_NK: Of each row and class, (N, K), K at least 2.
        labels_N: The true classes, (N,), from 0 to K - 1.

    Raises:
        ValueError: There are no rows, a logit is not finite, a label is out of range, or the shapes disagree.
    """
    values_NK, labels_N = check_logits(logits_NK, labels_N)
    values_NK -= values_NK.max(axis=-1, keepdims=True)
    if not values_NK.any():
        return 1.0
    true_N = values_NK[np.arange(len(labels_N)), labels_N]

    def slope(inverse: float) -> float:
        """The derivative of the negative log-likelihood by 1 / T: mean of E_p[z] - z_y. It never falls."""
        return float(((softmax(inverse * values_NK, axis=-1) * values_NK).sum(axis=-1) - true_N).mean())

    if slope(1 / COLDEST) <= 0:
        return COLDEST
    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    return 1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12)


def is_temperature(temperature: float) -> bool:
    """Whether a fitted temperature is a minimum, and not one of the ends."""
    return COLDEST < temperature < HOTTEST


def temperature_error(logits_NK: ArrayLike, temperature: float) -> float:
    """
    The standard error of a fitted temperature, by the Fisher information of 1 / T: N times the mean variance of z under
    softmax(z / T), carried over to T by the delta method. Infinite if the logits are alike in each row.
    """
    values_NK = np.asarray(logits_NK, np.float64)
    p_NK = softmax(values_NK / temperature, axis=-1)
    centred_NK = values_NK - (p_NK * values_NK).sum(axis=-1, keepdims=True)
    information = float((p_NK * np.square(centred_NK)).sum())
    return temperature**2 / np.sqrt(information) if information > 0 else np.inf


def describe_calibration(logits_NK: ArrayLike, labels_N: ArrayLike) -> dict[str, Any]:
    """`ece`, `nll`, `brier`, and the `bins` of the first, of softmax(z)."""
    probabilities_NK = softmax(np.asarray(logits_NK, np.float64), axis=-1)
    error, bins = expected_calibration_error(probabilities_NK, labels_N)
    return {
        "ece": error,
        "nll": negative_log_likelihood(logits_NK, labels_N),
        "brier": brier_score(probabilities_NK, labels_N),
        "bins": bins,
    }


def calibrate(splits: Mapping[str, tuple[NDArray, NDArray]], fit: bool) -> dict[str, Any] | None:
    """
    How calibrated the model of a run is and, with `fit`, the temperature of its "validation" split. What is doubtful
    is said on standard error.

    Args:
        splits: By name, the logits (N, K) of a model of temperature 1, and the labels (N,).
        fit: Whether to fit a temperature.

    Returns:
        What `describe_calibration` says of each split. `temperature` is None if none is fitted, or none fits; if there
        is one, `temperature_error` is its standard error, the figures of a split are those with it, and those without
        it are in `before`. None if the logits are not all finite.
    """
    if not all(np.isfinite(logits_NK).all() for logits_NK, _ in splits.values()):
        print("The logits are not finite: their calibration is not measured.", file=sys.stderr)
        return None
    before = {name: describe_calibration(*split) for name, split in splits.items()}
    temperature = fit_temperature(*splits["validation"]) if fit else None
    if temperature is None or not is_temperature(temperature):
        if fit:
            rows = len(splits["validation"][1])
            print(f"No temperature fits the {rows:,} validation rows: none is set.", file=sys.stderr)
        return {"temperature": None, **before}
    error = temperature_error(splits["validation"][0], temperature)
    if error > UNCERTAIN * temperature:
        print(
            f"The temperature, {temperature:.3g} ± {error:.2g} (standard error), is uncertain: the "
            f"{len(splits['validation'][1]):,} validation rows say little of it. More of them: --validation_fraction, "
            "or a validation split.",
            file=sys.stderr,
        )
    after = {name: describe_calibration(logits / temperature, labels) for name, (logits, labels) in splits.items()}
    return {
        "temperature": temperature,
        "temperature_error": error,
        **{name: after[name] | {"before": before[name]} for name in splits},
    }


def check_logits(logits_NK: ArrayLike, labels_N: ArrayLike, name: str = "logits_NK") -> tuple[NDArray, NDArray]:
    """The two as arrays of float64 and of integers; a ValueError if they are not as they must be."""
    values_NK, labels_N = np.array(logits_NK, np.float64), np.asarray(labels_N)
    if values_NK.ndim != 2 or values_NK.shape[0] < 1 or values_NK.shape[1] < 2:
        raise ValueError(
            f"`{name}` must be of shape (N, K) with at least one row and two classes, got {values_NK.shape}."
        )
    if not np.isfinite(values_NK).all():
        row = int(np.argmin(np.isfinite(values_NK).all(axis=-1)))
        raise ValueError(f"`{name}` must be finite, got {values_NK[row].tolist()} in row {row}.")
    if labels_N.shape != values_NK.shape[:1] or not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(
            f"`labels_N` must be {len(values_NK)} integers, one for each row of `{name}`; got shape {labels_N.shape} "
            f"of {labels_N.dtype}."
        )
    check_labels("labels_N", labels_N.tolist(), values_NK.shape[1])
    return values_NK, labels_N


def check_probabilities(probabilities_NK: ArrayLike, labels_N: ArrayLike) -> tuple[NDArray, NDArray]:
    values_NK, labels_N = check_logits(probabilities_NK, labels_N, "probabilities_NK")
    # As far as half precision may be off.
    bad_N = (values_NK < 0).any(axis=-1) | (np.abs(values_NK.sum(axis=-1) - 1) > 1e-2)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise ValueError(
            f"`probabilities_NK` must be at least 0 and sum to 1, got {values_NK[row].tolist()} in row {row}."
        )
    return values_NK, labels_N
