"""`wave-network evaluate`: how good a classifier is on a labelled file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import AutoConfig

from ..data.load import read_labelled
from ..data.measure import PROBLEMS, describe_calibration, measure
from ..files import check_source, refuse_existing, write_json
from .classifier import load, resolve_device
from .classify import resolve_problem
from .predict import ReadArguments

TASKS = {problem: task for task, problem in PROBLEMS.items()}
# Of so many labels all are printed, and a matrix; of more as many, and the most frequent confusions.
SHOWN = 12


@dataclass
class EvaluateArguments(ReadArguments):
    """What to measure, and on what."""

    _argument_group_name = "settings"

    model: str = field(metadata={"help": "Run folder, or name of a model on the Hub."})
    file: str = field(metadata={"help": "Labelled texts: any file that finetune reads."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write, with all figures."})
    label_column: list[str] | None = field(
        default=None, metadata={"help": "Column with the label, or one for each label. Default: as it was trained."}
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "What stands between the labels of a cell, such as ';'."}
    )


def evaluate(arguments: EvaluateArguments) -> dict[str, Any]:
    """
    Measures a classifier on the labelled rows of a file, by default in the columns that it was trained on.

    Returns:
        `task`, `results` as in `metrics.json` of a run, and of "single" `calibration`. `output` has the same.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set.
        ValueError, OSError: The model, the file, a column or a label is not as it must be; the message names it.
    """
    output = None if arguments.output is None else Path(arguments.output).expanduser()
    if output is not None:
        if output.suffix.lower() != ".json" or not output.parent.is_dir():
            raise ValueError(f"`output` must be a .json file in a folder that exists, got {str(output)!r}.")
        refuse_existing(output, arguments.overwrite)
    resolve_device(arguments.device)
    check_source("model", arguments.model)
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    label_names = [config.id2label[index] for index in range(len(config.id2label))]
    task = TASKS[resolve_problem(config.problem_type, len(label_names))]
    names = ("text_columns", "label_column", "label_separator")
    columns: dict[str, Any] = {name: getattr(arguments, name) or getattr(config, name, None) for name in names}
    form = {name: getattr(arguments, name) for name in ("delimiter", "encoding", "no_header")}
    # The file before the weights, which may have to come from the Hub.
    rows, labels = read_labelled(arguments.file, label_names, task, **columns, **form)
    names = ("device", "batch_size", "trust_remote_code")
    classifier = load(arguments.model, **{name: getattr(arguments, name) for name in names})
    logits_NK = classifier.logits_of_all(rows)
    thresholds = getattr(config, "classifier_thresholds", None)
    found: dict[str, Any] = {"model": arguments.model, "file": arguments.file, "task": task}
    found["results"] = measure(task, logits_NK, labels, label_names, thresholds)
    if task == "single":
        found["calibration"] = describe_calibration(logits_NK, np.asarray(labels))
    if output is not None:
        write_json(output, found)
    return found


def describe(found: dict[str, Any]) -> str:
    """What was measured, as a table for people."""
    results = found["results"]
    head = f"{found['file']}: {results['rows']:,} rows, "
    if found["task"] == "number":
        return head + ", ".join(f"{name} {results[name]:.4g}" for name in ("spearman", "pearson", "mse", "mae"))
    shares = ("accuracy", "accuracy_low", "accuracy_high", "micro_f1", "macro_f1", "subset_accuracy")
    percent = {name: f"{results[name]:.2%}" for name in shares if name in results}
    if found["task"] == "multi":
        head += "micro F1 {micro_f1}, macro F1 {macro_f1}, all labels right {subset_accuracy}".format(**percent)
    else:
        interval = "95 % interval {accuracy_low} to {accuracy_high}".format(**percent)
        head += "accuracy {accuracy} ({interval}), macro F1 {macro_f1}".format(interval=interval, **percent)
    table = pd.DataFrame.from_dict(results["per_class"], orient="index").sort_values("f1", kind="stable")
    formats = dict.fromkeys(("precision", "recall", "f1"), "{:.1%}".format)
    parts = [head, f"Labels, the worst first:\n{table.to_string(formatters=formats, max_rows=2 * SHOWN)}"]
    if found["task"] == "single":
        names, counts = list(results["per_class"]), np.asarray(results["confusion"])
        table = pd.DataFrame(counts, names, names)
        if len(names) > SHOWN:
            table = table.stack().rename_axis(["label", "answer"]).rename("rows").reset_index()
            table = table[table["label"] != table["answer"]].nlargest(SHOWN, "rows")
        parts.append(f"Confusion, true labels down, answers across:\n{table.to_string()}")
        calibration = found["calibration"]
        parts.append(
            f"Calibration: expected error {calibration['ece']:.2%}, negative log-likelihood {calibration['nll']:.4g}, "
            f"Brier score {calibration['brier']:.4g}"
        )
    return "\n\n".join(parts)
