"""What a run says at its end, from its `metrics.json`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.measure import BASELINES, METRICS, TITLES, show
from .settings import FEW, SKEWED


def describe_results(record: Mapping[str, Any], folder: Path) -> str:
    """The figures beside those of the baselines, what to do if they are ahead, and the next command, for a person."""
    lines, data, best, end = [], record["data"], record["best"], record["end"]
    for split, result in record["results"].items():
        lines += write_table(split, result, record["baselines"].get(split), record["task"])
    learned = [found["tfidf"]["trained_rows"] for found in record["baselines"].values()]
    if learned and learned[0] < data["rows"]["train"]:
        lines.append(f"TF-IDF has learned from {learned[0]:,} of the training rows.")
    if record["advice"] is not None:
        lines.append(record["advice"])
    if end["reason"] == "early_stopping_patience":
        lines.append(f"Stopped early, after epoch {end['epoch']:.4g}.")
    if best is not None and best["epoch"] is not None:
        metric = TITLES.get(best["metric"], best["metric"])
        lines.append(f"Kept: epoch {best['epoch']:.4g}, the best in validation by {metric}.")
    seconds, command = record["duration_seconds"], shlex.join(["wave-network", "predict", str(folder)])
    lines.append(f"Done in {seconds:.0f} s. Model, card, metrics.json and mistakes.csv are in {folder}")
    is_pair, columns = len(data["text_columns"]) == 2, ", ".join(data["text_columns"])
    lines.append(f"To use it: {command} " + (f"pairs.csv  (columns: {columns})" if is_pair else '"a text" "another"'))
    return "\n".join(lines)


def write_table(split: str, result: Mapping[str, Any], baselines: Mapping[str, Any] | None, task: str) -> list[str]:
    """The metrics of one split, ours above those of the baselines."""
    rows = {"this model": result}
    if baselines is not None:
        rows |= {title: baselines[name] for name, title in BASELINES[task].items()}
    width = max(map(len, (*rows, head := f"{split}, {result['rows']:,} rows"))) + 2
    widths = {name: max(len(TITLES[name]), 8) + 2 for name in METRICS[task]}
    lines = [head.ljust(width) + "".join(TITLES[name].rjust(places) for name, places in widths.items())]
    for title, found in rows.items():
        lines.append(title.ljust(width) + "".join(show(name, found[name]).rjust(n) for name, n in widths.items()))
    if "accuracy_low" in result:
        lines[1] += f"  (accuracy: 95 % interval {result['accuracy_low']:.2%} to {result['accuracy_high']:.2%})"
    counts = {name: found["support"] for name, found in result.get("per_class", {}).items() if found["support"]}
    rarest = min(counts, key=counts.__getitem__, default=None)
    if rarest is not None and max(counts.values()) >= SKEWED * counts[rarest]:
        recalls = [f"{title} {found['per_class'][rarest]['recall']:.2%}" for title, found in list(rows.items())[:2]]
        lines.append(f"Recall of the rarest label, {rarest!r} ({counts[rarest]:,} rows): {'; '.join(recalls)}")
    return lines


def advise(record: Mapping[str, Any]) -> str | None:
    """What to do where TF-IDF is ahead by more than a standard error, by the metric that chose the best epoch."""
    split = "test" if "test" in record["results"] else "validation"
    ours, names, name = record["results"][split], METRICS[record["task"]], record["settings"]["metric_for_best_model"]
    if name not in names or name in ("mse", "mae"):
        name = names[0]
    value, other, rows = ours[name], record["baselines"][split]["tfidf"][name], ours["rows"]
    share = (min(max(value, 0), 1) * rows + 1) / (rows + 2)
    if other - value <= (share * (1 - share) / rows) ** 0.5:
        return None
    ahead = f"TF-IDF is ahead on the {split} rows: {TITLES[name]} {show(name, other)}, here {show(name, value)}."
    if record["base_model"] is not None:
        return f"{ahead} More labelled rows, or a larger pretrained model (--model NAME), may help."
    advice = "With few rows start" if record["data"]["rows"]["train"] <= FEW else "Train for more epochs, or start"
    return f"{ahead} {advice} from a pretrained model: --model english, or NAME, one that knows their language."
