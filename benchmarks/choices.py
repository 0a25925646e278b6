"""What the paper leaves open, compared by validation accuracy on AG News: `python benchmarks/choices.py`.

Positions, their scale, the initial scale of the table and of the maps, pooling, dropout and what it falls on. Each case
differs from the base in what its name says. Runs are appended to benchmarks/results/choices.jsonl as they end, and
those that are there already are not run again, so the command can be stopped and repeated. The test set is not read.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup, set_seed

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.modeling_wave.embeddings_wave import Lookup

RESULTS = Path(__file__).parent / "results" / "choices.jsonl"
TRAIN_ROWS, VALIDATION_ROWS, BATCH, LEARNING_RATE, MAX_LENGTH = 20_000, 10_000, 64, 1e-3, 128

# What every case shares unless it says otherwise. `table` and `maps` are standard deviations at the start; "fan_in" is
# 1 / sqrt(inputs) of each linear map.
BASE = {
    "hidden_size": 256,
    "epochs": 3,
    "table": 0.02,
    "maps": "fan_in",
    "wave_operation": "modulation",
    "position_embedding_type": "none",
    "classifier_pooling": "mean",
    "hidden_dropout_prob": 0.1,
}
CASES = {
    "base": {},
    "maps 0.02": {"maps": 0.02},
    "table 0.1": {"table": 0.1},
    "table 0.1, maps 0.02": {"table": 0.1, "maps": 0.02},
    "table 1": {"table": 1.0},
    "sinusoid 0.002": {"position_embedding_type": "sinusoidal", "position_embedding_scale": 0.002},
    "sinusoid 0.02": {"position_embedding_type": "sinusoidal", "position_embedding_scale": 0.02},
    "sinusoid 1": {"position_embedding_type": "sinusoidal", "position_embedding_scale": 1.0},
    "absolute": {"position_embedding_type": "absolute"},
    "pooling cls": {"classifier_pooling": "cls"},
    "pooling max": {"classifier_pooling": "max"},
    "pooling max, dropout 0.5": {"classifier_pooling": "max", "hidden_dropout_prob": 0.5},
    "dropout 0": {"hidden_dropout_prob": 0.0},
    "dropout 0.3": {"hidden_dropout_prob": 0.3},
    "dropout 0.5": {"hidden_dropout_prob": 0.5},
    # On the embeddings: by distinct row of the batch, as the model does, by token, or not at all. The runs of "dropout"
    # above are of a model that did it by token.
    "dropout 0.5, rows": {"hidden_dropout_prob": 0.5, "embedding_dropout": "rows"},
    "dropout 0.5, tokens": {"hidden_dropout_prob": 0.5, "embedding_dropout": "tokens"},
    "dropout 0.5, not on embeddings": {"hidden_dropout_prob": 0.5, "embedding_dropout": "none"},
    "interference": {"wave_operation": "interference"},
    "interference, maps 0.02": {"wave_operation": "interference", "maps": 0.02},
    "interference, table 0.1": {"wave_operation": "interference", "table": 0.1},
    "interference, sinusoid 0.02": {
        "wave_operation": "interference",
        "position_embedding_type": "sinusoidal",
        "position_embedding_scale": 0.02,
    },
    "rms": {"magnitude": "rms"},
}


def read_rows(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    with gzip.open(data / "ag_news" / "train.csv.gz", "rt", encoding="utf-8") as file:
        rows = pd.read_csv(file, nrows=TRAIN_ROWS + VALIDATION_ROWS)
    return rows[:TRAIN_ROWS], rows[TRAIN_ROWS:]


def build_model(case: dict) -> WaveForSequenceClassification:
    case = dict(case)
    table, maps, _ = case.pop("table"), case.pop("maps"), case.pop("epochs")
    embedding_dropout = case.pop("embedding_dropout", "rows")
    model = WaveForSequenceClassification(WaveConfig(num_labels=4, **case))
    if embedding_dropout == "tokens":
        model.wave.embeddings.find_distinct = lambda name, table, ids: Lookup(name, ids)
    elif embedding_dropout == "none":
        model.wave.embeddings.dropout.p = 0.0
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_(std=table)
            elif isinstance(module, torch.nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5 if maps == "fan_in" else maps)
        model.get_input_embeddings().weight[0] = 0
    return model


def to_batches(tokenizer, rows: pd.DataFrame, generator: torch.Generator | None = None) -> list[dict]:
    """Batches of texts of similar length, in random order if there is a generator."""
    ids = tokenizer(rows.text.tolist(), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    labels = rows.label.to_numpy()
    noise = torch.rand(len(ids), generator=generator) * 16 if generator is not None else torch.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]) + float(noise[i]))
    chunks = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    if generator is not None:
        chunks = [chunks[i] for i in torch.randperm(len(chunks), generator=generator)]
    return [
        {**tokenizer.pad({"input_ids": [ids[i] for i in chunk]}, return_tensors="pt"), "labels": labels[chunk]}
        for chunk in chunks
    ]


@torch.inference_mode()
def measure_accuracy(model, batches: list[dict]) -> float:
    model.eval()
    right = total = 0
    for batch in batches:
        labels = torch.tensor(batch["labels"])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        right += int((logits.argmax(-1) == labels).sum())
        total += len(labels)
    return right / total


def run_case(name: str, case: dict, seed: int, data: Path) -> dict:
    set_seed(seed)
    tokenizer = load_wave_tokenizer(data / "bert_vocab" / "vocab.txt")
    train, validation = read_rows(data)
    validation_batches = to_batches(tokenizer, validation)
    generator = torch.Generator().manual_seed(seed)
    model = build_model(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    steps = case["epochs"] * -(-len(train) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    start, accuracies = time.perf_counter(), []
    with tqdm(total=steps, desc=f"{name}, seed {seed}") as progress:
        for _ in range(case["epochs"]):
            model.train()
            for batch in to_batches(tokenizer, train, generator):
                inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
                model(**inputs, labels=torch.tensor(batch["labels"])).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress.update()
            accuracies.append(measure_accuracy(model, validation_batches))
            progress.set_postfix(accuracy=accuracies[-1])
    return {
        "name": name,
        "case": case,
        "seed": seed,
        "validation_accuracy_by_epoch": accuracies,
        "seconds": round(time.perf_counter() - start, 1),
        "train_rows": TRAIN_ROWS,
        "validation_rows": VALIDATION_ROWS,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "max_length": MAX_LENGTH,
        **describe_machine(),
        **describe_run(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with ag_news and bert_vocab")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per case (default: 2)")
    parser.add_argument("--only", nargs="*", help="names of the cases to run (default: all)")
    parser.add_argument("--set", type=json.loads, default={}, help="JSON that changes the base, e.g. a hidden_size")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(json.dumps(row["case"], sort_keys=True), row["seed"]) for row in rows}
    for name in arguments.only or CASES:
        for seed in range(arguments.seeds):
            case = {**BASE, **arguments.set, **CASES[name]}
            if (json.dumps(case, sort_keys=True), seed) in done:
                continue
            row = run_case(name, case, seed, arguments.data)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
