"""
What a majority guess and TF-IDF with logistic regression reach on the rows that a run is measured on.

N rows, K labels.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import logit
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

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

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
Predict = Callable[[Dataset], np.ndarray]


def measure_baselines(data: TextData, folds: Folds | None, is_balanced: bool, seed: int) -> dict[str, dict[str, Any]]:
    """
    For each split that is measured, what `measure` finds of "majority", which always gives the most frequent class, set
    of labels or the mean, and of "tfidf" with `trained_rows`, the number of rows that it has learned from.

    `folds` say, where validation rows are training rows that were held out in turn, which rows to learn from and which
    to measure on, each time. The seed decides which of very many training rows TF-IDF learns from.
    """
    splits = {name: rows for name, rows in data.splits.items() if name != "train"}
    few, kind = draw_rows(data.train, len(data.label_names), seed), (data.task, len(data.label_names), is_balanced)
    found: dict[str, dict[str, Any]] = {split: {} for split in splits}
    for name, fit, rows in (("majority", fit_majority, data.train), ("tfidf", fit_tfidf, few)):
        fit_once, thresholds = cache(partial(fit, rows, *kind)), None
        for split, measured in splits.items():
            if split == "validation" and folds is not None:
                parts = [fit(data.train.select(train), *kind)(data.train.select(held)) for train, held in folds]
                logits = np.concatenate(parts)
            else:
                logits = fit_once()(measured)
            if data.task == "multi" and split == "validation":
                thresholds = tune_thresholds(logits, np.asarray(measured["label"]))
            found[split][name] = measure(data.task, logits, measured["label"], data.label_names, thresholds)
    for each in found.values():
        each["tfidf"]["trained_rows"] = len(few)
    return found


def draw_rows(rows: Dataset, labels: int, seed: int) -> Dataset:
    """As many rows as TF-IDF can learn from in a bounded time."""
    lengths_N = read_texts(rows).map(len).sum(axis=1).to_numpy()
    order_N = np.random.default_rng(seed).permutation(len(rows))
    is_in_N = np.cumsum(lengths_N[order_N]) * (WORK_OF_WORDS + labels) <= MOST_WORK
    return rows if is_in_N.all() else rows.select(np.sort(order_N[: max(1, is_in_N.sum())]))


def read_texts(rows: Dataset) -> Any:
    """The texts, a data frame with a column for each of a pair."""
    return rows.remove_columns("label").to_pandas().map(lambda text: text[:MOST_CHARACTERS])


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
    texts, targets = read_texts(rows), np.asarray(rows["label"])
    used = [name for name in texts if texts[name].str.strip().any()]
    settings = {"token_pattern": WORD, "ngram_range": (1, 2), "sublinear_tf": True, "dtype": np.float32}
    words = make_column_transformer(*((TfidfVectorizer(**settings), name) for name in used))
    if task == "number":
        ridge = make_pipeline(words, Ridge()).fit(texts, targets)
        return lambda others: ridge.predict(read_texts(others))
    flags_NK = targets > 0 if task == "multi" else targets[:, None] == np.arange(labels)
    each = LogisticRegression(C=10, solver="liblinear", class_weight="balanced" if is_balanced else None)
    model = make_pipeline(words, OneVsRestClassifier(each))
    with warnings.catch_warnings():  # of labels that no row or every row has
        warnings.simplefilter("ignore", UserWarning)
        model.fit(texts, flags_NK.astype(int))
    # Of one label there are two columns.
    return lambda others: logit(model.predict_proba(read_texts(others))[:, -labels:].clip(1e-9, 1 - 1e-9))
