"""The study `phase`: how the phases of the first layer spread, by the length of the texts.

A token's phase is `alpha_j = arctan2(c_j, w_j)`, in [0, pi] (paper 2411.02674, eq. 3; docs/maths.md, section 1). The L2
context `c_j` is the norm of all other tokens. It grows with their number, so in a long text every phase is close to
pi / 2. How close is known without a measurement: `cos^2 alpha` sums to one over the tokens of a text, so its mean is
1 / n in every model. The RMS context divides `c_j` by sqrt(n - 1) and keeps the scale.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..files import setting
from ..modeling_wave.ops_wave import lift
from .figures import BLACK, BLUE, VERMILION, new_figure
from .study import Experiment, Picture, Result, Settings, Study

NEAR = 0.1  # of pi / 2, in radians
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TEXTS_AT_ONCE = 16
MAGNITUDES = {"l2": ("L2 magnitude (the paper's)", BLUE), "rms": ("RMS magnitude", VERMILION)}


@dataclass
class PhaseSettings(Settings):
    """How much to measure."""

    lengths: list[int] = field(
        default_factory=lambda: [4, 8, 16, 32, 64, 128, 256, 512],
        metadata={"help": "Lengths in tokens, [CLS] and [SEP] included, to which texts are cut."},
    )
    texts: int = setting("Texts at each length, at most: those that are long enough.", 64)


def measure(experiment: Experiment, settings: PhaseSettings) -> Result:
    """A row for each length and magnitude. No details."""
    rows = experiment.draw_rows()
    encoded = experiment.encode(rows[:], max(settings.lengths))
    table = []
    for length in tqdm(sorted(set(settings.lengths)), unit=" lengths"):
        chosen = [row for row, ids in enumerate(encoded) if len(ids) >= length][: settings.texts]
        if chosen:
            texts = experiment.encode(rows.select(chosen)[:], length)
            table += measure_length(experiment.model, texts)
    if not table:
        longest = max(map(len, encoded))
        raise ValueError(f"`lengths`: the longest text of `data` has {longest} tokens, got {settings.lengths}.")
    return Result(table, {})


def measure_length(model: Any, texts: list[list[int]]) -> list[dict[str, Any]]:
    """The rows of texts of one length."""
    phases: dict[str, list[np.ndarray]] = {magnitude: [] for magnitude in MAGNITUDES}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        ids_BL = torch.tensor(texts[start : start + TEXTS_AT_ONCE], device=model.device)
        for w_BLD in find_variants(model, ids_BL):
            for magnitude, found in phases.items():
                found.append(find_phases(w_BLD, magnitude).flatten().cpu().numpy())
    sizes = {"length (tokens)": len(texts[0]), "texts": len(texts)}
    return [sizes | {"magnitude": name} | summarise(np.concatenate(found)) for name, found in phases.items()]


def summarise(phases: np.ndarray) -> dict[str, Any]:
    return {
        "phases": len(phases),
        "mean cos^2": float(np.mean(np.cos(phases) ** 2)),
        "standard deviation (rad)": float(np.std(phases)),
        f"within {NEAR} rad of pi / 2 (%)": 100 * float(np.mean(np.abs(phases - math.pi / 2) < NEAR)),
        **{f"{q:.0%} quantile (rad)": float(np.quantile(phases, q)) for q in QUANTILES},
    }


@torch.no_grad()
def find_embeddings(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """What the first layer of a Wave Network or of BERT is given, shape (B, L, D). The texts have no padding."""
    return model.base_model(input_ids, output_hidden_states=True).hidden_states[0]


@torch.no_grad()
def find_variants(model: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two variants of each token from which the first layer makes waves (paper 2411.02674, 3.2), (B, L, D) each."""
    return model.base_model.layers[0].mixing.variants(find_embeddings(model, input_ids)).chunk(2, dim=-1)


def find_phases(w_BLD: torch.Tensor, magnitude: str) -> torch.Tensor:
    """
    `alpha = arctan2(c, w)` of texts without padding, in radians, shape (B, L, D); pi / 2 where both are zero, as in a
    column of zeros, whose tokens have no phase.
    """
    re_BLD, im_BLD = lift(w_BLD.double(), None, magnitude)
    return torch.atan2(im_BLD, re_BLD).masked_fill((re_BLD == 0) & (im_BLD == 0), math.pi / 2)


def draw(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    data = record["data"]
    figure = new_figure(12, 6, f"{record['model']['name']} on {data['name']}, {data['held_out_split']}")
    for axes, (magnitude, (label, colour)) in zip(figure.subplots(1, 2, sharey=True), MAGNITUDES.items(), strict=True):
        rows = [row for row in result.table if row["magnitude"] == magnitude]
        lengths = [row["length (tokens)"] for row in rows]
        low, lower, middle, upper, high = ([row[f"{q:.0%} quantile (rad)"] for row in rows] for q in QUANTILES)
        axes.fill_between(lengths, low, high, color=colour, alpha=0.18, linewidth=0, label="90 % of all phases")
        axes.fill_between(lengths, lower, upper, color=colour, alpha=0.35, linewidth=0, label="half of all phases")
        axes.plot(lengths, middle, color=colour, marker="o", label="median")
        axes.axhline(math.pi / 2, color=BLACK, linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set(xlabel="length n of the text (tokens)", ylabel="phase (rad)", title=label, ylim=(0, math.pi))
        axes.set_yticks([part * math.pi / 4 for part in range(5)], ["0", "π/4", "π/2", "3π/4", "π"])
        axes.legend(loc="lower right", framealpha=1)
        axes.grid(alpha=0.3)
    yield Picture(
        "phase",
        figure,
        "Phase: how a token stands to its text. 0 or π: the token is the whole text in this dimension. π/2 (dotted): "
        "it adds nothing. Left: the longer the text, the closer every token is to π/2. Right: with the RMS magnitude "
        "the length hardly matters.",
    )


def describe(record: dict[str, Any], result: Result) -> str:
    first, last = ({row["magnitude"]: row for row in result.table[place]} for place in (slice(0, 2), slice(-2, None)))
    short, long = first["l2"]["length (tokens)"], last["l2"]["length (tokens)"]
    worst = max(abs(row["mean cos^2"] * row["length (tokens)"] - 1) for row in result.table if row["magnitude"] == "l2")
    spread, near = "standard deviation (rad)", f"within {NEAR} rad of pi / 2 (%)"
    return (
        f"With the paper's L2 magnitude, phases say less the longer the text: their standard deviation is "
        f"{first['l2'][spread]:.3g} rad in texts of {short:,} tokens and {last['l2'][spread]:.3g} rad in texts of "
        f"{long:,}, where {last['l2'][near]:.1f} % lie within {NEAR} rad of π/2. It must be so: the energy shares cos² "
        f"of a text sum to one, so their mean is 1 / n in every model (measured to within {max(worst, 1e-15):.0e}).\n\n"
        f"With the RMS magnitude the standard deviation goes from {first['rms'][spread]:.3g} to "
        f"{last['rms'][spread]:.3g} rad. This model was trained with {record['model']['magnitude'].upper()}."
    )


STUDY = Study("The scale of the phase", PhaseSettings, measure, draw, describe, lengths=("lengths",))
