"""The numerical error of the context c and of its gradient in float32, for each way to compute it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from wave_network.modeling_wave import fused_wave, ops_wave

from .polar import to_polar


def subtract_squares(w_BLD: torch.Tensor) -> torch.Tensor:
    """The plain transcription, `sqrt(G^2 - w^2)`."""
    square_BLD = w_BLD.square()
    return (square_BLD.sum(dim=1, keepdim=True) - square_BLD).clamp(min=0).sqrt()


def take_context(w_BLD: torch.Tensor) -> torch.Tensor:
    """c by the fast form: the imaginary part of the sum of a wave and a wave of zeros."""
    variants_BLE = torch.cat([w_BLD, torch.zeros_like(w_BLD)], dim=-1)
    return fused_wave.superpose(variants_BLE, None, "interference")[..., w_BLD.shape[-1] :]


FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ours": take_context,
    "ours, readable": ops_wave.context_norm,
    "polar form": lambda w_BLD: to_polar(w_BLD).imag,
    "sqrt(G^2 - w^2)": subtract_squares,
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_texts() -> dict[str, torch.Tensor]:
    """Texts `w_BLD` in float32, the awkward ones among them."""
    dominated = draw(4, 128, 64, seed=2)
    dominated[:, 5] = 1e4
    two = dominated.clone()
    two[:, 77] = -1e4
    return {
        "random": draw(4, 128, 64),
        "spiky": draw(4, 128, 64, seed=1) ** 5,
        "one dominant (1e4)": dominated,
        "two dominant (1e4)": two,
        "L = 1": draw(4, 1, 64),
        "L = 2": draw(4, 2, 64) * torch.tensor([[1.0], [1e4]]),
        "L = 8192": draw(1, 8192, 64),
        "zeros": torch.zeros(2, 16, 64),
    }


def sum_others(x_BLD: torch.Tensor) -> torch.Tensor:
    """`sum_{m != j} x_m` of each text, from the left and from the right: nothing is subtracted."""
    before, after = torch.zeros_like(x_BLD), torch.zeros_like(x_BLD)
    before[:, 1:] = x_BLD.cumsum(dim=1)[:, :-1]
    after[:, :-1] = x_BLD.flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return before + after


def compute_reference(w_BLD: torch.Tensor, q_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c, and its gradient `dL/dw_m = w_m sum_{j != m} q_j / c_j`, in float64, sharing no code with ours."""
    w_BLD, q_BLD = w_BLD.double(), q_BLD.double()
    c_BLD = sum_others(w_BLD.square()).sqrt()
    # Where c is 0, all other tokens are 0, and so is the term.
    ratio_BLD = (q_BLD / c_BLD.where(c_BLD > 0, 1)).where(c_BLD > 0, 0)
    return c_BLD, w_BLD * sum_others(ratio_BLD)


def measure_errors() -> Iterator[dict[str, Any]]:
    """
    For each form and text the largest relative error of an element of c and of its gradient; None if one is not finite.

    The gradient's is the worst of two upstream gradients, ones and random numbers. It is relative to the sum of the
    absolute values of the terms of an element: where random signs cancel, no float32 arithmetic keeps the digits.
    """
    for form, context in FORMS.items():
        for text, w_BLD in make_texts().items():
            errors, gradient_errors = [], []
            for q_BLD in (torch.ones_like(w_BLD), draw(*w_BLD.shape, seed=3)):
                expected_BLD, gradient_BLD = compute_reference(w_BLD, q_BLD)
                _, terms_BLD = compute_reference(w_BLD.abs(), q_BLD.abs())
                leaf = w_BLD.clone().requires_grad_()
                c_BLD = context(leaf)
                c_BLD.backward(q_BLD)
                errors.append(compare(c_BLD.detach(), expected_BLD, expected_BLD))
                gradient_errors.append(compare(leaf.grad, gradient_BLD, terms_BLD))
            yield {
                "case": form,
                "text": text,
                "error_of_c": None if None in errors else max(errors),
                "error_of_gradient": None if None in gradient_errors else max(gradient_errors),
            }


def compare(found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> float | None:
    """The largest `|found - expected| / scale`; None if there is a NaN, or anything but 0 where the scale is 0."""
    if not found.isfinite().all() or found[scale == 0].any():
        return None
    return ((found.double() - expected).abs() / scale.where(scale > 0, 1)).max().item()
