"""fused_wave.py against ops_wave.py: outputs and every gradient, on the inputs that hurt, in each of its forms."""

import inspect

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.modeling_wave import fused_wave, modeling_wave, ops_wave

# How far a result may lie from the readable form in float64. Outputs: relative to what is summed up in them, which for
# a product of two waves is |Z| |Z'|. Gradients: relative to the largest of the tensor. 16 bits: one rounding.
OUTPUT = {torch.float64: 1e-14, torch.float32: 5e-7, torch.bfloat16: 2**-8, torch.float16: 2**-10}
GRADIENT = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-9}

KINDS = ["random", "spiky", "dominant", "two_dominant", "zeros", "zero_columns", "ties", "tiny", "huge"]
OPERATIONS = ["context", "interference", "modulation"]


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


def apply(form, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    if operation == "context":
        return form.context_norm(x_BLE, mask_BL, magnitude, cu_seq_lens)
    return form.superpose(x_BLE, mask_BL, operation, magnitude, cu_seq_lens)


class Traced:
    """The form that torch.compile sees, run as it is."""

    @staticmethod
    def context_norm(x_BLE, mask_BL, magnitude, cu_seq_lens):
        return fused_wave.TracedOperation.apply(x_BLE, mask_BL, cu_seq_lens, "context", magnitude)

    @staticmethod
    def superpose(x_BLE, mask_BL, operation, magnitude, cu_seq_lens):
        return fused_wave.TracedOperation.apply(x_BLE, mask_BL, cu_seq_lens, operation, magnitude)


def run(form, dtype, x_BLE, upstream_BLE, *how) -> tuple[torch.Tensor, torch.Tensor]:
    x_BLE = x_BLE.detach().to(dtype, copy=True).requires_grad_()
    result = apply(form, x_BLE, *how)
    assert result.dtype == dtype
    result.backward(upstream_BLE.to(dtype))
    return result.detach().double(), x_BLE.grad.double()


def compare(form, dtype, kind, shape, layout, operation, magnitude, seed=0) -> None:
    x_BLE, mask_BL, cu_seq_lens = lay_out(layout, draw(kind, *shape, seed=seed).to(dtype).double())
    upstream_BLE = torch.randn(x_BLE.shape, generator=torch.Generator().manual_seed(seed)).to(dtype).double()
    how = mask_BL, cu_seq_lens, operation, magnitude
    expected, expected_grad = run(ops_wave, torch.float64, x_BLE, upstream_BLE, *how)
    result, result_grad = run(form, dtype, x_BLE, upstream_BLE, *how)
    assert result.isfinite().all()
    assert result_grad.isfinite().all()

    size = expected.abs()
    if operation != "context":
        w_BLD, w2_BLD = x_BLE.chunk(2, dim=-1)
        z, z2 = (ops_wave.amplitude(ops_wave.lift(w, mask_BL, magnitude, cu_seq_lens)) for w in (w_BLD, w2_BLD))
        size = (z * z2 if operation == "modulation" else z + z2).repeat(1, 1, 2)
    # A product of two contexts carries the error of both.
    allowed = OUTPUT[dtype] * (2 if operation == "modulation" else 1)
    smallest = torch.finfo(dtype).tiny
    assert ((result - expected).abs() <= allowed * size + smallest).all()
    assert (result_grad - expected_grad).abs().max() <= GRADIENT[dtype] * expected_grad.abs().max() + smallest


def is_in_range(kind: str, dtype: torch.dtype, operation: str) -> bool:
    """Products of huge tokens overflow by themselves, and float16 holds neither kind."""
    return kind not in ("tiny", "huge") or (operation != "modulation" and dtype != torch.float16)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("layout", ["plain", "mask", "all_padding", "packed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_blocked_equals_readable(dtype, kind, layout, magnitude, operation, monkeypatch):
    if not is_in_range(kind, dtype, operation):
        pytest.skip("the result itself overflows")
    if dtype == torch.float16 and kind in ("spiky", "dominant", "two_dominant"):
        pytest.skip("1e4 squared is beyond float16")
    for shape in ((3, 63, 10), (2, 1, 4), (2, 2, 6), (1, 130, 2)):
        compare(fused_wave, dtype, kind, shape, layout, operation, magnitude)
    # A text longer than a block, read in pieces.
    monkeypatch.setattr(fused_wave, "BLOCK", 64)
    compare(fused_wave, dtype, kind, (2, 63, 10), layout, operation, magnitude)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("layout", ["plain", "mask", "all_padding", "packed"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("tiny", "huge")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_traced_equals_readable(dtype, kind, layout, operation):
    for shape in ((3, 63, 10), (2, 1, 4), (2, 2, 6)):
        compare(Traced, dtype, kind, shape, layout, operation, "rms")


@pytest.mark.parametrize("name", ["context_norm", "superpose"])
def test_the_arguments_are_those_of_the_readable_form(name):
    assert inspect.signature(getattr(fused_wave, name)) == inspect.signature(getattr(ops_wave, name))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    kind=st.sampled_from([kind for kind in KINDS if kind not in ("tiny", "huge")]),
    rows=st.integers(1, 4),
    length=st.integers(1, 70),
    half=st.integers(1, 9),
    layout=st.sampled_from(["plain", "mask", "all_padding", "packed"]),
    operation=st.sampled_from(OPERATIONS),
    magnitude=st.sampled_from(["l2", "rms"]),
    seed=st.integers(0, 2**16),
)
@example(torch.float32, "dominant", 1, 1, 1, "all_padding", "modulation", "rms", 0)
def test_any_shape_mask_and_scale(dtype, kind, rows, length, half, layout, operation, magnitude, seed):
    compare(fused_wave, dtype, kind, (rows, length, 2 * half), layout, operation, magnitude, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_texts_do_not_overflow_in_half_precision(dtype):
    x_BLE = draw("random", 1, 8192, 4).to(dtype).requires_grad_()
    waves_BLE = fused_wave.superpose(x_BLE)
    waves_BLE.sum().backward()
    assert waves_BLE.isfinite().all()
    assert x_BLE.grad.isfinite().all()


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
    how = None, None, "context", "l2"
    expected, expected_grad = run(ops_wave, torch.float64, x_BLE, upstream_BLE.double(), *how)
    result, result_grad = run(fused_wave, dtype, x_BLE, upstream_BLE, *how)
    assert ((result - expected).abs() <= OUTPUT[dtype] * expected).all()
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


def test_rows_need_not_be_contiguous():
    wide_BLE = draw("random", 2, 7, 20).float()
    part_BLE = wide_BLE[:, ::2, 3:13]
    torch.testing.assert_close(fused_wave.superpose(part_BLE), fused_wave.superpose(part_BLE.contiguous()))


@pytest.mark.parametrize(("rows", "length"), [(0, 3), (2, 0)])
def test_no_tokens_at_all(rows, length):
    x_BLE = torch.zeros(rows, length, 4, requires_grad=True)
    fused_wave.superpose(x_BLE).sum().backward()
    assert x_BLE.grad.shape == (rows, length, 4)


# --- What torch does with functions -----------------------------------------------------------------------------------


def setting(layout: str, operation: str, magnitude: str):
    x_BLE, *how = lay_out(layout, draw("random", 2, 6, 4))
    x_BLE[:, 2] *= 100
    return (
        x_BLE,
        lambda x_BLE: fused_wave.superpose(x_BLE, how[0], operation, magnitude, how[1]),
        lambda x_BLE: ops_wave.superpose(x_BLE, how[0], operation, magnitude, how[1]),
    )


@pytest.mark.parametrize("layout", ["plain", "mask", "packed"])
@pytest.mark.parametrize("operation", ["interference", "modulation"])
def test_finite_differences_and_second_derivatives(operation, layout):
    x_BLE, fused, _ = setting(layout, operation, "rms")
    x_BLE.requires_grad_()
    assert gradcheck(fused, x_BLE, check_forward_ad=True)
    assert gradgradcheck(fused, x_BLE)


@pytest.mark.parametrize("layout", ["plain", "mask", "packed"])
@pytest.mark.parametrize("operation", ["interference", "modulation"])
def test_torch_func_sees_through(operation, layout):
    x_BLE, fused, readable = setting(layout, operation, "l2")
    tangent_BLE = draw("random", *x_BLE.shape, seed=5)
    for f, g in ((fused, readable), (lambda x: fused(x).sin().sum(), lambda x: readable(x).sin().sum())):
        for a, b in zip(jvp(f, (x_BLE,), (tangent_BLE,)), jvp(g, (x_BLE,), (tangent_BLE,)), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(jacrev(f)(x_BLE), jacrev(g)(x_BLE))
        torch.testing.assert_close(jacfwd(f)(x_BLE), jacfwd(g)(x_BLE))
    torch.testing.assert_close(hessian(f)(x_BLE), hessian(g)(x_BLE))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x_BLE.clone().requires_grad_(), tangent_BLE)
        tangents = [
            forward_ad.unpack_dual(torch.autograd.grad(form(dual).sin().sum(), dual)[0]).tangent
            for form in (fused, readable)
        ]
        torch.testing.assert_close(*tangents)
    with torch.no_grad():
        pull = vjp(fused, x_BLE)[1]
        several = torch.stack([tangent_BLE, x_BLE])
        torch.testing.assert_close(vmap(pull)(several)[0][0], vjp(readable, x_BLE)[1](tangent_BLE)[0])


def test_vmap_over_texts_and_per_sample_gradients():
    x_VBLE = draw("random", 3, 2, 7, 4)
    expected = torch.stack([ops_wave.superpose(x) for x in x_VBLE])
    torch.testing.assert_close(vmap(fused_wave.superpose)(x_VBLE), expected)
    per_sample = vmap(grad(lambda x: fused_wave.superpose(x).sin().sum()))(x_VBLE)
    single = grad(lambda x: ops_wave.superpose(x).sin().sum())
    torch.testing.assert_close(per_sample, torch.stack([single(x) for x in x_VBLE]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", ["plain", "mask", "packed"])
@pytest.mark.parametrize("operation", ["interference", "modulation"])
def test_batched_gradients_of_autograd(operation, layout):
    x_BLE, fused, readable = setting(layout, operation, "l2")
    jacobians = [torch.autograd.functional.jacobian(form, x_BLE, vectorize=True) for form in (fused, readable)]
    torch.testing.assert_close(*jacobians)
    assert gradcheck(fused, x_BLE.requires_grad_(), check_batched_grad=True)


@pytest.mark.parametrize("layout", ["plain", "mask", "packed"])
@pytest.mark.parametrize("operation", ["interference", "modulation"])
def test_compiles_into_one_graph_of_any_size(operation, layout):
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
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_autocast_keeps_the_sums_in_float32():
    x_BLE = draw("random", 2, 300, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waves_BLE = fused_wave.superpose(x_BLE.bfloat16())
    assert waves_BLE.dtype == torch.bfloat16
    expected = ops_wave.superpose(x_BLE.bfloat16().double())
    torch.testing.assert_close(waves_BLE.double(), expected, rtol=2**-7, atol=2**-7 * expected.abs().max().item())


# --- In the model -----------------------------------------------------------------------------------------------------


def build(**changes) -> WaveForSequenceClassification:
    torch.manual_seed(0)
    config = {"vocab_size": 50, "hidden_size": 16, "num_labels": 3, "num_hidden_layers": 2, "initializer_range": 0.3}
    return WaveForSequenceClassification(WaveConfig(**config, hidden_dropout_prob=0.0, **changes))


@pytest.mark.parametrize("operation", ["interference", "modulation"])
def test_the_implementations_have_one_checkpoint_and_one_result(operation, tmp_path):
    build(wave_operation=operation, wave_implementation="eager").double().save_pretrained(tmp_path)
    ids = torch.randint(1, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    results = {}
    for implementation in ("eager", "fused", "auto"):
        model = WaveForSequenceClassification.from_pretrained(
            tmp_path, wave_implementation=implementation, dtype=torch.float64
        )
        assert model.config.wave_implementation == implementation
        output = model(ids, mask, labels=torch.tensor([0, 1, 2]))
        output.loss.backward()
        results[implementation] = output.logits, [parameter.grad for parameter in model.parameters()]
    for implementation in ("fused", "auto"):
        torch.testing.assert_close(results[implementation], results["eager"], rtol=1e-10, atol=1e-12)


def test_gradient_checkpointing_changes_nothing():
    ids, results = torch.randint(1, 50, (3, 9)), []
    for reentrant in (None, False, True):
        model = build(wave_implementation="fused").double().train()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(ids, labels=torch.tensor([0, 1, 2])).loss.backward()
        results.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize("implementation", ["auto", "fused"])
def test_where_no_fast_form_can_be_had(implementation, monkeypatch):
    model = build(wave_implementation=implementation)
    ids = torch.randint(1, 50, (3, 9))
    expected = model(ids).logits
    monkeypatch.setattr(modeling_wave, "serves", lambda device: False)
    if implementation == "fused":
        with pytest.raises(ValueError, match=r"`wave_implementation` is 'fused'.*cpu.*triton.*'auto' and 'eager'"):
            model(ids)
        return
    warnings = []
    monkeypatch.setattr(modeling_wave.logger, "warning_once", warnings.append)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-6)
    assert "cpu" in warnings[0]


def test_an_unknown_implementation_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match=r"wave_implementation(.|\n)*auto.*eager.*fused"):
        WaveConfig(wave_implementation="fast")


def test_per_sample_gradients_of_a_whole_model():
    model = build().double().eval()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ids, labels = torch.randint(1, 50, (3, 9)), torch.tensor([0, 1, 2])

    def loss(parameters, ids, label):
        logits = torch.func.functional_call(model, parameters, (ids[None],)).logits
        return torch.nn.functional.cross_entropy(logits, label[None])

    per_sample = vmap(grad(loss), (None, 0, 0))(parameters, ids, labels)
    single = grad(loss)(parameters, ids[1], labels[1])
    for name, gradient in single.items():
        torch.testing.assert_close(per_sample[name][1], gradient)
