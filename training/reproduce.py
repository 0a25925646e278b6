"""`wave-network reproduce`: recipes over several seeds, and what they come to.

    OUTPUT/
        README.md, aggregates of all recipes in a table
        NAME/
            recipe.json      what is run: written first, and the same for all seeds
            seed-K/          the run of `finetune`, with metrics.json
            seed-K.error     why a run failed
            aggregate.json   what the runs come to

Each seed is a process of its own: `python -m wave_network.training.reproduce OUTPUT/NAME K`.
"""

import contextlib
import difflib
import functools
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from tqdm.auto import tqdm

from .recipes import DATA_SETS, RECIPES, DataSet, Recipe
from .record import read_commit, write_atomically

REPRODUCE_SCHEMA = 1

# What a result depends on; the rest of a recipe may be worded anew while its runs go on.
DECISIVE = ("kind", "model", "training", "rows")

# A result takes the place of one that has these in common with it.
SAME_RESULT = ("recipe", "settings", "fingerprint", "commits")

# What a run leaves that is no checkpoint of a Wave Network: the rest of it would load as one.
OF_A_BASELINE = ("metrics.json", "process.json")


@dataclass
class ReproduceArguments:
    """What to reproduce, from which data, where to."""

    _argument_group_name = "reproduce"

    recipes: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of recipes, first of all: wave-network reproduce NAME NAME --seeds 5."},
    )
    list: bool = field(default=False, metadata={"help": "Show the recipes, and what each is compared with."})
    seeds: int = field(default=5, metadata={"help": "Runs of each recipe, with the seeds 0, 1 ..."})
    data: str | None = field(
        default=None,
        metadata={"help": "Local folder of the data set, or one that holds it. Default: the data on the Hub."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder or vocabulary file, for recipes that name a tokenizer on the Hub, as the paper's do."
        },
    )
    output_dir: str = field(default="runs/reproduce", metadata={"help": "Folder of the runs. Same command: go on."})
    jobs: int = field(default=1, metadata={"help": "Runs at once, which share the processor."})
    results: str | None = field(
        default=None, metadata={"help": "File of JSON lines to which each aggregate is added, one line for a recipe."}
    )


@dataclass(frozen=True)
class Run:
    """One seed of one recipe."""

    folder: Path
    seed: int

    def __str__(self) -> str:
        return f"{self.folder.name}, seed {self.seed}"

    @property
    def output(self) -> Path:
        return self.folder / f"seed-{self.seed}"

    @property
    def error(self) -> Path:
        return self.folder / f"seed-{self.seed}.error"

    @property
    def is_finished(self) -> bool:
        return (self.output / "process.json").exists()

    @functools.cached_property
    def start(self) -> "Run | None":
        """The run whose model this one trains on, if there is one: of another recipe, with the same seed."""
        name = json.loads((self.folder / "recipe.json").read_text(encoding="utf-8"))["model"].get("model")
        return None if name is None else Run(self.folder.parent / name, self.seed)

    @property
    def is_ready(self) -> bool:
        return self.start is None or self.start.is_finished


def reproduce(arguments: ReproduceArguments, recipes: Mapping[str, Recipe] = RECIPES) -> Path:
    """
    Runs recipes and aggregates them. Finished seeds are not repeated, interrupted ones go on from their last
    checkpoint, and one that fails does not keep the others.

    Returns:
        The output folder.

    Raises:
        ValueError: A setting is not as described, a recipe is unknown, or other than that of the runs in the folder, or
            `results` holds something else than results.
        FileNotFoundError: The data are not where `data` says, or the tokenizer not where `tokenizer` does.
        ChildProcessError: Some runs failed. The others are aggregated.
    """
    for name in ("seeds", "jobs"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(arguments, name)}.")
    chosen = choose_recipes(arguments.recipes, recipes)
    results = None if arguments.results is None else Path(arguments.results)
    if results is not None:
        read_results(results)  # what is wrong with it is said before hours of training, not after them
    output = Path(arguments.output_dir)
    prepared = [describe_experiment(recipe, chosen, arguments) for recipe in chosen]
    folders = [write_experiment(output / recipe.name, made) for recipe, made in zip(chosen, prepared, strict=True)]
    # A linear SVM has one optimum: there is nothing to repeat.
    seeds = [1 if recipe.kind == "svm" else arguments.seeds for recipe in chosen]
    runs = [Run(folder, seed) for folder, count in zip(folders, seeds, strict=True) for seed in range(count)]
    try:
        run_all([run for run in runs if not run.is_finished], len(runs), arguments.jobs)
    finally:
        aggregates = [write_aggregate(folder, count) for folder, count in zip(folders, seeds, strict=True)]
        write_overview(output)
        for aggregate in aggregates:
            if aggregate is not None and results is not None:
                add_result(results, aggregate)
    failed = [run for run in runs if not run.is_finished]
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} runs failed: {'; '.join(map(str, failed))}. Why is in {failed[0].error}"
            + (" and its like" if len(failed) > 1 else "")
            + ". The same command repeats them."
        )
    return output


def choose_recipes(names: Sequence[str], recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """The recipes of these names, each after the one from which it goes on."""
    if not names:
        raise ValueError("Give at least one recipe: `wave-network reproduce --list` shows them.")
    for name in names:
        if name not in recipes:
            close = difflib.get_close_matches(name, recipes, n=3) or list(recipes)
            raise ValueError(f"There is no recipe {name!r}. Did you mean {' or '.join(close)}? All: --list.")
    chosen: dict[str, Recipe] = {}
    for name in names:
        line = [name]
        while (start := recipes[line[0]].model.get("model")) is not None:
            line.insert(0, start)
        chosen |= {each: recipes[each] for each in line if each not in chosen}
    return list(chosen.values())


def describe_experiment(recipe: Recipe, chosen: Sequence[Recipe], arguments: ReproduceArguments) -> dict[str, Any]:
    """What the process of a seed needs to know: `recipe.json`."""
    data = DATA_SETS[recipe.data]
    model = dict(recipe.model)
    if arguments.tokenizer is not None:
        if not any("tokenizer" in each.model for each in chosen):
            raise ValueError(
                f"`tokenizer` ({arguments.tokenizer!r}) is for recipes that name one; these train their own. "
                "Leave it out."
            )
        if not Path(arguments.tokenizer).exists():
            raise FileNotFoundError(
                "`tokenizer` must be a folder with a tokenizer, or a vocabulary file; "
                f"{arguments.tokenizer!r} is not there."
            )
        if "tokenizer" in model:
            model["tokenizer"] = arguments.tokenizer
    if arguments.data is None:
        rows = {"dataset": data.hub, **data.settings, **data.on_hub}
    else:
        is_alone = len({each.data for each in chosen}) == 1
        folder = find_folder(Path(arguments.data), data, is_alone)
        rows = {"dataset": str(folder), **data.settings, **data.in_folder}
    experiment = {"schema": REPRODUCE_SCHEMA, **asdict(recipe), "model": model, "rows": rows | dict(recipe.rows)}
    return json.loads(json.dumps(experiment))


def find_folder(folder: Path, data: DataSet, is_alone: bool) -> Path:
    """The folder of a data set: within the one that is given or, if no other data are wanted, that one itself."""
    if (folder / data.folder).is_dir():
        return folder / data.folder
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
    is_of_others = folder.resolve().name in {other.folder for other in DATA_SETS.values()} - {data.folder}
    has_rows = any(name.split(".")[0] in ("train", "dataset_dict") for name in inside or ())
    if is_alone and has_rows and not is_of_others:
        return folder
    raise FileNotFoundError(
        f"`data` must be a folder that holds {data.title} in a folder {data.folder!r}"
        + (", or that folder itself, with a file `train`" if is_alone else "")
        + f"; {str(folder)!r} "
        + ("does not exist." if inside is None else f"holds {inside}.")
    )


def write_experiment(folder: Path, experiment: dict[str, Any]) -> Path:
    """Writes `recipe.json`; a ValueError if there are runs of another recipe in the folder. Data may have moved."""
    path = folder / "recipe.json"
    if path.exists() and any(each.is_dir() for each in folder.glob("seed-*")):
        old = json.loads(path.read_text(encoding="utf-8"))
        for part in DECISIVE:
            for name, (before, now) in compare(part, old[part], experiment[part]).items():
                if name != "rows.dataset":
                    raise ValueError(
                        f"`{name}` of the recipe {folder.name} is now {now!r}, and was {before!r} in the runs in "
                        f"{str(folder)!r}. Choose another `output_dir`, or move that folder away."
                    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(experiment, indent=2, ensure_ascii=False) + "\n")
    return folder


def compare(part: str, old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """What differs, by its dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {f"{part}.{name}": (old.get(name), new.get(name)) for name in {**old, **new}}
    else:
        pairs = {part: (old, new)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


# The runs.


def run_all(runs: Sequence[Run], count: int, jobs: int) -> None:
    """Runs what is missing, some at once. A run that fails leaves its error; none outlives this process."""
    waiting = list(runs)
    running: dict[subprocess.Popen, Run] = {}
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    try:
        with tqdm(total=count, initial=count - len(runs), desc="Runs", unit=" runs", disable=jobs == 1) as bar:
            while waiting or running:
                while len(running) < jobs and (run := next((run for run in waiting if run.is_ready), None)):
                    waiting.remove(run)
                    if jobs == 1:
                        print(f"{run} ({count - len(waiting)} of {count} runs)", flush=True)
                    running[start(run, environment, is_shown=jobs == 1)] = run
                if not running:
                    for run in waiting:
                        write_atomically(run.error, f"{run.start}, from which it goes on, has failed.\n")
                    break
                time.sleep(0.1)
                for process in [process for process in running if process.poll() is not None]:
                    run = running.pop(process)
                    bar.update()
                    if process.returncode:
                        if not run.error.exists():
                            write_atomically(run.error, f"The process ended with status {process.returncode}.\n")
                        tqdm.write(f"{run} failed: {read_error(run)}", file=sys.stderr)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def start(run: Run, environment: dict[str, str], is_shown: bool) -> subprocess.Popen:
    """The process of a run. Where several share the terminal, what it says goes into a file."""
    run.error.unlink(missing_ok=True)
    command = [sys.executable, "-m", "wave_network.training.reproduce", str(run.folder), str(run.seed)]
    if is_shown:
        return subprocess.Popen(command, env=environment)
    with (run.folder / f"seed-{run.seed}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def read_error(run: Run) -> str:
    return run.error.read_text(encoding="utf-8").strip().splitlines()[-1]


def run_seed(run: Run) -> None:
    """One run, in this process."""
    from .resuming import find_checkpoint

    experiment = json.loads((run.folder / "recipe.json").read_text(encoding="utf-8"))
    process: dict[str, Any] = {"commit": read_commit(), "resumed": find_checkpoint(run.output) is not None}
    if not (run.output / "metrics.json").exists():
        train_seed(experiment, run)
        process |= {"threads": torch.get_num_threads(), "peak_memory_mib": read_peak()}
        if torch.cuda.is_available():
            process["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    clear(run.output, leaves_model=experiment["kind"] == "wave" and not list_others(experiment))
    write_atomically(run.output / "process.json", json.dumps(process, indent=2) + "\n")


def train_seed(experiment: Mapping[str, Any], run: Run) -> None:
    from .baselines import ModelMaker, train_svm
    from .finetune import finetune, read_data
    from .settings import DataArguments, ModelArguments, RunArguments

    data_arguments = DataArguments(**experiment["rows"])
    if experiment["kind"] == "svm":
        train_svm(read_data(data_arguments), run.output, run.seed)
        return
    others = list_others(experiment)
    model = {name: value for name, value in experiment["model"].items() if name not in others}
    if run.start is not None:
        model["model"] = str(run.start.output)
    settings = {"disable_tqdm": not sys.stderr.isatty(), "seed": run.seed, "resume": True}
    finetune(
        data_arguments,
        ModelArguments(**model),
        RunArguments(str(run.output), **settings | experiment["training"]),
        make_model=None if experiment["kind"] == "wave" and not others else ModelMaker(experiment["kind"], others),
    )


def list_others(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that are fields of its config alone."""
    from .settings import ModelArguments

    known = ModelArguments.__dataclass_fields__
    return {name: value for name, value in experiment["model"].items() if name not in known}


def clear(folder: Path, leaves_model: bool) -> None:
    """Of a finished run, drops the checkpoints, which are large; of a baseline all but its record."""
    for path in list(folder.iterdir()):
        if path.name.startswith("checkpoint-") or not (leaves_model or path.name in OF_A_BASELINE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_peak() -> float | None:
    """The most memory that this process has had, in MiB; None where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):  # that of getrusage would be the parent's, where that is larger
                return int(line.split()[1]) / 1024
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    return None


# What the runs come to.


def write_aggregate(folder: Path, seeds: int) -> dict[str, Any] | None:
    """Writes `aggregate.json`, if there is a finished run."""
    experiment = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    finished, missing = {}, {}
    for path in folder.glob("seed-*/metrics.json"):
        seed = path.parent.name.removeprefix("seed-")
        if seed.isdecimal():  # and no copy of one
            finished[int(seed)] = json.loads(path.read_text(encoding="utf-8"))
    for run in (Run(folder, seed) for seed in range(seeds)):
        if run.seed not in finished:
            missing[str(run.seed)] = read_error(run) if run.error.exists() else "not run"
    if not finished:
        return None
    processes = {seed: read_process(folder / f"seed-{seed}") for seed in finished}
    aggregate = summarise_runs(experiment, dict(sorted(finished.items())), processes, missing)
    write_atomically(folder / "aggregate.json", json.dumps(aggregate, indent=2, ensure_ascii=False) + "\n")
    return aggregate


def read_process(folder: Path) -> dict[str, Any]:
    path = folder / "process.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def summarise_runs(
    experiment: Mapping[str, Any],
    finished: Mapping[int, dict[str, Any]],
    processes: Mapping[int, dict[str, Any]],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """
    What the runs of one recipe come to.

    Args:
        experiment: `recipe.json`.
        finished: `metrics.json` by seed.
        processes: `process.json` by seed.
        missing: Why a seed is not there.

    Raises:
        ValueError: The runs have read other rows than each other, or there is no test split.
    """
    runs = list(finished.values())
    fingerprints = Counter(run["data"]["fingerprint"] for run in runs)
    if len(fingerprints) > 1:
        raise ValueError(f"The runs of {experiment['name']} must have read the same rows; they differ: {fingerprints}.")
    if any("test" not in run["results"] for run in runs):
        raise ValueError(f"The data of {experiment['name']} must have a test split with labels.")
    accuracies = {str(seed): run["results"]["test"]["accuracy"] for seed, run in finished.items()}
    accuracy = {**(summarise_numbers(list(accuracies.values())) or {}), "by_seed": accuracies}
    # One that was resumed lacks what it had to do again, and may have changed machines.
    seconds = [run["duration_seconds"] for seed, run in finished.items() if not processes[seed].get("resumed")]
    peaks = {
        name: [process[f"peak_{name}_mib"] for process in processes.values() if process.get(f"peak_{name}_mib")]
        for name in ("memory", "gpu_memory")
    }
    first, last = runs[0], max(runs, key=lambda run: run["created"])
    tokenizer = experiment["model"].get("tokenizer")
    words = ["wave-network", "reproduce", experiment["name"], "--seeds", str(len(runs))]
    aggregate = {
        "schema": REPRODUCE_SCHEMA,
        "recipe": experiment["name"],
        **{name: experiment[name] for name in ("data", "about", "kind", "claim")},
        "command": shlex.join(words),
        "settings": {name: experiment[name] for name in ("model", "training")}
        | {"rows": {name: value for name, value in experiment["rows"].items() if name != "dataset"}},
        "accuracy": accuracy,
        "macro_f1": summarise_numbers([run["results"]["test"]["macro_f1"] for run in runs]),
        "validation_accuracy": summarise_numbers(
            [run["results"]["validation"]["accuracy"] for run in runs if "validation" in run["results"]]
        ),
        "runs": len(runs),
        "missing": dict(missing),
        "rows": first["data"]["rows"],
        "is_on_hub": first["data"]["is_on_hub"],
        "fingerprint": first["data"]["fingerprint"],
        "parameters": first["model"]["parameters"],
        "core_parameters": first["model"].get("core_parameters"),
        "best_epochs": [run["best"]["epoch"] for run in runs if run.get("best")],
        "seconds": fmean(seconds) if seconds else None,
        "peak_memory_mib": max(peaks["memory"], default=None),
        "peak_gpu_memory_mib": max(peaks["gpu_memory"], default=None),
        "calibration": summarise_calibration(runs),
        "device": last["device"],
        "versions": last["versions"],
        "commits": sorted({process["commit"] for process in processes.values() if process.get("commit")}),
        "date": last["created"][:10],
    }
    if tokenizer is not None:
        aggregate["settings"]["model"] = aggregate["settings"]["model"] | {"tokenizer": Path(tokenizer).name}
    return aggregate | {"verdict": compare_with_claim(aggregate)}


def summarise_numbers(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean, standard deviation (n - 1), and the 95 % interval of the mean by Student's t; None of a single value."""
    if not values:
        return None
    count, mean = len(values), fmean(values)
    if count == 1:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    deviation = stdev(values)
    half = float(student.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return {"mean": mean, "sd": deviation, "low": mean - half, "high": mean + half}


def summarise_calibration(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the test rows: the mean expected calibration error without and with the temperature, and the temperatures."""
    found = [run["calibration"] for run in runs if run.get("calibration") and run["calibration"].get("test")]
    if not found:
        return None
    fitted = [each for each in found if each["temperature"] is not None]
    return {
        "ece_before": fmean(each["test"].get("before", each["test"])["ece"] for each in found),
        "ece": fmean(each["test"]["ece"] for each in fitted) if len(fitted) == len(found) else None,
        "temperatures": [each["temperature"] for each in fitted],
    }


def compare_with_claim(aggregate: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Whether a bar is reached by the mean; or whether a claim is within two standard errors of it, that of the seeds and
    that of a test set of so many rows together: `se^2 = sd^2 / n + p (1 - p) / rows`.
    """
    claim, accuracy = aggregate["claim"], aggregate["accuracy"]
    if claim is None:
        return None
    mean, deviation = accuracy["mean"], accuracy["sd"] or 0.0
    error = math.sqrt(deviation**2 / aggregate["runs"] + mean * (1 - mean) / aggregate["rows"]["test"])
    difference = mean - claim["accuracy"]
    held = difference >= 0 if claim["at_least"] else abs(difference) <= 2 * error
    return {"difference": difference, "standard_error": error, "held": held}


def add_result(path: Path, aggregate: dict[str, Any]) -> None:
    """Adds the aggregate to a file of JSON lines, in place of one of the same recipe, settings, data and commits."""

    def key(line: Mapping[str, Any]) -> list[Any]:
        return [line[name] for name in SAME_RESULT]

    lines = read_results(path)
    # Why a seed is missing may name folders of this machine.
    lines = [line for line in lines if key(line) != key(aggregate)] + [
        aggregate | {"missing": list(aggregate["missing"])}
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results, none if it is not there; a ValueError with the line that is no result."""
    must = f"`results` must be a file of JSON lines, each a result of `reproduce`, got {str(path)!r}:"
    if path.is_dir():
        raise ValueError(f"{must} it is a folder.")
    if not path.exists():
        return []
    lines = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                found = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{must} line {number} is not JSON: {error}") from error
            missing = [name for name in SAME_RESULT if not isinstance(found, dict) or name not in found]
            if missing:
                raise ValueError(f"{must} line {number} has no {missing[0]!r}.")
            lines.append(found)
    return lines


def read_aggregates(output: Path) -> Iterator[dict[str, Any]]:
    """The aggregates in an output folder, by data set, the best first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in output.glob("*/aggregate.json")]
    yield from sorted(found, key=lambda each: (each["data"], -each["accuracy"]["mean"]))


def write_overview(output: Path) -> None:
    """Writes README.md: a table of all aggregates in the folder."""
    lines = [
        "# Reproduced",
        "",
        "| recipe | what it is | test accuracy, % | 95 % interval | runs | compared with | held | parameters (core) "
        "| seconds | peak memory, MiB | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    missing = []
    for each in read_aggregates(output):
        lines.append(f"| {' | '.join(describe_row(each))} |")
        missing += [f"- {each['recipe']}, seed {seed}: {why}" for seed, why in each["missing"].items()]
    if missing:
        lines += ["", "Not finished:", "", *missing]
    write_atomically(output / "README.md", "\n".join(lines) + "\n")


def describe_row(aggregate: Mapping[str, Any]) -> list[str]:
    accuracy, claim, verdict = (aggregate[name] for name in ("accuracy", "claim", "verdict"))
    spread = f" ± {100 * accuracy['sd']:.2f}" if accuracy["sd"] is not None else ""
    core = aggregate["core_parameters"]
    return [
        aggregate["recipe"],
        aggregate["about"],
        f"{100 * accuracy['mean']:.2f}{spread}",
        f"{100 * accuracy['low']:.2f} to {100 * accuracy['high']:.2f}" if accuracy["low"] is not None else "-",
        str(aggregate["runs"]),
        f"{'≥ ' if claim['at_least'] else ''}{100 * claim['accuracy']:.2f} ({claim['source']})" if claim else "-",
        "-" if verdict is None else "yes" if verdict["held"] else "**no**",
        f"{aggregate['parameters']:,}" + (f" ({core:,})" if core is not None else ""),
        f"{aggregate['seconds']:.0f}" if aggregate["seconds"] is not None else "-",
        f"{aggregate['peak_memory_mib']:,.0f}" if aggregate["peak_memory_mib"] is not None else "-",
        aggregate["date"],
    ]


def describe_recipes(recipes: Mapping[str, Recipe] = RECIPES) -> str:
    """What `--list` shows."""
    lines = []
    for data, title in ((name, data.title) for name, data in DATA_SETS.items()):
        lines += ["", f"{title} ({DATA_SETS[data].hub} on the Hub; {DATA_SETS[data].folder} in a local folder)"]
        for recipe in recipes.values():
            if recipe.data == data:
                claim = recipe.claim
                sign = "≥ " if claim and claim.at_least else ""
                against = f"  [{sign}{100 * claim.accuracy:.2f} %: {claim.source}]" if claim else ""
                lines.append(f"  {recipe.name:32}{recipe.about}{against}")
    return "\n".join(lines).lstrip("\n")


def main() -> None:
    run = Run(Path(sys.argv[1]), int(sys.argv[2]))
    try:
        run_seed(run)
    except Exception:
        write_atomically(run.error, traceback.format_exc())
        raise


if __name__ == "__main__":
    main()
