"""The study `independence`: Jacobians and tables of words against what one works out by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import refuse
from transformers import BertConfig, BertForSequenceClassification
from worked_model import WORDS, save_worked_model, write_worked_data

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer
from wave_network.analysis import analyze, independence


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


@pytest.fixture(scope="module")
def bert(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is small, so that a test takes seconds."""
    folder = tmp_path_factory.mktemp("bert") / "small"
    config = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config.num_labels = 3  # others than the model's
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    load_wave_tokenizer(model).save_pretrained(folder)
    return folder


def test_the_table_is_what_one_works_out_by_hand(model: Path, bert: Path, tmp_path: Path):
    data = write_worked_data(tmp_path / "data", ("three four",))
    result = analyze(
        "independence", model=str(model), data=str(data), bert=str(bert), output_dir=str(tmp_path / "out"), device="cpu"
    )
    rows = {row["of"]: row for row in result.table}
    for name in ("lift", "superposition"):
        assert rows[name][independence.SHARE] == 0
        assert rows[name][independence.TOKENS] > 0
    # w is the input and w' the input with its two dimensions exchanged.
    linear = rows["linear map to the variants"]
    assert (linear[independence.SHARE], linear[independence.TOKENS]) == (50, 0)
    assert result.corners["linear map to the variants"] == [[1, 1], [1, 1]]
    assert linear["if all mix alike (%)"] == 50
    assert 0 < rows["wave layer without its residual"][independence.SHARE] < 100
    assert rows["layer of BERT"]["dimensions"] == 4
    assert result.bert_shape == {"hidden_size": 4, "num_hidden_layers": 1}

    table = rows[independence.WAVE]
    assert table["texts or words"] == 7, "all but padding"
    columns = np.array([[0.0, 0.0]] * 4 + [list(row) for row in WORDS.values()])
    correlation = np.corrcoef(columns.T)[0, 1]
    assert table["correlation, mean of the absolute"] == pytest.approx(abs(correlation))
    assert table["correlation, largest absolute"] == pytest.approx(abs(correlation))
    assert table["mutual coherence"] == pytest.approx(7 / (5 * math.sqrt(3)))
    variances = np.linalg.eigvalsh(np.cov(columns.T))
    assert table["dimensions in effect"] == pytest.approx(variances.sum() ** 2 / (variances**2).sum())

    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "are exactly zero, as the closed form says" in report
    assert "BERT small (1 layers, width 4)" in report
    assert "No trained BERT was given" not in report


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("operation", ["modulation", "interference"])
@pytest.mark.parametrize("find_map", [independence.find_lift, independence.find_superposition])
def test_no_dimension_sees_another_in_lift_and_superposition(
    find_map: Callable[..., Any], operation: str, magnitude: str
):
    torch.manual_seed(0)
    config = WaveConfig(
        vocab_size=20, hidden_size=6, wave_operation=operation, magnitude=magnitude, initializer_range=1.0
    )
    model = WaveForSequenceClassification(config).eval()
    function, x_1LI = find_map(model, [2, 5, 9, 7, 5, 3])
    energy_DD, of_others = independence.differentiate(function, x_1LI, 6, torch.Generator().manual_seed(0))
    assert energy_DD.count_nonzero() == 6
    assert (energy_DD.diag() > 0).all()
    assert 0 < of_others < float(energy_DD.sum())


def test_a_jacobian_is_that_of_autograd():
    """Of all outputs at one token, against torch's own."""
    torch.manual_seed(0)
    mix = torch.randn(2 * 3, 4 * 3, dtype=torch.float64)

    def function(x_BLI: torch.Tensor) -> torch.Tensor:
        return (x_BLI @ mix.T).tanh()

    x_1LI = torch.randn(1, 1, 4 * 3, dtype=torch.float64)
    energy_DD, of_others = independence.differentiate(function, x_1LI, 3, torch.Generator())
    jacobian: Any = torch.autograd.functional.jacobian(function, x_1LI)
    squares_OI = jacobian[0, 0, :, 0, 0].square()
    torch.testing.assert_close(energy_DD, squares_OI.reshape(2, 3, 4, 3).sum(dim=(0, 2)))
    assert of_others == 0


def test_what_comes_from_other_tokens_is_counted():
    def mean(x_BLI: torch.Tensor) -> torch.Tensor:
        return x_BLI.mean(dim=1, keepdim=True).expand_as(x_BLI)

    energy_DD, of_others = independence.differentiate(mean, torch.ones(1, 4, 2), 2, torch.Generator())
    torch.testing.assert_close(energy_DD, torch.eye(2, dtype=torch.float64) / 4)
    assert of_others == pytest.approx(2 * 3 / 16)


def test_tables_of_words_at_both_ends():
    same = independence.measure_table("same", torch.arange(6.0, dtype=torch.float64)[:, None].expand(6, 3))["row"]
    apart = independence.measure_table("apart", torch.eye(4, dtype=torch.float64))["row"]
    empty = independence.measure_table("empty", torch.zeros(5, 2, dtype=torch.float64) + torch.eye(5, 2))["row"]
    assert same["mutual coherence"] == pytest.approx(1)
    assert same["correlation, mean of the absolute"] == pytest.approx(1)
    assert same["dimensions in effect"] == pytest.approx(1)
    assert apart["mutual coherence"] == 0
    assert apart["correlation, largest absolute"] == pytest.approx(1 / 3)  # once the means are taken off
    assert empty["dimensions in effect"] == pytest.approx(32 / 17)


def test_a_bert_of_another_family_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_worked_data(tmp_path / "data")
    command = ["analyze", "independence", "--model", str(model), "--data", str(data), "--bert", str(model)]
    message = refuse([*command, "--output_dir", str(tmp_path / "out")], capsys)
    assert "`bert` must be of one of the families ['bert']" in message
    assert "worked' is of 'wave'" in message


def test_a_bert_with_random_weights_is_called_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from wave_network.analysis import study

    def shrink(**shape: Any) -> BertConfig:
        small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        return BertConfig(**small | shape)

    monkeypatch.setattr(study, "BertConfig", shrink)
    data = write_worked_data(tmp_path / "data")
    settings = {"model": str(model), "data": str(data), "device": "cpu"}
    results = [analyze("independence", output_dir=str(tmp_path / name), **settings) for name in "ab"]
    assert results[0] == results[1], "the same seed made another BERT"
    assert "No trained BERT was given" in (tmp_path / "a" / "report.md").read_text(encoding="utf-8")
