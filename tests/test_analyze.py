"""`wave-network analyze`: what a study leaves, what is refused, and the results in the documentation."""

import contextlib
import csv
import json
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from small_runs import main, refuse
from transformers import BertConfig, BertForSequenceClassification
from worked_model import save_worked_model, write_worked_data

from wave_network import WaveConfig, WaveForSequenceClassification, analysis, load_wave_tokenizer
from wave_network.analysis import STUDIES, analyze, study

ROOT = Path(__file__).parents[1]
COMMITTED = sorted((ROOT / "research" / "results" / "analysis").glob("*/result.json"))
FILES = {"phase.png", "phase.svg", "report.md", "result.json", "table.csv"}


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
    main(words(model, data, output))
    assert {path.name for path in output.iterdir()} == FILES
    assert capsys.readouterr().out == f"4 rows, figures and a report in words: {output / 'report.md'}\n"

    result = analyze("phase", str(model), data=str(data), output_dir=str(tmp_path / "again"), lengths=[4, 3])
    with (output / "table.csv").open(encoding="utf-8", newline="") as file:
        assert [{name: str(value) for name, value in row.items()} for row in result.table] == list(csv.DictReader(file))
    for name in FILES - {"phase.svg"}:  # matplotlib numbers the parts of an SVG at random
        assert (output / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name

    report = (output / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# The scale of the phase\n")
    assert all((output / name).is_file() for name in re.findall(r"!\[.*\]\((.*)\)", report))
    record, _ = study.read_result(output / "result.json")
    assert record["settings"] == {"lengths": [4, 3], "texts": 64}
    assert (record["model"]["name"], record["data"]["name"]) == ("worked", "numbers")
    # A folder says nothing on another machine.
    assert str(tmp_path) not in report
    assert str(model.parent) not in report


def test_what_is_in_the_folder_is_not_lost(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "phase"
    main(words(model, data, output))
    before = (output / "table.csv").read_bytes()
    assert "phase' exists" in refuse(words(model, data, output, "--seed", 7), capsys)
    with monkeypatch.context() as patch:
        patch.setattr(study, "write_files", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words(model, data, output, "--texts", 1, "--overwrite"))
    assert (output / "table.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["phase"]
    main(words(model, data, output, "--texts", 1, "--overwrite"))
    assert (output / "table.csv").read_bytes() != before

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    assert "holds no study" in refuse(words(model, data, tmp_path / "letters", "--overwrite"), capsys)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]


# What is refused


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("gradients", ["--max_length", 11], "--max_length must be at most 10, "),
        ("waves", ["--max_length", 10, "--deletion_length", 11], "--deletion_length must be at most 10, "),
        ("phase", ["--lengths", 4, 11], "--lengths must be at most 10, "),
    ],
)
def test_a_length_without_positions_is_refused_by_the_name_of_its_setting(
    name: str, flags: list[Any], message: str, model: Path, data: Path, tmp_path: Path, capsys: Any
):
    bounded = tmp_path / "bounded"
    config = WaveConfig(vocab_size=8, hidden_size=2, position_embedding_type="absolute", max_position_embeddings=10)
    WaveForSequenceClassification(config).save_pretrained(bounded)
    load_wave_tokenizer(model).save_pretrained(bounded)
    assert message in refuse(words(bounded, data, tmp_path / "out", *flags, study=name), capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("phase", ["--texts", 0], "--texts must be greater than 0, got 0."),
        ("phase", ["--lengths", 4, -4], "--lengths must be greater than 0, got -4."),
        ("phase", ["--device", "gpu"], "--device must be one that torch finds here, such as 'cpu', got 'gpu'."),
        ("convergence", ["--learning_rate", 0], "--learning_rate must be greater than 0, got 0.0."),
        ("waves", ["--text", " \n"], "--max_length = 48, must hold a word; got ' "),
        ("waves", ["--deletion_length", 2], "--deletion_length = 2, must hold a word; got '"),
        ("phase", ["--lengths", 60], "--lengths: the longest text of --data has 5 tokens, got [60]."),
    ],
)
def test_settings_that_cannot_be_are_refused(
    name: str, flags: list[Any], message: str, model: Path, data: Path, tmp_path: Path, capsys: Any
):
    assert message.strip() in refuse(words(model, data, tmp_path / "out", *flags, study=name), capsys)
    assert not (tmp_path / "out").exists()


def test_a_call_that_cannot_be_is_refused(model: Path, data: Path, tmp_path: Path, capsys: Any):
    for command, name in (
        (["analyze"], "`study`"),
        (["analyze", "phases"], "'phases'"),
        (["analyze", "phase"], "--model"),
    ):
        assert name in refuse(command, capsys)
    command = ["analyze", "phase", "--model", str(model), "--output_dir", str(tmp_path / "out")]
    assert "--data must be given for the study 'phase'" in refuse(command, capsys)
    command[1] = "waves"
    assert "Give --text, or --data from which one is drawn" in refuse(command, capsys)
    with pytest.raises(ValueError, match=r"`study` must be one of \[.*'phase'\], got 'phases'"):
        analyze("phases", str(model))
    with pytest.raises(ValueError, match="'length'"):
        analyze("phase", str(model), data=str(data), length=[3])


@pytest.mark.parametrize("setting", ["model", "bert"])
def test_a_model_of_another_family_is_refused(setting: str, model: Path, data: Path, tmp_path: Path, capsys: Any):
    bert = tmp_path / "bert"
    config = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    BertForSequenceClassification(config).save_pretrained(bert)
    given = words(bert, data, tmp_path / "out") if setting == "model" else words(model, data, tmp_path / "out")
    given += [] if setting == "model" else ["--bert", str(model)]
    family = "wave" if setting == "model" else "bert"
    assert f"--{setting} must be of the family '{family}', and " in refuse(given, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("problem", ["no classifier", "regression", "multi_label_classification"])
def test_a_model_that_decides_nothing(problem: str, model: Path, data: Path, tmp_path: Path, capsys: Any):
    if problem == "no classifier":
        other = save_worked_model(tmp_path / "other", with_classifier=False)
    else:
        other = shutil.copytree(model, tmp_path / "other")
        config = json.loads((other / "config.json").read_text(encoding="utf-8"))
        (other / "config.json").write_text(json.dumps(config | {"problem_type": problem}), encoding="utf-8")
    message = refuse(words(other, data, tmp_path / "out", study="waves"), capsys)
    assert "--model must be a classifier of one label out of several for the study 'waves'" in message
    main(words(other, data, tmp_path / "out"))  # a study of the waves alone needs no decision


# Settings and imports


@pytest.mark.parametrize("name", STUDIES)
def test_the_settings_of_a_study_have_defaults_and_help(name: str):
    settings = study.load_study(name).settings
    assert settings()
    for each in fields(settings):
        assert each.metadata["help"].endswith(".")
    assert not {each.name for each in fields(settings)} & {each.name for each in fields(study.AnalyzeArguments)}


def test_help_names_the_studies_and_their_settings(capsys: pytest.CaptureFixture[str]):
    studies = "".join(rf"^{name} +\w.*\n" for name in STUDIES)
    for arguments, expected in ((["--help"], studies), (["phase", "--help"], "--lengths")):
        with contextlib.suppress(SystemExit):
            main(["analyze", *arguments])
        assert re.search(expected, capsys.readouterr().out, re.MULTILINE)


def test_a_study_is_loaded_without_what_draws(monkeypatch: pytest.MonkeyPatch):
    for package in ("matplotlib", "sklearn"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("figures", "trainings", *STUDIES):
        monkeypatch.delitem(sys.modules, f"wave_network.analysis.{name}", raising=False)
        monkeypatch.delattr(analysis, name, raising=False)  # or the room would keep the second import of it
    for name in STUDIES:
        assert study.load_study(name).title


# The documentation


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_the_documentation_says_what_was_measured(file: Path, tmp_path: Path):
    record, result = study.read_result(file)
    study.write_files(record, result, tmp_path)
    text = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    assert study.load_study(record["study"]).describe(record, result) in text
    for picture in tmp_path.glob("*.png"):
        assert f"(figures/analysis/{picture.name})" in text
        assert (ROOT / "docs" / "figures" / "analysis" / picture.name).is_file()


def test_every_study_is_in_the_documentation():
    assert [file.parent.name for file in COMMITTED] == sorted(STUDIES)


def test_a_table_is_read_as_it_is_meant():
    rows = [{"word": "a|b", "n": 1234567, "x": 0.000123456, "y": 12345.6, "z": None}]
    assert study.make_table(rows).splitlines()[2] == "| a\\|b | 1,234,567 | 0.0001235 | 12,346 | - |"
