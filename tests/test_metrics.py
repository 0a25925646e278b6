"""The metric against numbers worked by hand, and inside the tools of the evaluate library."""

import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, Features, Value
from sklearn.metrics import confusion_matrix

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.training.metrics import ClassificationReport, confusion_counts, wilson_interval

# Three classes, eight rows. By hand:
#   a: 3 rows, 2 found, predicted 3 times: precision 2/3, recall 2/3, F1 2/3
#   b: 3 rows, 2 found, predicted 4 times: precision 2/4, recall 2/3, F1 4/7
#   c: 2 rows, 1 found, predicted once:    precision 1/1, recall 1/2, F1 2/3
REFERENCES = [0, 0, 0, 1, 1, 1, 2, 2]
PREDICTIONS = [0, 0, 1, 1, 1, 0, 1, 2]
NAMES = ["a", "b", "c"]
PER_CLASS = {
    "a": {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3},
    "b": {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3},
    "c": {"precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "support": 2},
}


class RowCount(evaluate.Metric):
    """Another local metric, with one score of its own and one whose name ours has too."""

    def _info(self):
        features = Features({"predictions": Value("int64"), "references": Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"rows": len(references), "accuracy": -1.0}


def test_report_is_the_one_worked_by_hand():
    report = ClassificationReport().compute(predictions=PREDICTIONS, references=REFERENCES, label_names=NAMES)
    assert set(report) == {"accuracy", "accuracy_low", "accuracy_high", "macro_f1", "per_class"}
    assert report["accuracy"] == 5 / 8
    assert report["macro_f1"] == pytest.approx((2 / 3 + 4 / 7 + 2 / 3) / 3)
    assert list(report["per_class"]) == NAMES
    for name, scores in PER_CLASS.items():
        assert report["per_class"][name] == pytest.approx(scores)
    # Wilson with z = 1.96 by hand: the middle is (5 + z*z/2) / (8 + z*z) = 6.9207 / 11.8415, half the width is
    # z * sqrt(8 * 5/8 * 3/8 + z*z/4) / (8 + z*z) = 1.96 * 1.6836 / 11.8415.
    assert report["accuracy_low"] == pytest.approx(0.30574, abs=1e-4)
    assert report["accuracy_high"] == pytest.approx(0.86315, abs=1e-4)


def test_interval_is_wilsons_as_published():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize("total", [1, 3, 20, 426, 7600])
def test_interval_stays_within_zero_and_one(total):
    low, high = wilson_interval(0, total)
    assert 0 <= low < 1e-15
    assert 0 < high < 1
    assert wilson_interval(total, total) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(total, total)[1] <= 1


def test_names_given_to_the_constructor_are_used():
    report = ClassificationReport(label_names=NAMES).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert list(report["per_class"]) == NAMES


def test_without_names_the_classes_are_those_that_occur():
    report = ClassificationReport().compute(predictions=[7, -1, 7], references=[7, 3, 7])
    assert list(report["per_class"]) == ["-1", "3", "7"]
    assert report["per_class"]["7"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}


def test_classes_without_rows_have_zeros_and_do_not_lower_macro_f1():
    report = ClassificationReport([*NAMES, "d", "e"]).compute(predictions=[0, 1, 3], references=[0, 1, 1])
    assert report["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert report["per_class"]["d"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    # a: 1, b: 2/3, d (predicted once, wrongly): 0; c and e never occur.
    assert report["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_lists_arrays_and_tensors_give_plain_numbers(kind):
    report = ClassificationReport(NAMES).compute(predictions=kind(PREDICTIONS), references=kind(REFERENCES))
    assert report["accuracy"] == 5 / 8
    scores = [value for name, value in report.items() if name != "per_class"]
    assert {type(value) for value in scores} == {float}
    assert [type(value) for value in report["per_class"]["a"].values()] == [float, float, float, int]


def test_batches_add_up():
    metric = ClassificationReport(NAMES)
    for start in range(0, 8, 3):
        metric.add_batch(predictions=PREDICTIONS[start : start + 3], references=REFERENCES[start : start + 3])
    whole = ClassificationReport(NAMES).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert metric.compute() == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": [], "references": []}, "`references` must hold at least one label"),
        ({"predictions": [0, 3], "references": [0, 1]}, r"`predictions` must be labels from 0 to 2, got \[3\]"),
        ({"predictions": [0, 1], "references": [-1, 1]}, r"`references` must be labels from 0 to 2, got \[-1\]"),
        ({"predictions": [0], "references": [0, 1]}, r"predictions \(1\) and references \(2\)"),
        ({"predictions": [0], "references": [0], "label_names": ["x", "x"]}, "`label_names` must differ"),
    ],
)
def test_bad_labels_are_refused_and_leave_nothing_behind(arguments, message):
    metric = ClassificationReport(NAMES)
    with pytest.raises(ValueError, match=message):
        metric.compute(**arguments)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES)["accuracy"] == 5 / 8


def test_combine_takes_it():
    ours = ClassificationReport(NAMES)
    both = evaluate.combine([ours, RowCount(keep_in_memory=True)])
    result = both.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result["rows"] == 8
    assert result["classification_report_accuracy"] == 5 / 8
    assert result["row_count_accuracy"] == -1
    assert result["per_class"]["a"] == pytest.approx(PER_CLASS["a"])


@pytest.fixture(scope="module")
def classifier():
    tokenizer = train_wave_tokenizer(["good film", "bad film"] * 5, vocab_size=60, show_progress=False)
    torch.manual_seed(0)
    model = WaveForSequenceClassification(
        WaveConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            id2label=dict(enumerate(NAMES)),
            label2id={name: index for index, name in enumerate(NAMES)},
        )
    )
    # A random head prefers one class; this one tells the texts apart.
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval(), tokenizer


def evaluator_data() -> Dataset:
    texts = ["good", "bad film", "film good bad", "g o", "d", "film film", "bad", "l"]
    return Dataset.from_dict({"text": texts, "label": REFERENCES})


@pytest.mark.parametrize("as_pipeline", [False, True])
def test_evaluator_takes_it(classifier, monkeypatch, as_pipeline):
    model, tokenizer = classifier
    data = evaluator_data()
    with torch.no_grad():
        predictions = [model(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in data["text"]]
    assert len(set(predictions)) > 1
    expected = ClassificationReport(NAMES).compute(predictions=predictions, references=REFERENCES)
    given = {"model_or_pipeline": model, "tokenizer": tokenizer}
    if as_pipeline:
        # evaluate 0.4.6 compares with this class, which transformers 5 has no more; with a model it stops before.
        monkeypatch.setattr(transformers, "TFPreTrainedModel", type("TFPreTrainedModel", (), {}), raising=False)
        given = {"model_or_pipeline": transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)}
    result = evaluate.evaluator("text-classification").compute(
        **given, data=data, metric=ClassificationReport(NAMES), label_mapping=model.config.label2id, strategy="simple"
    )
    assert result.items() >= expected.items()
    assert result["samples_per_second"] > 0


def test_evaluator_bootstraps_the_plain_numbers(classifier):
    model, tokenizer = classifier
    result = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=model,
        tokenizer=tokenizer,
        data=evaluator_data(),
        metric=ClassificationReport(NAMES, per_class=False),
        label_mapping=model.config.label2id,
        strategy="bootstrap",
        n_resamples=20,
        random_state=0,
    )
    low, high = result["accuracy"]["confidence_interval"]
    assert low <= result["accuracy"]["score"] <= high
    assert "per_class" not in result


def test_processes_compute_at_once_without_a_cache(tmp_path):
    """Two processes that share no file, and a cache folder that cannot be made, as in a read-only home."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {
        "HF_METRICS_CACHE": str(tmp_path / "file" / "metrics"),
        "TMPDIR": str(tmp_path / "temporary"),
        "OMP_NUM_THREADS": "1",
    }
    code = f"""
from wave_network.training.metrics import ClassificationReport
import evaluate, pytest
with pytest.raises(OSError):  # what the plain class does here
    type("Plain", (evaluate.Metric,), {{"_info": ClassificationReport._info}})()
metric = ClassificationReport({NAMES})
for _ in range(50):
    metric.add_batch(predictions={PREDICTIONS}, references={REFERENCES})
    print(metric.compute()["accuracy"])
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in started:
        assert process.communicate(timeout=120)[0].split() == ["0.625"] * 50
        assert process.returncode == 0
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


def test_confusion_counts_has_a_row_for_each_true_label():
    assert confusion_counts(PREDICTIONS, REFERENCES, 3) == [[2, 1, 0], [1, 2, 0], [0, 1, 1]]
    assert confusion_counts([1], [0], 3) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 5, (2, 200))
    expected = confusion_matrix(references, predictions, labels=range(5)).tolist()
    assert confusion_counts(predictions, references, 5) == expected


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, 1], [0], "equally long, got 2 and 1"),
        ([3], [0], r"`predictions` must be labels from 0 to 2, got \[3\]"),
        ([0], [-1], r"`references` must be labels from 0 to 2, got \[-1\]"),
    ],
)
def test_confusion_counts_refuses_bad_labels(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        confusion_counts(predictions, references, 3)
