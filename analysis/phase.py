"""The study `phase`: how the phases of the first layer spread, by the length of the texts.

A token's phase is `alpha_j = arctan2(c_j, w_j)`, in [0, pi] (paper 2411.02674, eq. 3; docs/maths.md, section 1). The L2
context `c_j` is the norm of all other tokens and grows with their number, so in a long text every phase is close to
pi / 2, and nothing but its small distance from there is left of the token. How small is known without a measurement:
`cos^2 alpha` sums to one over the tokens, so its mean over a text of n tokens is 1 / n, whatever the model. The RMS
context divides `c_j` by sqrt(n - 1) (ours) and keeps the scale.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from ..modeling_wave.ops_wave import lift
from .figures import BLACK, BLUE, VERMILION, new_figure
from .study import Experiment, Picture, Result, Study, find_variants

# Bins of the histograms, and into how many each is divided for the quantiles: 0.001 rad.
BINS, FINE = 60, 52
NEAR = 0.1  # of pi / 2, in radians
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TEXTS_AT_ONCE = 16
LOOKS = {"l2": ("L2 magnitude", BLUE, "o", "-"), "rms": ("RMS magnitude", VERMILION, "s", "--")}


@dataclass
class PhaseSettings:
    """How much to measure."""

    _argument_group_name = "phase"

    lengths: list[int] = field(
        default_factory=lambda: [4, 8, 16, 32, 64, 128, 256, 512],
        metadata={"help": "Lengths in tokens, [CLS] and [SEP] included, to which texts are cut."},
    )
    texts: int = field(
        default=64, metadata={"help": "Texts at each length, at most: those that are long enough. With --paper: 7600."}
    )


@dataclass(frozen=True)
class PhaseResult(Result):
    """
    What `phase` found; a row of the table for each length and magnitude.

    Attributes:
        bins: The edges of the histograms, in radians, from 0 to pi.
        densities: By magnitude and length (as a string), the density of the phases in each bin, in 1 / radian.
    """

    bins: list[float]
    densities: dict[str, dict[str, list[float]]]


def measure_phase(experiment: Experiment, settings: PhaseSettings) -> PhaseResult:
    rows = experiment.held_out
    encoded = experiment.encode(rows[:], max(settings.lengths))
    order = np.random.default_rng(experiment.seed).permutation(len(rows))
    by_length = {}
    for length in experiment.progress(sorted(set(settings.lengths)), "lengths"):
        chosen = [int(row) for row in order if len(encoded[row]) >= length][: settings.texts]
        if chosen:
            texts = experiment.encode(rows.select(chosen)[:], length)
            by_length[length] = experiment.part(f"length-{length}", partial(measure_length, experiment.model, texts))
    if not by_length:
        raise ValueError(
            f"`lengths` must hold one that a text of `data` has: the longest has {max(map(len, encoded))} tokens, got "
            f"{settings.lengths}."
        )
    return PhaseResult(
        table=[row for found in by_length.values() for row in found["rows"]],
        bins=np.linspace(0, math.pi, BINS + 1).tolist(),
        densities={
            magnitude: {str(length): found["densities"][magnitude] for length, found in by_length.items()}
            for magnitude in LOOKS
        },
    )


@torch.inference_mode()
def measure_length(model: Any, texts: list[list[int]]) -> dict[str, Any]:
    """The rows of texts of one length, one for each magnitude, and the histograms."""
    tallies = {magnitude: Tally() for magnitude in LOOKS}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        ids = torch.tensor(texts[start : start + TEXTS_AT_ONCE], device=model.device)
        for w_BLD in find_variants(model, ids, torch.ones_like(ids)).chunk(2, dim=-1):
            for magnitude, tally in tallies.items():
                tally.add(find_phases(w_BLD, magnitude).flatten().cpu().numpy())
    sizes = {"length (tokens)": len(texts[0]), "texts": len(texts)}
    return {
        "rows": [sizes | {"magnitude": magnitude} | tally.summarise() for magnitude, tally in tallies.items()],
        "densities": {magnitude: tally.find_density() for magnitude, tally in tallies.items()},
    }


class Tally:
    """What is known of phases that come a few at a time: there may be more than memory holds."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS * FINE, dtype=np.int64)
        self.total = self.squares = self.shares = 0.0
        self.near = 0

    def add(self, phases: np.ndarray) -> None:
        distances = phases - math.pi / 2  # small numbers, whose squares lose nothing in a sum
        self.counts += np.histogram(phases, bins=len(self.counts), range=(0, math.pi))[0]
        self.total += float(distances.sum())
        self.squares += float(np.square(distances).sum())
        self.shares += float(np.square(np.cos(phases)).sum())
        self.near += int((np.abs(distances) < NEAR).sum())

    def summarise(self) -> dict[str, Any]:
        count = int(self.counts.sum())
        # A quantile lies in the first bin up to whose end there are so many.
        places = np.searchsorted(np.cumsum(self.counts), [quantile * count for quantile in QUANTILES])
        return {
            "phases": count,
            "mean cos^2": self.shares / count,
            "standard deviation (rad)": math.sqrt(max(0.0, self.squares / count - (self.total / count) ** 2)),
            f"within {NEAR} rad of pi / 2 (%)": 100 * self.near / count,
            **{
                f"{quantile:.0%} quantile (rad)": float((place + 0.5) * math.pi / len(self.counts))
                for quantile, place in zip(QUANTILES, places, strict=True)
            },
        }

    def find_density(self) -> list[float]:
        """The density in each of the wide bins, in 1 / radian."""
        wide = self.counts.reshape(BINS, FINE).sum(axis=1)
        return (wide / wide.sum() * BINS / math.pi).tolist()


def find_phases(w_BLD: torch.Tensor, magnitude: str) -> torch.Tensor:
    """
    `alpha = arctan2(c, w)` of texts without padding, in radians, shape (B, L, D); pi / 2 where both are zero, as for
    the tokens of a column of zeros, which have no phase.
    """
    re_BLD, im_BLD = lift(w_BLD.double(), None, magnitude)
    phase_BLD = torch.atan2(im_BLD, re_BLD)
    return phase_BLD.masked_fill((re_BLD == 0) & (im_BLD == 0), math.pi / 2)


def draw_phase(record: dict[str, Any], result: PhaseResult) -> Iterator[Picture]:
    yield Picture(
        "phase",
        draw_spread(record, result),
        "Phase by length of the text: median, middle half and middle 90 % of all tokens and dimensions; right, the "
        "standard deviation beside 1 / √n, which the energy shares demand of the L2 magnitude.",
    )
    yield Picture("phase_density", draw_densities(record, result), "The same phases as densities, one for each length.")


def draw_spread(record: dict[str, Any], result: PhaseResult) -> Any:
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = new_figure(11, 4)
    *bands, deviation = figure.subplots(1, 3)
    for axes, magnitude in zip(bands, LOOKS, strict=True):
        label, colour, marker, dashes = LOOKS[magnitude]
        rows = [row for row in result.table if row["magnitude"] == magnitude]
        lengths = [row["length (tokens)"] for row in rows]
        low, lower, middle, upper, high = ([row[f"{q:.0%} quantile (rad)"] for row in rows] for q in QUANTILES)
        axes.fill_between(lengths, low, high, color=colour, alpha=0.18, linewidth=0, label="middle 90 %")
        axes.fill_between(lengths, lower, upper, color=colour, alpha=0.35, linewidth=0, label="middle half")
        axes.plot(lengths, middle, color=colour, marker=marker, linestyle=dashes, label="median")
        axes.axhline(math.pi / 2, color=BLACK, linestyle=":", linewidth=1)
        axes.set_ylim(0, math.pi)
        axes.set_yticks([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi], ["0", "π/4", "π/2", "3π/4", "π"])
        axes.set_ylabel("phase (rad)")
        axes.set_title(label)
        axes.legend(loc="lower right", fontsize=8, framealpha=1)
        deviation.plot(
            lengths,
            [row["standard deviation (rad)"] for row in rows],
            color=colour,
            marker=marker,
            linestyle=dashes,
            label=label,
        )
    deviation.plot(lengths, [length**-0.5 for length in lengths], color=BLACK, linestyle=":", label="1 / √n")
    deviation.set_yscale("log")
    deviation.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    deviation.minorticks_off()
    deviation.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    deviation.set_ylabel("standard deviation of the phase (rad)")
    deviation.set_title("spread")
    deviation.legend(fontsize=8)
    for axes in (*bands, deviation):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45)
        axes.set_xlabel("length n (tokens)")
        axes.grid(alpha=0.3)
    figure.suptitle(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def draw_densities(record: dict[str, Any], result: PhaseResult) -> Any:
    from matplotlib import colormaps

    figure = new_figure(9, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    middles = [(low + high) / 2 for low, high in zip(result.bins, result.bins[1:], strict=False)]
    for axes, magnitude in zip(panels, LOOKS, strict=True):
        lines = result.densities[magnitude]
        for place, (length, density) in enumerate(lines.items()):
            # Viridis grows darker evenly, in print without colours too.
            colour = colormaps["viridis"](0.9 * (1 - place / max(1, len(lines) - 1)))
            axes.step(middles, density, where="mid", color=colour, linewidth=1.4, label=f"{int(length):,}")
        axes.axvline(math.pi / 2, color=BLACK, linestyle=":", linewidth=1)
        axes.set_xticks([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi], ["0", "π/4", "π/2", "3π/4", "π"])
        axes.set_xlabel("phase (rad)")
        axes.set_title(LOOKS[magnitude][0])
        axes.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[0].set_ylim(bottom=1e-3)
    panels[0].set_ylabel("density (1 / rad)")
    panels[1].legend(title="length (tokens)", fontsize=8, title_fontsize=8)
    figure.suptitle(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def describe_sample(record: dict[str, Any], result: PhaseResult) -> str:
    """How much went into a figure."""
    counts = [row["texts"] for row in result.table]
    texts = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{counts[0]:,}"
    return (
        f"{record['model']['name']} on {record['data']['name']}, {record['data']['held_out_split']}: n = {texts} texts "
        f"at each length, 2 x {record['model']['hidden_size']} dimensions"
    )


def describe_phase(record: dict[str, Any], result: PhaseResult) -> str:
    first, last = ({row["magnitude"]: row for row in result.table[place]} for place in (slice(0, 2), slice(-2, None)))
    short, long = first["l2"]["length (tokens)"], last["l2"]["length (tokens)"]
    worst = max(abs(row["mean cos^2"] * row["length (tokens)"] - 1) for row in result.table if row["magnitude"] == "l2")
    spread = "standard deviation (rad)"
    near = f"within {NEAR} rad of pi / 2 (%)"
    return (
        f"With the paper's L2 magnitude the phases of the first layer have a standard deviation of "
        f"{first['l2'][spread]:.3g} rad in texts of {short:,} tokens and of {last['l2'][spread]:.3g} rad in texts of "
        f"{long:,}; {first['l2'][near]:.1f} % and {last['l2'][near]:.1f} % of them lie within {NEAR} rad of π/2.\n\n"
        f"It cannot be otherwise: cos² of the phase is the token's share of the energy, the shares of a text sum to "
        f"one, and so their mean is 1 / n in every model. Measured, n times the mean is one to within "
        f"{max(worst, 1e-15):.0e}.\n\n"
        f"With the RMS magnitude the standard deviation goes from {first['rms'][spread]:.3g} to "
        f"{last['rms'][spread]:.3g} rad: the scale stays, and what the phase says of a token does not depend on how "
        f"much text stands around it. The model was trained with the {record['model']['magnitude'].upper()} magnitude; "
        "its variants are the same for both, because nothing stands before the first layer that depends on it."
    )


STUDY = Study(
    title="The scale of the phase",
    settings=PhaseSettings,
    paper={"texts": 7600},
    result=PhaseResult,
    measure=measure_phase,
    draw=draw_phase,
    describe=describe_phase,
    lengths=lambda settings: {"lengths": max(settings.lengths)},
)
