"""The sweeps of benchmarks/bench.py as pictures: `python -m wave_network.analysis.curves`.

Reads benchmarks/results/bench.jsonl alone, and writes docs/figures/bench_<group>.png for each sweep that is in it.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from .figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, new_figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench.jsonl"
FIGURES = ROOT / "docs" / "figures"

# The same model has the same looks in every figure.
LOOKS = {
    "ours": (BLUE, "o", "-"),
    "ours, readable": (SKY, "s", "-"),
    "ours, compiled": (BLUE, "^", "--"),
    "ours, folded": (SKY, "D", "--"),
    "ours, packed": (GREEN, "v", "-"),
    "polar form": (VERMILION, "X", "-"),
    "matrix products": (BLACK, "_", ":"),
    "BERT of our core size": (PURPLE, "P", "-"),
    "DistilBERT": (ORANGE, "<", "-"),
    "FNet": (ORANGE, ">", "--"),
    "ModernBERT-base": (GREY, "p", "--"),
    "BERT-base": (BLACK, "h", "-"),
}
SWEEPS: dict[str, dict[str, Any]] = {
    "length": {"x": "length", "label": "length (tokens)", "base": 2, "per_token": True},
    "long": {"x": "length", "label": "length (tokens)", "base": 2, "per_token": True},
    "batch": {"x": "batch", "label": "batch (texts)", "base": 2},
    "hidden": {"x": "hidden_size", "label": "hidden size", "base": 2},
    "fill": {"x": "fill", "label": "part of the batch that is text", "base": None},
}


def read_last_run(results: Path, group: str) -> list[dict]:
    """The lines of the last run of a group that was not a smoke run."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["group"] == group and not line["quick"]]
    return [line for line in lines if line["run"] == lines[-1]["run"] and line["median_ms"] is not None]


def draw_sweep(group: str, lines: list[dict], folder: Path) -> Path:
    """Draws one sweep: a panel for inference and one for training, medians with the 20th to 80th percentile."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    sweep = SWEEPS[group]
    modes = [mode for mode in ("inference", "training") if any(line["mode"] == mode for line in lines)]
    figure = new_figure(6.2 * len(modes), 5.4)
    handles: dict[str, Any] = {}
    for place, mode in enumerate(modes):
        axes = figure.add_subplot(1, len(modes), place + 1)
        for name, points in sorted(find_curves(lines, mode, sweep).items(), key=lambda curve: order(curve[0])):
            colour, marker, dashes = LOOKS.get(name, (BLACK, ".", "-"))
            x, middle, low, high = zip(*sorted(points), strict=True)
            (handles[name],) = axes.plot(x, middle, color=colour, marker=marker, linestyle=dashes)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if sweep["base"]:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.set_xscale("log", base=sweep["base"])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        else:
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xticks(sorted({line["setting"][sweep["x"]] for line in lines if line["mode"] == mode}))
        axes.tick_params(axis="x", rotation=45 if sweep["base"] else 0)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel(sweep["label"])
        axes.set_ylabel("time per token (µs)" if sweep.get("per_token") else "time per batch (ms)")
        axes.set_title(mode if mode == "inference" else "training step")
        axes.grid(which="major", alpha=0.3)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    first = lines[0]
    figure.suptitle(f"{first['device']}, {first['threads']} threads, commit {first['commit']}, {first['date'][:10]}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench_{group}.png"
    # Without the version of matplotlib, so that the same results give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def find_curves(lines: list[dict], mode: str, sweep: dict[str, Any]) -> dict[str, list[tuple]]:
    """The points of each contender, (x, median, p20, p80), in milliseconds or in microseconds per token."""
    curves = defaultdict(list)
    for line in lines:
        if line["mode"] != mode:
            continue
        setting = line["setting"]
        scale = 1000 / (setting["batch"] * setting["length"]) if sweep.get("per_token") else 1
        times = (scale * line[name] for name in ("median_ms", "p20_ms", "p80_ms"))
        curves[line["case"]].append((setting[sweep["x"]], *times))
    return curves


def order(name: str) -> tuple[int, str]:
    """The order of LOOKS, which is that of the legend."""
    names = list(LOOKS)
    return (names.index(name) if name in names else len(names), name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="result file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for the figures (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.results.exists():
        parser.error(f"argument --results: there is no file {str(arguments.results)!r}. Make it: make bench")
    for group in SWEEPS:
        lines = read_last_run(arguments.results, group)
        if lines:
            print(draw_sweep(group, lines, arguments.out))


if __name__ == "__main__":
    main()
