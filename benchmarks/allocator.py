"""What keeping freed memory is worth to training on a CPU, and what it costs: `python benchmarks/allocator.py`.

glibc gives large pieces of freed memory back to the system, which hands them out again page by page, filled with zeros.
Two environment variables have it keep that memory (KEPT). A process for each measurement trains a classifier, of the
paper's width or of the default width of `finetune`, on packed batches of 64 reviews of IMDB, at most 512 tokens each.
Both ways take turns. Lines are appended to benchmarks/results/allocator.jsonl as they are measured, none of them twice
at one commit. Nothing else should run on the machine.
"""

import argparse
import csv
import gzip
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm
from transformers import set_seed

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.benchmarks.memory import read_resident
from wave_network.training.packing import DataCollatorWithPacking

RESULTS = Path(__file__).parent / "results" / "allocator.jsonl"
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
WAYS = {"as it is": {}, "kept": KEPT}
HIDDEN_SIZES, ROUNDS = (128, 768), 3
BATCH, LENGTH, STEPS, FIRST = 64, 512, 12, 2


def find_data(data: Path) -> tuple[Path, Path]:
    """The texts and the vocabulary; what is missing ends the command."""
    texts, vocabulary = data / "imdb" / "train.csv.gz", data / "bert_vocab" / "vocab.txt"
    missing = [str(path) for path in (texts, vocabulary) if not path.exists()]
    if missing:
        sys.exit(
            f"Missing: {', '.join(missing)}. --data must name a folder with imdb/train.csv.gz (IMDB, columns text and "
            "label) and bert_vocab/vocab.txt (the vocabulary of bert-base-uncased)."
        )
    return texts, vocabulary


def read_batches(data: Path) -> list[dict[str, torch.Tensor]]:
    texts, vocabulary = find_data(data)
    with gzip.open(texts, "rt", encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), BATCH * STEPS))
    ids = load_wave_tokenizer(vocabulary)([row["text"] for row in rows], truncation=True, max_length=LENGTH)
    features = [{"input_ids": row, "labels": 0} for row in ids["input_ids"]]
    return [DataCollatorWithPacking()(features[start : start + BATCH]) for start in range(0, len(features), BATCH)]


def measure(data: Path, hidden_size: int) -> dict:
    """In a process of its own: the median of the steps after the FIRST, and the peak of the resident memory."""
    torch.set_flush_denormal(True)
    set_seed(0)
    batches = read_batches(data)
    model = WaveForSequenceClassification(WaveConfig(hidden_size=hidden_size, num_labels=2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    times = []
    for batch in batches:
        start = time.perf_counter()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(1000 * (time.perf_counter() - start))
    return {"step_ms": round(median(times[FIRST:]), 1), "peak_memory_mib": round(read_resident("VmHWM"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with imdb and bert_vocab")
    parser.add_argument("--measure", type=int, metavar="D", help="print one measurement of this process, at this width")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.data, arguments.measure)))
        return
    find_data(arguments.data)
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    lines, here = [json.loads(line) for line in text.splitlines()], describe_machine() | describe_run()
    measured = [(line["hidden_size"], line["round"], line["freed_memory"], line["commit"]) for line in lines]
    for hidden_size, turn, way in tqdm(list(itertools.product(HIDDEN_SIZES, range(ROUNDS), WAYS)), desc="Runs"):
        if (hidden_size, turn, way, here["commit"]) in measured:
            continue
        command = [sys.executable, __file__, "--data", str(arguments.data), "--measure", str(hidden_size)]
        done = subprocess.run(command, env=os.environ | WAYS[way], stdout=subprocess.PIPE, text=True, check=True)
        line = {"hidden_size": hidden_size, "freed_memory": way, "round": turn, **json.loads(done.stdout), **here}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
