"""What `finetune` says of a run: baselines on the same rows, mistakes, a line for each epoch, skewed classes."""

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import finetune_small, make_rows, read_metrics, write_csv

from wave_network.data.load import TextData, load_text_data
from wave_network.training import baselines
from wave_network.training.baselines import measure_baselines
from wave_network.training.mistakes import write_mistakes
from wave_network.training.results import advise
from wave_network.training.settings import RunArguments


def load(texts: list[Any], labels: list[Any], count: int = 6, **settings: Any) -> TextData:
    """All rows to train on, and the first ones to validate and to test on."""
    rows = {"train": (texts, labels), "validation": (texts[:count], labels[:count]), "test": (texts[:2], labels[:2])}
    return load_text_data(rows, **settings)


# Baselines


@pytest.mark.parametrize(
    ("texts", "labels", "task", "reached"),
    [
        (["good film", "bad film", "good", "bad", "a", "b"], [*"ababab"], "single", {"accuracy": (0.5, 1)}),
        # Marks, scripts without spaces, punctuation alone.
        (["año", "ano", "año", "ano", "x", "y"], [*"ababcd"], "single", {"accuracy": (1 / 3, 1)}),
        (["東京の夏", "大阪の冬", "夏です", "冬です", "夏", "冬"], [*"ababab"], "single", {"accuracy": (0.5, 1)}),
        (["!!!", "???", "!!", "??", "!", "?"], [*"ababab"], "single", {"accuracy": (0.5, 1)}),
        (["a b", "a", "b", "a b", "c", "c"], [["a", "b"], ["a"], ["b"], ["a", "b"], [], []], "multi", {}),
        (["low", "high", "low", "high", "low", "high"], [0.5, 2.5, 0.5, 2.5, 0.5, 2.5], "number", {"spearman": (0, 1)}),
    ],
)
def test_baselines_learn_each_task(texts: list[str], labels: list[Any], task: str, reached: dict[str, tuple]):
    data = load(texts, labels, task=task)
    found = measure_baselines(data, None, is_balanced=False, seed=0)
    assert [found[split]["tfidf"]["rows"] for split in found] == [6, 2]
    for name, (majority, tfidf) in reached.items():
        assert found["validation"]["majority"][name] == pytest.approx(majority)
        assert found["validation"]["tfidf"][name] == pytest.approx(tfidf)
    if task == "multi":
        assert found["validation"]["tfidf"]["micro_f1"] > found["validation"]["majority"]["micro_f1"]
    else:
        folds = [(np.array([0, 2]), np.array([1, 3, 4, 5])), (np.array([1, 3, 4, 5]), np.array([0, 2]))]  # one class
        assert measure_baselines(data, folds, is_balanced=True, seed=0)["validation"]["tfidf"]["rows"] == 6


def test_a_baseline_has_not_seen_the_rows_of_its_fold():
    """Labels by chance, of texts that share no word: who has seen a row knows its label, others cannot."""
    chooser = random.Random(0)
    data = load([f"w{index}" for index in range(60)], [chooser.choice("ab") for _ in range(60)], count=60)
    assert measure_baselines(data, None, False, 0)["validation"]["tfidf"]["accuracy"] == 1
    rows = np.arange(60)
    folds = [(rows[rows % 3 != part], rows[rows % 3 == part]) for part in range(3)]
    order = np.concatenate([held for _, held in folds])
    crossed = TextData(**{**vars(data), "validation": data.train.select(order)})
    assert measure_baselines(crossed, folds, False, 0)["validation"]["tfidf"]["accuracy"] < 0.7


def test_of_very_many_rows_a_part_is_learned_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "MOST_WORK", 18 * 200)
    data = load([f"goal {'x' * 15}", f"bank {'y' * 15}"] * 20, [*"ab"] * 20)
    found = measure_baselines(data, None, False, 0)["test"]["tfidf"]
    assert (found["trained_rows"], found["accuracy"]) == (10, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "rows", "base", "expected"),
    [
        (0.7, 0.9, 100, None, "--model english"),
        (0.7, 0.9, 100, "english", "More labelled rows"),
        (0.7, 0.72, 100, None, None),  # within a standard error
        (0.9, 0.7, 100, None, None),
    ],
)
def test_it_says_what_to_do_where_tfidf_is_ahead(
    ours: float, theirs: float, rows: int, base: str | None, expected: Any
):
    record = {
        "task": "single",
        "base_model": base,
        "data": {"rows": {"train": 300}},
        "settings": {"metric_for_best_model": "accuracy"},
        "results": {"validation": {"rows": rows, "accuracy": ours}},
        "baselines": {"validation": {"tfidf": {"accuracy": theirs}}},
    }
    advice = advise(record)
    assert advice is None if expected is None else expected in str(advice)


# Mistakes


@pytest.mark.parametrize(
    ("labels", "logits", "expected"),
    [
        ([*"aabb"], [[0, 3], [9, 0], [4, 0], [0, 9]], [("2", "b", "a", 0.982), ("0", "a", "b", 0.953)]),
        ([["a"], [], ["b"], ["a", "b"]], [[2, 1], [-1, -1], [-4, 9], [9, 9]], [("0", "a", "a;b", 0.731)]),
        ([1.5, 2.5, 3.5, 4.5], [[1.5], [2.5], [5.5], [4.5]], [("2", "3.5", "5.5", 2.0)]),
    ],
)
def test_mistakes_are_listed_the_most_confident_first(
    labels: list[Any], logits: list[list[float]], expected: list[tuple], tmp_path: Path
):
    texts = ['one, "quoted"', "two", "three\nlines, ünïcode", "four"]
    task = {str: "single", list: "multi", float: "number"}[type(labels[0])]
    data = load(texts, labels, count=4, task=task)
    measured = {"validation": (np.array(logits, np.float32), np.asarray(data.validation["label"]))}
    write_mistakes(tmp_path / "mistakes.csv", data, measured)
    assert (tmp_path / "mistakes.csv").read_bytes().startswith("\ufeff".encode())  # for Excel
    with (tmp_path / "mistakes.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(expected)
    for row, (number, label, predicted, score) in zip(rows, expected, strict=True):
        assert (row["row"], row["label"], row["predicted"]) == (number, label, predicted)
        assert row["text"] == texts[int(number)]
        assert float(row["error" if task == "number" else "probability"]) == pytest.approx(score, abs=1e-3)


def test_a_run_compares_itself_and_lists_its_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [*make_rows(80, 0), {"text": " ", "label": "sport"}, *make_rows(80, 1)]  # the empty one is dropped
    rows[::5] = [row | {"label": "sport"} for row in rows[::5]]
    finetune_small(write_csv(tmp_path / "news.csv", rows), tmp_path / "run", validation_fraction=0.4)
    metrics, printed = read_metrics(tmp_path / "run"), capsys.readouterr()
    found = metrics["baselines"]["validation"]
    assert found["majority"]["accuracy"] < found["tfidf"]["accuracy"] <= 1
    assert found["tfidf"]["rows"] == metrics["results"]["validation"]["rows"] == metrics["data"]["rows"]["validation"]
    for title in ("this model", "TF-IDF, logistic regression", "always the largest class"):
        assert f"\n{title}  " in printed.out
        assert f"| {title} |" in (tmp_path / "run" / "README.md").read_text("utf-8")
    assert [line[:13] for line in printed.out.splitlines() if "loss" in line] == [f"Epoch {n} of 3:" for n in "123"]
    assert not any(mark in printed.out + printed.err for mark in ("{'", "it/s", "|"))
    with (tmp_path / "run" / "mistakes.csv").open(encoding="utf-8-sig", newline="") as file:
        mistakes = list(csv.DictReader(file))
    result = metrics["results"]["validation"]
    assert len(mistakes) == round(result["rows"] * (1 - result["accuracy"])) > 0
    for mistake in mistakes:
        row = rows[int(mistake["row"])]
        assert (row["text"], row["label"]) == (mistake["text"], mistake["label"])
        assert mistake["predicted"] != mistake["label"]


# Skewed classes


@pytest.mark.parametrize(
    ("given", "is_skewed", "weights", "metric"),
    [
        ({}, True, "balanced", "macro_f1"),
        ({}, False, "none", "accuracy"),
        ({"class_weights": "none"}, True, "none", "macro_f1"),
        ({"metric_for_best_model": "accuracy"}, True, "balanced", "accuracy"),
        ({"class_weights": "balanced", "metric_for_best_model": "eval_loss"}, False, "balanced", "loss"),
    ],
)
def test_skewed_classes_change_defaults_alone(
    given: dict[str, Any], is_skewed: bool, weights: str, metric: str, tmp_path: Path
):
    arguments = RunArguments(str(tmp_path), use_cpu=True, **given)
    arguments.resolve_task("single")
    arguments.resolve_skew(is_skewed)
    assert (arguments.class_weights, arguments.metric_for_best_model) == (weights, metric)
    assert arguments.greater_is_better == (metric != "loss")
    assert arguments.changed.keys() - {"use_cpu", "output_dir"} == given.keys()


def test_skewed_classes_are_said_and_the_rarest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [*make_rows(60, 0, ["sport"]), *make_rows(10, 1, ["money"])]
    finetune_small(write_csv(tmp_path / "news.csv", rows), tmp_path / "run", no_baseline=True)
    metrics, printed = read_metrics(tmp_path / "run"), capsys.readouterr().out
    assert (metrics["baselines"], metrics["advice"], metrics["settings"]["class_weights"]) == ({}, None, "balanced")
    assert metrics["best"]["metric"] == "macro_f1"
    assert "--class_weights none" in printed
    assert "--metric_for_best_model accuracy" in printed
    recall = metrics["results"]["validation"]["per_class"]["money"]["recall"]
    assert f"Recall of the rarest label, 'money' (1 rows): this model {recall:.2%}\n" in printed
    assert "TF-IDF" not in printed
