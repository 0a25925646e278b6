"""How fast the stock models that ours is compared with are to learn: validation accuracy by learning rate.

    python benchmarks/rivals.py --data ../shared/data
    python benchmarks/rivals.py trec6 --kinds transformer --data ../shared/data

Each run is the recipe of `wave-network reproduce DATA-KIND` with another learning rate, on at most 8,000 training rows.
The test rows are not there to be read: a run is given a folder with training rows alone, of which validation is cut as
in benchmarks/search.py. Runs are appended to benchmarks/results/rivals.jsonl as they end, and those that are there
already are not run again, so the command can be stopped and repeated. A table of docs/reproduction.md is made of them.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wave_network.benchmarks.machine import describe_run
from wave_network.benchmarks.search import leave_out_test_rows
from wave_network.training.baselines import ModelMaker
from wave_network.training.finetune import finetune
from wave_network.training.recipes import DATA_SETS, RECIPES
from wave_network.training.reproduce import list_others
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

RESULTS = Path(__file__).parent / "results" / "rivals.jsonl"
DATA = ("trec6", "sst2", "ag-news")  # short texts, of which a run takes minutes
KINDS = ("transformer", "fnet")
LEARNING_RATES = (2e-4, 5e-4, 1e-3, 2e-3)
SEED = 0


def run_case(data: str, kind: str, learning_rate: float, folder: Path) -> dict[str, Any]:
    recipe = RECIPES[f"{data}-{kind}"]
    others = list_others({"model": recipe.model})
    model = {name: value for name, value in recipe.model.items() if name not in others}
    settings = {"seed": SEED, "disable_tqdm": True, "use_cpu": True}
    settings |= {**recipe.training, "learning_rate": learning_rate}
    with (
        leave_out_test_rows(DATA_SETS[data], folder, "defaults") as rows,
        tempfile.TemporaryDirectory() as temporary,
    ):
        run = finetune(
            DataArguments(**rows),
            ModelArguments(**model),
            RunArguments(f"{temporary}/run", **settings),
            make_model=ModelMaker(kind, others),
        )
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        "data": data,
        "kind": kind,
        "learning_rate": learning_rate,
        "seed": SEED,
        "validation_accuracy": metrics["best"]["value"],
        "best_epoch": metrics["best"]["epoch"],
        "rows": metrics["data"]["rows"],
        **metrics["model"],
        "seconds": metrics["duration_seconds"],
        "threads": torch.get_num_threads(),
        **{name: metrics[name] for name in ("device", "versions")},
        **describe_run(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="data", help=f"of {', '.join(DATA)} (default: all)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which models (default: all)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the data sets")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in DATA:
            parser.error(f"data must be of {', '.join(DATA)}, got {name!r}")

    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(row["data"], row["kind"], row["learning_rate"]) for row in rows}
    cases = itertools.product(arguments.names or DATA, arguments.kinds, LEARNING_RATES)
    for case in tqdm([case for case in cases if case not in done], desc="Runs", unit=" runs"):
        row = run_case(*case, arguments.data)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
