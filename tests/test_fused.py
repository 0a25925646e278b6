"""fused_wave.py against ops_wave.py: outputs and every gradient, on the inputs that hurt, in each of its forms."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, jvp, vmap

from wave_network.modeling_wave import fused_wave, ops_wave

# How far a result may lie from the readable form in float64. Outputs: relative to what is summed up in them, which for
# a product of two waves is |Z| |Z'|. Gradients: relative to the largest of the tensor. 16 bits: one rounding.
OUTPUT = {torch.float64: 1e-14, torch.float32: 5e-7, torch.bfloat16: 2**-8, torch.float16: 2**-10}
GRADIENT = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-9}

KINDS = ["random", "spiky", "dominant", "two_dominant", "zeros", "zero_columns", "ties", "tiny", "huge"]
OPERATIONS = ["interference", "modulation"]
LAYOUTS = ["plain", "mask", "all_padding", "packed"]


def draw(kind: str, *shape: int, seed: int = 0) -> torch.Tensor:
    """Tokens that a float32 holds exactly, as float64."""
    generator = torch.Generator().manual_seed(seed)
    w_BLE = torch.randn(*shape, generator=generator)
    if kind == "spiky":
        w_BLE = w_BLE**5
    elif kind == "dominant":
        w_BLE[:, shape[1] // 2] *= 1e4
    elif kind == "two_dominant":
        w_BLE[:, [0, -1]] *= 1e4
    elif kind == "zeros":
        w_BLE.zero_()
    elif kind == "zero_columns":
        w_BLE[..., ::2] = 0
    elif kind == "ties":
        w_BLE = torch.randint(-1, 2, shape, generator=generator).float()
    elif kind == "tiny":
        w_BLE *= 1e-25
    elif kind == "huge":
        w_BLE *= 1e18
    return w_BLE.double()


def lay_out(layout: str, w_BLE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The tokens with a mask, or end to end with offsets: a text is empty, one is a single token, some are short."""
    rows, length, width = w_BLE.shape
    if layout == "packed":
        total = rows * length
        cuts = sorted({0, *(min(total // 3 + tokens, total) for tokens in (0, 1, 4, 6, 9)), total})
        return w_BLE.reshape(1, total, width), None, torch.tensor([0, *cuts])
    if layout == "plain":
        return w_BLE, None, None
    mask_BL = torch.rand(rows, length, generator=torch.Generator().manual_seed(1)) > 0.4
    mask_BL[0] = True
    mask_BL[-1] = layout != "all_padding"
    return w_BLE, mask_BL, None


def run(form, dtype, x_BLE, upstream_BLE, *how) -> tuple[torch.Tensor, torch.Tensor]:
    x_BLE = x_BLE.detach().to(dtype, copy=True).requires_grad_()
    result = form.superpose(x_BLE, *how)
    assert result.dtype == dtype
    result.backward(upstream_BLE.to(dtype))
    return result.detach().double(), x_BLE.grad.double()


def compare(dtype, kind, shape, layout, operation, magnitude, seed=0) -> None:
    x_BLE, mask_BL, cu_seq_lens = lay_out(layout, draw(kind, *shape, seed=seed).to(dtype).double())
    upstream_BLE = torch.randn(x_BLE.shape, generator=torch.Generator().manual_seed(seed)).to(dtype).double()
    how = mask_BL, operation, magnitude, cu_seq_lens
    expected, expected_grad = run(ops_wave, torch.float64, x_BLE, upstream_BLE, *how)
    result, result_grad = run(fused_wave, dtype, x_BLE, upstream_BLE, *how)
    assert result.isfinite().all()
    assert result_grad.isfinite().all()

    z, z2 = (ops_wave.amplitude(ops_wave.lift(w, mask_BL, magnitude, cu_seq_lens)) for w in x_BLE.chunk(2, dim=-1))
    size = (z * z2 if operation == "modulation" else z + z2).repeat(1, 1, 2)
    # A product of two contexts carries the error of both.
    allowed = OUTPUT[dtype] * (2 if operation == "modulation" else 1)
    smallest = torch.finfo(dtype).tiny
    assert ((result - expected).abs() <= allowed * size + smallest).all()
    assert (result_grad - expected_grad).abs().max() <= GRADIENT[dtype] * expected_grad.abs().max() + smallest


CASES = [
    # What cannot be: products of huge tokens overflow by themselves, and float16 ends at 65504.
    (dtype, kind)
    for dtype in OUTPUT
    for kind in KINDS
    if dtype != torch.float16 or kind in ("random", "zeros", "zero_columns", "ties")
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "kind"), CASES, ids=str)
def test_blocked_equals_readable(dtype, kind, layout, monkeypatch):
    for index, operation in enumerate(OPERATIONS[:1] if kind in ("tiny", "huge") else OPERATIONS):
        for magnitude, shape in zip(("l2", "rms") * 2, ((3, 63, 10), (2, 1, 4), (2, 2, 6), (1, 130, 2)), strict=True):
            compare(dtype, kind, shape, layout, operation, magnitude)
        with monkeypatch.context() as patch:  # a text longer than a block, read in pieces
            patch.setattr(fused_wave, "BLOCK", 64)
            compare(dtype, kind, (2, 63, 10), layout, operation, ("l2", "rms")[index % 2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "kind"), [case for case in CASES if case[1] not in ("tiny", "huge") and case[0] != torch.float16], ids=str
)
def test_traced_equals_readable(dtype, kind, layout, monkeypatch):
    monkeypatch.setattr(fused_wave, "is_blocked", lambda x_BLE: False)
    for operation, magnitude in zip(OPERATIONS * 2, ("l2", "rms", "rms", "l2"), strict=True):
        for shape in ((3, 63, 10), (2, 1, 4), (2, 2, 6)):
            compare(dtype, kind, shape, layout, operation, magnitude)


@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    kind=st.sampled_from([kind for kind in KINDS if kind not in ("tiny", "huge")]),
    rows=st.integers(1, 4),
    length=st.integers(1, 70),
    half=st.integers(1, 9),
    layout=st.sampled_from(LAYOUTS),
    operation=st.sampled_from(OPERATIONS),
    magnitude=st.sampled_from(["l2", "rms"]),
    seed=st.integers(0, 2**16),
)
@example(torch.float32, "dominant", 1, 1, 1, "all_padding", "modulation", "rms", 0)
def test_any_shape_mask_and_scale(dtype, kind, rows, length, half, layout, operation, magnitude, seed):
    compare(dtype, kind, (rows, length, 2 * half), layout, operation, magnitude, seed)


def test_nothing_at_padding_gets_out():
    mask_BL = torch.tensor([[True, True, False], [False, True, False]])
    clean_BLE = draw("random", 2, 3, 4).requires_grad_()
    dirty_BLE = clean_BLE.detach().masked_fill(~mask_BL[..., None], torch.nan).requires_grad_()
    for x_BLE in (clean_BLE, dirty_BLE):
        fused_wave.superpose(x_BLE, mask_BL).sin().sum().backward()
    torch.testing.assert_close(dirty_BLE.grad, clean_BLE.grad, rtol=0, atol=0)
    assert (dirty_BLE.grad[~mask_BL] == 0).all()


def test_nan_in_a_token_is_not_hidden():
    x_BLE = draw("random", 1, 5, 4)
    x_BLE[0, 2, 1] = torch.nan
    assert fused_wave.superpose(x_BLE)[..., 1].isnan().all()
    assert fused_wave.superpose(x_BLE)[..., 0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_token_of_any_share_is_exact(dtype):
    shares = 2.0 ** torch.arange(1, 60)
    x_BLE, upstream_BLE = draw("random", 1, 4, len(shares)).sign(), draw("random", 1, 4, len(shares), seed=1).to(dtype)
    x_BLE[:, 2] *= shares
    # A wave of zeros is added, and its context is 0: the imaginary part is the context of the tokens.
    x_BLE, upstream_BLE = (torch.cat(pair, dim=-1) for pair in ((x_BLE, 0 * x_BLE), (0 * upstream_BLE, upstream_BLE)))
    how = None, "interference"
    expected, expected_grad = run(ops_wave, torch.float64, x_BLE, upstream_BLE.double(), *how)
    result, result_grad = run(fused_wave, dtype, x_BLE, upstream_BLE, *how)
    assert ((result - expected).abs() <= OUTPUT[dtype] * expected.abs()).all()
    # Of each column, so that none hides behind another.
    assert ((result_grad - expected_grad).abs() <= GRADIENT[dtype] * expected_grad.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("block", [2**19, 300])
def test_packed_texts_do_not_meet(block, monkeypatch):
    monkeypatch.setattr(fused_wave, "BLOCK", block)
    lengths = torch.tensor([3, 0, 5, 4, 1, 4, 30, 2])
    cu_seq_lens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    clean_BLE = draw("random", 1, int(lengths.sum()), 10).float()
    is_other_L = ops_wave.index_texts(cu_seq_lens, clean_BLE.shape[1]) != 3
    results = []
    for worst in (1.0, torch.nan, torch.inf, 1e30):
        x_BLE = clean_BLE.clone()
        x_BLE[0, cu_seq_lens[3]] *= worst
        x_BLE.requires_grad_()
        waves_BLE = fused_wave.superpose(x_BLE, cu_seq_lens=cu_seq_lens)
        waves_BLE.sin().sum().backward()
        results.append((waves_BLE.detach()[:, is_other_L], x_BLE.grad[:, is_other_L]))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-6)


def test_packed_texts_of_about_one_length_are_worked_on_together(monkeypatch):
    monkeypatch.setattr(fused_wave, "BLOCK", 200)
    monkeypatch.setattr(fused_wave, "PADDING", 20)
    groups = list(fused_wave.group_by_length([9, 2, 0, 10, 3, 60, 2, 0, 9], 10))
    assert groups == [([1, 6, 4], 3), ([0, 8], 9), ([3], 10), ([5], 60)]
    assert list(fused_wave.group_by_length([2, 5], 10)) == [([0], 2), ([1], 5)]
    assert list(fused_wave.group_by_length([0, 0], 10)) == []


# --- Gradients of gradients, transforms, compilers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "operation", "magnitude"),
    [("plain", "modulation", "l2"), ("mask", "interference", "rms"), ("packed", "modulation", "rms")],
)
def test_derivatives_and_transforms_are_those_of_the_readable_form(layout, operation, magnitude):
    x_BLE, mask_BL, cu_seq_lens = lay_out(layout, draw("random", 2, 6, 4))
    x_BLE[:, 2] *= 100
    how = mask_BL, operation, magnitude, cu_seq_lens
    fused, readable = (
        lambda x_BLE, form=form: form.superpose(x_BLE, *how).sin().sum(dim=-1) for form in (fused_wave, ops_wave)
    )
    leaf_BLE = x_BLE.clone().requires_grad_()
    assert gradcheck(fused, leaf_BLE, check_forward_ad=True)
    assert gradgradcheck(fused, leaf_BLE)
    tangent_BLE = draw("random", *x_BLE.shape, seed=5)
    for transform in (jacrev, jacfwd, lambda f: hessian(lambda x: f(x).sum()), lambda f: lambda x: vmap(f)(x[None])):
        torch.testing.assert_close(transform(fused)(x_BLE), transform(readable)(x_BLE))
    torch.testing.assert_close(*(jvp(form, (x_BLE,), (tangent_BLE,)) for form in (fused, readable)))


@pytest.mark.parametrize(
    ("layout", "operation"),
    [("mask", "modulation"), pytest.param("packed", "interference", marks=pytest.mark.nightly)],
)
def test_compiles_into_one_graph_of_any_size(layout, operation):
    @torch.compile(fullgraph=True, dynamic=True)
    def compiled(x_BLE, mask_BL, cu_seq_lens):
        return fused_wave.superpose(x_BLE, mask_BL, operation, "l2", cu_seq_lens).sin()

    for length in (5, 8, 9):
        x_BLE, *how = lay_out(layout, draw("random", 3, length, 6))
        results = []
        for form in (compiled, lambda *x: ops_wave.superpose(x[0], x[1], operation, "l2", x[2]).sin()):
            leaf_BLE = x_BLE.clone().requires_grad_()
            result = form(leaf_BLE, *how)
            result.sum().backward()
            results.append((result.detach(), leaf_BLE.grad))
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_of_half_precision_run_in_float32(dtype):
    x_BLE = draw("random", 1, 8192, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waves_BLE = fused_wave.superpose(x_BLE)
    waves_BLE.sum().backward()
    assert waves_BLE.dtype == dtype
    assert x_BLE.grad.isfinite().all()
    expected = ops_wave.superpose(x_BLE.detach().double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(waves_BLE.double(), expected, rtol=eps, atol=eps * expected.abs().max().item())
