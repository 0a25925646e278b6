"""The pictures of a run: where it is wrong, and how far its probabilities can be trusted."""

import os
from pathlib import Path
from typing import Any

from ..files import find_fonts, open_whole, read_json

BLUE = "#0072B2"
NUMBERED_CLASSES = 25  # the counts of more are too small to read
NAMED_CLASSES = 160  # and so are the names


def draw_pictures(run_folder: str | os.PathLike) -> list[Path]:
    """
    Draws what the `metrics.json` of a run says of its test split, or of validation where there is none. For one label a
    row: `confusion_matrix.png`, and `reliability.png` if calibration was measured. For several: `labels.png`. For
    numbers: `numbers.png`. Returns the paths. A name that no font here can draw is its place among the classes.
    """
    from matplotlib import rc_context

    run_folder = Path(run_folder)
    run = read_json(run_folder / "metrics.json")
    split = "test" if "test" in run["results"] else "validation"
    result, labels, data = run["results"][split], run["data"]["label_names"], run["data"]["name"]
    families, missing = find_fonts([*labels, data])
    names = [shorten(label, number, missing) for number, label in enumerate(labels, start=1)]
    if missing & set().union(*labels):
        print("No font here draws some names of classes: the pictures show their numbers. Noto's fonts have most.")
    title = f"{'' if missing & set(data) else f'{data}, '}{split}, {result['rows']:,} texts"
    figures = {}
    with rc_context({"font.family": families}):
        if "confusion" in result:
            figures["confusion_matrix.png"] = draw_confusion(result, names)
        elif "per_class" in result:
            figures["labels.png"] = draw_labels(result, names)
        else:
            figures["numbers.png"] = draw_numbers(result)
        if run.get("calibration"):
            figures["reliability.png"] = draw_reliability(run["calibration"][split])
        for file_name, figure in figures.items():
            figure.suptitle(title, parse_math=False)  # a $ in a name is no mathematics
            with open_whole(run_folder / file_name, "wb") as file:
                figure.savefig(file, dpi=150)
    return [run_folder / file_name for file_name in figures]


def shorten(label: str, number: int, missing: set[str]) -> str:
    """A name on one short line; `#number` if it is empty or cannot be drawn."""
    line = " ".join(label.split())
    if not line or missing & set(line):
        return f"#{number}"
    return (line if len(line) <= 24 else f"{line[:23]}…").replace("$", r"\$")


def draw_confusion(result: dict[str, Any], names: list[str]) -> Any:
    """Each row is a true class. Colours are shares of it, numbers are counts."""
    import numpy as np
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.array(result["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_numbered = len(names) <= NUMBERED_CLASSES
    size = min(max(2.5 + 0.55 * len(names), 4.5), 22)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    # The few texts that a class of many loses to each of the others would not be seen.
    colors = {"cmap": "Blues", "im_kw": {"norm": PowerNorm(1 if is_numbered else 0.5, vmin=0, vmax=1)}}
    axes = figure.add_subplot(title=f"accuracy {result['accuracy']:.1%}")
    display.plot(ax=axes, include_values=is_numbered, colorbar=False, xticks_rotation="vertical", **colors)
    figure.colorbar(display.im_, ax=axes, shrink=0.6, label="share of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(labelsize=min(10, 40 * size / len(names)))
    if len(names) > NAMED_CLASSES:
        axes.set(xticks=[], yticks=[])
    for text, count, share in zip(display.text_.flat if is_numbered else (), counts.flat, shares.flat, strict=False):
        text.set(text=f"{count:,}", color="white" if share > 0.5 else "black")
    return figure


def draw_labels(result: dict[str, Any], names: list[str]) -> Any:
    """F1 of each label, and how many rows have it."""
    from matplotlib.figure import Figure

    scores, places = list(result["per_class"].values()), range(len(names))
    figure = Figure(figsize=(7, min(1.5 + 0.3 * len(names), 60)), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1.25), xlabel="F1 (rows that have the label)")
    bars = axes.barh(places, [score["f1"] for score in scores], color=BLUE)
    axes.bar_label(bars, [f"{score['f1']:.2f} ({score['support']:,})" for score in scores], padding=3)
    axes.set(yticks=places, yticklabels=names, title=f"micro F1 {result['micro_f1']:.1%}")
    axes.invert_yaxis()
    return figure


def draw_numbers(result: dict[str, Any]) -> Any:
    """The predicted number of each text over the true one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="true", ylabel="predicted", title=f"Spearman {result['spearman']:.3f}")
    true, predicted = zip(*result["points"], strict=True)
    axes.scatter(true, predicted, s=12, color=BLUE, alpha=0.6)
    axes.axline((true[0], true[0]), slope=1, color="black", linestyle="--", linewidth=1)
    return figure


def draw_reliability(found: dict[str, Any]) -> Any:
    """Accuracy over mean confidence, a point for each bin; below, how many texts each bin holds."""
    from matplotlib.figure import Figure

    bins = [each for each in found["bins"] if each["count"]]
    confidences, accuracies, counts = ([each[name] for each in bins] for name in ("confidence", "accuracy", "count"))
    figure = Figure(figsize=(5.5, 7), layout="constrained")
    axes, strip = figure.subplots(2, height_ratios=(4, 1), sharex=True)
    title = f"calibration error {found['ece']:.2%}"
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), ylabel="share of right answers", title=title)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.scatter(confidences, accuracies, s=[20 + 600 * count / sum(counts) for count in counts], color=BLUE, alpha=0.7)
    axes.legend(loc="upper left")
    bars = strip.bar([(each["low"] + each["high"]) / 2 for each in bins], counts, 0.9 / len(found["bins"]), color=BLUE)
    strip.bar_label(bars, [f"{count:,}" for count in counts], fontsize="x-small")
    strip.set(xlabel="probability of the predicted class", ylabel="texts", ylim=(0, 1.25 * max(counts, default=1)))
    return figure
