"""The losses of `wave-network finetune`, for the hook `compute_loss_func` of Trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .data import TextData
from .settings import RunArguments

SAMPLE_WEIGHT = "sample_weight"


@dataclass(frozen=True)
class ClassificationLoss:
    """
    The loss of a step: the mean over its rows n of w_n l_n, where, with p the probability of the true class and c its
    weight,

        cross_entropy      l = -c log p
        focal              l = -c (1 - p)^gamma log p
        label_smoothing    l = -(1 - epsilon) c log p - epsilon / K sum_k c_k log p_k, over all K classes

    The mean is over all rows of the step, also those of accumulated batches and of other processes: four batches of
    four rows make the step that one of sixteen makes. It counts rows and not weights; those are 1 on average over the
    training rows, so that a batch of light rows makes a short step.

    Attributes:
        kind: One of the three names.
        focal_gamma: gamma, at least 0. At 0 the focal loss is cross-entropy.
        label_smoothing: epsilon, from 0 to 1.
        class_weights: c, of shape (K,). None: all are 1.
    """

    kind: str = "cross_entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Called by Trainer.

        Args:
            outputs: Those of a classifier, with `logits` of shape (N, K).
            labels: The true classes, of shape (N,).
            num_items_in_batch: The rows of the whole step. None: N.
            sample_weight: w, of shape (N,). None: all are 1.
        """
        logits_NK = outputs.logits.float()
        c_K = self.class_weights if self.class_weights is None else self.class_weights.to(logits_NK.device)
        if self.kind == "focal":
            losses_N = focal_losses(logits_NK, labels, self.focal_gamma)
            if c_K is not None:
                losses_N = c_K[labels] * losses_N
        else:
            smoothing = self.label_smoothing if self.kind == "label_smoothing" else 0.0
            losses_N = nn.functional.cross_entropy(
                logits_NK, labels, weight=c_K, reduction="none", label_smoothing=smoothing
            )
        if sample_weight is not None:
            losses_N = sample_weight.to(losses_N.dtype) * losses_N
        return losses_N.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def focal_losses(logits_NK: torch.Tensor, labels_N: torch.Tensor, gamma: float) -> torch.Tensor:
    """
    The focal loss of each row, -(1 - p)^gamma log p with p the probability of its class (Lin et al., 2017, equation 4,
    arXiv 1708.02002). It and its gradient are finite also where p rounds to 0 or 1.
    """
    log_p_N = -nn.functional.cross_entropy(logits_NK, labels_N, reduction="none")
    # Through expm1, 1 - p keeps its digits near 0. At 0 itself its powers below one would have no derivative.
    rest_N = (-torch.expm1(log_p_N)).clamp(min=torch.finfo(log_p_N.dtype).tiny)
    return -(rest_N**gamma) * log_p_N


def make_loss(arguments: RunArguments, data: TextData) -> ClassificationLoss | None:
    """The loss that the settings and the training rows ask for. None is the model's own, plain cross-entropy."""
    rows = data.train
    weights = rows["weight"] if "weight" in rows.column_names else None
    is_balanced = arguments.class_weights == "balanced"
    # Of several batches in a step Trainer takes the mean of their means, in which a row of a short one counts more.
    is_one_batch = arguments.gradient_accumulation_steps == 1 and arguments.world_size == 1
    if arguments.loss == "cross_entropy" and not is_balanced and weights is None and is_one_batch:
        return None
    return ClassificationLoss(
        kind=arguments.loss,
        focal_gamma=arguments.focal_gamma,
        label_smoothing=arguments.label_smoothing_factor or 0.0,
        class_weights=balance(rows["label"], len(data.label_names), weights) if is_balanced else None,
    )


def balance(labels: Sequence[int], num_labels: int, weights: Sequence[float] | None = None) -> torch.Tensor:
    """
    Class weights, inverse to the frequencies and 1 on average over the rows; where these have weights, inverse to the
    sum of those, so that every class weighs the same in the end. A class without rows counts as one.
    """
    counts = np.bincount(labels, weights=weights, minlength=num_labels)
    total, classes = np.sum(counts), np.count_nonzero(counts)
    return torch.tensor(total / (classes * np.where(counts > 0, counts, 1)), dtype=torch.float32)


class WithSampleWeights:
    """A collator that carries the weights of the rows past another one, as `sample_weight` of shape (N,)."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        others = [{name: value for name, value in row.items() if name != SAMPLE_WEIGHT} for row in features]
        batch = self.collator(others)
        if SAMPLE_WEIGHT in features[0]:
            batch[SAMPLE_WEIGHT] = torch.tensor([row[SAMPLE_WEIGHT] for row in features], dtype=torch.float32)
        return batch
