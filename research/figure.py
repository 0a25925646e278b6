"""Draws docs/figures/reproduction.png from results/reproduction.jsonl: `python -m research.figure`."""

import pandas as pd
from scipy.stats import t

from .runs import ROOT
from .tables import TITLES, list_accuracies, list_kinds, pick, read_current

PATH = ROOT / "docs" / "figures" / "reproduction.png"
LABELS = {
    "small": "ours, small",
    "medium": "ours, medium",
    "linear": "other way back",
    "no-phase": "without phase",
    "no-context": "without context",
    "bag": "feed-forward block",
    "svm": "TF-IDF, linear SVM",
    "fasttext": "mean of embeddings",
    "transformer": "Transformer layer",
    "fnet": "FNet layer",
    "cnn": "convolutions",
}


def draw() -> None:
    """A panel for each data set: the mean test accuracy of every model, with its 95 % interval."""
    from matplotlib.figure import Figure

    current = read_current()
    figure = Figure(figsize=(9, 10), layout="constrained")
    for axes, (data, title) in zip(figure.subplots(3, 2).flat, TITLES.items(), strict=False):
        found = {kind: lines for kind in list_kinds() if (lines := pick(current, data, kind))}
        means = {kind: 100 * pd.Series(list_accuracies(lines)).mean() for kind, lines in found.items()}
        for place, kind in enumerate(sorted(found, key=means.__getitem__)):
            values, colour = (
                100 * pd.Series(list_accuracies(found[kind])),
                "C0" if kind in ("small", "medium") else "0.4",
            )
            half = float(t.ppf(0.975, len(values) - 1) * values.sem()) if len(values) > 1 else 0
            axes.errorbar(means[kind], place, xerr=half, fmt="o", color=colour)
        axes.set_yticks(range(len(found)), [LABELS[kind] for kind in sorted(found, key=means.__getitem__)])
        axes.set_title(title)
        axes.set_xlabel("test accuracy, %")
        axes.grid(axis="x", alpha=0.3)
    for axes in figure.axes[len(TITLES) :]:
        axes.remove()
    figure.savefig(PATH, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    draw()
