"""The study `convergence`: how fast the models learn, by batches and by time.

As in the experiment of fast convergence (paper 2411.02674, section 5), each model is trained for some batches, and its
accuracy on texts that it does not learn from is measured every few of them, before the first one too. The time is that
of training alone, forward, backward and optimizer: not of the texts' way into tokens, and not of the measurement.
"""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .contenders import (
    CONTENDERS,
    PAPER,
    Contender,
    TrainingSettings,
    draw_batches,
    find_lengths,
    make_optimizer,
    refuse_settings,
    run_trainings,
    step,
    tell_bert,
)
from .figures import GREY, new_figure, plot_runs
from .study import Experiment, Picture, Result, Study

TARGETS = (50, 80)  # accuracies (%), whose first time is told
TEXTS_AT_ONCE = 64


@dataclass
class ConvergenceSettings(TrainingSettings):
    """How long to train, and how often to measure."""

    _argument_group_name = "convergence"

    batches: int = field(default=150, metadata={"help": "Batches to train each model for. With --paper: 500."})
    every: int = field(default=10, metadata={"help": "Batches between two measurements of the accuracy."})
    batch_size: int = field(default=16, metadata={"help": "Texts in a batch. With --paper: 64."})
    test_texts: int = field(
        default=256, metadata={"help": "Texts on which the accuracy is measured, at most. With --paper: 7600."}
    )


@dataclass(frozen=True)
class ConvergenceResult(Result):
    """
    What `convergence` found; a row of the table for each model.

    Attributes:
        curves: By model: `batches`, after how many the accuracy was measured; `accuracy`, in percent, a list for each
            seed; `seconds` of training until then, a list for each seed.
        test_texts: On how many texts each accuracy was measured.
        hidden_size: The width of the models.
    """

    curves: dict[str, dict[str, list[Any]]]
    test_texts: int
    hidden_size: int


def measure_convergence(experiment: Experiment, settings: ConvergenceSettings) -> ConvergenceResult:
    found = run_trainings(experiment, settings, partial(train, experiment, settings))
    curves = {
        name: {
            "batches": parts[0]["batches"],
            "accuracy": [part["accuracy"] for part in parts],
            "seconds": [part["seconds"] for part in parts],
        }
        for name, parts in found.items()
    }
    return ConvergenceResult(
        table=[
            {"model": name, "parameters": found[name][0]["parameters"]} | summarise(curves[name]) for name in curves
        ],
        curves=curves,
        test_texts=min(settings.test_texts, len(experiment.held_out)),
        hidden_size=settings.hidden_size or experiment.model.config.hidden_size,
    )


def train(
    experiment: Experiment, settings: ConvergenceSettings, contender: Contender, number: int, learning_rate: float
) -> dict[str, Any]:
    """One training of a model: its accuracies, after how many batches, and after how many seconds."""
    optimizer = make_optimizer(contender.model, learning_rate)
    rows = experiment.data.train
    # Each training has other texts, and a training of each model the same.
    batches = draw_batches(len(rows), settings.batch_size, settings.batches, experiment.seed + number)
    tests = choose_tests(experiment, contender, settings)
    places, accuracies, times, spent = [0], [measure_accuracy(contender, tests)], [0.0], 0.0
    for place, batch in enumerate(
        tqdm(batches, desc=f"training {number}", unit=" batches", leave=False, disable=None), start=1
    ):
        spent += train_once(contender, contender.encode(rows[batch], settings.max_length), optimizer)
        if place % settings.every == 0 or place == len(batches):
            places.append(place)
            accuracies.append(measure_accuracy(contender, tests))
            times.append(spent)
    return {
        "parameters": contender.model.num_parameters(),
        "batches": places,
        "accuracy": accuracies,
        "seconds": times,
    }


def choose_tests(
    experiment: Experiment, contender: Contender, settings: ConvergenceSettings
) -> list[dict[str, torch.Tensor]]:
    """Texts to measure on, always the same ones, short with short: less padding."""
    rows = experiment.held_out
    chosen = np.random.default_rng(experiment.seed).permutation(len(rows))[: settings.test_texts].tolist()
    chosen.sort(key=lambda row: len(rows[row]["text"]))
    starts = range(0, len(chosen), TEXTS_AT_ONCE)
    return [contender.encode(rows[chosen[start : start + TEXTS_AT_ONCE]], settings.max_length) for start in starts]


def train_once(contender: Contender, inputs: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
    """The seconds that a step took."""
    contender.model.train()
    start = read_clock(contender.model.device)
    contender.model(**inputs).loss.backward()
    step(contender.model, optimizer)
    return read_clock(contender.model.device) - start


def read_clock(device: torch.device) -> float:
    """The time, in seconds, at which a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def measure_accuracy(contender: Contender, tests: list[dict[str, torch.Tensor]]) -> float:
    """In percent."""
    contender.model.eval()
    right = total = 0
    for inputs in tests:
        logits = contender.model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        right += int((logits.argmax(dim=-1) == inputs["labels"]).sum())
        total += len(inputs["labels"])
    return 100 * right / total


def summarise(curve: dict[str, list[Any]]) -> dict[str, Any]:
    """The row of a model: how fast, how far, and when it came to the targets for the first time, mean of the seeds."""
    last = [accuracies[-1] for accuracies in curve["accuracy"]]
    per_batch = [1000 * seconds[-1] / curve["batches"][-1] for seconds in curve["seconds"]]
    row = {
        "trainings": len(last),
        "batches": curve["batches"][-1],
        "ms per batch": statistics.mean(per_batch),
        "standard deviation (ms)": find_deviation(per_batch),
        "accuracy (%)": statistics.mean(last),
        "standard deviation (points)": find_deviation(last),
    }
    for target in TARGETS:
        first = [find_first(accuracies, target) for accuracies in curve["accuracy"]]
        reached = [place for place in first if place is not None]
        # A mean over those that came there would favour a model that hardly does.
        is_told = len(reached) == len(first)
        paid = [seconds[place] for place, seconds in zip(reached, curve["seconds"], strict=False)]
        row[f"batches to {target} %"] = statistics.mean(curve["batches"][at] for at in reached) if is_told else None
        row[f"seconds to {target} %"] = statistics.mean(paid) if is_told else None
    return row


def find_first(accuracies: list[float], target: float) -> int | None:
    """The place of the first accuracy that is not below the target."""
    return next((place for place, accuracy in enumerate(accuracies) if accuracy >= target), None)


def find_deviation(values: list[float]) -> float | None:
    """The standard deviation of a sample; None for a single value, which has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def draw_convergence(record: dict[str, Any], result: ConvergenceResult) -> Iterator[Picture]:
    yield Picture(
        "convergence",
        draw_curves(record, result),
        "Test accuracy by batches and by the time of training: mean of the trainings, and a band of one standard "
        "deviation on each side. Dotted: one in as many as there are classes.",
    )


def draw_curves(record: dict[str, Any], result: ConvergenceResult) -> Any:
    from matplotlib.ticker import FuncFormatter

    figure = new_figure(10, 4.4)
    by_batches, by_time = figure.subplots(1, 2, sharey=True)
    for name, curve in result.curves.items():
        seconds = np.array(curve["seconds"]).mean(axis=0).tolist()
        plot_runs(by_batches, curve["batches"], curve["accuracy"], name)
        # Time begins at no point of a logarithmic axis: before the first batch nothing was paid.
        plot_runs(by_time, seconds[1:], [accuracies[1:] for accuracies in curve["accuracy"]], name)
    by_time.set_xscale("log")
    by_time.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    by_batches.set_xlabel(f"batches of {record['settings']['batch_size']} texts")
    by_time.set_xlabel("time of training (s)")
    by_batches.set_ylabel("test accuracy (%)")
    by_batches.set_ylim(0, 100)
    by_batches.legend(fontsize=8, framealpha=1)
    for axes in (by_batches, by_time):
        axes.axhline(100 / record["data"]["classes"], color=GREY, linewidth=1, linestyle=":")
        axes.grid(alpha=0.3)
    figure.suptitle(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def describe_sample(record: dict[str, Any], result: ConvergenceResult) -> str:
    """How much went into a figure."""
    trainings = result.table[0]["trainings"]
    return (
        f"{record['data']['name']}, {record['data']['held_out_split']}: n = {result.test_texts:,} texts, {trainings} "
        f"training{'s' if trainings > 1 else ''} of each model, width {result.hidden_size:,}; {record['device']}"
    )


def describe_convergence(record: dict[str, Any], result: ConvergenceResult) -> str:
    rows = {row["model"]: row for row in result.table}
    wave = rows[CONTENDERS[0]]
    sentences = []
    for name, row in rows.items():
        spread = row["standard deviation (points)"]
        beside = f" (standard deviation {spread:.1f} points)" if spread is not None else ""
        times = row["ms per batch"] / wave["ms per batch"]
        paid = "" if row is wave else f", in {times:.2f} times the time of modulation for each"
        sentences.append(f"- **{name}**: {row['accuracy (%)']:.1f} %{beside}{paid}; {tell_targets(row)}.")
    error = 100 * math.sqrt(0.25 / result.test_texts)
    return (
        f"After {wave['batches']:,} batches of {record['settings']['batch_size']} texts of at most "
        f"{record['settings']['max_length']} tokens, as the mean of {wave['trainings']}:\n\n"
        + "\n".join(sentences)
        + f"\n\n{tell_bert(record, result.hidden_size)}\n\nThe accuracy is that on {result.test_texts:,} texts, the "
        f"same for all, so on others it would differ by a standard error of up to {error:.1f} points; the band is that "
        "of the trainings, which differ in their weights and in the order of the texts. Times on a machine with other "
        "work are good as ratios alone."
    )


def tell_targets(row: dict[str, Any]) -> str:
    """When a model came to the targets, in words."""
    told = []
    for target in TARGETS:
        batches = row[f"batches to {target} %"]
        told.append(
            f"not all trainings came to {target} %"
            if batches is None
            else f"{target} % after {batches:.0f} batches and {row[f'seconds to {target} %']:.2g} s"
        )
    return ", ".join(told)


STUDY = Study(
    title="How fast the models learn",
    settings=ConvergenceSettings,
    paper=PAPER | {"batches": 500, "batch_size": 64, "test_texts": 7600},
    result=ConvergenceResult,
    measure=measure_convergence,
    draw=draw_convergence,
    describe=describe_convergence,
    check=refuse_settings,
    lengths=find_lengths,
)
