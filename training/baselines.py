"""
What a majority guess and TF-IDF with logistic regression reach on the rows that a run is measured on.

N rows, K labels.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from datasets import Dataset
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from ..data.load import TextData
from ..data.measure import measure
from .decisions import tune_thresholds

# Characters that are words of their own: scripts without spaces, and emoji. Else a word is a run of characters, and a
# mark of punctuation is one as well, so that no text is without words.
ALONE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2600-\u27bf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U0001f000-\U0001faff\U00020000-\U0003ffff"
)
MARKS = r"\x00-/:-@\[-`{-\xbf\u060c\u061f\u0964\u2000-\u206f\u3000-\u303f\uff00-\uff0f"
WORD = rf"[{ALONE}]|[^\s{MARKS}{ALONE}]+|\S"
# Its time goes by characters, and by characters times labels. Of more rows it learns from a part, so that it takes no
# longer than the training.
MOST_WORK, WORK_OF_WORDS = 200_000_000, 16
MOST_CHARACTERS = 20_000  # that it reads of a text
CHUNK = 10_000  # rows that are predicted at once

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
Predict = Callable[[Dataset], np.ndarray]


def measure_baselines(data: TextData, folds: Folds | None, is_balanced: bool, seed: int) -> dict[str, dict[str, Any]]:
    """
    Args:
        data: The splits.
        folds: Where validation rows are training rows that were held out in turn: which rows to learn from, and which
            to measure on, each time.
        is_balanced: Whether each class weighs the same.
        seed: Decides which of very many training rows TF-IDF learns from.

    Returns:
        For "validation" and "test", if there is one, what `measure` finds of "majority", which always gives the most
        frequent class, set of labels or the mean, and of "tfidf". Its `trained_rows` is the number of rows that it has
        learned from.
    """
    splits = {"validation": data.validation} | ({} if data.test is None else {"test": data.test})
    few, kind = draw_rows(data.train, len(data.label_names), seed), (data.task, len(data.label_names), is_balanced)
    found: dict[str, dict[str, Any]] = {split: {} for split in splits}
    for name, fit, rows in (("majority", fit_majority, data.train), ("tfidf", fit_tfidf, few)):
        predict = fit(rows, *kind) if folds is None or data.test is not None else None
        thresholds = None
        for split, measured in splits.items():
            if split == "validation" and folds is not None:
                parts = [fit(data.train.select(train), *kind)(data.train.select(held)) for train, held in folds]
                logits = np.concatenate(parts)
            else:
                logits = cast(Predict, predict)(measured)
            if data.task == "multi" and split == "validation":
                thresholds = tune_thresholds(logits, np.asarray(measured["label"]))
            found[split][name] = measure(data.task, logits, measured["label"], data.label_names, thresholds)
    for each in found.values():
        each["tfidf"]["trained_rows"] = len(few)
    return found


def draw_rows(rows: Dataset, labels: int, seed: int) -> Dataset:
    """As many rows as TF-IDF can learn from in a bounded time."""
    lengths = [np.minimum([*map(len, rows[name])], MOST_CHARACTERS) for name in name_texts(rows)]
    order_N = np.random.default_rng(seed).permutation(len(rows))
    is_in_N = np.cumsum(np.sum(lengths, axis=0)[order_N]) * (WORK_OF_WORDS + labels) <= MOST_WORK
    return rows if is_in_N.all() else rows.select(np.sort(order_N[: max(1, is_in_N.sum())]))


def name_texts(rows: Dataset) -> list[str]:
    return [name for name in ("text", "text_pair") if name in rows.column_names]


def read_texts(rows: Dataset) -> np.ndarray:
    """The texts, or pairs of them, (N, 1) or (N, 2)."""
    return np.array([[text[:MOST_CHARACTERS] for text in rows[name]] for name in name_texts(rows)], dtype=object).T


def fit_majority(rows: Dataset, task: str, labels: int, is_balanced: bool) -> Predict:
    targets = np.asarray(rows["label"])
    if task == "single":
        guess = np.bincount(targets, minlength=labels)
    elif task == "multi":
        sets, counts = np.unique(targets > 0, axis=0, return_counts=True)
        guess = sets[counts.argmax()] - 0.5
    else:
        guess = targets.mean(keepdims=True)
    return lambda others: np.tile(guess, (len(others), 1))


def fit_tfidf(rows: Dataset, task: str, labels: int, is_balanced: bool) -> Predict:
    """
    Words and pairs of neighbouring words by sublinear TF-IDF, of each of two texts by itself; a logistic regression for
    each label, or ridge regression.
    """
    texts = read_texts(rows)
    used = [place for place in range(texts.shape[1]) if any(map(str.strip, texts[:, place]))]
    settings = {"token_pattern": WORD, "ngram_range": (1, 2), "sublinear_tf": True, "dtype": np.float32}
    words = make_column_transformer(*((TfidfVectorizer(**settings), place) for place in used))
    features, targets = words.fit_transform(texts), np.asarray(rows["label"])
    if task == "number":
        predict = Ridge().fit(features, targets).predict
    else:
        flags_NK = targets > 0 if task == "multi" else targets[:, None] == np.arange(labels)
        weight, bias = np.zeros((labels, features.shape[1]), np.float32), np.zeros(labels, np.float32)
        for label, flags_N in enumerate(flags_NK.T):
            if flags_N.all() or not flags_N.any():
                bias[label] = 100.0 if flags_N.all() else -100.0
                continue
            classifier = LogisticRegression(C=10, solver="liblinear", class_weight="balanced" if is_balanced else None)
            classifier.fit(features, flags_N)
            weight[label], bias[label] = classifier.coef_[0], classifier.intercept_[0]

        def predict(others: Any) -> np.ndarray:
            return others @ weight.T + bias

    def predict_rows(others: Dataset) -> np.ndarray:
        parts = [others.select(range(start, min(start + CHUNK, len(others)))) for start in range(0, len(others), CHUNK)]
        return np.concatenate([np.asarray(predict(words.transform(read_texts(part)))) for part in parts])

    return predict_rows
