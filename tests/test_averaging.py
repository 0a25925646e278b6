"""The moving average of the weights: its steps, what is validated and saved, and how a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import finetune_small, interrupt, read_metrics, refuse, small_words, write_data

from wave_network.training.averaging import RAW_WEIGHTS, refuse_unfit_averaging
from wave_network.training.settings import RunArguments

# It is reached after 11 steps; an epoch has 14.
DECAY = 0.6
SETTINGS = {
    "num_train_epochs": 2,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 9,
    "save_steps": 9,
    "save_total_limit": 20,
    "metric_for_best_model": "loss",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune_small(data, tmp_path_factory.mktemp("runs") / "run", ema_decay=DECAY, **SETTINGS)


def is_equal(file: Path, other: Path) -> bool:
    weights, others = load_file(file), load_file(other)
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_saved_weights_are_the_average_of_those_of_all_steps(data: Path, tmp_path: Path):
    settings = {**SETTINGS, "eval_steps": 1, "save_steps": 1, "max_steps": 6, "load_best_model_at_end": False}
    run = finetune_small(data, tmp_path / "run", ema_decay=0.25, **settings)
    decays = [0, 2 / 11, 0.25, 0.25, 0.25, 0.25]  # 3 / 12 is the first that is not below
    average: dict[str, torch.Tensor] = {}
    for step, decay in enumerate(decays, 1):
        checkpoint = run / f"checkpoint-{step}"
        raw, saved = load_file(checkpoint / RAW_WEIGHTS), load_file(checkpoint / "model.safetensors")
        for name, weight in raw.items():
            average[name] = decay * average[name] + (1 - decay) * weight if decay else weight
            torch.testing.assert_close(saved[name], average[name], rtol=0, atol=1e-6)
    # Without a choice of the best the average of the last step is the model.
    assert is_equal(run / "model.safetensors", checkpoint / "model.safetensors")
    assert not is_equal(run / "model.safetensors", checkpoint / RAW_WEIGHTS)


def test_the_training_goes_on_from_the_weights_that_are_not_averaged(run: Path, data: Path, tmp_path: Path):
    plain = finetune_small(data, tmp_path / "plain", **SETTINGS)
    for step in (9, 28):
        averaged = run / f"checkpoint-{step}"
        assert is_equal(averaged / RAW_WEIGHTS, plain / f"checkpoint-{step}" / "model.safetensors")
        assert not is_equal(averaged / RAW_WEIGHTS, averaged / "model.safetensors")
    assert not list(plain.rglob(RAW_WEIGHTS))
    assert not list(run.rglob("*.tmp"))
    assert {path.name for path in run.iterdir() if path.is_file()} == {
        path.name for path in plain.iterdir() if path.is_file()
    }


def test_the_average_is_what_is_validated_and_kept(run: Path):
    metrics = read_metrics(run)
    best = metrics["best"]
    assert metrics["settings"]["ema_decay"] == DECAY
    assert f"--ema_decay {DECAY}" in metrics["command"]
    assert is_equal(run / "model.safetensors", run / f"checkpoint-{best['step']}" / "model.safetensors")
    # The loss by which the best was found in training is that of the model which was saved.
    assert best["value"] == pytest.approx(metrics["calibration"]["validation"]["nll"], abs=1e-5)


# Before the decay is reached, and after it.
@pytest.mark.parametrize("saves", [1, 2])
def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(run: Path, data: Path, tmp_path: Path, saves: int):
    parted = interrupt(data, tmp_path / "parted", saves, ema_decay=DECAY, **SETTINGS)
    finetune_small(data, parted, resume=True, ema_decay=DECAY, **SETTINGS)
    assert is_equal(run / "model.safetensors", parted / "model.safetensors")
    for name in ("model.safetensors", RAW_WEIGHTS):
        assert is_equal(run / "checkpoint-28" / name, parted / "checkpoint-28" / name)
    assert read_metrics(parted)["results"] == read_metrics(run)["results"]


@pytest.mark.parametrize(("before", "after", "was"), [(0.9, 0, "0.9"), (0, 0.9, "0.0"), (0.9, 0.99, "0.9")])
def test_a_run_does_not_go_on_with_the_average_of_another(
    before: float, after: float, was: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parted = interrupt(data, tmp_path / "parted", 1, ema_decay=before, **SETTINGS)
    error = refuse(small_words(data, parted, resume=True, ema_decay=after, **SETTINGS), capsys)
    assert f"`ema_decay` ({float(after)}) must be what it was" in error
    assert f"begun with {was}." in error


@pytest.mark.parametrize("decay", ["-0.1", "1", "nan"])
def test_a_decay_that_is_none_is_refused(decay: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    error = refuse(small_words(data, tmp_path / "run", ema_decay=decay), capsys)
    assert "`ema_decay` must be at least 0, for none, and less than 1, got" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", [{"fsdp": True}, {"deepspeed": "zero.json"}, {"sparse_embeddings": True}])
def test_what_does_not_go_with_an_average_is_refused(other: dict[str, Any], tmp_path: Path):
    settings = {"fsdp": None, "deepspeed": None, "sparse_embeddings": False, "ema_decay": 0.999} | other
    ((name, value),) = other.items()
    with pytest.raises(ValueError, match=rf"`ema_decay` \(0\.999\) does not go with `{name}` \({value!r}\)"):
        refuse_unfit_averaging(SimpleNamespace(**settings))
    refuse_unfit_averaging(SimpleNamespace(**settings | {"ema_decay": 0.0}))
    refuse_unfit_averaging(RunArguments(str(tmp_path), ema_decay=0.999, use_cpu=True))
