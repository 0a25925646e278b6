"""Texts a second from file to file, beside model2vec's classifier of the same teacher: `python -m research.throughput`.

    python -m research.throughput make --teacher TEACHER --train train.csv --rival rival
    python -m research.throughput measure --run runs/ag_news --rival rival --texts texts.csv

Both read a CSV with the column `text` and write a label and all probabilities, each in a process of its own, in turns.
Needs model2vec[distill]. What counts is the processor time of all threads and processes; other work on the machine
changes the seconds.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wave_network.files import append_line

from .runs import RESULTS, describe_measurement

ROUNDS = 2
CLASSIFY = """
import csv, sys
from model2vec.inference.model import StaticModelPipeline
folder, texts, output = sys.argv[1:]
pipeline = StaticModelPipeline.from_pretrained(folder)
with open(texts, encoding="utf-8", newline="") as file:
    texts = [row["text"] for row in csv.DictReader(file)]
names = list(pipeline.classes_)
with open(output, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["row", "label", "probability", *names])
    for row, values in enumerate(pipeline.predict_proba(texts).tolist()):
        best = max(values)
        writer.writerow([row, names[values.index(best)], f"{best:.6f}", *(f"{value:.6f}" for value in values)])
"""


def make_rival(teacher: str, train: str, folder: str) -> None:
    """Distils the teacher into a table of 256 dimensions and fits a linear head on its means."""
    import numpy as np
    from model2vec.distill import distill
    from model2vec.inference.mlp import Activation, Layer, MLPHead
    from model2vec.inference.model import StaticModelPipeline
    from sklearn.linear_model import LogisticRegression

    with open(train, encoding="utf-8", newline="") as file:
        texts, labels = zip(*((row["text"], row["label"]) for row in csv.DictReader(file)), strict=True)
    model = distill(teacher, device="cpu", pca_dims=256)
    head = LogisticRegression(max_iter=1000).fit(model.encode(list(texts)), labels)
    layer = Layer(head.coef_.astype(np.float32), head.intercept_.astype(np.float32))
    StaticModelPipeline(model, MLPHead([layer], Activation.SOFTMAX, head.classes_)).save_pretrained(folder)


def measure(name: str, words: list[str], count: int) -> dict[str, Any]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rates = {"texts_a_second": round(count / seconds, 1), "texts_a_processor_second": round(count / spent, 1)}
    figures = {"seconds": round(seconds, 1), "processor_seconds": round(spent, 1), **rates}
    return {"what": name, "texts": count, **figures, "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "measure"])
    for name in ("teacher", "train", "run", "rival", "texts"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    if arguments.what == "make":
        make_rival(arguments.teacher, arguments.train, arguments.rival)
        return
    origin = describe_measurement()
    with open(arguments.texts, encoding="utf-8", newline="") as file:
        count = sum(1 for _ in csv.DictReader(file))
    with tempfile.TemporaryDirectory() as folder:
        files = ["--file", arguments.texts, "--output", str(Path(folder) / "ours.csv"), "--overwrite"]
        commands = {
            "predict": [sys.executable, "-m", "wave_network", "predict", arguments.run, *files],
            "model2vec": [sys.executable, "-c", CLASSIFY, arguments.rival, arguments.texts, f"{folder}/theirs.csv"],
        }
        for _ in range(ROUNDS):
            for name, words in commands.items():
                found = measure(name, words, count)
                append_line(RESULTS / "throughput.jsonl", found | origin)
                print(found, flush=True)


if __name__ == "__main__":
    main()
