"""Mixup: what the classifier is given, the loss that goes with it, and how a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import finetune_small, interrupt, make_rows, read_metrics, refuse, small_words, write_csv, write_data
from torch import nn

from wave_network import WaveConfig, WaveForSequenceClassification, WaveForTokenClassification, WaveModel
from wave_network.training.losses import ClassificationLoss
from wave_network.training.mixup import Mixup, find_classifier, refuse_unfit_mixup


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


def make_classifier(**settings: Any) -> WaveForSequenceClassification:
    torch.manual_seed(0)
    return WaveForSequenceClassification(WaveConfig(vocab_size=50, hidden_size=8, num_labels=3, **settings))


def test_the_logits_and_the_loss_are_those_of_the_mixed_vectors():
    model = make_classifier(hidden_dropout_prob=0.0)
    ids, labels, weights = torch.arange(20).view(4, 5), torch.tensor([0, 1, 2, 1]), torch.tensor([0.5, 1.0, 0.0, 2.5])
    mixup = Mixup(1.0)
    with mixup.in_front_of(find_classifier(model)):
        outputs = model(input_ids=ids)
    share, others = mixup.share, mixup.others_N
    assert 0 < share < 1
    assert sorted(others.tolist()) == [0, 1, 2, 3]

    # The classifier is linear: mixed vectors give mixed logits.
    plain = model(input_ids=ids).logits
    expected = share * plain + (1 - share) * plain[others]
    torch.testing.assert_close(outputs.logits, expected)
    assert not torch.allclose(outputs.logits, plain, atol=1e-4)

    log_p = expected.log_softmax(-1)
    own, other = -log_p[range(4), labels], -log_p[range(4), labels[others]]
    loss = mixup.over(ClassificationLoss())
    torch.testing.assert_close(loss(outputs, labels), (share * own + (1 - share) * other).mean())
    torch.testing.assert_close(
        loss(outputs, labels, num_items_in_batch=8, sample_weight=weights),
        (share * weights * own + (1 - share) * weights[others] * other).sum() / 8,
    )


def test_outside_nothing_is_mixed_also_after_an_error():
    model = make_classifier().eval()
    ids = torch.arange(20).view(4, 5)
    before = model(input_ids=ids).logits
    with pytest.raises(IndexError), Mixup(1.0).in_front_of(find_classifier(model)):
        model(input_ids=ids + 50)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_small_alpha_mostly_leaves_the_texts_alone():
    torch.manual_seed(0)
    shares = torch.tensor([float(Mixup(0.05).beta.sample()) for _ in range(200)])
    assert ((shares < 0.05) | (shares > 0.95)).float().mean() > 0.7


def test_the_classifier_is_found_or_asked_for():
    for model in (make_classifier(), WaveForTokenClassification(WaveConfig(vocab_size=5, hidden_size=4))):
        assert find_classifier(model) is model.classifier
    for model in (WaveModel(WaveConfig(vocab_size=5, hidden_size=4)), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=f"`mixup_alpha`.*'score'; {type(model).__name__} has none"):
            find_classifier(model)


@pytest.mark.parametrize(
    ("settings", "words"), [({"torch_compile": True}, "`torch_compile` (True)"), ({"n_gpu": 2}, "2 GPUs")]
)
def test_what_does_not_go_with_it_is_refused(settings: dict[str, Any], words: str):
    defaults = {"mixup_alpha": 0.5, "torch_compile": False, "n_gpu": 0}
    with pytest.raises(ValueError, match=r"`mixup_alpha` \(0.5\)") as error:
        refuse_unfit_mixup(SimpleNamespace(**defaults | settings))
    assert words in str(error.value)
    refuse_unfit_mixup(SimpleNamespace(**defaults | settings | {"mixup_alpha": 0.0}))


@pytest.mark.parametrize("alpha", ["-1", "inf", "nan"])
def test_an_alpha_that_is_none_is_refused(data: Path, tmp_path: Path, alpha: str, capsys: pytest.CaptureFixture[str]):
    error = refuse(small_words(data, tmp_path / "run", mixup_alpha=alpha), capsys)
    assert "`mixup_alpha` must be a finite number of at least 0" in error
    assert not (tmp_path / "run").exists()


def test_a_run_learns_with_it_and_goes_on_as_if_it_had_not_been_interrupted(data: Path, tmp_path: Path):
    settings = {"mixup_alpha": 1.0, "packing": True, "num_train_epochs": 4}

    whole = finetune_small(data, tmp_path / "whole", **settings)
    parted = interrupt(data, tmp_path / "parted", saves=2, **settings)
    finetune_small(data, parted, resume=True, **settings)
    weights, others = (load_file(run / "model.safetensors") for run in (whole, parted))
    assert all(torch.equal(weights[name], others[name]) for name in weights)

    record = read_metrics(whole)
    assert record["settings"]["mixup_alpha"] == 1.0
    assert record["results"]["test"]["accuracy"] > 0.5


def test_rows_without_weight_teach_nothing(tmp_path: Path):
    """Half of the rows have a wrong label and the weight 0: mixed with others, they must not count either."""
    rows = make_rows(120, seed=0)
    wrong = [row | {"label": "space" if row["label"] == "sport" else "sport"} for row in rows]
    weighted = [row | {"weight": "1"} for row in rows] + [row | {"weight": "0"} for row in wrong]
    folder = tmp_path / "texts"
    folder.mkdir()
    write_csv(folder / "train.csv", weighted)
    write_csv(folder / "test.csv", make_rows(42, seed=1))
    run = finetune_small(folder, tmp_path / "run", weight_column="weight", mixup_alpha=1.0, num_train_epochs=4)
    record = read_metrics(run)
    assert record["results"]["test"]["accuracy"] > 0.5
