"""The rows that a model gets wrong, for a person to look through: `mistakes.csv`."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from ..data.load import TextData
from ..data.measure import decide
from ..files import open_whole


def write_mistakes(
    path: Path,
    data: TextData,
    logits: Mapping[str, tuple[NDArray, NDArray]],
    temperature: float = 1.0,
    thresholds: Sequence[float] | None = None,
) -> None:
    """
    Writes the rows that are wrong, the most confident mistakes of all splits first, with the columns `split`, `row`
    (from 0, as `predict` counts, in what the split was read from), `text` and `text_pair`, `label`, `predicted` and
    `probability`, that of the wrong answer; of several labels, that of the wrongest one. Numbers have an `error` in
    place of it, and those are listed that are further off than the mean. `logits` has those (N, K) of each split, and
    its labels.
    """
    found = []
    names = [name for name in data.train.column_names if name != "label"]
    for split, measured in logits.items():
        for index, label, predicted, score in find_wrong(data, *measured, temperature, thresholds):
            texts = (data.splits[split][index][name] for name in names)
            found.append([split, data.numbers[split][index], *texts, label, predicted, score])
    found.sort(key=lambda row: -row[-1])
    with open_whole(path) as file:
        file.write("\ufeff")  # without it Excel reads UTF-8 as another encoding
        how_wrong = "error" if data.task == "number" else "probability"
        rows = ([*row, f"{score:.6g}"] for *row, score in found)
        csv.writer(file).writerows([["split", "row", *names, "label", "predicted", how_wrong], *rows])


def find_wrong(
    data: TextData, values: NDArray, labels: NDArray, temperature: float, thresholds: Sequence[float] | None
) -> Iterator[tuple[int, str, str, float]]:
    """Of each row that is wrong its index, label and what was predicted, as words, and how wrong it is."""
    names = np.array(data.label_names)
    if data.task == "number":
        values_N = values.reshape(-1)
        errors_N = np.abs(values_N - labels)
        for index in np.flatnonzero(errors_N > errors_N.mean()):
            yield int(index), f"{labels[index]:.6g}", f"{values_N[index]:.6g}", float(errors_N[index])
    elif data.task == "single":
        predicted_N, p_N = values.argmax(-1), softmax(values / temperature, axis=-1).max(-1)
        for index in np.flatnonzero(predicted_N != labels):
            yield int(index), names[labels[index]], names[predicted_N[index]], float(p_N[index])
    else:
        given_NK, true_NK, p_NK = decide(values, thresholds), labels > 0, expit(values)
        wrong_NK = np.where(given_NK, p_NK, 1 - p_NK) * (given_NK != true_NK)
        for index in np.flatnonzero((given_NK != true_NK).any(-1)):
            label, predicted = (";".join(names[each[index]]) for each in (true_NK, given_NK))
            yield int(index), label, predicted, float(wrong_NK[index].max())
