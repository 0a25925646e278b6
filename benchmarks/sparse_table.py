"""What `--sparse_embeddings` saves of a step and does to accuracy: `python benchmarks/sparse_table.py [--accuracy]`.

Steps: forward, backward, clipping and update at D 128 with BERT's vocabulary, on batches of 16 real texts of 32 tokens.
AdamW (fused) on the whole table and the lazy AdamW take turns in one process, ten steps each; the first of the ten,
which finds the caches full of the other's numbers, is not counted. Some time after the start, `steps_before`, the
moments of words that stay away have become denormal numbers, if the processor is not told to flush them to zero; so
both are measured, in processes of their own, since threads inherit the setting when they start.

With --accuracy instead: `wave-network finetune` with and without the setting on 20,000 training rows of AG News, by the
accuracy on 10,000 validation rows. The test set is not read.

Lines are appended to benchmarks/results/sparse_table.jsonl as they are measured, and what is there already is not
measured again, so the command can be stopped and repeated. Nothing else should run on the machine.
"""

import argparse
import csv
import gzip
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import set_seed

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer
from wave_network.benchmarks.machine import describe_machine, describe_run, read_processor
from wave_network.training.optimizer import LazyAdamW, with_dense_gradients

RESULTS = Path(__file__).parent / "results" / "sparse_table.jsonl"
BATCH, LENGTH, HIDDEN_SIZE, LEARNING_RATE = 16, 32, 128, 1e-3
# Steps before the first and before the second measurement. 0.9^1000 makes any first moment a denormal number.
STEPS_BEFORE, ROUNDS, STEPS_A_ROUND = (20, 1500), 20, 10
TRAIN_ROWS, VALIDATION_ROWS, MAX_LENGTH, EPOCHS = 20_000, 10_000, 128, 3


def find_data(data: Path) -> tuple[Path, Path]:
    """The texts and the vocabulary; what is missing ends the command."""
    texts, vocabulary = data / "ag_news" / "train.csv.gz", data / "bert_vocab" / "vocab.txt"
    missing = [str(path) for path in (texts, vocabulary) if not path.exists()]
    if missing:
        sys.exit(
            f"Missing: {', '.join(missing)}. --data must name a folder with ag_news/train.csv.gz (AG News, columns "
            "text and label) and bert_vocab/vocab.txt (the vocabulary of bert-base-uncased)."
        )
    return texts, vocabulary


def read_rows(texts: Path, count: int) -> list[dict[str, str]]:
    with gzip.open(texts, "rt", encoding="utf-8", newline="") as file:
        return list(itertools.islice(csv.DictReader(file), count))


# ---- The step


def make_batches(data: Path, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Batches of (BATCH, LENGTH) tokens, without padding, in random order."""
    texts, vocabulary = find_data(data)
    tokenizer = load_wave_tokenizer(vocabulary)
    rows = read_rows(texts, 2 * BATCH * count)
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH)["input_ids"]
    whole = [(row, int(entry["label"])) for row, entry in zip(ids, rows, strict=True) if len(row) == LENGTH]
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [whole[place] for place in order[: BATCH * count]]
    return [
        {
            "input_ids": torch.tensor([row for row, _ in chunk]),
            "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
            "labels": torch.tensor([label for _, label in chunk]),
        }
        for chunk in (chosen[start : start + BATCH] for start in range(0, len(chosen) - BATCH + 1, BATCH))
    ]


def make_step(sparse: bool, seed: int) -> tuple[Callable[[dict[str, torch.Tensor]], None], torch.optim.Optimizer]:
    """A training step as Trainer does it, without its logging and without a schedule."""
    set_seed(seed)
    model = WaveForSequenceClassification(WaveConfig(hidden_size=HIDDEN_SIZE, num_labels=4)).train()
    table = model.get_input_embeddings()
    optimizer_class = LazyAdamW if sparse else torch.optim.AdamW
    table.sparse = sparse
    # The table is the first parameter of the optimizer.
    rest = [parameter for parameter in model.parameters() if parameter is not table.weight]
    optimizer = optimizer_class([table.weight, *rest], lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(batch: dict[str, torch.Tensor]) -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(with_dense_gradients(model.parameters()), 1.0)
        optimizer.step()
        model.zero_grad()

    return step, optimizer


def measure_steps(data: Path, flush: bool, seed: int, threads: int) -> list[dict]:
    """The lines of one process."""
    # Before anything runs in more than one thread.
    torch.set_flush_denormal(flush)
    torch.set_num_threads(threads)
    # Each batch once: a text that came again soon would bring its rare words again.
    total = max(STEPS_BEFORE) + ROUNDS * STEPS_A_ROUND
    batches = make_batches(data, total, seed)
    steps, optimizers = {}, {}
    for name in ("dense", "sparse"):
        steps[name], optimizers[name] = make_step(name == "sparse", seed)
    lines, queue, done = [], iter(batches), 0
    with tqdm(total=total, desc=f"seed {seed}, denormals {'flushed' if flush else 'kept'}") as progress:
        for before in STEPS_BEFORE:
            for batch in itertools.islice(queue, before - done):
                for step in steps.values():
                    step(batch)
                progress.update()
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(ROUNDS):
                turn = list(itertools.islice(queue, STEPS_A_ROUND))
                for name, step in steps.items():
                    times[name].append(1000 * statistics.median([clock(step, batch) for batch in turn][1:]))
                progress.update(STEPS_A_ROUND)
            done = before + ROUNDS * STEPS_A_ROUND
            lines.append(
                {
                    "steps_before": before,
                    **{f"{name}_ms": summarise(values) for name, values in times.items()},
                    # Within a round, whose noise meets both.
                    "ratio": summarise([a / b for a, b in zip(times["dense"], times["sparse"], strict=True)]),
                    "denormal_share": {name: share_denormal(each) for name, each in optimizers.items()},
                }
            )
    rows = statistics.mean(len(batch["input_ids"].unique()) for batch in batches)
    shape = {"batch": BATCH, "length": LENGTH, "hidden_size": HIDDEN_SIZE, "vocab_size": WaveConfig.vocab_size}
    return [{**shape, "rows_per_batch": round(rows, 1), "rounds": ROUNDS, **line} for line in lines]


def clock(step: Callable[[dict[str, torch.Tensor]], None], batch: dict[str, torch.Tensor]) -> float:
    start = time.perf_counter()
    step(batch)
    return time.perf_counter() - start


def share_denormal(optimizer: torch.optim.Optimizer) -> float:
    """Which share of the table's first moments is denormal numbers. By their bits: a comparison would flush them."""
    table = optimizer.param_groups[0]["params"][0]
    bits = optimizer.state[table]["exp_avg"].view(torch.int32) & 0x7FFFFFFF
    return round(float(((bits > 0) & (bits < 0x00800000)).double().mean()), 4)


def summarise(values: list[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": round(cuts[4], 4), "p20": round(cuts[1], 4), "p80": round(cuts[7], 4)}


# ---- The accuracy


def measure_accuracy(data: Path, settings: list[str], seed: int, threads: int) -> dict:
    """One run of the command, in a process of its own, as a user would start it."""
    texts, vocabulary = find_data(data)
    rows = read_rows(texts, TRAIN_ROWS + VALIDATION_ROWS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "ag_news")
        folder.mkdir()
        for split, part in (("train", rows[:TRAIN_ROWS]), ("validation", rows[TRAIN_ROWS:])):
            with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(part)
        run = Path(temporary, "run")
        command = [sys.executable, "-m", "wave_network.training.cli", "finetune", "--dataset", str(folder)]
        command += ["--output_dir", str(run), "--tokenizer", str(vocabulary), "--seed", str(seed)]
        command += ["--conv_kernel_size", "0", "--subword_buckets", "0", *settings]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        history = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {
        "validation_accuracy_by_epoch": [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry],
        "seconds": metrics["duration_seconds"],
        "rows": metrics["data"]["rows"],
        # The place of the vocabulary is of this machine alone.
        "settings": metrics["settings"] | {"tokenizer": vocabulary.name},
    }


# ---- What is to be measured, and what is known already


def describe_processes(threads: int) -> dict:
    """Where the processes that measure will run."""
    return {"device": f"cpu ({read_processor()})", "threads": threads}


def list_steps(data: Path, seeds: int, threads: int) -> Iterator[tuple[dict, Callable[[], list[dict]]]]:
    """What names a measurement, and what measures it."""
    spawn = multiprocessing.get_context("spawn")
    for seed, flush in itertools.product(range(seeds), (True, False)):
        known = {"kind": "step", "flush_denormal": flush, "seed": seed, **describe_processes(threads)}

        def measure(flush: bool = flush, seed: int = seed) -> list[dict]:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                return pool.submit(measure_steps, data, flush, seed, threads).result()

        yield known, measure


def list_accuracies(
    data: Path, seeds: int, threads: int, batch: int, learning_rate: float
) -> Iterator[tuple[dict, Callable[[], list[dict]]]]:
    fixed = {
        "hidden_size": HIDDEN_SIZE,
        "max_length": MAX_LENGTH,
        "num_train_epochs": EPOCHS,
        "logging_strategy": "epoch",
    }
    fixed |= {
        "per_device_train_batch_size": batch,
        "learning_rate": learning_rate,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    words = list(itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in fixed.items()))
    for seed, sparse in itertools.product(range(seeds), (False, True)):
        known = {"kind": "accuracy", "sparse_embeddings": sparse, "batch": batch, "learning_rate": learning_rate}
        known |= {"seed": seed, **describe_processes(threads)}
        settings = [*words, "--sparse_embeddings"] if sparse else words

        def measure(settings: list[str] = settings, seed: int = seed) -> list[dict]:
            return [measure_accuracy(data, settings, seed, threads)]

        yield known, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with ag_news and bert_vocab")
    parser.add_argument("--accuracy", action="store_true", help="measure accuracy instead of steps")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each measurement (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (default: all cores)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"with --accuracy: rows in a batch (default: {BATCH})")
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE, help="with --accuracy (default: 1e-3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append to")
    arguments = parser.parse_args()
    find_data(arguments.data)

    measurements = (
        list_accuracies(arguments.data, arguments.seeds, arguments.threads, arguments.batch, arguments.learning_rate)
        if arguments.accuracy
        else list_steps(arguments.data, arguments.seeds, arguments.threads)
    )
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    text = arguments.results.read_text(encoding="utf-8") if arguments.results.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    for known, measure in tqdm(list(measurements), desc="measurements"):
        if any(known.items() <= {name: line.get(name) for name in known}.items() for line in lines):
            continue
        for result in measure():
            line = {**known, **result, "versions": describe_machine()["versions"], **describe_run()}
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            tqdm.write(report(line))


def report(line: dict) -> str:
    if line["kind"] == "accuracy":
        by_epoch = ", ".join(f"{accuracy:.2%}" for accuracy in line["validation_accuracy_by_epoch"])
        name = "sparse" if line["sparse_embeddings"] else "dense"
        return f"{name}, seed {line['seed']}: {by_epoch}; {line['seconds']:.0f} s"
    flushed = "flushed" if line["flush_denormal"] else "kept"
    dense, sparse, ratio = (line[name]["median"] for name in ("dense_ms", "sparse_ms", "ratio"))
    return (
        f"after {line['steps_before']} steps, denormals {flushed}: dense {dense:.2f} ms, sparse {sparse:.2f} ms, ratio "
        f"{ratio:.2f}; denormal first moments: {line['denormal_share']['dense']:.1%} of the dense table"
    )


if __name__ == "__main__":
    main()
