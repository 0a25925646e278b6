"""What each format of `wave-network export` weighs, keeps and takes: `python benchmarks/export.py RUN`.

RUN is a run folder, as `make demo` leaves it in runs/bbc_news. It is exported to each format, on the test set of its
data, and compared with its own weights in torch: size of the file beside the safetensors file, largest difference of a
logit and equal labels on the whole test set, accuracy, and texts a second, from text to logits, one text at a time and
32. All formats take turns in one process on the same texts, and ratios are taken within a round. Nothing else should
run on the machine.

One line for each format is appended to benchmarks/results/export.jsonl once all are measured; the table shows the last
such run. A format whose packages are missing is left out, and says so.
"""

import argparse
import datetime
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.benchmarks.timing import pair, summarise, time_in_rounds
from wave_network.export.checks import Difference, TorchGraph, measure_agreement, with_graph
from wave_network.export.convert import FILES, PACKAGES, check_packages
from wave_network.export.export import ExportArguments, export_model
from wave_network.export.runtime import ExportedClassifier
from wave_network.export.source import Source
from wave_network.training.data import load_text_data

RESULTS = Path(__file__).parent / "results" / "export.jsonl"
BATCHES, TIMED_TEXTS, ROUNDS = (1, 32), 64, 30
TORCH = "torch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("--dataset", default="bbc_news", help="data with a test split (default: bbc_news)")
    parser.add_argument("--formats", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="default: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (default: all cores)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append to")
    parser.add_argument("--quick", action="store_true", help="few texts and rounds, to see that it runs; keeps nothing")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)

    test = load_text_data(arguments.dataset).test
    if test is None:
        raise SystemExit(f"{arguments.dataset!r} must have a test split with labels.")
    texts, labels = list(test["text"]), np.array(test["label"])
    if arguments.quick:
        texts, labels = texts[::20], labels[::20]
    with tempfile.TemporaryDirectory() as temporary:
        classifiers = load_classifiers(arguments, Path(temporary))
        lines = measure(classifiers, Path(arguments.run, "model.safetensors"), texts, labels, arguments.quick)
    names = ("numpy", "tokenizers", "onnxruntime", "openvino", "executorch")
    about = describe_machine() | {"threads": arguments.threads} | describe_run()
    about["versions"] |= {name: version(name) for name in names if find_spec(name)}
    about |= {"run": datetime.datetime.now().isoformat(timespec="seconds"), "dataset": arguments.dataset}
    for line in lines:
        tqdm.write(report(line))
    if not arguments.quick:
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**about, **line}) + "\n" for line in lines)


def load_classifiers(arguments: argparse.Namespace, folder: Path) -> dict[str, ExportedClassifier]:
    """The run in torch, and each export of it."""
    classifiers: dict[str, ExportedClassifier] = {}
    for kind in arguments.formats:
        try:
            check_packages(kind)
        except ImportError as error:
            tqdm.write(f"{kind} is left out: {error}")
            continue
        # Which labels change is what is measured here.
        settings = ExportArguments(arguments.run, kind, str(folder / kind), allow_disagreement=True, report=False)
        classifiers[kind] = ExportedClassifier(export_model(settings), arguments.threads)
    if not classifiers:
        raise SystemExit("There is no format to measure.")
    source = Source.load(arguments.run)
    first = next(iter(classifiers.values()))
    return {TORCH: with_graph(first, TorchGraph(source.model, source.inputs)), **classifiers}


def measure(
    classifiers: dict[str, ExportedClassifier], weights: Path, texts: list[str], labels: np.ndarray, quick: bool
) -> list[dict[str, Any]]:
    """One line for each classifier."""
    logits = {name: each.logits(texts) for name, each in tqdm(classifiers.items(), desc="classifying")}
    speeds = measure_speeds(classifiers, texts, rounds=3 if quick else ROUNDS)
    lines = []
    for name, classifier in classifiers.items():
        found = Difference.between(logits[name], logits[TORCH])
        files = [weights] if name == TORCH else [classifier.folder / file for file in FILES[name]]
        size = sum(file.stat().st_size for file in files)
        lines.append(
            {
                "format": name,
                "texts": len(texts),
                "file_bytes": size,
                "ratio_to_safetensors": size / weights.stat().st_size,
                "largest_difference": found.difference,
                "largest_logit": found.logit,
                "agreement": measure_agreement(classifier.problem, logits[name], logits[TORCH]),
                "accuracy": float((logits[name].argmax(-1) == labels).mean()),
                "texts_per_second": {str(batch): speeds[batch, name][0] for batch in BATCHES},
                "ratio_to_torch": {str(batch): speeds[batch, name][1] for batch in BATCHES},
            }
        )
    return lines


def measure_speeds(
    classifiers: dict[str, ExportedClassifier], texts: list[str], rounds: int
) -> dict[tuple[int, str], tuple[dict, dict]]:
    """Texts a second, and their ratio to those of torch in the same round, by batch and name."""
    # Of all lengths, evenly, in the order in which texts come.
    timed = texts[:: max(1, len(texts) // TIMED_TEXTS)][:TIMED_TEXTS]
    speeds = {}
    for batch in BATCHES:
        calls = [timed[start : start + batch] for start in range(0, len(timed), batch)]

        def classify(classifier: ExportedClassifier, calls: list[list[str]] = calls) -> None:
            for call in calls:
                classifier.logits(call)

        steps: dict[str, Callable[[int], object]] = {
            name: lambda turn, each=each, classify=classify: classify(each) for name, each in classifiers.items()
        }
        for step in steps.values():
            step(0)
        once = dict.fromkeys(steps, 1)
        times = time_in_rounds(steps, once, once, rounds, "cpu", f"{batch} at a time")
        rates = {name: [1000 * len(timed) / each for each in times[name]] for name in steps}
        for name in steps:
            speeds[batch, name] = summarise(rates[name]), summarise(pair(rates[name], rates[TORCH]))
    return speeds


def report(line: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate['median']:,.0f} at {batch}" for batch, rate in line["texts_per_second"].items())
    return (
        f"{line['format']}: {line['file_bytes'] / 1e6:.2f} MB ({line['ratio_to_safetensors']:.3f}), logits off by "
        f"{line['largest_difference']:.1e}, {line['agreement']:.2%} equal labels, accuracy {line['accuracy']:.2%}, "
        f"texts a second: {rates}"
    )


if __name__ == "__main__":
    main()
