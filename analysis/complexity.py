"""The study `complexity`: what a layer costs, counted and measured, by the length of the text and by its width.

A Wave layer is linear in the length n of a text: two maps of O(n D^2), and O(n D) for the waves themselves (docs/maths.md,
section 7). Attention compares each token with each other one, O(n^2 D). Two numbers are counted, and depend on no
machine:

    operations    multiplications and additions of the matrix products, by torch's own counter
    kept          bytes that autograd keeps from the forward pass for the backward pass, weights left out

and two are measured: the time of a pass, on a CPU in seconds of the processor, and the peak of what it allocates. The
Transformer layer is BERT's, with the attention of PyTorch (`sdpa`) and with the one of the textbooks (`eager`).

Beside the layers, whole models make a training step: the Wave Network and BERT-base, as in the abstract of the paper.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from ..modeling_wave import WaveForSequenceClassification
from ..modeling_wave.embeddings_wave import WaveTokens
from ..modeling_wave.modeling_wave import WaveLayer
from .figures import LOOKS, PURPLE, new_figure
from .study import Experiment, Picture, Result, Settings, Study, make_table
from .trainings import describe_bert, make_bert_shape

EAGER, WAVE, STOCK = "Transformer layer, eager attention", "Wave, modulation", "Transformer layer"
LAYERS = {name: looks for name, looks in LOOKS.items() if name != "BERT"}
LAYERS[EAGER] = {"color": PURPLE, "marker": "v", "linestyle": ":"}
PASSES = ("inference", "training")
MEASURES = {
    "operations": "counted: operations",
    "kept (MiB)": "counted: memory kept for the backward pass (MiB)",
    "time (ms)": "measured: time (ms)",
    "peak (MiB)": "measured: peak of memory (MiB)",
}
# The paper's abstract (2411.02674): modulation beside BERT-base.
CLAIMS = {"peak (MiB)": 77.34, "time (ms)": 85.62}
LEAST = 0.05  # seconds that a timing lasts at least

Step = Callable[[], object]


@dataclass
class ComplexitySettings(Settings):
    """Which sizes to measure."""

    _argument_group_name = "complexity"

    lengths: list[int] = field(
        default_factory=lambda: [64, 128, 256, 512, 1024, 2048],
        metadata={"help": "Lengths in tokens, at the width of the model."},
    )
    widths: list[int] = field(
        default_factory=lambda: [64, 128, 256, 512, 768],
        metadata={"help": "Widths (hidden_size), at a length of `width_length`."},
    )
    width_length: int = field(default=256, metadata={"help": "Length in tokens at which the width varies."})
    hidden_size: int | None = field(
        default=None,
        metadata={"help": "Width at which the length varies. Default: that of the model. With --paper: 768."},
    )
    rounds: int = field(default=5, metadata={"help": "Rounds in which all layers take turns. With --paper: 20."})
    model_batch_size: int = field(
        default=2, metadata={"help": "Texts in the training step of whole models. With --paper: 64."}
    )
    model_length: int = field(default=128, metadata={"help": "Their length in tokens."})
    model_hidden_size: int = field(
        default=768, metadata={"help": "Width of the whole models; that of BERT-base is 768."}
    )


def measure_complexity(experiment: Experiment, settings: ComplexitySettings) -> Result:
    """
    A row for each layer, pass, length and width. Details: `models`, a row for each whole model and its training step;
    `exponents`, for each layer, pass and measure, `b` in `a n^b` by length, and by width in `by width`; `hidden_size`.
    """
    width = settings.hidden_size or experiment.model.config.hidden_size
    by_length = [(length, width) for length in sorted(set(settings.lengths))]
    by_width = [(settings.width_length, each) for each in sorted(set(settings.widths))]
    table = []
    for length, size in tqdm(sorted({*by_length, *by_width}), unit=" sizes"):
        table += measure_layers(experiment, settings, length, size)
    exponents = []
    for layer in LAYERS:
        for name in PASSES:
            rows = [row for row in table if (row["layer"], row["pass"]) == (layer, name)]
            at_width = [row for row in rows if (row["length (tokens)"], row["width"]) in by_length]
            at_length = [row for row in rows if (row["length (tokens)"], row["width"]) in by_width]
            for measure in MEASURES:
                found = {
                    "by length": fit(at_width, "length (tokens)", measure),
                    "by width": fit(at_length, "width", measure),
                }
                exponents.append({"layer": layer, "pass": name, "measure": measure} | found)
    return Result(table, {"models": measure_models(experiment, settings), "exponents": exponents, "hidden_size": width})


def fit(rows: Sequence[Mapping[str, Any]], by: str, measure: str) -> float | None:
    """The exponent `b` of `a x^b` by least squares of the logarithms; None of fewer than two values above zero."""
    pairs = [(row[by], row[measure]) for row in rows if row[measure]]
    return float(np.polyfit(*np.log(pairs).T, 1)[0]) if len(pairs) > 1 else None


def make_layers(experiment: Experiment, size: int) -> dict[str, torch.nn.Module]:
    """The layers of a width, with new weights."""
    layers: dict[str, torch.nn.Module] = {}
    for name in LAYERS:
        if name.startswith("Wave"):
            config = deepcopy(experiment.model.config)
            config.wave_operation, config.hidden_size = name.removeprefix("Wave, "), size
            layers[name] = WaveLayer(config)
        else:
            attention = {"attn_implementation": "eager" if name == EAGER else "sdpa"}
            layers[name] = BertLayer(BertConfig(**make_bert_shape(size, layers=1), **attention))
    return {name: layer.to(experiment.device) for name, layer in layers.items()}


def run(layer: torch.nn.Module, x_BLD: torch.Tensor) -> torch.Tensor:
    return layer(x_BLD, WaveTokens()) if isinstance(layer, WaveLayer) else layer(x_BLD)


def infer(layer: torch.nn.Module, x_BLD: torch.Tensor) -> None:
    with torch.no_grad():
        run(layer, x_BLD)


def train(layer: torch.nn.Module, x_BLD: torch.Tensor) -> None:
    """Forward and backward, to the input too, as in a layer that is not the first; the gradients are dropped."""
    run(layer, x_BLD.detach().requires_grad_()).sum().backward()
    layer.zero_grad()


def measure_layers(
    experiment: Experiment, settings: ComplexitySettings, length: int, size: int
) -> list[dict[str, Any]]:
    """The rows of one length and width."""
    layers, rows = make_layers(experiment, size), []
    x_BLD = torch.randn(1, length, size, device=experiment.device)
    for name, run_pass in zip(PASSES, (infer, train), strict=True):
        steps = {layer: partial(run_pass, module.train(name == "training"), x_BLD) for layer, module in layers.items()}
        times = measure_times(steps, settings.rounds, experiment.device)
        for layer, step in steps.items():
            rows.append(
                {
                    "layer": layer,
                    "pass": name,
                    "length (tokens)": length,
                    "width": size,
                    # PyTorch's own attention computes the same; on a CPU the counter does not know its kernel.
                    "operations": count_operations(steps[EAGER] if layer == STOCK else step),
                    "kept (MiB)": count_kept(layers[layer], x_BLD) / 2**20 if name == "training" else None,
                    **times[layer],
                    "peak (MiB)": measure_peak(step, experiment.device) / 2**20,
                }
            )
    return rows


def count_operations(step: Step) -> int:
    """Multiplications and additions of the matrix products of a step, each counted as one."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def count_kept(layer: torch.nn.Module, x_BLD: torch.Tensor) -> int:
    """The bytes that autograd keeps for the backward pass: each storage once, parameters and the input left out."""
    x_BLD = x_BLD.detach().requires_grad_()
    known = {each.untyped_storage().data_ptr() for each in (x_BLD, *layer.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run(layer, x_BLD)  # holds what was kept, so that no address is given away twice
    del result
    return sum(kept.values())


def measure_times(steps: Mapping[str, Step], rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """
    Times some steps in rounds, A B C A B C ..., so that what else the machine does meets all of them. On a CPU in
    seconds of the processor, of all threads together, which another process does not lengthen.

    Returns:
        The fastest round of each step, and the median of its rounds, in milliseconds.
    """
    clock = {"timer": time.process_time} if device.type == "cpu" else {}
    timers = {name: Timer("step()", globals={"step": step}, **clock) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(1000 * timer.blocked_autorange(min_run_time=LEAST).median)
    return {name: {"time (ms)": min(each), "median (ms)": float(np.median(each))} for name, each in times.items()}


def measure_peak(step: Step, device: torch.device) -> int:
    """The peak of the bytes that a step allocates through PyTorch, beyond what was allocated before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, int(np.cumsum(sizes).max())) if sizes else 0


def measure_models(experiment: Experiment, settings: ComplexitySettings) -> list[dict[str, Any]]:
    """A training step of each: forward, loss, backward and AdamW, with the optimizer's state in place."""
    config, size = deepcopy(experiment.model.config), settings.model_hidden_size
    config.wave_operation, config.hidden_size = "modulation", size
    tokens = {"vocab_size": config.vocab_size, "max_position_embeddings": max(512, settings.model_length)}
    bert = experiment.load_bert(config.num_labels, **make_bert_shape(size, 12), **tokens)
    models = {WAVE: WaveForSequenceClassification(config).to(experiment.device), "BERT": bert}
    steps = {}
    for name, model in models.items():
        shape = settings.model_batch_size, settings.model_length
        ids_BL = torch.randint(model.config.vocab_size, shape, device=experiment.device)
        inputs = {"input_ids": ids_BL, "labels": torch.zeros_like(ids_BL[:, 0])}
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4)
        steps[name] = partial(train_model, model, optimizer, inputs)
    times = measure_times(steps, settings.rounds, experiment.device)
    rows = []
    for name, model in models.items():
        # Weights and AdamW's two moments are there before the step, its gradients are not: it makes and drops them.
        held = 3 * sum(parameter.nbytes for parameter in model.parameters())
        row = {"model": name, "parameters": model.num_parameters(), "texts": shape[0], "length (tokens)": shape[1]}
        row |= {"operations": count_operations(steps[name]), **times[name]}
        rows.append(row | {"peak (MiB)": (held + measure_peak(steps[name], experiment.device)) / 2**20})
    return rows


def train_model(model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> None:
    model(**inputs).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def draw_complexity(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    width, settings = result.details["hidden_size"], record["settings"]
    figure = new_figure(
        12,
        9,
        f"One layer of width {width:,}, forward and backward, 1 text; {settings['rounds']} rounds; {record['device']}",
    )
    rows = [row for row in result.table if row["width"] == width and row["pass"] == "training"]
    rows = [row for row in rows if row["length (tokens)"] in settings["lengths"]]
    lengths = sorted(set(settings["lengths"]))
    for axes, (measure, title) in zip(figure.subplots(2, 2, sharex=True).flat, MEASURES.items(), strict=True):
        for name, looks in LAYERS.items():
            axes.plot(
                lengths, [row[measure] for row in rows if row["layer"] == name], label=name, markersize=5, **looks
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set(title=title, xlabel="length n of the text (tokens)")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(framealpha=1)
    yield Picture(
        "complexity",
        figure,
        "What one training pass of a layer costs, by the length of the text. Both axes are logarithmic, so a power of n "
        "is a straight line: the steeper it is, the more a longer text costs.",
    )


def describe_complexity(record: dict[str, Any], result: Result) -> str:
    lengths, details = sorted(record["settings"]["lengths"]), result.details
    exponents = {(row["layer"], row["pass"], row["measure"]): row for row in details["exponents"]}
    fitted = [
        {"layer": layer, "pass": name} | {measure: exponents[layer, name, measure]["by length"] for measure in MEASURES}
        for layer in LAYERS
        for name in PASSES
    ]
    times = {
        (row["layer"], row["length (tokens)"]): row["time (ms)"]
        for row in result.table
        if row["width"] == details["hidden_size"] and row["pass"] == "training"
    }
    short, long = (times[STOCK, length] / times[WAVE, length] for length in (lengths[0], lengths[-1]))
    wave, bert = details["models"]
    saved = {measure: 100 * (1 - wave[measure] / bert[measure]) for measure in CLAIMS}
    return "\n\n".join(
        [
            f"In a training pass the Transformer layer takes {short:.1f} times the time of the Wave layer (modulation) at "
            f"{lengths[0]:,} tokens and {long:.1f} times at {lengths[-1]:,}; width {details['hidden_size']:,}. "
            "How costs grow with the length n, as the fitted exponent of n (1: in proportion to n; 2: with n²):",
            make_table(fitted),
            f"A training step of whole models of width {record['settings']['model_hidden_size']:,}, with weights, "
            "gradients and the state of AdamW:",
            make_table(details["models"]),
            f"The Wave Network takes {saved['time (ms)']:.1f} % less time and {saved['peak (MiB)']:.1f} % less memory "
            f"than BERT; the abstract of the paper claims {CLAIMS['time (ms)']} % and {CLAIMS['peak (MiB)']} %. Neither "
            "is a constant: both depend on the batch and the length. "
            + describe_bert(record, record["settings"]["model_hidden_size"]),
        ]
    )


STUDY = Study(
    title="What a layer costs",
    settings=ComplexitySettings,
    measure=measure_complexity,
    draw=draw_complexity,
    describe=describe_complexity,
    paper={"hidden_size": 768, "rounds": 20, "model_batch_size": 64},
    lengths=("model_length",),
    needs_data=False,
)
