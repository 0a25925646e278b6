"""What all figures share: colours, the looks of the models, and how a figure is made and saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import find_fonts

# The colours of Okabe and Ito, which colour-blind readers can tell apart. Markers and dashes differ too, for print
# without colours. A model looks the same in every figure.
BLUE, SKY, VERMILION, GREY, BLACK = "#0072B2", "#56B4E9", "#D55E00", "#666666", "#000000"
LOOKS: dict[str, dict[str, Any]] = {
    "Wave, modulation": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "Wave, interference": {"color": SKY, "marker": "s", "linestyle": "--"},
    "Transformer layer": {"color": VERMILION, "marker": "^", "linestyle": "-."},
    "BERT": {"color": BLACK, "marker": "D", "linestyle": ":"},
}


def new_figure(width: float, height: float, title: str) -> Any:
    """An empty figure, sizes in inches; it needs no screen. A `$` in a title starts no formula."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, parse_math=False, fontsize=11, fontfamily=find_fonts([title])[0])
    return figure


def plot_runs(axes: Any, places: Sequence[float], runs: Sequence[Sequence[float]], name: str) -> None:
    """The mean of some runs of a model as a line, in a band of one standard deviation on each side."""
    values = np.array(runs)
    middle, spread = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
    # A logarithmic axis has no place for zero: there the band ends at the smallest run.
    low = np.where(spread < middle, middle - spread, values.min(axis=0))
    axes.fill_between(places, low, middle + spread, color=LOOKS[name]["color"], alpha=0.15, linewidth=0)
    axes.plot(places, middle, label=name, markersize=4, markevery=max(1, len(places) // 10), **LOOKS[name])


def save_figure(figure: Any, path: Path) -> None:
    """Saves `path`.png and `path`.svg. The same figure gives the same PNG."""
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"))
