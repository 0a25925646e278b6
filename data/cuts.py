"""Which training rows become the validation split, where a data set has none of its own."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# Whole texts that are shorter than this, in words, are not validated on: most are remains of longer ones.
WHOLE_TEXT_WORDS = 8

Cut = tuple[list[int], list[int]]


def cut_validation(texts: Sequence[Any], labels: Sequence[list[int]], cut: str, fraction: float, seed: int) -> Cut:
    """
    The indices of the rows to train on and of those to validate on; a row has one or two texts, and any number of
    labels. Rows of the same texts stay together, and every label that is validated on is trained on.
    """
    counts = Counter(chain.from_iterable(labels))
    classes = [min(row, key=counts.__getitem__, default=-1) for row in labels]  # the rarest label, or none
    if cut == "whole_texts":
        return cut_whole_texts(texts, classes, fraction, seed)
    rows: dict[Any, list[int]] = {}
    for index, parts in enumerate(texts):
        rows.setdefault(tuple(" ".join(text.split()) for text in parts), []).append(index)
    groups = list(rows.values())
    if repeated := len(texts) - len(groups):
        logger.warning("%d of %d training rows repeat a text. The cut keeps these together.", repeated, len(texts))
    kept, chosen = cut_rows([classes[group[0]] for group in groups], fraction, seed)
    trained = {label for group in kept for index in groups[group] for label in labels[index]}
    validated: list[int] = []
    for group in chosen:
        found = {label for index in groups[group] for label in labels[index]}
        validated += groups[group] if found <= trained else []
        trained |= found
    if not validated:
        raise ValueError(
            f"A class must have two rows of different texts to cut a validation split, got {len(groups)} texts of "
            f"{len(counts)} classes. Is the label column right?"
        )
    if len(validated) > 1.5 * fraction * len(texts) + 10:
        logger.warning("%d of %d rows are validated on, since each class has one.", len(validated), len(texts))
    return sorted(set(range(len(texts))) - set(validated)), sorted(validated)


def cut_rows(labels: Sequence[Any], fraction: float, seed: int) -> Cut:
    """
    Cuts a fraction of every class; returns the indices of the rows kept and of those cut, both in order.

    A class of two or more rows is in both parts, so nothing is validated that was not trained; a single row is kept.
    """
    generator = np.random.default_rng(seed)
    classes = np.unique(np.asarray(labels), return_inverse=True)[1]
    cut: list[int] = []
    for index in range(classes.max() + 1):
        rows = generator.permutation(np.flatnonzero(classes == index))
        cut += rows[: min(max(round(len(rows) * fraction), 1), len(rows) - 1)].tolist()
    return sorted(set(range(len(labels))) - set(cut)), sorted(cut)


def cut_whole_texts(texts: Sequence[Any], labels: Sequence[Any], fraction: float, seed: int) -> Cut:
    """
    A cut of rows some of which are parts of others, as the phrases of SST-2 are: a phrase of a sentence must not be
    trained on where the sentence is validated on.

    A text is whole if no other one contains it as a run of its words. Of every class, a fraction of the whole texts of
    8 words or more is cut. Rows that are found in these alone are in neither part.
    """
    if len(texts[0]) > 1:
        raise ValueError("`validation_cut` 'whole_texts' is for rows of one text, got pairs.")
    spaced = [" ".join(text.split()) for (text,) in texts]
    distinct = set(spaced)
    parts = {text: {span for span in spans(text) if span in distinct} for text in distinct}
    whole = distinct.difference(*parts.values())
    eligible = [index for index, text in enumerate(spaced) if text in whole and text.count(" ") >= WHOLE_TEXT_WORDS - 1]
    if not eligible:
        reason = f"texts of {WHOLE_TEXT_WORDS} words or more that no other one contains, got none"
        raise ValueError(f"`validation_cut` 'whole_texts' needs training {reason}.")
    _, chosen = cut_rows([labels[index] for index in eligible], fraction, seed)
    cut = {spaced[eligible[index]] for index in chosen}
    found_elsewhere = set().union(*(parts[text] for text in whole - cut))
    kept = [index for index, text in enumerate(spaced) if text in found_elsewhere or text in whole - cut]
    return kept, [index for index, text in enumerate(spaced) if text in cut]


def spans(text: str) -> Iterator[str]:
    """All runs of words of a text but the whole of it."""
    words = text.split(" ")
    places = combinations(range(len(words) + 1), 2)
    return (" ".join(words[first:last]) for first, last in places if last - first < len(words))
