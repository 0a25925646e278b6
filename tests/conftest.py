"""What all tests share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def denormals() -> Iterator[None]:
    """A training run has its process flush denormal numbers to zero; the tests of other files get them back."""
    yield
    torch.set_flush_denormal(False)
