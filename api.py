"""What the command does, in Python: `model = finetune("reviews.csv")`, and `load("runs/reviews")` another time."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data.arguments import list_settings
from .files import read_json
from .hub_card import draw_pictures, push_run, write_card
from .inference.classifier import Classifier, load
from .training import finetune as training
from .training.results import describe_results
from .training.settings import DataArguments, ModelArguments, RunArguments


def finetune(
    data: Any, output_dir: str | os.PathLike | None = None, *, validation: Any = None, test: Any = None, **settings: Any
) -> Classifier:
    """
    Trains a classifier, and leaves a run folder with the model, its card, pictures and `metrics.json`.

    Args:
        data: Labelled texts: a file, a folder or a name on the Hub; or in memory a DataFrame, a Dataset or DatasetDict,
            a dict of columns, a list of dicts, or `(texts, labels)`.
        output_dir: The run folder. None: `runs/` and the name of the data; of data in memory `runs/data`.
        validation, test: Rows to validate and to test on: a file; or, if `data` are in memory, rows like these.
        settings: Those of `wave-network finetune --help_all`, such as `num_train_epochs=3`.

    Returns:
        The trained classifier, as `load(output_dir)` gives it.

    Raises:
        FileExistsError: There is something in the run folder, and it is not gone on with.
        ValueError, OSError: Bad data, settings or files; the message names them.
    """
    names = [set(list_settings(kind)) - {"dataset"} for kind in (DataArguments, ModelArguments)]
    dataset: Any = None if is_name(data) else data
    for split, rows in (("validation", validation), ("test", test)):
        if is_name(rows):
            settings[f"{split}_file"] = os.fspath(rows)
        elif rows is not None and dataset is None:
            raise ValueError(f"`{split}` must be a file, as `data` are not in memory, got a {type(rows).__name__}.")
        elif rows is not None:
            has_splits = isinstance(dataset, Mapping) and "train" in dataset
            dataset = {**(dataset if has_splits else {"train": dataset}), split: rows}
    of_data, of_model = ({name: settings.pop(name) for name in settings.keys() & each} for each in names)
    if dataset is None:
        of_data["dataset"] = os.fspath(data)
    folder = None if output_dir is None else os.fspath(output_dir)
    arguments = RunArguments(output_dir=folder or (None if dataset is None else "runs/data"), **settings)
    return load(train(DataArguments(**of_data), ModelArguments(**of_model), arguments, dataset))


def train(
    data_arguments: DataArguments, model_arguments: ModelArguments, arguments: RunArguments, dataset: Any = None
) -> Path:
    """Trains, writes the card, says what was reached, pushes; of several processes the first one. The run folder."""
    folder = training.finetune(data_arguments, model_arguments, arguments, dataset=dataset)
    if arguments.process_index != 0:
        return folder
    draw_pictures(folder)
    write_card(folder, repo_id=arguments.hub_model_id)
    print(describe_results(read_json(folder / "metrics.json"), folder), flush=True)
    if arguments.push_to_hub:
        repo_id = arguments.hub_model_id or folder.resolve().name
        print(f"Pushing. If it fails: {shlex.join(['wave-network', 'push', str(folder), repo_id])}", flush=True)
        settings: Any = {"token": arguments.hub_token, "private": arguments.hub_private_repo}
        print(f"Pushed: {push_run(folder, repo_id, **settings)}")
    return folder


def is_name(data: Any) -> bool:
    return isinstance(data, str | os.PathLike)
