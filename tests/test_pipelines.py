"""The pipelines of transformers by task name: their results are those of the model, alone and in padded batches."""

import re
from typing import Any

import pytest
import torch
from transformers import pipeline

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
    train_wave_tokenizer,
)

TEXTS = [
    "Ana Karlsson left Malmö on monday .",
    "rain",
    "Zoë  Åkerblom met Bo Li , and Ana Karlsson , in Chattanooga !",
    "the train left Rio de Janeiro again",
    "Bo Li 🙂 met the rain in   Malmö",
]
SMALL = {"hidden_size": 32, "hidden_dropout_prob": 0.0, "conv_kernel_size": 3, "initializer_range": 0.3}


def name_labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "text-classification": (WaveForSequenceClassification, name_labels("x", "y", "z")),
    "fill-mask": (WaveForMaskedLM, {}),
    "token-classification": (WaveForTokenClassification, name_labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    "feature-extraction": (WaveModel, {}),
    "zero-shot-classification": (
        WaveForSequenceClassification,
        name_labels("contradiction", "neutral", "entailment") | {"type_vocab_size": 2},
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A saved model with random weights for each task."""
    place = tmp_path_factory.mktemp("pipelines")
    tokenizer = train_wave_tokenizer(TEXTS, vocab_size=90, show_progress=False)
    for task, (cls, settings) in KINDS.items():
        torch.manual_seed(0)
        cls(WaveConfig(vocab_size=len(tokenizer), **SMALL | settings)).eval().save_pretrained(place / task)
        tokenizer.save_pretrained(place / task)
    return {task: str(place / task) for task in KINDS}


def load(folders: dict[str, str], task: str, **settings: Any) -> Any:
    return pipeline(task, model=folders[task], device="cpu", **settings)


@torch.no_grad()
def compute(pipe: Any, *texts: Any) -> Any:
    """What the model says of one input, without the pipeline."""
    return pipe.model(**pipe.tokenizer(*texts, return_tensors="pt"))


def flatten(value: Any) -> list[float]:
    if isinstance(value, dict):
        return flatten(list(value.values()))
    if isinstance(value, list | tuple):
        return [number for part in value for number in flatten(part)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("text-classification", {"top_k": None}),
        ("fill-mask", {"top_k": 20}),
        ("token-classification", {"aggregation_strategy": "average", "ignore_labels": []}),
        ("zero-shot-classification", {"candidate_labels": ["rain", "Malmö", "a train"]}),
    ],
)
def test_a_padded_batch_equals_one_text_at_a_time(task, settings, folders):
    pipe = load(folders, task)
    texts = [f"{text} [MASK]" for text in TEXTS] if task == "fill-mask" else TEXTS
    alone = [pipe(text, **settings) for text in texts]
    together = pipe(texts, batch_size=4, **settings)
    assert re.sub(r"\d\.\d+(e-\d+)?", "", str(together)) == re.sub(r"\d\.\d+(e-\d+)?", "", str(alone))
    assert flatten(together) == pytest.approx(flatten(alone), rel=0, abs=1e-5)


def test_features_of_a_padded_batch_are_those_of_the_text_alone(folders):
    pipe = load(folders, "feature-extraction")
    for text, features in zip(TEXTS, pipe(TEXTS, batch_size=4, return_tensors=True), strict=True):
        expected = compute(pipe, text).last_hidden_state[0]
        features = features.reshape(-1, SMALL["hidden_size"])[: len(expected)]
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_scores_are_those_of_the_logits(folders):
    pipe = load(folders, "text-classification")
    found = {entry["label"]: entry["score"] for entry in pipe(TEXTS[2], top_k=None)}
    expected = compute(pipe, TEXTS[2]).logits[0].softmax(dim=0).tolist()
    assert [found[label] for label in "xyz"] == pytest.approx(expected, abs=1e-6)

    pipe = load(folders, "fill-mask")
    text = f"the {pipe.tokenizer.mask_token} left"
    place = pipe.tokenizer(text)["input_ids"].index(pipe.tokenizer.mask_token_id)
    best = compute(pipe, text).logits[0, place].softmax(dim=0).topk(3)
    filled = pipe(text, top_k=3)
    assert [entry["token"] for entry in filled] == best.indices.tolist()
    assert [entry["score"] for entry in filled] == pytest.approx(best.values.tolist(), abs=1e-6)

    pipe, labels = load(folders, "zero-shot-classification"), ["rain", "Malmö", "a train"]
    logits = torch.cat([compute(pipe, TEXTS[0], f"This is {label}.").logits for label in labels])
    result = pipe(TEXTS[0], labels, hypothesis_template="This is {}.")
    scores = dict(zip(result["labels"], result["scores"], strict=True))
    expected = logits[:, 2].softmax(dim=0).tolist()
    assert [scores[label] for label in labels] == pytest.approx(expected, abs=1e-6)


def test_tags_keep_the_places_of_their_words(folders, monkeypatch):
    """Words of many pieces, with accents that the tokenizer drops, after emoji and double spaces."""
    pipe = load(folders, "token-classification", aggregation_strategy="first")
    names = torch.tensor([0, 0, 9.0, 0, 0])  # every piece is inside of a person
    monkeypatch.setattr(pipe.model.classifier, "forward", lambda states: names.expand(*states.shape[:2], 5))
    for text in TEXTS:
        (found,) = pipe(text)
        assert text[found["start"] : found["end"]] == text
        assert found["entity_group"] == "PER"
