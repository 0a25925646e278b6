"""`wave-network evaluate`: how good a classifier is on a labelled file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.load import read_labelled
from ..data.measure import METRICS, PROBLEMS, TITLES, describe_calibration, measure, show
from ..files import refuse_existing, setting, write_json
from .predict import ReadArguments, load_model

TASKS = {problem: task for task, problem in PROBLEMS.items()}
# Of so many labels all are printed, and a matrix; of more as many, and the most frequent confusions.
SHOWN = 12


@dataclass
class EvaluateArguments(ReadArguments):
    """What to measure, and on what."""

    _argument_group_name = "settings"

    model: str = setting("Run folder, or name of a model on the Hub.")
    file: str = setting("Labelled texts: any file that finetune reads.")
    output: str | None = setting("JSON file to write, with all figures.", None)
    label_column: list[str] | None = setting("Column with the label, or one for each. Default: as trained.", None)
    label_separator: str | None = setting("What stands between the labels of a cell, such as ';'.", None)


def evaluate(arguments: EvaluateArguments) -> dict[str, Any]:
    """
    Measures a classifier on the labelled rows of a file, by default in the columns that it was trained on.

    Returns `task`, `results` as in `metrics.json` of a run, and of "single" `calibration`; `output` has the same.
    Raises a ValueError or an OSError that names what is not as it must be: the model, the file, a column, a label.
    """
    output = None if arguments.output is None else Path(arguments.output).expanduser()
    if output is not None:
        if output.suffix.lower() != ".json" or not output.parent.is_dir():
            raise ValueError(f"`output` must be a .json file in a folder that exists, got {str(output)!r}.")
        refuse_existing(output, arguments.overwrite)
    classifier = load_model(arguments)
    task = TASKS[classifier.problem]
    names = ("text_columns", "label_column", "label_separator")
    columns: dict[str, Any] = {name: getattr(arguments, name) or classifier.config.get(name) for name in names}
    form = {name: getattr(arguments, name) for name in ("delimiter", "encoding", "no_header")}
    rows, labels = read_labelled(arguments.file, classifier.labels, task, **columns, **form)
    logits_NK = classifier.logits_of_all(rows)
    found: dict[str, Any] = {"model": arguments.model, "file": arguments.file, "task": task}
    found["results"] = measure(task, logits_NK, labels, classifier.labels, classifier.thresholds)
    if task == "single":
        found["calibration"] = describe_calibration(logits_NK, np.asarray(labels))
    if output is not None:
        write_json(output, found)
    return found


def describe(found: dict[str, Any]) -> str:
    """What was measured, as a table for people."""
    task, results = found["task"], found["results"]
    measured = ", ".join(f"{TITLES[name]} {show(name, results[name])}" for name in METRICS[task])
    head = f"{found['file']}: {results['rows']:,} rows, {measured}"
    if task == "number":
        return head
    table = pd.DataFrame.from_dict(results["per_class"], orient="index").sort_values("f1", kind="stable")
    shares = dict.fromkeys(("precision", "recall", "f1"), "{:.1%}".format)
    labels = table.to_string(formatters=shares, max_rows=2 * SHOWN)
    parts = [head, f"Labels, the worst first:\n{labels}"]
    if task == "single":
        parts[0] += f" (95 % interval {results['accuracy_low']:.2%} to {results['accuracy_high']:.2%} of the accuracy)"
        names = list(results["per_class"])
        table = pd.DataFrame(results["confusion"], names, names)
        if len(names) > SHOWN:
            table = table.stack().rename_axis(["label", "answer"]).rename("rows").reset_index()
            table = table[table["label"] != table["answer"]].nlargest(SHOWN, "rows")
        parts.append(f"Confusion, true labels down, answers across:\n{table.to_string()}")
        line = "Calibration: expected error {ece:.2%}, negative log-likelihood {nll:.4g}, Brier score {brier:.4g}"
        parts.append(line.format(**found["calibration"]))
    return "\n\n".join(parts)
