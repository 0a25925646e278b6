"""The study `gradients`: norms and the closed form, worked out by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from worked_model import save_worked_model, write_worked_data

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.analysis import analyze
from wave_network.analysis.contenders import CONTENDERS, Contender
from wave_network.analysis.gradients import PARTS, Tally, find_closed_form, find_gradients, summarise
from wave_network.modeling_wave import ops_wave

SMALL: dict[str, Any] = {"batches": 3, "batch_size": 4, "seeds": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


class SumOfTokens(nn.Module):
    """A classifier of two labels over the sum of a text's tokens, with the weights that it is given."""

    def __init__(self, table: list[list[float]], weight: list[list[float]]):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(table), freeze=False)
        self.classifier = nn.Linear(2, 2)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor(weight))
            self.classifier.bias.zero_()

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, inputs_embeds, attention_mask, labels):
        logits = self.classifier((inputs_embeds * attention_mask[..., None]).sum(dim=1))
        return SequenceClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


def test_the_gradients_of_a_batch_by_hand():
    """
    With tokens of zero all logits are equal, so each text's loss has the gradient (1/2, -1/2) by its logits, up to the
    sign. By each of its tokens that is the weight's rows' difference, half of it: (3, 4) for the rows (6, 8) and 0.
    The bias has the mean over the texts: two have label 1, one label 0, so (1/2 - 1/3, 1/2 - 2/3) = (1, -1) / 6.
    """
    stand_in = SumOfTokens([[0.0, 0.0]] * 3, [[6.0, 8.0], [0.0, 0.0]])
    inputs = {
        "input_ids": torch.tensor([[1, 2, 2], [1, 2, 0], [1, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]),
        "labels": torch.tensor([1, 0, 1]),
    }
    found = find_gradients(Contender(stand_in, None), inputs)
    assert list(found) == list(PARTS)
    assert [each.tolist() for each in found["[CLS] token"]] == [[3, 4], [-3, -4], [3, 4]]
    assert [tuple(each.shape) for each in found["input text"]] == [(3, 2), (2, 2), (1, 2)], "padding is left out"
    assert [float(each.norm()) for each in found["input text"]] == pytest.approx([5 * 3**0.5, 5 * 2**0.5, 5])
    (classifier,) = found["classifier"]
    assert classifier.tolist() == pytest.approx([0, 0, 0, 0, 1 / 6, -1 / 6])
    assert "input_ids" in inputs, "the inputs of the caller stay"


def test_a_model_with_n_grams_is_trained_with_them():
    torch.manual_seed(0)
    settings = {"ngram_vocab_size": 50, "initializer_range": 0.5, "hidden_dropout_prob": 0.0}
    other = WaveForSequenceClassification(WaveConfig(vocab_size=8, hidden_size=4, **settings)).train()
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([1, 0]),
    }
    found = find_gradients(Contender(other, None), inputs)
    gradients = {name: parameter.grad.clone() for name, parameter in other.named_parameters()}
    other.zero_grad()
    other(**inputs).loss.backward()
    for name, parameter in other.named_parameters():
        if "word_embeddings" not in name:
            torch.testing.assert_close(gradients[name], parameter.grad)
    assert gradients["wave.embeddings.ngram_embeddings.weight"].any()
    # The gradient of the mean loss by the row of [CLS], which stands in both texts.
    table = other.get_input_embeddings().weight.grad
    torch.testing.assert_close(torch.stack(found["[CLS] token"]).mean(dim=0), table[2])


def test_the_closed_form_by_hand():
    """
    Tokens 2, 3, 6 in one dimension: c = sqrt(45), sqrt(40), sqrt(13). With interference and q = (1, 0, 0) the gradient
    is w_m / c_1 for the others and 0 for the first; with p = (1, 1, 1) it is 1 for each token. The second variant is
    twice the first, and so is its context: the same ratios.
    """
    w_BLD = torch.tensor([2.0, 3.0, 6.0], dtype=torch.float64).reshape(1, 3, 1)
    variants_BLE = torch.cat([w_BLD, 2 * w_BLD], dim=-1)
    first_BLD = torch.tensor([1.0, 0, 0], dtype=torch.float64).reshape(1, 3, 1)
    of_re, of_im = (
        find_closed_form(variants_BLE, torch.cat(parts, dim=-1), "interference")
        for parts in ((torch.ones_like(w_BLD), 0 * w_BLD), (0 * w_BLD, first_BLD))
    )
    assert of_re.flatten().tolist() == [1] * 6
    expected = [0, 3 / math.sqrt(45), 6 / math.sqrt(45)]
    assert of_im[0, :, 0].tolist() == pytest.approx(expected)
    assert of_im[0, :, 1].tolist() == pytest.approx(expected)

    # Modulation, and of its result the first token's real part alone, w_1 w'_1 - c_1 c'_1: by w_1 that is w'_1 = 4, by
    # the other w_m it is -c'_1 w_m / c_1 = -2 w_m; by w'_1 it is w_1 = 2, by the other w'_m -c_1 w'_m / c'_1 = -w_m.
    of_re = find_closed_form(variants_BLE, torch.cat([first_BLD, 0 * w_BLD], dim=-1), "modulation")
    assert of_re[0, :, 0].tolist() == pytest.approx([4, -6, -12])
    assert of_re[0, :, 1].tolist() == pytest.approx([2, -3, -6])


@pytest.mark.parametrize("operation", ["interference", "modulation"])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_closed_form_is_what_autograd_says(operation: str, length: int):
    torch.manual_seed(0)
    variants_BLE = torch.randn(2, length, 6, dtype=torch.float64)
    variants_BLE[0, :, 1] = 0
    upstream_BLE = torch.randn_like(variants_BLE)
    leaf_BLE = variants_BLE.clone().requires_grad_()
    ops_wave.superpose(leaf_BLE, None, operation).backward(upstream_BLE)
    torch.testing.assert_close(find_closed_form(variants_BLE, upstream_BLE, operation), leaf_BLE.grad)


def test_a_wrong_backward_pass_is_seen(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from wave_network.analysis import gradients

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return 1.01 * gradient

    def superpose(x: torch.Tensor, *others: Any) -> torch.Tensor:
        return ops_wave.superpose(Wrong.apply(x), *others)

    forms = (*gradients.FORMS, ("wrong", superpose, torch.float32))
    monkeypatch.setattr(gradients, "FORMS", forms)
    data = write_worked_data(tmp_path / "data", ("three four", "none", "three none four"))
    settings = {"model": str(model), "data": str(data), "output_dir": str(tmp_path / "out")}
    checks = analyze("gradients", **settings, **SMALL | {"batches": 1, "seeds": 1}).checks
    assert len(checks) == 8
    for check in checks:
        error = check["largest relative deviation"]
        if check["gradient"] == "wrong":
            assert error == pytest.approx(0.01, rel=1e-3)
        else:
            assert error < (1e-14 if check["dtype"] == "float64" else 1e-6)


def test_the_table_of_a_run(model: Path, tmp_path: Path):
    """Four models, three parts each; the table is made of the norms that are told beside it."""
    data = write_worked_data(tmp_path / "data", ("three four", "", "none"))
    result = analyze("gradients", model=str(model), data=str(data), output_dir=str(tmp_path / "out"), **SMALL)
    assert [(row["model"], row["gradient of"]) for row in result.table] == [
        (name, part) for name in CONTENDERS for part in PARTS
    ]
    for row in result.table:
        norms = result.norms[row["model"]][row["gradient of"]]
        assert [len(of_seed) for of_seed in norms] == [3, 3]
        assert row["mean norm"] == pytest.approx(sum(map(sum, norms)) / 6)
        assert row["norm in the last step"] == pytest.approx((norms[0][-1] + norms[1][-1]) / 2)
        shares = result.densities[row["model"]][row["gradient of"]]
        assert sum(shares) + row["zeros (%)"] == pytest.approx(100)
    for name in CONTENDERS:
        cls, text = (torch.tensor(result.norms[name][part]) for part in PARTS[:2])
        assert (cls <= text + 1e-6).all(), "a part of the text has no larger norm than the text"
    assert result.checked_texts == 3


def test_a_summary_of_norms_by_hand():
    row = summarise([[1.0, 3.0], [2.0, 6.0]])
    assert (row["mean norm"], row["norm in the first step"], row["norm in the last step"]) == (3, 1.5, 4.5)
    assert row["standard deviation"] == pytest.approx((14 / 3) ** 0.5)
    assert summarise([[1.0]])["standard deviation"] is None


def test_a_tally_by_hand():
    first, second = Tally(), Tally()
    first.add(torch.tensor([0.0, 1e-3, -1e-3]))
    second.add(torch.tensor([[-1.0, 1e-30]]))
    found = Tally.join([first.dump(), second.dump()])
    row = found.summarise()
    assert row["zeros (%)"] == 40
    # As precise as a bin: a tenth of a decade.
    assert math.log10(row["50% quantile of |element|"]) == pytest.approx(-3, abs=0.1)
    assert math.log10(row["95% quantile of |element|"]) == pytest.approx(0, abs=0.1)
    assert sum(found.find_shares()) == pytest.approx(60)
    nothing = Tally()
    nothing.add(torch.zeros(2))
    assert nothing.summarise()["50% quantile of |element|"] is None
