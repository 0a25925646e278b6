"""The study `complexity`: what a layer costs, counted and measured, by the length of the text and by its width.

A Wave layer is linear in the length n of a text: two maps of O(n D^2), and O(n D) for the waves themselves
(docs/maths.md, section 7). Attention compares each token with each other one, O(n^2 D). Two numbers are counted, and
depend on no machine:

    operations    multiplications and additions of the matrix products, by torch's own counter
    kept          bytes that autograd keeps from the forward pass for the backward pass, weights left out

and two are measured: the time of a pass, on a CPU that of the processor, and the peak of what it allocates. A
Transformer layer stands there twice. The stock one leaves attention to PyTorch, which has kernels that never hold the
n x n weights; the eager one is that of the textbooks.

Beside the layers, whole models make a training step: the Wave Network and BERT-base, as in the abstract of the paper.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from ..modeling_wave import WaveForSequenceClassification
from ..modeling_wave.modeling_wave import WaveLayer
from .contenders import find_bert_shape, tell_bert
from .figures import LOOKS, PURPLE, new_figure
from .study import Experiment, Picture, Result, Study, make_table, place

EAGER = "Transformer layer, eager attention"
LAYERS = {name: looks for name, looks in LOOKS.items() if name != "BERT"} | {EAGER: (PURPLE, "v", ":")}
WAVE, STOCK = "Wave, modulation", "Transformer layer"
PASSES = ("inference", "training")
MEASURES = ("operations", "kept (MiB)", "time (ms)", "peak (MiB)")
# The paper's abstract (2411.02674): modulation beside BERT-base.
CLAIMS = {"peak (MiB)": 77.34, "time (ms)": 85.62}
# Short passes are repeated within a round until they fill this time, in seconds, and the fastest of them counts.
LEAST = 0.05


@dataclass
class ComplexitySettings:
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


@dataclass(frozen=True)
class ComplexityResult(Result):
    """
    What `complexity` found; a row of the table for each layer, pass, length and width.

    Attributes:
        models: A row for each whole model and its training step.
        exponents: For each layer, pass and measure, `b` in `a n^b` by length and by width, fitted to the table, and by
            length over its longer half alone.
        crossings: For each Transformer layer and pass, in tokens: `counted`, from where on its products that grow with
            n^2, `4 n^2 D`, are more than those that grow with n, `24 n D^2`; `fitted`, the same place of its measured
            time; `Wave layer faster`, from where on modulation takes less time, for good. None: there is no such place.
        hidden_size: The width at which the length varies.
    """

    models: list[dict[str, Any]]
    exponents: list[dict[str, Any]]
    crossings: list[dict[str, Any]]
    hidden_size: int


def measure_complexity(experiment: Experiment, settings: ComplexitySettings) -> ComplexityResult:
    width = settings.hidden_size or experiment.model.config.hidden_size
    by_length = [(length, width) for length in sorted(set(settings.lengths))]
    by_width = [(settings.width_length, each) for each in sorted(set(settings.widths))]
    found = {}
    for length, size in experiment.progress(sorted({*by_length, *by_width}), "sizes"):
        compute = partial(measure_layers, experiment, settings, length, size)
        found[length, size] = experiment.part(f"length-{length}-width-{size}", compute)
    table = [row for rows in found.values() for row in rows]
    names = [
        {"layer": layer, "pass": name, "measure": measure}
        for layer in LAYERS
        for name in PASSES
        for measure in MEASURES
    ]
    return ComplexityResult(
        table=table,
        models=experiment.part("models", partial(measure_models, experiment, settings)),
        exponents=[
            case
            | {
                "by length": fit(choose(table, case, by_length), "length (tokens)", case["measure"]),
                "by length, longer half": fit(
                    choose(table, case, by_length[len(by_length) // 2 :]), "length (tokens)", case["measure"]
                ),
                "by width": fit(choose(table, case, by_width), "width", case["measure"]),
            }
            for case in names
        ],
        crossings=[
            {
                "layer": layer,
                "pass": name,
                "counted": 6.0 * width,
                "fitted": fit_crossing(choose(table, {"layer": layer, "pass": name}, by_length)),
                "Wave layer faster": find_crossing(
                    *(choose(table, {"layer": each, "pass": name}, by_length) for each in (WAVE, layer))
                ),
            }
            for layer in (STOCK, EAGER)
            for name in PASSES
        ],
        hidden_size=width,
    )


def choose(
    table: Sequence[Mapping[str, Any]], case: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
) -> list[Mapping[str, Any]]:
    """The rows of a layer and a pass at these lengths and widths."""
    return [
        row
        for row in table
        if row["layer"] == case["layer"]
        and row["pass"] == case["pass"]
        and (row["length (tokens)"], row["width"]) in sizes
    ]


def fit(rows: Sequence[Mapping[str, Any]], by: str, measure: str) -> float | None:
    """The exponent `b` of `a x^b` by least squares of the logarithms; None of fewer than two values above zero."""
    pairs = [(math.log(row[by]), math.log(row[measure])) for row in rows if row[measure]]
    if len(pairs) < 2:
        return None
    places, values = np.array(pairs).T
    return float(np.polyfit(places, values, 1)[0])


def fit_crossing(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """
    The length `a / b` at which both parts of the time `a n + b n^2` are the same, fitted to its relative errors; None
    of fewer than two lengths, or if one of the parts is not there.
    """
    if len(rows) < 2:
        return None
    lengths, times = (np.array([row[name] for row in rows], dtype=float) for name in ("length (tokens)", "time (ms)"))
    shares = np.stack([lengths / times, lengths**2 / times], axis=1)
    linear, quadratic = np.linalg.lstsq(shares, np.ones_like(times), rcond=None)[0]
    return float(linear / quadratic) if min(linear, quadratic) > 0 else None


def find_crossing(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> float | None:
    """
    From which length on the first layer takes less time than the second for good, straight between two lengths on
    logarithmic axes; the shortest length if it always does, None if it does not at the longest one.
    """
    places = [math.log(row["length (tokens)"]) for row in first]
    leads = [math.log(other["time (ms)"] / own["time (ms)"]) for own, other in zip(first, second, strict=True)]
    if not leads or leads[-1] <= 0:
        return None
    behind = [place for place, lead in enumerate(leads) if lead <= 0]
    if not behind:
        return float(first[0]["length (tokens)"])
    last = behind[-1]
    share = -leads[last] / (leads[last + 1] - leads[last])
    return math.exp(places[last] + share * (places[last + 1] - places[last]))


# Layers.


def make_layers(experiment: Experiment, size: int) -> dict[str, nn.Module]:
    """The layers of a width, with new weights."""
    layers: dict[str, nn.Module] = {}
    for name in LAYERS:
        if name.startswith("Wave"):
            config: Any = deepcopy(experiment.model.config)
            config.wave_operation, config.hidden_size = name.removeprefix("Wave, "), size
            layers[name] = WaveLayer(config)
        else:
            layers[name] = make_bert_layer(size, "eager" if name == EAGER else "sdpa")
        layers[name].to(experiment.device)
    return layers


def make_bert_layer(size: int, attention: str) -> nn.Module:
    # How attention is computed is no field of the config, but one of its keywords.
    settings = find_bert_shape(size, layers=1) | {"attn_implementation": attention}
    return BertLayer(BertConfig(**settings))


def measure_layers(
    experiment: Experiment, settings: ComplexitySettings, length: int, size: int
) -> list[dict[str, Any]]:
    """The rows of one length and width."""
    layers = make_layers(experiment, size)
    x_BLD = torch.randn(1, length, size, device=experiment.device)
    rows = []
    for name in PASSES:
        for module in layers.values():
            module.train(name == "training")
        steps = {layer: partial(make_pass(name), module, x_BLD) for layer, module in layers.items()}
        times = take_turns(steps, settings.rounds, experiment.device)
        for layer, step in steps.items():
            rows.append(
                {
                    "layer": layer,
                    "pass": name,
                    "length (tokens)": length,
                    "width": size,
                    # PyTorch's own attention computes the same; on a CPU its kernel is not known to the counter.
                    "operations": count_operations(steps[EAGER] if layer == STOCK else step),
                    "kept (MiB)": count_kept(layers[layer], x_BLD) / 2**20 if name == "training" else None,
                    **times[layer],
                    "times that of modulation": times[layer]["time (ms)"] / times[WAVE]["time (ms)"],
                    "peak (MiB)": measure_peak(step, experiment.device) / 2**20,
                }
            )
    return rows


def make_pass(name: str) -> Callable[[nn.Module, torch.Tensor], object]:
    return {"inference": infer, "training": go_there_and_back}[name]


def infer(layer: nn.Module, x_BLD: torch.Tensor) -> object:
    with torch.no_grad():
        return layer(x_BLD)


def go_there_and_back(layer: nn.Module, x_BLD: torch.Tensor) -> None:
    """Forward and backward, to the input too, as in a layer that is not the first; the gradients are dropped."""
    x_BLD = x_BLD.detach().requires_grad_()
    get_states(layer(x_BLD)).sum().backward()
    layer.zero_grad()


def get_states(output: Any) -> torch.Tensor:
    """BERT's layers return a tuple in some versions of transformers."""
    return output[0] if isinstance(output, tuple) else output


def count_operations(step: Callable[[], object]) -> int:
    """Multiplications and additions of the matrix products of a step, each counted as one."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def count_kept(layer: nn.Module, x_BLD: torch.Tensor) -> int:
    """The bytes that autograd keeps for the backward pass: each storage once, parameters and the input left out."""
    x_BLD = x_BLD.detach().requires_grad_()
    known = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    known.add(x_BLD.untyped_storage().data_ptr())
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The result holds what was kept: no address is given away twice.
        result = layer(x_BLD)
    del result
    return sum(kept.values())


def take_turns(
    steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """
    Times some steps in rounds, A B C A B C ..., so that what else the machine does meets all of them.

    Returns:
        Of each, its fastest round, the median and the quantile of 80 %, in milliseconds: what slows a round is not the
        step, so on the fastest two hours of a machine agree.
    """
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            calls = [clock(step, device)]
            while sum(calls) < LEAST:
                calls.append(clock(step, device))
            times[name].append(1000 * min(calls))
    return {
        name: {
            "time (ms)": min(of_rounds),
            "median (ms)": statistics.median(of_rounds),
            "80 % quantile (ms)": float(np.quantile(of_rounds, 0.8)),
        }
        for name, of_rounds in times.items()
    }


def clock(step: Callable[[], object], device: torch.device) -> float:
    """
    Seconds for one call. On a CPU those of the processor, of all threads together, which another process on the machine
    does not lengthen; on a GPU those of the clock on the wall.
    """
    read = time.process_time if device.type == "cpu" else time.perf_counter
    synchronise(device)
    start = read()
    step()
    synchronise(device)
    return read() - start


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peak(step: Callable[[], object], device: torch.device) -> int:
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
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


# Whole models.


def measure_models(experiment: Experiment, settings: ComplexitySettings) -> list[dict[str, Any]]:
    """A training step of each: forward, loss, backward and AdamW, with the optimizer's state in place."""
    wave: Any = deepcopy(experiment.model.config)
    wave.wave_operation, wave.hidden_size, wave.folded = "modulation", settings.model_hidden_size, False
    shape = find_bert_shape(settings.model_hidden_size, layers=12) | {
        "vocab_size": wave.vocab_size,
        "max_position_embeddings": max(512, settings.model_length),
    }
    shape_of_batch = settings.model_batch_size, settings.model_length
    ids_BL = torch.randint(wave.vocab_size, shape_of_batch, device=experiment.device)
    models = {
        WAVE: place(WaveForSequenceClassification(wave), experiment.device),
        "BERT": experiment.load_bert(wave.num_labels, **shape),
    }
    steps = {}
    for name, model in models.items():
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4)
        labels_B = torch.zeros(len(ids_BL), dtype=torch.long, device=experiment.device)
        inputs = {"input_ids": ids_BL % model.config.vocab_size, "labels": labels_B}
        steps[name] = partial(train_once, model, optimizer, inputs)
    times = take_turns(steps, settings.rounds, experiment.device)
    rows = []
    for name, model in models.items():
        total = model.num_parameters()
        # Weights and AdamW's two moments are there before the step, its gradients are not: it makes and drops them.
        held = 3 * sum(parameter.nbytes for parameter in model.parameters())
        rows.append(
            {
                "model": name,
                "parameters": total,
                "parameters without the word table": total - model.get_input_embeddings().weight.numel(),
                "texts": settings.model_batch_size,
                "length (tokens)": settings.model_length,
                "operations": count_operations(steps[name]),
                **times[name],
                "peak (MiB)": (held + measure_peak(steps[name], experiment.device)) / 2**20,
            }
        )
    return rows


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> None:
    model(**inputs).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


# What is drawn and told.


def draw_complexity(record: dict[str, Any], result: ComplexityResult) -> Iterator[Picture]:
    by_length = [row for row in result.table if row["width"] == result.hidden_size]
    by_length = [row for row in by_length if row["length (tokens)"] in record["settings"]["lengths"]]
    yield Picture(
        "complexity",
        draw_measures(record, by_length, "length (tokens)", f"width {result.hidden_size:,}"),
        "A training pass of one layer by the length of the text: counted above, measured below. On these axes a power "
        "is a straight line. Time: the fastest round, and a band up to the 80 % quantile of the rounds.",
    )
    length = record["settings"]["width_length"]
    by_width = [row for row in result.table if row["length (tokens)"] == length]
    by_width = [row for row in by_width if row["width"] in record["settings"]["widths"]]
    yield Picture(
        "complexity_width",
        draw_measures(record, by_width, "width", f"{length:,} tokens"),
        "The same by the width of the layer.",
    )


def draw_measures(record: dict[str, Any], rows: list[dict[str, Any]], by: str, fixed: str) -> Any:
    from matplotlib.ticker import NullFormatter, NullLocator

    figure = new_figure(9.5, 7)
    panels = dict(zip(MEASURES, figure.subplots(2, 2, sharex=True).flat, strict=True))
    titles = ("counted: operations", "counted: kept for the backward pass", "measured: time", "measured: peak memory")
    for (measure, axes), title in zip(panels.items(), titles, strict=True):
        for name, (colour, marker, dashes) in LAYERS.items():
            of_layer = [row for row in rows if row["layer"] == name and row["pass"] == "training"]
            places = [row[by] for row in of_layer]
            looks = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "linewidth": 1.4}
            axes.plot(places, [row[measure] for row in of_layer], label=name, **looks)
            if measure == "time (ms)":
                bounds = [[row[column] for row in of_layer] for column in (measure, "80 % quantile (ms)")]
                axes.fill_between(places, *bounds, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_ylabel(
            {"operations": "operations", "kept (MiB)": "MiB", "time (ms)": "ms", "peak (MiB)": "MiB"}[measure]
        )
        axes.grid(alpha=0.3)
    places = sorted({row[by] for row in rows})
    for axes in panels.values():
        axes.set_xticks(places, [f"{place:,}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    for measure in ("time (ms)", "peak (MiB)"):
        panels[measure].set_xlabel("length n (tokens)" if by.startswith("length") else "width D (dimensions)")
    panels["operations"].legend(fontsize=8, framealpha=1)
    figure.suptitle(
        f"One layer, forward and backward, 1 text, {fixed}; n = {record['settings']['rounds']} rounds; "
        f"{record['device']}",
        parse_math=False,
        fontsize=10,
    )
    return figure


def describe_complexity(record: dict[str, Any], result: ComplexityResult) -> str:
    lengths = record["settings"]["lengths"]
    exponents = {(row["layer"], row["pass"], row["measure"]): row for row in result.exponents}
    table = []
    for layer in LAYERS:
        for name in PASSES:
            fitted = {measure: exponents[layer, name, measure] for measure in MEASURES}
            told = {
                measure: f"{tell(row['by length'])}, {tell(row['by length, longer half'])}"
                for measure, row in fitted.items()
            }
            table.append({"layer": layer, "pass": name} | told)
    by_width = [
        f"{layer} {tell(exponents[layer, 'training', 'operations']['by width'])} counted and "
        f"{tell(exponents[layer, 'training', 'time (ms)']['by width'])} in time"
        for layer in (WAVE, STOCK)
    ]
    paragraphs = [
        f"A layer of width {result.hidden_size:,}, by lengths from {min(lengths):,} to {max(lengths):,} tokens. Fitted "
        "exponents of n, over all lengths and, after the comma, over their longer half:",
        make_table(table),
        f"1 is O(n), 2 is O(n²). Exponents of the width, at {record['settings']['width_length']:,} tokens, in "
        f"training: {'; '.join(by_width)}.",
        "Where the quadratic part of a Transformer layer overtakes its linear part, and from where on the Wave layer "
        "(modulation) takes less time than it, in tokens:",
        make_table([{name: tell_crossing(name, value) for name, value in row.items()} for row in result.crossings]),
        tell_models(record, result),
        "Times are of the fastest of the rounds, on a CPU in seconds of the processor, of all threads together.",
    ]
    return "\n\n".join(paragraphs)


def tell(exponent: float | None) -> str:
    return "-" if exponent is None else f"{exponent:.2f}"


def tell_crossing(name: str, value: Any) -> str:
    if value is None:
        return "nowhere" if name == "Wave layer faster" else "no such part"
    return value if isinstance(value, str) else f"{value:,.0f}"


def tell_models(record: dict[str, Any], result: ComplexityResult) -> str:
    """The whole models, beside what the paper's abstract claims."""
    wave, bert = result.models
    saved = {measure: 100 * (1 - wave[measure] / bert[measure]) for measure in CLAIMS}
    return (
        f"A training step of whole models, {wave['texts']:,} texts of {wave['length (tokens)']:,} tokens, width "
        f"{record['settings']['model_hidden_size']:,}, with weights, gradients and the state of AdamW:\n\n"
        f"{make_table(result.models)}\n\n"
        f"The Wave Network takes {saved['time (ms)']:.1f} % less time and {saved['peak (MiB)']:.1f} % less memory than "
        f"BERT. The abstract of the paper claims {CLAIMS['time (ms)']} % and {CLAIMS['peak (MiB)']} %. Neither is a "
        "constant: memory is nearly all parameters in a small batch and nearly all activations in a large one, and "
        "time depends on the length and the machine.\n\n"
        f"{tell_bert(record, record['settings']['model_hidden_size'])}"
    )


STUDY = Study(
    title="What a layer costs",
    settings=ComplexitySettings,
    paper={"hidden_size": 768, "rounds": 20, "model_batch_size": 64},
    result=ComplexityResult,
    measure=measure_complexity,
    draw=draw_complexity,
    describe=describe_complexity,
    lengths=lambda settings: {"model_length": settings.model_length},
    needs_data=False,
)
