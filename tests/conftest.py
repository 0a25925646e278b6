"""What all tests share."""

import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def denormals() -> Iterator[None]:
    """A training run has its process flush denormal numbers to zero; the tests of other files get them back."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    """The compiler gives up on a function that was compiled often; each test counts for itself."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
