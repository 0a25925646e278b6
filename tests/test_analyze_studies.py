"""The studies, each against what one works out by hand."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_runs import write_csv
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from worked_model import WORDS, save_worked_model, write_worked_data

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer
from wave_network.analysis import analyze, complexity, convergence, gradients, independence, phase, trainings, waves
from wave_network.modeling_wave import fused_wave, ops_wave

THREE, FOUR = 5, 6  # the ids of the words
ROOT_2 = math.sqrt(2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_worked_data(tmp_path_factory.mktemp("data") / "numbers", ("three four none", "four", "", "none three"))


@pytest.fixture(scope="module")
def bert(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "small"
    config = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    config.num_labels = 3  # others than the model's
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    load_wave_tokenizer(model).save_pretrained(folder)
    return folder


def column(result: Any, name: str) -> list[float]:
    return [row[name] for row in result.table]


# phase


def test_phases_by_hand(model: Path, tmp_path: Path):
    """
    `[CLS] three four [SEP]`: in the first dimension w = 0, 3, 4, 0, so c = 5, 4, 3, 5; in the second w = 0, 1, 1, 0, so
    c = sqrt(2), 1, 1, sqrt(2). The second variant has the same two columns. With RMS each c is divided by sqrt(3).
    """
    data = write_worked_data(tmp_path / "data", ("three four", "none"))
    result = analyze("phase", str(model), data=str(data), output_dir=str(tmp_path / "out"), lengths=[4])
    assert column(result, "texts") == [1, 1], "the text of three tokens is too short"
    assert column(result, "phases") == [16, 16]
    for row, scale in zip(result.table, (1, math.sqrt(3)), strict=True):
        pairs = [(0, 5), (3, 4), (4, 3), (0, 5), (0, ROOT_2), (1, 1), (1, 1), (0, ROOT_2)]
        phases = np.array([math.atan2(c / scale, w) for w, c in pairs])
        assert row["mean cos^2"] == pytest.approx(np.mean(np.cos(phases) ** 2))
        assert row["standard deviation (rad)"] == pytest.approx(phases.std())
        assert row["within 0.1 rad of pi / 2 (%)"] == 50
        assert row["50% quantile (rad)"] == pytest.approx(np.median(np.tile(phases, 2)))
    assert result.table[0]["mean cos^2"] == pytest.approx(1 / 4), "the shares of a text sum to one"


def test_lengths_that_no_text_has_are_left_out(model: Path, tmp_path: Path):
    data = write_worked_data(tmp_path / "data", ("three four", ""))
    result = analyze("phase", str(model), data=str(data), output_dir=str(tmp_path / "a"), lengths=[2, 4, 60])
    assert column(result, "length (tokens)") == [2, 2, 4, 4]
    assert column(result, "texts") == [2, 2, 1, 1], "an empty text is [CLS] [SEP]"


@pytest.mark.parametrize("length", [1, 2, 7])
def test_phases_are_finite_for_any_text(length: int):
    w_BLD = torch.randn(2, length, 3)
    w_BLD[0, :, 0] = 0
    phases = phase.find_phases(w_BLD, "l2")
    assert torch.isfinite(phases).all()
    assert (phases[0, :, 0] == math.pi / 2).all()
    shares = phases[1].cos().square().sum(dim=0)
    torch.testing.assert_close(shares, torch.ones_like(shares))
    assert phase.find_phases(torch.tensor([[[2.0, -2.0]]]), "l2").tolist() == [[[0, math.pi]]]


# waves


def test_the_waves_of_a_text_by_hand(model: Path, tmp_path: Path):
    """
    `[CLS] three four [SEP]`. First variant: w = 0, 3, 4, 0 with G = 5, and w = 0, 1, 1, 0 with G = sqrt(2); the second
    has them the other way round.
    """
    result = analyze("waves", str(model), output_dir=str(tmp_path / "out"), text="three four", steps=8)
    assert column(result, "token") == ["[CLS]", "three", "four", "[SEP]"]
    shares = [0, 50 * (9 / 25 + 1 / 2), 50 * (16 / 25 + 1 / 2), 0]
    assert column(result, waves.ENERGY) == pytest.approx(shares, abs=1e-9)
    # (w w' + c c') / (G G')
    assert column(result, waves.INTERFERENCE) == pytest.approx([1, 7 / (5 * ROOT_2), 7 / (5 * ROOT_2), 1])
    assert column(result, "destructive dimensions (%)") == [0] * 4
    assert result.details["texts"] == 1


def test_destructive_interference_is_where_the_variants_weaken_each_other(tmp_path: Path):
    """w = 3, 1 and w' = -3, -1, so c = c' = 1, 3: the cosines are (-9 + 1) / 10 and (-1 + 9) / 10."""
    model = save_worked_model(tmp_path / "model", {"much": (3, -3), "little": (1, -1)})
    result = analyze("waves", str(model), output_dir=str(tmp_path / "out"), text="much little", steps=8)
    assert column(result, waves.INTERFERENCE) == pytest.approx([1, -0.8, 0.8, 1])
    assert column(result, "destructive dimensions (%)") == [0, 100, 0, 0]
    assert "in 25.0 % of all tokens and dimensions" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_words_are_taken_out_of_the_texts_of_the_data(model: Path, data: Path, tmp_path: Path):
    settings = {"output_dir": str(tmp_path / "out"), "orders": 2, "steps": 4}
    result = analyze("waves", str(model), data=str(data), **settings)
    assert result.details["texts"] == 3, "the empty text has nothing to take out"
    assert result.details["text"] in ("three four none", "four", "none three")
    assert result.details["areas"]["random order"]["less random"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_hidden_layers": 2, "classifier_pooling": "cls"},
        {"conv_kernel_size": 3, "ngram_vocab_size": 8, "classifier_pooling": "max", "classifier_temperature": 2.0},
        {"magnitude": "rms", "wave_operation": "interference", "intermediate_size": 4},
    ],
)
def test_integrated_gradients_sum_to_the_difference_of_the_logits(settings: dict[str, Any], tmp_path: Path):
    model: Any = WaveForSequenceClassification.from_pretrained(save_worked_model(tmp_path, **settings)).eval()
    ids = [2, THREE, FOUR, THREE, 3]
    ids_1L, places = torch.tensor([ids]), np.array([1, 2, 3])
    with torch.no_grad():
        logits = model(input_ids=ids_1L).logits
        embeddings_1LD = phase.find_embeddings(model, ids_1L)
        torch.testing.assert_close(waves.classify(model, ids_1L, embeddings_1LD), logits)
        blank_1LD = embeddings_1LD * torch.tensor([1.0, 0, 0, 0, 1])[:, None]
        difference = (logits - waves.classify(model, ids_1L, blank_1LD))[0]
    added_L, rest, target = waves.integrate_gradients(model, ids, places, steps=200)
    assert target == int(logits.argmax())
    if model.config.classifier_pooling != "max":  # whose gradient jumps
        assert float(added_L.sum()) == pytest.approx(float(difference[target]), abs=5e-3)
        assert rest < 5e-3
    assert added_L[[0, 4]].tolist() == [0, 0]


def test_a_word_that_is_taken_out_is_as_if_it_had_never_been_there(model: Path):
    classifier: Any = WaveForSequenceClassification.from_pretrained(model).eval()
    tokenizer = load_wave_tokenizer(model)
    found = waves.delete(classifier, tokenizer("three four")["input_ids"], [np.array([1, 2]), np.array([2, 1])], 1)

    def probability(text: str) -> float:
        with torch.no_grad():
            return float(classifier(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, 1])

    middle = waves.FRACTIONS.index(0.6)  # one of two tokens
    np.testing.assert_allclose(found[:, 0], probability("three four"), rtol=1e-5)
    np.testing.assert_allclose(found[:, middle], [probability("four"), probability("three")], rtol=1e-5)
    np.testing.assert_allclose(found[:, -1], probability(""), rtol=1e-5)


def test_areas_by_hand():
    ones, falling = np.ones(len(waves.FRACTIONS)), 1 - np.array(waves.FRACTIONS)
    energy, integrated, random = waves.ORDERS
    measured = [{energy: falling, integrated: falling, random: ones}, {energy: ones, integrated: falling, random: ones}]
    areas = waves.summarise(measured)["areas"]
    assert areas[energy] == pytest.approx({"mean": 0.75, "less random": -0.25, "se": 0.25}, abs=1e-6)
    assert areas[integrated] == pytest.approx({"mean": 0.5, "less random": -0.5, "se": 0}, abs=1e-6)


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not {name for name, _ in attrs} & {"src", "href", "data"}
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_but_itself_and_takes_words_as_words(tmp_path: Path):
    words = {"<": (3.0, 1.0), "script": (4.0, 1.0), ">": (1.0, 2.0), "&": (2.0, 1.0), "$": (1.0, 1.0)}
    model = save_worked_model(tmp_path / "<i>model", words)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "<u>one", "1": "<u>two"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    result = analyze("waves", str(model), output_dir=str(tmp_path / "out"), text="<script> & $", steps=4)
    text = (tmp_path / "out" / "waves.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "u", "i", "link", "iframe", "img"}
    assert "url(" not in text
    assert result.details["label"] in page.words
    assert [word for word in page.words.split() if word in words] == ["<", "script", ">", "&", "$"] * 2


# independence


def test_independence_by_hand(model: Path, bert: Path, tmp_path: Path):
    data = write_worked_data(tmp_path / "data", ("three four",))
    given = {"data": str(data), "bert": str(bert), "output_dir": str(tmp_path / "out")}
    result = analyze("independence", str(model), **given)
    rows = {row["of"]: row for row in result.table}
    for name in ("lift", "superposition"):
        assert rows[name][independence.SHARE] == 0
        assert rows[name][independence.TOKENS] >= 0
    # w is the input and w' the input with its two dimensions exchanged.
    linear = rows["linear map to the variants"]
    assert (linear[independence.SHARE], linear[independence.TOKENS], linear[independence.ALIKE]) == (50, 0, 50)
    assert 0 < rows["wave layer without its residual"][independence.SHARE] < 100
    assert result.details["bert_shape"] == {"hidden_size": 4, "num_hidden_layers": 2}
    columns = np.array([[0.0, 0.0]] * 4 + [list(row) for row in WORDS.values()])  # all words but padding
    assert rows[independence.WAVE]["texts or words"] == 7
    assert rows[independence.WAVE][independence.MEAN] == pytest.approx(abs(np.corrcoef(columns.T)[0, 1]))
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "exactly 0 %: here dimensions are independent" in report
    assert "BERT small (2 layers, width 4)" in report


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("operation", ["modulation", "interference"])
@pytest.mark.parametrize("name", ["lift", "superposition"])
def test_no_dimension_sees_another_in_lift_and_superposition(name: str, operation: str, magnitude: str):
    torch.manual_seed(0)
    how = {"wave_operation": operation, "magnitude": magnitude, "initializer_range": 1.0}
    model = WaveForSequenceClassification(WaveConfig(vocab_size=20, hidden_size=6, **how)).eval()
    energy_DD, of_others = independence.differentiate(*independence.find_map(name, model, [2, 5, 9, 7, 5, 3]), 6, 1)
    assert energy_DD.count_nonzero() == 6
    assert (energy_DD.diag() > 0).all()
    assert 0 < of_others < float(energy_DD.sum())


def test_a_jacobian_by_hand():
    """Two outputs and two inputs for each of three dimensions: y_o = sum_i m_oi x_i, and a mean over four tokens."""
    mix = torch.randn(2 * 3, 2 * 3, dtype=torch.float64)
    energy_DD, of_others = independence.differentiate(lambda x: x @ mix.T, torch.randn(1, 2, 6).double(), 3, 1)
    torch.testing.assert_close(energy_DD, mix.square().reshape(2, 3, 2, 3).sum(dim=(0, 2)))
    assert of_others == 0
    energy_DD, of_others = independence.differentiate(
        lambda x: x.mean(dim=1, keepdim=True).expand_as(x), torch.ones(1, 4, 2), 2, 0
    )
    torch.testing.assert_close(energy_DD, torch.eye(2, dtype=torch.float64) / 4)
    assert of_others == pytest.approx(2 * 3 / 16)


# complexity


def test_costs_by_hand(model: Path, tmp_path: Path):
    """
    A Wave layer multiplies each token with D x 2D and 2D x D: 8 D^2 multiplications and additions. A Transformer layer
    does with four D x D and two D x 4D, 24 D^2, and with each pair of tokens twice D, 4 n D for a token. Backward takes
    twice as many.
    """
    settings: dict[str, Any] = {"lengths": [64, 8, 16], "hidden_size": 8, "seconds": 1e-3}
    result = analyze("complexity", str(model), output_dir=str(tmp_path / "out"), **settings)
    assert column(result, "length (tokens)") == [8] * 3 + [16] * 3 + [64] * 3
    for row in result.table:
        n, is_wave = row["length (tokens)"], row["layer"].startswith("Wave")
        by_hand = 8 * n * 8**2 if is_wave else 24 * n * 8**2 + 4 * n**2 * 8
        assert row["operations"] == 3 * by_hand, row
        assert row["time (ms)"] > 0
    kept = {layer: complexity.fit(*complexity.find_curve(result, layer, "kept (MiB)")) for layer in complexity.LAYERS}
    assert kept[complexity.WAVE] == pytest.approx(1, abs=0.05)
    assert kept[complexity.ATTENTION] > 1.2
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "times the time of the Wave layer (modulation) at 8 tokens" in report


def test_the_kept_bytes_by_hand():
    weight, x = torch.ones(256, requires_grad=True), torch.ones(256, requires_grad=True)

    def forward() -> torch.Tensor:
        y = x + 1
        return (y * weight) * y

    # `y` once, though it is kept twice, and `y * weight`.
    assert complexity.count_kept(forward, [x, weight]) == 2 * 1024


def test_exponents_by_hand():
    lengths = [16, 32, 64]
    assert complexity.fit(lengths, [3.0 * n**1.5 for n in lengths]) == pytest.approx(1.5)
    assert complexity.fit(lengths[:1], [1.0]) is None


# convergence and gradients


def test_all_models_see_the_same_texts_and_each_row_as_often():
    rows = Dataset.from_dict({"text": list("abcde")})

    def draw(seed: int) -> list[list[str]]:
        return [batch["text"] for batch in trainings.draw_batches(rows, size=2, count=6, seed=seed)]

    assert draw(3) == draw(3) != draw(4)
    assert [len(batch) for batch in draw(3)] == [2, 2, 1] * 2
    for order in (draw(3)[:3], draw(3)[3:]):
        assert sorted("".join(map("".join, order))) == list("abcde")


@pytest.mark.parametrize(("width", "heads"), [(2, 1), (128, 2), (200, 2), (768, 12)])
def test_the_shape_of_bert(width: int, heads: int):
    shape = trainings.make_bert_shape(width, layers=12)
    assert (shape["num_attention_heads"], shape["intermediate_size"]) == (heads, 4 * width)
    if width == 768:
        assert {name: getattr(BertConfig(), name) for name in shape} == shape


def test_a_trained_bert_takes_part_with_its_weights_and_its_embeddings(
    model: Path, data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    built, saved = {}, BertForSequenceClassification.from_pretrained(bert)

    def train(experiment: Any, settings: Any, contender: Any, seed: int) -> dict[str, Any]:
        built[len(built)] = contender
        return {"parameters": 1, "batches": [0, 1], "accuracy": [50.0, 50.0], "seconds": [0.0, 1.0]}

    monkeypatch.setattr(convergence, "train", train)
    given = {"data": str(data), "bert": str(bert), "output_dir": str(tmp_path / "out"), "seeds": 1}
    analyze("convergence", str(model), **given)
    layer, whole = built[2].model, built[3].model
    assert (layer.config.num_hidden_layers, whole.config.num_hidden_layers) == (1, 2)
    for each in (whole, layer):
        assert each.get_input_embeddings().weight.equal(saved.get_input_embeddings().weight)
        assert each.config.num_labels == 2
    ours, theirs = (each.bert.encoder.layer[0].output.dense.weight for each in (layer, saved))
    assert not ours.equal(theirs), "its layer is new"
    rates = [contender.optimizer.param_groups[0]["lr"] for contender in built.values()]
    assert rates == [1e-3, 1e-3, 1e-3, 2e-5]


def test_curves_of_trainings_whose_accuracy_is_known(model: Path, tmp_path: Path):
    """Each test text once with each label: whatever a model says of it, it is right once in two."""
    data = write_worked_data(tmp_path / "data")
    rows = [{"text": text, "label": label} for label in ("one", "two") for text in ("three four", "none", "")]
    write_csv(data / "test.csv", rows)
    settings: dict[str, Any] = {"batches": 5, "every": 2, "batch_size": 4, "seeds": 2}
    result = analyze("convergence", str(model), data=str(data), output_dir=str(tmp_path / "out"), **settings)
    assert column(result, "model") == list(trainings.CONTENDERS)
    assert result.details["test_texts"] == 6
    for curve in result.details["curves"].values():
        assert curve["batches"] == [0, 2, 4, 5], "the last batch is measured too"
        assert curve["accuracy"] == [[50.0] * 4] * 2
        assert all(seconds[0] == 0 and seconds == sorted(seconds) for seconds in curve["seconds"])


def test_models_learn_what_can_be_learnt(tmp_path: Path):
    """One word says the class: a Wave Network gets everything right."""
    model, data = save_worked_model(tmp_path / "worked"), write_worked_data(tmp_path / "data")
    WaveForSequenceClassification(WaveConfig(vocab_size=8, hidden_size=16)).save_pretrained(model)
    rows = [{"text": text, "label": label} for text, label in (("three", "one"), ("none", "two"))] * 8
    for split in ("train", "validation", "test"):
        write_csv(data / f"{split}.csv", rows)
    settings: dict[str, Any] = {"batches": 40, "every": 40, "seeds": 1, "learning_rate": 0.02, "batch_size": 16}
    result = analyze("convergence", str(model), data=str(data), output_dir=str(tmp_path / "out"), **settings)
    assert column(result, "accuracy (%)")[:2] == [100, 100]


def test_a_curve_is_summed_up_by_hand():
    curve = {"batches": [0, 20], "accuracy": [[20.0, 90.0], [40.0, 80.0]], "seconds": [[0.0, 2.0], [0.0, 4.0]]}
    row = convergence.summarise(curve)
    assert (row["accuracy (%)"], row["ms per batch"]) == (85, pytest.approx(150))
    assert row["standard deviation (points)"] == pytest.approx(50**0.5)
    assert row["standard deviation (ms)"] == pytest.approx(5000**0.5)
    assert convergence.find_deviation([1.0]) is None


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

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Any:
        logits = self.classifier((self.table(input_ids) * attention_mask[..., None]).sum(dim=1))
        return SequenceClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


def test_the_gradients_of_a_batch_by_hand():
    """
    Both logits are 0, so each probability is 1/2 and the loss of a text by its logits is (-1/2, 1/2): by each of its
    tokens it is that times the weights, (-1, 1), and by the weights the mean of that times the sum of its tokens.
    """
    model = SumOfTokens([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [[1.0, -1.0], [-1.0, 1.0]])
    inputs = {
        "input_ids": torch.tensor([[1, 2, 2], [1, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "labels": torch.tensor([0, 0]),
    }
    found = gradients.find_gradients(model, inputs)
    assert [each.tolist() for each in found["[CLS] token"]] == [[-1, 1]] * 2
    assert [each.tolist() for each in found["input text"]] == [[[-1, 1]] * 3, [[-1, 1]]]
    assert found["classifier"][0].tolist() == pytest.approx([-1.5, -1.5, 1.5, 1.5, -0.5, 0.5])


def test_the_table_of_gradients(model: Path, data: Path, tmp_path: Path):
    settings: dict[str, Any] = {"batches": 3, "batch_size": 4, "seeds": 2}
    result = analyze("gradients", str(model), data=str(data), output_dir=str(tmp_path / "out"), **settings)
    norms = result.details["norms"]
    pairs = [(name, part) for name in trainings.CONTENDERS for part in gradients.PARTS]
    assert [(row["model"], row["gradient of"]) for row in result.table] == pairs
    for row in result.table:
        of_seeds = norms[row["model"]][row["gradient of"]]
        assert row["mean norm"] == pytest.approx(sum(map(sum, of_seeds)) / 6)
        assert row["norm in the last step"] == pytest.approx((of_seeds[0][-1] + of_seeds[1][-1]) / 2)
    for name in trainings.CONTENDERS:
        cls, text = (torch.tensor(norms[name][part]) for part in gradients.PARTS[:2])
        assert (cls <= text + 1e-6).all(), "a part of the text has no larger norm than the text"


# The backward pass of the wave operation


def find_closed_form(variants_BLE: torch.Tensor, upstream_BLE: torch.Tensor, operation: str) -> torch.Tensor:
    """
    The gradient of the loss by the variants, by the formulas of docs/maths.md, section 6, with the L2 magnitude:

        dL/dw_m = p_m + w_m sum_{j != m} q_j / c_j

    where `p` and `q` are the gradients by `w` and by its context `c`. Interference hands both variants those of its
    result, `P` and `Q`; modulation hands w

        p = P w' + Q c'        q = Q w' - P c'

    and w' the same with the two exchanged. It takes L^2 steps, on purpose: no sum from which a term is subtracted.
    """
    w_BLD, w2_BLD = variants_BLE.chunk(2, dim=-1)
    p_BLD, q_BLD = upstream_BLE.chunk(2, dim=-1)
    others_LL = 1 - torch.eye(w_BLD.shape[1], dtype=w_BLD.dtype)
    c_BLD, c2_BLD = ((others_LL @ each_BLD.square()).sqrt() for each_BLD in (w_BLD, w2_BLD))
    handed = [(p_BLD, q_BLD), (p_BLD, q_BLD)]
    if operation == "modulation":
        handed = [(p_BLD * w + q_BLD * c, q_BLD * w - p_BLD * c) for w, c in ((w2_BLD, c2_BLD), (w_BLD, c_BLD))]
    of_variants = []
    for each_BLD, context_BLD, (of_w_BLD, of_c_BLD) in zip((w_BLD, w2_BLD), (c_BLD, c2_BLD), handed, strict=True):
        # Where `c_j` is 0 all other tokens are, and its term is 0.
        terms_BLD = torch.where(context_BLD == 0, 0, of_c_BLD / context_BLD)
        of_variants.append(of_w_BLD + each_BLD * (others_LL @ terms_BLD))
    return torch.cat(of_variants, dim=-1)


@pytest.mark.parametrize("superpose", [ops_wave.superpose, fused_wave.superpose], ids=["readable", "fast"])
@pytest.mark.parametrize("operation", ["interference", "modulation"])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_backward_pass_is_the_closed_form(operation: str, superpose: Any, length: int):
    torch.manual_seed(0)
    variants_BLE = torch.randn(2, length, 6, dtype=torch.float64)
    variants_BLE[0, :, 1] = 0
    upstream_BLE = torch.randn_like(variants_BLE)
    leaf_BLE = variants_BLE.clone().requires_grad_()
    superpose(leaf_BLE, None, operation).backward(upstream_BLE)
    torch.testing.assert_close(find_closed_form(variants_BLE, upstream_BLE, operation), leaf_BLE.grad)
