"""Documents of up to a million tokens, read in chunks: peak memory, time and difference from one pass.

`python benchmarks/documents.py` runs the classifier as `WaveConfig()` makes it (random weights, D 768, one layer) on
one text of each length, in a process of its own, with a `chunk_length` of 4,096. Up to 32,768 tokens the logits are
compared with those of one pass. Lines are appended to benchmarks/results/documents.jsonl; what is there already for
this commit and day is not measured again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.benchmarks.memory import read_resident, reset_peak
from wave_network.benchmarks.texts import load_corpus

RESULTS = Path(__file__).parent / "results" / "documents.jsonl"
LENGTHS, CHUNK, ONE_PASS = (4_097, 32_768, 262_144, 1_048_576), 4_096, 32_768


def measure(length: int, data: Path) -> dict:
    """One document. The text is real; beyond the corpus's first tokens it begins again."""
    corpus = load_corpus(data)
    stream = corpus.stream[: min(length, 500_000)]
    ids = stream.repeat(-(-length // len(stream)))[None, :length].contiguous()
    torch.manual_seed(0)
    config = WaveConfig(vocab_size=corpus.vocab_size, num_labels=corpus.num_labels, chunk_length=CHUNK)
    model = WaveForSequenceClassification(config).eval()
    with torch.inference_mode():
        model(ids[:, : CHUNK + 1])  # the libraries and the buffers of a chunk are there from now on
        reset_peak("cpu")
        before, start = read_resident("VmRSS"), time.perf_counter()
        logits = model(ids).logits
        seconds, peak = time.perf_counter() - start, read_resident("VmHWM")
        difference = None
        if length <= ONE_PASS:
            model.config.chunk_length = None
            difference = (model(ids).logits - logits).abs().max().item()
    return {
        "length": length,
        "chunk_length": CHUNK,
        "seconds": round(seconds, 3),
        "resident_before_mib": round(before, 1),
        "peak_resident_mib": round(peak, 1),
        "difference_from_one_pass": difference,
        "text": corpus.name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with ag_news and bert_vocab")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of the documents")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # the process of one length
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_flush_denormal(True)
        print(json.dumps(measure(arguments.only, arguments.data)))
        return
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    where = {"seed": 0, **describe_machine(), **describe_run()}
    for length in tqdm(arguments.lengths, desc="documents", unit="length"):
        if any({"length": length, **where}.items() <= line.items() for line in known):
            continue
        command = [sys.executable, __file__, "--only", str(length), "--data", str(arguments.data)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        with RESULTS.open("a") as file:
            file.write(json.dumps(json.loads(found) | where) + "\n")


if __name__ == "__main__":
    main()
