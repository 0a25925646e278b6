"""Settings of `wave-network finetune` compared by cross-validation on training rows; no test row is read.

    python benchmarks/folds.py bbc_news --case "" --case "--hidden_dropout_prob 0.3"

Each fold of each case appends one line to benchmarks/results/folds.jsonl; those that are there are not run again. The
accuracy of a fold is that of its best epoch, which leans to the good side, for every case alike.
"""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from sklearn.model_selection import StratifiedKFold

from wave_network.training.data import load_text_data

RESULTS = Path(__file__).parent / "results" / "folds.jsonl"
FOLDS = 5


def run_fold(train, validation, settings: str, fold: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        data.mkdir()
        train.to_json(data / "train.jsonl")
        validation.to_json(data / "validation.jsonl")
        command = [sys.executable, "-m", "wave_network.training.cli", "finetune", "--dataset", str(data)]
        subprocess.run([*command, "--output_dir", str(run), *shlex.split(settings)], check=True)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        "settings": settings,
        "fold": fold,
        "accuracy": metrics["results"]["validation"]["accuracy"],
        "best_epoch": metrics["best"]["epoch"],
        "rows": metrics["data"]["rows"],
        "seconds": metrics["duration_seconds"],
        "all_settings": metrics["settings"],
        "seed": metrics["seed"],
        "device": metrics["device"],
        "versions": metrics["versions"],
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="what `wave-network finetune --dataset` takes")
    parser.add_argument("--case", action="append", required=True, help="settings of a case, in one string; repeatable")
    arguments = parser.parse_args()

    data = load_text_data(arguments.dataset)
    rows = [
        {"text": text, "label": data.label_names[label]}
        for part in (data.train, data.validation)
        for text, label in zip(part["text"], part["label"], strict=True)
    ]
    table = type(data.train).from_list(rows)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    folds = list(splitter.split(rows, table["label"]))
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    known = {(row["dataset"], row["settings"], row["fold"]) for row in done}
    for fold, (train, validation) in enumerate(folds):
        for settings in arguments.case:
            if (data.name, settings, fold) in known:
                continue
            row = {"dataset": data.name, **run_fold(table.select(train), table.select(validation), settings, fold)}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
