"""The metric of every run: accuracy with its interval, macro-F1, and the scores of each class.

An `evaluate.Metric` that is constructed, not fetched: it needs no network, and `evaluate.combine` and
`evaluate.evaluator` take it.
"""

import math
import tempfile
from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from sklearn.metrics import f1_score, precision_recall_fscore_support

# The two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


class ClassificationReport(evaluate.Metric):
    """
    Accuracy with its 95 % interval, macro-F1, and precision, recall, F1 and support of each class.

    Args:
        label_names: The names of the classes in label order; without them the classes are those that occur, under
            their numbers. `compute` takes them too; here they also reach `evaluate.combine` and `evaluate.evaluator`,
            which pass no arguments of ours.
        per_class: Whether to report each class. False leaves plain numbers only, as `strategy="bootstrap"` of
            `evaluate.evaluator` needs.
        kwargs: Passed on to `evaluate.Metric`.

    Example:
        >>> ClassificationReport().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])["accuracy"]
        0.75
    """

    def __init__(self, label_names: Sequence[str] | None = None, per_class: bool = True, **kwargs: Any):
        # In memory, processes that compute at once share no file. The base class makes its cache folder all the same,
        # and the usual place may be read-only.
        if kwargs.get("num_process", 1) == 1:
            kwargs = {"keep_in_memory": True, "cache_dir": tempfile.gettempdir()} | kwargs
        super().__init__(**kwargs)
        self.label_names = label_names
        self.per_class = per_class

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy with its 95 % Wilson interval, macro-F1, and the scores of each class.",
            citation="",
            inputs_description="predictions, references: integers, indices into `label_names` where those are given.",
            features=Features({"predictions": Value("int64"), "references": Value("int64")}),
        )

    def _compute(
        self, *, predictions: Sequence[int], references: Sequence[int], label_names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """
        Computes the report; called by `compute(predictions=..., references=..., label_names=...)`.

        Returns:
            `accuracy`, `accuracy_low`, `accuracy_high` (the 95 % Wilson interval), `macro_f1` (the mean over the
            classes that occur in references or predictions, as in scikit-learn: a class without any row has no F1) and
            `per_class`, a dictionary from each name to its `precision`, `recall`, `f1` (0 where undefined) and
            `support` (rows).

        Raises:
            ValueError: There are no rows, a label has no name, or two labels share one.
        """
        if len(references) == 0:
            raise ValueError("`references` must hold at least one label, got none.")
        label_names = self.label_names if label_names is None else label_names
        if label_names is None:
            labels = sorted({*references, *predictions})
            label_names = [str(label) for label in labels]
        else:
            check_labels("predictions", predictions, len(label_names))
            check_labels("references", references, len(label_names))
            if len(set(label_names)) < len(label_names):
                raise ValueError(f"`label_names` must differ from each other, got {list(label_names)}.")
            labels = list(range(len(label_names)))

        correct = int(np.sum(np.asarray(predictions) == np.asarray(references)))
        low, high = wilson_interval(correct, len(references))
        report: dict[str, Any] = {
            "accuracy": correct / len(references),
            "accuracy_low": low,
            "accuracy_high": high,
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }
        if self.per_class:
            scores = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=0)
            report["per_class"] = {
                name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
                for name, precision, recall, f1, support in zip(label_names, *scores, strict=True)
            }
        return report


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """
    The 95 % Wilson score interval of a proportion. Unlike the normal one it stays inside [0, 1] and keeps a width at
    the ends.

    Args:
        correct: How many succeeded.
        total: Out of how many, at least 1.

    Returns:
        The lower and the upper end.
    """
    share = correct / total
    middle = share + Z_95**2 / (2 * total)
    half_width = Z_95 * math.sqrt(share * (1 - share) / total + Z_95**2 / (4 * total**2))
    scale = 1 + Z_95**2 / total
    # Rounding can leave the interval by one unit in the last place where the share is 0 or 1.
    return max(0.0, (middle - half_width) / scale), min(1.0, (middle + half_width) / scale)


def confusion_counts(predictions: Sequence[int], references: Sequence[int], num_labels: int) -> list[list[int]]:
    """
    Counts how often each class was taken for each.

    Args:
        predictions: The predicted labels, from 0 to `num_labels` - 1.
        references: The true labels, as many.
        num_labels: The number of classes.

    Returns:
        The counts: row = true label, column = predicted label.

    Raises:
        ValueError: The lengths differ, or a label is outside its range.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"`predictions` and `references` must be equally long, got {len(predictions)} and {len(references)}."
        )
    check_labels("predictions", predictions, num_labels)
    check_labels("references", references, num_labels)
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(counts, (np.asarray(references, dtype=np.int64), np.asarray(predictions, dtype=np.int64)), 1)
    return counts.tolist()


def check_labels(name: str, labels: Sequence[int], num_labels: int) -> None:
    outside = sorted({int(label) for label in labels if not 0 <= label < num_labels})
    if outside:
        raise ValueError(f"`{name}` must be labels from 0 to {num_labels - 1}, got {outside}.")
