"""The study `phase`, against phases worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from worked_model import save_worked_model, write_worked_data

from wave_network.analysis import analyze
from wave_network.analysis.phase import BINS, FINE, Tally, find_phases

COARSE = math.pi / (BINS * FINE)  # how finely quantiles are told


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


def test_the_table_is_what_one_works_out_by_hand(model: Path, tmp_path: Path):
    """
    `[CLS] three four [SEP]`: in the first dimension w = 0, 3, 4, 0, so c = 5, 4, 3, 5; in the second w = 0, 1, 1, 0, so
    c = sqrt(2), 1, 1, sqrt(2). The second variant has the same two columns. With RMS each c is divided by sqrt(3).
    """
    data = write_worked_data(tmp_path / "data", ("three four", "none"))
    result = analyze("phase", model=str(model), data=str(data), output_dir=str(tmp_path / "out"), lengths=[4])
    assert [row["texts"] for row in result.table] == [1, 1], "the text of three tokens is too short"
    assert [row["phases"] for row in result.table] == [16, 16]
    for row, scale in zip(result.table, (1, math.sqrt(3)), strict=True):
        pairs = [(0, 5), (3, 4), (4, 3), (0, 5), (0, math.sqrt(2)), (1, 1), (1, 1), (0, math.sqrt(2))]
        phases = np.array([math.atan2(c / scale, w) for w, c in pairs])
        assert row["mean cos^2"] == pytest.approx(np.mean(np.cos(phases) ** 2))
        assert row["standard deviation (rad)"] == pytest.approx(phases.std())
        assert row["within 0.1 rad of pi / 2 (%)"] == 50
        assert row["5% quantile (rad)"] == pytest.approx(phases.min(), abs=COARSE)
        assert row["95% quantile (rad)"] == pytest.approx(math.pi / 2, abs=COARSE)
    assert result.table[0]["mean cos^2"] == pytest.approx(1 / 4), "the shares of a text sum to one"


@pytest.mark.parametrize("length", [1, 2, 7])
def test_phases_are_finite_for_any_text(length: int):
    w_BLD = torch.randn(2, length, 3)
    w_BLD[0, :, 0] = 0
    phases = find_phases(w_BLD, "l2")
    assert torch.isfinite(phases).all()
    assert (phases[0, :, 0] == math.pi / 2).all()
    shares = phases[1].cos().square().sum(dim=0)
    torch.testing.assert_close(shares, torch.ones_like(shares))


def test_a_text_of_one_token_has_phase_zero_or_pi():
    assert find_phases(torch.tensor([[[2.0, -2.0]]]), "l2").tolist() == [[[0, math.pi]]]


def test_a_tally_is_what_numpy_says_of_all_at_once():
    phases = np.random.default_rng(0).uniform(0, math.pi, 5000)
    tally = Tally()
    for part in np.array_split(phases, 7):
        tally.add(part)
    found = tally.summarise()
    assert found["standard deviation (rad)"] == pytest.approx(phases.std())
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = np.quantile(phases, quantile)
        assert found[f"{quantile:.0%} quantile (rad)"] == pytest.approx(expected, abs=2 * COARSE)
    assert np.sum(tally.find_density()) * math.pi / BINS == pytest.approx(1)


def test_lengths_that_no_text_has_are_left_out_and_if_none_is_left_refused(model: Path, tmp_path: Path):
    data = write_worked_data(tmp_path / "data", ("three four", ""))
    settings = {"model": str(model), "data": str(data)}
    result = analyze("phase", output_dir=str(tmp_path / "a"), lengths=[2, 4, 60], **settings)
    assert [row["length (tokens)"] for row in result.table] == [2, 2, 4, 4]
    assert [row["texts"] for row in result.table] == [2, 2, 1, 1], "an empty text is [CLS] [SEP]"
    with pytest.raises(ValueError, match=r"`lengths` must hold one that .* the longest has 4 tokens, got \[60\]"):
        analyze("phase", output_dir=str(tmp_path / "b"), lengths=[60], **settings)
