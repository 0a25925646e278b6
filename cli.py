"""The command `wave-network`: the only place that knows all rooms. A verb imports what it needs when it runs."""

import argparse
import difflib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# What `--help` shows; `--help_all` shows the rest.
COMMON = {
    "finetune": (
        "dataset",
        "text_columns",
        "label_column",
        "output_dir",
        "model",
        "max_length",
        "num_train_epochs",
        "per_device_train_batch_size",
        "learning_rate",
        "class_weights",
        "calibrate",
        "seed",
        "resume_from_checkpoint",
        "push_to_hub",
    )
}
EXAMPLES = {
    "finetune": "wave-network finetune --dataset reviews.csv --num_train_epochs 5",
    "predict": "wave-network predict runs/reviews --file new_reviews.csv",
    "export": "wave-network export runs/reviews --format onnx",
    "push": "wave-network push runs/reviews you/reviews",
    "analyze": "wave-network analyze waves --model runs/reviews --text 'a text to look into'",
}


def main(words: Sequence[str] | None = None) -> None:
    """
    Runs one verb. An error in what the user gave is one line on standard error, with exit status 2, and so is an
    interruption, with 130.
    """
    from . import __version__, register

    verbs: dict[str, tuple[Callable[[list[str]], None], str]] = {
        "finetune": (run_finetune, "train a classifier on your texts and leave a run folder"),
        "predict": (run_predict, "classify a file of texts"),
        "export": (run_export, "write a classifier for ONNX Runtime"),
        "push": (run_push, "put a finished run folder on the Hub"),
        "analyze": (run_analyze, "study how a trained model works: table, figures and report"),
    }
    parser = argparse.ArgumentParser(
        prog="wave-network",
        description="Train, use and share Wave Network text classifiers.",
        epilog="verbs:\n"
        + "".join(f"  {verb:<10}{summary}\n" for verb, (_, summary) in verbs.items())
        + "\n`wave-network VERB --help` explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wave-network {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the whole trace of an error")
    parser.add_argument("verb", choices=verbs, metavar="VERB", help=", ".join(verbs))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    try:
        register()
        verbs[arguments.verb][0](arguments.rest)
    except KeyboardInterrupt:
        if arguments.traceback:
            raise
        sys.stderr.write(f"\nwave-network {arguments.verb}: interrupted.\n")
        sys.exit(130)  # as shells have it: 128, and the number of the signal
    except Exception as error:
        if arguments.traceback or not is_of_user(error):
            raise
        sys.stderr.write(f"wave-network {arguments.verb}: {describe_error(error)}\n")
        sys.exit(2)


def is_of_user(error: Exception) -> bool:
    from huggingface_hub.errors import StrictDataclassError

    is_connection = type(error).__module__.startswith("httpx")
    return is_connection or isinstance(error, (OSError, ValueError, ImportError, StrictDataclassError))


def describe_error(error: BaseException) -> str:
    """The message in one line. A bad value in the config of a model comes wrapped by huggingface_hub."""
    while type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def parse(verb: str, types: list[Any], words: list[str], first: str | None = None) -> tuple[Any, ...]:
    """
    The dataclasses of a verb, from `--config FILE.yaml` and the words, which override the file.

    Args:
        first: The setting that the first word is for, if it has no name: `predict MODEL`.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> Any:
            raise ValueError(message)

    name = f" {first.upper()}" if first else ""
    parser = Parser(
        types,
        prog=f"wave-network {verb}",
        usage=f"wave-network {verb}{name} [settings]",
        epilog=f"example: {EXAMPLES[verb.split()[0]]}",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="Settings from a file, which the command line overrides.")
    if verb in COMMON:
        parser.add_argument("--help_all", action="help", help="Show all settings.")
        for action in parser._actions:
            if "--help_all" not in words and action.dest not in (*COMMON[verb], "config", "help", "help_all"):
                action.help = argparse.SUPPRESS
    if first and words and not words[0].startswith("-"):
        words = [f"--{first}", *words]
    *settings, left = parser.parse_args_into_dataclasses(
        insert_config(words), return_remaining_strings=True, look_for_args_file=False
    )
    settings = [each for each in settings if not isinstance(each, argparse.Namespace)]
    if left:
        options = [option for action in parser._actions for option in action.option_strings]
        close = difflib.get_close_matches(left[0], options, n=3)
        raise ValueError(f"unknown setting {left[0]}" + (f"; did you mean {' or '.join(close)}?" if close else "."))
    return tuple(settings)


def insert_config(words: list[str]) -> list[str]:
    """The words of `--config FILE.yaml` before the others, which go before them in effect."""
    if "--config" not in words[:-1]:
        return words
    import yaml

    place = words.index("--config")
    file = Path(words[place + 1])
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {str(file)!r} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"--config {str(file)!r} must hold lines of `name: value`.")

    def as_word(value: Any) -> str:
        if isinstance(value, bool):  # `no` is a boolean in YAML, and a word in `eval_strategy: no`
            return "yes" if value else "no"
        return json.dumps(value) if isinstance(value, dict) else str(value)

    given: list[str] = []
    for name, value in settings.items():
        if value is not None:
            given += [f"--{name}", *map(as_word, value if isinstance(value, list) else [value])]
    return given + words[:place] + words[place + 2 :]


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
        print(
            f"{split}: accuracy {result['accuracy']:.2%} ({interval}, {result['rows']:,} rows), "
            f"macro F1 {result['macro_f1']:.2%}"
        )
    if metrics["end"]["reason"] == "early_stopping_patience":
        print(f"Stopped early, after epoch {metrics['end']['epoch']:g}.")
    print(f"Done in {metrics['duration_seconds']:.0f} s. The model, its card and metrics.json are in {folder}")
    print(f"To use it: {shlex.join(['wave-network', 'predict', str(folder), '--file', 'texts.csv'])}")


def run_predict(words: list[str]) -> None:
    from .inference.predict import PredictArguments, predict

    output = predict(*parse("predict", [PredictArguments], words, first="model"))
    if output is not None:
        print(f"Written: {output}")


def run_export(words: list[str]) -> None:
    from .inference.export import ExportArguments, export_model

    print(f"Written: {export_model(*parse('export', [ExportArguments], words, first='model'))}")


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
    from .analysis.study import STUDIES, AnalyzeArguments, load_study, make_settings, run_study

    parser = argparse.ArgumentParser(
        prog="wave-network analyze",
        description="Studies a trained Wave Network: a table, figures and a report in words.",
        epilog="studies:\n"
        + "\n".join(f"  {name:<13}{summary}" for name, summary in STUDIES.items())
        + "\n\n`wave-network analyze STUDY --help` shows the settings of a study; docs/analysis.md shows each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("settings", nargs=argparse.REMAINDER, metavar="--model MODEL --data DATA", help="see there")
    arguments = parser.parse_args(words)
    settings = insert_config(arguments.settings)
    parsed = parse(f"analyze {arguments.study}", [AnalyzeArguments, load_study(arguments.study).settings], settings)
    given = {word[2:].partition("=")[0] for word in settings if word.startswith("--")}  # `--paper` raises the others
    values = {name: value for part in parsed for name, value in vars(part).items() if name in given}
    folder, result = run_study(arguments.study, *make_settings(arguments.study, values))
    print(f"{len(result.table)} rows, figures and a report in words: {folder / 'report.md'}")


if __name__ == "__main__":
    main()
