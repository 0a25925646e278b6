"""The study `complexity`: what a training pass of a layer costs, counted and measured, by the length of the text.

A Wave layer is linear in the length n of a text: two maps of O(n D^2), and O(n D) for the waves themselves
(docs/maths.md, section 7). Attention compares each token with each other one, O(n^2 D). Two numbers are counted, and
depend on no machine; the time is measured.

    operations    multiplications and additions of the matrix products, by torch's own counter
    kept          bytes that autograd keeps from the forward pass for the backward pass, weights left out
    time          forward and backward, on a CPU in seconds of the processor, of all threads together

docs/benchmarks.md compares whole models.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from ..files import setting
from ..modeling_wave.modeling_wave import WaveLayer
from .figures import LOOKS, new_figure
from .study import Experiment, Picture, Result, Settings, Study, make_table
from .trainings import make_bert_shape

WAVE, ATTENTION = "Wave, modulation", "Transformer layer"
LAYERS = (WAVE, "Wave, interference", ATTENTION)
MEASURES = {
    "operations": "counted: operations",
    "kept (MiB)": "counted: memory kept for the backward pass (MiB)",
    "time (ms)": "measured: time (ms)",
}
Step = Callable[[], Any]


@dataclass
class ComplexitySettings(Settings):
    """Which sizes to measure."""

    lengths: list[int] = field(
        default_factory=lambda: [64, 128, 256, 512, 1024, 2048], metadata={"help": "Lengths of the text in tokens."}
    )
    hidden_size: int | None = setting("Width of the layers. Default: that of the model. The paper: 768.", None)
    seconds: float = setting("How long each layer is timed, at least.", 1.0)


def measure(experiment: Experiment, settings: ComplexitySettings) -> Result:
    """A row for each layer and length. Details: `hidden_size`."""
    width, table = settings.hidden_size or experiment.model.config.hidden_size, []
    layers = make_layers(experiment, width)
    for length in tqdm(sorted(set(settings.lengths)), unit=" lengths"):
        x_1LD = torch.randn(1, length, width, device=experiment.device, requires_grad=True)
        for name, layer in layers.items():
            step = partial(train, layer, x_1LD)
            row = {"layer": name, "length (tokens)": length, "operations": count_operations(step)}
            row["kept (MiB)"] = count_kept(partial(layer, x_1LD), [x_1LD, *layer.parameters()]) / 2**20
            table.append(row | {"time (ms)": measure_time(step, settings.seconds, experiment.device)})
    return Result(table, {"hidden_size": width})


def make_layers(experiment: Experiment, width: int) -> dict[str, torch.nn.Module]:
    """The layers, with new weights."""
    layers: dict[str, torch.nn.Module] = {ATTENTION: BertLayer(BertConfig(**make_bert_shape(width, layers=1)))}
    for name in LAYERS[:2]:
        config = deepcopy(experiment.model.config)
        config.wave_operation, config.hidden_size = name.removeprefix("Wave, "), width
        layers[name] = WaveLayer(config)
    return {name: layers[name].to(experiment.device) for name in LAYERS}


def train(layer: torch.nn.Module, x_1LD: torch.Tensor) -> None:
    """Forward and backward, to the input too, as in a layer that is not the first; the gradients are dropped."""
    layer(x_1LD).sum().backward()
    layer.zero_grad()
    x_1LD.grad = None


def count_operations(step: Step) -> int:
    """Multiplications and additions of the matrix products of a step, each counted as one."""
    # On a CPU the counter does not know PyTorch's own kernel of attention; the textbook form computes the same.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def count_kept(forward: Step, known: Sequence[torch.Tensor]) -> int:
    """The bytes that autograd keeps for the backward pass: each storage once, those of the known tensors left out."""
    places = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in places:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # holds what was kept, so that no address is given away twice
    del result
    return sum(kept.values())


def measure_time(step: Step, seconds: float, device: torch.device) -> float:
    """The fastest of many runs, in milliseconds: what slows the others is not the step."""
    clock: Any = {"timer": time.process_time} if device.type == "cpu" else {}
    timer = Timer("step()", globals={"step": step}, **clock)
    return 1000 * min(timer.blocked_autorange(min_run_time=seconds).times)


def draw(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    what = f"One layer of width {result.details['hidden_size']:,}, forward and backward, 1 text; {record['device']}"
    figure = new_figure(15, 6, what)
    for axes, (measure, title) in zip(figure.subplots(1, 3), MEASURES.items(), strict=True):
        for name in LAYERS:
            axes.plot(*find_curve(result, name, measure), label=name, **LOOKS[name])
        lengths = find_curve(result, WAVE, measure)[0]
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set(yscale="log", title=title, xlabel="length n of the text (tokens)")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(framealpha=1)
    yield Picture(
        "complexity",
        figure,
        "What one training pass of a layer costs, by the length of the text. All axes are logarithmic, so a power of n "
        "is a straight line: the steeper it is, the more a longer text costs.",
    )


def find_curve(result: Result, layer: str, measure: str) -> tuple[list[int], list[float]]:
    """The lengths, and what a layer costs at each."""
    rows = [row for row in result.table if row["layer"] == layer]
    return [row["length (tokens)"] for row in rows], [row[measure] for row in rows]


def describe(record: dict[str, Any], result: Result) -> str:
    lengths, times = find_curve(result, WAVE, "time (ms)")
    ratios = np.array(find_curve(result, ATTENTION, "time (ms)")[1]) / times
    fitted = [{"layer": layer} | {each: fit(*find_curve(result, layer, each)) for each in MEASURES} for layer in LAYERS]
    return (
        f"A training pass of the Transformer layer of width {result.details['hidden_size']:,} takes "
        f"{ratios[0]:.1f} times the time of the Wave layer (modulation) at {lengths[0]:,} tokens and {ratios[-1]:.1f} "
        f"times at {lengths[-1]:,}. How costs grow with the length n, as the fitted exponent of n (1: in proportion to "
        f"n; 2: with n²):\n\n{make_table(fitted)}"
    )


def fit(lengths: Sequence[float], costs: Sequence[float]) -> float | None:
    """The exponent `b` of `a n^b` by least squares of the logarithms; None for a single length."""
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0]) if len(lengths) > 1 else None


STUDY = Study("What a layer costs", ComplexitySettings, measure, draw, describe, needs_data=False)
