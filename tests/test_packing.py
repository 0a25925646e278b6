"""Packed batches: the collator, the model's results against those of padded ones, and training with them."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import finetune_small, make_rows, read_metrics, small_words, write_data
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel, train_wave_tokenizer
from wave_network.training import finetune
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


# The collator


def test_texts_are_laid_end_to_end_and_the_labels_come_first():
    features = [
        {"length": 2, "input_ids": [5, 6], "token_type_ids": [0, 1], "attention_mask": [1, 1], "labels": 2},
        {"length": 0, "input_ids": [], "token_type_ids": [], "attention_mask": [], "labels": 0},
        {"length": 1, "input_ids": [7], "token_type_ids": [1], "attention_mask": [1], "labels": 1},
    ]
    batch = pack(features)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "labels": [2, 0, 1],
        "input_ids": [[5, 6, 7]],
        "token_type_ids": [[0, 1, 1]],
        "cu_seq_lens": [0, 2, 2, 3],
    }
    assert list(batch) == ["labels", "input_ids", "token_type_ids", "cu_seq_lens"]
    assert {value.dtype for value in batch.values()} == {torch.int64}


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda ids: np.array(ids, dtype=np.uint16)])
def test_lists_arrays_and_tensors_give_the_same_batch(make: Any):
    features = [
        {"input_ids": make([5, 6]), "position_ids": make([3, 4])},
        {"input_ids": make([7]), "position_ids": make([0])},
    ]
    batch = {name: value.tolist() for name, value in pack(features).items()}
    assert batch == {"input_ids": [[5, 6, 7]], "position_ids": [[3, 4, 0]], "cu_seq_lens": [0, 2, 3]}


def test_a_mask_with_a_hole_is_refused():
    """Its neighbours would meet, for a convolution and for n-grams, as they do not in a padded batch."""
    features = [{"input_ids": [5]}, {"input_ids": [5, 6, 7, 8], "attention_mask": [1, 0, 1, 1]}]
    with pytest.raises(ValueError, match=r"`attention_mask` of feature 1 .*ends.*\[1, 0, 1, 1\]"):
        pack(features)


@pytest.mark.parametrize("name", ["labels", "label", "label_ids"])
@pytest.mark.parametrize(
    ("targets", "dtype"),
    [
        ([1, 0], torch.int64),
        ([np.int32(1), np.int32(0)], torch.int64),
        ([torch.tensor(1), torch.tensor(0)], torch.int64),
        ([1.5, 0.0], torch.float32),
        ([np.float64(1.5), np.float64(0)], torch.float32),
        ([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], torch.float32),
    ],
)
def test_labels_are_classes_values_or_one_value_for_each_label(name: str, targets: list[Any], dtype: torch.dtype):
    batch = pack([{"input_ids": [5], name: target} for target in targets])
    assert torch.equal(batch["labels"], torch.tensor([np.asarray(target).tolist() for target in targets], dtype=dtype))
    assert batch["labels"].dtype == dtype
    assert name == "labels" or name not in batch


def test_tokens_that_a_mask_leaves_out_are_left_out():
    feature = {"input_ids": [0, 5, 6, 0], "token_type_ids": [9, 0, 1, 9], "attention_mask": [0, 1, 1, 0]}
    batch = pack([feature, {"input_ids": [7], "token_type_ids": [1]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1]]
    assert batch["cu_seq_lens"].tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([], ["`features`", "empty"]),
        ([{"text": "goal", "labels": 1}], ["`input_ids` is missing", "['labels', 'text']"]),
        ([{"input_ids": [], "labels": 1}], ["`input_ids` is empty in every feature"]),
        ([{"input_ids": [5], "labels": 1}, {"input_ids": [5]}], ["`labels` is missing", "['input_ids']"]),
        ([{"input_ids": [5], "labels": 1}, {"input_ids": [5], "labels": [1, 0]}], ["`labels`", "[(), (2,)]"]),
        ([{"input_ids": [5], "token_type_ids": [0]}, {"input_ids": [5]}], ["`token_type_ids` is missing"]),
        ([{"input_ids": [5, 6], "token_type_ids": [0]}], ["`token_type_ids`", "(2,)", "(1,)"]),
        ([{"input_ids": [5, 6], "attention_mask": [1]}], ["`attention_mask`", "(2,)", "(1,)"]),
        ([{"input_ids": [[5, 6]]}], ["`input_ids`", "flat", "(1, 2)"]),
        ([{"input_ids": 5}], ["`input_ids`", "flat", "()"]),
        ([{"input_ids": [0.5]}], ["`input_ids`", "whole numbers", "float32"]),
    ],
)
def test_features_that_make_no_batch_are_named(features: list[dict[str, Any]], words: list[str]):
    with pytest.raises(ValueError, match=r"^`") as error:
        pack(features)
    for word in words:
        assert word in str(error.value)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_texts_have_the_logits_and_gradients_of_padded_ones_on_a_gpu(pooling: str):
    model = build(classifier_pooling=pooling, num_hidden_layers=2).cuda()
    found = []
    for batch in both(make_features()):
        model.zero_grad()
        outputs = model(**{name: value.cuda() for name, value in batch.items()})
        outputs.loss.backward()
        found.append((outputs.logits, [weight.grad.clone() for weight in model.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


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


# Trainer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wave_tokenizer((row["text"] for row in make_rows(60, seed=0)), 200, show_progress=False)


@pytest.mark.parametrize("with_labels", [True, False])
def test_trainer_predicts_every_row_once_and_in_order(tokenizer: Any, tmp_path: Path, with_labels: bool):
    rows = make_rows(43, seed=3)
    features = [
        dict(tokenizer(row["text"])) | ({"labels": index % 3} if with_labels else {}) for index, row in enumerate(rows)
    ]
    model = build(vocab_size=len(tokenizer))
    predictions = []
    for collator in (pack, DataCollatorWithPadding(tokenizer)):
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", per_device_eval_batch_size=8
        )
        predictions.append(Trainer(model, arguments, data_collator=collator).predict(features))
    packed, padded = predictions
    assert packed.predictions.shape == (43, 3)
    np.testing.assert_allclose(packed.predictions, padded.predictions, rtol=1e-6, atol=1e-6)
    if with_labels:
        assert packed.label_ids.tolist() == [index % 3 for index in range(43)]
        assert packed.metrics["test_loss"] == pytest.approx(padded.metrics["test_loss"], abs=1e-6)


# `wave-network finetune --packing`, and `predict` with what it leaves


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


# Without dropout, whose choice depends on the shape of a batch.
RUN = {"hidden_dropout_prob": 0, "logging_strategy": "steps", "logging_steps": 1, "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def packed_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ended run, which the tests only read."""
    return finetune_small(data, tmp_path_factory.mktemp("runs") / "packed", packing=True, **RUN)


def read_curve(run: Path) -> list[float]:
    """The losses of a run, of training and of validation, step by step."""
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in history for name in ("loss", "eval_loss") if name in entry]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_packed_run_learns_as_a_padded_one(packed_run: Path, data: Path, tmp_path: Path):
    padded_run = finetune_small(data, tmp_path / "padded", **RUN)
    curve = read_curve(packed_run)
    assert curve == pytest.approx(read_curve(padded_run), abs=1e-5)
    assert len(curve) == 3 * (14 + 1)
    assert curve[-2] < 0.8 * curve[0]
    packed, padded = read_metrics(packed_run), read_metrics(padded_run)
    for split in ("validation", "test"):
        assert packed["results"][split]["confusion"] == padded["results"][split]["confusion"]
    assert packed["settings"] == padded["settings"] | {"packing": True}
    assert "--packing True" in packed["command"]
    assert "--packing" not in padded["command"]


@pytest.mark.parametrize(
    "settings",
    [
        {
            "class_weights": "balanced",
            "gradient_accumulation_steps": 2,
            "label_smoothing_factor": 0.1,
            "optim": "sgd",
            "learning_rate": 0.5,
        },
        {"sparse_embeddings": True, "train_sampling_strategy": "random"},
    ],
    ids=str,
)
def test_other_settings_go_with_packing(data: Path, tmp_path: Path, settings: dict[str, Any]):
    settings = RUN | settings | {"num_train_epochs": 1}
    packed_run = finetune_small(data, tmp_path / "packed", packing=True, **settings)
    padded_run = finetune_small(data, tmp_path / "padded", **settings)
    assert read_curve(packed_run) == pytest.approx(read_curve(padded_run), abs=1e-5)


def test_a_resumed_packed_run_ends_as_the_whole_one(packed_run: Path, data: Path, tmp_path: Path):
    parted = shutil.copytree(packed_run, tmp_path / "parted")
    shutil.rmtree(parted / "checkpoint-42")
    (parted / "metrics.json").unlink()
    (parted / "model.safetensors").unlink()
    finetune_small(data, parted, packing=True, resume=True, **RUN)
    assert (parted / "model.safetensors").read_bytes() == (packed_run / "model.safetensors").read_bytes()
    assert read_metrics(parted)["results"] == read_metrics(packed_run)["results"]


def test_two_processes_evaluate_packed_texts_as_one(packed_run: Path, data: Path, tmp_path: Path):
    settings = {"model": packed_run, "learning_rate": 0, "num_train_epochs": 1, "per_device_eval_batch_size": 4}
    words = small_words(data, tmp_path / "two", packing=True, **settings)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run(
        [*launch, "-m", "wave_network.cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    metrics = read_metrics(tmp_path / "two")
    assert metrics["settings"]["processes"] == 2
    assert metrics["results"] == read_metrics(packed_run)["results"]


def test_packing_is_refused_for_a_model_that_cannot_take_it(
    packed_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    build_bert().save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(packed_run).save_pretrained(tmp_path / "bert")
    with pytest.raises(SystemExit) as exit_:
        finetune_small(data, tmp_path / "run", model=tmp_path / "bert", packing=True)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    for word in ("`packing` (True)", "`cu_seq_lens`", "BertForSequenceClassification"):
        assert word in error
    assert not (tmp_path / "run").exists()


def test_packing_is_refused_where_one_process_shares_a_batch_out_to_several_gpus(tmp_path: Path):
    arguments = finetune.RunArguments(str(tmp_path), use_cpu=True, packing=True)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match=r"`packing` \(True\).*torchrun --nproc_per_node 2"):
        finetune.get_collator(arguments, build(), None)
