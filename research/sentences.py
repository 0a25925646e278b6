"""What the English encoder is worth as a sentence encoder, and what it costs: `python -m research.sentences`.

Beside its teacher and, where model2vec is installed, the static model that it makes of the same teacher. STS-B:
Spearman's correlation of cosines and marks on the test set. Times: texts of one length, in turns, the median of rounds.
"""

import argparse
import csv
import gzip
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from wave_network import ENGLISH, register
from wave_network.files import append_line, describe_run
from wave_network.research.few import load_static, load_teacher

RESULTS = Path(__file__).parent / "results" / "sentences.jsonl"
TEXTS, TOKENS, ROUNDS = 32, 128, 15

Encode = Callable[[list[str]], np.ndarray]
Parts = tuple[Encode, Callable[[list[str]], Any], Callable[[Any], object]]


def load_transformer(name: str) -> Parts:
    """How sentences are encoded, and the two parts of it: tokenizer and model."""
    model = load_teacher(name)
    tokenizer = model.tokenizer

    def tokenize(texts: list[str]) -> Any:
        return tokenizer(texts, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")

    def run(batch: Any) -> object:
        with torch.inference_mode():
            return model(dict(batch))["sentence_embedding"]

    return lambda texts: model.encode(texts, show_progress_bar=False), tokenize, run


def load_static_model(name: str) -> Parts:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(load_static(name))

    def run(ids: list[list[int]]) -> object:
        return [model.embedding[each].mean(0) for each in ids]

    return lambda texts: np.asarray(model.encode(texts)), model.tokenize, run


def measure_sts(file: Path, encode: Encode) -> float:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    first, second = (encode([row[name] for row in rows]) for name in ("text", "text2"))
    cosines = (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return float(spearmanr(cosines, [float(row["label"]) for row in rows]).statistic)


def take_time(cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with eval/stsb and ag_news")
    parser.add_argument("--teacher", required=True)
    arguments = parser.parse_args()
    register()
    models = {"wave": load_transformer(str(ENGLISH)), "teacher": load_transformer(arguments.teacher)}
    if find_spec("model2vec") is not None:
        models["static"] = load_static_model(arguments.teacher)
    with gzip.open(arguments.data / "ag_news/train.csv.gz", "rt", encoding="utf-8", newline="") as opened:
        words = " ".join(row["text"] for _, row in zip(range(2000), csv.DictReader(opened), strict=False)).split()
    texts = [" ".join(words[place * TOKENS : (place + 1) * TOKENS]) for place in range(TEXTS)]
    batches = {name: tokenize(texts) for name, (_, tokenize, _) in models.items()}
    encoding = take_time({name: lambda name=name: models[name][2](batches[name]) for name in models})  # type: ignore[misc]
    cutting = take_time({name: lambda name=name: models[name][1](texts) for name in models})  # type: ignore[misc]
    for name, (encode, _, _) in models.items():
        line = {
            "case": name,
            "stsb_test": measure_sts(arguments.data / "eval/stsb/test.csv.gz", encode),
            "encoder_tokens_per_second": TEXTS * TOKENS / encoding[name],
            "tokenizer_tokens_per_second": TEXTS * TOKENS / cutting[name],
            "threads": torch.get_num_threads(),
        }
        append_line(RESULTS, line | describe_run())
        print(line, flush=True)


if __name__ == "__main__":
    main()
