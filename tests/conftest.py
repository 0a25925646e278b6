"""What all tests share: two runs of `finetune` that are trained once a session, and a clean torch for each test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from filelock import FileLock
from hypothesis import HealthCheck, settings
from small_runs import finetune_small, write_data, write_pairs

# The same 100 examples on every machine: a gate that is green once stays so. `make nightly` looks further.
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.register_profile("gate", SHARED, derandomize=True)
settings.register_profile("nightly", SHARED, max_examples=1000, print_blob=True)
settings.load_profile("gate")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of short texts: 120 rows in train.csv, 43 in test.csv. Read it; do not write into it."""
    return make_once(tmp_path_factory, "data", write_data)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A finished run folder of `data_folder`, with the defaults that users get and small sizes. Read only."""
    return make_once(tmp_path_factory, "run", lambda folder: finetune_small(data_folder, folder, subword_buckets=None))


@pytest.fixture(scope="session")
def pairs_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of pairs of texts, from train.csv in the folder `pairs` beside it. Read only."""
    data = make_once(tmp_path_factory, "pairs", write_pairs)
    return make_once(tmp_path_factory, "pairs_run", lambda folder: finetune_small(data, folder, subword_buckets=None))


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of the processes of pytest-xdist makes and the others wait for."""
    base = factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    folder, done = shared / name, shared / f".{name}.done"
    with FileLock(shared / f".{name}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    torch.set_flush_denormal(False)
    return folder


@pytest.fixture(scope="module", autouse=True)
def denormals() -> Iterator[None]:
    """A training run has its process flush denormal numbers to zero; the tests of other files get them back."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """A training run sets how much transformers logs; the next test gets its default back."""
    yield
    transformers.logging.set_verbosity_warning()


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    """The compiler gives up on a function that was compiled often; each test counts for itself."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
