"""Data sets from a Hub over real HTTP, in fresh processes, and a run that learns from one and goes there."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fresh_process import run_step
from huggingface_hub import HfApi, ModelCard
from loopback_hub import LoopbackHub
from small_runs import WORDS, small_words, write_data

from wave_network.cli import main
from wave_network.data.load import TextData, load_text_data

TOPICS = list(WORDS)  # in an order that is not that of the alphabet


# Steps, each in a process of its own


def publish(folder: str) -> None:
    """Puts data on the Hub: CSV files, one that cannot be read, and Parquet with a card as datasets writes them."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    api = HfApi()
    for name in ("news", "ragged"):
        api.create_repo(name, repo_type="dataset")
        api.upload_folder(repo_id=f"tester/{name}", repo_type="dataset", folder_path=f"{folder}/{name}")
    features = Features({"text": Value("string"), "label": ClassLabel(names=TOPICS)})
    splits = {}
    for split in ("train", "test"):
        with open(f"{folder}/topic/{split}.csv", encoding="utf-8", newline="") as file:
            splits[split] = Dataset.from_list(list(csv.DictReader(file))).cast(features)
    DatasetDict(splits).push_to_hub("tester/topics", "topic")


def load(wanted: list[tuple[str, str | None, str]]) -> list[Any]:
    """Loads data sets by name, configuration and token. An error is returned, so that the rest loads."""
    results: list[Any] = []
    for name, config, token in wanted:
        with patch.dict(os.environ, HF_TOKEN=token), patch("time.sleep"):  # between the retries of huggingface_hub
            try:
                results.append(describe(load_text_data(name, dataset_config=config)))
            except Exception as error:
                results.append(f"{type(error).__name__}: {error}")
    return results


def describe(data: TextData) -> dict[str, Any]:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    rows = {split: part and part.to_list() for split, part in splits.items()}
    return {"rows": rows, "names": data.label_names, "name": data.name, "is_on_hub": data.is_on_hub}


def finetune(dataset: str, output: str, repo_id: str) -> None:
    main(small_words(Path(dataset), Path(output), num_train_epochs=1, push_to_hub=True, hub_model_id=repo_id))


# Tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder / "news")
    write_data(folder / "topic")
    (folder / "topic" / "classes.txt").write_text("\n".join(TOPICS))
    (folder / "ragged").mkdir()
    (folder / "ragged" / "train.csv").write_text("text,label\na goal,sport\na bank,money\na, new, comet,space\n")
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    with LoopbackHub(token="hf_right") as hub:
        run_on(hub.url, tmp_path_factory, "publish", folder=str(folder))
        yield hub


def run_on(url: str, tmp_path_factory: pytest.TempPathFactory, step: str, **arguments: Any) -> Any:
    return run_step(tmp_path_factory.mktemp("home"), url, "test_hub_data", step, with_package=True, **arguments)


def test_data_sets_on_the_hub_are_those_of_local_files_and_errors_name_them(
    hub: LoopbackHub, folder: Path, tmp_path_factory: pytest.TempPathFactory
):
    wanted = {
        ("tester/news", None, "hf_right"): "news",
        ("tester/topics", "topic", "hf_right"): "topic",
        ("tester/topics", "sport", "hf_right"): ["ValueError: 'tester/topics' on the Hub cannot be loaded", "'topic'"],
        ("tester/ragged", None, "hf_right"): ["ValueError: 'tester/ragged'", "Expected 2 fields in line 4, saw 4"],
        ("tester/missing", None, "hf_right"): ["OSError: `dataset` 'tester/missing' is no local", "doesn't exist on"],
        ("a misspelt folder", None, "hf_right"): ["OSError: `dataset` 'a misspelt folder' is no local"],
        ("tester/missing", None, "hf_wrong"): ["OSError: `dataset` 'tester/missing'", "Invalid credentials"],
    }
    results = run_on(hub.url, tmp_path_factory, "load", wanted=list(wanted))
    for (name, _, _), expected, result in zip(wanted, wanted.values(), results, strict=True):
        if isinstance(expected, str):
            assert result == describe(load_text_data(folder / expected)) | {"name": name, "is_on_hub": True}
        else:
            assert all(part in result for part in expected), result


def test_a_run_learns_from_the_hub_and_goes_there(
    hub: LoopbackHub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    output = str(tmp_path / "run")
    run_on(hub.url, tmp_path_factory, "finetune", dataset="tester/news", output=output, repo_id="tester/news-model")
    pushed = hub.files("tester/news-model")
    assert {"model.safetensors", "config.json", "tokenizer.json", "metrics.json", "modeling_wave.py"} <= set(pushed)
    assert not [name for name in pushed if "checkpoint" in name or name == "training_args.bin"]
    assert ModelCard(pushed["README.md"].decode()).data.datasets == ["tester/news"]
