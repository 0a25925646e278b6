"""How many bytes a second the fused operation moves, against a plain copy in the same run."""

from collections.abc import Callable

import torch

from wave_network.benchmarks.cases import Setting
from wave_network.benchmarks.timing import choose_calls, time_in_rounds, warm_up
from wave_network.modeling_wave.fused_wave import superpose


def make_steps(setting: Setting, device: str) -> tuple[dict[str, Callable[[int], object]], dict[str, int]]:
    """
    A forward and a backward of `superpose`, and a copy, with the bytes that each has to move.

    Bytes are those that no implementation can save: the forward reads both variants and writes both parts, the backward
    reads the variants and the gradients of both parts and writes those of the variants. What an implementation reads a
    second time counts against it.
    """
    dtype = getattr(torch, setting.dtype)
    shape = (setting.batch, setting.length, 2 * setting.hidden_size)
    variants_BLE = torch.randn(shape, device=device).to(dtype)
    gradient_BLE = torch.randn(shape, device=device).to(dtype)
    target_BLE = torch.empty_like(variants_BLE)
    leaf_BLE = variants_BLE.clone().requires_grad_()
    result_BLE = superpose(leaf_BLE)

    @torch.no_grad()
    def run_forward(_: int) -> object:
        return superpose(variants_BLE)

    def run_backward(_: int) -> object:
        return torch.autograd.grad(result_BLE, leaf_BLE, gradient_BLE, retain_graph=True)

    size = variants_BLE.numel() * variants_BLE.element_size()
    steps = {"copy": lambda _: target_BLE.copy_(variants_BLE), "forward": run_forward, "backward": run_backward}
    return steps, {"copy": 2 * size, "forward": 2 * size, "backward": 3 * size}


def measure_bandwidth(setting: Setting, rounds: int, device: str) -> dict[str, dict]:
    """The milliseconds of each round, and the bytes moved, of "copy", "forward" and "backward"."""
    steps, moved = make_steps(setting, device)
    # On a GPU a call lasts microseconds: many in a row, so that the clock is lost in them.
    count = 50 if device == "cuda" else 1
    repeated = {name: repeat(step, count) for name, step in steps.items()}
    calls = {name: choose_calls(warm_up(step, device)) for name, step in repeated.items()}
    times = time_in_rounds(repeated, calls, dict.fromkeys(steps, 1), rounds, device, "gpu_bandwidth")
    return {
        name: {
            "rounds_ms": [milliseconds / count for milliseconds in times[name]],
            "bytes": moved[name],
            "calls": calls[name] * count,
        }
        for name in steps
    }


def repeat(step: Callable[[int], object], count: int) -> Callable[[int], None]:
    def many(turn: int) -> None:
        for _ in range(count):
            step(turn)

    return many
