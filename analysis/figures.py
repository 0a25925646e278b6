"""What all figures share: colours, the looks of the models, and how a figure is made and saved."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow that white paper swallows; markers
# and dashes say the same once more, for print without colours. A model has the same looks in every figure.
BLUE, SKY, GREEN, VERMILION, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"
GREY, BLACK = "#666666", "#000000"
LOOKS = {
    "Wave, modulation": (BLUE, "o", "-"),
    "Wave, interference": (SKY, "s", "--"),
    "Transformer layer": (VERMILION, "^", "-."),
    "BERT": (BLACK, "D", ":"),
}


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches, which is drawn to a file, on machines without a screen too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_runs(axes: Any, places: Sequence[float], runs: Sequence[Sequence[float]], name: str, **settings: Any) -> None:
    """The mean of some runs of a model as a line in its looks, in a band of one standard deviation on each side."""
    import numpy as np

    colour, marker, dashes = LOOKS[name]
    values = np.array(runs)
    middle = values.mean(axis=0)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros_like(middle)
    # A logarithmic axis has no place for zero or less: there the band ends at the smallest run.
    low = np.where(spread < middle, middle - spread, values.min(axis=0))
    axes.fill_between(places, low, middle + spread, color=colour, alpha=0.15, linewidth=0)
    looks = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "linewidth": 1.4}
    axes.plot(places, middle, label=name, **looks, **settings)


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Saves `path` as .png and .svg, each under its name only when it is whole. The same figure, the same files."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    saved = []
    for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        final, temporary = path.with_suffix(ending), path.with_name(f".{path.name}.tmp{ending}")
        with matplotlib.rc_context({"svg.hashsalt": path.name}):
            figure.savefig(temporary, dpi=150, metadata=metadata)
        temporary.replace(final)
        saved.append(final)
    return saved


def to_svg(figure: Any, salt: str) -> str:
    """A figure as the text of an SVG element, to put into a page. The same figure and salt, the same text."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
