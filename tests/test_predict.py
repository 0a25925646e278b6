"""`wave-network predict`: what it writes, and what it refuses to read or run."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import WORDS, finetune_small, make_rows, refuse, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.inference import predict as predict_module
from wave_network.inference.classify import split_batches
from wave_network.inference.predict import PredictArguments, predict

AWKWARD = ["plain", "with, comma", 'with "quotes"']
MARKER = "\nimport pathlib\npathlib.Path({path!r}).touch()\n"


def save_model(folder: Path, tokenizer: Any, labels: list[str] = AWKWARD, **settings: Any) -> Path:
    """A classifier with random weights, biases included, large enough that its results differ from text to text."""
    torch.manual_seed(1)
    names = dict(enumerate(labels))
    config = WaveConfig(
        vocab_size=len(tokenizer), hidden_size=16, id2label=names, **{"initializer_range": 0.5} | settings
    )
    model = WaveForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_bert(folder: Path, tokenizer: Any) -> Path:
    torch.manual_seed(1)
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names, size = dict(enumerate(AWKWARD)), len(tokenizer)
    config = BertConfig(vocab_size=size, max_position_embeddings=64, initializer_range=0.5, id2label=names, **settings)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "plain", AutoTokenizer.from_pretrained(run))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return make_texts()


def make_texts() -> list[str]:
    """Texts of many lengths, two of them empty, one longer than a model reads."""
    texts = [row["text"] for row in make_rows(40, seed=2)]
    texts[7] = texts[30] = ""
    texts[20] = " ".join(word for words in WORDS.values() for word in words) * 40
    texts[21] = 'a "quoted", text\nof two lines, ÄÖÜ 漢字 🙂'
    return texts


@pytest.fixture
def file(tmp_path: Path, texts: list[str]) -> Path:
    return write_csv(tmp_path / "texts.csv", [{"id": index, "text": text} for index, text in enumerate(texts)])


def classify(model: Path, file: Path, **settings: Any) -> list[dict[str, str]]:
    return read_csv(predict(PredictArguments(str(model), str(file), device="cpu", **settings)))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compute_logits(folder: Path, texts: list[Any], max_length: int | None = None) -> torch.Tensor:
    """Each text, or pair of texts, alone through transformers."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    logits = []
    for text in texts:
        parts = ([part] for part in (text if isinstance(text, tuple) else (text,)))
        batch = tokenizer(*parts, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            logits.append(model(**batch).logits[0])
    return torch.stack(logits)


# What is written


def check_rows(rows: list[dict[str, str]], expected: torch.Tensor, labels: list[str] = AWKWARD) -> None:
    assert [row["row"] for row in rows] == [str(index) for index in range(len(expected))]
    for row, probabilities in zip(rows, expected.softmax(-1).tolist(), strict=True):
        assert [float(row[f"probability_{label}"]) for label in labels] == pytest.approx(probabilities, abs=1e-5)
        assert row["label"] == labels[probabilities.index(max(probabilities))]
        assert float(row["probability"]) == pytest.approx(max(probabilities), abs=1e-5)
    assert len({row["label"] for row in rows}) > 1  # else the order of the labels is not tested


@pytest.mark.parametrize(("chunk", "batch_size"), [(4096, 64), (7, 3), (1, 1)])
def test_each_text_has_one_row_in_order_with_what_it_gets_alone(
    model: Path, file: Path, texts: list[str], chunk: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predict_module, "CHUNK", chunk)
    check_rows(classify(model, file, batch_size=batch_size), compute_logits(model, texts))


def test_other_models_and_pairs(model: Path, run: Path, file: Path, texts: list[str], tmp_path: Path):
    bert = save_bert(tmp_path / "bert", AutoTokenizer.from_pretrained(run))
    check_rows(classify(bert, file), compute_logits(bert, texts))
    chunked = save_model(tmp_path / "chunked", AutoTokenizer.from_pretrained(run), chunk_length=100)
    check_rows(classify(chunked, file, overwrite=True), compute_logits(chunked, texts))
    pairs = list(zip(texts[:9], texts[9:18], strict=True))
    rows = [{"premise": first, "hypothesis": second} for first, second in pairs]
    for each in (model, bert):
        found = classify(each, write_csv(tmp_path / "pairs.csv", rows), overwrite=True)
        check_rows(found, compute_logits(each, pairs))


def test_what_a_run_has_written_is_what_predict_finds(run: Path, data_folder: Path, tmp_path: Path):
    rows = classify(run, data_folder / "test.csv", output=str(tmp_path / "out.csv"), text_columns=["text"])
    right = [row["label"] == true["label"] for row, true in zip(rows, read_csv(data_folder / "test.csv"), strict=True)]
    metrics = json.loads((run / "metrics.json").read_text())
    assert sum(right) / len(right) == pytest.approx(metrics["results"]["test"]["accuracy"])


def test_a_run_reads_its_files_and_predict_the_columns_that_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    rows = [{"text": "noise", "summary": row["text"], "kind": row["label"]} for row in make_rows(60, seed=0)]
    rows[0]["summary"] += " goal" * 40
    write_csv(tmp_path / "train.csv", rows)
    files = {"train_file": tmp_path / "train.csv", "test_file": tmp_path / "train.csv"}
    run = finetune_small(None, tmp_path / "run", text_columns=["summary"], num_train_epochs=1, **files)
    out = capsys.readouterr().out
    assert "train.csv: 54 train, 6 validation, 60 test rows; text: summary; label: kind (3 classes)." in out
    assert "2 of 120 texts were cut at 32 tokens: --max_length." in out
    (tmp_path / "new.csv").write_text("text;summary\n" + "".join(f"noise;{row['summary']}\n" for row in rows))
    found = classify(run, tmp_path / "new.csv", delimiter=";", keep=["text"])
    check_rows(found, compute_logits(run, [row["summary"] for row in rows]), ["money", "space", "sport"])
    assert {row["kept_text"] for row in found} == {"noise"}
    assert "1 of 60 texts were cut at 32 tokens." in caplog.text
    write_csv(tmp_path / "other.csv", [{"text": "a text", "id": 1}])
    with pytest.raises(ValueError, match=r"`text_columns` must be .*, got 'summary'"):
        classify(run, tmp_path / "other.csv")


def test_texts_without_a_token_get_an_answer(model: Path, tmp_path: Path):
    folder = shutil.copytree(model, tmp_path / "bare")
    for name, field, value in (
        ("tokenizer.json", "post_processor", None),
        ("tokenizer_config.json", "tokenizer_class", "TokenizersBackend"),
    ):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {field: value}))
    assert AutoTokenizer.from_pretrained(folder)("")["input_ids"] == []
    bias = AutoModelForSequenceClassification.from_pretrained(folder).classifier.bias
    file = write_csv(tmp_path / "texts.csv", [{"text": text} for text in ("", "goal", "")])
    found = classify(folder, file, batch_size=2)
    for row in (found[0], found[2]):
        values = [float(row[f"probability_{label}"]) for label in AWKWARD]
        assert values == pytest.approx(bias.softmax(-1).tolist(), abs=1e-6)
    assert found[1] != found[0]


def test_batches_hold_texts_of_similar_length():
    lengths = [9, 1, 5, 2, 5, 100, 1]
    assert list(split_batches(lengths, 3, 1000)) == [[1, 6, 3], [2, 4, 0], [5]]
    assert list(split_batches(lengths, 3, 10)) == [[1, 6, 3], [2, 4], [0], [5]]  # one text at least
    assert list(split_batches([], 3, 10)) == []


# Where it is written


def test_an_existing_output_is_kept(model: Path, file: Path, capsys: pytest.CaptureFixture[str]):
    from wave_network.cli import main

    output = file.with_name("texts.csv.predictions.csv")
    output.write_text("mine")
    words = ["predict", str(model), "--file", str(file), "--device", "cpu"]
    assert str(output) in refuse(words, capsys)
    assert output.read_text() == "mine"
    main([*words, "--overwrite"])
    assert len(read_csv(output)) == 40
    assert capsys.readouterr().out == f"Written: {output}\n"


@pytest.mark.parametrize("older", [None, "mine"])
def test_a_run_that_fails_on_the_way_leaves_nothing(
    model: Path, file: Path, older: str | None, monkeypatch: pytest.MonkeyPatch
):
    output = file.with_name("texts.csv.predictions.csv")
    if older:
        output.write_text(older)

    def read_texts(path: str, **_: Any) -> Iterator[list[dict[str, str]]]:
        yield [{"text": "goal"}] * 5
        raise ValueError("bad row")

    monkeypatch.setattr(predict_module, "read_texts", read_texts)
    with pytest.raises(ValueError, match="bad row"):
        classify(model, file, overwrite=True)
    assert sorted(path.name for path in file.parent.iterdir()) == ["texts.csv", *[output.name] * bool(older)]
    assert older is None or output.read_text() == older


def test_rows_are_read_as_they_are_written(model: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of any size: a chunk is classified before the next one is read."""
    events: list[str] = []

    def read_texts(path: str, **_: Any) -> Iterator[list[dict[str, str]]]:
        for _ in range(3):
            events.append("read")
            yield [{"text": "goal"}] * 5

    logits = predict_module.Classifier.logits
    monkeypatch.setattr(
        predict_module.Classifier, "logits", lambda self, rows: events.append("classify") or logits(self, rows)
    )
    monkeypatch.setattr(predict_module, "read_texts", read_texts)
    assert len(classify(model, file)) == 15
    assert events == ["read", "classify"] * 3


# What is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": "missing.csv"}, ["missing.csv"]),
        ({"text_columns": ["body"]}, ["'body'", "'text'"]),
        ({"batch_size": 0}, ["`batch_size`", "at least 1", "0"]),
        ({"model": "./missing"}, ["./missing"]),
        ({"device": "gpu"}, ["`device`", "'gpu'", "cpu"]),
        ({"device": "meta"}, ["`device`", "'meta'"]),
        ({"output": ".", "overwrite": True}, ["`output`", "'.'"]),
        ({"output": "/dev/null", "overwrite": True}, ["`output`", "'/dev/null'", "standard output"]),
        ({"output": "missing/out.csv", "model": "./missing"}, ["`output`", "a folder that exists", "out.csv"]),
    ],
)
def test_bad_input_is_an_error_that_names_it(model: Path, file: Path, settings: dict[str, Any], words: list[str]):
    with pytest.raises((ValueError, OSError)) as raised:
        predict(PredictArguments(**{"model": str(model), "file": str(file), "device": "cpu"} | settings))
    for word in words:
        assert word in str(raised.value)
    assert [path.name for path in file.parent.iterdir()] == ["texts.csv"]


@pytest.mark.parametrize("how", ["same", "link to the input", "link as the input"])
def test_the_input_is_not_replaced_by_the_output(model: Path, file: Path, how: str):
    link = file.with_name("link.csv")
    link.symlink_to(file)
    source, output = {"same": (file, file), "link to the input": (file, link), "link as the input": (link, file)}[how]
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"`output` must be another file than `file`"):
        classify(model, source, output=str(output), overwrite=True)
    assert file.read_bytes() == before


def test_a_model_that_is_no_whole_classifier_is_refused(model: Path, run: Path, file: Path, tmp_path: Path):
    odd, encoder = shutil.copytree(model, tmp_path / "odd"), tmp_path / "encoder"
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"hidden_size": 8}))
    with pytest.raises(ValueError, match=r"odd' must have the 'classifier\.weight'.*\(3, 8\), got .*\(3, 16\)"):
        classify(odd, file)
    AutoModelForSequenceClassification.from_pretrained(model).wave.save_pretrained(encoder)
    AutoTokenizer.from_pretrained(run).save_pretrained(encoder)
    with pytest.raises(ValueError, match=r"must be a trained classifier; it has no 'classifier\.bias'"):
        classify(encoder, file)


def test_pickled_weights_are_refused(model: Path, file: Path, tmp_path: Path):
    folder = shutil.copytree(model, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(AutoModelForSequenceClassification.from_pretrained(model).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        classify(folder, file)


def test_code_of_the_model_folder_is_run_only_with_trust(model: Path, file: Path, texts: list[str], tmp_path: Path):
    folder, marker = shutil.copytree(model, tmp_path / "hostile"), tmp_path / "marker"
    assert (folder / "modeling_wave.py").exists()
    for code in folder.glob("*.py"):
        code.write_text(code.read_text() + MARKER.format(path=str(marker)))
    assert len(classify(folder, file)) == len(texts)
    # A model that no package knows.
    code = MARKER.format(path=str(marker)) + (
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class ForeignConfig(BertConfig):\n    model_type = 'foreign'\n"
        "class ForeignModel(BertForSequenceClassification):\n    config_class = ForeignConfig\n"
    )
    (folder / "foreign.py").write_text(code)
    names = {"AutoConfig": "foreign.ForeignConfig", "AutoModelForSequenceClassification": "foreign.ForeignModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": names}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        classify(folder, file, overwrite=True)
    assert not marker.exists()
    with pytest.raises(OSError, match="safetensors"):  # its code is run, and then finds no weights
        classify(folder, file, overwrite=True, trust_remote_code=True)
    assert marker.exists()
