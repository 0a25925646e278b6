"""The losses of `wave-network finetune`, class and sample weights, and the settings that choose them."""

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import WORDS, make_rows, read_metrics, refuse, small_words, write_csv
from transformers.modeling_outputs import SequenceClassifierOutput

from wave_network.training import finetune
from wave_network.training.cli import parse_settings
from wave_network.training.data import load_text_data
from wave_network.training.losses import (
    SAMPLE_WEIGHT,
    ClassificationLoss,
    WithSampleWeights,
    balance,
    focal_losses,
    make_loss,
)
from wave_network.training.packing import DataCollatorWithPacking
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

# With SGD a step is as far as the gradient is long; AdamW would hide a wrong scale.
STEEP = {
    "hidden_dropout_prob": 0,
    "optim": "sgd",
    "max_grad_norm": 0,
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "save_strategy": "no",
    "load_best_model_at_end": False,
}


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits of two classes, (N, 2); the first class has these probabilities."""
    return torch.tensor([[math.log(p), math.log1p(-p)] for p in probabilities], dtype=torch.float64)


def outputs_of(logits: torch.Tensor) -> SequenceClassifierOutput:
    return SequenceClassifierOutput(logits=logits)


def train_small(dataset: Path, output: Path, compute_loss_func: Any = None, **settings: Any) -> Path:
    """A small run without its card and picture."""
    words = small_words(dataset, output, **settings)[1:]
    types = [DataArguments, ModelArguments, RunArguments]
    return finetune.finetune(*parse_settings("finetune", types, words), compute_loss_func=compute_loss_func)


def distance(run: Path, other: Path) -> float:
    weights, others = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


# The focal loss


def test_the_focal_loss_is_that_of_the_paper():
    # Lin et al., section 3.2: with gamma = 2 an example of p = 0.9 has a loss 100 times lower than by cross-entropy,
    # one of p = 0.968 about 1,000 times, and one of p <= 0.5 at most 4 times.
    probabilities = [0.9, 0.968, 0.5, 0.25]
    labels = torch.zeros(4, dtype=torch.long)
    focal = focal_losses(logits_of(*probabilities), labels, 2.0)
    plain = focal_losses(logits_of(*probabilities), labels, 0.0)
    assert (plain / focal).tolist() == pytest.approx([100, 1 / 0.032**2, 4, 1 / 0.75**2], rel=1e-12)
    assert focal.tolist() == pytest.approx([0.0010536051565782627, 3.3303e-05, 0.17328679513998632, 0.7797905781], 1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_in_float32_equals_hand_worked_values(gamma: float):
    probabilities = [1e-12, 1e-3, 0.2, 0.5, 0.9, 0.999, 1 - 1e-6]
    logits = logits_of(*probabilities)
    found = focal_losses(logits.float(), torch.zeros(7, dtype=torch.long), gamma)
    exact = [-((1 - p) ** gamma) * math.log(p) for p in probabilities]
    # Where p is close to 1, one rounding of a logit is as much as log p.
    assert found.tolist() == pytest.approx(exact, rel=1e-5, abs=2e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_the_gradient_of_the_focal_loss_is_the_derivative(gamma: float):
    torch.manual_seed(0)
    logits = (2 * torch.randn(6, 3, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda z: focal_losses(z, labels, gamma), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("gap", [0.0, 1e-7, 17.0, 90.0, 1e4, 1e30])
def test_the_focal_loss_and_its_gradient_are_finite_at_both_ends(gap: float, gamma: float, dtype: torch.dtype):
    logits = torch.tensor([[gap / 2, -gap / 2], [-gap / 2, gap / 2]], dtype=dtype, requires_grad=True)
    losses = focal_losses(logits, torch.zeros(2, dtype=torch.long), gamma)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert (losses >= 0).all()
    assert logits.grad.isfinite().all()
    if gap > 100:  # p = 1: nothing to learn; p = 0: as by cross-entropy
        assert losses[0] == 0
        assert logits.grad[0].tolist() == [0, 0]
        assert losses[1].item() == pytest.approx(gap)
        assert logits.grad[1].tolist() == pytest.approx([-1, 1])


def test_with_gamma_zero_it_is_cross_entropy_bit_for_bit():
    torch.manual_seed(0)
    labels = torch.randint(5, (64,))
    found, expected = (torch.randn(64, 5).mul(8).requires_grad_() for _ in range(2))
    expected.data = found.data.clone()
    losses = focal_losses(found, labels, 0.0)
    plain = torch.nn.functional.cross_entropy(expected, labels, reduction="none")
    assert torch.equal(losses, plain)
    losses.sum().backward()
    plain.sum().backward()
    assert torch.equal(found.grad, expected.grad)


# Weights, and the mean


def test_the_weighted_loss_equals_a_hand_worked_one():
    # Probabilities 3/4 and 1/4 in both rows; their labels are 0 and 1.
    outputs = outputs_of(torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log())
    labels = torch.tensor([0, 1])
    weights = torch.tensor([0.5, 3.0])
    loss = ClassificationLoss(class_weights=weights)
    total = 0.5 * math.log(4 / 3) + 3 * math.log(4)
    assert loss(outputs, labels).item() == pytest.approx(total / 2)
    # Of eight rows in all accumulated steps these two are a part.
    assert loss(outputs, labels, num_items_in_batch=torch.tensor(8)).item() == pytest.approx(total / 8)
    # Smoothing by 0.2 gives each class 0.1, and the true one 0.8 more.
    smoothed = 0.9 * 0.5 * math.log(4 / 3) + 0.1 * 3 * math.log(4) + 0.9 * 3 * math.log(4) + 0.1 * 0.5 * math.log(4 / 3)
    loss = ClassificationLoss("label_smoothing", label_smoothing=0.2, class_weights=weights)
    assert loss(outputs, labels).item() == pytest.approx(smoothed / 2)
    # Lin et al., equation 5, with alpha the class weight.
    focal = 0.5 * 0.25**2 * math.log(4 / 3) + 3 * 0.75**2 * math.log(4)
    loss = ClassificationLoss("focal", focal_gamma=2.0, class_weights=weights)
    assert loss(outputs, labels).item() == pytest.approx(focal / 2)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "label_smoothing"])
def test_sample_weights_weigh_rows_and_not_their_number(kind: str):
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 1.5])
    loss = ClassificationLoss(kind, label_smoothing=0.1, class_weights=torch.tensor([0.5, 1.0, 1.5]))
    alone = [loss(outputs_of(logits[[row]]), labels[[row]]).item() for row in range(5)]
    expected = sum(w * value for w, value in zip(weights.tolist(), alone, strict=True)) / 5
    assert loss(outputs_of(logits), labels, sample_weight=weights).item() == pytest.approx(expected, rel=1e-6)
    assert loss(outputs_of(logits), labels, sample_weight=torch.ones(5)).item() == pytest.approx(
        loss(outputs_of(logits), labels).item(), rel=1e-6
    )


def test_the_loss_is_computed_in_float32_whatever_the_logits_are():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for kind in ("cross_entropy", "focal", "label_smoothing"):
        loss = ClassificationLoss(kind, label_smoothing=0.1)(
            outputs_of(logits.bfloat16()), labels, sample_weight=torch.ones(4)
        )
        assert loss.dtype == torch.float32


def test_balanced_weights_are_inverse_to_the_frequencies_and_one_on_average():
    # Three classes in eight rows: 8 / (3 * count).
    weights = balance([0, 0, 0, 0, 1, 1, 1, 2], 3)
    assert weights.tolist() == pytest.approx([8 / 12, 8 / 9, 8 / 3])
    assert sum(weights[label].item() for label in [0, 0, 0, 0, 1, 1, 1, 2]) / 8 == pytest.approx(1)


def test_balanced_weights_give_each_class_the_same_weight_among_weighted_rows():
    labels, weights = [0, 0, 0, 1, 1, 2], [0.25, 0.5, 0.25, 2.0, 1.0, 2.0]
    classes = balance(labels, 3, weights)
    shares = [0.0, 0.0, 0.0]
    for label, weight in zip(labels, weights, strict=True):
        shares[label] += weight * classes[label].item()
    assert shares == pytest.approx([2, 2, 2])  # six rows of weight one on average


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.1, 0.0]])
def test_balanced_weights_are_finite_where_a_class_has_no_rows_or_no_weight(weights: list[float] | None):
    found = balance([0, 0, 0, 2], 3, weights)
    assert found.isfinite().all()
    if weights is None:
        assert found.tolist() == pytest.approx([4 / 6, 4 / 2, 4 / 2])


@pytest.mark.parametrize("inner", ["padding", "packing"])
def test_weights_pass_the_collator_and_rows_without_them_too(inner: str):
    def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        assert all(set(row) == {"input_ids", "labels"} for row in rows)
        return {"labels": torch.tensor([row["labels"] for row in rows])}

    rows = [{"input_ids": [1, 2], "labels": 0, SAMPLE_WEIGHT: 0.5}, {"input_ids": [3], "labels": 1, SAMPLE_WEIGHT: 2}]
    collator = WithSampleWeights(pad if inner == "padding" else DataCollatorWithPacking())
    batch = collator(rows)
    assert next(iter(batch)) == "labels"  # by which Trainer counts rows
    assert batch[SAMPLE_WEIGHT].tolist() == [0.5, 2.0]
    assert batch[SAMPLE_WEIGHT].dtype == torch.float32
    assert SAMPLE_WEIGHT in rows[0]
    assert SAMPLE_WEIGHT not in collator([{"input_ids": [1], "labels": 0}])


# The column of weights


def write_weighted(folder: Path, weights: list[Any], column: str = "weight") -> Path:
    rows = make_rows(len(weights), seed=0)
    return write_csv(
        folder / "train.csv", [row | {column: weight} for row, weight in zip(rows, weights, strict=True)]
    ).parent


def test_weights_are_one_on_average_and_only_their_ratios_count(tmp_path: Path):
    write_csv(tmp_path / "validation.csv", make_rows(6, seed=1))
    weights = [0, 1, 2, "3e0", " 4 ", 2]
    found = []
    for factor in (1, 1e300, 1e-300):
        write_weighted(tmp_path, [float(weight) * factor for weight in weights] if factor != 1 else weights)
        data = load_text_data(tmp_path, weight_column="weight")
        found.append(data.train["weight"])
        assert list(found[-1]) == pytest.approx([0, 0.5, 1, 1.5, 2, 1])
        assert data.validation.column_names == ["text", "label"]
    assert load_text_data(tmp_path, text_columns="text", label_column="label").fingerprint != data.fingerprint


def test_the_weight_column_is_not_taken_for_the_label_or_the_text(tmp_path: Path):
    rows = [{"text": row["text"], "topic": row["label"], "trust": "0.5"} for row in make_rows(30, seed=0)]
    file = write_csv(tmp_path / "news.csv", rows)
    with pytest.raises(ValueError, match="`label_column` must be given"):
        load_text_data(file)
    data = load_text_data(file, weight_column="trust")
    assert (data.text_columns, data.label_column) == (["text"], "topic")
    assert set(data.train["weight"]) == {1.0}
    assert data.validation.column_names == ["text", "label"]


def test_weights_keep_to_their_rows_when_empty_texts_are_dropped(tmp_path: Path):
    rows = [row | {"weight": index} for index, row in enumerate(make_rows(6, seed=0))]
    rows[2]["text"] = " "
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "validation.csv", make_rows(6, seed=1))
    data = load_text_data(tmp_path, weight_column="weight")
    mean = (0 + 1 + 3 + 4 + 5) / 5
    assert list(data.train["weight"]) == pytest.approx([weight / mean for weight in (0, 1, 3, 4, 5)])


@pytest.mark.parametrize("bad", ["heavy", "", "nan", "inf", "-1", "1e999", "1_000", "0x10", "true"])
def test_a_bad_weight_is_named_with_its_row(tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]):
    write_weighted(tmp_path, ["1", "1", bad, "1", bad, "1"])
    error = refuse(small_words(tmp_path, tmp_path / "run", weight_column="weight"), capsys)
    assert "'weight'" in error
    assert f"got {bad!r} in row 3 (and in 1 others) of the train split" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("bad", "found"),
    [(None, "None in row 5"), (True, "one kind of value"), ([1], "one kind of value"), (10**400, "one kind of value")],
    ids=["null", "true", "list", "huge"],
)
def test_a_bad_weight_in_a_json_file_is_refused(tmp_path: Path, bad: Any, found: str):
    rows = [row | {"weight": bad if index == 4 else 1} for index, row in enumerate(make_rows(6, seed=0))]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(ValueError, match=found):
        load_text_data(tmp_path, weight_column="weight")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight_column": "wait"}, ["`weight_column`", "'wait'", "'weight'"]),
        ({"weight_column": "label", "label_column": "label"}, ["`weight_column`", "'label'"]),
        ({"weight_column": "text", "text_columns": ["text"]}, ["`weight_column`", "'text'"]),
        ({"weight_column": "weight"}, ["'weight'", "0 in every training row"]),
    ],
)
def test_a_weight_column_that_is_none_is_refused(
    tmp_path: Path, settings: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(write_weighted(tmp_path, [0] * 30), tmp_path / "run", **settings), capsys)
    for word in words:
        assert word in error


# Settings


@pytest.mark.parametrize(
    ("settings", "loss", "epsilon"),
    [
        ({}, "cross_entropy", 0),
        ({"loss": "label_smoothing"}, "label_smoothing", 0.1),
        ({"loss": "label_smoothing", "label_smoothing_factor": 0.3}, "label_smoothing", 0.3),
        ({"label_smoothing_factor": 0.3}, "label_smoothing", 0.3),
        ({"label_smoothing_factor": 0}, "cross_entropy", 0),
        ({"loss": "focal", "label_smoothing_factor": 0}, "focal", 0),
    ],
)
def test_the_loss_and_the_smoothing_settle_each_other(settings: dict[str, Any], loss: str, epsilon: float):
    arguments = RunArguments(use_cpu=True, **settings)
    assert (arguments.loss, arguments.label_smoothing_factor) == (loss, epsilon)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "label_smoothing", "label_smoothing_factor": 0}, ["`label_smoothing_factor`", "greater than 0"]),
        ({"loss": "focal", "label_smoothing_factor": 0.1}, ["`label_smoothing_factor` (0.1)", "'focal'"]),
        ({"label_smoothing_factor": 1}, ["`label_smoothing_factor`", "less than 1", "1.0"]),
        ({"label_smoothing_factor": "nan"}, ["`label_smoothing_factor`", "nan"]),
        ({"focal_gamma": 1}, ["`focal_gamma` (1.0)", "'cross_entropy'"]),
        ({"loss": "focal", "focal_gamma": -1}, ["`focal_gamma`", "-1.0"]),
        ({"loss": "focal", "focal_gamma": "inf"}, ["`focal_gamma`", "inf"]),
        ({"loss": "hinge"}, ["--loss", "hinge", "focal"]),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(tmp_path, tmp_path / "run", **settings), capsys)
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_loss_is_refused_in_python_too():
    with pytest.raises(ValueError, match=r"`loss` must be one of .*focal.* got 'focl'"):
        RunArguments(use_cpu=True, loss="focl")


def test_a_plain_loss_is_left_to_the_model_and_any_other_is_ours(tmp_path: Path):
    data = load_text_data(write_weighted(tmp_path, [1, 2, 3] * 10))
    weighted = load_text_data(tmp_path, weight_column="weight")
    assert make_loss(RunArguments(use_cpu=True), data) is None
    # Trainer would take the mean of the batches' means.
    assert make_loss(RunArguments(use_cpu=True, gradient_accumulation_steps=2), data) == ClassificationLoss()
    assert make_loss(RunArguments(use_cpu=True), weighted) == ClassificationLoss()
    smoothing = RunArguments(use_cpu=True, label_smoothing_factor=0.2)
    assert make_loss(smoothing, data) == ClassificationLoss("label_smoothing", label_smoothing=0.2)
    focal = make_loss(RunArguments(use_cpu=True, loss="focal", focal_gamma=1.5, class_weights="balanced"), weighted)
    assert (focal.kind, focal.focal_gamma) == ("focal", 1.5)
    assert focal.class_weights.tolist() == balance(weighted.train["label"], 3, weighted.train["weight"]).tolist()


# Runs


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    words = [word for words in WORDS.values() for word in words]
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return file


def test_a_row_of_a_short_batch_counts_as_any_other(tmp_path: Path, tokenizer: Path):
    write_csv(tmp_path / "train.csv", make_rows(18, seed=2))
    write_csv(tmp_path / "validation.csv", make_rows(12, seed=3))
    settings = {**STEEP, "tokenizer": tokenizer}
    whole = train_small(tmp_path, tmp_path / "a", per_device_train_batch_size=18, **settings)
    parts = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3}  # 8, 8 and 2
    assert distance(whole, train_small(tmp_path, tmp_path / "b", **parts, **settings)) < 1e-6


@pytest.mark.parametrize(
    "settings", [{"loss": "focal", "class_weights": "balanced", "packing": True}, {"loss": "label_smoothing"}]
)
def test_weights_make_the_step_that_repeated_rows_make_and_in_parts_the_same(
    tmp_path: Path, tokenizer: Path, settings: dict[str, Any]
):
    rows = make_rows(16, seed=2)
    weights = [index % 4 for index in range(16)]
    for name in ("weighted", "repeated"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "validation.csv", make_rows(12, seed=3))
    pairs = list(zip(rows, weights, strict=True))
    write_csv(tmp_path / "weighted" / "train.csv", [row | {"weight": weight} for row, weight in pairs])
    write_csv(tmp_path / "repeated" / "train.csv", [row for row, weight in pairs for _ in range(weight)])
    settings = {**STEEP, "tokenizer": tokenizer, **settings}
    repeated = train_small(tmp_path / "repeated", tmp_path / "a", per_device_train_batch_size=24, **settings)
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "weight_column": "weight"}
    parted = train_small(tmp_path / "weighted", tmp_path / "b", **parts, **settings)
    plain = train_small(tmp_path / "weighted", tmp_path / "c", per_device_train_batch_size=16, **settings)
    assert distance(repeated, parted) < 1e-6
    assert distance(plain, parted) > 1e-3
    assert read_metrics(parted)["settings"]["weight_column"] == "weight"
    assert read_metrics(parted)["settings"]["loss"] == settings["loss"]
    # The command says it all.
    words = read_metrics(parted)["command"].split()
    data, _, arguments = parse_settings("finetune", [DataArguments, ModelArguments, RunArguments], words[2:])
    assert (data.weight_column, arguments.loss) == ("weight", settings["loss"])


def test_a_loss_of_ones_own_is_used_and_recorded(tmp_path: Path):
    write_csv(tmp_path / "train.csv", make_rows(40, seed=0))
    calls = []

    def absolute(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        calls.append((len(labels), int(num_items_in_batch)))
        return (1 - outputs.logits.softmax(-1).gather(1, labels[:, None])).sum() / num_items_in_batch

    parts = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "max_steps": 2}
    run = train_small(tmp_path / "train.csv", tmp_path / "run", absolute, **parts)
    assert calls[:4] == [(6, 12)] * 4
    assert read_metrics(run)["settings"]["loss"].endswith("absolute")


def test_the_example_trains_with_a_loss_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = write_csv(tmp_path / "texts.csv", make_rows(60, seed=0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["losses.py", str(file)])
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "losses.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].startswith("validation: accuracy ")
    assert "generalised" in read_metrics(tmp_path / "runs" / "robust")["settings"]["loss"]


@pytest.mark.parametrize("settings", [{"loss": "focal"}, {"class_weights": "balanced"}, {"weight_column": "weight"}])
def test_a_loss_of_ones_own_does_not_go_with_another(tmp_path: Path, settings: dict[str, Any]):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}`.*compute_loss_func"):
        train_small(tmp_path / "train.csv", tmp_path / "run", lambda *_: None, **settings)


def test_validation_is_not_weighted(tmp_path: Path):
    write_weighted(tmp_path, [0.1, 5, 0] * 10)
    write_csv(tmp_path / "validation.csv", make_rows(12, seed=3))
    losses = []
    for name, settings in (("a", {}), ("b", {"weight_column": "weight"})):
        still = {"learning_rate": 0, "max_steps": 1, "metric_for_best_model": "loss"}
        run = train_small(tmp_path, tmp_path / name, **still, **settings)
        losses.append(read_metrics(run)["best"]["value"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
