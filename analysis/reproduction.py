"""What `wave-network reproduce` measured, as a picture: accuracies with intervals, and what they are compared with."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .figures import BLUE, GREY, VERMILION, new_figure, save_figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction.jsonl"
FIGURES = ROOT / "docs" / "figures"

# The markers say the same once more.
OURS, BASELINE, CLAIM = (BLUE, "o"), (GREY, "s"), (VERMILION, "D")

# A claim that is farther from all that was measured than so many times its range would press it into a corner.
FAR = 3


def draw_reproduction(output: str | Path) -> Path | None:
    """
    Draws `reproduction.png` and `reproduction.svg` in an output folder of `wave-network reproduce` from the
    `aggregate.json` in it: see `draw_aggregates`.

    Returns:
        The path of the first picture; None if there are no aggregates.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(output).glob("*/aggregate.json"))]
    return draw_aggregates(found, Path(output) / "reproduction.png") if found else None


def draw_aggregates(aggregates: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """
    Draws a panel for each data set, the best recipe on top: the mean test accuracy over the seeds with the 95 %
    interval of the mean, the accuracy of each seed as a tick, and what it is compared with; a claim that is far off
    stands at the edge, with its figure. As PNG and as SVG.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for each in sorted(aggregates, key=lambda each: (each["data"], each["accuracy"]["mean"])):
        panels.setdefault(each["data"], []).append(each)
    heights = [len(rows) + 1.5 for rows in panels.values()]
    figure = new_figure(8, 0.32 * sum(heights) + 1.0)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (data, rows) in zip(grid, panels.items(), strict=True):
        draw_panel(axes, rows)
        axes.set_title(data)
    grid[-1].set_xlabel("test accuracy, %")
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return save_figure(figure, path)[0]


def draw_panel(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    low, high = find_range(rows)
    for place, each in enumerate(rows):
        accuracy, claim = each["accuracy"], each["claim"]
        is_ours = claim is not None and claim["at_least"]
        colour, marker = OURS if is_ours else BASELINE
        mean = 100 * accuracy["mean"]
        if accuracy["low"] is not None:
            axes.hlines(place, 100 * accuracy["low"], 100 * accuracy["high"], color=colour, linewidth=2)
        seeds = [100 * value for value in accuracy["by_seed"].values()]
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=9, alpha=0.6)
        label = "ours, with 95 % interval" if is_ours else "compared with ours, or of the paper"
        axes.plot(mean, place, marker, color=colour, linestyle="none", label=label)
        if claim is not None:
            draw_claim(axes, place, 100 * claim["accuracy"], low, high)
    axes.set_yticks(range(len(rows)), [each["recipe"] for each in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x", alpha=0.3)


def find_range(rows: list[Mapping[str, Any]]) -> tuple[float, float]:
    """The lowest and the highest accuracy that were measured, and of the claims those that are not far from them, %."""
    measured = [
        100 * value
        for accuracy in (each["accuracy"] for each in rows)
        for value in (accuracy["mean"], accuracy["low"], accuracy["high"], *accuracy["by_seed"].values())
        if value is not None
    ]
    low, high = min(measured), max(measured)
    margin = FAR * max(high - low, 1)
    claims = [100 * each["claim"]["accuracy"] for each in rows if each["claim"] is not None]
    shown = [low, high, *(claim for claim in claims if low - margin <= claim <= high + margin)]
    return min(shown), max(shown)


def draw_claim(axes: Any, place: int, claim: float, low: float, high: float) -> None:
    """A claim in its place; beyond the range of a panel at that edge, as an arrow with its figure."""
    colour, marker = CLAIM
    looks = {"color": colour, "fillstyle": "none", "linestyle": "none"}
    if low <= claim <= high:
        axes.plot(claim, place, marker, label="claim or bar", **looks)
        return
    edge, arrow, side, step = (low, "<", "left", 8) if claim < low else (high, ">", "right", -8)
    axes.plot(edge, place, arrow, label="claim, far off", **looks)
    at = {"xytext": (step, 0), "textcoords": "offset points", "ha": side, "va": "center"}
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.annotate(f"{claim:.2f}", (edge, place), **at, color=colour, bbox=behind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="result file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for the figure (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.results.exists():
        parser.error(f"argument --results: there is no file {str(arguments.results)!r}.")
    lines = [json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines()]
    # The last line of a recipe is the newest.
    print(draw_aggregates({line["recipe"]: line for line in lines}.values(), arguments.out / "reproduction.png"))


if __name__ == "__main__":
    main()
