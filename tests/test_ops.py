"""The mathematics of ops_wave.py against references that share nothing with it: the paper's polar form in complex
numbers, numbers worked by hand, plain loops in float64, and finite differences. See docs/maths.md."""

import math
from functools import reduce

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian

from wave_network.modeling_wave.ops_wave import (
    OPERATIONS,
    amplitude,
    context_norm,
    lift,
    merge,
    summarise,
    widen,
)

# Odd on purpose, and all different, so that a swapped axis cannot pass.
B, L, D = 3, 63, 5


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ragged_mask(batch: int = B, length: int = L) -> torch.Tensor:
    """Texts of different lengths, padded right, left, and with a hole in the middle."""
    mask_BL = torch.ones(batch, length, dtype=torch.bool)
    mask_BL[0, length // 2 :] = False
    mask_BL[1, : length // 3] = False
    mask_BL[2, 1:3] = False
    return mask_BL


def polar(w_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
    """`Z = G exp(i alpha)` as the paper writes it, as a complex tensor (eq. 1 to 3). Only for ordinary inputs."""
    if mask_BL is not None:
        w_BLD = w_BLD * mask_BL[..., None]
    g_B1D = w_BLD.square().sum(dim=1, keepdim=True).sqrt()
    alpha_BLD = torch.arctan2((1 - (w_BLD / g_B1D) ** 2).sqrt(), w_BLD / g_B1D)
    return g_B1D * torch.exp(1j * alpha_BLD)


def leave_one_out(values: list[float]) -> list[float]:
    """The sum of all values but one, for each of them, by sums from both ends: no subtraction, so no cancellation."""
    before, after = [0.0], [0.0]
    for value in values[:-1]:
        before.append(before[-1] + value)
    for value in reversed(values[1:]):
        after.append(after[-1] + value)
    return [left + right for left, right in zip(before, reversed(after), strict=True)]


def loop_context(w_LD: torch.Tensor, q_LD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`c` and the gradient of `sum q c` of one text, in float64, one column after the other (maths.md, backward)."""
    contexts, gradients = [], []
    for column, upstream in zip(w_LD.double().T.tolist(), q_LD.double().T.tolist(), strict=True):
        context = [math.sqrt(rest) for rest in leave_one_out([value**2 for value in column])]
        pull = leave_one_out([q / c if c > 0 else 0.0 for q, c in zip(upstream, context, strict=True)])
        contexts.append(context)
        gradients.append([value * total for value, total in zip(column, pull, strict=True)])
    return torch.tensor(contexts, dtype=torch.float64).T, torch.tensor(gradients, dtype=torch.float64).T


def both_parts(name: str, mask_BL: torch.Tensor | None = None, magnitude: str = "l2"):
    """The whole map from two real variants to the two parts of their superposition."""
    return lambda w_BLD, w2_BLD: OPERATIONS[name](lift(w_BLD, mask_BL, magnitude), lift(w2_BLD, mask_BL, magnitude))


# --- The forward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["no_mask", "mask"])
def test_lift_is_the_papers_polar_form(masked):
    w_BLD, mask_BL = draw(B, L, D), ragged_mask() if masked else None
    re_BLD, im_BLD = lift(w_BLD, mask_BL)
    expected = polar(w_BLD, mask_BL)
    here = slice(None) if mask_BL is None else mask_BL
    torch.testing.assert_close(re_BLD[here], expected.real[here], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(im_BLD[here], expected.imag[here], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("masked", [False, True], ids=["no_mask", "mask"])
@pytest.mark.parametrize(("name", "complex_form"), [("interference", torch.add), ("modulation", torch.mul)])
def test_operations_are_those_of_complex_numbers(name, complex_form, masked):
    w_BLD, w2_BLD = draw(B, L, D), 3 * draw(B, L, D, seed=1) + 1
    mask_BL = ragged_mask() if masked else None
    re_BLD, im_BLD = both_parts(name, mask_BL)(w_BLD, w2_BLD)
    expected = complex_form(polar(w_BLD, mask_BL), polar(w2_BLD, mask_BL))
    here = slice(None) if mask_BL is None else mask_BL
    torch.testing.assert_close(torch.complex(re_BLD, im_BLD)[here], expected[here], rtol=1e-12, atol=1e-12)


class TestHandWorkedText:
    """A text of three tokens in two dimensions, and padding. Each column is an Euler brick: three whole numbers of
    which each two have a whole norm, so everything here is exact, in float32 too.

        44, 117, 240:  sqrt(117^2 + 240^2) = 267   sqrt(44^2 + 240^2) = 244   sqrt(44^2 + 117^2) = 125
        85, 132, 720:  sqrt(132^2 + 720^2) = 732   sqrt(85^2 + 720^2) = 725   sqrt(85^2 + 132^2) = 157
    """

    w = torch.tensor([[[44.0, 720.0], [117.0, -85.0], [-240.0, 132.0], [9.0, 9.0]]])
    c = torch.tensor([[[267.0, 157.0], [244.0, 732.0], [125.0, 725.0]]])
    w2 = torch.tensor([[[-117.0, 132.0], [240.0, 720.0], [44.0, 85.0], [7.0, 7.0]]])
    c2 = torch.tensor([[[244.0, 725.0], [125.0, 157.0], [267.0, 732.0]]])
    mask = torch.tensor([[True, True, True, False]])

    def test_context(self):
        assert torch.equal(context_norm(self.w, self.mask)[:, :3], self.c)
        assert torch.equal(context_norm(self.w2, self.mask)[:, :3], self.c2)

    def test_context_rms_divides_by_the_two_others(self):
        expected = self.c / torch.tensor(2.0).sqrt()
        assert torch.equal(context_norm(self.w, self.mask, "rms")[:, :3], expected)

    def test_interference(self):
        re, im = both_parts("interference", self.mask)(self.w, self.w2)
        # 44 - 117, 720 + 132; 117 + 240, -85 + 720; -240 + 44, 132 + 85
        assert torch.equal(re[:, :3], torch.tensor([[[-73.0, 852.0], [357.0, 635.0], [-196.0, 217.0]]]))
        # 267 + 244, 157 + 725; 244 + 125, 732 + 157; 125 + 267, 725 + 732
        assert torch.equal(im[:, :3], torch.tensor([[[511.0, 882.0], [369.0, 889.0], [392.0, 1457.0]]]))

    def test_modulation(self):
        re, im = both_parts("modulation", self.mask)(self.w, self.w2)
        expected_re = [
            # w w' - c c'
            [-5148 - 65148, 95040 - 113825],  # 44 * -117 - 267 * 244    720 * 132 - 157 * 725
            [28080 - 30500, -61200 - 114924],  # 117 * 240 - 244 * 125    -85 * 720 - 732 * 157
            [-10560 - 33375, 11220 - 530700],  # -240 * 44 - 125 * 267    132 * 85 - 725 * 732
        ]
        expected_im = [
            # w c' + w' c
            [10736 - 31239, 522000 + 20724],  # 44 * 244 - 117 * 267     720 * 725 + 132 * 157
            [14625 + 58560, -13345 + 527040],  # 117 * 125 + 240 * 244    -85 * 157 + 720 * 732
            [-64080 + 5500, 96624 + 61625],  # -240 * 267 + 44 * 125    132 * 732 + 85 * 725
        ]
        assert torch.equal(re[0, :3], torch.tensor(expected_re, dtype=torch.float32))
        assert torch.equal(im[0, :3], torch.tensor(expected_im, dtype=torch.float32))

    def test_gradient(self):
        # The first token's context pulls on the two others, by w_m / c_1, and not on itself.
        w = self.w.clone().requires_grad_()
        context_norm(w, self.mask)[0, 0].sum().backward()
        expected = [[0, 0], [117 / 267, -85 / 157], [-240 / 267, 132 / 157], [0, 0]]
        torch.testing.assert_close(w.grad[0], torch.tensor(expected), rtol=2e-7, atol=0)


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_permuting_the_tokens_permutes_the_waves(name, magnitude):
    w_BLD, w2_BLD, mask_BL = draw(B, L, D), draw(B, L, D, seed=1), ragged_mask()
    order = torch.randperm(L, generator=torch.Generator().manual_seed(2))
    straight = both_parts(name, mask_BL, magnitude)(w_BLD, w2_BLD)
    permuted = both_parts(name, mask_BL[:, order], magnitude)(w_BLD[:, order], w2_BLD[:, order])
    for part, expected in zip(permuted, straight, strict=True):
        torch.testing.assert_close(part, expected[:, order], rtol=1e-13, atol=1e-13)


def test_rms_is_the_norm_over_the_root_of_the_other_tokens():
    w_BLD, mask_BL = draw(B, L, D), ragged_mask()
    others_B11 = torch.tensor([L // 2 - 1, L - L // 3 - 1, L - 3]).view(B, 1, 1)
    expected = context_norm(w_BLD, mask_BL) / others_B11.sqrt()
    torch.testing.assert_close(context_norm(w_BLD, mask_BL, "rms"), expected, rtol=1e-7, atol=0)
    ones = torch.ones(1, L, 1)
    torch.testing.assert_close(context_norm(ones, magnitude="rms"), ones, rtol=2e-7, atol=0)


def test_modulation_has_the_same_amplitude_at_every_token():
    w_BLD, w2_BLD = draw(B, L, D), draw(B, L, D, seed=1) - 2
    expected = w_BLD.norm(dim=1, keepdim=True) * w2_BLD.norm(dim=1, keepdim=True)
    actual = amplitude(both_parts("modulation")(w_BLD, w2_BLD))
    torch.testing.assert_close(actual, expected.expand(B, L, D), rtol=1e-13, atol=0)


def test_energy_shares_sum_to_one():
    mask_BL = ragged_mask()
    re_BLD, im_BLD = lift(draw(B, L, D), mask_BL)
    share_BLD = (re_BLD**2 / (re_BLD**2 + im_BLD**2)).masked_fill(~mask_BL[..., None], 0)
    torch.testing.assert_close(share_BLD.sum(dim=1), torch.ones(B, D, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_square_of_the_amplitude_overflows_or_vanishes(dtype: torch.dtype):
    finite = torch.finfo(dtype)
    sizes = torch.tensor([finite.tiny, finite.max / 2, finite.smallest_normal**0.5, finite.max**0.5, 1, 0], dtype=dtype)
    parts = torch.cartesian_prod(sizes, -sizes).T.clone().requires_grad_()
    length = amplitude((parts[0], parts[1]))
    expected = torch.hypot(*parts.detach().double())
    # Four and six roundings of half a unit; in half precision only the last of them.
    of_length, of_gradient = (2, 3) if dtype in (torch.float64, torch.float32) else (0.51, 0.51)
    torch.testing.assert_close(length.double(), expected, rtol=of_length * finite.eps, atol=0)
    length.backward(torch.ones_like(length))
    # A subnormal share of 1 is zero to some processors.
    direction = (parts.detach().double() / expected).nan_to_num(0)
    torch.testing.assert_close(parts.grad.double(), direction, rtol=of_gradient * finite.eps, atol=finite.tiny)


# --- The backward ----------------------------------------------------------------------------------------------------


def with_ties() -> torch.Tensor:
    """Columns in which two, or all, tokens are the largest."""
    w_BLD = draw(3, 4, 2)
    w_BLD[:, 1] = -w_BLD[:, 3]
    w_BLD[0, :, 0] = 0.7
    return w_BLD


def with_zeros() -> torch.Tensor:
    """Columns in which some tokens are zero; two are not, or `c`, a norm, would have no derivative."""
    w_BLD = draw(3, 4, 2)
    w_BLD[:, :2, 0] = 0
    w_BLD[:, 2:, 1] = 0
    return w_BLD


GRADIENT_CASES = {
    "plain": (draw(3, 4, 2), None),
    "masked": (draw(3, 4, 2), ragged_mask(3, 4)),
    "one_token": (draw(3, 1, 2), None),
    "one_token_and_padding": (draw(3, 4, 2), torch.tensor([[True, False, False, False]] * 3)),
    "two_tokens": (draw(3, 2, 2), None),
    "ties": (with_ties(), None),
    "zeros": (with_zeros(), None),
    "all_padding": (draw(3, 4, 2), torch.zeros(3, 4, dtype=torch.bool)),
}


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("case", GRADIENT_CASES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_first_and_second_derivatives_are_those_of_finite_differences(name, case, magnitude):
    w_BLD, mask_BL = GRADIENT_CASES[case]
    inputs = (w_BLD.clone().requires_grad_(), (w_BLD.flip(0) * 0.6).requires_grad_())
    waves = both_parts(name, mask_BL, magnitude)
    assert gradcheck(waves, inputs)
    assert gradgradcheck(waves, inputs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_dimensions_do_not_mix(name):
    w_BLD, w2_BLD = draw(1, 4, 3), draw(1, 4, 3, seed=1)
    other_dimension = ~torch.eye(3, dtype=torch.bool)
    for part in jacobian(both_parts(name), (w_BLD, w2_BLD)):
        for jacobian_BJDBMD in part:
            blocks = jacobian_BJDBMD[0, :, :, 0].permute(0, 2, 1, 3)  # (token, token, dimension, dimension)
            assert torch.equal(blocks[..., other_dimension], torch.zeros(4, 4, 6, dtype=torch.float64))
            assert (blocks[..., ~other_dimension] != 0).any(dim=(0, 1)).all()


def spiky() -> torch.Tensor:
    """Heavy tails: a fifth power spreads the tokens over many orders of magnitude."""
    return draw(L, D) ** 5


def dominated(tokens: int) -> torch.Tensor:
    """One or two tokens ten thousand times as large as the others, at different places in each column."""
    w_LD = draw(L, D)
    for token in range(tokens):
        w_LD[(7 * torch.arange(D) + 20 * token) % L, torch.arange(D)] = (
            1e4 * (1 - 2 * token) + 0.3 * torch.arange(D).double()
        )
    return w_LD


def lonely() -> torch.Tensor:
    """In each column one token that is not zero."""
    return torch.eye(L, D, dtype=torch.float64) * 3


NUMERIC_CASES = {
    "random": draw(L, D),
    "spiky": spiky(),
    "one_dominant": dominated(1),
    "two_dominant": dominated(2),
    "lonely": lonely(),
    "equal": torch.full((L, D), 0.3, dtype=torch.float64),
    "one_token": draw(1, D),
    "two_tokens": draw(2, D) * torch.tensor([[1.0], [1e4]]),
    "long": draw(8192, D),
    "long_dominated": torch.cat([draw(8191, D), torch.full((1, D), 1e4)]),
    "zeros": torch.zeros(L, D, dtype=torch.float64),
}


def worst_errors(w_LD: torch.Tensor, dtype: torch.dtype, upstream: str) -> tuple[float, float]:
    """The relative errors of `c` (elementwise) and of its gradient (over the largest of its column) in `dtype`."""
    w_LD = w_LD.to(dtype)
    q_LD = draw(*w_LD.shape, seed=3, dtype=dtype) if upstream == "random" else torch.ones_like(w_LD)
    expected_c_LD, expected_gradient_LD = loop_context(w_LD, q_LD)

    leaf = w_LD[None].clone().requires_grad_()
    c_LD = context_norm(leaf)[0]
    c_LD.backward(q_LD)
    gradient_LD = leaf.grad[0]
    assert c_LD.dtype == gradient_LD.dtype == dtype
    assert c_LD.isfinite().all()
    assert gradient_LD.isfinite().all()
    # Where the exact number is zero, nothing but zero will do.
    assert (c_LD[expected_c_LD == 0] == 0).all()
    scale_LD = expected_gradient_LD.abs().amax(dim=0).expand_as(gradient_LD)
    assert (gradient_LD[scale_LD == 0] == 0).all()

    error_c = (c_LD.double() - expected_c_LD).abs() / expected_c_LD.where(expected_c_LD > 0, 1)
    error_gradient = (gradient_LD.double() - expected_gradient_LD).abs() / scale_LD.where(scale_LD > 0, 1)
    return error_c.max().item(), error_gradient.max().item()


@pytest.mark.parametrize("upstream", ["random", "ones"])
@pytest.mark.parametrize("case", NUMERIC_CASES)
def test_float32_is_exact_where_a_plain_transcription_fails(case, upstream):
    error_c, error_gradient = worst_errors(NUMERIC_CASES[case], torch.float32, upstream)
    assert error_c <= 5e-7
    assert error_gradient <= 1e-6


def test_these_cases_break_the_plain_transcription():
    """The bound above is worth its name: `sqrt(G^2 - w^2)` misses it by orders of magnitude."""
    w_LD = NUMERIC_CASES["one_dominant"].float()
    expected_LD, _ = loop_context(w_LD, torch.ones_like(w_LD))
    square_LD = w_LD.square()
    naive_LD = (square_LD.sum(dim=0) - square_LD).clamp(min=0).sqrt()
    assert ((naive_LD - expected_LD).abs() / expected_LD).max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", NUMERIC_CASES)
def test_half_precision_rounds_once(case, dtype):
    """The sums run in float32, so what half precision costs is one rounding of the result."""
    w_LD = NUMERIC_CASES[case].clamp(-1e4, 1e4)  # float16 ends at 65504
    if dtype == torch.float16:
        w_LD = w_LD.where(w_LD.abs() > 1e-2, 0)  # and rounds to a fixed step below 6e-5
    rounding = torch.finfo(dtype).eps / 2
    error_c, error_gradient = worst_errors(w_LD, dtype, "ones")
    assert error_c <= rounding + 5e-7
    assert error_gradient <= rounding + 1e-6


@pytest.mark.parametrize("scale", [1e-18, 1e17])
def test_tiny_and_huge_tokens_stay_exact(scale):
    """Squares of 1e-19 and of 1e18 are still normal numbers of float32, with room for a text of tokens."""
    w_LD = draw(L, D)
    w_LD = (w_LD.sign() * (w_LD.abs() + 0.1)) * scale
    error_c, error_gradient = worst_errors(w_LD, torch.float32, "random")
    assert error_c <= 5e-7
    assert error_gradient <= 1e-6


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_of_the_operations_follow_the_closed_form(name):
    """dloss/dw_m = p_m + w_m sum_{j != m} q_j / c_j, with p and q the gradients that reach re and im (maths.md)."""
    w_BLD, w2_BLD = draw(1, L, D).requires_grad_(), draw(1, L, D, seed=1).mul(2).add(1).requires_grad_()
    up_re, up_im = draw(1, L, D, seed=4), draw(1, L, D, seed=5)
    re, im = both_parts(name)(w_BLD, w2_BLD)
    (re * up_re + im * up_im).sum().backward()

    w, w2 = w_BLD.detach(), w2_BLD.detach()
    c, c2 = (loop_context(x[0], x[0])[0][None] for x in (w, w2))
    if name == "interference":
        p, q, p2, q2 = up_re, up_im, up_re, up_im
    else:  # re = w w' - c c' and im = w c' + w' c
        p, q = up_re * w2 + up_im * c2, up_im * w2 - up_re * c2
        p2, q2 = up_re * w + up_im * c, up_im * w - up_re * c
    expected = p + loop_context(w[0], q[0])[1]
    expected2 = p2 + loop_context(w2[0], q2[0])[1]
    torch.testing.assert_close(w_BLD.grad, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(w2_BLD.grad, expected2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (2, 7, 3)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_zeros_give_zeros_and_no_nan(name, shape, dtype):
    w, w2 = torch.zeros(2, *shape, dtype=dtype).requires_grad_().unbind(0)
    w.retain_grad(), w2.retain_grad()
    wave = both_parts(name)(w, w2)
    (wave[0].sum() + wave[1].sum() + amplitude(wave).sum()).backward()
    assert all((part == 0).all() for part in wave)
    # The real part passes its own gradient under interference; everything else is zero.
    assert (w.grad == (1 if name == "interference" else 0)).all()
    assert torch.equal(w.grad, w2.grad)


# --- Padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [7.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_padding_enters_nothing_whatever_it_holds(name, magnitude, junk):
    mask_BL = ragged_mask()
    w_BLD, w2_BLD = draw(B, L, D), draw(B, L, D, seed=1)
    weight_BLD = draw(B, L, D, seed=2)

    def run(fill: float):
        leaves = [x.masked_fill(~mask_BL[..., None], fill).requires_grad_() for x in (w_BLD, w2_BLD)]
        re, im = both_parts(name, mask_BL, magnitude)(*leaves)
        loss = ((re + 2 * im) * weight_BLD)[mask_BL].sum()
        loss.backward()
        return [re[mask_BL], im[mask_BL], *(leaf.grad for leaf in leaves)]

    clean, dirty = run(0.0), run(junk)
    for expected, actual in zip(clean, dirty, strict=True):
        assert torch.equal(actual, expected)
    for gradient in dirty[2:]:
        assert (gradient[~mask_BL] == 0).all()
        assert (gradient[mask_BL] != 0).all()


def test_a_text_in_a_padded_batch_is_the_text_alone():
    w_BLD, mask_BL = draw(B, L, D), ragged_mask()
    c_BLD = context_norm(w_BLD, mask_BL)
    for row in range(B):
        alone = context_norm(w_BLD[row, mask_BL[row]][None])[0]
        torch.testing.assert_close(c_BLD[row, mask_BL[row]], alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
def test_a_text_of_padding_alone_is_zero_with_gradient_zero(magnitude):
    w_BLD = draw(2, L, D, dtype=torch.float32).requires_grad_()
    mask_BL = torch.tensor([[False], [True]]).expand(2, L)
    c_BLD = context_norm(w_BLD, mask_BL, magnitude)
    c_BLD.sum().backward()
    assert (c_BLD[0] == 0).all()
    assert (w_BLD.grad[0] == 0).all()
    assert (c_BLD[1] > 0).all()
    assert (w_BLD.grad[1] != 0).all()


# --- Chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("case", ["random", "one_dominant", "two_dominant", "lonely", "equal", "zeros"])
def test_the_summaries_of_chunks_make_the_context_of_the_whole_text(case, magnitude):
    w_BLD, mask_BL = torch.stack([NUMERIC_CASES[case]] * B), ragged_mask()
    whole = context_norm(w_BLD, mask_BL, magnitude)
    for size in (1, 10, L):
        chunks = [(start, slice(start, start + size)) for start in range(0, L, size)]
        parts = [
            summarise(widen(w_BLD[:, part], mask_BL[:, part]).square(), mask_BL[:, part]).move(start)
            for start, part in chunks
        ]
        summary = reduce(merge, parts)
        for start, part in chunks:
            c_BLD = context_norm(w_BLD[:, part], mask_BL[:, part], magnitude, summary=summary.move(-start))
            torch.testing.assert_close(c_BLD, whole[:, part], rtol=1e-14, atol=0)
