"""Accuracy of `wave-network finetune` beside TF-IDF with a linear SVM, on the same rows, over several seeds.

    python benchmarks/classification.py bbc_news ../shared/data/ag_news --seeds 5

Every run appends one line to benchmarks/results/classification.jsonl; runs that are there already are not repeated. The
table in the README is made from that file by benchmarks/tables.py.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from wave_network.benchmarks.machine import describe_run
from wave_network.training.baselines import train_svm
from wave_network.training.data import load_text_data

RESULTS = Path(__file__).parent / "results" / "classification.jsonl"
SVM = "TF-IDF 1-2-grams + linear SVM"


def run_wave(dataset: str, seed: int, settings: str) -> dict:
    """One run of the command, in a process of its own, as a user would start it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "wave_network.training.cli", "finetune", "--dataset", dataset]
        run = Path(folder) / "run"
        subprocess.run([*command, "--output_dir", str(run), "--seed", str(seed), *shlex.split(settings)], check=True)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {"settings": metrics["settings"], **summarise(metrics)}


def run_svm(dataset: str, **columns: Any) -> dict:
    """The rival that has no seed: it learns from training and validation rows, of columns named as for `finetune`."""
    with tempfile.TemporaryDirectory() as folder:
        train_svm(load_text_data(dataset, **columns), Path(folder), seed=0)
        metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    return summarise(metrics)


def summarise(metrics: dict) -> dict:
    """What a line takes over from `metrics.json`."""
    test = metrics["results"]["test"]
    return {
        **metrics["model"],
        **{name: metrics[name] for name in ("device", "versions")},
        "fingerprint": metrics["data"]["fingerprint"],
        "rows": metrics["data"]["rows"],
        "seconds": metrics["duration_seconds"],
        **describe_run(),
        "accuracy": test["accuracy"],
        "macro_f1": test["macro_f1"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="what `wave-network finetune --dataset` takes, with a test split")
    parser.add_argument("--seeds", type=int, default=5, help="seeds for each data set (default: 5)")
    parser.add_argument("--settings", default="", help="further settings of `finetune`, in one string")
    arguments = parser.parse_args()

    RESULTS.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(row["dataset"], row["model"], row["seed"]) for row in rows}
    for dataset in arguments.datasets:
        for seed in (None, *range(arguments.seeds)):
            model = SVM if seed is None else f"wave-network finetune {arguments.settings}".rstrip()
            if (Path(dataset).name, model, seed) in done:
                continue
            result = run_svm(dataset) if seed is None else run_wave(dataset, seed, arguments.settings)
            row = {"dataset": Path(dataset).name, "model": model, "seed": seed, **result}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
