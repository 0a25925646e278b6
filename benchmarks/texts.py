"""Batches of real text for the benchmarks: which ids a batch holds, and how many, decides what a step costs."""

import csv
import gzip
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from wave_network import load_wave_tokenizer, train_wave_tokenizer
from wave_network.benchmarks.cases import Setting
from wave_network.training.data import load_text_data

ROWS = 8000
# Batches that a case takes in turn, so that no step meets the ids of the step before. Fewer where text runs out.
BATCHES = 8


@dataclass(frozen=True)
class Batch:
    """
    Texts of a batch.

    Attributes:
        ids: Shape (B, L).
        mask: True at tokens, False at padding, which stands on the right, shape (B, L); None without padding.
        labels: Shape (B,).
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    labels: torch.Tensor

    def padded(self) -> dict[str, torch.Tensor]:
        mask = {} if self.mask is None else {"attention_mask": self.mask.long()}
        return {"input_ids": self.ids, **mask}

    def packed(self) -> dict[str, torch.Tensor]:
        mask_BL = torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask
        offsets_N1 = torch.nn.functional.pad(mask_BL.sum(dim=1).cumsum(dim=0), (1, 0))
        return {"input_ids": self.ids[mask_BL][None], "cu_seq_lens": offsets_N1}

    def take(self, texts: int) -> "Batch":
        """The first texts; at least two if there are two, since batches of one are a case of their own."""
        here = slice(0, max(texts, 2))
        return Batch(self.ids[here], None if self.mask is None else self.mask[here], self.labels[here])

    def to(self, device: str) -> "Batch":
        mask_BL = None if self.mask is None else self.mask.to(device)
        return Batch(self.ids.to(device), mask_BL, self.labels.to(device))


@dataclass(frozen=True)
class Corpus:
    """Tokenised texts: `rows` with the special tokens, `stream` all of them end to end without."""

    name: str
    vocab_size: int
    num_labels: int
    rows: list[list[int]]
    labels: list[int]
    stream: torch.Tensor

    def batches(self, setting: Setting) -> list[Batch]:
        return self.row_batches(setting) if setting.text == "rows" else self.joined_batches(setting)

    def row_batches(self, setting: Setting) -> list[Batch]:
        """Rows of the data, each cut or padded to the length. Special tokens stay."""
        batches = []
        for start in range(0, min(len(self.rows), BATCHES * setting.batch), setting.batch):
            rows = [cut(row, setting.length) for row in self.rows[start : start + setting.batch]]
            if len(rows) < setting.batch:
                break
            ids_BL = torch.zeros(setting.batch, setting.length, dtype=torch.long)
            for place, row in enumerate(rows):
                ids_BL[place, : len(row)] = torch.tensor(row)
            mask_BL = torch.arange(setting.length) < torch.tensor([len(row) for row in rows])[:, None]
            batches.append(Batch(ids_BL, mask_BL, torch.tensor(self.labels[start : start + setting.batch])))
        return check_batches(batches, setting, self.name)

    def joined_batches(self, setting: Setting) -> list[Batch]:
        """Texts end to end, cut to the length. With a fill below 1, the texts are cut again, to different lengths."""
        batches = []
        for start in range(0, min(len(self.stream), BATCHES * setting.tokens) - setting.tokens + 1, setting.tokens):
            ids_BL = self.stream[start : start + setting.tokens].view(setting.batch, setting.length).clone()
            mask_BL = None
            if setting.fill < 1:
                lengths_B = torch.tensor(draw_lengths(setting, seed=start))
                mask_BL = torch.arange(setting.length) < lengths_B[:, None]
                ids_BL = ids_BL.masked_fill(~mask_BL, 0)
            labels_B = torch.tensor([self.labels[place % len(self.labels)] for place in range(setting.batch)])
            batches.append(Batch(ids_BL, mask_BL, labels_B))
        return check_batches(batches, setting, self.name)


def cut(row: list[int], length: int) -> list[int]:
    """A row of at most `length` tokens, still with its last one, [SEP]."""
    return row if len(row) <= length else [*row[: length - 1], row[-1]]


def check_batches(batches: list[Batch], setting: Setting, corpus: str) -> list[Batch]:
    if not batches:
        raise ValueError(f"{corpus} has too little text for one batch of {setting.batch} x {setting.length} tokens.")
    return batches


def draw_lengths(setting: Setting, seed: int) -> list[int]:
    """Lengths from 1 to `setting.length`, which is among them, in random order: together about `fill` of the batch."""
    # The mean of u^p over 0 ... 1 is 1 / (p + 1).
    power = 1 / setting.fill - 1
    shares = [((place + 0.5) / setting.batch) ** power for place in range(setting.batch - 1)] + [1.0]
    random.Random(seed).shuffle(shares)
    return [max(1, round(setting.length * share)) for share in shares]


def tokenize(name: str, texts: list[str], labels: list[int], num_labels: int, tokenizer) -> Corpus:
    rows = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    stream = torch.tensor([token for row in rows for token in row[1:-1]])
    return Corpus(name, len(tokenizer), num_labels, rows, labels, stream)


def load_corpus(data: Path) -> Corpus:
    """AG News with BERT's vocabulary from `data`; without that folder the corpus of `make demo`, BBC News."""
    news, vocabulary = data / "ag_news" / "train.csv.gz", data / "bert_vocab" / "vocab.txt"
    if news.exists() and vocabulary.exists():
        with gzip.open(news, "rt", encoding="utf-8", newline="") as file:
            rows = list(islice(csv.DictReader(file), ROWS))
        name = f"AG News, {len(rows):,} training rows, vocabulary of bert-base-uncased"
        labels = [int(row["label"]) for row in rows]
        return tokenize(name, [row["text"] for row in rows], labels, 4, load_wave_tokenizer(vocabulary))
    bbc = load_text_data("bbc_news")
    pairs = list(zip(bbc.train["text"], bbc.train["label"], strict=True))
    random.Random(0).shuffle(pairs)  # they are sorted by class
    texts, labels = [text for text, _ in pairs], [label for _, label in pairs]
    tokenizer = train_wave_tokenizer(texts, show_progress=False)
    name = f"BBC News, {len(texts):,} training rows, a vocabulary of {len(tokenizer):,} trained on it"
    return tokenize(name, texts, labels, len(bbc.label_names), tokenizer)
