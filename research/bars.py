"""What the project set out to reach in speed, memory and exactness, and whether it did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

Lines = Sequence[dict[str, Any]]


def find(lines: Lines, **wanted: Any) -> dict[str, Any] | None:
    """The line with these values; None if there is none."""
    return next((line for line in lines if wanted.items() <= line.items()), None)


def compare_times(line: dict[str, Any] | None, other: dict[str, Any] | None) -> float | None:
    """The median over the rounds of the ratio of two times: neighbours in time share the noise of the machine."""
    if line is None or other is None:
        return None
    return float((pd.Series(line["ms"]) / pd.Series(other["ms"])).median())


def compare_models(lines: Lines, model: str, other: str, mode: str) -> float | None:
    pair = (find(lines, group="models", mode=mode, model=name) for name in (model, other))
    return compare_times(*pair)


def compare_memory(lines: Lines, model: str, other: str) -> float | None:
    line, reference = (find(lines, group="memory", model=name) for name in (model, other))
    return line["mib"] / reference["mib"] if line and reference else None


def find_worst(lines: Lines, error: str) -> float | None:
    """The largest error of our forms; infinite if there is a NaN."""
    ours = [line[error] for line in lines if line["group"] == "errors" and line["case"].startswith("ours")]
    return max((float("inf") if each is None else each for each in ours), default=None)


def find_deviation(lines: Lines) -> float | None:
    """How far the time of 32,768 tokens in longer texts strays from that in texts of 512 tokens."""
    base = find(lines, group="length", length=512)
    ratios = [compare_times(line, base) for line in lines if line["group"] == "length"]
    return max((abs(ratio - 1) for ratio in ratios if ratio is not None), default=None)


def compare_packing(lines: Lines) -> float | None:
    shared = {"group": "fill", "mode": "inference", "fill": 0.25}
    return compare_times(find(lines, **shared, is_packed=False), find(lines, **shared, is_packed=True))


@dataclass(frozen=True)
class Bar:
    what: str
    bar: float
    measure: Callable[[Lines], float | None]
    at_least: bool = True
    form: str = "{:.3g}"

    def judge(self, values: Sequence[float]) -> str:
        """Whether it is met. Two measurements that disagree leave it undecided; none is no measurement."""
        met = {(value >= self.bar) if self.at_least else (value <= self.bar) for value in values}
        if not met:
            return "not measured"
        return "undecided" if len(met) == 2 else "yes" if met.pop() else "**no**"


BARS = [
    Bar("inference, BERT-base / ours", 30, lambda lines: compare_models(lines, "BERT-base", "ours", "inference")),
    Bar("training step, BERT-base / ours", 45, lambda lines: compare_models(lines, "BERT-base", "ours", "training")),
    Bar(
        "peak memory of a training step, BERT-base / ours", 7, lambda lines: compare_memory(lines, "BERT-base", "ours")
    ),
    Bar("training step, polar form / ours", 2, lambda lines: compare_models(lines, "polar form", "ours", "training")),
    Bar(
        "inference, ours compiled / its bare matrix products",
        1.15,
        lambda lines: compare_models(lines, "ours, compiled", "matrix products", "inference"),
        at_least=False,
    ),
    Bar("inference with 25 % text, padded / packed", 2.5, compare_packing),
    Bar("time per token from length 512 to 32,768, deviation", 0.1, find_deviation, False, "{:.1%}"),
    Bar("largest relative error of c, float32", 5e-7, lambda lines: find_worst(lines, "error_of_c"), False, "{:.1e}"),
    Bar(
        "largest relative error of its gradient, float32",
        1e-6,
        lambda lines: find_worst(lines, "error_of_gradient"),
        False,
        "{:.1e}",
    ),
]


def describe_bars(lines: Lines) -> list[dict[str, str]]:
    """A row for each bar, with every run that measured it, the newest last."""
    runs = [[line for line in lines if line["run"] == run] for run in dict.fromkeys(line["run"] for line in lines)]
    rows = []
    for bar in BARS:
        values = [value for run in runs if (value := bar.measure(run)) is not None]
        sign = "≥" if bar.at_least else "≤"
        shown = ", ".join(bar.form.format(value) for value in values) or "-"
        rows.append(
            {"bar": bar.what, "to reach": f"{sign} {bar.form.format(bar.bar)}", "measured": shown}
            | {"reached": bar.judge(values)}
        )
    return rows
