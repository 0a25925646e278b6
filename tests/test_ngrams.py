"""Hashed n-grams, dropped tokens and the temperature: what they compute, whichever way through the model."""

import copy
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fresh_process import run_step
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from small_runs import finetune_small, make_rows, write_data
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging
from without_package import compute_bits

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
    train_wave_tokenizer,
)
from wave_network.modeling_wave import modeling_wave
from wave_network.modeling_wave.embeddings_wave import HASH, WaveTokens, hash_ngrams

# rtol and atol: what each type rounds to.
CLOSE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 5e-6},
    torch.bfloat16: {"rtol": 0.05, "atol": 0.05},
}
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


def build(cls: Any = WaveForSequenceClassification, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(WaveConfig(**SETTINGS | settings)).to(dtype).eval()


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


def pad(ids_BL: torch.Tensor, left: int, right: int) -> dict[str, torch.Tensor]:
    """With other words where the mask says that there are none."""
    return {
        "input_ids": nn.functional.pad(ids_BL, (left, right), value=11),
        "attention_mask": nn.functional.pad(torch.ones_like(ids_BL), (left, right)),
    }


def batch(length: int = 20) -> dict[str, torch.Tensor]:
    """Texts that repeat their words, padded right, left and not at all, one with a hole."""
    input_ids = torch.randint(1, 40, (4, length), generator=torch.Generator().manual_seed(0)) % 9 + 1
    mask = torch.ones_like(input_ids)
    mask[0, length // 2 :] = mask[1, : length // 3] = mask[3, 7:9] = 0
    return {"input_ids": input_ids, "attention_mask": mask}


# --- Which rows -------------------------------------------------------------------------------------------------------


def test_a_small_example_by_hand():
    # t = 2, 4: the pairs are (none, 2) and (2, 4), the triples (none, none, 2) and (none, 2, 4).
    first, second = (1103 * 2) ** 3 % 4091, (2377 * 2) ** 3 % 4079
    other_first, other_second = (1103 * 4 + 2) ** 3 % 4091, (2377 * 4 + 2) ** 3 % 4079
    pairs = [1 + (4079 * first + second) % 99, 1 + (4079 * other_first + other_second) % 99]
    ids_BLN = hash_text(torch.tensor([[1, 3]]), 3, 100)
    assert ids_BLN[0, :, 0].tolist() == pairs
    first, second = (1103 * first) ** 3 % 4091, (2377 * second) ** 3 % 4079
    assert ids_BLN[0, 0, 1].item() == 1 + (4079 * first + second) % 99
    # Of a checkpoint the rows must stay what they were.
    ids_BLN = hash_text(torch.tensor([[101, 2023, 2003, 102]]), 3, 16384)
    assert ids_BLN[0].tolist() == GOLDEN


GOLDEN = [[12171, 2447], [7685, 1863], [4149, 2530], [14572, 12212]]


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
    assert HASH[0][0] * HASH[1][0] <= 2**24
    for prime, factor in HASH:
        assert max(prime, factor + 1) * prime <= 2**24
        assert prime % 3 != 1


@pytest.mark.parametrize("rows", [1000, 4092, 4096, 16384])
@pytest.mark.parametrize("size", [2, 3])
def test_distinct_ngrams_are_spread_as_if_by_chance(size: int, rows: int):
    # Words as frequent as in language, with small ids for the frequent ones.
    words = np.random.default_rng(0).zipf(1.3, 150_000)
    ids_1L = torch.from_numpy(words[words < 8192])[None]
    ids_L = hash_text(ids_1L, size, rows)[0, size - 1 :, -1]
    grams = torch.stack([ids_1L[0, k : ids_1L.shape[1] - size + 1 + k] for k in range(size)])
    places = np.unique(grams.numpy(), axis=1, return_index=True)[1]
    counts = torch.bincount(ids_L[torch.from_numpy(places)], minlength=rows)
    assert counts[0] == 0
    counts = counts[1:].double()
    spread = ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (rows - 2)
    assert abs(spread - 1) < 6 * (2 / rows) ** 0.5
    if len(places) > 15 * rows:
        assert (counts > 0).all()


def test_order_and_length_make_other_ngrams():
    words = list(itertools.combinations(range(60), 2))
    pairs = hash_text(torch.tensor(words), 3, 2**20)[:, 1]
    swapped = hash_text(torch.tensor(words).flip(1), 3, 2**20)[:, 1]
    assert (pairs == swapped).float().mean() < 0.001  # (a, b) and (b, a)
    assert (pairs[:, 0] == pairs[:, 1]).float().mean() < 0.001  # (a, b) and (none, a, b)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_nothing_beyond_the_text_is_a_neighbour(size: int):
    expected = hash_text(TEXT, size, 50)
    assert expected[0].tolist() == hash_by_hand(TEXT[0].tolist(), size, 50)
    for left, right in ((0, 3), (3, 0), (2, 2)):
        padded = pad(TEXT, left, right)
        ids_BLN = hash_text(padded["input_ids"], size, 50, padded["attention_mask"])
        assert torch.equal(ids_BLN[:, left : left + 9], expected)
        assert (ids_BLN[padded["attention_mask"] == 0] == 0).all()
    lengths = [2, 0, 9, 1, 0]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    packed = torch.cat([OTHER, TEXT, OTHER[:, :1]], dim=1)
    ids_BLN = hash_text(packed, size, 50, cu_seq_lens=offsets)
    assert torch.equal(ids_BLN[:, 2:11], expected)
    assert torch.equal(ids_BLN[:, 11], ids_BLN[:, 0])
    # A hole is no word, and neither is it passed over.
    mask = torch.ones_like(TEXT)
    mask[0, 3] = 0
    ids_BLN = hash_text(TEXT, size, 50, mask)
    others = TEXT.clone()
    others[0, 3] = 17
    assert torch.equal(ids_BLN, hash_text(others, size, 50, mask))
    assert torch.equal(ids_BLN[0, 4, 0], hash_text(TEXT[:, 4:], 2, 50)[0, 0, 0])


# --- What the model makes of them -------------------------------------------------------------------------------------


def run(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = model(**inputs, labels=torch.arange(4) % 3)
    output.loss.backward()
    return output.logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def run_by_hand(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor):
    """The same by a model without n-grams, which is given the sums of the rows."""
    settings = {name: getattr(model.config, name) for name in ("num_hidden_layers", "conv_kernel_size")}
    plain = build(dtype=model.dtype, ngram_vocab_size=None, wave_implementation="eager", **settings)
    missing, of_ngrams = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].detach().clone().requires_grad_() for name in of_ngrams}
    table = own["wave.embeddings.ngram_embeddings.weight"]
    if model.config.ngram_hidden_size is not None:
        table = table @ own["wave.embeddings.ngram_projection.weight"].T
    words = plain.get_input_embeddings()
    rows = []
    for text, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        row, stretch = [], [-1] * 5
        for word, is_word in zip(text, mask, strict=True):
            stretch = [*stretch[1:], word if is_word else -1]
            row.append([0, 0] if not is_word else hash_by_hand(stretch, 3, 50)[-1])
        rows.append(row)
    inputs_embeds = words(input_ids) + table[torch.tensor(rows)].sum(dim=2)
    logits, gradients = run(plain, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
    return logits, gradients | {name: weight.grad for name, weight in own.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", ["eager", "fused"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_hidden_layers": 2, "conv_kernel_size": 3}, {"ngram_hidden_size": 5}, {"ngram_hidden_size": 1}],
    ids=["one", "two", "narrow", "one dimension"],
)
def test_logits_and_gradients_are_those_of_the_sum_of_rows(dtype, implementation, shared, settings, monkeypatch):
    monkeypatch.setattr(modeling_wave, "SHARED_WIDTH", 1 if shared else 10**9)
    monkeypatch.setattr(modeling_wave, "SHARED_ROWS", 10.0)
    model = build(dtype=dtype, wave_implementation=implementation, **settings)
    logits, gradients = run(model, **batch())
    expected, expected_gradients = run_by_hand(model, **batch())
    torch.testing.assert_close(logits, expected, **CLOSE[dtype])
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        size = gradient.abs().max()
        torch.testing.assert_close(gradients[name] / size, gradient / size, **CLOSE[dtype], msg=name)
    table = gradients["wave.embeddings.ngram_embeddings.weight"]
    assert (table[0] == 0).all()
    assert (table[1:] != 0).any(dim=1).sum() > 20


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "absolute"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_hidden_layers": 2}, {"conv_kernel_size": 5}, {"ngram_hidden_size": 3, "conv_kernel_size": 3}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@torch.no_grad()
def test_a_text_has_the_same_logits_however_it_stands(positions, settings, dtype):
    """Alone, padded on either side, packed between others, and read in chunks, folded or not."""
    model = build(dtype=dtype, position_embedding_type=positions, **settings)
    expected = model(TEXT).logits
    packed = {"input_ids": torch.cat([OTHER, TEXT, OTHER], dim=1), "cu_seq_lens": torch.tensor([0, 2, 11, 13])}
    for is_folded in (False, True) if "conv_kernel_size" not in settings else (False,):
        if is_folded:
            model.fold_()
        for left, right in ((0, 0), (0, 3), (3, 0), (2, 2)):
            padded = pad(TEXT, left, right)
            model.config.chunk_length = None
            torch.testing.assert_close(model(**padded).logits, expected, **CLOSE[dtype])
            for length in (1, 2, 3, 8):
                model.config.chunk_length = length
                torch.testing.assert_close(model(**padded).logits, expected, **CLOSE[dtype])
        logits = model(**packed).logits
        torch.testing.assert_close(logits[1:2], expected, **CLOSE[dtype])
        torch.testing.assert_close(logits[0], logits[2], **CLOSE[dtype])


def test_gradients_do_not_depend_on_padding_or_packing():
    model = build()
    labels = torch.tensor([0, 1])

    def gradients(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    rows = [pad(TEXT, 0, 3), pad(OTHER, 0, 10)]
    right = gradients(**{name: torch.cat([row[name] for row in rows]) for name in rows[0]})
    rows = [pad(TEXT, 3, 0), pad(OTHER, 10, 0)]
    left = gradients(**{name: torch.cat([row[name] for row in rows]) for name in rows[0]})
    packed = gradients(input_ids=torch.cat([TEXT, OTHER], dim=1), cu_seq_lens=torch.tensor([0, 9, 11]))
    for name, gradient in right.items():
        torch.testing.assert_close(left[name], gradient, **CLOSE[torch.float64], msg=name)
        torch.testing.assert_close(packed[name], gradient, **CLOSE[torch.float64], msg=name)


def test_one_token_and_padding_alone():
    model = build()
    assert model(torch.tensor([[7]])).logits.isfinite().all()
    nothing = model(torch.tensor([[7, 8]]), attention_mask=torch.zeros(1, 2)).logits
    torch.testing.assert_close(nothing[0], model.classifier.bias)
    mixed = model(torch.tensor([[7, 8], [5, 6]]), attention_mask=torch.tensor([[0, 0], [1, 1]]))
    torch.testing.assert_close(mixed.logits[1:], model(torch.tensor([[5, 6]])).logits)
    run(model, input_ids=torch.tensor([[7]] * 4), attention_mask=torch.tensor([[1], [0], [1], [0]]))
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_they_see_order_to_the_left_alone():
    texts = torch.tensor([[5, 6, 7], [7, 6, 5]])
    dog, man = build(position_embedding_type="none")(texts).logits
    assert (dog - man).abs().max() > 1e-3
    embeddings = build(WaveModel, position_embedding_type="none").embeddings
    first, _ = embeddings(WaveTokens.check(torch.tensor([[5, 6, 7, 8, 9]])))
    other, _ = embeddings(WaveTokens.check(torch.tensor([[5, 11, 7, 8, 9]])))
    assert (first != other).any(dim=-1).tolist() == [[False, True, True, True, False]]


def test_folding_computes_one_table_for_all_lengths():
    model = build(ngram_size=5)
    expected = model(**batch()).logits
    folded = model.fold_().wave.layers[0].mixing.folded
    assert {name: tuple(table.shape) for name, table in folded.named_buffers()}["ngram_ids"] == (50, 32)
    torch.testing.assert_close(model(**batch()).logits, expected, **CLOSE[torch.float64])
    with torch.no_grad():
        model.wave.embeddings.ngram_embeddings.weight[1:] += 1
    changed = copy.deepcopy(model).unfold_()(**batch()).logits
    assert (changed - expected).abs().max() > 1e-3
    torch.testing.assert_close(model(**batch()).logits, changed, **CLOSE[torch.float64])


def test_a_narrow_table_does_not_fold_and_it_says_so():
    model = build(ngram_hidden_size=5)
    with pytest.raises(ValueError, match=r"`wave\.embeddings\.ngram_projection` is a Linear .* cannot take"):
        model.fold_()
    assert model.config.folded is False


@pytest.mark.parametrize("width", [5, 16])
def test_a_narrow_table_has_a_map_to_the_width_of_the_model(width: int):
    model = build(ngram_hidden_size=width)
    shapes = {name: tuple(weight.shape) for name, weight in model.wave.embeddings.named_parameters()}
    assert shapes["ngram_embeddings.weight"] == (50, width)
    assert shapes["ngram_projection.weight"] == (16, width)
    assert "ngram_projection.bias" not in shapes  # padding, whose row is zero, stays zero


def test_gradient_checkpointing_changes_nothing():
    model = build(num_hidden_layers=2)
    expected = run(model.train(), **batch())
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(run(model, **batch()), expected, **CLOSE[torch.float64])


def test_other_words_may_be_added():
    model = build()
    expected = model(**batch()).logits
    model.resize_token_embeddings(45)
    torch.testing.assert_close(model(**batch()).logits, expected)
    assert model.wave.embeddings.ngram_embeddings.weight.shape == (50, 16)


def test_given_embeddings_they_are_left_out_and_it_says_so(caplog: pytest.LogCaptureFixture):
    logging.enable_propagation()
    logging.warning_once.cache_clear()  # another test may have had it
    model = build(WaveModel)
    plain = build(WaveModel, ngram_vocab_size=None)
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs_embeds = model.get_input_embeddings()(TEXT)
    torch.testing.assert_close(model(inputs_embeds=inputs_embeds)[0], plain(TEXT)[0])
    assert caplog.text.count("given `inputs_embeds`, it leaves them out") == 1
    model.config.chunk_length = 2
    with torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=inputs_embeds)[0], plain(TEXT)[0])
    logging.disable_propagation()


@pytest.mark.parametrize("cls", [WaveForMaskedLM, WaveForTokenClassification])
def test_heads_of_single_tokens_still_ask_for_a_convolution(cls: Any, caplog: pytest.LogCaptureFixture):
    logging.enable_propagation()
    build(cls, ngram_size=4)
    build(cls, ngram_size=4, conv_kernel_size=3)
    logging.disable_propagation()
    (said,) = [record.message for record in caplog.records if cls.__name__ in record.message]
    assert "a token sees 3 to its left (`ngram_size`) and none to its right" in said


def test_it_compiles_into_one_graph():
    model = build(dtype=torch.float32, conv_kernel_size=3, classifier_temperature=2.0)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for inputs in (batch(11), batch(20)):
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)


def test_compiled_integers_are_the_same():
    compiled = torch.compile(hash_text, fullgraph=True, dynamic=True)
    for length in (11, 20):
        ids_BL, mask = batch(length).values()
        assert torch.equal(compiled(ids_BL, 3, 50, mask), hash_text(ids_BL, 3, 50, mask))


def test_the_paper_has_none_of_them():
    config = WaveConfig()
    assert (config.ngram_vocab_size, config.token_dropout_prob, config.classifier_temperature) == (None, 0.0, 1.0)
    keys, more = (set(build(ngram_vocab_size=rows).state_dict()) for rows in (None, 50))
    assert more - keys == {"wave.embeddings.ngram_embeddings.weight"}
    assert keys < more
    embeddings = build(initializer_range=0.02, ngram_vocab_size=4000).wave.embeddings
    assert embeddings.ngram_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (embeddings.ngram_embeddings.weight[0] == 0).all()


# --- Dropped tokens ---------------------------------------------------------------------------------------------------


def embed(embeddings: Any, **inputs: Any) -> torch.Tensor:
    torch.manual_seed(3)
    return embeddings(WaveTokens.check(**inputs))


@pytest.mark.parametrize("packed", [False, True])
def test_whole_tokens_are_dropped_and_the_others_are_not_scaled(packed: bool):
    embeddings = build(WaveModel, token_dropout_prob=0.3).embeddings
    ids = torch.randint(1, 40, (1, 4000))
    inputs = {"input_ids": ids} | ({"cu_seq_lens": torch.tensor([0, 1500, 4000])} if packed else {})
    whole, lookups = embed(embeddings, **inputs)
    assert len(lookups) == 4
    dropped, no_lookups = embed(embeddings.train(), **inputs)
    assert no_lookups is None  # it is no sum of look-ups any more
    is_zero = (dropped == 0).all(dim=-1)
    assert is_zero.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(dropped[~is_zero], whole[~is_zero])
    assert not torch.equal(is_zero[0, :1000], is_zero[0, 1000:2000])


def test_without_it_no_random_number_is_drawn():
    for mode, rate in ((True, 0.0), (False, 0.9)):
        embeddings = build(WaveModel, token_dropout_prob=rate).embeddings.train(mode)
        _, lookups = embed(embeddings, input_ids=TEXT)
        assert lookups is not None
        state = torch.get_rng_state()
        torch.manual_seed(3)
        assert torch.equal(state, torch.get_rng_state())


def test_it_drops_before_the_convolution():
    embeddings = build(WaveModel, token_dropout_prob=1.0, conv_kernel_size=3, ngram_vocab_size=None).embeddings
    assert (embed(embeddings.train(), input_ids=TEXT)[0] == 0).all()
    assert (embed(embeddings.eval(), input_ids=TEXT)[0] != 0).all()
    inputs_embeds = torch.ones(1, 3, 16, dtype=torch.float64)
    assert (embed(embeddings.train(), inputs_embeds=inputs_embeds)[0] == 0).all()


def test_a_training_step_with_it_is_the_step_of_texts_with_holes_in_the_embedding(monkeypatch: pytest.MonkeyPatch):
    model = build(token_dropout_prob=0.4, conv_kernel_size=3).train()
    torch.manual_seed(5)
    drawn = torch.rand(4, 20, 1)
    torch.manual_seed(5)
    logits, gradients = run(model, **batch())
    ids, mask = batch().values()
    plain = build(conv_kernel_size=3, ngram_vocab_size=None)
    plain.load_state_dict(model.state_dict(), strict=False)
    model.eval()
    convolution, model.wave.embeddings.convolution = model.wave.embeddings.convolution, None
    summed, _ = model.wave.embeddings(WaveTokens.check(ids, mask))
    model.wave.embeddings.convolution = convolution
    monkeypatch.setattr(plain.wave.embeddings, "tables", dict)
    kept = (drawn >= 0.4).double()
    expected, _ = run(plain, inputs_embeds=summed.detach() * kept, attention_mask=mask)
    torch.testing.assert_close(logits, expected, **CLOSE[torch.float64])
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_compiled_step_drops_tokens_too():
    embeddings = build(WaveModel, dtype=torch.float32, token_dropout_prob=0.3).embeddings.train()
    compiled = torch.compile(embeddings, fullgraph=True, backend="aot_eager")
    dropped, _ = compiled(WaveTokens.check(torch.randint(1, 40, (2, 500))))
    assert (dropped == 0).all(dim=-1).float().mean().item() == pytest.approx(0.3, abs=0.08)


# --- The temperature --------------------------------------------------------------------------------------------------


def test_it_divides_the_logits_also_before_the_loss():
    plain, cooler = build(), build(classifier_temperature=2.5)
    labels = torch.arange(4) % 3
    expected, found = plain(**batch(), labels=labels), cooler(**batch(), labels=labels)
    torch.testing.assert_close(found.logits, expected.logits / 2.5)
    torch.testing.assert_close(
        found.loss, nn.functional.cross_entropy(expected.logits / 2.5, labels), check_dtype=False
    )
    cooler.config.chunk_length = 3
    with torch.no_grad():
        torch.testing.assert_close(cooler(**batch()).logits, found.logits)


@pytest.mark.parametrize("one", [1.0, 1])
def test_one_does_nothing(one: float):
    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        calls: list[str]

        def __torch_dispatch__(self, function, types, arguments=(), settings=None):
            self.calls.append(str(function))
            return function(*arguments, **settings or {})

    calls = []
    for settings in ({}, {"classifier_temperature": one}, {"classifier_temperature": 2.0}):
        with Watched() as watched, torch.no_grad():
            watched.calls = []
            build_once = build(**settings)
            watched.calls = []
            build_once(TEXT)
        calls.append(watched.calls)
    assert calls[0] == calls[1]
    assert len(calls[2]) == len(calls[0]) + 1


# --- Kept, and carried elsewhere --------------------------------------------------------------------------------------


ALL = {"conv_kernel_size": 3, "ngram_hidden_size": 6, "token_dropout_prob": 0.2, "classifier_temperature": 1.7}
WORDS = [row["text"] for row in make_rows(24, seed=3)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ngrams"
    tokenizer = train_wave_tokenizer(WORDS, 60, show_progress=False)
    build(dtype=torch.float32, vocab_size=len(tokenizer), **ALL).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "field",
    ["ngram_vocab_size", "ngram_size", "ngram_hidden_size", "token_dropout_prob", "classifier_temperature"],
)
def test_a_checkpoint_says_what_it_has(saved: Path, field: str):
    loaded = AutoModelForSequenceClassification.from_pretrained(saved)
    assert getattr(loaded.config, field) == (SETTINGS | ALL)[field]
    assert json.loads((saved / "config.json").read_text())[field] == (SETTINGS | ALL)[field]


def test_it_loads_without_the_package_bit_for_bit(saved: Path, tmp_path: Path):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    found = run_step(
        tmp_path,
        "http://127.0.0.1:9",
        "without_package",
        "classify",
        with_package=False,
        folder=str(saved),
        texts=WORDS,
    )
    assert found == {"origin": "transformers_modules", "bits": compute_bits(model.eval(), tokenizer, WORDS)}


def test_a_run_has_them_and_sparse_gradients_leave_rows_alone_that_no_text_has(tmp_path: Path):
    (tmp_path / "data").mkdir()
    data = write_data(tmp_path / "data")
    settings = {"ngram_vocab_size": 5000, "ngram_size": 3, "token_dropout_prob": 0.1, "num_train_epochs": 1}
    settings |= {"weight_decay": 1.0}
    start = finetune_small(data, tmp_path / "start", **settings, learning_rate=0)
    dense = finetune_small(data, tmp_path / "dense", **settings)
    sparse = finetune_small(data, tmp_path / "sparse", **settings, sparse_embeddings=True)
    config = AutoModelForSequenceClassification.from_pretrained(sparse).config
    assert (config.ngram_vocab_size, config.ngram_size, config.token_dropout_prob) == (5000, 3, 0.1)
    table = "wave.embeddings.ngram_embeddings.weight"
    first, whole, rows = (load_file(run / "model.safetensors")[table] for run in (start, dense, sparse))
    moved = (rows != first).any(dim=1)
    assert 200 < moved.sum() < 2500
    assert not moved[0]
    assert (whole != first).any(dim=1)[1:].all()  # decay moves all but zeros


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ngram_vocab_size": 1}, r"`ngram_vocab_size` must be None or an integer from 2 to 16777216 \(2\^24\), got 1"),
        ({"ngram_vocab_size": 0}, "`ngram_vocab_size`.*got 0"),
        ({"ngram_vocab_size": 2**24 + 1}, "`ngram_vocab_size`.*got 16777217"),
        ({"ngram_size": 1}, "`ngram_size` must be an integer of at least 2, got 1"),
        ({"ngram_hidden_size": 0}, "`ngram_hidden_size` must be an integer of at least 1, got 0"),
        ({"token_dropout_prob": -0.1}, r"`token_dropout_prob`.*between 0 and 1, got -0\.1"),
        ({"token_dropout_prob": 1.5}, r"`token_dropout_prob`.*between 0 and 1, got 1\.5"),
        ({"classifier_temperature": 0.0}, r"`classifier_temperature`.*finite.*greater than 0, got 0\.0"),
        ({"classifier_temperature": -1}, "`classifier_temperature`.*got -1"),
        ({"classifier_temperature": float("inf")}, "`classifier_temperature`.*got inf"),
        ({"classifier_temperature": float("nan")}, "`classifier_temperature`.*got nan"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, Any], message: str):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        WaveConfig(**settings)
