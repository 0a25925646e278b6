"""Numbers are learned with a mean of 0 and a deviation of 1. The saved classifier gives them as they were."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn


class Scale(NamedTuple):
    """The mean and the deviation of the numbers of the training rows."""

    mean: float
    deviation: float

    @classmethod
    def find(cls, numbers: ArrayLike) -> "Scale":
        """A ValueError if the numbers are too large for float32."""
        values = np.asarray(numbers, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Labels must be numbers that float32 holds, less than 3.4e38: divide them.")
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def apply(self, numbers: ArrayLike) -> NDArray:
        return (np.asarray(numbers, np.float64) - self.mean) / self.deviation

    def undo(self, values: ArrayLike) -> NDArray:
        return np.asarray(values, np.float64) * self.deviation + self.mean

    @torch.no_grad()
    def fold_into(self, classifier: nn.Linear) -> None:
        classifier.weight.copy_(classifier.weight.double() * self.deviation)
        classifier.bias.copy_(classifier.bias.double() * self.deviation + self.mean)
