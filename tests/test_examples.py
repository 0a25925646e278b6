"""The examples about heads, LoRA, sentence vectors and Trainer run, print what they promise, and overwrite nothing."""

import runpy
from pathlib import Path

import pytest
from small_runs import make_rows, write_csv
from transformers import AutoTokenizer

from wave_network import WaveConfig, WaveForSequenceClassification, load, train_wave_tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
LABELS = {0: "money", 1: "space", 2: "sport"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [row for row in make_rows(120, seed=0) if len(row["text"].split()) > 8]
    return str(write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", rows))


def run(name: str, *words: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*words)


def refuses(name: str, *words: str) -> None:
    with pytest.raises(SystemExit, match="is there already"):
        run(name, *words)


def test_heads(texts, tmp_path, capsys):
    run("heads.py", texts, "2", str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "the prime" in printed
    assert "token-classification: WaveForTokenClassification" in printed
    refuses("heads.py", texts, "2", str(tmp_path / "model"))


def test_lora(texts, tmp_path, capsys):
    tokenizer = train_wave_tokenizer([row["text"] for row in make_rows(40, seed=0)], 200, show_progress=False)
    config = WaveConfig(vocab_size=len(tokenizer), hidden_size=16, id2label=LABELS)
    WaveForSequenceClassification(config).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    assert AutoTokenizer.from_pretrained(tmp_path / "run")
    run("lora.py", str(tmp_path / "run"), texts, str(tmp_path / "adapter"))
    printed = capsys.readouterr().out
    assert "trainable params" in printed
    assert "'label': " in printed
    refuses("lora.py", str(tmp_path / "run"), texts, str(tmp_path / "adapter"))


def test_sentence_embeddings(texts, tmp_path, capsys):
    run("sentence_embeddings.py", texts, str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "found after:" in printed
    refuses("sentence_embeddings.py", texts, str(tmp_path / "model"))


def test_trainer(texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run("trainer.py", texts, str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "'eval_accuracy': " in printed
    assert "'label': " in printed
    assert load(tmp_path / "model").labels == list(LABELS.values())
    refuses("trainer.py", texts, str(tmp_path / "model"))
