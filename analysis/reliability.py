"""The calibration of a run as a picture: how often the model is right, over how sure it is."""

import json
from pathlib import Path
from typing import Any

from .figures import SKY, VERMILION, new_figure, save_figure


def draw_reliability(run_folder: str | Path) -> Path | None:
    """
    Draws `reliability.png` and `reliability.svg` in a run folder from the bins in its `metrics.json`: the accuracy of
    the texts in each bin of confidence, the distance from it to their mean confidence, and how many they are. Two such
    diagrams, before and after, if a temperature was fitted. The test split if the run has one, otherwise validation.

    Returns:
        The path of the first picture; None if `metrics.json` is of a version that did not measure calibration, or the
        logits were not finite.

    Raises:
        FileNotFoundError: There is no `metrics.json` in the folder.
    """
    run_folder = Path(run_folder)
    metrics = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
    if metrics.get("calibration") is None:
        return None
    split = "test" if "test" in metrics["results"] else "validation"
    found, temperature = metrics["calibration"][split], metrics["calibration"]["temperature"]
    panels = {"not calibrated": found}
    if temperature is not None:
        panels = {"before": found["before"], f"after, temperature {temperature:.3g}": found}

    figure = new_figure(4.4 * len(panels), 5.6)
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for (title, figures), upper, lower in zip(panels.items(), *grid, strict=True):
        upper.set_title(f"{title}: ECE {figures['ece']:.2%}")
        draw_panel(upper, lower, figures["bins"])
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("texts")
    grid[0, 0].legend(loc="upper left")
    figure.supxlabel("confidence: probability of the predicted class")
    # Names come from the data: a dollar sign in one must not be read as mathematics.
    rows = metrics["results"][split]["rows"]
    figure.suptitle(f"{metrics['data']['name']}, {split}, n = {rows:,}", parse_math=False)
    return save_figure(figure, run_folder / "reliability")[0]


def draw_panel(upper: Any, lower: Any, bins: list[dict[str, Any]]) -> None:
    """One diagram: accuracy and confidence above, counts below."""
    filled = [each for each in bins if each["count"]]
    lows, widths = [each["low"] for each in filled], [each["high"] - each["low"] for each in filled]
    accuracies = [each["accuracy"] for each in filled]
    gaps = [each["confidence"] - each["accuracy"] for each in filled]
    shape = {"align": "edge", "width": widths}
    upper.bar(lows, accuracies, color=SKY, edgecolor="black", linewidth=0.6, label="accuracy", **shape)
    upper.bar(
        lows,
        gaps,
        bottom=accuracies,
        facecolor="none",
        edgecolor=VERMILION,
        hatch="////",
        linewidth=1.2,
        label="to the mean confidence",
        **shape,
    )
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.bar(lows, [each["count"] for each in filled], color="lightgrey", edgecolor="black", linewidth=0.6, **shape)
    for each in filled:
        middle = (each["low"] + each["high"]) / 2
        lower.annotate(
            f"{each['count']:,}", (middle, each["count"]), ha="center", va="bottom", rotation=90, fontsize="x-small"
        )
    lower.margins(y=0.45)
