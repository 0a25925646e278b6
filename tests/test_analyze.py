"""`wave-network analyze`: the frame of all studies, with the smallest one in it; what goes wrong in each."""

import builtins
import csv
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import INTERRUPTED, refuse
from transformers import BertConfig, BertForSequenceClassification, BertModel
from worked_model import save_worked_model, write_worked_data

from wave_network import WaveConfig, WaveForSequenceClassification, analysis, load_wave_tokenizer
from wave_network.analysis import STUDIES, analyze, docs, study
from wave_network.analysis.phase import PhaseResult
from wave_network.training import cli

FILES = {"parts", "phase.png", "phase.svg", "phase_density.png", "phase_density.svg", "report.md", "result.json"}
FILES |= {"study.json", "table.csv", "table.md"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_worked_data(tmp_path_factory.mktemp("data") / "numbers")


def words(model: Path, data: Path, output: Path, *others: object, study: str = "phase") -> list[str]:
    """The command line of a small study."""
    given = ["--model", model, "--data", data, "--output_dir", output, "--device", "cpu"]
    lengths = ["--lengths", 4, 3] if study == "phase" else []
    return ["analyze", study, *map(str, [*given, *lengths, *others])]


def test_a_study_leaves_table_figures_and_report_and_returns_the_same(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "phase"
    cli.main(words(model, data, output))
    assert {path.name for path in output.iterdir()} == FILES
    captured = capsys.readouterr()
    assert captured.out == f"4 rows, figures and a report in words: {output / 'report.md'}\n"
    assert "phase:" in captured.err, "no progress was shown"

    result = analyze("phase", model=str(model), data=str(data), output_dir=str(tmp_path / "again"), lengths=[4, 3])
    assert isinstance(result, PhaseResult)
    with (output / "table.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in row.items()} for row in result.table] == read
    for name in FILES - {"parts"}:
        assert (output / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name

    report = (output / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# The scale of the phase\n")
    assert (output / "table.md").read_text(encoding="utf-8") in report
    assert all((output / name).is_file() for name in re.findall(r"!\[.*\]\((.*)\)", report))
    record = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert record["settings"] == {"lengths": [4, 3], "texts": 64}
    assert record["model"]["name"] == "worked"
    assert record["data"]["name"] == "numbers"
    assert record["versions"].keys() >= {"torch", "transformers", "matplotlib"}
    # A folder says nothing on another machine.
    assert str(tmp_path) not in report + json.dumps(record)
    assert str(model.parent) not in report + json.dumps(record)


def test_an_interrupted_study_goes_on(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from wave_network.analysis import phase

    measured: list[int] = []

    def measure(model: Any, texts: list[list[int]], original=phase.measure_length) -> dict[str, Any]:
        if len(measured) == 1 and not is_second_run:
            raise KeyboardInterrupt
        measured.append(len(texts[0]))
        return original(model, texts)

    monkeypatch.setattr(phase, "measure_length", measure)
    is_second_run = False
    with pytest.raises(SystemExit) as exit_:
        cli.main(words(model, data, tmp_path / "phase"))
    assert exit_.value.code == INTERRUPTED
    assert not (tmp_path / "phase" / "result.json").exists()
    is_second_run = True
    cli.main(words(model, data, tmp_path / "phase"))
    assert measured == [3, 4], "a finished part was measured again, or one was left out"
    cli.main(words(model, data, tmp_path / "whole"))
    for name in ("result.json", "report.md", "phase.svg"):
        assert (tmp_path / "phase" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_another_study_left_is_not_lost(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "phase"
    cli.main(words(model, data, output))
    before = (output / "table.csv").read_bytes()
    assert "another `seed`: 0, and now it is 7" in refuse(words(model, data, output, "--seed", 7), capsys)
    assert "another `texts`: 64, and now it is 2" in refuse(words(model, data, output, "--texts", 2), capsys)
    other = write_worked_data(tmp_path / "numbers", ("four four",))
    assert "another `data fingerprint`: " in refuse(words(model, other, output), capsys)
    other = save_worked_model(tmp_path / "worked", {"three": (5.0, 1.0), "four": (4.0, 1.0), "none": (0.0, 1.0)})
    assert "another `model fingerprint`: " in refuse(words(other, data, output), capsys)
    assert (output / "table.csv").read_bytes() == before

    cli.main(words(model, data, output, "--texts", 1, "--overwrite"))
    assert (output / "table.csv").read_bytes() != before

    message = refuse(words(model, data, output, "--overwrite", study="waves"), capsys)
    assert message.endswith("another `study`: 'phase', and now it is 'waves'. Choose another `output_dir`.")

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    for flags in ([], ["--overwrite"]):
        message = refuse(words(model, data, tmp_path / "letters", *flags), capsys)
        assert message.endswith("letters' is not empty, and no study lies in it. Choose another one.")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]


def test_a_model_that_differs_in_its_config_alone_is_another(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "phase"
    cli.main(words(model, data, output))
    other = save_worked_model(tmp_path / "worked", classifier_temperature=2.0)
    assert "another `model config_fingerprint`: " in refuse(words(other, data, output), capsys)


def test_a_model_that_differs_in_its_tokenizer_alone_is_another(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output, other = tmp_path / "phase", shutil.copytree(model, tmp_path / "worked")
    cli.main(words(model, data, output))
    tokenizer = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(tokenizer.replace('"three"', '"seven"'), encoding="utf-8")
    assert "another `model tokenizer_fingerprint`: " in refuse(words(other, data, output), capsys)


def save_bert(folder: Path, tokenizer: Path, seed: int, kind: type = BertForSequenceClassification) -> Path:
    """A BERT so small that it takes no time."""
    shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    torch.manual_seed(seed)
    kind(BertConfig(vocab_size=8, **shape)).save_pretrained(folder)
    load_wave_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def test_a_bert_of_the_same_name_is_another(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "independence"
    first, second = (save_bert(tmp_path / name / "bert", model, seed) for seed, name in enumerate("ab"))
    cli.main(words(model, data, output, "--bert", first, study="independence"))
    message = refuse(words(model, data, output, "--bert", second, study="independence"), capsys)
    assert "another `bert fingerprint`: " in message


def test_a_bert_that_was_moved_is_the_same_also_without_a_classifier(model: Path, data: Path, tmp_path: Path):
    output = tmp_path / "independence"
    bert = save_bert(tmp_path / "bert", model, seed=0, kind=BertModel)
    cli.main(words(model, data, output, "--bert", bert, study="independence"))
    before = (output / "study.json").read_bytes()
    cli.main(words(model, data, output, "--bert", bert.rename(tmp_path / "moved"), study="independence"))
    assert (output / "study.json").read_bytes() == before
    assert "BERT bert (1 layers, width 4)" in (output / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("convergence", ["--max_length", 11], "`max_length` must be at most 10, "),
        ("gradients", ["--max_length", 11], "`max_length` must be at most 10, "),
        ("independence", ["--max_length", 11], "`max_length` must be at most 10, "),
        ("complexity", ["--model_length", 11], "`model_length` must be at most 10, "),
        ("waves", ["--max_length", 11], "`max_length` must be at most 10, "),
        ("waves", ["--max_length", 10, "--deletion_length", 11], "`deletion_length` must be at most 10, "),
        ("phase", ["--lengths", 4, 11], "`lengths` must be at most 10, "),
    ],
)
def test_a_length_without_positions_is_refused_by_the_name_of_its_setting(
    name: str,
    flags: list[Any],
    message: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    bounded = tmp_path / "bounded"
    config = WaveConfig(vocab_size=8, hidden_size=2, position_embedding_type="absolute", max_position_embeddings=10)
    WaveForSequenceClassification(config).save_pretrained(bounded)
    load_wave_tokenizer(model).save_pretrained(bounded)
    given = ["--model", bounded, "--data", data, "--output_dir", tmp_path / "out", "--device", "cpu"]
    found = refuse(["analyze", name, *map(str, [*given, *flags])], capsys)
    assert message in found
    assert found.endswith("positions; got 11.")
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "table.csv"
    study.write_atomically(path, "old\n")

    def fail(self: Path, text: str, **_: Any) -> None:
        with builtins.open(self, "w") as file:
            file.write(text[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        study.write_atomically(path, "new and longer\n")
    assert path.read_text() == "old\n"


# Settings and help


def test_paper_raises_what_is_not_given():
    arguments, settings = study.make_settings("phase", {"model": "m", "paper": True})
    assert (arguments.paper, settings.texts, settings.lengths[-1]) == (True, 7600, 512)
    # Also where it is given the default.
    assert study.make_settings("phase", {"model": "m", "paper": True, "texts": 64})[1].texts == 64


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_set_up_as_its_help_says(name: str):
    settings = {each.name: each for each in fields(study.load_study(name).settings)}
    for each in settings.values():
        assert each.default is not MISSING or each.default_factory is not MISSING
        assert each.metadata["help"].endswith(".")
    for field, value in study.load_study(name).paper.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        assert f"With --paper: {shown}." in settings[field].metadata["help"]
    assert not settings.keys() & {each.name for each in fields(study.AnalyzeArguments)}


def test_help_names_the_studies_and_their_settings(capsys: pytest.CaptureFixture[str]):
    for arguments, expected in (
        (["--help"], rf"^  phase +{re.escape(STUDIES['phase'])}$"),
        (["phase", "--help"], r"^  --lengths"),
        (["phase", "--help"], r"^  --paper"),
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["analyze", *arguments])
        assert exit_.value.code == 0
        assert re.search(expected, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("settings", [["analyze"], ["analyze", "phases", "--model", "m"], ["analyze", "phase"]])
def test_a_call_without_a_study_or_a_model_is_refused(settings: list[str], capsys: pytest.CaptureFixture[str]):
    assert "error: " in refuse(settings, capsys)


def test_settings_that_cannot_be_are_refused(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "phase"
    assert "`texts` must be at least 1, got 0." in refuse(words(model, data, output, "--texts", 0), capsys)
    assert "`lengths` must be at least 1, got -4" in refuse(words(model, data, output, "--lengths", 4, -4), capsys)
    assert "unknown setting --text" in refuse(words(model, data, output, "--text", 3), capsys)
    assert "`device` must be one that torch finds" in refuse(words(model, data, output, "--device", "gpu"), capsys)
    command = ["analyze", "phase", "--model", str(model), "--output_dir", str(output)]
    assert "`data` must be given for the study 'phase'" in refuse(command, capsys)
    assert not output.exists()
    with pytest.raises(ValueError, match=r"`study` must be one of \[.*'phase'\], got 'phases'"):
        analyze("phases", model=str(model))
    with pytest.raises(ValueError, match=r"The settings of the study 'phase' are .*'lengths'.*, got 'length'"):
        analyze("phase", model=str(model), length=[3])
    with pytest.raises(ValueError, match="`model` must be given"):
        analyze("phase", data=str(data))


# Models and packages


@pytest.mark.parametrize("name", STUDIES)
def test_a_model_of_another_family_is_refused(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    message = refuse(words(tmp_path / "bert", data, tmp_path / "output", study=name), capsys)
    assert "`model` must be of one of the families ['wave']" in message
    assert "bert' is of 'bert'" in message
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", STUDIES)
def test_a_missing_package_is_named_before_anything_is_measured(
    name: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "matplotlib" else find(name))
    message = refuse(words(model, data, tmp_path / "output", study=name), capsys)
    assert f"The study '{name}' needs the package matplotlib, which is not installed: " in message
    assert 'pip install "wave-network[analyze]"' in message
    assert not (tmp_path / "output").exists()


def test_a_model_without_a_classifier(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    encoder = save_worked_model(tmp_path / "encoder", with_classifier=False)
    cli.main(words(encoder, data, tmp_path / "phase"))
    cli.main(words(model, data, tmp_path / "with"))
    tables = [(tmp_path / name / "table.csv").read_bytes() for name in ("phase", "with")]
    assert tables[0] == tables[1]
    for name in STUDIES:
        if study.load_study(name).needs_classifier:
            message = refuse(words(encoder, data, tmp_path / name, study=name), capsys)
            assert f"`model` must have a trained classifier for the study '{name}'" in message
            assert "(architecture: WaveModel)" in message


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_a_model_for_another_problem(
    problem: str, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = shutil.copytree(model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"problem_type": problem}), encoding="utf-8")
    message = refuse(words(other, data, tmp_path / "waves", study="waves"), capsys)
    assert f"other' was trained for '{problem}'." in message
    assert not (tmp_path / "waves").exists()


def test_the_room_can_be_imported_without_what_draws(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in STUDIES:
        monkeypatch.delitem(sys.modules, f"wave_network.analysis.{name}", raising=False)
        monkeypatch.delattr(analysis, name, raising=False)  # or the room would keep the second import of it
        assert study.load_study(name).title


# What is made again

COMMITTED = sorted(docs.RESULTS.glob("*/result.json"))


def test_figures_can_be_made_again_from_the_result_alone(model: Path, data: Path, tmp_path: Path):
    cli.main(words(model, data, tmp_path / "phase"))
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(tmp_path / "phase" / "result.json", kept)
    made = docs.draw_again(kept, tmp_path / "figures")
    assert made == [tmp_path / "figures" / "phase.png", tmp_path / "figures" / "phase_density.png"]
    findings = (kept / "findings.md").read_text(encoding="utf-8")
    assert "`wave-network analyze phase --model worked --data numbers --lengths 4 3`, seed 0, " in findings
    for file in (kept / "table.csv", kept / "table.md", *(tmp_path / "figures").iterdir()):
        assert file.read_bytes() == (tmp_path / "phase" / file.name).read_bytes()


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_what_is_said_in_the_documentation_is_what_was_measured(file: Path, tmp_path: Path):
    kept = tmp_path / file.parent.name
    kept.mkdir()
    shutil.copy(file, kept)
    made = docs.draw_again(kept, tmp_path / "figures")
    text = (docs.ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    for name in ("table.csv", "table.md", "findings.md"):
        assert (kept / name).read_text(encoding="utf-8") == (file.parent / name).read_text(encoding="utf-8")
    for picture in made:
        assert f"(figures/analysis/{picture.name})" in text
        assert (docs.FIGURES / picture.name).is_file()


def test_every_study_is_in_the_documentation():
    assert [file.parent.name for file in COMMITTED] == sorted(STUDIES)


# Tables


def test_tables_are_read_as_they_are_meant():
    rows = [{"word": "a|b\\", "n": 1234567, "x": 0.000123456, "y": 12345.6, "z": None}]
    assert study.make_table(rows).splitlines()[2] == "| a\\|b\\\\ | 1,234,567 | 0.0001235 | 12,346 | - |"
