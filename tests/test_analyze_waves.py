"""The study `waves`: waves worked out by hand, captum's sums, the deletion curve, and the page."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from small_runs import refuse
from transformers import PreTrainedTokenizerFast
from worked_model import save_worked_model, write_worked_data

from wave_network import WaveForSequenceClassification, load_wave_tokenizer
from wave_network.analysis import analyze, waves
from wave_network.modeling_wave.embeddings_wave import WaveTokens

THREE, FOUR = 5, 6  # the ids of the words


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_worked_data(tmp_path_factory.mktemp("data") / "numbers", ("three four none", "four", "", "none three"))


def run(model: Path, output: Path, **settings: Any) -> waves.WavesResult:
    return analyze("waves", model=str(model), output_dir=str(output), device="cpu", **{"steps": 8} | settings)


def column(result: waves.WavesResult, name: str) -> list[float]:
    return [row[name] for row in result.table]


# The waves of a text


def test_the_table_is_what_one_works_out_by_hand(model: Path, tmp_path: Path):
    """
    `[CLS] three four [SEP]`. First variant: w = 0, 3, 4, 0 with G = 5, and w = 0, 1, 1, 0 with G = sqrt(2); the second
    has them the other way round.
    """
    result = run(model, tmp_path, text="three four")
    assert column(result, "token") == ["[CLS]", "three", "four", "[SEP]"]
    assert column(result, "energy share (%)") == pytest.approx(
        [0, 50 * (9 / 25 + 1 / 2), 50 * (16 / 25 + 1 / 2), 0], abs=1e-9
    )
    root = math.sqrt(2)
    np.testing.assert_allclose(result.magnitudes, [[5, root], [root, 5]], rtol=1e-6)
    expected = [[math.pi / 2] * 2, [math.atan2(4, 3), math.pi / 4], [math.atan2(3, 4), math.pi / 4], [math.pi / 2] * 2]
    np.testing.assert_allclose(result.phases[0], expected, atol=1e-4)
    np.testing.assert_allclose(result.phases[1], np.array(expected)[:, ::-1], atol=1e-4)
    # (w w' + c c') / (G G')
    assert column(result, "cos(alpha - alpha'), mean") == pytest.approx([1, 7 / (5 * root), 7 / (5 * root), 1])
    assert column(result, "destructive dimensions (%)") == [0] * 4


def test_destructive_interference_is_where_the_variants_weaken_each_other(tmp_path: Path):
    """w = 3, 1 and w' = -3, -1, so c = c' = 1, 3: the cosines are (-9 + 1) / 10 and (-1 + 9) / 10."""
    model = save_worked_model(tmp_path / "model", {"much": (3, -3), "little": (1, -1)})
    result = run(model, tmp_path / "out", text="much little")
    assert column(result, "cos(alpha - alpha'), mean") == pytest.approx([1, -0.8, 0.8, 1])
    assert column(result, "destructive dimensions (%)") == [0, 100, 0, 0]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "in 75.0 % of all tokens and dimensions and destructively in 25.0 %" in report


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 2, 5), (2, 60, 7)])
def test_energy_shares_of_a_text_sum_to_one(shape: tuple[int, int, int]):
    w_VLD = torch.randn(shape, dtype=torch.float64)
    w_VLD[0, :, 1] = 0  # a column without energy
    shares_L = waves.find_shares(w_VLD)
    assert float(shares_L.sum()) == pytest.approx(1, abs=1e-12)
    assert (shares_L >= 0).all()
    phases_VLD = waves.find_phases(w_VLD, "l2")
    torch.testing.assert_close(phases_VLD[1].cos().square().sum(dim=0), torch.ones(shape[2], dtype=torch.float64))


@pytest.mark.parametrize(
    ("text", "tokens"), [("three", ["[CLS]", "three", "[SEP]"]), ("none", ["[CLS]", "none", "[SEP]"])]
)
def test_a_text_of_one_token(model: Path, tmp_path: Path, text: str, tokens: list[str]):
    result = run(model, tmp_path, text=text)
    assert column(result, "token") == tokens
    assert column(result, "energy share (%)") == pytest.approx([0, 100, 0])
    assert all(math.isfinite(value) for row in result.table for value in list(row.values())[1:])


def test_a_text_of_one_token_and_nothing_else(tmp_path: Path):
    """Without [CLS] and [SEP] there is no context at all: c = 0."""
    model = save_worked_model(tmp_path / "model")
    words = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "three": THREE}, unk_token="[UNK]")
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), pad_token="[PAD]", unk_token="[UNK]")
    plain.save_pretrained(model)
    result = run(model, tmp_path / "out", text="three")
    assert column(result, "token") == ["three"]
    assert column(result, "energy share (%)") == pytest.approx([100])
    assert result.phases == [[[0.0, 0.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(text: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["analyze", "waves", "--model", str(model), "--output_dir", str(tmp_path / "out"), "--text", text]
    assert "`text` must hold at least one word" in refuse(command, capsys)
    assert not (tmp_path / "out").exists()


def test_neither_text_nor_data_is_refused(model: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="Give `text`, or `data` from which one is drawn"):
        run(model, tmp_path)


# What decides


SHAPES = [
    {},
    {"num_hidden_layers": 2, "classifier_pooling": "cls"},
    {"conv_kernel_size": 3, "ngram_vocab_size": 8, "classifier_pooling": "max", "classifier_temperature": 2.0},
    {"magnitude": "rms", "wave_operation": "interference", "intermediate_size": 4},
]


@pytest.mark.parametrize("settings", SHAPES)
def test_the_logits_follow_from_the_embeddings(settings: dict[str, Any], tmp_path: Path):
    model: Any = WaveForSequenceClassification.from_pretrained(save_worked_model(tmp_path, **settings)).eval()
    ids = torch.tensor([[2, THREE, FOUR, THREE, 3]])
    with torch.no_grad():
        hidden_states, _ = model.wave.embeddings(WaveTokens.check(ids))
        torch.testing.assert_close(waves.classify(model, hidden_states), model(input_ids=ids).logits)


@pytest.mark.parametrize("settings", SHAPES[:1] + SHAPES[3:])
def test_integrated_gradients_sum_to_the_difference_of_the_logits(settings: dict[str, Any], tmp_path: Path):
    model: Any = WaveForSequenceClassification.from_pretrained(save_worked_model(tmp_path, **settings)).eval()
    ids, is_word = [2, THREE, FOUR, THREE, 3], [False, True, True, True, False]
    attributions_L, rest, target = waves.integrate_gradients(model, ids, is_word, steps=200)
    with torch.no_grad():
        hidden_states, _ = model.wave.embeddings(WaveTokens.check(torch.tensor([ids])))
        logits = waves.classify(model, hidden_states)
        blank = hidden_states * torch.tensor([1.0, 0, 0, 0, 1])[None, :, None]
        difference = (logits - waves.classify(model, blank))[0, target]
    assert target == int(logits.argmax())
    assert float(attributions_L.sum()) == pytest.approx(float(difference), abs=5e-3)
    assert abs(rest) < 5e-3
    assert attributions_L[[0, 4]].tolist() == [0, 0]


def test_a_deleted_token_is_as_if_it_had_never_been_there(model: Path):
    classifier: Any = WaveForSequenceClassification.from_pretrained(model).eval()
    ids = load_wave_tokenizer(model)("three four")["input_ids"]
    found = waves.delete(classifier, ids, [np.array([1, 2]), np.array([2, 1])], target=1)

    def probability(text: str) -> float:
        with torch.no_grad():
            return float(classifier(**load_wave_tokenizer(model)(text, return_tensors="pt")).logits.softmax(-1)[0, 1])

    middle = waves.FRACTIONS.index(0.6)  # one of two tokens
    assert found.shape == (2, len(waves.FRACTIONS))
    np.testing.assert_allclose(found[:, 0], probability("three four"), rtol=1e-5)
    np.testing.assert_allclose(found[:, middle], [probability("four"), probability("three")], rtol=1e-5)
    np.testing.assert_allclose(found[:, -1], probability(""), rtol=1e-5)


@pytest.mark.parametrize("name", ["max_length", "deletion_length"])
def test_a_length_that_leaves_no_word_is_refused_by_its_name(model: Path, data: Path, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=rf"`{name}` must be at least 3, for 2 special tokens and one .*; got 2\."):
        run(model, tmp_path / "out", data=str(data), **{name: 2})


def test_areas_under_curves():
    falling = [1 - fraction for fraction in waves.FRACTIONS]
    assert waves.find_areas(np.array([np.ones(len(falling)), falling])).tolist() == pytest.approx([1, 0.5])


def test_curves_are_summed_up_over_the_texts():
    count = len(waves.FRACTIONS)
    high, low = [1.0] * count, [0.5] * count
    measured = [
        {"curves": {waves.SHARE: low, waves.GRADIENTS: low, waves.RANDOM: high}, "correlation": 0.5},
        {"curves": {waves.SHARE: high, waves.GRADIENTS: low, waves.RANDOM: high}, "correlation": None},
    ]
    found = waves.summarise(measured)
    assert found["texts"] == 2
    assert found["areas"][waves.SHARE] == pytest.approx({"mean": 0.75, "sd": math.sqrt(0.125)})
    assert found["differences"][waves.SHARE] == pytest.approx({"mean": -0.25, "se": 0.25})
    assert found["differences"][waves.GRADIENTS] == pytest.approx({"mean": -0.5, "se": 0})
    assert found["correlation"] == pytest.approx({"mean": 0.5, "sd": 0})


def test_the_deletion_curve_is_over_the_texts_of_the_data(model: Path, data: Path, tmp_path: Path):
    result = run(model, tmp_path / "a", data=str(data), orders=2)
    assert result.deletion["texts"] == 3, "the empty text has nothing to delete"
    assert result.text in ("three four none", "four", "none three")
    alone = run(model, tmp_path / "b", text="three four")
    assert alone.deletion["texts"] == 1
    for curve in alone.deletion["curves"].values():
        assert curve["mean"][0] == pytest.approx(alone.probability, abs=1e-6)
        assert curve["sd"] == [0] * len(waves.FRACTIONS)


# The page


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_but_itself_and_takes_words_as_words(tmp_path: Path):
    words = {"<": (3.0, 1.0), "script": (4.0, 1.0), ">": (1.0, 2.0), "&": (2.0, 1.0), "$": (1.0, 1.0)}
    model = save_worked_model(tmp_path / "<i>model", words)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "<b>one", "1": "<b>two"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    result = run(model, tmp_path / "out", text="<script> & $ <script> $ &")
    text = (tmp_path / "out" / "waves.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "b>one", "i", "link", "iframe", "img"}
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\((?!#|data:)", text)
    assert result.label in page.words
    assert "[CLS] < script > & $ < script > $ & [SEP]" in " ".join(page.words.split())
    assert len(re.findall(r"<span style=\"background:rgba", text)) == 3 * len(result.table)


def test_shades_say_how_much_and_in_which_direction():
    values = [2.0, -1.0, 0.0]
    assert [waves.shade(value, values) for value in values] == [
        "background:rgba(86,180,233,0.90)",
        "background:rgba(230,159,0,0.45);border-bottom:2px dashed",
        "background:rgba(86,180,233,0.00)",
    ]
    assert waves.shade(0.0, [0.0]) == "background:rgba(86,180,233,0.00)"
