"""The command `wave-network`: its settings, its help and its errors; and the scripts in examples/ that train."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import INTERRUPTED, WORDS, finetune_small, make_rows, read_metrics, refuse, small_words, write_csv

from wave_network import cli
from wave_network.training import start
from wave_network.training.results import describe_results
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    """Exit code, standard output and standard error of a command that ends the process."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def parse(*words: Any) -> tuple[DataArguments, ModelArguments, RunArguments]:
    data, model, arguments = cli.parse(
        "finetune",
        [DataArguments, ModelArguments, RunArguments],
        [*map(str, words), *([] if "--use_cpu" in words else ["--use_cpu"])],
        first=["dataset"],
    )
    return data, model, arguments


def test_help_needs_neither_torch_nor_transformers():
    code = (
        "import sys; sys.argv[0] = 'wave-network'\n"
        "from wave_network import cli\n"
        "for words in ([], ['-h'], ['--version'], ['complete'], *([verb, '--help'] for verb in cli.VERBS)):\n"
        "    cli.main(words)\n"
        "try: cli.main(['fintune'])\n"
        "finally: print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert all(f"usage: wave-network {verb}" in done.stdout for verb in cli.VERBS)
    assert done.stdout.splitlines()[-1] == "set()"
    assert (done.returncode, done.stderr) == (2, "wave-network: no verb 'fintune'; did you mean finetune?\n")


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_help_fits_a_screen_and_names_settings_that_there_are(verb: str, capsys: pytest.CaptureFixture[str]):
    cli.main([verb, "--help"] if verb else ["--help"])
    shown = capsys.readouterr().out
    assert 5 <= len(shown.splitlines()) <= 30
    assert max(map(len, shown.splitlines())) <= 100
    if verb in ("", "complete"):
        return
    words = ["analyze", "waves", "--help"] if verb == "analyze" else [verb, "--help_all"]
    code, everything, _ = run_command(words, capsys)
    assert code == 0
    settings = set(re.findall(r"^  --(\w+)", everything, re.MULTILINE))
    named = re.findall(rf"^--.*|^  wave-network {verb} .*", shown, re.MULTILINE)
    assert set(re.findall(r"--(\w+)", " ".join(named))) <= settings
    if verb == "finetune":
        types = (DataArguments, ModelArguments, RunArguments)
        assert settings >= {name for each in types for name in each.__dataclass_fields__} - {"local_rank"}


def test_completion_knows_verbs_settings_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["complete"])
    script = tmp_path / "complete.sh"
    script.write_text(capsys.readouterr().out)
    lines = [f". {script}"]
    for words in ("fi", "predict --ov", "predict tex"):
        typed = ["wave-network", *words.split()]
        lines.append(f"COMP_WORDS=({' '.join(typed)}) COMP_CWORD={len(typed) - 1}")
        lines.append('_wave_network; echo "${COMPREPLY[*]}"')
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["finetune", "--overwrite", ""]  # of files the shell knows itself


def test_settings_come_from_a_file_and_the_command_line_goes_before_it(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "dataset: a.csv\ntext_columns: [title, body]\nlearning_rate: 1e-2\nseed: 7\neval_strategy: no\n"
        "calibrate: true\nngram_vocab_size: null\nlr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2.0}\n"
    )
    data, model, arguments = parse("--seed", 1, "--config", file, "--max-length", 64)
    assert (data.dataset, data.text_columns, arguments.seed) == ("a.csv", ["title", "body"], 1)
    assert (arguments.learning_rate, arguments.calibrate, arguments.eval_strategy) == (0.01, True, "no")
    assert (model.max_length, model.ngram_vocab_size, arguments.lr_scheduler_kwargs) == (64, None, {"power": 2.0})


def test_traces_come_on_request_and_for_mistakes_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "push", "absent", "you/reviews"])

    def fail(words: list[str]) -> None:
        raise TypeError("a mistake in the code")

    monkeypatch.setattr(cli, "run_push", fail)
    with pytest.raises(TypeError, match="a mistake in the code"):
        cli.main(["push"])


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_finetune", interrupt)
    code, _, err = run_command(["finetune"], capsys)
    assert code == INTERRUPTED
    assert err.strip() == "wave-network finetune: interrupted. It goes on with --resume_from_checkpoint last."


def test_a_legacy_code_page_ends_no_run_and_changes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = {"sport": "спорт", "money": "お金", "space": "📡"}
    rows = [*make_rows(60, 0), *make_rows(60, 1, ["sport"])]  # skewed, of which a line tells
    data = write_csv(tmp_path / "texts.csv", [row | {"label": names[row["label"]]} for row in rows])
    out, run = io.BytesIO(), tmp_path / "run"
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    finetune_small(data, run, num_train_epochs=1)
    for words in (
        ["evaluate", data],
        ["predict", "goal", "--explain"],
        ["predict", data, "--output", tmp_path / "a.csv"],
    ):
        cli.main([words[0], str(run), *map(str, words[1:])])
    assert "\\u0441\\u043f\\u043e\\u0440\\u0442" in out.getvalue().decode("ascii")
    assert "спорт" in (run / "README.md").read_text("utf-8")
    out.truncate(0)
    cli.main(["predict", str(run), str(data), "--output", "-"])
    assert (
        out.getvalue().decode("utf-8").lstrip("\0").splitlines() == (tmp_path / "a.csv").read_text("utf-8").splitlines()
    )


def test_a_finished_run_says_what_it_reached_and_what_to_type_next(run: Path):
    out = describe_results(read_metrics(run), run)
    assert re.search(r"^test, 43 rows +accuracy +macro F1\nthis model +\d+\.\d\d% .* 95 % interval ", out, re.MULTILINE)
    assert out.splitlines()[-1] == f'To use it: wave-network predict {run} "a text" "another"'


def test_the_recorded_command_repeats_the_run(run: Path):
    command = json.loads((run / "metrics.json").read_text())["command"].split()
    data, model, arguments = parse(*command[2:])
    assert (arguments.learning_rate, model.hidden_size, arguments.subword_buckets) == (0.01, 16, None)
    assert Path(data.dataset).name == "data"


def test_a_refused_run_leaves_no_folder(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    refuse(small_words(data_folder, tmp_path / "run", text_columns="body"), capsys)
    assert not (tmp_path / "run").exists()


# Examples


def run_example(name: str, *words: str) -> None:
    sys.argv[1:] = words
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_example_classifies_texts_with_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [""])
    texts = [" ".join(words) for words in WORDS.values()]
    run_example("classify.py", str(run), *texts)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(WORDS)
    assert [line.split(maxsplit=2)[2] for line in lines] == texts


@pytest.mark.parametrize("state", ["absent", "unfinished", "ended"])
def test_the_demo_trains_what_has_not_ended(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    if state != "absent":
        (tmp_path / "runs" / "bbc_news").mkdir(parents=True)
    if state == "ended":
        (tmp_path / "runs" / "bbc_news" / "metrics.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [""])
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    run_example("demo.py")
    *training, classifying = commands
    assert classifying == [sys.executable, str(EXAMPLES / "classify.py"), "runs/bbc_news"]
    assert len(training) == (state != "ended")
    for command in training:
        data, _, arguments = parse(*command[command.index("finetune") + 1 :])
        assert (data.dataset, arguments.output_dir) == ("bbc_news", "runs/bbc_news")
        assert arguments.resume_from_checkpoint == (None if state == "absent" else "last")


def test_the_sweep_goes_on_and_names_the_best(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [""])
    monkeypatch.setattr(start, "MAX_LENGTH", 32)
    for _ in range(2):
        run_example("sweep.py", str(data_folder), "1")
    command = capsys.readouterr().out.splitlines()[-1].split()
    data, _, arguments = parse(*command[2:])
    assert data.dataset == str(data_folder)
    assert 1e-4 <= arguments.learning_rate <= 1e-2
    assert os.path.getsize(tmp_path / "runs" / "sweep" / "data" / "trials.db")
