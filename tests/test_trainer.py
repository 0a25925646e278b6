"""The loss, mixup, averaged weights, packed batches and the order of the rows, each against what it should be."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from small_runs import distance, finetune_small, make_rows, read_metrics, write_csv
from torch import nn
from transformers import set_seed

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.data.tokens import DataCollatorWithPadding
from wave_network.training.settings import RunArguments
from wave_network.training.trainer import (
    RAW_WEIGHTS,
    ClassificationLoss,
    DataCollatorWithPacking,
    WaveTrainer,
    make_loss,
)

SKEW = {"sport": 90, "money": 9, "space": 9}
STEPS = {"eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": None, "max_steps": 6, "save_total_limit": 20}


def make_classifier(**settings: Any) -> WaveForSequenceClassification:
    torch.manual_seed(0)
    return WaveForSequenceClassification(WaveConfig(vocab_size=50, hidden_size=8, num_labels=3, **settings))


@pytest.mark.parametrize("labels", [[1, 0, 2], [0.5, 1.0, 2.0], [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]], ids=str)
def test_padded_batches_are_those_of_transformers(labels: list[Any]):
    tokenizer = train_wave_tokenizer(["a few words"], show_progress=False)
    features = [
        {**tokenizer(text), "labels": label} for text, label in zip(["a few", "", "words"], labels, strict=True)
    ]
    collators = DataCollatorWithPadding, transformers.DataCollatorWithPadding
    found, expected = (make(tokenizer)(features) for make in collators)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def make_trainer(folder: Path, rows: list[dict[str, Any]], model: nn.Module | None = None, **settings: Any):
    arguments = RunArguments(str(folder), use_cpu=True, eval_strategy="no", **settings)
    arguments.resolve_numbers(len(rows), is_new=False)
    loss = make_loss(arguments, [0, 1, 2], 3)
    return WaveTrainer(model=model or nn.Linear(1, 1), args=arguments, train_dataset=rows, compute_loss_func=loss)


# The order of the rows


def test_the_order_of_the_rows_depends_on_seed_and_epoch_alone(tmp_path: Path):
    orders = []
    for global_seed in (1, 2):
        trainer = make_trainer(tmp_path, [{"input_ids": [1] * (1 + index % 13)} for index in range(90)])
        sampler = trainer._get_train_sampler()
        for epoch in (0.0, 1.0, 1.5):  # the last one: a run that goes on
            set_seed(global_seed)  # what the processes of torchrun share at first, and lose
            trainer.state.epoch = epoch
            orders.append(list(sampler))
    assert orders[:3] == orders[3:]
    assert orders[0] != orders[1] == orders[2]
    assert all(sorted(order) == list(range(90)) for order in orders)


# The loss


def test_the_weighted_loss_is_that_worked_by_hand(tmp_path: Path):
    balanced = make_loss(RunArguments(str(tmp_path), class_weights="balanced", use_cpu=True), [0] * 6 + [1] * 2, 3)
    torch.testing.assert_close(balanced.class_weights[:2], torch.tensor([8 / 12, 8 / 4]))
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    weights, log_p = torch.tensor([0.5, 2.0, 1.0]), logits.log_softmax(-1)
    smooth = 0.1 * (weights * log_p).mean(-1)
    own = 0.9 * weights[labels] * log_p[[0, 1], labels]
    loss = ClassificationLoss(0.1, weights)
    outputs = SimpleNamespace(logits=logits)
    torch.testing.assert_close(loss(outputs, labels), -(own + smooth).mean())
    torch.testing.assert_close(loss(outputs, labels, num_items_in_batch=8), -(own + smooth).sum() / 8)
    half = SimpleNamespace(logits=logits.half())
    assert loss(half, labels).dtype == torch.float32


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_four_accumulated_steps_of_four_rows_equal_one_of_sixteen(tmp_path: Path, class_weights: str):
    rows = [row for name, count in SKEW.items() for row in make_rows(count, 2, [name])]
    write_csv(tmp_path / "train.csv", rows)
    settings = {
        "class_weights": class_weights,
        "hidden_dropout_prob": 0,
        "optim": "sgd",  # a step is as far as the gradient is long; AdamW would hide a wrong scale
        "max_grad_norm": 0,
        "learning_rate": 0.5,
        "num_train_epochs": 1,
    }
    one = finetune_small(tmp_path, tmp_path / "one", per_device_train_batch_size=16, **settings)
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    parted = finetune_small(tmp_path, tmp_path / "parted", **parts, **settings)
    still = finetune_small(tmp_path, tmp_path / "still", **settings | {"learning_rate": 0})
    assert distance(one, parted) < 1e-5
    assert distance(one, still) > 0.01


# Mixup


def test_mixup_is_the_loss_of_mixed_vectors_and_leaves_nothing_behind(tmp_path: Path):
    model = make_classifier(hidden_dropout_prob=0.0).train()
    trainer = make_trainer(tmp_path, [], model, mixup_alpha=1.0)
    plain_loss = trainer.compute_loss_func
    ids, labels = torch.arange(20).view(4, 5), torch.tensor([0, 1, 2, 1])
    torch.manual_seed(7)
    loss, outputs = trainer.compute_loss(model, {"input_ids": ids, "labels": labels}, return_outputs=True)
    torch.manual_seed(7)
    share = float(torch.distributions.Beta(1.0, 1.0).sample())
    others = torch.randperm(4)
    # The classifier is linear: mixed vectors give mixed logits.
    plain = model(input_ids=ids).logits
    expected = share * plain + (1 - share) * plain[others]
    torch.testing.assert_close(outputs.logits, expected)
    log_p = expected.log_softmax(-1)
    own, other = -log_p[range(4), labels], -log_p[range(4), labels[others]]
    torch.testing.assert_close(loss, (share * own + (1 - share) * other).mean())
    assert not torch.allclose(expected, plain, atol=1e-4)
    assert trainer.compute_loss_func is plain_loss
    model.eval()  # validation is not mixed
    outputs = trainer.compute_loss(model, {"input_ids": ids, "labels": labels}, return_outputs=True)[1]
    torch.testing.assert_close(outputs.logits, plain)


# Averaged weights


def test_the_saved_weights_are_the_average_of_those_of_all_steps(data_folder: Path, tmp_path: Path):
    run = finetune_small(data_folder, tmp_path / "run", ema_decay=0.25, load_best_model_at_end=False, **STEPS)
    decays = [0, 2 / 11, 0.25, 0.25, 0.25, 0.25]  # 3 / 12 is the first that is not below
    average: dict[str, torch.Tensor] = {}
    for step, decay in enumerate(decays, 1):
        checkpoint = run / f"checkpoint-{step}"
        raw, saved = load_file(checkpoint / RAW_WEIGHTS), load_file(checkpoint / "model.safetensors")
        for name, weight in raw.items():
            average[name] = decay * average[name] + (1 - decay) * weight if decay else weight
            torch.testing.assert_close(saved[name], average[name], rtol=0, atol=1e-6)
    # Without a choice of the best the average of the last step is the model.
    assert distance(run, checkpoint) == 0


def test_the_average_is_validated_and_the_training_goes_on_without(data_folder: Path, tmp_path: Path):
    settings = {**STEPS, "metric_for_best_model": "loss"}
    run = finetune_small(data_folder, tmp_path / "run", ema_decay=0.6, **settings)
    plain = finetune_small(data_folder, tmp_path / "plain", **settings)
    raw, weights = (load_file(run / "checkpoint-6" / name) for name in (RAW_WEIGHTS, "model.safetensors"))
    expected = load_file(plain / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(raw[name], expected[name]) for name in expected)
    assert not all(torch.equal(weights[name], expected[name]) for name in expected)
    metrics = read_metrics(run)
    assert distance(run, run / f"checkpoint-{metrics['best']['step']}") == 0
    assert metrics["best"]["value"] == pytest.approx(metrics["calibration"]["validation"]["nll"], abs=1e-5)


# Packed batches


def test_texts_are_laid_end_to_end_and_give_the_logits_of_padded_ones():
    pack = DataCollatorWithPacking()
    features = [
        {"input_ids": [2, 5, 3], "token_type_ids": [0, 0, 0], "attention_mask": [1, 1, 1], "labels": 1},
        {"input_ids": [2, 6, 7, 8, 3], "token_type_ids": [0, 0, 1, 1, 1], "attention_mask": [1] * 5, "labels": 0},
    ]
    batch = pack(features)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "labels": [1, 0],
        "input_ids": [[2, 5, 3, 2, 6, 7, 8, 3]],
        "token_type_ids": [[0, 0, 0, 0, 0, 1, 1, 1]],
        "cu_seq_lens": [0, 3, 8],
    }
    assert next(iter(batch)) == "labels"
    model = make_classifier().eval()
    padded = torch.tensor([[2, 5, 3, 0, 0], [2, 6, 7, 8, 3]])
    with torch.no_grad():
        packed = model(**pack([{"input_ids": feature["input_ids"]} for feature in features])).logits
        torch.testing.assert_close(packed, model(input_ids=padded, attention_mask=padded.ne(0).long()).logits)


def test_a_packed_run_learns_as_a_padded_one(data_folder: Path, tmp_path: Path):
    settings = {"hidden_dropout_prob": 0, "num_train_epochs": 1}
    padded, packed = (
        finetune_small(data_folder, tmp_path / str(packing), packing=packing, **settings) for packing in (False, True)
    )
    assert distance(padded, packed) < 1e-5
