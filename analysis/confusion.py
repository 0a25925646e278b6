"""The confusion matrix of a run as a picture."""

import json
from pathlib import Path

import numpy as np

from .figures import new_figure

# More classes than this cannot be labelled legibly, nor their cells numbered.
LEGIBLE_CLASSES = 25


def draw_confusion(run_folder: str | Path) -> Path:
    """
    Draws `confusion_matrix.png` in a run folder from the counts in its `metrics.json`.

    The test split if the run has one, otherwise validation. Rows are true classes and sum to one; the cells name the
    counts, so that a rare class can be read beside a frequent one.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: There is no `metrics.json` in the folder.
    """
    run_folder = Path(run_folder)
    metrics = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
    split = "test" if "test" in metrics["results"] else "validation"
    names = metrics["data"]["label_names"]
    counts = np.array(metrics["results"][split]["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    size = float(np.clip(2.5 + 0.55 * len(names), 4.5, 20))
    figure = new_figure(size + 1, size)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    accuracy = metrics["results"][split]["accuracy"]
    # Names come from the data: a dollar sign in one must not be read as mathematics.
    title = f"{metrics['data']['name']}, {split}: accuracy {accuracy:.1%}, n = {counts.sum():,}"
    axes.set_title(title, parse_math=False)
    if len(names) <= LEGIBLE_CLASSES:
        shown = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), shown, parse_math=False)
        for row, column in np.ndindex(*counts.shape):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=ink)
    path = run_folder / "confusion_matrix.png"
    figure.savefig(path, dpi=150)
    return path
