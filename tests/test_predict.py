"""`wave-network predict`: what it writes, and what it refuses to read or run."""

import csv
import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import WORDS, make_rows, refuse, write_csv
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.training import predict as predict_module
from wave_network.training.cli import main
from wave_network.training.predict import PredictArguments, predict

AWKWARD = ["plain", "with, comma", 'with "quotes"']
MARKER = "\nimport pathlib\npathlib.Path({path!r}).touch()\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wave_tokenizer((row["text"] for row in make_rows(60, seed=0)), 200, show_progress=False)


def save_model(folder: Path, tokenizer: Any, labels: list[str], **settings: Any) -> Path:
    """A classifier with random weights, large enough that its probabilities differ from text to text."""
    torch.manual_seed(1)
    config = WaveConfig(
        vocab_size=len(tokenizer), hidden_size=16, id2label=dict(enumerate(labels)), initializer_range=0.5, **settings
    )
    WaveForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "plain", tokenizer, AWKWARD)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of many lengths, two of them empty, one far longer than the model reads."""
    texts = [row["text"] for row in make_rows(50, seed=2)]
    texts[7] = texts[30] = ""
    texts[20] = " ".join(word for words in WORDS.values() for word in words) * 100
    texts[21] = 'a "quoted", text\nof two lines'
    return texts


@pytest.fixture
def file(tmp_path: Path, texts: list[str]) -> Path:
    return write_csv(tmp_path / "texts.csv", [{"id": index, "text": text} for index, text in enumerate(texts)])


def classify(model: Path, file: Path, **settings: Any) -> list[dict[str, str]]:
    output = predict(PredictArguments(str(model), str(file), device="cpu", **settings))
    return read_csv(output)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compute_logits(folder: Path, *texts: str) -> list[float]:
    """The logits of one text, or of one pair, by the plain way through transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model(**tokenizer(*texts, truncation=True, return_tensors="pt")).logits[0].tolist()


def note_batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What the model is given from now on."""
    batches: list[dict[str, torch.Tensor]] = []
    collate = predict_module.Classifier.collate

    def collate_and_note(*arguments: Any) -> Any:
        batches.append(dict(collate(*arguments)))
        return batches[-1]

    monkeypatch.setattr(predict_module.Classifier, "collate", collate_and_note)
    return batches


# What is written


@pytest.mark.parametrize("how", ["packed", "padded"])
def test_each_text_has_one_row_in_order_with_what_it_gets_alone(
    model: Path, file: Path, texts: list[str], how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", 0 if how == "packed" else sys.maxsize)
    batches = note_batches(monkeypatch)
    rows = classify(model, file)
    assert all(("cu_seq_lens" in batch) == (how == "packed") for batch in batches)
    assert [row["row"] for row in rows] == [str(index) for index in range(len(texts))]
    for row, text in zip(rows, texts, strict=True):
        expected = torch.tensor(compute_logits(model, text)).softmax(-1).tolist()
        assert [float(row[f"probability_{label}"]) for label in AWKWARD] == pytest.approx(expected, abs=1e-6)
        assert row["label"] == AWKWARD[expected.index(max(expected))]
        assert float(row["probability"]) == pytest.approx(max(expected), abs=1e-6)
    assert {row["label"] for row in rows} == set(AWKWARD)  # else the order of the labels is not tested


@pytest.mark.parametrize(("chunk", "batch_size"), [(1, 64), (7, 3), (50, 1)])
def test_chunks_and_batches_change_nothing(
    model: Path, file: Path, tmp_path: Path, chunk: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    whole = classify(model, file)
    monkeypatch.setattr(predict_module, "CHUNK", chunk)
    parted = classify(model, file, output=str(tmp_path / "parted.csv"), batch_size=batch_size)
    assert [row["label"] for row in parted] == [row["label"] for row in whole]
    for name in whole[0]:
        if name.startswith("probability"):
            found, expected = ([float(row[name]) for row in rows] for rows in (parted, whole))
            assert found == pytest.approx(expected, abs=2e-6)  # both are rounded to six places


def test_on_a_cpu_a_batch_is_packed_if_its_texts_are_work_enough(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Three tokens of 16 numbers each, and 12: with the two that stand around a text.
    file = write_csv(tmp_path / "texts.csv", [{"text": " ".join(["goal"] * words)} for words in (1, 10, 1)])
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", 3 * 16)
    batches = note_batches(monkeypatch)
    classify(model, file, batch_size=2)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 3), (1, 12)]
    assert ["cu_seq_lens" in batch for batch in batches] == [False, True]


@pytest.mark.parametrize("numbers", [0, sys.maxsize])
def test_on_a_cpu_a_batch_holds_so_many_tokens_but_one_text_at_least(
    model: Path, file: Path, texts: list[str], numbers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", numbers)
    monkeypatch.setattr(predict_module, "CPU_TOKENS", 40)
    batches = note_batches(monkeypatch)
    assert len(classify(model, file)) == len(texts)
    sizes = [batch["input_ids"].numel() for batch in batches]
    assert max(sizes[:-1]) <= 40
    assert sizes[-1] == 512  # the long one, alone
    assert len(sizes) < len(texts) / 2


def test_texts_that_the_model_reads_in_chunks_are_not_packed(
    tokenizer: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = save_model(tmp_path / "chunked", tokenizer, AWKWARD, chunk_length=100)
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", 0)
    batches = note_batches(monkeypatch)
    found = classify(folder, file)[20]
    assert ["cu_seq_lens" in batch for batch in batches] == [True, False]
    assert batches[1]["input_ids"].shape == (1, 512)
    text = read_csv(file)[20]["text"]
    expected = torch.tensor(compute_logits(folder, text)).softmax(-1).tolist()
    assert [float(found[f"probability_{label}"]) for label in AWKWARD] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("numbers", [0, sys.maxsize])
def test_texts_without_a_token_get_the_bias_of_the_classifier(
    model: Path, tmp_path: Path, numbers: int, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(model, tmp_path / "bare")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    bias = AutoModelForSequenceClassification.from_pretrained(folder).classifier.bias
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", numbers)
    batches = note_batches(monkeypatch)
    found = classify(
        folder, write_csv(tmp_path / "texts.csv", [{"text": text} for text in ("", "goal", "")]), batch_size=2
    )
    assert [batch["input_ids"].shape for batch in batches] == [(2, 1), (1, 1)]
    for row in (found[0], found[2]):
        values = [float(row[f"probability_{label}"]) for label in AWKWARD]
        assert values == pytest.approx(bias.softmax(-1).tolist(), abs=1e-6)
    assert found[1] != found[0]


def test_a_model_that_knows_no_packed_texts_gets_padded_ones(
    tokenizer: Any, file: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=dict(enumerate(AWKWARD)),
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", 0)
    batches = note_batches(monkeypatch)
    rows = classify(tmp_path / "bert", file)
    assert not any("cu_seq_lens" in batch for batch in batches)
    for row, text in zip(rows, texts, strict=True):
        expected = torch.tensor(compute_logits(tmp_path / "bert", text)).softmax(-1).tolist()
        assert [float(row[f"probability_{label}"]) for label in AWKWARD] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("output", ["out.csv", "-"])
def test_a_chunk_is_written_before_the_next_one_is_read(
    model: Path, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    written = []

    def read_texts(path: str, **_: Any) -> Iterator[list[dict[str, str]]]:
        for _ in range(3):
            parts = [path.read_text() for path in sorted(tmp_path.rglob("*.csv"))] or [capsys.readouterr().out]
            written.append(sum(part.count("\n") for part in parts))
            yield [{"text": "goal"}, {"text": "bank"}]

    monkeypatch.setattr(predict_module, "read_texts", read_texts)
    path = output if output == "-" else str(tmp_path / output)
    predict(PredictArguments(str(model), "texts.csv", output=path, device="cpu"))
    # To standard output the header goes first.
    assert written == ([1, 2, 2] if output == "-" else [0, 2, 4])


@pytest.mark.parametrize("output", ["out.csv", "-"])
def test_the_memory_does_not_grow_with_the_file(
    model: Path, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predict_module, "CHUNK", 50)
    monkeypatch.setattr(predict_module.Classifier, "classify", lambda self, rows: ([row["text"][:9]] for row in rows))
    peaks = []
    for count in (150, 1500):
        file = write_csv(tmp_path / f"{count}.csv", ({"text": f"{index} " * 1000} for index in range(count)))
        path = output if output == "-" else str(tmp_path / f"{count}-{output}")
        tracemalloc.start()
        predict(PredictArguments(str(model), str(file), output=path, device="cpu"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert file.stat().st_size > 4 * peaks[1]
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("numbers", [0, sys.maxsize])
def test_pairs_are_read_as_pairs(model: Path, tmp_path: Path, numbers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predict_module, "CPU_NUMBERS", numbers)
    rows = [{"premise": "goal match", "hypothesis": "bank"}, {"premise": "bank", "hypothesis": "goal match"}]
    found = classify(model, write_csv(tmp_path / "pairs.csv", rows))
    for row, pair in zip(found, rows, strict=True):
        expected = torch.tensor(compute_logits(model, *pair.values())).softmax(-1).tolist()
        assert [float(row[f"probability_{label}"]) for label in AWKWARD] == pytest.approx(expected, abs=1e-6)


def test_a_multi_label_model_writes_all_labels_above_one_half(tokenizer: Any, tmp_path: Path, file: Path):
    folder = save_model(tmp_path / "multi", tokenizer, ["a", "b", "c"], problem_type="multi_label_classification")
    rows = classify(folder, file)
    for row in rows:
        probabilities = {label: float(row[f"probability_{label}"]) for label in "abc"}
        assert row["label"] == ";".join(label for label, value in probabilities.items() if value > 0.5)
    assert {len(row["label"].split(";")) for row in rows if row["label"]} > {1}
    expected = torch.tensor(compute_logits(folder, read_csv(file)[0]["text"])).sigmoid().tolist()
    assert [float(rows[0][f"probability_{label}"]) for label in "abc"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_a_model_of_one_label_writes_its_value(
    tokenizer: Any, tmp_path: Path, file: Path, texts: list[str], problem_type: str | None
):
    folder = save_model(tmp_path / "value", tokenizer, ["stars"], problem_type=problem_type)
    rows = classify(folder, file)
    assert list(rows[0]) == ["row", "stars"]
    for row, text in zip(rows[:10], texts, strict=False):
        assert [float(row["stars"])] == pytest.approx(compute_logits(folder, text), rel=1e-4, abs=1e-5)


# Where it is written


def test_the_output_lies_beside_the_input_and_an_existing_one_is_kept(
    model: Path, file: Path, capsys: pytest.CaptureFixture[str]
):
    output = file.with_name("texts.csv.predictions.csv")
    output.write_text("mine")
    words = ["predict", str(model), "--file", str(file), "--device", "cpu"]
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert str(output) in capsys.readouterr().err
    assert output.read_text() == "mine"
    main([*words, "--overwrite"])
    assert len(read_csv(output)) == 50
    assert capsys.readouterr().out == f"Written: {output}\n"


def test_the_home_folder_may_be_called_by_its_sign(model: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(file.parent))
    main(["predict", str(model), "--file", f"~/{file.name}", "--output", "~/out.csv", "--device", "cpu"])
    assert len(read_csv(file.parent / "out.csv")) == 50


def test_a_dash_writes_to_standard_output_and_nothing_else(
    model: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(["predict", str(model), "--file", str(file), "--output", "-", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert list(csv.DictReader(lines)) == classify(model, file, output=str(tmp_path / "out.csv"))


@pytest.mark.parametrize("finished", [0, 1])
def test_an_interrupted_run_leaves_nothing_but_what_it_has_finished(
    model: Path, file: Path, finished: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    interrupt(model, file, monkeypatch, finished=finished)
    parts = file.with_name(".texts.csv.predictions.csv.parts")
    assert sorted(file.parent.iterdir()) == ([parts, file] if finished else [file])
    assert (f"Finished chunks that are kept in '{parts}': 1." in capsys.readouterr().err) == bool(finished)


def test_an_interrupted_run_keeps_the_output_that_it_was_to_replace(
    model: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    output = file.with_name("texts.csv.predictions.csv")
    output.write_text("mine")
    monkeypatch.setattr(predict_module.Classifier, "classify", lambda self, rows: iter([rows[0]["missing"]]))
    with pytest.raises(KeyError):
        classify(model, file, overwrite=True)
    assert output.read_text() == "mine"


# How it goes on


def interrupt(model: Path, file: Path, monkeypatch: pytest.MonkeyPatch, finished: int = 2) -> None:
    """A run that is stopped in the chunk of ten rows after these."""
    monkeypatch.setattr(predict_module, "CHUNK", 10)
    classify_chunk = predict_module.Classifier.classify
    calls = []

    def classify_or_stop(self: Any, rows: list[dict[str, str]]) -> Iterator[list[Any]]:
        calls.append(len(rows))
        for place, cells in enumerate(classify_chunk(self, rows)):
            if len(calls) > finished and place == 5:
                raise KeyboardInterrupt
            yield cells

    with monkeypatch.context() as patch:
        patch.setattr(predict_module.Classifier, "classify", classify_or_stop)
        with pytest.raises(KeyboardInterrupt):
            classify(model, file)


def note_chunks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first text of each chunk that is classified from now on."""
    noted: list[str] = []
    classify_chunk = predict_module.Classifier.classify

    def classify_and_note(self: Any, rows: list[dict[str, str]]) -> Iterator[list[Any]]:
        noted.append(rows[0]["text"])
        return classify_chunk(self, rows)

    monkeypatch.setattr(predict_module.Classifier, "classify", classify_and_note)
    return noted


def test_the_same_command_goes_on_with_what_is_not_finished(
    model: Path, file: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predict_module, "CHUNK", 10)
    classify(model, file, output=str(tmp_path / "whole.csv"))
    interrupt(model, file, monkeypatch, finished=1)
    interrupt(model, file, monkeypatch, finished=2)  # of what is not finished yet
    noted = note_chunks(monkeypatch)
    os.utime(file, (0, 0))  # it is the same file, copied or not
    rows = classify(model, file)
    assert noted == [texts[30], texts[40]]
    assert file.with_name("texts.csv.predictions.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [row["row"] for row in rows] == [str(index) for index in range(50)]
    assert not list(file.parent.glob(".*"))


def test_a_file_may_change_where_it_was_not_read_yet(
    model: Path, file: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
):
    interrupt(model, file, monkeypatch)
    noted = note_chunks(monkeypatch)
    write_csv(file, [{"text": text} for text in [*texts[:20], "bank", *texts[20:]]])
    assert len(classify(model, file)) == 51
    assert noted == ["bank", texts[29], texts[39], texts[49]]


def test_rows_that_have_changed_since_are_named(
    model: Path, file: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
):
    interrupt(model, file, monkeypatch)
    write_csv(file, [{"text": text} for text in [*texts[:12], "another", *texts[13:]]])
    with pytest.raises(ValueError, match=r"`file` .* rows 10 to 19, .* --overwrite"):
        classify(model, file)
    noted = note_chunks(monkeypatch)
    assert len(classify(model, file, overwrite=True)) == 50
    assert len(noted) == 5


@pytest.mark.parametrize("name", ["model", "text_columns", "batch_size", "device", "chunk", "wave_network"])
def test_a_run_with_another_setting_is_not_gone_on_with(
    name: str, model: Path, file: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupt(model, file, monkeypatch)
    settings: dict[str, Any] = {}
    if name == "model":
        folder = save_model(tmp_path / "other", tokenizer, AWKWARD)
        weights = AutoModelForSequenceClassification.from_pretrained(folder)
        weights.classifier.bias.data += 1
        weights.save_pretrained(folder)
        model = folder
    elif name in ("text_columns", "batch_size"):
        settings = {"text_columns": ["text"]} if name == "text_columns" else {"batch_size": 3}
    elif name == "chunk":
        monkeypatch.setattr(predict_module, "CHUNK", 11)
    elif name == "wave_network":
        monkeypatch.setattr(predict_module, "version", lambda package: "0.0.1")
    else:
        edit_settings(file, device="cuda")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"with another `{name}`.* --overwrite"):
        classify(model, file, **settings)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert len(classify(model, file, overwrite=True, **settings)) == 50
    assert not list(file.parent.glob(".*"))


def edit_settings(file: Path, **settings: Any) -> Path:
    path = file.with_name(".texts.csv.predictions.csv.parts") / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return path


def test_a_model_that_was_moved_is_the_same(model: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    interrupt(model, file, monkeypatch)
    moved = shutil.copytree(model, tmp_path / "moved")
    (moved / "README.md").write_text("# Another card\n")
    noted = note_chunks(monkeypatch)
    assert len(classify(moved, file)) == 50
    assert len(noted) == 3


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_damaged_settings_of_an_interrupted_run_are_named(
    damage: str, model: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupt(model, file, monkeypatch)
    path = edit_settings(file)
    path.unlink() if damage == "remove" else path.write_text(path.read_text()[:20])
    with pytest.raises(ValueError, match=r"settings\.json cannot be read.* --overwrite"):
        classify(model, file)


def test_a_chunk_that_is_lost_is_missed(model: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    classify_chunk = predict_module.Classifier.classify

    def classify_and_lose(self: Any, rows: list[dict[str, str]]) -> Iterator[list[Any]]:
        for path in file.parent.rglob("00000001-*.csv"):
            path.unlink()
        return classify_chunk(self, rows)

    monkeypatch.setattr(predict_module, "CHUNK", 10)
    monkeypatch.setattr(predict_module.Classifier, "classify", classify_and_lose)
    with pytest.raises(FileNotFoundError, match="Chunk 1 of 5 is missing"):
        classify(model, file)
    assert not file.with_name("texts.csv.predictions.csv").exists()


# What is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": "missing.csv"}, ["missing.csv"]),
        ({"text_columns": ["body"]}, ["`text_columns`", "'body'", "'text'"]),
        ({"batch_size": "0"}, ["`batch_size`", "at least 1", "0"]),
        ({"model": "./missing"}, ["./missing"]),
        ({"model": "./missing", "device": "gpu"}, ["`device`", "'gpu'", "'cpu'"]),
        ({"model": "./missing", "device": "cuda:99"}, ["`device`", "'cuda:99'", "'cpu'"]),
        ({"model": "./missing", "device": "meta"}, ["`device`", "'meta'", "'cpu'"]),
        ({"output": ".", "overwrite": True}, ["`output`", "folder '.'"]),
        ({"output": "/dev/null", "overwrite": True}, ["`output`", "'/dev/null'", "standard output"]),
        ({"output": "missing/out.csv", "model": "./missing"}, ["`output`", "a folder that is there", "out.csv"]),
        ({"file": "/dev/null"}, ["a file on a disk", "'/dev/null'"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    model: Path, file: Path, settings: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
):
    settings = {"model": model, "file": file, "device": "cpu"} | settings
    line = [
        part
        for name, value in settings.items()
        for part in (f"--{name}", *(value if name == "text_columns" else [str(value)]))
    ]
    with pytest.raises(SystemExit) as exit_:
        main(["predict", *line])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("wave-network predict: ")
    for word in words:
        assert word in error
    assert [path.name for path in file.parent.iterdir()] == ["texts.csv"]


@pytest.mark.parametrize("how", ["same", "another spelling", "link to the input", "link as the input"])
def test_the_input_is_not_replaced_by_the_output(model: Path, file: Path, how: str):
    link = file.with_name("link.csv")
    if how.startswith("link"):
        link.symlink_to(file)
    source = link if how == "link as the input" else file
    output = {"another spelling": file.parent / ".." / file.parent.name / file.name, "link to the input": link}
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"`output` must be another file than `file`"):
        classify(model, source, output=str(output.get(how, file)), overwrite=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_size": 8}, ["`model`", "odd", "'classifier.weight'", "(3, 8)", "(3, 16)"]),
        ({"hidden_dropout_prob": 2}, ["ValueError: `hidden_dropout_prob` must be", "got 2"]),
    ],
)
def test_a_model_with_another_configuration_than_it_was_saved_with_is_one_line_that_names_what_is_wrong(
    tokenizer: Any,
    file: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
):
    folder = save_model(tmp_path / "odd", tokenizer, AWKWARD)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    error = refuse(["predict", str(folder), "--file", str(file), "--device", "cpu"], capsys)
    for word in words:
        assert word in error
    assert not file.with_name("texts.csv.predictions.csv").exists()


def test_a_model_that_is_no_classifier_is_refused(
    model: Path, tokenizer: Any, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    AutoModelForSequenceClassification.from_pretrained(model).wave.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    error = refuse(["predict", str(tmp_path / "encoder"), "--file", str(file), "--device", "cpu"], capsys)
    assert "must be a trained classifier" in error
    assert "'classifier.bias'" in error


def test_pickled_weights_are_refused(model: Path, file: Path, tokenizer: Any, tmp_path: Path):
    folder = save_model(tmp_path / "pickled", tokenizer, AWKWARD)
    (folder / "model.safetensors").unlink()
    torch.save(AutoModelForSequenceClassification.from_pretrained(model).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        classify(folder, file)
    assert not file.with_name("texts.csv.predictions.csv").exists()


def test_the_code_in_the_folder_of_a_wave_network_is_not_run(
    model: Path, file: Path, tokenizer: Any, tmp_path: Path, texts: list[str]
):
    folder = save_model(tmp_path / "hostile", tokenizer, AWKWARD)
    marker = tmp_path / "marker"
    for code in folder.glob("*.py"):
        code.write_text(code.read_text() + MARKER.format(path=str(marker)))
    assert (folder / "modeling_wave.py").exists()
    assert len(classify(folder, file)) == len(texts)
    assert not marker.exists()


def test_the_code_of_another_model_is_run_only_with_trust(file: Path, tokenizer: Any, tmp_path: Path):
    folder, marker = tmp_path / "foreign", tmp_path / "marker"
    tokenizer.save_pretrained(folder)
    code = MARKER.format(path=str(marker)) + (
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class ForeignConfig(BertConfig):\n    model_type = 'foreign'\n"
        "class ForeignModel(BertForSequenceClassification):\n    config_class = ForeignConfig\n"
    )
    (folder / "foreign.py").write_text(code)
    auto_map = {
        "AutoConfig": "foreign.ForeignConfig",
        "AutoModelForSequenceClassification": "foreign.ForeignModel",
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": auto_map}))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        classify(folder, file)
    assert not marker.exists()
    # With trust it is run; that it then finds no weights is another matter.
    with pytest.raises(OSError, match="safetensors"):
        classify(folder, file, trust_remote_code=True)
    assert marker.exists()
