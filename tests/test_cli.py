"""The command `wave-network`: its settings, its help and its errors; and the scripts in examples/."""

import importlib.metadata
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from small_runs import INTERRUPTED, WORDS, finetune_small, refuse, small_words, write_data

from wave_network.training import cli
from wave_network.training.finetune import DataArguments, ModelArguments, RunArguments

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    """Exit code, standard output and standard error of a command that ends the process."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def parse(*words: Any) -> tuple[DataArguments, ModelArguments, RunArguments]:
    types = [DataArguments, ModelArguments, RunArguments]
    data, model, arguments = cli.parse_settings("finetune", types, [*map(str, words), "--use_cpu"])
    return data, model, arguments


def test_the_command_is_an_entry_point():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="wave-network")
    assert entry.load() is cli.main


# Help


def test_help_names_the_verbs(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(["--help"], capsys)
    assert code == 0
    verbs = ["finetune", "sweep", "reproduce", "predict", "export", "push", "analyze"]
    assert [verb for verb in re.findall(r"^  (\w+) ", out, re.MULTILINE) if verb in verbs] == verbs


@pytest.mark.parametrize(("flag", "shows_all"), [("--help", False), ("--help_all", True)])
def test_help_shows_the_main_settings_and_help_all_the_rest(
    flag: str, shows_all: bool, capsys: pytest.CaptureFixture[str]
):
    code, out, _ = run(["finetune", flag], capsys)
    shown = set(re.findall(r"^  --(\w+)", out, re.MULTILINE))
    ours = DataArguments.__dataclass_fields__.keys() | ModelArguments.__dataclass_fields__.keys()
    assert code == 0
    assert shown >= ours | cli.COMMON | {"config", "help_all"}
    assert RunArguments.__dataclass_fields__.keys() >= cli.COMMON
    assert ("adam_beta1" in shown) == shows_all
    assert "hub_strategy" not in shown or shows_all


def test_each_verb_has_its_help(capsys: pytest.CaptureFixture[str]):
    for verb, settings in (
        ("sweep", ["--trials", "--space", "--dataset", "--learning_rate", "--help_all"]),
        ("reproduce", ["--recipes", "--list", "--seeds", "--data", "--results"]),
        ("predict", ["--model", "--file", "--trust_remote_code"]),
        ("export", ["--model", "--format", "--output_dir", "--calibration"]),
        ("push", ["repo_id", "--token"]),
    ):
        code, out, _ = run([verb, "--help"], capsys)
        assert code == 0
        assert all(setting in out for setting in settings)


# Settings


def test_settings_come_from_a_file_and_the_command_line_goes_before_it(tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "dataset: news.csv\n"
        "text_columns: [title, body]\n"
        "hidden_size: 64\n"
        "intermediate_size: null\n"
        "learning_rate: 1e-2\n"
        "seed: 3\n"
        "bf16: false\n"
        "resume: true\n"
        "lr_scheduler_kwargs: {min_lr: 0.1}\n"
    )
    data, model, arguments = parse("--seed", 5, "--config", config, "--label_column", "topic")
    assert data == DataArguments("news.csv", text_columns=["title", "body"], label_column="topic")
    assert model == ModelArguments(hidden_size=64)
    assert (arguments.seed, arguments.learning_rate, arguments.bf16, arguments.resume) == (5, 0.01, False, True)
    assert arguments.lr_scheduler_kwargs == {"min_lr": 0.1}


def test_words_of_a_settings_file_are_no_booleans_and_its_numbers_are_decimal(tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "dataset: news.csv\n"
        "label_column: on\n"
        "text_columns: [yes, off]\n"
        "eval_strategy: no\n"
        "save_strategy: no\n"
        "logging_strategy: no\n"
        "load_best_model_at_end: false\n"
        "bf16: no\n"
        "run_name: 010\n"
        "lr_scheduler_kwargs: {min_lr: 1e-5}\n"
        "order_column: 1.10\n"
    )
    data, _, arguments = parse("--config", config)
    assert data.order_column == "1.10"  # as it is written
    assert (data.label_column, data.text_columns) == ("on", ["yes", "off"])
    assert [arguments.eval_strategy, arguments.save_strategy, arguments.logging_strategy] == ["no"] * 3
    assert (arguments.bf16, arguments.run_name, arguments.lr_scheduler_kwargs) == (False, "010", {"min_lr": 1e-5})


def test_the_defaults_suit_a_small_model_trained_from_scratch():
    _, _, arguments = parse("--dataset", "news.csv")
    assert arguments == RunArguments(use_cpu=True)
    assert arguments.changed == RunArguments(use_cpu=True).changed  # what a record says that was asked for
    assert (arguments.learning_rate, arguments.num_train_epochs, arguments.eval_strategy) == (1e-3, None, "epoch")
    assert arguments.load_best_model_at_end
    assert arguments.report_to == []


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("hiden_size", "--hidden_size"),
        ("epochs", "--num_train_epochs"),
        ("xyzzy", None),
        ("learning-rat", "--learning-rate"),
    ],
)
def test_an_unknown_setting_is_refused_by_its_name(
    tmp_path: Path, in_file: bool, name: str, suggestion: str | None, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run.yaml").write_text(f"{name}: 8\n")
    words = ["--config", str(tmp_path / "run.yaml")] if in_file else [f"--{name}", "8"]
    code, _, error = run(["finetune", "--dataset", "news.csv", *words], capsys)
    assert code == 2
    assert f"unknown setting --{name}" in error.splitlines()[-1]
    assert ("did you mean" in error) == (suggestion is not None)
    assert suggestion is None or suggestion in error


@pytest.mark.parametrize(
    "words", [["finetune", "--dataset", "a.csv", "b.csv"], ["reproduce", "--jobs", "2", "imdb-small"]]
)
def test_a_word_that_belongs_to_no_setting_is_named(words: list[str], capsys: pytest.CaptureFixture[str]):
    code, _, error = run(words, capsys)
    assert code == 2
    assert f"{words[-1]!r} belongs to no setting" in error.splitlines()[-1]
    assert "come first" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("- dataset\n- news.csv\n", "got list"),
        ("", "got NoneType"),
        ("dataset: [news.csv\n", "not YAML"),
        ("seed: 1\ndataset: news.csv\nseed: 2\n", "'seed' is there twice in \"<unicode string>\", line 3"),
        ("label_column: größe\n", "not YAML"),
        ("dataset: news.csv\nconfig: other.yaml\n", "`config` is for the command line alone, got 'other.yaml'"),
        (None, "No such file"),
    ],
)
def test_a_settings_file_that_is_none_is_refused(
    tmp_path: Path, content: str | None, reason: str, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "run.yaml"
    if content is not None:
        config.write_text(content, encoding="latin-1")
    code, _, error = run(["finetune", "--config", str(config)], capsys)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert str(config) in error
    assert reason in error


def test_a_wrong_choice_names_the_choices(capsys: pytest.CaptureFixture[str]):
    code, _, error = run(["finetune", "--dataset", "news.csv", "--wave_operation", "attention"], capsys)
    assert code == 2
    for word in ("--wave_operation", "attention", "modulation", "interference"):
        assert word in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("per_device_train_batch_size", "0", "at least 1"),
        ("per_device_eval_batch_size", "-1", "at least 1"),
        ("gradient_accumulation_steps", "0", "at least 1"),
        ("num_train_epochs", "0.0", "greater than 0"),
        ("num_train_epochs", "-1.0", "greater than 0"),
        ("num_train_epochs", "nan", "finite"),
        ("num_train_epochs", "inf", "finite"),
        ("max_length", "0", "at least 3"),
        ("max_length", "2", "at least 3"),
    ],
)
def test_a_setting_with_which_nothing_is_learned_is_refused(
    name: str, value: str, allowed: str, capsys: pytest.CaptureFixture[str]
):
    code, _, error = run(["finetune", "--dataset", "missing.csv", "--use_cpu", f"--{name}", value], capsys)
    assert code == 2
    (line,) = error.splitlines()
    assert f"`{name}` must be" in line
    assert allowed in line
    assert line.endswith(f"got {value}.")


def test_the_least_that_something_is_learned_with_is_taken():
    _, model, arguments = parse("--dataset", "news.csv", "--max_length", 3, "--gradient_accumulation_steps", 1)
    assert (model.max_length, arguments.gradient_accumulation_steps) == (3, 1)
    _, _, arguments = parse("--dataset", "news.csv", "--max_steps", 5, "--num_train_epochs", 0)
    assert (arguments.max_steps, arguments.num_train_epochs) == (5, 0)  # which has no effect beside it


# Errors


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "--dataset", "missing.csv", "--use_cpu"],
        ["predict", "model", "--file", "missing.csv"],
        ["push", "missing", "user/name"],
    ],
)
def test_an_error_of_the_user_is_one_line_and_its_trace_comes_on_request(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    code, out, error = run(words, capsys)
    assert code == 2
    assert out == ""
    (line,) = error.splitlines()
    assert line.startswith(f"wave-network {words[0]}: ")
    assert "missing" in line
    with pytest.raises((OSError, ValueError)):
        cli.main(["--traceback", *words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), [("conv_kernel_size", 4), ("hidden_size", 0), ("hidden_dropout_prob", 2.0)])
def test_a_value_that_no_model_can_have_is_one_line_that_names_it(
    name: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = small_words(write_data(tmp_path), tmp_path / "run", **{name: value})
    error = refuse(words, capsys)
    assert error.startswith(f"wave-network finetune: ValueError: `{name}` must be")
    assert error.endswith(f"got {value}.")
    assert not (tmp_path / "run").exists()
    with pytest.raises(StrictDataclassError):
        cli.main(["--traceback", *words])


def test_a_message_of_several_lines_becomes_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(words: list[str]) -> None:
        raise ValueError("first\n\n  second")

    monkeypatch.setattr(cli, "run_push", fail)
    assert run(["push"], capsys) == (2, "", "wave-network push: ValueError: first second\n")


@pytest.mark.parametrize(
    ("verb", "said"),
    [("finetune", "interrupted. With --resume it goes on from its last checkpoint."), ("push", "interrupted.")],
)
def test_an_interruption_is_one_line_that_says_how_to_go_on(
    verb: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, f"run_{verb}", interrupt)
    with pytest.raises(SystemExit) as caught:
        cli.main([verb])
    assert caught.value.code == INTERRUPTED
    assert capsys.readouterr().err.strip() == f"wave-network {verb}: {said}"
    with pytest.raises(KeyboardInterrupt):
        cli.main(["--traceback", verb])


def test_an_error_of_ours_keeps_its_trace(monkeypatch: pytest.MonkeyPatch):
    def fail(words: list[str]) -> None:
        raise TypeError("a mistake in the code")

    monkeypatch.setattr(cli, "run_push", fail)
    with pytest.raises(TypeError, match="a mistake in the code"):
        cli.main(["push"])


# Examples


def test_the_example_classifies_texts_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = finetune_small(write_data(tmp_path), tmp_path / "run")
    capsys.readouterr()
    texts = [" ".join(words) for words in WORDS.values()]
    monkeypatch.setattr(sys, "argv", ["classify.py", str(folder), *texts])
    runpy.run_path(str(EXAMPLES / "classify.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(WORDS)
    assert [line.split(maxsplit=2)[2] for line in lines] == texts


@pytest.mark.parametrize(
    ("state", "trains", "resumes"), [("absent", True, False), ("unfinished", True, True), ("ended", False, False)]
)
def test_the_demo_trains_what_has_not_ended(
    state: str,
    trains: bool,
    resumes: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    commands: list[list[str]] = []

    def record(command: list[str], check: bool) -> None:
        assert check  # else a failure would go on to the next step
        commands.append(command)

    folder = tmp_path / "runs" / "bbc_news"
    if state != "absent":
        folder.mkdir(parents=True)
    if state == "ended":
        (folder / "metrics.json").write_text(json.dumps({}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", record)
    runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    *training, classifying = commands
    assert classifying == [sys.executable, str(EXAMPLES / "classify.py"), "runs/bbc_news"]
    assert len(training) == trains
    assert any("--resume" in command for command in training) == resumes
    assert ("holds an ended run" in capsys.readouterr().out) == (state == "ended")
    for command in training:  # what it starts is a command that there is
        data, _, arguments = parse(*command[command.index("finetune") + 1 :])
        assert (data.dataset, arguments.output_dir) == ("bbc_news", "runs/bbc_news")
