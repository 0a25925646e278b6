"""How much a few labelled rows bring, beside rivals on the same rows: `python -m research.few`.

Rows are drawn from a training file by a seed, and accuracy is measured on at most 2,000 rows of the test file. Nothing
is chosen by a test set. Results are lines of results/few.jsonl; what stands there is not run again. model2vec and
fastText are run where they are installed.
"""

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from wave_network import register
from wave_network.files import append_line, describe_run, read_json, read_lines
from wave_network.research.knowledge import Task, read_task
from wave_network.training.finetune import finetune
from wave_network.training.probe import cut_folds, fit_probe
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

RESULTS = Path(__file__).parent / "results" / "few.jsonl"
MOST_TESTED = 2000
# Each with its test file. banking77 and emotion have their own numbers of rows in place of 1,000.
TASKS = {
    "ag": (Task("ag_news/train.csv.gz", 128), "ag_news/test.csv.gz"),
    "imdb": (Task("imdb/train.csv.gz", 300), "imdb/test.csv.gz"),
    "sst2": (Task("sst2/train.csv.gz", 64, min_words=6), "sst2/validation.csv.gz"),
    "trec": (Task("trec6/train.csv", 64), "trec6/test.csv"),
    "20ng": (Task("20ng/train.csv.gz", 256), "20ng/test.csv.gz"),
    "banking77": (Task("eval/banking77/train.csv.gz", 64), "eval/banking77/test.csv.gz"),
    "emotion": (Task("eval/emotion/train.csv.gz", 64), "eval/emotion/test.csv.gz"),
}
MANY = {"banking77": 3000, "emotion": 2000}
FEW_TASKS = ("ag", "sst2", "trec")

Labelled = tuple[list[str], list[str]]


@dataclass
class Cell:
    """Drawn rows and test rows of one task."""

    train: Labelled
    test: Labelled
    max_length: int
    draw: int

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        names = sorted({*self.train[1], *self.test[1]})
        first, second = (np.array([names.index(label) for label in part[1]]) for part in (self.train, self.test))
        return first, second


def draw_cell(data: Path, name: str, count: int, draw: int) -> Cell:
    """As many rows of each class below 1,000 rows, and any rows from there on."""
    task, test_file = TASKS[name]
    texts, labels = read_task(data, task)
    order = list(range(len(texts)))
    random.Random(draw).shuffle(order)
    if count < 1000:
        seen: dict[str, int] = {}
        rank = {}
        for row in order:
            rank[row] = seen.get(labels[row], 0)
            seen[labels[row]] = rank[row] + 1
        order.sort(key=rank.__getitem__)  # the first row of each class, then the second ...
    test_texts, test_labels = read_task(data, Task(test_file, task.max_length))
    tested = list(range(len(test_texts)))
    random.Random(0).shuffle(tested)
    train = [texts[row] for row in order[:count]], [labels[row] for row in order[:count]]
    test = [test_texts[row] for row in tested[:MOST_TESTED]], [test_labels[row] for row in tested[:MOST_TESTED]]
    return Cell(train, test, task.max_length, draw)


def run_wave(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """`wave-network finetune`, without a setting but the length of the texts that are read."""
    with tempfile.TemporaryDirectory() as temporary:
        for split, part in (("train", cell.train), ("test", cell.test)):
            with Path(temporary, f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *zip(*part, strict=True)])
        settings = {"seed": cell.draw, "disable_tqdm": True, "logging_strategy": "no"}
        model = ModelArguments(arguments.model, max_length=cell.max_length)
        folder = finetune(DataArguments(temporary), model, RunArguments(str(Path(temporary, "run")), **settings))
        metrics = read_json(folder / "metrics.json")
    chosen = {name: metrics["settings"][name] for name in ("learning_rate", "num_train_epochs")}
    return {
        "accuracy": metrics["results"]["test"]["accuracy"],
        "validation": metrics["results"]["validation"]["accuracy"],
        "model": metrics["base_model"],
        **chosen,
    }


def run_tfidf(cell: Cell, make_classifier: Callable[[], Any]) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), make_classifier())
    return {"accuracy": float(model.fit(*cell.train).score(*cell.test))}


def run_svm(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    from sklearn.svm import LinearSVC

    return run_tfidf(cell, LinearSVC)


def run_logistic(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    return run_tfidf(cell, lambda: LogisticRegression(C=10, max_iter=1000))


def probe(cell: Cell, encode: Callable[[list[str]], np.ndarray]) -> dict[str, Any]:
    """Logistic regression on vectors, of the same kind and chosen in the same way as in `finetune`."""
    labels, test_labels = cell.labels
    folds = cut_folds(labels, cell.train[0], cell.draw)
    classes = int(max(labels.max(), test_labels.max())) + 1
    fitted, *_ = fit_probe(encode(cell.train[0]).astype(np.float64), labels, classes, folds)
    return {"accuracy": float((fitted(encode(cell.test[0])).argmax(-1) == test_labels).mean())}


@cache
def load_teacher(name: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(name, device="cpu")


@cache
def ask_teacher(name: str, texts: tuple[str, ...], max_length: int) -> np.ndarray:
    teacher = load_teacher(name)
    teacher.max_seq_length = max_length
    return teacher.encode(list(texts), batch_size=32, show_progress_bar=False)


def run_teacher(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """The teacher's sentence vectors."""
    return probe(cell, lambda texts: ask_teacher(arguments.teacher, tuple(texts), cell.max_length))


@cache
def load_static(name: str) -> str:
    """A folder with the static model that model2vec makes of the teacher, with its defaults."""
    from model2vec.distill import distill

    folder = tempfile.mkdtemp(prefix="static-")
    distill(model_name=name, device="cpu").save_pretrained(folder)
    return folder


def run_static(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """Its vectors."""
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(load_static(arguments.teacher))
    return probe(cell, lambda texts: np.asarray(model.encode(texts, max_length=cell.max_length)))


def run_static_tuned(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as model2vec fine-tunes it, with its defaults."""
    import torch
    from model2vec.train import StaticModelForClassification

    torch.manual_seed(cell.draw)
    model = StaticModelForClassification.from_pretrained(path=load_static(arguments.teacher))
    model.fit(*cell.train, device="cpu")
    return {"accuracy": float((np.asarray(model.predict(cell.test[0])) == np.array(cell.test[1])).mean())}


def run_fasttext(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """Lower-cased words and pairs of words, 50,000 texts in 25 epochs or more; the rest as fastText has it."""
    import fasttext

    def clean(text: str) -> str:
        return " ".join(text.lower().split())

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"__label__{label} {clean(text)}\n" for text, label in zip(*cell.train, strict=True))
        file.flush()
        epochs = max(25, 50_000 // len(cell.train[0]))
        model = fasttext.train_supervised(file.name, epoch=epochs, lr=0.5, wordNgrams=2, thread=1, verbose=0)
    found = model.predict([clean(text) for text in cell.test[0]])[0]
    right = [each[0] == f"__label__{label}" for each, label in zip(found, cell.test[1], strict=True)]
    return {"accuracy": float(np.mean(right))}


CASES: dict[str, Callable[[Cell, argparse.Namespace], dict[str, Any]]] = {
    "wave": run_wave,
    "svm": run_svm,
    "logistic": run_logistic,
    "teacher": run_teacher,
    "static": run_static,
    "static, fine-tuned": run_static_tuned,
    "fasttext": run_fasttext,
}
NEEDS = {"static": "model2vec", "static, fine-tuned": "model2vec", "fasttext": "fasttext"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--teacher", required=True, help="sentence encoder of the cases teacher and static")
    parser.add_argument("--model", default="auto", help="what `finetune` starts from")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 64, 500, 1000])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    register()
    keys = ("task", "rows", "draw", "case")
    done = [tuple(line[key] for key in keys) for line in read_lines(arguments.results)]
    for draw in arguments.draws:
        for name in arguments.tasks:
            for rows in arguments.rows:
                if rows < 1000 and name not in FEW_TASKS:
                    continue
                count = MANY.get(name, rows) if rows == 1000 else rows
                cases = [case for case in arguments.cases if (name, count, draw, case) not in done]
                cell = draw_cell(arguments.data, name, count, draw) if cases else None
                for case in cases:
                    if case in NEEDS and find_spec(NEEDS[case]) is None:
                        print(f"{case}: {NEEDS[case]} is not installed.")
                        continue
                    start = time.perf_counter()
                    result = CASES[case](cell, arguments)
                    line = dict(zip(keys, (name, count, draw, case), strict=True)) | result
                    line |= {"test_rows": len(cell.test[0]), "seconds": round(time.perf_counter() - start, 1)}
                    append_line(arguments.results, line | describe_run())
                    print(line, flush=True)


if __name__ == "__main__":
    main()
