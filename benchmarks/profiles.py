"""Where the time goes in the steps whose bar was missed: `python benchmarks/profiles.py`.

One line for each case in benchmarks/results/profiles.jsonl: the operators of a step by the time they take themselves,
from torch.profiler, in one thread, where the times of the operators add up to that of the step. What is there already
for this commit and day is not measured again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from wave_network.benchmarks import sparse_table
from wave_network.benchmarks.cases import CONTENDERS, Setting
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.benchmarks.models import build, make_step, prepare
from wave_network.benchmarks.texts import load_corpus

RESULTS = Path(__file__).parent / "results" / "profiles.jsonl"
STEPS, SHOWN = 30, 10


def make_training_step(sparse: bool, data: Path) -> Callable[[int], object]:
    batches = sparse_table.make_batches(data, 8, seed=0)
    step, _ = sparse_table.make_step(sparse, seed=0)
    return lambda turn: step(batches[turn % len(batches)])


def make_inference(name: str, data: Path) -> Callable[[int], object]:
    corpus, setting, contender = load_corpus(data), Setting(), CONTENDERS[name]
    model = build(contender, setting, vocab_size=corpus.vocab_size, num_labels=corpus.num_labels)
    return make_step(contender, prepare(contender, model, "inference"), "inference", setting, corpus.batches(setting))


CASES: dict[str, Callable[[Path], Callable[[int], object]]] = {
    "training step, D 128, 16 x 32, dense table": lambda data: make_training_step(False, data),
    "training step, D 128, 16 x 32, sparse table": lambda data: make_training_step(True, data),
    "inference, D 768, 32 x 128, ours compiled": lambda data: make_inference("ours, compiled", data),
    "inference, D 768, 32 x 128, ours": lambda data: make_inference("ours", data),
}


def measure(make: Callable[[Path], Callable[[int], object]], data: Path) -> dict:
    step = make(data)
    for turn in range(8):
        step(turn)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        for turn in range(STEPS):
            step(turn)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events) / 1000 / STEPS
    shown = [
        {
            "operator": event.key,
            "ms": round(event.self_cpu_time_total / 1000 / STEPS, 3),
            "calls": round(event.count / STEPS, 1),
        }
        for event in events[:SHOWN]
    ]
    return {
        "step_ms": round(total, 3),
        "calls": round(sum(event.count for event in events) / STEPS),
        "operators": shown,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with ag_news and bert_vocab")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, help="cases to measure (default: all)")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    where = describe_machine() | describe_run()
    for name in tqdm(arguments.only, desc="profiles"):
        if any({"case": name, **where}.items() <= line.items() for line in known):
            continue
        line = {"case": name, **measure(CASES[name], arguments.data), "seed": 0, **where}
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
