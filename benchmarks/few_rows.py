"""What `wave-network finetune` learns from few rows, setting by setting, beside TF-IDF with a linear SVM.

    python benchmarks/few_rows.py --data ../shared/data
    python benchmarks/few_rows.py 20-newsgroups --rows 1000 --cases "--num_train_epochs 17"

Of each data set, 300 and 1,000 of the training rows are drawn anew for each seed, and 2,000 others test the model: no
test row is read. A run is what a user would start, who has these rows and no more: a tenth of them validate, and choose
the epoch that is kept. Runs are appended to benchmarks/results/few_rows.jsonl as they end, and those that are there
already are not repeated. The table of docs/reproduction.md is made from that file.
"""

import argparse
import contextlib
import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from wave_network.benchmarks.classification import SVM, run_svm, run_wave
from wave_network.training.recipes import DATA_SETS, DataSet
from wave_network.training.reproduce import find_folder
from wave_network.training.settings import as_words

RESULTS = Path(__file__).parent / "results" / "few_rows.jsonl"
ROWS = (300, 1000)
OTHERS = 2000
# What might become a default for few rows, beside what the default was.
CASES = ["--num_train_epochs 10", "--num_train_epochs 30", "--num_train_epochs 30 --restore magnitude"]


@contextlib.contextmanager
def draw_rows(data_set: DataSet, folder: Path, rows: int, seed: int) -> Iterator[Path]:
    """A folder with so many training rows and OTHERS as its test split, by the seed, while inside."""
    (path,) = find_folder(folder, data_set, is_alone=False).glob("train.*")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).sample(frac=1, random_state=seed)
    with tempfile.TemporaryDirectory() as temporary:
        drawn = Path(temporary) / data_set.folder
        drawn.mkdir()
        frame[:rows].to_csv(drawn / "train.csv", index=False)
        frame[rows : rows + OTHERS].to_csv(drawn / "test.csv", index=False)
        yield drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="data", help=f"of {', '.join(DATA_SETS)} (default: all there are)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the data sets")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="how many (default: 300 1000)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each case (default: 1)")
    parser.add_argument(
        "--cases", nargs="+", default=CASES, help="settings of finetune, each in one string (default: CASES in here)"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in DATA_SETS:
            parser.error(f"data must be of {', '.join(DATA_SETS)}, got {name!r}")
    names = arguments.names or [name for name in DATA_SETS if (arguments.data / DATA_SETS[name].folder).is_dir()]
    done = set()
    if RESULTS.exists():
        lines = map(json.loads, RESULTS.read_text().splitlines())
        done = {(row["data"], row["training_rows"], row["case"], row["seed"]) for row in lines}
    missing = [
        (name, rows, case, seed)
        for seed in range(arguments.seeds)
        for case in (SVM, *arguments.cases)
        for name in names
        for rows in arguments.rows
        if (name, rows, case, seed) not in done
    ]
    for name, rows, case, seed in tqdm(missing, desc="Runs", unit=" runs"):
        data_set = DATA_SETS[name]
        columns = {name: value for name, value in data_set.settings.items() if name.endswith(("column", "columns"))}
        with draw_rows(data_set, arguments.data, rows, seed) as drawn:
            if case == SVM:
                result = run_svm(str(drawn), **columns)
            else:
                words = [*as_words(columns), *shlex.split(case), "--disable_tqdm", "True"]
                result = run_wave(str(drawn), seed, shlex.join(words))
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"data": name, "training_rows": rows, "case": case, "seed": seed, **result}) + "\n")


if __name__ == "__main__":
    main()
