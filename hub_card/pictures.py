"""The pictures of a run: where it is wrong, and how far its probabilities can be trusted."""

import os
from pathlib import Path
from typing import Any

from ..files import open_whole, read_json

LEGIBLE_CLASSES = 25  # names of more classes overlap


def draw_pictures(run_folder: str | os.PathLike) -> list[Path]:
    """
    Draws `confusion_matrix.png` and `reliability.png` from the `metrics.json` of a run.

    They show the test split, or validation where there is none. `reliability.png` is left out if the run measured no
    calibration.

    Returns:
        The paths of the pictures.

    Raises:
        FileNotFoundError: The folder has no `metrics.json`.
        ValueError: `metrics.json` is damaged.
    """
    run_folder = Path(run_folder)
    run = read_json(run_folder / "metrics.json")
    split = "test" if "test" in run["results"] else "validation"
    name = run["data"]["name"]
    figures = {"confusion_matrix.png": draw_confusion(run["results"][split], run["data"]["label_names"])}
    if run.get("calibration"):
        figures["reliability.png"] = draw_reliability(run["calibration"][split], run["calibration"]["temperature"])
    for file_name, figure in figures.items():
        rows = run["results"][split]["rows"]
        figure.suptitle(f"{name}, {split}, {rows:,} texts", parse_math=False)  # a $ in a name is no mathematics
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
    shown = [name.replace("$", r"\$") if len(name) <= 24 else f"{name[:23]}…".replace("$", r"\$") for name in names]
    display = ConfusionMatrixDisplay(shares, display_labels=shown if is_legible else None)
    display.plot(
        ax=figure.add_subplot(),
        include_values=is_legible,
        cmap="Blues",
        xticks_rotation=45,
        im_kw={"vmin": 0, "vmax": 1},
    )
    display.ax_.set(title=f"accuracy {result['accuracy']:.1%}", xlabel="predicted class", ylabel="true class")
    if not is_legible:
        display.ax_.set(xticks=[], yticks=[])
        return figure
    for text, count in zip(display.text_.flat, counts.flat, strict=True):
        text.set_text(f"{count:,}")
    return figure


def draw_reliability(found: dict[str, Any], temperature: float | None) -> Any:
    """Accuracy over mean confidence, a point for each bin; its area is the number of texts in the bin."""
    from matplotlib.figure import Figure

    panels = {"": found}
    if temperature is not None:
        panels = {"before: ": found["before"], f"temperature {temperature:.3g}: ": found}
    figure = Figure(figsize=(4.4 * len(panels), 4.8), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, figures) in zip(grid, panels.items(), strict=True):
        bins = [each for each in figures["bins"] if each["count"]]
        texts = sum(each["count"] for each in bins)
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
        axes.scatter(
            [each["confidence"] for each in bins],
            [each["accuracy"] for each in bins],
            s=[20 + 1200 * each["count"] / texts for each in bins],
            alpha=0.5,
        )
        for each in bins:
            axes.annotate(f"{each['count']:,}", (each["confidence"], each["accuracy"]), fontsize="small", ha="center")
        axes.set(xlim=(0, 1.05), ylim=(0, 1.05), title=f"{title}calibration error {figures['ece']:.2%}")
        axes.set(xlabel="probability of the predicted class", aspect="equal")
    grid[0].set_ylabel("share of right answers")
    grid[0].legend(loc="upper left")
    return figure
