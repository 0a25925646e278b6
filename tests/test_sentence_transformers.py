"""A Wave encoder as modules of sentence-transformers: trained on pairs, saved, loaded anywhere, encoded in batches."""

import copy
import json
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from fresh_process import run_step
from loopback_hub import LoopbackHub
from peft import LoraConfig
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling
from small_runs import write_csv

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForSequenceClassification,
    WaveModel,
    train_wave_tokenizer,
)
from wave_network.modeling_wave.pooling_wave import pool

EXAMPLE = Path(__file__).parent.parent / "examples" / "sentence_embeddings.py"
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


def build(folder: Path, pooling: str = "mean", **settings: Any) -> SentenceTransformer:
    encoder = Transformer(str(folder), **settings)
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension(), pooling)], device="cpu")


def retrieve(model: SentenceTransformer) -> float:
    """The mean reciprocal rank of the first answer that fits, over the held-out questions."""
    evaluator = InformationRetrievalEvaluator(
        queries={str(index): pair["anchor"] for index, pair in enumerate(HELD_OUT)},
        corpus={str(index): pair["positive"] for index, pair in enumerate(HELD_OUT)},
        relevant_docs={
            str(index): {str(other) for other, fits in enumerate(HELD_OUT) if fits["topic"] == pair["topic"]}
            for index, pair in enumerate(HELD_OUT)
        },
        write_csv=False,
    )
    return evaluator(model)["cosine_mrr@10"]


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model that its trainer has trained on the pairs, and saved."""
    folder = tmp_path_factory.mktemp("trained")
    model = build(base)
    before = retrieve(model)
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(folder / "run"),
            max_steps=60,
            learning_rate=0.02,
            per_device_train_batch_size=32,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(TRAIN).select_columns(["anchor", "positive"]),
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    model.save_pretrained(str(folder / "model"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"folder": folder / "model", "model": model, "losses": losses, "before": before, "after": retrieve(model)}


# --- Trained on pairs -------------------------------------------------------------------------------------------------


def test_training_on_pairs_lowers_the_loss_and_finds_answers(trained):
    assert trained["losses"] == sorted(trained["losses"], reverse=True)
    assert trained["losses"][-1] < 0.7 * trained["losses"][0]
    assert trained["before"] < 0.4
    assert trained["after"] > 0.9


def compute_gradients(base: Path, loss: Any, dropout: float, **settings: Any) -> dict[str, torch.Tensor]:
    model = build(base, config_kwargs={"hidden_dropout_prob": dropout}).train()
    features = [model.preprocess([pair[name] for pair in TRAIN[:12]]) for name in ("anchor", "positive")]
    torch.manual_seed(7)
    loss(model, **settings)(features, None).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize(("dropout", "rows"), [(0.0, 5), (0.3, 12)])
def test_cached_gradients_are_those_of_the_whole_batch(dropout, rows, base):
    """With dropout a text is read twice, and must lose the same dimensions both times."""
    whole = compute_gradients(base, MultipleNegativesRankingLoss, dropout)
    cached = compute_gradients(base, CachedMultipleNegativesRankingLoss, dropout, mini_batch_size=rows)
    for name, gradient in whole.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(cached[name], gradient, rtol=0, atol=1e-5 * scale, msg=name)


def test_an_adapter_takes_what_is_adapted_by_default(base):
    model = build(base)
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION"))
    learning = {name.split(".lora_")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {f"0.model.layers.0.mixing.{name}" for name in ("variants", "restore")}


# --- Encoded ----------------------------------------------------------------------------------------------------------


def test_a_folder_alone_is_read_with_mean_pooling(base):
    alone = SentenceTransformer(str(base), device="cpu")
    assert [type(module) for module in alone] == [Transformer, Pooling]
    assert np.array_equal(alone.encode(TEXTS), build(base).encode(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_pooling_is_that_of_our_classifier(pooling, base, tokenizer):
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden_states = WaveModel.from_pretrained(base)(**inputs).last_hidden_state
    expected = pool([(hidden_states, inputs["attention_mask"] == 1)], pooling)
    result = build(base, pooling).encode(TEXTS, batch_size=len(TEXTS), convert_to_tensor=True)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_an_embedding_does_not_depend_on_its_batch(trained):
    model = trained["model"]
    alone = np.stack([model.encode(text) for text in TEXTS])
    assert np.abs(alone).max() > 0.1
    for size in (1, 4, 32):
        assert np.abs(model.encode(TEXTS, batch_size=size) - alone).max() <= 1e-6
    assert np.abs(model.encode(TEXTS[::-1], batch_size=4)[::-1] - alone).max() <= 1e-6
    model.tokenizer.padding_side = "left"
    try:
        assert np.abs(model.encode(TEXTS, batch_size=32) - alone).max() <= 1e-6
    finally:
        model.tokenizer.padding_side = "right"


def test_embeddings_are_cut_and_normalised(trained):
    model = trained["model"]
    whole = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, truncate_dim=8), whole[:, :8])
    normal = model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(normal, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)


def test_long_texts_are_cut_to_what_the_model_reads(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 20
    folder = save(WaveModel, tokenizer, tmp_path, position_embedding_type="absolute", max_position_embeddings=20)
    model = SentenceTransformer(str(folder), device="cpu")
    words = " ".join(pair["anchor"] for pair in TRAIN[:50])
    assert model.max_seq_length == 20
    longer = model.encode([words, words + " ask1a", "ask1a"])
    assert np.array_equal(longer[0], longer[1])
    assert not np.array_equal(longer[0], longer[2])


# --- The other encoders of the library --------------------------------------------------------------------------------


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


# --- Saved and loaded -------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_with_the_same_bits_and_loads_as_a_wave_model_too(trained):
    expected = trained["model"].encode(TEXTS)
    assert np.array_equal(SentenceTransformer(str(trained["folder"]), device="cpu").encode(TEXTS), expected)
    _, report = WaveModel.from_pretrained(trained["folder"], output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_without_the_package_and_by_way_of_the_hub(trained, tmp_path):
    with LoopbackHub(token="hf_right") as hub:
        result = run_step(
            tmp_path,
            hub.url,
            "without_package",
            "embed",
            with_package=False,
            folder=str(trained["folder"]),
            texts=TEXTS,
        )
        pushed = hub.files("tester/embeddings")
    expected = [value.hex() for value in trained["model"].encode(TEXTS).astype(float).flatten().tolist()]
    assert result["origin"] == "transformers_modules"
    assert "trust_remote_code=True" in result["refusal"]
    assert result["bits"] == {"folder": expected, "hub": expected, "saved again": expected}
    assert set(pushed) >= {"modules.json", "model.safetensors", "modeling_wave.py", "tokenizer.json", "README.md"}
    assert b"library_name: sentence-transformers" in pushed["README.md"]
    assert json.loads(pushed["1_Pooling/config.json"])["pooling_mode"] == "mean"


# --- The example ------------------------------------------------------------------------------------------------------


def test_the_example_learns_to_find_texts_and_overwrites_none(tmp_path, monkeypatch, capsys):
    rows = [{"text": f"{pair['anchor']} {pair['positive']}", "label": pair["topic"]} for pair in TRAIN]
    dataset, output = write_csv(tmp_path / "texts.csv", rows), tmp_path / "model"
    words = ["example", str(dataset), "--output", str(output), "--words", "2", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "accuracy@1 of" in printed
    assert "vectors of 256 dimensions" in printed
    written = (output / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "already" in capsys.readouterr().err
    assert (output / "model.safetensors").read_bytes() == written


def test_the_example_says_that_texts_are_too_short(tmp_path, monkeypatch, capsys):
    rows = [{"text": pair["anchor"], "label": pair["topic"]} for pair in TRAIN]
    dataset = write_csv(tmp_path / "texts.csv", rows)
    monkeypatch.setattr(sys, "argv", ["example", str(dataset), "--output", str(tmp_path / "model"), "--words", "4"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "too few texts of 8 words" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_the_example_without_the_library_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "wave-network\[sentence-transformers\]"'):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
