"""The command `wave-network`: the only place that knows all rooms. A verb imports what it needs when it runs."""

import argparse
import difflib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERBS = {
    "finetune": ("train a classifier on your texts and leave a run folder", "--dataset reviews.csv"),
    "predict": ("classify texts, or a file of them", "runs/reviews new_reviews.csv"),
    "evaluate": ("measure a classifier on a labelled file", "runs/reviews labelled_reviews.csv"),
    "export": ("write a classifier that runs without transformers", "runs/reviews --format onnx"),
    "distil": (
        "teach a new encoder what another one knows",
        "--teacher TEACHER --texts news.txt --output_dir encoder",
    ),
    "push": ("put a finished run folder on the Hub", "runs/reviews you/reviews"),
    "analyze": ("study how a trained model works", "waves --model runs/reviews --text 'a text to look into'"),
}
# What `finetune --help` shows; `--help_all` shows the rest.
COMMON = (
    *("dataset", "text_columns", "label_column", "output_dir", "model", "max_length", "num_train_epochs", "seed"),
    *("per_device_train_batch_size", "learning_rate", "class_weights", "calibrate", "resume_from_checkpoint"),
    *("delimiter", "teacher", "push_to_hub", "help", "help_all", "config"),
)


def main(words: Sequence[str] | None = None) -> None:
    """
    Runs one verb. An error in what the user gave is one line on standard error, with exit status 2, and so is an
    interruption, with 130.
    """
    from . import __version__, register

    epilog = "".join(f"  {verb:<10}{summary}\n" for verb, (summary, _) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="wave-network",
        description="Train, use and share Wave Network text classifiers.",
        epilog=f"verbs:\n{epilog}\n`wave-network VERB --help` explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wave-network {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the whole trace of an error")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    try:
        register()
        globals()[f"run_{arguments.verb}"](arguments.rest)
    except KeyboardInterrupt:
        if arguments.traceback:
            raise
        advice = " It goes on with --resume_from_checkpoint last." if arguments.verb == "finetune" else ""
        sys.stderr.write(f"\nwave-network {arguments.verb}: interrupted.{advice}\n")
        sys.exit(130)  # as shells have it: 128, and the number of the signal
    except Exception as error:
        cause: BaseException = error
        while type(cause).__name__.startswith("StrictDataclass") and cause.__cause__ is not None:
            cause = cause.__cause__  # what is said of a bad value in a config comes wrapped by huggingface_hub
        is_of_user = isinstance(cause, OSError | ValueError | ImportError) or type(cause).__module__.startswith("httpx")
        if arguments.traceback or not is_of_user:
            raise
        message = " ".join(str(cause).split()) or type(cause).__name__
        sys.stderr.write(f"wave-network {arguments.verb}: {message}\n")
        sys.exit(2)


def parse(
    verb: str, types: list[Any], words: list[str], first: Sequence[str] = (), texts: bool = False
) -> tuple[Any, ...]:
    """
    The dataclasses of a verb, from `--config FILE.yaml` and the words, which override the file. `first` are the
    settings that the first words are for, if they have no name: `predict MODEL`. With `texts` other words are texts.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> Any:
            raise ValueError(message)

    name = verb.partition(" ")[0]
    parser = Parser(
        types,
        prog=f"wave-network {verb}",
        usage=f"wave-network {verb} {''.join(f'{name.upper()} ' for name in first)}[settings]",
        epilog=f"example: wave-network {name} {VERBS[name][1]}",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings. The command line overrides it.")
    parser.add_argument("--help_all", action="help", help="Show all settings.")
    for action in parser._actions:
        action.option_strings = action.option_strings[:1]  # --help shows one spelling; both are read
        action.metavar = action.metavar or (None if action.choices else "X")
        if verb == "finetune" and "--help_all" not in words and action.dest not in COMMON:
            action.help = argparse.SUPPRESS
        elif action.default not in (None, False, argparse.SUPPRESS):
            action.help = f"{action.help} Default: {action.default}."
    for name in first:
        if words and not words[0].startswith("-"):
            words = [*words[1:], f"--{name}", words[0]]
    if texts:
        words = name_texts(words)
    *settings, _, left = parser.parse_args_into_dataclasses(
        insert_config(words), return_remaining_strings=True, look_for_args_file=False
    )
    if left:
        close = difflib.get_close_matches(left[0], parser._option_string_actions, n=3)
        raise ValueError(f"unknown setting {left[0]}" + (f"; did you mean {' or '.join(close)}?" if close else "."))
    return tuple(settings)


def name_texts(words: list[str]) -> list[str]:
    """The words before the first setting as `--texts`. A dash alone, and one before spaces, is no setting."""
    count = next((place for place, word in enumerate(words) if re.match(r"-\S+$", word)), len(words))
    return [*words[count:], "--texts", *words[:count]] if count else words


def insert_config(words: list[str]) -> list[str]:
    """The words of `--config FILE.yaml` before the others, which go before them in effect."""
    if "--config" not in words[:-1]:
        return words
    import yaml

    place = words.index("--config")
    file = words[place + 1]
    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file!r} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"--config {file!r} must hold lines of `name: value`.")
    given: list[str] = []
    for name, value in settings.items():
        if value is not None:
            given += [f"--{name}", *map(as_word, value if isinstance(value, list) else [value])]
    return given + words[:place] + words[place + 2 :]


def as_word(value: Any) -> str:
    """A value in a YAML file as a word: `no` is false there, but may be meant as the word in `eval_strategy: no`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def run_finetune(words: list[str]) -> None:
    from .hub_card import draw_pictures, push_run, write_card
    from .training.finetune import finetune
    from .training.settings import DataArguments, ModelArguments, RunArguments

    data_arguments, model_arguments, arguments = parse("finetune", [DataArguments, ModelArguments, RunArguments], words)
    folder = finetune(data_arguments, model_arguments, arguments)
    if arguments.process_index != 0:
        return
    draw_pictures(folder)
    write_card(folder, repo_id=arguments.hub_model_id)
    print_results(folder)
    if arguments.push_to_hub:
        repo_id = arguments.hub_model_id or folder.resolve().name
        print(f"Pushing. If it fails: {shlex.join(['wave-network', 'push', str(folder), repo_id])}", flush=True)
        settings = {"token": arguments.hub_token, "private": arguments.hub_private_repo}
        print(f"Pushed: {push_run(folder, repo_id, revision=arguments.hub_revision, **settings)}")


def print_results(folder: Path) -> None:
    from .files import read_json

    metrics = read_json(folder / "metrics.json")
    for split, result in metrics["results"].items():
        interval = f"95 % interval {result['accuracy_low']:.2%} to {result['accuracy_high']:.2%}"
        accuracy = f"accuracy {result['accuracy']:.2%} ({interval}, {result['rows']:,} rows)"
        print(f"{split}: {accuracy}, macro F1 {result['macro_f1']:.2%}")
    if metrics["end"]["reason"] == "early_stopping_patience":
        print(f"Stopped early, after epoch {metrics['end']['epoch']:g}.")
    print(f"Done in {metrics['duration_seconds']:.0f} s. The model, its card and metrics.json are in {folder}")
    print(f"To use it: {shlex.join(['wave-network', 'predict', str(folder), '--file', 'texts.csv'])}")


def run_predict(words: list[str]) -> None:
    from .inference.predict import PredictArguments, predict

    (arguments,) = parse("predict", [PredictArguments], words, first=["model"], texts=True)
    output = predict(arguments)
    if output is not None:
        print(f"Written: {output}")
    if output is not None and arguments.explain:
        print(f"The words that decided: {output.with_suffix('.html')}")


def run_evaluate(words: list[str]) -> None:
    from .inference.evaluate import EvaluateArguments, describe, evaluate

    (arguments,) = parse("evaluate", [EvaluateArguments], words, first=["model", "file"])
    print(describe(evaluate(arguments)))
    if arguments.output is not None:
        print(f"Written: {arguments.output}")


def run_export(words: list[str]) -> None:
    from .inference.export import ExportArguments, export_model

    print(f"Written: {export_model(*parse('export', [ExportArguments], words, first=['model']))}")


def run_distil(words: list[str]) -> None:
    from .training.distil import DistilArguments, distil

    print(f"Written: {distil(*parse('distil', [DistilArguments], words))}")


def run_push(words: list[str]) -> None:
    from .hub_card import push_run

    parser = argparse.ArgumentParser(prog="wave-network push", description="Puts a finished run folder on the Hub.")
    parser.add_argument("run_folder", help="folder that `wave-network finetune` left")
    parser.add_argument("repo_id", help="name on the Hub, user/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--commit_message", help="default: a plain one")
    parser.add_argument("--token", help="access token (default: HF_TOKEN, or that of `hf auth login`)")
    print(f"Pushed: {push_run(**vars(parser.parse_args(words)))}")


def run_analyze(words: list[str]) -> None:
    from .analysis.study import STUDIES, AnalyzeArguments, load_study, run_study

    parser = argparse.ArgumentParser(
        prog="wave-network analyze",
        description="Studies a trained Wave Network: a table, figures and a report in words.",
        epilog="studies:\n" + "\n".join(f"  {name:<13}{summary}" for name, summary in STUDIES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="`analyze STUDY --help` shows them")
    arguments = parser.parse_args(words)
    settings = insert_config(arguments.settings)
    parsed = parse(f"analyze {arguments.study}", [AnalyzeArguments, load_study(arguments.study).settings], settings)
    folder, result = run_study(arguments.study, *parsed)
    print(f"{len(result.table)} rows, figures and a report in words: {folder / 'report.md'}")


if __name__ == "__main__":
    main()
