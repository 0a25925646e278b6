"""Made the files beside it, once, with the tag `first-house` imported as `wave_old`: python make.py FOLDER.

Three models with what they compute and how they train (test_frozen.py), and what the reader made of the files in
reader/ (test_data.py). Dropout is 0: its random bits may change, what is computed may not.
"""

import csv
import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import wave_old as old
from safetensors.torch import save_file
from transformers.utils import logging
from wave_old.training.data import load_text_data

logging.set_verbosity_error()
torch.set_num_threads(1)
out = Path(sys.argv[1])
SHAPES = {
    "finetune": {
        "hidden_size": 128,
        "conv_kernel_size": 3,
        "vocab_size": 200,
        "num_labels": 5,
        "hidden_dropout_prob": 0.0,
        "max_position_embeddings": 64,
    },
    "recipe": {
        "hidden_size": 48,
        "conv_kernel_size": 3,
        "vocab_size": 200,
        "num_labels": 5,
        "hidden_dropout_prob": 0.0,
        "ngram_vocab_size": 500,
        "wave_operation": "interference",
        "position_embedding_type": "none",
        "restore": "magnitude",
    },
    "paper": {
        "hidden_size": 64,
        "vocab_size": 200,
        "num_labels": 5,
        "hidden_dropout_prob": 0.0,
        "max_position_embeddings": 64,
    },
}


def batches():
    g = torch.Generator().manual_seed(1)
    for _ in range(8):
        n = torch.randint(3, 60, (16,), generator=g)
        L = int(n.max())
        mask = (torch.arange(L)[None] < n[:, None]).long()
        yield {
            "input_ids": torch.randint(1, 200, (16, L), generator=g) * mask,
            "attention_mask": mask,
            "labels": torch.randint(0, 5, (16,), generator=g),
        }


for name, shape in SHAPES.items():
    torch.manual_seed(0)
    model = old.WaveForSequenceClassification(old.WaveConfig(**shape))
    folder = out / name
    model.save_pretrained(folder)
    for extra in [*folder.glob("*.py"), folder / "README.md"]:
        extra.unlink()
    data = list(batches())
    kept = {f"batch{i}.{k}": v for i, b in enumerate(data) for k, v in b.items()}
    model.eval()
    with torch.no_grad():
        kept["logits"] = model(**data[0]).logits.clone()
    model.train()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for b in data:
        loss = model(**b).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    kept["losses"] = torch.tensor(losses, dtype=torch.float64)
    kept |= {f"after.{k}": v.clone() for k, v in model.state_dict().items()}
    model.eval()
    with torch.no_grad():
        kept["logits_after"] = model(**data[0]).logits.clone()
    save_file(kept, folder / "expected.safetensors")

# --- the reader
r = out / "reader"
r.mkdir(parents=True)


def w(path, rows, delimiter=","):
    path.parent.mkdir(exist_ok=True, parents=True)
    op = gzip.open if path.suffix == ".gz" else open
    with op(path, "wt", encoding="utf-8", newline="") as f:
        wr = csv.DictWriter(f, list(rows[0]), delimiter=delimiter)
        wr.writeheader()
        wr.writerows(rows)


odd = [
    "plain",
    "a comma, here",
    'a "quoted" word',
    "two\nlines",
    "NA",
    "null",
    "nan",
    "None",
    "N/A",
    " spaces ",
    "año niño",
    "में मैं",
    "😀 emoji",
    "-",
    "1.5",
    "tab\there",
    "end'",
    "true",
    "emoji😀glued",
    "İstanbul",
]
rows = [
    {"text": f"{odd[i % len(odd)]} {i}" if i >= len(odd) else odd[i], "label": ("no", "yes", "maybe")[i % 3]}
    for i in range(60)
]
w(r / "strings.csv", rows)
w(r / "strings.csv.gz", rows)
w(r / "strings.tsv", rows, "\t")
(r / "strings.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
(r / "strings.json").write_text(json.dumps(rows))
pq.write_table(pa.Table.from_pylist(rows), r / "strings.parquet")
w(r / "integers.csv", [{"id": i, "label": i % 4, "review": f"text {i} of words"} for i in range(40)])
w(r / "pairs.csv", [{"sentence1": f"a first {i}", "sentence2": f"a second {i}", "label": i % 2} for i in range(30)])
w(r / "na_labels.csv", [{"text": f"word {i}", "label": ("NA", "null", "None")[i % 3]} for i in range(30)])
w(r / "single.csv", [{"text": f"word {i}", "label": "rare" if i == 7 else ("a", "b")[i % 2]} for i in range(25)])
f = r / "folder"
w(f / "train.csv", [{"label": i % 2, "text": f"train {i}"} for i in range(20)])
w(f / "validation.csv", [{"label": i % 2, "text": f"validation {i}"} for i in range(6)])
w(f / "test.csv", [{"label": i % 2, "text": f"test {i}"} for i in range(4)])
(f / "classes.txt").write_text("World\nSports\n")
f = r / "hidden"
w(f / "train.csv", [{"label": i % 2, "text": f"train {i}"} for i in range(20)])
w(f / "test.csv", [{"label": -1, "text": f"test {i}"} for i in range(4)])
golden = {}
for name in [
    "strings.csv",
    "strings.csv.gz",
    "strings.tsv",
    "strings.jsonl",
    "strings.json",
    "strings.parquet",
    "integers.csv",
    "pairs.csv",
    "na_labels.csv",
    "single.csv",
    "folder",
    "hidden",
]:
    d = load_text_data(r / name)
    golden[name] = {
        "label_names": d.label_names,
        "text_columns": d.text_columns,
        "label_column": d.label_column,
        "fingerprint": d.fingerprint,
        "validation_was_split": d.validation_was_split,
        "splits": {
            s: [list(row.values()) for row in t]
            for s, t in (("train", d.train), ("validation", d.validation), ("test", d.test))
            if t is not None
        },
    }
(r / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0))
