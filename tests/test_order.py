"""The convolution over neighbouring tokens: what it computes, whom it may not see, and what it does to the model."""

import copy
import itertools

import pytest
import torch

from wave_network import WaveConfig, WaveForSequenceClassification
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


def test_with_it_a_dog_that_bites_a_man_is_not_a_man_that_bites_a_dog():
    texts = torch.tensor([[DOG, BITES, MAN], [MAN, BITES, DOG]])
    for operation in ("modulation", "interference"):
        dog, man = build(wave_operation=operation)(texts).logits
        assert (dog - man).abs().max() > 1e-3
        dog, man = build(wave_operation=operation, conv_kernel_size=None)(texts).logits
        torch.testing.assert_close(dog, man, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fill", [0.0, float("nan"), float("inf")])
def test_nothing_that_stands_at_padding_reaches_a_token(fill):
    module = make_convolution(5)
    x_BLD = torch.randn(1, 4, 6, dtype=torch.float64)
    padded = torch.nn.functional.pad(x_BLD, (0, 0, 2, 3), value=fill).requires_grad_()
    mask = torch.nn.functional.pad(torch.ones(1, 4), (2, 3))
    result = module(padded, tokens_of(padded, mask))[:, 2:6]
    torch.testing.assert_close(result[0], convolve_by_hand(x_BLD[0], module), **CLOSE[torch.float64])
    result.sum().backward()
    assert (padded.grad[mask == 0] == 0).all()
