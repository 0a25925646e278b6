"""The study `convergence`: how fast the models learn, by batches and by time.

As in the experiment of fast convergence (paper 2411.02674, section 5), each model is trained for some batches. Its
accuracy on texts that it does not learn from is measured before the first batch and every few batches. The time is the
time of training alone: forward, backward and optimizer.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..files import setting
from .figures import GREY, new_figure, plot_runs
from .study import Experiment, Picture, Result, Study
from .trainings import Contender, TrainingSettings, describe_bert, draw_batches, run_trainings

TEXTS_AT_ONCE = 64


@dataclass
class ConvergenceSettings(TrainingSettings):
    """How long to train, and how often to measure."""

    batches: int = setting("Batches to train each model for. The paper: 500.", 150)
    every: int = setting("Batches between two measurements of the accuracy.", 10)
    batch_size: int = setting("Texts in a batch. The paper: 64.", 16)
    test_texts: int = setting("Texts on which the accuracy is measured, at most.", 256)


def measure(experiment: Experiment, settings: ConvergenceSettings) -> Result:
    """
    A row for each model. Details: `curves`, by model: `batches`, after how many the accuracy was measured; `accuracy`,
    in percent, and `seconds` of training until then, a list for each seed; `test_texts`.
    """
    found = run_trainings(experiment, settings, partial(train, experiment, settings))
    table, curves = [], {}
    for name, parts in found.items():
        curves[name] = {key: [part[key] for part in parts] for key in ("accuracy", "seconds")}
        curves[name]["batches"] = parts[0]["batches"]
        table.append({"model": name, "parameters": parts[0]["parameters"]} | summarise(curves[name]))
    return Result(table, {"curves": curves, "test_texts": min(settings.test_texts, len(experiment.held_out))})


def train(experiment: Experiment, settings: ConvergenceSettings, contender: Contender, seed: int) -> dict[str, Any]:
    """One training of a model: its accuracies, after how many batches, and after how many seconds."""
    rows, tests = experiment.data.train, experiment.draw_rows(settings.test_texts)
    batches = draw_batches(rows, settings.batch_size, settings.batches, seed)
    found: dict[str, Any] = {"parameters": contender.model.num_parameters()}
    found |= {"batches": [0], "accuracy": [measure_accuracy(contender, tests, settings.max_length)], "seconds": [0.0]}
    spent = 0.0
    for place, batch in enumerate(batches, start=1):
        inputs = contender.encode(batch, settings.max_length)
        contender.model.train()
        start = read_clock(contender.model.device)
        contender.model(**inputs).loss.backward()
        contender.step()
        spent += read_clock(contender.model.device) - start
        if place % settings.every == 0 or place == settings.batches:
            found["batches"].append(place)
            found["accuracy"].append(measure_accuracy(contender, tests, settings.max_length))
            found["seconds"].append(spent)
    return found


def read_clock(device: torch.device) -> float:
    """The time, in seconds, once a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def measure_accuracy(contender: Contender, tests: Any, max_length: int) -> float:
    """In percent."""
    contender.model.eval()
    right = 0
    for rows in tests.iter(TEXTS_AT_ONCE):
        inputs = contender.encode(rows, max_length)
        labels = inputs.pop("labels")
        right += int((contender.model(**inputs).logits.argmax(dim=-1) == labels).sum())
    return 100 * right / len(tests)


def summarise(curve: dict[str, list[Any]]) -> dict[str, Any]:
    """The row of a model: how fast and how far; means over the seeds."""
    last = [accuracies[-1] for accuracies in curve["accuracy"]]
    per_batch = [1000 * seconds[-1] / curve["batches"][-1] for seconds in curve["seconds"]]
    return {
        "trainings": len(last),
        "batches": curve["batches"][-1],
        "ms per batch": float(np.mean(per_batch)),
        "standard deviation (ms)": find_deviation(per_batch),
        "accuracy (%)": float(np.mean(last)),
        "standard deviation (points)": find_deviation(last),
    }


def find_deviation(values: list[float]) -> float | None:
    """The standard deviation of a sample; None for a single value, which has none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def draw(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    data, trainings = record["data"], result.table[0]["trainings"]
    what = f"{data['name']}, {data['held_out_split']}: {result.details['test_texts']:,} texts; {trainings} trainings"
    figure = new_figure(12, 6, f"{what} of each model, width {record['model']['hidden_size']:,}; {record['device']}")
    by_batches, by_time = figure.subplots(1, 2, sharey=True)
    for name, curve in result.details["curves"].items():
        plot_runs(by_batches, curve["batches"], curve["accuracy"], name)
        # A logarithmic axis has no zero: the measurement before the first batch is left out.
        seconds = np.array(curve["seconds"]).mean(axis=0).tolist()
        plot_runs(by_time, seconds[1:], [accuracies[1:] for accuracies in curve["accuracy"]], name)
    by_time.set_xscale("log")
    by_batches.set(xlabel=f"batches of {record['settings']['batch_size']} texts", ylabel="test accuracy (%)")
    by_batches.set_ylim(0, 100)
    by_time.set_xlabel("time of training (s), logarithmic")
    by_batches.legend(framealpha=1)
    for axes in (by_batches, by_time):
        axes.axhline(100 / data["classes"], color=GREY, linewidth=1, linestyle=":")
        axes.grid(alpha=0.3)
    yield Picture(
        "convergence",
        figure,
        "How many texts out of a hundred each model gets right while it learns: by batches on the left, by seconds of "
        "training on the right. Line: mean of the trainings. Band: one standard deviation. Dotted: guessing.",
    )


def describe(record: dict[str, Any], result: Result) -> str:
    wave, sentences = result.table[0], []
    for row in result.table:
        spread = row["standard deviation (points)"]
        beside = "" if spread is None else f" ± {spread:.1f}"
        times = row["ms per batch"] / wave["ms per batch"]
        sentences.append(
            f"- **{row['model']}**: {row['accuracy (%)']:.1f}{beside} %, {times:.1f} times the time of modulation"
        )
    error = 100 * math.sqrt(0.25 / result.details["test_texts"])
    return (
        f"Test accuracy after {wave['batches']:,} batches of {record['settings']['batch_size']} texts, mean ± standard "
        f"deviation of {wave['trainings']} trainings:\n\n" + "\n".join(sentences) + "\n\n"
        f"On other test texts each accuracy would differ by a standard error of up to {error:.1f} points. "
        f"{describe_bert(record)}"
    )


STUDY = Study("How fast the models learn", ConvergenceSettings, measure, draw, describe, lengths=("max_length",))
