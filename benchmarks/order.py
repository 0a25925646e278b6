"""How a Wave Network comes to see the order of words, by masked language modelling: `python benchmarks/order.py`.

One layer (or two) learns to name masked words of news texts, the rows of AG News in a fixed split, and is asked about
texts that it has not seen. What enters before the layer differs: nothing, positions of three kinds, a convolution, and
some of these together. Runs are appended to benchmarks/results/order.jsonl as they end, and those that are there
already are not run again, so the command can be stopped and repeated.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup, set_seed

from wave_network import WaveConfig, WaveForMaskedLM, train_wave_tokenizer
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.modeling_wave.embeddings_wave import WaveEmbeddings

RESULTS = Path(__file__).parent / "results" / "order.jsonl"
TRAIN_ROWS, TEST_ROWS, STEPS, BATCH, LENGTH, LEARNING_RATE, MASKED = 20_000, 2_000, 1_000, 32, 40, 3e-3, 0.15

BASE = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "position_embedding_type": "none",
    "hidden_dropout_prob": 0.0,
}
CASES = {
    "nothing": {},
    "sinusoidal positions, scale 0.02": {"position_embedding_type": "sinusoidal"},
    "learned positions": {"position_embedding_type": "absolute"},
    "rotary positions": {"rotary": True},
    "convolution of 3": {"conv_kernel_size": 3},
    "convolution of 5": {"conv_kernel_size": 5},
    "convolution of 7": {"conv_kernel_size": 7},
    "convolution of 5, sinusoidal positions": {"conv_kernel_size": 5, "position_embedding_type": "sinusoidal"},
    "convolution of 5, learned positions": {"conv_kernel_size": 5, "position_embedding_type": "absolute"},
    "nothing, two layers": {"num_hidden_layers": 2},
    "learned positions, two layers": {"num_hidden_layers": 2, "position_embedding_type": "absolute"},
    "rotary positions, two layers": {"num_hidden_layers": 2, "rotary": True},
    "convolution of 5, two layers": {"num_hidden_layers": 2, "conv_kernel_size": 5},
}


class RotaryEmbeddings(WaveEmbeddings):
    """Word embeddings whose dimensions, in pairs, are turned by an angle that grows with the position (RoFormer)."""

    def forward(self, tokens):
        hidden_states, _ = super().forward(tokens)
        size = hidden_states.shape[-1]
        speeds = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angles = torch.arange(tokens.shape[1])[:, None] * speeds
        first, second = hidden_states.unflatten(-1, (-1, 2)).unbind(-1)
        turned = [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()]
        return torch.stack(turned, dim=-1).flatten(-2), None


def build_model(case: dict) -> WaveForMaskedLM:
    settings = {**BASE, **case}
    is_rotary = settings.pop("rotary", False)
    model = WaveForMaskedLM(WaveConfig(max_position_embeddings=LENGTH, **settings))
    if is_rotary:
        model.wave.embeddings.__class__ = RotaryEmbeddings
    return model


def read_texts(data: Path) -> tuple[list[str], list[str]]:
    with gzip.open(data / "ag_news" / "train.csv.gz", "rt", encoding="utf-8") as file:
        texts = pd.read_csv(file, nrows=TRAIN_ROWS + TEST_ROWS).text.tolist()
    return texts[:TRAIN_ROWS], texts[TRAIN_ROWS:]


def mask(batch: dict, tokenizer, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """One word piece in seven becomes [MASK] and is asked for; special tokens and padding stay."""
    ids = batch["input_ids"]
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    chosen = (torch.rand(ids.shape, generator=generator) < MASKED) & ~special
    return {
        "input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id),
        "attention_mask": batch["attention_mask"],
        "labels": ids.masked_fill(~chosen, -100),
    }


def name_words(model: WaveForMaskedLM, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the masked words alone: most of the time would go into the logits of the others."""
    chosen = batch["labels"] != -100
    hidden_states = model.wave(batch["input_ids"], batch["attention_mask"]).last_hidden_state[chosen]
    return model.decoder(model.norm(model.activation(model.transform(hidden_states)))), batch["labels"][chosen]


@torch.inference_mode()
def measure(model: WaveForMaskedLM, batches: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """Share of the masked words that are named, and the mean cross-entropy in nats."""
    model.eval()
    right = asked = loss = 0.0
    for batch in batches:
        logits, labels = name_words(model, batch)
        right += float((logits.argmax(-1) == labels).sum())
        loss += float(cross_entropy(logits, labels, reduction="sum"))
        asked += len(labels)
    return right / asked, loss / asked


def run_case(name: str, seed: int, tokenizer, train: list[str], test: list[str]) -> dict:
    set_seed(seed)
    model = build_model(CASES[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, STEPS // 20, STEPS)
    generator = torch.Generator().manual_seed(seed)

    def to_batch(texts: list[str], chooser: torch.Generator) -> dict[str, torch.Tensor]:
        encoding = tokenizer(texts, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
        return mask(encoding, tokenizer, chooser)

    start = time.perf_counter()
    for _ in tqdm(range(STEPS), desc=f"{name}, seed {seed}"):
        rows = torch.randint(len(train), (BATCH,), generator=generator).tolist()
        cross_entropy(*name_words(model, to_batch([train[row] for row in rows], generator))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    fixed = torch.Generator().manual_seed(0)
    accuracy, loss = measure(model, [to_batch(test[i : i + BATCH], fixed) for i in range(0, len(test), BATCH)])
    assert math.isfinite(loss)
    return {
        "name": name,
        "case": {**BASE, **CASES[name]},
        "seed": seed,
        "accuracy": accuracy,
        "loss": loss,
        "parameters": model.num_parameters(),
        "seconds": round(time.perf_counter() - start, 1),
        "steps": STEPS,
        "batch": BATCH,
        "length": LENGTH,
        "learning_rate": LEARNING_RATE,
        "train_rows": len(train),
        "test_rows": len(test),
        **describe_machine(),
        **describe_run(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with ag_news")
    parser.add_argument("--seeds", type=int, default=2, help="seeds for each case (default: 2)")
    parser.add_argument("--only", nargs="*", choices=CASES, metavar="CASE", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(row["name"], row["seed"]) for row in rows}
    train, test = read_texts(arguments.data)
    tokenizer = train_wave_tokenizer(train, BASE["vocab_size"], show_progress=False)
    for seed in range(arguments.seeds):
        for name in arguments.only or CASES:
            if (name, seed) not in done:
                row = run_case(name, seed, tokenizer, train, test)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
