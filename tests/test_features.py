"""benchmarks/features.py: the features are those of our models, and no test row is read."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small_runs import write_data

from wave_network import WaveConfig, WaveModel
from wave_network.benchmarks import features
from wave_network.modeling_wave.embeddings_wave import WaveTokens
from wave_network.training.recipes import DataSet


def test_features_are_counted():
    assert features.count([[1, 1, 2], [], [0]], 3).toarray().tolist() == [[0, 2, 1], [0, 0, 0], [1, 0, 0]]


def test_pairs_are_those_of_a_model():
    model = WaveModel(WaveConfig(vocab_size=50, hidden_size=8, ngram_vocab_size=40))
    ids = [2, 9, 9, 17, 3]
    (found,) = model.embeddings.find_ids(WaveTokens.check(torch.tensor([ids])))["ngram_ids"]
    assert features.pair(ids, 40) == found[0].tolist()


def test_each_case_is_measured_once_without_the_test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_data(folder)
    (folder / "test.csv").write_text("no table of texts")
    monkeypatch.setattr(features, "DATA_SETS", {"tiny-news": DataSet("Tiny News", "tester/news", "tiny")})
    monkeypatch.setattr(features, "RESULTS", tmp_path / "features.jsonl")
    monkeypatch.setattr(sys, "argv", ["features.py", "--data", str(tmp_path)])
    features.main()
    rows = [json.loads(line) for line in (tmp_path / "features.jsonl").read_text().splitlines()]
    assert [row["features"] for row in rows] == features.CASES
    assert all(row["validation_accuracy"] > 0.5 for row in rows)
    assert rows[1]["count"] == rows[0]["count"] + features.PAIRS
    features.main()
    assert len((tmp_path / "features.jsonl").read_text().splitlines()) == len(features.CASES)
