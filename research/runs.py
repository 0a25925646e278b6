"""What all experiments share: result files, the rows of a data set, and one training run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import get_last_checkpoint

from wave_network.data.load import load_text_data
from wave_network.files import describe_run, read_commit, read_json, read_lines
from wave_network.training.finetune import finetune
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

from .baselines import choose_maker, train_svm
from .recipes import DataSet, Settings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "research" / "results"


def read_results(path: Path) -> list[dict[str, Any]]:
    """
    The lines of a result file.

    Raises:
        ValueError: A line was measured with changed code, so that nobody can repeat it.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line["commit"] or line["commit"].endswith("-dirty"):
            raise ValueError(
                f"{path.name}, line {number} must be of a commit, got {line['commit']!r}: measure it anew."
            )
    return lines


def describe_measurement() -> dict[str, Any]:
    """What every line says of where it was measured. Read before the first line is written, which changes the tree."""
    if (commit := read_commit()) is None or commit.endswith("-dirty"):
        print(f"Warning: the code is not that of a commit ({commit}); research.tables refuses lines of it.")
    return {"threads": torch.get_num_threads(), **describe_run()}


def locate_rows(data_set: DataSet, folder: Path | None) -> Settings:
    """`DataArguments` of a data set: of its folder within `folder`, or of the Hub where that is None."""
    if folder is None or data_set.folder is None:
        return {"dataset": data_set.hub, **data_set.settings, **data_set.on_hub}
    if not (folder / data_set.folder).is_dir():
        raise FileNotFoundError(f"--data ({str(folder)!r}) must hold {data_set.title} in a folder {data_set.folder!r}.")
    return {"dataset": str(folder / data_set.folder), **data_set.settings, **data_set.in_folder}


def split_model(model: Mapping[str, Any]) -> tuple[Settings, Settings]:
    """The settings that are `ModelArguments`, and those that are fields of the model's config alone."""
    known = ModelArguments.__dataclass_fields__
    return (
        {name: value for name, value in model.items() if name in known},
        {name: value for name, value in model.items() if name not in known},
    )


def train(
    folder: Path, kind: str, rows: Settings, model: Settings, training: Settings, seed: int
) -> tuple[dict[str, Any], bool]:
    """
    One run into `folder`, which goes on from its last checkpoint if there is one.

    Returns:
        The record of the run, `metrics.json`, and whether it was interrupted on the way.
    """
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if not (folder / "metrics.json").exists():
        if kind == "svm":
            train_svm(load_text_data(**rows), folder, seed)
        else:
            known, others = split_model(model)
            maker = None if kind == "wave" and not others else choose_maker(kind, others)
            settings = {"seed": seed, "resume_from_checkpoint": "last", **training}
            finetune(
                DataArguments(**rows),
                ModelArguments(**{"model": "none", **known}),
                RunArguments(str(folder), **settings),
                make_model=maker,
            )
    for path in folder.iterdir():
        # Checkpoints are large, and the rest of a baseline would load as a Wave Network.
        if path.name.startswith("checkpoint-") or (kind != "wave" and path.name != "metrics.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return read_json(folder / "metrics.json"), checkpoint is not None


def summarise(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a result line takes over from `metrics.json`."""
    results, calibration, best = metrics["results"], metrics.get("calibration"), metrics.get("best")
    test = calibration["test"] if calibration and calibration.get("test") else None
    return {
        "accuracy": results["test"]["accuracy"] if "test" in results else None,
        "macro_f1": results["test"]["macro_f1"] if "test" in results else None,
        "validation_accuracy": results["validation"]["accuracy"] if "validation" in results else None,
        "best_epoch": best["epoch"] if best else None,
        "ece_before": test.get("before", test)["ece"] if test else None,
        "ece": test["ece"] if test and calibration["temperature"] is not None else None,
        "rows": metrics["data"]["rows"],
        "is_on_hub": metrics["data"]["is_on_hub"],
        "fingerprint": metrics["data"]["fingerprint"],
        "parameters": metrics["model"]["parameters"],
        "core_parameters": metrics["model"].get("core_parameters"),
        "seconds": metrics["duration_seconds"],
    }
