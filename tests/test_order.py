"""The convolution over neighbouring tokens: what it computes, whom it may not see, and what it does to the model."""

import copy
import itertools
import runpy
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from wave_network import WaveConfig, WaveForSequenceClassification, WaveForTokenClassification, WaveModel
from wave_network.modeling_wave.embeddings_wave import WaveConvolution, WaveTokens

# rtol and atol: what each type rounds to, over sums of a few terms near one.
CLOSE = {
    torch.float64: {"rtol": 0, "atol": 1e-13},
    torch.float32: {"rtol": 0, "atol": 2e-6},
    torch.bfloat16: {"rtol": 0.01, "atol": 0.01},
}
SETTINGS = {
    "vocab_size": 40,
    "hidden_size": 10,
    "num_labels": 3,
    "conv_kernel_size": 3,
    "position_embedding_type": "none",
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.5,
}
DOG, BITES, MAN = 5, 6, 7


def build(cls=WaveForSequenceClassification, **settings):
    torch.manual_seed(0)
    return cls(WaveConfig(**SETTINGS | settings)).eval()


def make_convolution(width: int, size: int = 6, dtype: torch.dtype = torch.float64) -> WaveConvolution:
    torch.manual_seed(1)
    module = WaveConvolution(WaveConfig(vocab_size=5, hidden_size=size, conv_kernel_size=width)).to(dtype)
    torch.nn.init.normal_(module.weight)
    return module


def convolve_by_hand(x_LD: torch.Tensor, module: WaveConvolution) -> torch.Tensor:
    """One text without padding, written out."""
    rows, reach = [], module.reach
    for j in range(len(x_LD)):
        row = x_LD[j]
        for k in range(-reach, reach + 1):
            if 0 <= j + k < len(x_LD):
                row = row + module.weight[:, 0, reach + k] * x_LD[j + k]
        rows.append(row)
    return torch.stack(rows)


def tokens_of(x_BLD: torch.Tensor, mask=None, cu_seq_lens=None) -> WaveTokens:
    return WaveTokens.check(inputs_embeds=x_BLD, attention_mask=mask, cu_seq_lens=cu_seq_lens)


@pytest.mark.parametrize("width", [3, 5, 9])
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_sum_that_its_docstring_says(width, length, dtype):
    module = make_convolution(width, dtype=dtype)
    x_BLD = torch.randn(2, length, 6, dtype=dtype, requires_grad=True)
    result = module(x_BLD, tokens_of(x_BLD))
    exact, x_exact = copy.deepcopy(module).double(), x_BLD.detach().double().requires_grad_()
    expected = torch.stack([convolve_by_hand(x_LD, exact) for x_LD in x_exact])
    torch.testing.assert_close(result.double(), expected, **CLOSE[dtype])
    upstream = torch.randn_like(result)
    own = torch.autograd.grad(result, (x_BLD, module.weight), upstream)
    by_hand = torch.autograd.grad(expected, (x_exact, exact.weight), upstream.double())
    for gradient, same in zip(own, by_hand, strict=True):
        torch.testing.assert_close(gradient.double(), same, **CLOSE[dtype])


@pytest.mark.parametrize("width", [3, 7])
def test_packed_texts_do_not_see_each_other(width):
    module = make_convolution(width)
    lengths = [3, 0, 1, 6, 0]
    x_1LD = torch.randn(1, sum(lengths), 6, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    result = module(x_1LD, tokens_of(x_1LD, cu_seq_lens=offsets))[0]
    texts = x_1LD[0].split(lengths)
    expected = torch.cat([convolve_by_hand(text, module) for text in texts if len(text)])
    torch.testing.assert_close(result, expected, **CLOSE[torch.float64])
    upstream = torch.randn_like(result)
    inputs = (x_1LD, module.weight)
    own, by_hand = (torch.autograd.grad(y, inputs, upstream, retain_graph=True) for y in (result, expected))
    for gradient, same in zip(own, by_hand, strict=True):
        torch.testing.assert_close(gradient, same, **CLOSE[torch.float64])


@pytest.mark.parametrize(("left", "right"), [(0, 4), (4, 0), (2, 3)])
@pytest.mark.parametrize("fill", [0.0, float("nan"), float("inf")])
def test_nothing_that_stands_at_padding_reaches_a_token(left, right, fill):
    module = make_convolution(5)
    x_BLD = torch.randn(1, 4, 6, dtype=torch.float64)
    padded = torch.nn.functional.pad(x_BLD, (0, 0, left, right), value=fill).requires_grad_()
    mask = torch.nn.functional.pad(torch.ones(1, 4), (left, right))
    result = module(padded, tokens_of(padded, mask))[:, left : left + 4]
    torch.testing.assert_close(result[0], convolve_by_hand(x_BLD[0], module), **CLOSE[torch.float64])
    result.sum().backward()
    assert padded.grad.isfinite().all()
    assert (padded.grad[:, :left] == 0).all()
    assert (padded.grad[:, left + 4 :] == 0).all()


def test_with_it_a_dog_that_bites_a_man_is_not_a_man_that_bites_a_dog():
    texts = torch.tensor([[DOG, BITES, MAN], [MAN, BITES, DOG]])
    for operation in ("modulation", "interference"):
        dog, man = build(wave_operation=operation)(texts).logits
        assert (dog - man).abs().max() > 1e-3
        dog, man = build(wave_operation=operation, conv_kernel_size=None)(texts).logits
        torch.testing.assert_close(dog, man, rtol=0, atol=1e-6)


def test_without_it_the_model_is_the_papers():
    assert WaveConfig().conv_kernel_size is None
    keys, more = (set(build(conv_kernel_size=width).state_dict()) for width in (None, 3))
    assert more - keys == {"wave.embeddings.convolution.weight"}
    assert keys < more


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "absolute"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_text_has_the_same_logits_however_it_stands(positions, layers, dtype):
    """Alone, padded on either side, in a batch, packed between others, and read in chunks."""
    settings = {"position_embedding_type": positions, "num_hidden_layers": layers, "conv_kernel_size": 5}
    settings |= {"initializer_range": 0.5 if dtype == torch.float64 else 0.02}
    model = build(**settings).to(dtype)
    ids, other = torch.tensor([[5, 9, 2, 31, 9, 8, 7]]), torch.tensor([[3, 4]])
    with torch.no_grad():
        expected = model(ids).logits
        for left, right in ((0, 3), (3, 0), (2, 2)):
            padded = torch.nn.functional.pad(ids, (left, right), value=11)
            mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
            torch.testing.assert_close(model(padded, attention_mask=mask).logits, expected, **CLOSE[dtype])
        packed = torch.cat([other, ids, other], dim=1)
        logits = model(packed, cu_seq_lens=torch.tensor([0, 2, 9, 11])).logits
        torch.testing.assert_close(logits[1:2], expected, **CLOSE[dtype])
        torch.testing.assert_close(logits[0], logits[2], **CLOSE[dtype])
        for length in (1, 2, 3, 6):
            model.config.chunk_length = length
            torch.testing.assert_close(model(ids).logits, expected, **CLOSE[dtype])
            torch.testing.assert_close(model(padded, attention_mask=mask).logits, expected, **CLOSE[dtype])


def test_hidden_states_of_chunks_are_those_of_one_pass():
    model = build(WaveModel, num_hidden_layers=2).double()
    ids, mask = torch.randint(1, 40, (3, 17)), torch.ones(3, 17, dtype=torch.long)
    mask[1, 12:] = mask[2, :5] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).last_hidden_state
        model.config.chunk_length = 4
        chunked = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(chunked[mask == 1], expected[mask == 1], **CLOSE[torch.float64])


def test_folding_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"`wave\.embeddings\.convolution` is a WaveConvolution"):
        build().fold_()


@pytest.mark.parametrize("width", [-1, 0, 1, 2, 4])
def test_a_width_that_cannot_be_is_named(width):
    with pytest.raises(StrictDataclassClassValidationError, match=f"`conv_kernel_size`.*odd.*at least 3, got {width}"):
        WaveConfig(conv_kernel_size=width)


def test_it_compiles_into_one_graph_and_exports():
    model = build(WaveForTokenClassification).eval()
    ids = torch.randint(1, 40, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    expected = model(ids, attention_mask=mask).logits
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(ids, attention_mask=mask).logits, expected, rtol=1e-5, atol=1e-6)
    shapes = {"input_ids": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}
    shapes["attention_mask"] = shapes["input_ids"]
    inputs = {"input_ids": ids, "attention_mask": mask}
    exported = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=shapes, strict=False).module()
    for rows, length in ((1, 1), (2, 30)):
        other = {"input_ids": torch.randint(1, 40, (rows, length)), "attention_mask": torch.ones(rows, length).long()}
        torch.testing.assert_close(exported(**other).logits, model(**other).logits, rtol=1e-5, atol=1e-6)


def test_its_weights_are_saved_and_loaded_bit_for_bit(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    loaded = WaveForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.wave.embeddings.convolution.weight, model.wave.embeddings.convolution.weight)


def test_the_example_runs(capsys):
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "order.py"), run_name="__main__")
    without, with_it = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert without < 1e-5 < 1e-2 < with_it
