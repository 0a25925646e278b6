"""A Wave encoder as modules of sentence-transformers: pooling, padding, training on pairs, and the other encoders."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling

from wave_network import WaveConfig, WaveForMaskedLM, WaveForSequenceClassification, WaveModel, train_wave_tokenizer

TOPICS = 16
SMALL = {"hidden_size": 32, "hidden_dropout_prob": 0.1, "conv_kernel_size": 3}


def make_pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions and answers of some topics. They share no word, so that only training tells which belong together."""
    chooser = random.Random(seed)

    def write(kind: str, topic: int, longest: int) -> str:
        return " ".join(f"{kind}{topic}{chooser.choice('abcdef')}" for _ in range(chooser.randint(2, longest)))

    topics = [index % TOPICS for index in range(count)]
    return [{"anchor": write("ask", topic, 6), "positive": write("say", topic, 12), "topic": topic} for topic in topics]


TRAIN, HELD_OUT = make_pairs(320, seed=0), make_pairs(64, seed=1)
TEXTS = [pair["positive"] for pair in HELD_OUT[:10]] + [pair["anchor"] for pair in HELD_OUT[:9]] + ["", "unheard-of"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [pair[name] for pair in TRAIN for name in ("anchor", "positive")]
    return train_wave_tokenizer(texts, vocab_size=400, show_progress=False)


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved encoder that has learned nothing, with its tokenizer."""
    return save(WaveModel, tokenizer, tmp_path_factory.mktemp("base"))


def save(cls: Any, tokenizer: Any, folder: Path, **settings: Any) -> Path:
    torch.manual_seed(0)
    cls(WaveConfig(vocab_size=len(tokenizer), **SMALL | settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(folder: Path, pooling: str = "mean") -> SentenceTransformer:
    encoder = Transformer(str(folder))
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension(), pooling)], device="cpu")


def count_answers(model: SentenceTransformer) -> float:
    """The share of held-out questions whose nearest answer is of their topic."""
    asked, said = (model.encode([pair[name] for pair in HELD_OUT]) for name in ("anchor", "positive"))
    nearest = model.similarity(asked, said).argmax(dim=1).tolist()
    return sum(HELD_OUT[row]["topic"] == HELD_OUT[best]["topic"] for row, best in enumerate(nearest)) / len(HELD_OUT)


def test_training_on_pairs_finds_answers_and_is_saved(base, tmp_path):
    model = build(base)
    assert count_answers(model) < 0.4
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        max_steps=40,
        learning_rate=0.02,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    dataset = Dataset.from_list(TRAIN).select_columns(["anchor", "positive"])
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, arguments, train_dataset=dataset, loss=loss).train()
    assert count_answers(model) > 0.9
    model.save_pretrained(str(tmp_path / "model"))
    assert np.array_equal(SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS), model.encode(TEXTS))
    _, report = WaveModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_a_folder_alone_is_read_with_mean_pooling(base):
    alone = SentenceTransformer(str(base), device="cpu")
    assert [type(module) for module in alone] == [Transformer, Pooling]
    assert np.array_equal(alone.encode(TEXTS), build(base).encode(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_embeddings_are_those_of_our_pooling_in_any_batch(pooling, base, tokenizer):
    with torch.no_grad():
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        expected = WaveModel.from_pretrained(base)(**inputs, pooling=pooling).pooler_output
    model = build(base, pooling)
    for size in (1, 4, len(TEXTS)):
        result = model.encode(TEXTS, batch_size=size, convert_to_tensor=True)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_a_cross_encoder_gives_the_scores_of_our_classifier(tokenizer, tmp_path):
    folder = save(WaveForSequenceClassification, tokenizer, tmp_path, num_labels=1, type_vocab_size=2)
    pairs = [(pair["anchor"], pair["positive"]) for pair in HELD_OUT[:9]]
    scores = CrossEncoder(str(folder), device="cpu").predict(pairs, batch_size=4)
    with torch.no_grad():
        inputs = tokenizer(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
        logits = WaveForSequenceClassification.from_pretrained(folder)(**inputs).logits[:, 0]
    torch.testing.assert_close(torch.tensor(scores), logits.sigmoid(), rtol=0, atol=1e-6)


def test_a_language_model_is_a_sparse_encoder(tokenizer, tmp_path):
    folder = save(WaveForMaskedLM, tokenizer, tmp_path)
    result = SparseEncoder(str(folder), device="cpu").encode(TEXTS[:3], convert_to_sparse_tensor=False)
    with torch.no_grad():
        inputs = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
        logits = WaveForMaskedLM.from_pretrained(folder)(**inputs).logits
    expected = (logits.relu().log1p() * inputs["attention_mask"][..., None]).amax(dim=1)
    assert expected.max() > 0
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
