"""The parity check that stands before every timing, and the numerical error of c and of its gradient."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from wave_network.benchmarks.cases import Contender, Setting
from wave_network.benchmarks.models import MatrixProducts, autocast, make_inputs
from wave_network.benchmarks.polar import to_polar
from wave_network.benchmarks.texts import Batch
from wave_network.modeling_wave import fused_wave, ops_wave

# Of logits and of a gradient under bfloat16, which has eight bits of mantissa.
BFLOAT16_TOLERANCE = (2e-2, 2e-1)


class ParityError(ValueError):
    """A case computes something else than the reference, or something that is not finite."""


def compute_outputs(
    contender: Contender, model: nn.Module, mode: str, setting: Setting, batch: Batch
) -> dict[str, torch.Tensor]:
    """What a case is judged by, without dropout: its logits, and for training its gradients."""
    if isinstance(model, MatrixProducts):
        return model.compute(mode)
    inputs = make_inputs(contender, batch)
    was_training = model.training
    model.eval()
    # As the steps that are timed: torch.compile makes another graph for another mode.
    with torch.inference_mode(mode == "inference"), autocast(setting, batch.ids.device.type):
        outputs = model(**inputs, **({"labels": batch.labels} if mode == "training" else {}))
    found = {"logits": outputs.logits.detach()}
    if mode == "training":
        outputs.loss.backward()
        found |= {
            # A compiled model has the names of the model inside it.
            f"gradient of {name.removeprefix('_orig_mod.')}": parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        model.zero_grad()
    model.train(was_training)
    return found


def check_parity(
    case: str,
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor] | None,
    tolerance: tuple[float, float] | None,
) -> dict[str, Any]:
    """
    Compares by `max|x - y| / max|y|` of each tensor.

    Args:
        expected: The reference's tensors, of the same names. None: there is no reference, and only numbers that are
            not finite are refused.
        tolerance: The largest difference that is allowed, of what comes out and of a gradient.

    Returns:
        The tolerance, and the worst difference of what comes out and of the gradients; None where there is none.

    Raises:
        ParityError: A difference is larger, or a tensor is missing, of another shape, or not finite.
    """
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise ParityError(f"{case}: {name} is not finite.")
    worst: dict[str, Any] = {"tolerance": tolerance, "outputs": None, "gradients": None}
    if expected is None:
        return worst
    if found.keys() != expected.keys():
        raise ParityError(f"{case}: the reference has {sorted(expected)}, got {sorted(found)}.")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ParityError(
                f"{case}: {name} must have the shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}."
            )
        scale = expected[name].abs().max().item()
        difference = (tensor.double() - expected[name]).abs().max().item()
        difference = difference / scale if scale else difference
        kind = "gradients" if name.startswith("gradient of ") else "outputs"
        allowed = tolerance[kind == "gradients"]
        if not difference <= allowed:
            raise ParityError(f"{case}: {name} differs from the reference by {difference:.1e}, allowed {allowed:.0e}.")
        worst[kind] = max(worst[kind] or 0.0, difference)
    return worst


# --- The numerical error of c -----------------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_inputs_of_c() -> dict[str, torch.Tensor]:
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
    """`sum_{m != j} x_m` of each text, from the left and from the right, so that nothing is ever subtracted."""
    before = torch.zeros_like(x_BLD)
    after = torch.zeros_like(x_BLD)
    before[:, 1:] = x_BLD.cumsum(dim=1)[:, :-1]
    after[:, :-1] = x_BLD.flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return before + after


def reference_context(w_BLD: torch.Tensor, q_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c and its gradient `dL/dw_m = w_m sum_{j != m} q_j / c_j` in float64, sharing no code with ours."""
    w_BLD, q_BLD = w_BLD.double(), q_BLD.double()
    c_BLD = sum_others(w_BLD.square()).sqrt()
    # Where c is 0, all other tokens are, and the term vanishes with them.
    ratio_BLD = (q_BLD / c_BLD.where(c_BLD > 0, 1)).where(c_BLD > 0, 0)
    return c_BLD, w_BLD * sum_others(ratio_BLD)


def subtract_squares(w_BLD: torch.Tensor) -> torch.Tensor:
    """The plain transcription, `sqrt(G^2 - w^2)`."""
    square_BLD = w_BLD.square()
    return (square_BLD.sum(dim=1, keepdim=True) - square_BLD).clamp(min=0).sqrt()


CONTEXTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ours": fused_wave.context_norm,
    "ours, readable": ops_wave.context_norm,
    "polar form": lambda w_BLD: to_polar(w_BLD).imag,
    "sqrt(G^2 - w^2)": subtract_squares,
}


def measure_errors(device: str = "cpu") -> Iterator[dict]:
    """
    For each form and input the largest relative error, elementwise, of c and of its gradient.

    The gradient's is the worst of two upstream gradients, ones and random numbers, each element relative to the sum of
    the absolute values of its terms: a sum of random signs may cancel, and then no arithmetic keeps its digits.
    """
    for name, context in CONTEXTS.items():
        for kind, w_BLD in make_inputs_of_c().items():
            w_BLD = w_BLD.to(device)
            errors, errors_of_gradient, finite = [], [], True
            for q_BLD in (torch.ones_like(w_BLD), draw(*w_BLD.shape, seed=3).to(device)):
                expected_BLD, gradient_BLD = reference_context(w_BLD, q_BLD)
                _, terms_BLD = reference_context(w_BLD.abs(), q_BLD.abs())
                leaf = w_BLD.clone().requires_grad_()
                c_BLD = context(leaf)
                c_BLD.backward(q_BLD)
                finite &= bool(c_BLD.isfinite().all() and leaf.grad.isfinite().all())
                errors.append(compare(c_BLD.detach(), expected_BLD, expected_BLD))
                errors_of_gradient.append(compare(leaf.grad, gradient_BLD, terms_BLD))
            yield {
                "case": name,
                "input": kind,
                "error_of_c": None if None in errors else max(errors),
                "error_of_gradient": None if None in errors_of_gradient else max(errors_of_gradient),
                "finite": finite,
            }


def compare(found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> float | None:
    """The largest `|found - expected| / scale`; None if there is a NaN, or anything but 0 where the scale is 0."""
    if not found.isfinite().all() or found[scale == 0].any():
        return None
    return ((found.double() - expected).abs() / scale.where(scale > 0, 1)).max().item()
