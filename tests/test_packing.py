"""Packed batches: the results of the model against those of padded ones."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
)

from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel
from wave_network.training.packing import DataCollatorWithPacking, takes_packed

pack = DataCollatorWithPacking()

# Texts of one token and of many, and one without any in the middle.
LENGTHS = (5, 1, 12, 0, 3, 1, 7)
# rtol and atol: sums run in another order, and bfloat16 rounds them at another place.
CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 0.01}
POOLINGS, OPERATIONS, MAGNITUDES = ("mean", "cls", "max"), ("modulation", "interference"), ("l2", "rms")


def build(cls: Any = WaveForSequenceClassification, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = {"vocab_size": 40, "hidden_size": 10, "num_labels": 3, "type_vocab_size": 2, "initializer_range": 0.5}
    return cls(WaveConfig(**config | settings)).eval()


def make_features(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[dict[str, Any]]:
    chooser = np.random.default_rng(seed)
    return [
        {
            "input_ids": chooser.integers(1, 40, length).tolist(),
            "token_type_ids": chooser.integers(0, 2, length).tolist(),
            "attention_mask": [1] * length,
            "labels": index % 3,
        }
        for index, length in enumerate(lengths)
    ]


def pad(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The same texts, padded on the right."""
    longest = max(len(feature["input_ids"]) for feature in features)
    rows = {
        name: [feature[name] + [0] * (longest - len(feature[name])) for feature in features]
        for name in features[0]
        if name != "labels"
    }
    return {name: torch.tensor(values) for name, values in rows.items()} | {
        "labels": torch.tensor([feature["labels"] for feature in features])
    }


def both(features: list[dict[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return pack(features), pad(features)


# The model


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("layers", [1, 3])
def test_packed_texts_have_the_logits_of_padded_ones(layers: int, dtype: torch.dtype):
    packed, padded = both(make_features())
    for pooling, operation, magnitude in itertools.product(POOLINGS, OPERATIONS, MAGNITUDES):
        model = build(
            num_hidden_layers=layers, classifier_pooling=pooling, wave_operation=operation, magnitude=magnitude
        ).to(dtype)
        with torch.no_grad():
            found, expected = model(**packed), model(**padded)
        assert found.logits.shape == (len(LENGTHS), 3)
        torch.testing.assert_close(found.logits, expected.logits, rtol=CLOSE[dtype], atol=CLOSE[dtype])
        torch.testing.assert_close(found.loss, expected.loss, rtol=CLOSE[dtype], atol=CLOSE[dtype])


SETTINGS = [
    {"position_embedding_type": "none", "type_vocab_size": 0},
    {"position_embedding_type": "absolute", "max_position_embeddings": 12},
    {"position_embedding_type": "sinusoidal", "max_position_embeddings": 4},  # others are computed
    {"intermediate_size": 16, "restore": "linear"},
    {"restore": "magnitude"},
    {"wave_implementation": "eager"},
    {"hidden_size": 300, "initializer_range": 0.02},  # wide enough for rows that tokens share
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_packed_texts_have_the_hidden_states_of_padded_ones(settings: dict[str, Any]):
    model = build(WaveModel, num_hidden_layers=2, **settings)
    packed, padded = both(make_features())
    for batch in (packed, padded):
        del batch["labels"]
    with torch.no_grad():
        found, expected = model(**packed).last_hidden_state, model(**padded).last_hidden_state
    torch.testing.assert_close(found[0], expected[padded["attention_mask"] == 1], rtol=1e-6, atol=2e-6)


def test_explicit_positions_are_packed_like_the_rest():
    model = build(position_embedding_type="absolute", max_position_embeddings=30)
    features = make_features()
    counted = pack(features)
    for feature in features:
        feature["position_ids"] = list(range(len(feature["input_ids"])))
    with torch.no_grad():
        torch.testing.assert_close(model(**pack(features)).logits, model(**counted).logits, rtol=0, atol=0)
        for feature in features:
            feature["position_ids"] = [29 - position for position in feature["position_ids"]]
        packed, padded = both(features)
        found, expected = model(**packed).logits, model(**padded).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (found - model(**counted).logits).abs().max() > 0.01


def test_embeddings_can_be_packed_as_well():
    model = build()
    packed = pack(make_features())
    expected = model(**packed).logits
    embeddings = model.get_input_embeddings()(packed.pop("input_ids"))
    torch.testing.assert_close(model(**packed, inputs_embeds=embeddings).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [*SETTINGS, {"num_hidden_layers": 3}], ids=str)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_texts_give_every_parameter_the_gradient_of_padded_ones(settings: dict[str, Any], pooling: str):
    model = build(classifier_pooling=pooling, **settings).double()
    gradients = []
    for batch in both(make_features()):
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in gradients[1].values())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_packed_texts_are_the_same_by_the_readable_operations_and_the_fast_ones(operation: str):
    packed = pack(make_features())
    found = []
    for implementation in ("eager", "fused"):
        model = build(wave_operation=operation, num_hidden_layers=2, wave_implementation=implementation).double()
        outputs = model(**packed)
        outputs.loss.backward()
        found.append((outputs.logits, *(weight.grad for weight in model.parameters())))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", [(6,), (1,), (1, 1, 1), (0, 4), (4, 0), (0, 0, 2, 0)], ids=str)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_odd_batches_are_packed_too(lengths: tuple[int, ...], pooling: str):
    model = build(classifier_pooling=pooling)
    packed, padded = both(make_features(lengths))
    found, expected = model(**packed), model(**padded)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-6, atol=1e-6)
    found.loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    for row, length in zip(found.logits, lengths, strict=True):
        if length == 0:
            torch.testing.assert_close(row, model.classifier.bias)


def test_offsets_of_32_bits_do_as_well():
    model, packed = build(), pack(make_features())
    short = packed | {"cu_seq_lens": packed["cu_seq_lens"].int()}
    assert torch.equal(model(**short).logits, model(**packed).logits)


def test_gradient_checkpointing_takes_packed_texts():
    packed = pack(make_features())
    found = []
    for checkpointing in (False, True):
        model = build(num_hidden_layers=2, hidden_dropout_prob=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**packed).loss.backward()
        found.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_packed_texts_compile_into_one_graph():
    model = build(problem_type="single_label_classification")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in (LENGTHS, (30, 2, 8), (4, 9, 17, 5)):
        found, packed = [], pack(make_features(lengths))
        for form in (compiled, model):
            model.zero_grad()
            with torch._dynamo.config.patch(error_on_recompile=lengths is not LENGTHS):
                outputs = form(**packed)
            outputs.loss.backward()
            found.append((outputs.logits, [weight.grad.clone() for weight in model.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cu_seq_lens": torch.tensor([1, 3, 5])}, ["`cu_seq_lens`", "from 0", "1, 3, 5"]),
        ({"cu_seq_lens": torch.tensor([0, 3, 4])}, ["`cu_seq_lens`", "length 5", "0, 3, 4"]),
        ({"cu_seq_lens": torch.tensor([0, 3, 6])}, ["`cu_seq_lens`", "length 5", "0, 3, 6"]),
        ({"cu_seq_lens": torch.tensor([0, 4, 3, 5])}, ["`cu_seq_lens`", "rise", "0, 4, 3, 5"]),
        ({"cu_seq_lens": torch.tensor([0.0, 3.0, 5.0])}, ["`cu_seq_lens`", "integers", "float32"]),
        ({"cu_seq_lens": torch.tensor([[0, 3, 5]])}, ["`cu_seq_lens`", "(1, 3)"]),
        ({"cu_seq_lens": torch.tensor([5])}, ["`cu_seq_lens`", "(1,)"]),
        ({"attention_mask": torch.ones(1, 5)}, ["`attention_mask`", "`cu_seq_lens`", "both"]),
        ({"input_ids": torch.ones(2, 5, dtype=torch.long)}, ["`cu_seq_lens`", "batch size", "2"]),
    ],
)
@pytest.mark.parametrize("cls", [WaveModel, WaveForSequenceClassification])
def test_offsets_that_do_not_fit_are_named(cls: Any, changes: dict[str, torch.Tensor], words: list[str]):
    inputs = {"input_ids": torch.ones(1, 5, dtype=torch.long), "cu_seq_lens": torch.tensor([0, 3, 5])}
    model = build(cls)
    model(**inputs)
    with pytest.raises(ValueError, match="`") as error:
        model(**inputs | changes)
    for word in words:
        assert word in str(error.value)


def test_only_a_model_that_names_the_offsets_takes_packed_texts():
    assert takes_packed(build())
    assert takes_packed(build(WaveModel))
    assert not takes_packed(build_bert())


def build_bert() -> BertForSequenceClassification:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=200, **sizes))
