"""What a run says at its end, from its `metrics.json`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.load import TextData
from ..data.measure import BASELINES, METRICS, TITLES, show
from .settings import FEW, SKEWED
from .start import look_for_english


def describe_results(record: Mapping[str, Any], folder: Path) -> str:
    """The figures beside those of the baselines, what to do if they are ahead, and the next command, for a person."""
    lines = []
    for split, result in record["results"].items():
        lines += write_table(split, result, record["baselines"].get(split), record["task"])
    learned = [found["tfidf"]["trained_rows"] for found in record["baselines"].values()]
    if learned and learned[0] < record["data"]["rows"]["train"]:
        lines.append(f"TF-IDF has learned from {learned[0]:,} of the training rows.")
    if record["advice"] is not None:
        lines.append(record["advice"])
    best, end = record["best"], record["end"]
    if end["reason"] == "early_stopping_patience":
        lines.append(f"Stopped early, after epoch {end['epoch']:.4g}.")
    if best is not None and best["epoch"] is not None:
        metric = TITLES.get(best["metric"], best["metric"])
        lines.append(f"Kept: epoch {best['epoch']:.4g}, the best in validation by {metric}.")
    lines.append(
        f"Done in {record['duration_seconds']:.0f} s. Model, card, metrics.json and mistakes.csv are in {folder}"
    )
    columns, words = record["data"]["text_columns"], ["wave-network", "predict", str(folder)]
    if len(columns) == 2:
        lines.append(f"To use it: {shlex.join([*words, 'pairs.csv'])}  (columns: {', '.join(columns)})")
    else:
        lines.append(f'To use it: {shlex.join(words)} "a text" "another"')
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


def find_headline(record: Mapping[str, Any]) -> str:
    """The metric by which a run is compared: the one that chose the best epoch, or the first one of its task."""
    chosen, names = record["settings"]["metric_for_best_model"], METRICS[record["task"]]
    return chosen if chosen in names and chosen not in ("mse", "mae") else names[0]


def advise(record: Mapping[str, Any], data: TextData) -> str | None:
    """What to do where TF-IDF is ahead by more than a standard error."""
    split = "test" if "test" in record["results"] else "validation"
    ours, name = record["results"][split], find_headline(record)
    value, other, rows = ours[name], record["baselines"][split]["tfidf"][name], ours["rows"]
    share = (min(max(value, 0), 1) * rows + 1) / (rows + 2)
    if other - value <= (share * (1 - share) / rows) ** 0.5:
        return None
    ahead = f"TF-IDF is ahead on the {split} rows: {TITLES[name]} {show(name, other)}, here {show(name, value)}."
    is_few = record["data"]["rows"]["train"] <= FEW
    if record["base_model"] is None:
        name = "english" if look_for_english(data)[0] else "NAME, one that knows their language"
        advice = "With few rows start" if is_few else "Train for more epochs, or start"
        return f"{ahead} {advice} from a pretrained model: --model {name}."
    return f"{ahead} More labelled rows, or a larger pretrained model (--model NAME), may help."
