"""Sentence embeddings by sentence-transformers: `python examples/sentence_embeddings.py DATASET FOLDER`.

DATASET is as in `wave-network finetune --dataset`. An encoder learns to find a text by its first eight words.
"""

import sys
import tempfile
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from wave_network import WaveConfig, WaveModel, train_wave_tokenizer
from wave_network.data.load import load_text_data


def split_texts(texts: list[str]) -> Dataset:
    words = [text.split() for text in texts]
    return Dataset.from_list([{"anchor": " ".join(w[:8]), "positive": " ".join(w[8:])} for w in words if len(w) > 8])


def count_found(model: SentenceTransformer, pairs: Dataset) -> float:
    """The share of texts that are nearest to their own first words."""
    nearest = model.similarity(model.encode(pairs["anchor"]), model.encode(pairs["positive"])).argmax(dim=1)
    return sum(row == best for row, best in enumerate(nearest.tolist())) / len(pairs)


def main(dataset: str = "bbc_news", folder: str = "runs/sentence_embeddings") -> None:
    if Path(folder).exists():
        sys.exit(f"{folder!r} is there already: name another folder")
    data = load_text_data(dataset)
    train, held_out = split_texts(data.train["text"]), split_texts(data.validation["text"])
    tokenizer = train_wave_tokenizer(data.train["text"], vocab_size=8192, model_max_length=128)
    with tempfile.TemporaryDirectory() as base:
        WaveModel(WaveConfig(vocab_size=len(tokenizer), hidden_size=256, hidden_dropout_prob=0.1)).save_pretrained(base)
        tokenizer.save_pretrained(base)
        model = SentenceTransformer(base)  # a folder without pooling gets mean pooling
    print(f"found before: {count_found(model, held_out):.1%} of {len(held_out)}")
    arguments = SentenceTransformerTrainingArguments(
        folder,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        warmup_steps=10,
        save_strategy="no",
        report_to="none",
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, arguments, train_dataset=train, loss=loss).train()
    print(f"found after: {count_found(model, held_out):.1%} of {len(held_out)}")
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
