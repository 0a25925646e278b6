"""How the settings of our recipes were found: validation accuracy of `wave-network finetune`, case by case.

    python benchmarks/search.py ag-news imdb --data ../shared/data --jobs 2
    python benchmarks/search.py --folds --data ../shared/data --jobs 2
    python benchmarks/search.py --defaults --data ../shared/data --jobs 2

The second command compares what was left in the end by cross-validation, on every training row. The third asks the same
of what might become a default of `finetune`, on at most 8,000 training rows, which is what a user has. Each case
differs from the base of its data set in what it says; one with a `model` goes on from the run of that recipe with the
same seed, which `wave-network reproduce` has left. The test rows are not there to be read: a run is given a folder
with the training rows alone, of which validation is cut as in the recipe. Runs are appended to
benchmarks/results/search.jsonl, folds.jsonl or defaults.jsonl as they end, and those that are there already are not run
again, so the command can be stopped and repeated. The tables of docs/reproduction.md are made from these files.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import ChainMap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from wave_network import WaveConfig
from wave_network.benchmarks.machine import describe_run
from wave_network.training.recipes import DATA_SETS, DataSet
from wave_network.training.reproduce import find_folder
from wave_network.training.settings import as_words

RESULTS = Path(__file__).parent / "results"

# What the cases are compared with. Not taken from recipes.py, whose settings move with what wins here.
BASE = {
    "hidden_size": 48,
    "vocab_size": 30000,
    "ngram_vocab_size": 18000,
    "conv_kernel_size": 3,
    "wave_operation": "interference",
    "position_embedding_type": "none",
    "hidden_dropout_prob": 0.4,
    "mixup_alpha": 1.0,
    "adam_beta2": 0.99,
    "packing": True,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 4,
}
# What is not in the settings of a case is off, whatever the defaults of `finetune`.
OFF = {"conv_kernel_size": 0, "subword_buckets": 0}
# Parts of cases: a table of pairs for a medium model, and what had won on questions and on phrases.
MANY_PAIRS = {"hidden_size": 128, "ngram_vocab_size": 480000, "ngram_hidden_size": 16}
QUESTIONS = {"vocab_size": 8192, "wave_operation": "modulation", "magnitude": "rms", "subword_buckets": 50000}
PHRASES = {"vocab_size": 20000, "token_dropout_prob": 0.2, "subword_buckets": 50000}
# A model that has learned from reviews of films already; its architecture is what it is.
OF_A_NEW_MODEL = [name for name in BASE if hasattr(WaveConfig, name)]
FROM_REVIEWS = {"model": "imdb-medium", "subword_buckets": 50000, **dict.fromkeys(OF_A_NEW_MODEL)}
CASES: dict[str, tuple[dict, list[dict]]] = {
    "trec6": (
        {"hidden_size": 96, "per_device_train_batch_size": 32, "num_train_epochs": 12},
        [
            {"position_embedding_type": "sinusoidal"},
            {"position_embedding_type": "absolute", "max_length": 64},
            {"mixup_alpha": 0.0},
            {"classifier_pooling": "max"},
            {"ngram_vocab_size": None},
            {"conv_kernel_size": None},
            {"conv_kernel_size": 5},
            {"wave_operation": "modulation"},
            {"magnitude": "rms"},
            {"hidden_dropout_prob": 0.6},
            {"token_dropout_prob": 0.1},
            {"learning_rate": 2e-3},
            {"num_hidden_layers": 2},
            {"hidden_size": 256},
            {"wave_operation": "modulation", "magnitude": "rms"},
            {"wave_operation": "modulation", "magnitude": "rms", "hidden_size": 256},
            {"wave_operation": "modulation", "magnitude": "rms", "num_hidden_layers": 2},
            {"subword_buckets": 50000},
            {"wave_operation": "modulation", "magnitude": "rms", "subword_buckets": 50000},
            QUESTIONS | {"ngram_vocab_size": 16000, "ema_decay": 0.99},
            QUESTIONS | {"ngram_vocab_size": 100000, "ngram_hidden_size": 8},
            QUESTIONS | {"hidden_size": 256, "ngram_vocab_size": 16000},
            QUESTIONS | MANY_PAIRS | {"hidden_size": 256},
            QUESTIONS | MANY_PAIRS | {"hidden_size": 256, "ngram_size": 3},
            QUESTIONS | {"ngram_vocab_size": 16000, "wave_operation": "interference"},
            QUESTIONS | {"ngram_vocab_size": 16000, "wave_operation": "interference", "restore": "magnitude"},
        ],
    ),
    "sst2": (
        {"hidden_size": 120, "ngram_vocab_size": None, "num_train_epochs": 3},
        [
            {"hidden_size": 64, "ngram_vocab_size": 16000},
            {"magnitude": "rms"},
            {"wave_operation": "modulation"},
            {"wave_operation": "modulation", "magnitude": "rms"},
            {"classifier_pooling": "max"},
            {"position_embedding_type": "sinusoidal"},
            {"conv_kernel_size": 5},
            {"mixup_alpha": 0.0},
            {"hidden_dropout_prob": 0.6},
            {"token_dropout_prob": 0.2},
            {"num_hidden_layers": 2},
            {"mixup_alpha": 0.0, "token_dropout_prob": 0.2},
            {"mixup_alpha": 0.0, "token_dropout_prob": 0.2, "subword_buckets": 50000},
            PHRASES | {"hidden_size": 112},
            PHRASES | {"hidden_size": 112, "ema_decay": 0.999},
            PHRASES | {"hidden_size": 112, "restore": "magnitude"},
            PHRASES | {"hidden_size": 72, "ngram_vocab_size": 60000, "ngram_hidden_size": 12},
            PHRASES | {"hidden_size": 320},
            PHRASES | {"hidden_size": 256, "ngram_vocab_size": 400000, "ngram_hidden_size": 16},
            FROM_REVIEWS,
            FROM_REVIEWS | {"num_train_epochs": 2},
        ],
    ),
    "20-newsgroups": (
        {"max_length": 1024, "per_device_train_batch_size": 32, "num_train_epochs": 12},
        [
            {"mixup_alpha": 0.0},
            {"ngram_vocab_size": None, "hidden_size": 76},
            {"magnitude": "rms"},
            {"learning_rate": 2e-3},
            {"hidden_size": 128, "ngram_vocab_size": 60000},
            {"subword_buckets": 50000},
            {"subword_buckets": 50000, "hidden_size": 128, "ngram_vocab_size": 60000},
            {"subword_buckets": 50000, **MANY_PAIRS},
            {"subword_buckets": 50000, "restore": "magnitude"},
        ],
    ),
    "ag-news": (
        {},
        [
            {"hidden_size": 128, "ngram_vocab_size": 60000},
            {"mixup_alpha": 0.0},
            {"adam_beta2": 0.999},
            {"ngram_vocab_size": None, "hidden_size": 76},
            {"conv_kernel_size": None},
            {"wave_operation": "modulation"},
            {"magnitude": "rms"},
            {"vocab_size": 8192, "hidden_size": 96, "ngram_vocab_size": 16384},
            {"ema_decay": 0.999},
            {"subword_buckets": 50000},
            {"subword_buckets": 50000, "ema_decay": 0.999},
            {"subword_buckets": 50000, "ngram_vocab_size": 72000, "ngram_hidden_size": 12},
            {"subword_buckets": 50000, "hidden_size": 128, "ngram_vocab_size": 60000},
            {"subword_buckets": 50000, **MANY_PAIRS},
            {"subword_buckets": 50000, "ema_decay": 0.999, "num_train_epochs": 3},
            {"subword_buckets": 50000, "ema_decay": 0.9995},
            {"subword_buckets": 50000, "ema_decay": 0.999, **MANY_PAIRS},
            {"subword_buckets": 50000, "ema_decay": 0.999, "restore": "magnitude"},
            {"subword_buckets": 50000, "ema_decay": 0.999, "restore": "magnitude", "hidden_size": 240},
        ],
    ),
    "imdb": (
        {"max_length": 1024},
        [
            {"hidden_size": 128, "ngram_vocab_size": 60000},
            {"max_length": 512},
            {"magnitude": "rms"},
            {"mixup_alpha": 0.0},
            {"subword_buckets": 50000},
            {"subword_buckets": 50000, "ema_decay": 0.999},
            {"subword_buckets": 50000, "hidden_size": 128, "ngram_vocab_size": 60000},
            {"subword_buckets": 50000, **MANY_PAIRS},
            {"subword_buckets": 50000, "restore": "magnitude"},
        ],
    ),
}

# What was too close to be decided by one validation split, in the order in which it was found.
FOLDS = 5
FINALISTS: dict[str, list[dict]] = {
    "trec6": [
        QUESTIONS | {"ngram_vocab_size": 16000},
        QUESTIONS | {"ngram_vocab_size": 16000, "wave_operation": "interference", "restore": "magnitude"},
    ],
    "ag-news": [
        {"subword_buckets": 50000, "ema_decay": 0.999},
        {"subword_buckets": 50000, "ema_decay": 0.999, "restore": "magnitude"},
    ],
}

# The defaults that `finetune` has had, and on all data sets what might become one.
MOST_ROWS = 8000
DEFAULTS = {
    "hidden_size": 128,
    "vocab_size": 8192,
    "wave_operation": "modulation",
    "position_embedding_type": "sinusoidal",
    "hidden_dropout_prob": 0.5,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 10,
    "packing": True,  # the same results, sooner
}
CANDIDATES = [
    {"conv_kernel_size": 3},
    {"conv_kernel_size": 3, "subword_buckets": 50000},
    {"conv_kernel_size": 3, "subword_buckets": 50000, "mixup_alpha": 1.0},
    {"conv_kernel_size": 3, "subword_buckets": 16384},
    {"conv_kernel_size": 3, "subword_buckets": 16384, "restore": "magnitude"},
    {
        "conv_kernel_size": 3,
        "subword_buckets": 16384,
        "restore": "magnitude",
        "wave_operation": "interference",
        "position_embedding_type": "none",
    },
]


def settle(*parts: dict) -> dict:
    """Settings, of which later ones count. What is None there is left out."""
    return {name: value for name, value in ChainMap(*reversed(parts)).items() if value is not None}


def list_cases(data: str, kind: str = "search") -> list[tuple[dict, dict]]:
    """What differs from the base of a data set, and all settings; of "search" and "defaults" first the base itself."""
    if kind == "defaults":
        base, cases = DEFAULTS, [{}, *CANDIDATES]
    else:
        base, cases = BASE | CASES[data][0], FINALISTS[data] if kind == "folds" else [{}, *CASES[data][1]]
    return [(case, settle(base, case)) for case in cases]


@contextlib.contextmanager
def leave_out_test_rows(data_set: DataSet, folder: Path, kind: str = "search", fold: int = 0) -> Iterator[dict]:
    """
    The settings of a data set whose folder has the training rows alone, while inside. Of "defaults" it has MOST_ROWS of
    them, of "folds" a fold of them as the validation split.
    """
    rows = {**data_set.settings, **data_set.in_folder}
    rows.pop("test_split", None)
    with tempfile.TemporaryDirectory() as temporary:
        training_rows = Path(temporary) / data_set.folder
        training_rows.mkdir()
        for path in find_folder(folder, data_set, is_alone=False).glob("train.*"):
            if kind == "search":
                (training_rows / path.name).symlink_to(path.resolve())
                continue
            frame = pd.read_csv(path, dtype=str, keep_default_na=False).sample(frac=1, random_state=0)
            parts = {"train": frame[:MOST_ROWS]}
            if kind == "folds":
                validation = frame[fold::FOLDS]
                parts = {"train": frame.drop(validation.index), "validation": validation}
            for split, part in parts.items():
                part.sort_index().to_csv(training_rows / f"{split}.csv", index=False)
        yield {"dataset": str(training_rows), **rows}


def run_case(
    data: str, case: dict, settings: dict, seed: int, folder: Path, starts: Path, threads: int, kind: str = "search"
) -> dict:
    """One run. Its seed is the number of the fold, where there are folds."""
    given = OFF | settings
    if "model" in settings:
        given["model"] = str(starts / settings["model"] / f"seed-{seed}")
        del given["conv_kernel_size"]
    with leave_out_test_rows(DATA_SETS[data], folder, kind, seed) as rows, tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = [sys.executable, "-m", "wave_network.training.cli", "finetune"]
        words = as_words({**rows, "output_dir": str(run), "seed": seed, **given})
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(
            [*command, *words, "--disable_tqdm", "True"], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ChildProcessError(f"{data}, {case}: {done.stderr[-2000:]}")
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        history = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {
        "data": data,
        "case": case,
        "settings": settings,
        "seed": seed,
        "validation_accuracy_by_epoch": [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry],
        "validation_nll": metrics["calibration"]["validation"]["nll"],
        "rows": metrics["data"]["rows"],
        **metrics["model"],
        "seconds": metrics["duration_seconds"],
        **{name: metrics[name] for name in ("device", "versions")},
        **describe_run(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="data", help=f"of {', '.join(CASES)} (default: all)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--defaults", action="store_true", help="start from the defaults of finetune, not from our recipes"
    )
    kinds.add_argument(
        "--folds", action="store_true", help=f"{FOLDS}-fold cross-validation of what one split cannot decide"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the data sets")
    parser.add_argument(
        "--starts", type=Path, default=Path("runs/reproduce"), help="folder of the runs that cases go on from"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each case (default: 1); folds have one each")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, which share the cores (default: 1)")
    arguments = parser.parse_args()
    kind = "defaults" if arguments.defaults else "folds" if arguments.folds else "search"
    names = FINALISTS if arguments.folds else CASES
    for name in arguments.names:
        if name not in names:
            parser.error(f"data must be of {', '.join(names)}, got {name!r}")

    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    results = RESULTS / f"{kind}.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["data"], json.dumps(row["settings"], sort_keys=True), row["seed"]) for row in rows}
    missing = []
    for data in arguments.names or names:
        for case, settings in list_cases(data, kind):
            for seed in range(FOLDS if arguments.folds else arguments.seeds):
                if (data, json.dumps(settings, sort_keys=True), seed) not in done:
                    missing.append((data, case, settings, seed, arguments.data, arguments.starts, threads, kind))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run_case, *task) for task in missing]
        for run in tqdm(as_completed(runs), total=len(runs), desc="Runs", unit=" runs"):
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run.result()) + "\n")


if __name__ == "__main__":
    main()
