"""Hashed n-grams, dropped tokens and the temperature: what they compute, whichever way through the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.utils import logging

from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel
from wave_network.modeling_wave.embeddings_wave import WaveTokens, hash_ngrams

SETTINGS: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_labels": 3,
    "ngram_vocab_size": 50,
    "ngram_size": 3,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
TEXT = torch.tensor([[5, 9, 2, 31, 9, 8, 7, 5, 9]])
OTHER = torch.tensor([[3, 4]])


def build(cls: Any = WaveForSequenceClassification, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(WaveConfig(**SETTINGS | settings)).double().eval()


def hash_by_hand(text: Sequence[int], size: int, rows: int) -> list[list[int]]:
    """One text without padding, with Python's own integers."""
    ids = []
    for j in range(len(text)):
        first, second, ids_of_token = (text[j] + 1) % 4091, (text[j] + 1) % 4079, []
        for n in range(2, size + 1):
            left = text[j - n + 1] + 1 if j - n + 1 >= 0 else 0
            first = pow(1103 * first + left, 3, 4091)
            second = pow(2377 * second + left, 3, 4079)
            ids_of_token.append(1 + (4079 * first + second) % (rows - 1))
        ids.append(ids_of_token)
    return ids


def hash_text(ids_BL: torch.Tensor, size: int, rows: int, mask=None, cu_seq_lens=None) -> torch.Tensor:
    return hash_ngrams(WaveTokens.check(ids_BL, mask, cu_seq_lens=cu_seq_lens), size, rows)


def make_batch() -> dict[str, torch.Tensor]:
    """Texts that repeat their words, padded right, left and not at all, one with a hole."""
    input_ids = torch.randint(1, 40, (4, 20), generator=torch.Generator().manual_seed(0)) % 9 + 1
    mask = torch.ones_like(input_ids)
    mask[0, 10:] = mask[1, :6] = mask[3, 7:9] = 0
    return {"input_ids": input_ids, "attention_mask": mask}


def test_the_rows_of_a_checkpoint_stay_what_they_were():
    ids_BLN = hash_text(torch.tensor([[101, 2023, 2003, 102]]), 3, 16384)
    assert ids_BLN[0].tolist() == [[12171, 2447], [7685, 1863], [4149, 2530], [14572, 12212]]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("rows", [2, 50, 16384, 2**24])
def test_rows_are_those_of_exact_integers(size: int, rows: int):
    ids_BL = torch.randint(0, 250_000, (3, 40), generator=torch.Generator().manual_seed(1))
    ids_BL[0, :5] = 0
    expected = torch.tensor([hash_by_hand(text, size, rows) for text in ids_BL.tolist()])
    assert torch.equal(hash_text(ids_BL, size, rows), expected)
    assert torch.equal(hash_text(ids_BL.int(), size, rows).long(), expected)
    assert expected.min() >= 1
    assert expected.max() < rows


def test_no_number_on_the_way_needs_more_than_float32_holds():
    """OpenVINO divides integers in float32. Every pair of residues goes through, the largest among them."""
    residues = torch.arange(4091)
    ids_BL = torch.stack([residues, residues.flip(0), residues[torch.randperm(4091)]])
    in_floats = hash_ngrams(WaveTokens(ids_BL.float(), None, None, None, None, None), 5, 65536)
    assert torch.equal(in_floats.long(), hash_text(ids_BL, 5, 65536))


@pytest.mark.parametrize("rows", [1000, 4092, 4096, 16384])
@pytest.mark.parametrize("size", [2, 3])
def test_distinct_ngrams_are_spread_as_if_by_chance(size: int, rows: int):
    # Words as frequent as in language, with small ids for the frequent ones.
    words = np.random.default_rng(0).zipf(1.3, 150_000)
    words = words[words < 8192]
    ids_L = hash_text(torch.from_numpy(words)[None], size, rows)[0, size - 1 :, -1]
    grams = np.lib.stride_tricks.sliding_window_view(words, size)
    places = np.unique(grams, axis=0, return_index=True)[1]
    counts = torch.bincount(ids_L[torch.from_numpy(places)], minlength=rows)[1:].double()
    assert counts.sum() == len(places)
    spread = ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (rows - 2)
    assert abs(spread - 1) < 6 * (2 / rows) ** 0.5
    assert (counts > 0).all() or len(places) <= 15 * rows


@pytest.mark.parametrize("size", [2, 3, 5])
def test_nothing_beyond_the_text_is_a_neighbour(size: int):
    expected = hash_text(TEXT, size, 50)
    assert expected[0].tolist() == hash_by_hand(TEXT[0].tolist(), size, 50)
    for left, right in ((0, 3), (3, 0), (2, 2)):  # with other words where the mask says that there are none
        mask = nn.functional.pad(torch.ones_like(TEXT), (left, right))
        ids_BLN = hash_text(nn.functional.pad(TEXT, (left, right), value=11), size, 50, mask)
        assert torch.equal(ids_BLN[:, left : left + 9], expected)
        assert (ids_BLN[mask == 0] == 0).all()
    packed = torch.cat([OTHER, TEXT, OTHER[:, :1]], dim=1)  # and two texts without words
    ids_BLN = hash_text(packed, size, 50, cu_seq_lens=torch.tensor([0, 2, 2, 11, 12, 12]))
    assert torch.equal(ids_BLN[:, 2:11], expected)
    assert torch.equal(ids_BLN[:, 11], ids_BLN[:, 0])
    # A hole is no word, and neither is it passed over.
    mask = torch.ones_like(TEXT)
    mask[0, 3] = 0
    ids_BLN = hash_text(TEXT, size, 50, mask)
    assert torch.equal(ids_BLN, hash_text(TEXT + 17 * (1 - mask), size, 50, mask))
    assert torch.equal(ids_BLN[0, 4, 0], hash_text(TEXT[:, 4:], 2, 50)[0, 0, 0])


def run(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = model(**inputs, labels=torch.arange(4) % 3)
    output.loss.backward()
    return output.logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def run_by_hand(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor):
    """The same by a model without n-grams, which is given the sums of the rows."""
    settings = {name: getattr(model.config, name) for name in ("num_hidden_layers", "conv_kernel_size")}
    plain = build(ngram_vocab_size=None, wave_implementation="eager", **settings)
    missing, of_ngrams = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].detach().clone().requires_grad_() for name in of_ngrams}
    table = own["wave.embeddings.ngram_embeddings.weight"]
    if model.config.ngram_hidden_size is not None:
        table = table @ own["wave.embeddings.ngram_projection.weight"].T
    # Where there is no word, -1 stands for none.
    words = torch.where(attention_mask == 1, input_ids, -1).tolist()
    rows = torch.tensor([hash_by_hand(text, 3, 50) for text in words]) * attention_mask[..., None]
    inputs_embeds = plain.get_input_embeddings()(input_ids) + table[rows].sum(dim=2)
    logits, gradients = run(plain, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
    return logits, gradients | {name: weight.grad for name, weight in own.items()}


def test_given_embeddings_they_are_left_out_and_it_says_so(caplog: pytest.LogCaptureFixture):
    logging.enable_propagation()
    logging.warning_once.cache_clear()  # another test may have had it
    model, plain = build(WaveModel), build(WaveModel, ngram_vocab_size=None)
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs_embeds = model.get_input_embeddings()(TEXT)
    for chunk_length in (None, 2):
        model.config.chunk_length = chunk_length
        with torch.no_grad():
            torch.testing.assert_close(model(inputs_embeds=inputs_embeds)[0], plain(TEXT)[0])
    assert caplog.text.count("given `inputs_embeds`, it leaves them out") == 1
    logging.disable_propagation()


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_hidden_layers": 2, "conv_kernel_size": 3, "wave_implementation": "eager"}, {"ngram_hidden_size": 5}],
    ids=str,
)
def test_logits_and_gradients_are_those_of_the_sum_of_rows(settings):
    model = build(**settings)
    logits, gradients = run(model, **make_batch())
    expected, expected_gradients = run_by_hand(model, **make_batch())
    torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-12)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        size = gradient.abs().max()
        torch.testing.assert_close(gradients[name] / size, gradient / size, rtol=1e-11, atol=1e-12, msg=name)
    table = gradients["wave.embeddings.ngram_embeddings.weight"]
    assert (table[0] == 0).all()
    assert (table[1:] != 0).any(dim=1).sum() > 20


@pytest.mark.parametrize("packed", [False, True])
def test_dropped_tokens_are_zero_and_the_others_are_not_scaled(packed: bool):
    embeddings = build(WaveModel, token_dropout_prob=0.3).embeddings
    ids = torch.randint(1, 40, (1, 4000))
    tokens = WaveTokens.check(ids, cu_seq_lens=torch.tensor([0, 1500, 4000]) if packed else None)
    torch.manual_seed(3)
    whole, dropped = embeddings(tokens), embeddings.train()(tokens)
    is_zero = (dropped == 0).all(dim=-1)
    assert is_zero.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(dropped[~is_zero], whole[~is_zero])
    assert not torch.equal(is_zero[0, :1000], is_zero[0, 1000:2000])


def test_tokens_are_dropped_before_the_convolution():
    embeddings = build(WaveModel, token_dropout_prob=1.0, conv_kernel_size=3).embeddings
    assert (embeddings.train()(WaveTokens.check(TEXT)) == 0).all()
    assert (embeddings.eval()(WaveTokens.check(TEXT)) != 0).all()
