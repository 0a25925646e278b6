"""The pictures of a run: where it is wrong, and how far its probabilities can be trusted."""

import os
from pathlib import Path
from typing import Any

from ..files import open_whole, read_json

LEGIBLE_CLASSES = 25  # names of more classes overlap


def draw_pictures(run_folder: str | os.PathLike) -> list[Path]:
    """
    Draws `confusion_matrix.png` and `reliability.png` from the `metrics.json` of a run.

    They show the test split, or validation where there is none. Several labels and numbers have no confusion matrix,
    and `reliability.png` is left out if the run measured no calibration. Returns the paths.

    Raises:
        FileNotFoundError, ValueError: `metrics.json` is missing or damaged.
    """
    run_folder = Path(run_folder)
    run = read_json(run_folder / "metrics.json")
    split = "test" if "test" in run["results"] else "validation"
    title = f"{run['data']['name']}, {split}, {run['results'][split]['rows']:,} texts"
    figures = {}
    if "confusion" in run["results"][split]:
        figures["confusion_matrix.png"] = draw_confusion(run["results"][split], run["data"]["label_names"])
    if run.get("calibration"):
        figures["reliability.png"] = draw_reliability(run["calibration"][split])
    for file_name, figure in figures.items():
        figure.suptitle(title, parse_math=False)  # a $ in a name is no mathematics
        with open_whole(run_folder / file_name, "wb") as file:
            figure.savefig(file, dpi=150)
    return [run_folder / file_name for file_name in figures]


def draw_confusion(result: dict[str, Any], names: list[str]) -> Any:
    """Each row is a true class. Colours are shares of it, numbers are counts."""
    import numpy as np
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.array(result["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_legible = len(names) <= LEGIBLE_CLASSES
    size = min(max(2.5 + 0.55 * len(names), 4.5), 20)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    shown = [(name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$") for name in names]
    display = ConfusionMatrixDisplay(shares, display_labels=shown if is_legible else None)
    colors = {"cmap": "Blues", "im_kw": {"vmin": 0, "vmax": 1}}
    display.plot(ax=figure.add_subplot(), include_values=is_legible, xticks_rotation=45, **colors)
    display.ax_.set(title=f"accuracy {result['accuracy']:.1%}", xlabel="predicted class", ylabel="true class")
    if not is_legible:
        display.ax_.set(xticks=[], yticks=[])
        return figure
    for text, count in zip(display.text_.flat, counts.flat, strict=True):
        text.set_text(f"{count:,}")
    return figure


def draw_reliability(found: dict[str, Any]) -> Any:
    """Accuracy over mean confidence, a point for each bin; its area is the number of texts in the bin."""
    from matplotlib.figure import Figure

    bins = [each for each in found["bins"] if each["count"]]
    confidences, accuracies, counts = ([each[name] for each in bins] for name in ("confidence", "accuracy", "count"))
    figure = Figure(figsize=(4.8, 5.2), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1.05), ylim=(0, 1.05), aspect="equal")
    axes.set(title=f"calibration error {found['ece']:.2%}")
    axes.set(xlabel="probability of the predicted class", ylabel="share of right answers")
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.scatter(confidences, accuracies, s=[20 + 1200 * count / sum(counts) for count in counts], alpha=0.5)
    for confidence, accuracy, count in zip(confidences, accuracies, counts, strict=True):
        axes.annotate(f"{count:,}", (confidence, accuracy), fontsize="small", ha="center")
    axes.legend(loc="upper left")
    return figure
