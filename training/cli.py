"""The command `wave-network`. Here alone the rooms are put together; each reads what the one before left in files."""

import argparse
import difflib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

# What `--help` shows of TrainingArguments; `--help_all` shows the rest.
COMMON = frozenset(
    [
        "output_dir",
        "resume",
        "seed",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "loss",
        "focal_gamma",
        "class_weights",
        "early_stopping_patience",
        "early_stopping_threshold",
        "packing",
        "sparse_embeddings",
        "mixup_alpha",
        "subword_buckets",
        "ema_decay",
        "calibrate",
        "weight_decay",
        "warmup_steps",
        "lr_scheduler_type",
        "label_smoothing_factor",
        "metric_for_best_model",
        "eval_strategy",
        "save_total_limit",
        "bf16",
        "use_cpu",
        "torch_compile",
        "fsdp",
        "fsdp_config",
        "gradient_checkpointing",
        "report_to",
        "run_name",
        "project",
        "push_to_hub",
        "hub_model_id",
        "hub_token",
        "hub_private_repo",
        "hub_revision",
    ]
)

# What an interrupted verb has kept.
GOES_ON = {
    "finetune": " With --resume it goes on from its last checkpoint.",
    "sweep": " With --resume it goes on.",
    "reproduce": " The same command goes on.",
    "analyze": " The same command goes on.",
}


def main(words: Sequence[str] | None = None) -> None:
    """
    Runs one verb. An error in what the user gave is one line on standard error, with exit status 2, and so is an
    interruption, with 130.
    """
    verbs = {
        "finetune": run_finetune,
        "sweep": run_sweep,
        "reproduce": run_reproduce,
        "predict": run_predict,
        "export": run_export,
        "push": run_push,
        "analyze": run_analyze,
    }
    parser = argparse.ArgumentParser(
        prog="wave-network",
        description="Train, use and share Wave Network text classifiers.",
        epilog="verbs:\n"
        "  finetune   train a classifier on your texts and leave a run folder\n"
        "  sweep      search for the settings that suit your texts\n"
        "  reproduce  run the experiments of docs/reproduction.md over several seeds\n"
        "  predict    classify a file of texts\n"
        "  export     write a classifier as an ONNX folder that runs without transformers\n"
        "  push       put a finished run folder on the Hub\n"
        "  analyze    study how a trained model works: table, figures and report\n\n"
        "`wave-network VERB --help` explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole trace of an error")
    parser.add_argument("verb", choices=verbs, metavar="VERB", help=", ".join(verbs))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    try:
        verbs[arguments.verb](arguments.rest)
    except KeyboardInterrupt:
        if arguments.traceback:
            raise
        sys.stderr.write(f"\nwave-network {arguments.verb}: interrupted.{GOES_ON.get(arguments.verb, '')}\n")
        sys.exit(130)  # as shells have it: 128, and the number of the signal
    except Exception as error:
        # httpx, through which huggingface_hub speaks, says that nobody answers, but not who.
        is_connection = type(error).__module__.startswith("httpx")
        is_of_user = isinstance(error, (OSError, ValueError, ImportError, StrictDataclassError))
        if arguments.traceback or not (is_connection or is_of_user):
            raise
        cause: BaseException = error
        # A bad value in the configuration of a model: what is said of it comes wrapped by huggingface_hub.
        while isinstance(cause, StrictDataclassError) and cause.__cause__ is not None:
            cause = cause.__cause__
        where = f" (asking {huggingface_hub.constants.ENDPOINT})" if is_connection else ""
        message = " ".join(str(cause).split())
        sys.stderr.write(f"wave-network {arguments.verb}: {type(cause).__name__}: {message}{where}\n")
        sys.exit(2)


def run_finetune(words: list[str]) -> None:
    # Here, so that the other verbs need not wait for Trainer and the card.
    from ..hub_card import draw_pictures, push_run, write_card
    from .finetune import finetune
    from .settings import DataArguments, ModelArguments, RunArguments

    types = [DataArguments, ModelArguments, RunArguments]
    data_arguments, model_arguments, arguments = parse_settings("finetune", types, words, hide_from=RunArguments)
    folder = finetune(data_arguments, model_arguments, arguments)
    if arguments.process_index != 0:
        return
    draw_pictures(folder)
    write_card(folder, repo_id=arguments.hub_model_id)
    print_results(folder, "The model, its card")
    if arguments.push_to_hub:
        repo_id = arguments.hub_model_id or folder.resolve().name
        command = shlex.join(["wave-network", "push", str(folder), repo_id])
        print(f"Pushing {folder}. If it fails, repeat it with: {command}", flush=True)
        settings: dict[str, Any] = {"token": arguments.hub_token, "private": arguments.hub_private_repo}
        settings |= {"revision": arguments.hub_revision}
        if arguments.hub_strategy in ("every_save", "checkpoint", "all_checkpoints"):
            # What Trainer has pushed while the run was under way.
            settings["delete_patterns"] = ["run.json", "training_args.bin"]
        print(f"Pushed: {push_run(folder, repo_id, **settings)}")


def run_sweep(words: list[str]) -> None:
    from ..analysis.sweep import draw_sweep
    from .settings import DataArguments, ModelArguments, RunArguments
    from .sweep import SweepArguments, sweep

    types = [SweepArguments, DataArguments, ModelArguments, RunArguments]
    sweep_arguments, data_arguments, model_arguments, arguments = parse_settings(
        "sweep", types, words, hide_from=RunArguments
    )
    folder = sweep(sweep_arguments, data_arguments, model_arguments, arguments, list_given(words))
    draw_sweep(folder)
    print_best(folder)


def run_reproduce(words: list[str]) -> None:
    from .reproduce import ReproduceArguments, describe_recipes, reproduce

    # The recipes come first, without their name: `wave-network reproduce ag-news-small --seeds 5`.
    words = ["--recipes", *words] if words and not words[0].startswith("-") else words
    (arguments,) = parse_settings("reproduce", [ReproduceArguments], words)
    if arguments.list:
        print(describe_recipes())
        return
    from ..analysis.reproduction import draw_reproduction

    failed = None
    try:
        reproduce(arguments)
    except ChildProcessError as error:
        failed = error  # and the others are there to see
    output = Path(arguments.output_dir)
    draw_reproduction(output)
    print((output / "README.md").read_text(encoding="utf-8"))
    if failed is not None:
        raise failed


def run_predict(words: list[str]) -> None:
    from ..inference.predict import PredictArguments, predict

    # The model may come first, without its name: `wave-network predict MODEL --file texts.csv`.
    words = ["--model", *words] if words and not words[0].startswith("-") else words
    (arguments,) = parse_settings("predict", [PredictArguments], words)
    output = predict(arguments)
    if output is not None:
        print(f"Written: {output}")


def run_export(words: list[str]) -> None:
    from ..inference.export import ExportArguments, export_model

    # The model may come first, without its name: `wave-network export MODEL --format onnx`.
    words = ["--model", *words] if words and not words[0].startswith("-") else words
    (arguments,) = parse_settings("export", [ExportArguments], words)
    print(f"Written: {export_model(arguments)}")


def run_push(words: list[str]) -> None:
    from ..hub_card import push_run

    parser = argparse.ArgumentParser(prog="wave-network push", description="Puts a finished run folder on the Hub.")
    parser.add_argument("run_folder", help="folder that `wave-network finetune` left")
    parser.add_argument("repo_id", help="name on the Hub, user/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--commit_message", help="default: a plain one")
    parser.add_argument("--token", help="access token (default: HF_TOKEN, or that of `hf auth login`)")
    arguments = vars(parser.parse_args(words))
    print(f"Pushed: {push_run(**arguments)}")


def run_analyze(words: list[str]) -> None:
    from ..analysis.study import STUDIES, AnalyzeArguments, load_study, make_settings, run_study

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
    types = [AnalyzeArguments, load_study(arguments.study).settings]
    parsed = parse_settings(f"analyze {arguments.study}", types, arguments.settings)
    # `--paper` raises what is not given.
    given = list_given(arguments.settings)
    values = {name: value for part in parsed for name, value in vars(part).items() if name in given}
    folder, result = run_study(arguments.study, *make_settings(arguments.study, values))
    print(f"{len(result.table)} rows, figures and a report in words: {folder / 'report.md'}")


def parse_settings(verb: str, types: list[Any], words: list[str], hide_from: Any = None) -> tuple[Any, ...]:
    """The dataclasses, from `--config FILE.yaml` and the command line, which overrides the file."""
    usage = f"wave-network {verb} [settings]"
    parser = HfArgumentParser(types, prog=f"wave-network {verb}", usage=usage, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE.yaml", help="Settings from a file; the command line overrides it.")
    if hide_from is not None:
        parser.add_argument("--help_all", action="help", help="Show all settings of transformers' TrainingArguments.")
        if "--help_all" not in words:
            for action in parser._actions:
                if action.dest in hide_from.__dataclass_fields__ and action.dest not in COMMON:
                    action.help = argparse.SUPPRESS

    *settings, _, unknown = parser.parse_args_into_dataclasses(
        insert_config(words), return_remaining_strings=True, look_for_args_file=False
    )
    if unknown and not unknown[0].startswith("-"):
        parser.error(
            f"{unknown[0]!r} belongs to no setting. The recipes of `reproduce` and the model of `predict` and `export` "
            "come first."
        )
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        close = difflib.get_close_matches(unknown[0], options, n=3)
        parser.error(f"unknown setting {unknown[0]}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    return tuple(settings)


def insert_config(words: list[str]) -> list[str]:
    """The words of `--config FILE.yaml`, if there is one, before the others, which go before them in effect."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    found, words = finder.parse_known_args(words)
    return read_config(found.config) + words if found.config else words


def list_given(words: list[str]) -> set[str]:
    """The settings that have been given a value, be it their default."""
    return {word[2:].partition("=")[0].replace("-", "_") for word in insert_config(words) if word.startswith("--")}


class ConfigLoader(yaml.SafeLoader):
    """
    YAML in which null, true, false and decimal numbers alone are not words, which are for argparse to read. PyYAML goes
    by YAML 1.1, where no and on are booleans, 010 is 8, and 1e-3 is a word.
    """

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        # YAML forbids it, and PyYAML would pass over all but the last.
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for tag, pattern in {
    "null": "null|Null|NULL|~|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
    "merge": "<<",
}.items():
    ConfigLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"({pattern})$"), None)


def read_config(file: str) -> list[str]:
    """A YAML file of `name: value` as the words of a command line."""
    try:
        loader = ConfigLoader(Path(file).read_text(encoding="utf-8"))
        document = loader.get_single_node()
        settings = None if document is None else loader.construct_document(document)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file}: is not YAML: {error}") from error
    if document is None or not isinstance(settings, dict):
        raise ValueError(f"--config {file}: must hold lines of `name: value`, got {type(settings).__name__}.")
    if "config" in settings:
        raise ValueError(f"--config {file}: `config` is for the command line alone, got {settings['config']!r}.")

    def as_word(node: yaml.Node) -> str:
        # As it was written: 1.10 may be the name of a column, and is none that is called 1.1.
        if isinstance(node, yaml.ScalarNode):
            return node.value
        return json.dumps(loader.construct_object(node, deep=True))

    words = []
    for name, node in {key.value: value for key, value in document.value}.items():
        if settings.get(name, node) is not None:
            values = node.value if isinstance(node, yaml.SequenceNode) else [node]
            words += [f"--{name}", *map(as_word, values)]
    return words


def print_best(folder: Path) -> None:
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    best, states = record["best"], [trial["state"] for trial in record["trials"]]
    print(f"{states.count('complete')} trials complete, {states.count('pruned')} pruned. They are in {folder}")
    if best is None:
        print("No trial came to a value: see trials.csv.")
        return
    command = ["wave-network", "finetune", "--config", str(folder / "best.yaml"), "--output_dir", f"{folder}_best"]
    print(f"Best: trial {best['number']}, {record['metric']} {best['value']:.4f} in validation. To train and test it:")
    print(f"  {shlex.join(command)}")


def print_results(folder: Path, made: str) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for split, result in metrics["results"].items():
        interval = f"95 % interval {result['accuracy_low']:.2%} to {result['accuracy_high']:.2%}"
        print(
            f"{split}: accuracy {result['accuracy']:.2%} ({interval}, {result['rows']:,} rows), "
            f"macro F1 {result['macro_f1']:.2%}"
        )
    end = metrics["end"]
    if end["reason"] == "early_stopping_patience":
        print(f"Stopped early, after epoch {end['epoch']:g}.")
    print(f"Done in {metrics['duration_seconds']:.0f} s. {made} and metrics.json are in {folder}")


if __name__ == "__main__":
    main()
