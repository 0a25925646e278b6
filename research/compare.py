"""Compares settings of `wave-network finetune`: `python -m research.compare few-rows --data path/to/data`.

An experiment runs each case on each data set over several seeds. A finished run is a line in results/EXPERIMENT.jsonl,
and is not run again. The tables of docs/results.md are made of these lines.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wave_network.files import append_line, read_lines

from .recipes import DATA_SETS, Settings
from .runs import RESULTS, describe_measurement, locate_rows, split_model, summarise, train

SVM = "svm"  # the case of TF-IDF with a linear SVM
FIVE = ("ag-news", "imdb", "sst2", "trec6", "20-newsgroups")
Case = str | Settings


@dataclass(frozen=True)
class Experiment:
    """
    Attributes:
        data: Names in DATA_SETS, and the cases of each: SVM, or settings of `finetune`.
        seeds: How many, by default.
        rows: How many training rows are drawn anew for each seed; None: all, and the test split is read.
        others: How many other training rows test the model. 0: none, and the best validation accuracy is the result.
    """

    about: str
    data: dict[str, Sequence[Case]]
    seeds: int
    rows: tuple[int | None, ...] = (None,)
    others: int = 0


NEW = {"model": "none"}
PACKED = {**NEW, "packing": True}  # the same results, sooner
BARE = {**PACKED, "conv_kernel_size": 0, "subword_buckets": 0}  # the paper's layer on its own
EXPERIMENTS = {
    "classification": Experiment(
        "finetune without settings, a new model, and a linear SVM",
        {"bbc-news": (SVM, NEW, {}), "ag-news": (SVM, {**NEW, "num_train_epochs": 3}, {})},
        seeds=5,
    ),
    "few-rows": Experiment(
        "how many epochs a new model takes of few training rows",
        dict.fromkeys(
            FIVE,
            (
                SVM,
                {**NEW, "num_train_epochs": 10},
                {**NEW, "num_train_epochs": 30},
                {**NEW, "num_train_epochs": 30, "restore": "magnitude"},
            ),
        ),
        seeds=2,
        rows=(300, 1000),
        others=2000,
    ),
    "defaults": Experiment(
        "what became a default of a new model, and what did not",
        dict.fromkeys(
            FIVE,
            (
                BARE,
                {**PACKED, "subword_buckets": 0},
                {**PACKED, "subword_buckets": 16384},
                {**PACKED, "subword_buckets": 16384, "restore": "magnitude"},
            ),
        ),
        seeds=1,
        rows=(8000,),
    ),
    "choices": Experiment(
        "what the paper leaves open",
        {
            "ag-news": [
                {**BARE, "num_train_epochs": 3, **case}
                for case in (
                    {},
                    {"wave_operation": "interference"},
                    {"position_embedding_type": "none"},
                    {"position_embedding_type": "absolute"},
                    {"classifier_pooling": "max"},
                    {"classifier_pooling": "cls"},
                    {"hidden_dropout_prob": 0.0},
                    {"hidden_dropout_prob": 0.1},
                    {"magnitude": "rms"},
                )
            ]
        },
        seeds=2,
        rows=(8000,),
        others=8000,
    ),
    "dropout": Experiment(
        "dropout on the embeddings, at two commits",
        {"bbc-news": ({**NEW, "num_train_epochs": 5},), "trec6": (NEW,)},
        seeds=5,
    ),
}


def compare(
    name: str,
    data: Sequence[str],
    seeds: int | None = None,
    *,
    folder: Path | None = None,
    results: Path | None = None,
    again: bool = False,
    experiments: dict[str, Experiment] = EXPERIMENTS,
) -> list[dict[str, Any]]:
    """
    Runs what an experiment lacks, and returns the lines it has.

    Args:
        data: Names of data sets; none: all.
        folder: Folder that holds the data sets; None for those on the Hub.
        results: The file of lines; None: results/NAME.jsonl.
        again: Also runs what was measured at another commit.
    """
    experiment, where = experiments[name], describe_measurement()
    results = results or RESULTS / f"{name}.jsonl"
    for chosen in data:
        if chosen not in experiment.data:
            raise ValueError(f"{name} has no data set {chosen!r}; it has {', '.join(experiment.data)}.")
    for seed in range(seeds or experiment.seeds):
        for chosen in data or experiment.data:
            for rows in experiment.rows:
                for case in experiment.data[chosen]:
                    key = {"data": chosen, "training_rows": rows, "case": case, "seed": seed}
                    key |= {"commit": where["commit"]} if again else {}
                    is_done = any(key.items() <= line.items() for line in read_lines(results))
                    if is_done or (case == SVM and rows is None and seed):  # an SVM has no seed
                        continue
                    print(f"{name}: {key}", flush=True)
                    append_line(results, key | run_case(experiment, chosen, rows, case, seed, folder) | where)
    return read_lines(results)


def run_case(
    experiment: Experiment, data: str, rows: int | None, case: Case, seed: int, folder: Path | None
) -> dict[str, Any]:
    """What one run reached."""
    source = locate_rows(DATA_SETS[data], folder)
    with tempfile.TemporaryDirectory() as temporary:
        if rows is not None:
            source = draw_rows(source, Path(temporary, "rows"), rows, experiment.others, seed)
        model, training = ({}, {}) if isinstance(case, str) else split_model(case)
        kind = SVM if case == SVM else "wave"
        metrics, _ = train(Path(temporary, "run"), kind, source, model, training, seed)
        return summarise(metrics)


def draw_rows(source: Settings, folder: Path, rows: int, others: int, seed: int) -> Settings:
    """Writes so many training rows of a local data set, and others as its test split, and says how they are read."""
    (path,) = Path(source["dataset"]).glob("train.*")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).sample(frac=1, random_state=seed)
    folder.mkdir()
    frame[:rows].to_csv(folder / "train.csv", index=False)
    if others:
        frame[rows : rows + others].to_csv(folder / "test.csv", index=False)
        source = {name: value for name, value in source.items() if name.endswith(("column", "columns"))}
    return {name: value for name, value in source.items() if name != "test_split"} | {"dataset": str(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "; ".join(f"{name}: {experiment.about}" for name, experiment in EXPERIMENTS.items())
    parser.add_argument("name", choices=EXPERIMENTS, metavar="EXPERIMENT", help=about)
    parser.add_argument("only", nargs="*", metavar="DATA", help="its data sets (default: all)")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1 ... of each case (default: as the experiment says)")
    parser.add_argument("--data", type=Path, help="folder that holds the data sets (default: the Hub)")
    parser.add_argument("--again", action="store_true", help="also run what was measured at another commit")
    arguments = parser.parse_args()
    try:
        compare(arguments.name, arguments.only, arguments.seeds, folder=arguments.data, again=arguments.again)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
