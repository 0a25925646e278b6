"""The command `wave-network`. A verb imports what it needs when it runs."""

import argparse
import difflib
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

# Each has a function `run_VERB`, and a section in help.txt, which `--help` shows.
VERBS = ("finetune", "predict", "evaluate", "export", "distil", "push", "analyze", "complete")
HELP = ("-h", "--help")
# The settings of the verb that runs: an error calls them as the command line does.
SETTINGS: set[str] = set()
COMPLETION = """[ -n "$ZSH_VERSION" ] && autoload -Uz compinit bashcompinit && compinit && bashcompinit
_wave_network() {
  local words="" word="${COMP_WORDS[COMP_CWORD]}"
  [ "$COMP_CWORD" = 1 ] && words="%s"
  case "$word" in -*) case "${COMP_WORDS[1]}" in
%s
  esac ;; esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _wave_network wave-network"""


def main(words: Sequence[str] | None = None) -> None:
    """
    Runs one verb. An error in what the user gave is one line on standard error, with exit status 2, and so is an
    interruption, with 130.
    """
    given = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a code page lacks does not end a run
    verb, *rest = [word for word in given if word != "--traceback"] or HELP
    if verb == "--version":
        from . import __version__

        print(f"wave-network {__version__}")
    elif verb in (*HELP, "help"):
        print(read_help(rest[0] if rest and rest[0] in VERBS else None))
    elif verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}."
        sys.exit(fail("wave-network", f"no verb {verb!r}; {advice}"))
    elif set(rest[:1] if verb == "analyze" else rest) & set(HELP):  # each study has a help of its own
        print(read_help(verb))
    else:
        run(verb, rest, "--traceback" in given)


def run(verb: str, words: list[str], shows_trace: bool) -> None:
    from . import register

    SETTINGS.clear()
    try:
        if verb != "complete":
            register()
        globals()[f"run_{verb}"](words)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as shells have it: 128, and the number of the signal
    except KeyboardInterrupt:
        if shows_trace:
            raise
        advice = " It goes on with --resume_from_checkpoint last." if verb == "finetune" else ""
        fail(f"\nwave-network {verb}", f"interrupted.{advice}")
        sys.exit(130)
    except Exception as error:
        cause: BaseException = error
        while type(cause).__name__.startswith("StrictDataclass") and cause.__cause__ is not None:
            cause = cause.__cause__  # what is said of a bad value in a config comes wrapped by huggingface_hub
        is_of_user = isinstance(cause, OSError | ValueError | ImportError | MemoryError) or cause is not error
        is_of_user |= type(cause).__module__.startswith("httpx") or ("memory" in str(cause) and "alloc" in str(cause))
        if shows_trace or not is_of_user:
            raise
        sys.exit(fail(f"wave-network {verb}", str(cause) or type(cause).__name__))


def fail(who: str, message: str) -> int:
    """Writes one line, in which settings have the names of the command line. The exit status."""
    line = re.sub(r"`(\w+)`", lambda name: f"--{name[1]}" if name[1] in SETTINGS else name[0], message)
    sys.stderr.write(f"{who}: {' '.join(line.split())}\n")
    return 2


def read_help(verb: str | None) -> str:
    """The section of a verb in help.txt; without one the first section."""
    first, *sections = Path(__file__).with_name("help.txt").read_text(encoding="utf-8").rstrip().split("\n\n# ")
    texts = {section.split(maxsplit=1)[0]: f"usage: wave-network {section}" for section in sections}
    return texts[verb] if verb else first


def parse(verb: str, types: list[Any], words: list[str], first: Sequence[str] = (), with_texts: bool = False) -> Any:
    """
    The dataclasses of a verb, from `--config FILE.yaml` and the words, which override the file. `first` are the
    settings that the first words are for, if they have no name: `predict MODEL`; `with_texts` others are for `texts`.
    """
    from transformers import HfArgumentParser

    from .data.arguments import list_settings, refuse_unknown

    class Parser(HfArgumentParser):
        def error(self, message: str) -> Any:
            raise ValueError(message)

    common: dict[str, Any] = {"allow_abbrev": False, "add_help": False}
    of_config = Parser([], **common)
    of_config.add_argument("--config")
    given, words = of_config.parse_known_args(words)
    parser = Parser(
        types,
        usage=" ".join(["wave-network", verb, *map(str.upper, first), "[settings]"]),
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=100),
        **common,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings. The command line overrides it.")
    parser.add_argument("--help_all", *HELP, action="help", help="Show all settings.")
    for action in parser._actions:  # there is no public way
        action.option_strings = action.option_strings[:1]  # the help shows one spelling; both are read
        action.metavar = action.metavar or (None if action.choices else "X")
        if action.default not in (None, False, [], argparse.SUPPRESS):
            action.help = f"{action.help} Default: {action.default}."
    SETTINGS.update(list_settings(*types))
    for name in first:
        if words and not words[0].startswith("-"):
            words = [*words[1:], f"--{name}", words[0]]
    if given.config is not None:
        words = read_config(given.config) + words
    for option, value in pairwise(words):
        if option.startswith("--") and not value:
            raise ValueError(f"{option} must not be empty.")
    others = parser.parse_known_args(words)[1]
    for word in others:
        if re.match("-+[A-Za-z]", word) or not with_texts:
            raise refuse_unknown(word, *types)
    words = [*words, "--texts", *others] if others else words
    *settings, _, _ = parser.parse_args_into_dataclasses(words, return_remaining_strings=True, look_for_args_file=False)
    return settings


def read_config(file: str) -> list[str]:
    """The settings of a YAML file as words."""
    import yaml

    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file!r} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"--config {file!r} must hold lines of `name: value`.")
    words: list[str] = []
    for name, value in settings.items():
        for each in [] if value is None else value if isinstance(value, list) else [value]:
            # `no` is false in YAML, but may be meant as the word in `eval_strategy: no`.
            text = {True: "yes", False: "no"}[each] if isinstance(each, bool) else str(each)
            words += [f"--{name}"] * (each is value or each is value[0])
            words.append(json.dumps(each) if isinstance(each, dict) else text)
    return words


def run_finetune(words: list[str]) -> None:
    from .api import train
    from .training.settings import DataArguments, ModelArguments, RunArguments

    train(*parse("finetune", [DataArguments, ModelArguments, RunArguments], words, first=["dataset"]))


def run_predict(words: list[str]) -> None:
    from .inference.predict import PredictArguments, predict

    (arguments,) = parse("predict", [PredictArguments], words, first=["model"], with_texts=True)
    output = predict(arguments)
    if output is not None:
        print(f"Written: {output}")
    if output is not None and arguments.explain and output.suffix.lower() != ".html":
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
    from .hub_card import PushArguments, push_run

    (arguments,) = parse("push", [PushArguments], words, first=["run_folder", "repo_id"])
    print(f"Pushed: {push_run(**vars(arguments))}")


def run_analyze(words: list[str]) -> None:
    from .analysis.study import AnalyzeArguments, load_study, run_study

    study, *settings = words or [""]
    parsed = parse(f"analyze {study}", [AnalyzeArguments, load_study(study).settings], settings)
    folder, result = run_study(study, *parsed)
    print(f"{len(result.table)} rows, figures and a report in words: {folder / 'report.md'}")


def run_complete(words: list[str]) -> None:
    """A function of the shell. Verbs and settings are those of help.txt, so that it is made without waiting."""
    if words:
        raise ValueError(f"unknown setting {words[0]}.")
    settings = {verb: sorted({"--help", *re.findall(r"^--\w+", read_help(verb), re.MULTILINE)}) for verb in VERBS}
    cases = "\n".join(f'    {verb}) words="{" ".join(names)}" ;;' for verb, names in settings.items())
    print(COMPLETION % (" ".join(VERBS), cases))


if __name__ == "__main__":
    main()
