"""The study `complexity`: counts against formulas, peaks against known allocations, exponents and crossings by hand."""

from typing import Any

import pytest
import torch
from torch import nn
from worked_model import save_worked_model

from wave_network.analysis import analyze
from wave_network.analysis import complexity as study
from wave_network.analysis.complexity import (
    EAGER,
    LAYERS,
    MEASURES,
    STOCK,
    WAVE,
    count_kept,
    find_crossing,
    fit,
    fit_crossing,
    measure_peak,
)

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "lengths": [8, 16, 64],
    "widths": [4, 8],
    "width_length": 16,
    "hidden_size": 8,
    "rounds": 1,
    "model_batch_size": 2,
    "model_length": 6,
    "model_hidden_size": 8,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("complexity")
    return analyze("complexity", model=str(save_worked_model(folder / "worked")), output_dir=str(folder / "o"), **SMALL)


def test_the_operations_are_those_one_counts_by_hand(result: Any):
    """
    A Wave layer multiplies each token with D x 2D and 2D x D: 8 D^2 multiplications and additions. A Transformer layer
    does with four D x D and two D x 4D, 24 D^2, and with each pair of tokens twice D, 4 n D for a token. Backward takes
    twice as many.
    """
    assert len(result.table) == len(LAYERS) * 2 * 4, "length 16 at width 8 is measured once"
    for row in result.table:
        n, width = row["length (tokens)"], row["width"]
        by_hand = 8 * n * width**2 if row["layer"].startswith("Wave") else 24 * n * width**2 + 4 * n**2 * width
        assert row["operations"] == by_hand * (3 if row["pass"] == "training" else 1), row
        assert row["time (ms)"] > 0
        assert row["time (ms)"] <= row["median (ms)"] <= row["80 % quantile (ms)"]
        if row["layer"] == WAVE:
            assert row["times that of modulation"] == 1


def test_what_grows_with_the_square_is_told_from_what_does_not(result: Any):
    exponents = {(row["layer"], row["pass"], row["measure"]): row for row in result.exponents}
    assert len(exponents) == len(LAYERS) * 2 * len(MEASURES)
    for name in ("inference", "training"):
        assert exponents[WAVE, name, "operations"]["by length"] == pytest.approx(1)
        assert exponents[WAVE, name, "operations"]["by width"] == pytest.approx(2)
    assert exponents[EAGER, "training", "kept (MiB)"]["by length"] > 1.2
    assert exponents[WAVE, "training", "kept (MiB)"]["by length"] == pytest.approx(1, abs=0.05)
    assert exponents[WAVE, "inference", "kept (MiB)"]["by length"] is None, "inference keeps nothing"
    assert [row["counted"] for row in result.crossings] == [48.0] * 4, "24 n D^2 = 4 n^2 D at n = 6 D"


def test_the_models_hold_at_least_their_weights_gradients_and_moments(result: Any):
    wave, bert = result.models
    assert (wave["model"], bert["model"]) == (WAVE, "BERT")
    for row in (wave, bert):
        assert row["peak (MiB)"] > 4 * 4 * row["parameters"] / 2**20
    # 12 layers of 12 D^2 + 13 D, pooler, classifier, normalisation, positions and two segments; D = 8.
    layers = 12 * (12 * 64 + 13 * 8)
    assert bert["parameters without the word table"] == layers + 64 + 8 + (2 * 8 + 2) + 2 * 8 + 512 * 8 + 2 * 8


def test_the_kept_bytes_by_hand():
    """A product keeps its two factors; the input and the weights are not counted."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(256))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            return (y * self.weight) * y

    # `y` once, though it is kept twice, and `y * weight`.
    assert count_kept(Layer(), torch.ones(256)) == 2 * 1024


def test_the_peak_by_hand():
    def step() -> None:
        first = torch.empty(2**18)
        second = torch.empty(2**18)
        del first
        third = torch.empty(2**17)
        del second, third

    assert measure_peak(step, CPU) == 2 * 2**20
    assert measure_peak(lambda: None, CPU) == 0


def make_rows(times: list[float]) -> list[dict[str, float]]:
    return [{"length (tokens)": 2**place, "time (ms)": time} for place, time in enumerate(times, start=4)]


def test_exponents_by_hand():
    rows = make_rows([3.0 * (2**place) ** 1.5 for place in range(4, 8)])
    assert fit(rows, "length (tokens)", "time (ms)") == pytest.approx(1.5)
    assert fit(rows[:1], "length (tokens)", "time (ms)") is None


def test_crossings_by_hand():
    lengths = [2**place for place in range(4, 9)]
    # 5 n + n^2 / 20: both parts are the same at 100 tokens.
    assert fit_crossing(make_rows([5 * n + n**2 / 20 for n in lengths])) == pytest.approx(100)
    assert fit_crossing(make_rows([n**2 - n for n in lengths])) is None
    linear, square = make_rows([32.0 * n for n in lengths]), make_rows([float(n**2) for n in lengths])
    assert find_crossing(linear, square) == pytest.approx(32)
    assert find_crossing(square, linear) is None
    assert find_crossing(make_rows([0.5] * 5), make_rows([1.0] * 5)) == 16, "always: from the shortest"
    # Between 32 and 64 tokens, where the logarithms of both times meet half way.
    assert find_crossing(make_rows([2.0, 2.0, 1.0]), make_rows([1.0, 1.0, 2.0])) == pytest.approx(32 * 2**0.5)


def test_times_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    monkeypatch.setattr(study, "LEAST", 0)
    times = study.take_turns({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3, device=CPU)
    assert "".join(called) == "ab" * 4, "warmed up, then in turns"
    assert list(times) == ["a", "b"]


def test_the_stock_layer_is_that_of_transformers():
    attention = {
        study.make_bert_layer(8, name).attention.self.config._attn_implementation for name in ("sdpa", "eager")
    }
    assert attention == {"sdpa", "eager"}
    assert STOCK in LAYERS
