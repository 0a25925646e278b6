"""Data sets from a Hub over real HTTP, and a model that goes there and back: each step in a fresh process.

The functions under "Steps" run in those processes, the tests look at what they returned and at what the Hub holds.
"""

import csv
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fresh_process import run_step
from huggingface_hub import HfApi, ModelCard
from loopback_hub import LoopbackHub
from small_runs import WORDS, make_rows, small_words, write_csv, write_data

from wave_network.training.cli import main
from wave_network.training.data import TextData, load_text_data

# The order in which the data set declares them, which is not that of the alphabet.
TOPICS = list(WORDS)
ANSWERS = ["yes", "no"]


# Steps


def publish(folder: str) -> None:
    """Puts data on the Hub: CSV files, one that cannot be read, and Parquet with a card as datasets writes them."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    api = HfApi()
    for name in ("news", "ragged"):
        api.create_repo(name, repo_type="dataset")
        api.upload_folder(repo_id=f"tester/{name}", repo_type="dataset", folder_path=f"{folder}/{name}")
    for config, names in (("topic", TOPICS), ("is_sport", ANSWERS)):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        splits = {}
        for split in ("train", "test"):
            with open(f"{folder}/{config}/{split}.csv", encoding="utf-8", newline="") as file:
                splits[split] = Dataset.from_list(list(csv.DictReader(file))).cast(features)
        DatasetDict(splits).push_to_hub("tester/topics", config)


def load(wanted: list[tuple[str, str | None]], token: str) -> list[Any]:
    """Loads each data set in a configuration. An error is returned, so that the rest loads."""
    results: list[Any] = []
    with patch.dict(os.environ, HF_TOKEN=token), patch("time.sleep"):  # between the retries of huggingface_hub
        for name, config in wanted:
            try:
                results.append(describe(load_text_data(name, dataset_config=config)))
            except Exception as error:
                results.append(f"{type(error).__name__}: {error}")
    return results


def describe(data: TextData) -> dict[str, Any]:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "rows": {split: rows and rows.to_list() for split, rows in splits.items()},
        "label_names": data.label_names,
        "fingerprint": data.fingerprint,
        "name": data.name,
        "is_on_hub": data.is_on_hub,
    }


def finetune(dataset: str, output: str, repo_id: str) -> None:
    main(small_words(Path(dataset), Path(output), num_train_epochs=1, push_to_hub=True, hub_model_id=repo_id))


def predict(models: list[str], file: str) -> list[str]:
    contents = []
    for index, model in enumerate(models):
        main(["predict", model, "--file", file, "--output", f"{index}.csv"])
        contents.append(Path(f"{index}.csv").read_text(encoding="utf-8"))
    return contents


# Running the steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets as local files. Those with declared label names have them in a file."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("news", "ragged", "topic", "is_sport"):
        (folder / name).mkdir()
    write_data(folder / "news")
    (folder / "ragged" / "train.csv").write_text("text,label\na goal,sport\na bank,money\na, new, comet,space\n")
    write_data(folder / "topic")
    for split, count, seed in (("train", 60, 2), ("test", 20, 3)):
        rows = [row | {"label": ANSWERS[row["label"] != "sport"]} for row in make_rows(count, seed)]
        write_csv(folder / "is_sport" / f"{split}.csv", rows)
    for name, names in (("topic", TOPICS), ("is_sport", ANSWERS)):
        (folder / name / "classes.txt").write_text("\n".join(names))
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    with LoopbackHub(token="hf_right") as hub:
        run_on(hub.url, tmp_path_factory, "publish", folder=str(folder))
        yield hub


def run_on(url: str, tmp_path_factory: pytest.TempPathFactory, step: str, **arguments: Any) -> Any:
    home = tmp_path_factory.mktemp("home")
    return run_step(home, url, "test_hub_data", step, with_package=True, **arguments)


@pytest.fixture(scope="module")
def loaded(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str | None], Any]:
    wanted = [
        ("tester/news", None),
        ("tester/topics", "topic"),
        ("tester/topics", "is_sport"),
        ("tester/topics", None),
        ("tester/topics", "sport"),
        ("tester/ragged", None),
        ("tester/missing", None),
        ("missing", None),
        ("a misspelt folder", None),
    ]
    results = run_on(hub.url, tmp_path_factory, "load", wanted=wanted, token="hf_right")
    return dict(zip(wanted, results, strict=True))


@pytest.fixture(scope="module")
def run_folder(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "news-model"
    run_on(
        hub.url,
        tmp_path_factory,
        "finetune",
        dataset="tester/news",
        output=str(output),
        repo_id="tester/news-model",
    )
    return output


# Tests


@pytest.mark.parametrize(
    ("name", "config", "local", "label_names"),
    [
        ("tester/news", None, "news", sorted(TOPICS)),
        ("tester/topics", "topic", "topic", TOPICS),
        ("tester/topics", "is_sport", "is_sport", ANSWERS),
    ],
)
def test_a_data_set_on_the_hub_is_the_same_as_from_local_files(
    loaded: dict[tuple[str, str | None], Any],
    folder: Path,
    name: str,
    config: str | None,
    local: str,
    label_names: list[str],
):
    from_hub, from_files = loaded[name, config], describe(load_text_data(folder / local))
    assert from_hub["label_names"] == label_names
    assert from_hub == from_files | {"name": name, "is_on_hub": True}


@pytest.mark.parametrize("config", [None, "sport"])
def test_without_a_configuration_that_exists_the_choices_are_named(
    loaded: dict[tuple[str, str | None], Any], config: str | None
):
    error = loaded["tester/topics", config]
    assert error.startswith(
        f"ValueError: 'tester/topics' on the Hub cannot be loaded with `dataset_config` {config!r}: "
    )
    assert "'topic'" in error
    assert "'is_sport'" in error


def test_files_on_the_hub_that_cannot_be_read_are_said_with_the_reason(loaded: dict[tuple[str, str | None], Any]):
    error = loaded["tester/ragged", None]
    assert error.startswith("ValueError: 'tester/ragged' on the Hub cannot be loaded")
    assert "Expected 2 fields in line 4, saw 4" in error


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tester/missing", "Dataset 'tester/missing' doesn't exist on the Hub"),
        ("missing", "Dataset 'missing' doesn't exist on the Hub"),
        ("a misspelt folder", "Repo id must"),
    ],
)
def test_a_data_set_that_is_missing_is_said_by_its_name(
    loaded: dict[tuple[str, str | None], Any], name: str, reason: str
):
    error = loaded[name, None]
    assert error.startswith("OSError: `dataset` must be a built-in name")
    assert f"{name!r} is not local, and: {reason}" in error


def test_a_refused_token_is_said_with_the_name_of_the_data_set(
    hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory
):
    (error,) = run_on(hub.url, tmp_path_factory, "load", wanted=[("tester/news", None)], token="hf_wrong")
    assert error.startswith("OSError: `dataset` must be a built-in name")
    assert "'tester/news' is not local, and: " in error
    assert "Invalid credentials" in error


def test_a_hub_that_is_down_is_said_with_the_name_of_the_data_set(tmp_path_factory: pytest.TempPathFactory):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    (error,) = run_on(url, tmp_path_factory, "load", wanted=[("tester/news", None)], token="hf_right")
    assert error.startswith("OSError: `dataset` must be a built-in name")
    assert "'tester/news' is not local, and: Couldn't reach 'tester/news' on the Hub" in error


def test_the_card_of_a_model_names_the_data_set_on_the_hub(hub: LoopbackHub, run_folder: Path):
    pushed = hub.files("tester/news-model")
    card = ModelCard(pushed["README.md"].decode())
    assert card.data.datasets == ["tester/news"]
    assert "(https://huggingface.co/datasets/tester/news)" in card.text


def test_a_model_pushed_by_the_command_predicts_the_same_from_the_hub(
    hub: LoopbackHub, run_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    texts = write_csv(tmp_path / "texts.csv", [{"text": row["text"]} for row in make_rows(30, seed=4)])
    from_hub, from_folder = run_on(
        hub.url, tmp_path_factory, "predict", models=["tester/news-model", str(run_folder)], file=str(texts)
    )
    assert from_hub == from_folder
    rows = list(csv.DictReader(from_hub.splitlines()))
    assert len(rows) == 30
    assert {row["label"] for row in rows} <= set(TOPICS)
