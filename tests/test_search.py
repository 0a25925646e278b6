"""benchmarks/search.py: its cases are settings of `finetune`, and no run of it sees a test row."""

import itertools
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_runs import make_rows, write_csv
from transformers import HfArgumentParser

from wave_network import WaveConfig
from wave_network.benchmarks import few_rows, rivals, search, tables
from wave_network.training.recipes import DATA_SETS, RECIPES
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments, as_words


@pytest.mark.parametrize(
    ("kind", "data"),
    [*itertools.product(("search", "defaults"), search.CASES), *itertools.product(("folds",), search.FINALISTS)],
)
def test_every_case_is_a_setting_of_finetune_and_each_is_there_once(kind: str, data: str, tmp_path: Path):
    cases = search.list_cases(data, kind)
    assert data in DATA_SETS
    parser = HfArgumentParser([DataArguments, ModelArguments, RunArguments], allow_abbrev=False)
    seen = set()
    for _, settings in cases:
        seen.add(json.dumps(settings, sort_keys=True))
        words = as_words({"dataset": "texts", "output_dir": str(tmp_path), "use_cpu": True, **settings})
        parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    assert len(seen) == len(cases)


def test_a_run_is_given_the_training_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "trec6"
    folder.mkdir()
    for split in ("train", "test"):
        write_csv(folder / f"{split}.csv", make_rows(42, seed=0))
    given: list[dict[str, list[str]]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command[command.index("--conv_kernel_size") + 1] == "0"  # off, where a case does not have it
        assert "--model" not in command
        files = Path(command[command.index("--dataset") + 1]).iterdir()
        given.append({path.name: path.read_text().splitlines()[1:] for path in files})
        return SimpleNamespace(returncode=1, stderr="stopped here")

    monkeypatch.setattr(search.subprocess, "run", run)
    monkeypatch.setattr(search, "MOST_ROWS", 7)
    for kind, seed in (("search", 0), ("defaults", 0), *(("folds", fold) for fold in range(search.FOLDS))):
        with pytest.raises(ChildProcessError, match="stopped here"):
            search.run_case("trec6", {}, {}, seed, tmp_path, tmp_path, 1, kind)
    assert [{name: len(rows) for name, rows in files.items()} for files in given[:3]] == [
        {"train.csv": 42}, {"train.csv": 7}, {"train.csv": 33, "validation.csv": 9},
    ]  # fmt: skip
    # Each row is in one fold, and learned from in all others.
    folds = [files["validation.csv"] for files in given[2:]]
    assert Counter(itertools.chain(*folds)) == Counter(given[0]["train.csv"])
    assert all(
        Counter(files["train.csv"]) + Counter(fold) == Counter(given[0]["train.csv"])
        for files, fold in zip(given[2:], folds, strict=True)
    )


def test_few_rows_are_drawn_by_the_seed_and_tested_on_other_training_rows(tmp_path: Path):
    folder = tmp_path / "trec6"
    folder.mkdir()
    for split in ("train", "test"):
        write_csv(folder / f"{split}.csv", [{"text": f"{split} {number}", "label": "a"} for number in range(42)])
    drawn = []
    for seed in (0, 0, 1):
        with few_rows.draw_rows(DATA_SETS["trec6"], tmp_path, 12, seed) as texts:
            drawn.append({split: (texts / f"{split}.csv").read_text().splitlines()[1:] for split in ("train", "test")})
    assert drawn[0] == drawn[1] != drawn[2]
    for rows in drawn:
        assert len(rows["train"]) == 12
        assert sorted(rows["train"] + rows["test"]) == sorted(f"train {number},a" for number in range(42))


def test_the_table_of_few_rows_has_the_mean_over_seeds_and_no_mean_of_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    runs = [
        ("trec6", "--a 1", 0, 0.5),
        ("trec6", "--a 1", 1, 0.6),
        ("imdb", "--a 1", 0, 0.7),
        ("imdb", "--a 2", 0, 0.8),
    ]
    rows = [
        {"data": data, "training_rows": 300, "case": case, "seed": seed, "accuracy": accuracy}
        | {"device": "cpu", "date": "2026-11-28"}
        for data, case, seed, accuracy in runs
    ]
    monkeypatch.setattr(tables, "read", lambda name: rows if name == "few_rows.jsonl" else [])
    assert tables.few_rows_table().splitlines()[2:4] == [
        "| 300 | `--a 1` | 70.0 | 55.0 | 62.5 | 1 |",
        "| 300 | `--a 2` | 80.0 | - | - | 1 |",
    ]


def test_a_reproduced_table_names_what_had_other_rows_or_ran_elsewhere(monkeypatch: pytest.MonkeyPatch):
    result = {
        "data": "imdb",
        "about": "a model",
        "accuracy": {"mean": 0.9, "sd": None, "by_seed": {"0": 0.9}},
        "rows": {"train": 2450, "validation": 50, "test": 2500},
        "is_on_hub": False,
        "device": "cpu (a, 1 threads)",
        "parameters": 5,
        "core_parameters": None,
        "calibration": None,
        "runs": 1,
        "seconds": 1.0,
        "peak_memory_mib": None,
    }
    paper = {"rows": {"train": 2000, "validation": 500, "test": 2500}, "device": "cpu (a, 2 threads)"}
    measured = {
        name: result | changes | {"recipe": name}
        for name, changes in {"imdb-paper": paper, "imdb-small": {}, "imdb-svm": {}}.items()
    }
    monkeypatch.setattr(tables, "read_reproduced", lambda: measured)
    monkeypatch.setattr(tables, "mark_former", lambda row: "")
    assert tables.reproduced_table("imdb").splitlines()[-1] == (
        "2,450 + 50 rows to train and validate, 2,500 to test, from a local folder; cpu (a, 1 threads). "
        "`imdb-paper`: 2,000 + 500 rows to train and validate, 2,500 to test, from a local folder; cpu (a, 2 threads)."
    )


def test_a_case_goes_on_from_the_run_of_a_recipe_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sst2").mkdir()
    write_csv(tmp_path / "sst2" / "train.csv", make_rows(42, seed=0))
    commands: list[list[str]] = []
    monkeypatch.setattr(
        search.subprocess, "run",
        lambda command, **_: commands.append(command) or SimpleNamespace(returncode=1, stderr="stopped here"),
    )  # fmt: skip
    case, settings = next(each for each in search.list_cases("sst2") if "model" in each[0])
    with pytest.raises(ChildProcessError, match="stopped here"):
        search.run_case("sst2", case, settings, 3, tmp_path, tmp_path / "runs", 1)
    (command,) = commands
    assert command[command.index("--model") + 1] == str(tmp_path / "runs" / settings["model"] / "seed-3")
    words = [word.removeprefix("--") for word in command if word.startswith("--")]
    assert not [word for word in words if hasattr(WaveConfig, word)]  # the model has them


def test_the_table_compares_with_the_newest_base(monkeypatch: pytest.MonkeyPatch):
    def line(case: dict, settings: dict, accuracies: list[float]) -> dict:
        rows = {"train": 1000, "validation": 100}
        return {
            "data": "imdb", "case": case, "settings": settings, "rows": rows,
            "validation_accuracy_by_epoch": accuracies,
            "validation_nll": 0.3, "parameters": 1234, "device": "cpu",
        }  # fmt: skip

    old = line({}, {"hidden_size": 8, "ngram_vocab_size": 5}, [0.7, 0.6])
    new = line({}, {"hidden_size": 16}, [0.7, 0.8])
    other = line({"magnitude": "rms"}, {"hidden_size": 16, "magnitude": "rms"}, [0.85, 0.81])
    monkeypatch.setattr(tables, "read", lambda name: [old, new, other] if name == "search.jsonl" else [])
    lines = tables.search_table("imdb").splitlines()
    assert lines[2].startswith("| base | 80.00 | - | 80.00 | 0.300 | 2 | 1,234 | 1 |")
    assert lines[3].startswith("| `magnitude` rms | 85.00 | +5.00 | 81.00 |")
    assert lines[4].startswith("| `hidden_size` 8, `ngram_vocab_size` 5 | 70.00 | -10.00 | 60.00 |")


def test_a_case_is_shown_by_what_it_changes():
    base = {"hidden_size": 8, "num_train_epochs": 3}
    assert tables.show_case(base, base) == "base"
    assert tables.show_case({"num_train_epochs": 2}, base) == "`num_train_epochs` 2, no `hidden_size`"
    assert tables.show_case({"model": "other", "num_train_epochs": 3}, base) == "`model` other"


def test_a_recipe_that_has_other_settings_now_is_marked():
    recipe = RECIPES["trec6-small"]
    settings = {"model": dict(recipe.model), "training": dict(recipe.training), "rows": {"text_columns": ["text"]}}
    settings["rows"] |= recipe.rows
    assert tables.mark_former({"recipe": recipe.name, "settings": settings}) == ""
    for part, name in (("model", "hidden_size"), ("training", "num_train_epochs"), ("rows", "validation_fraction")):
        other = settings | {part: settings[part] | {name: 0.5}}
        assert tables.mark_former({"recipe": recipe.name, "settings": other}) == " (former settings)"
    assert tables.mark_former({"recipe": "trec6-gone", "settings": settings}) == " (former settings)"


def test_folds_are_compared_pair_by_pair(monkeypatch: pytest.MonkeyPatch):
    """The second case is ahead by 0.02 and 0.04: by 3 points, with a standard error of 1."""
    by_fold = {"l2": [0.70, 0.80], "rms": [0.72, 0.84]}
    rows = [
        {
            "data": "trec6",
            "settings": {"magnitude": name},
            "seed": fold,
            "validation_accuracy_by_epoch": [0.9, accuracy],
        }
        for name, accuracies in by_fold.items()
        for fold, accuracy in enumerate(accuracies)
    ]
    monkeypatch.setattr(tables, "read", lambda name: rows if name == "folds.jsonl" else [])
    assert tables.folds_table().splitlines()[2:] == [
        "| TREC-6 | `magnitude` l2 | 75.00 | - | 2 |",
        "| TREC-6 | `magnitude` rms | 78.00 | +3.00 ± 1.00 | 2 |",
    ]


def test_the_table_of_defaults_has_the_data_on_which_all_cases_were_tried(monkeypatch: pytest.MonkeyPatch):
    def line(data: str, case: dict, accuracy: float) -> dict:
        return {
            "data": data, "case": case, "settings": {"hidden_size": 8} | case, "rows": {"train": 1000},
            "validation_accuracy_by_epoch": [accuracy, 0.1], "validation_nll": 0.5,
        }  # fmt: skip

    wide = {"conv_kernel_size": 3}
    rows = [line("imdb", {}, 0.7), line("imdb", wide, 0.75), line("trec6", {}, 0.8), line("trec6", wide, 0.81)]
    rows.append(line("sst2", {}, 0.6))
    monkeypatch.setattr(tables, "read", lambda name: rows if name == "defaults.jsonl" else [])
    lines = tables.defaults_table().splitlines()
    assert lines[0] == "| beside the former defaults | IMDB | TREC-6 | mean | mean NLL | seeds |"
    assert lines[2] == "| nothing | 70.00 | 80.00 | 75.00 | 0.500 | 1 |"
    assert lines[3] == "| `conv_kernel_size` 3 | 75.00 | 81.00 | 78.00 | 0.500 | 1 |"


def test_a_stock_model_is_tried_on_training_rows_alone(tmp_path: Path):
    folder = tmp_path / "trec6"
    folder.mkdir()
    for split in ("train", "test"):
        write_csv(folder / f"{split}.csv", make_rows(60, seed=0))
    row = rivals.run_case("trec6", "fnet", 1e-3, tmp_path)
    assert row["rows"].keys() == {"train", "validation"}
    assert sum(row["rows"].values()) == 60
    assert 0 <= row["validation_accuracy"] <= 1
    assert 1 <= row["best_epoch"] <= RECIPES["trec6-fnet"].training["num_train_epochs"]


def test_the_table_of_stock_models_marks_the_best_rate(monkeypatch: pytest.MonkeyPatch):
    def make(rate: float, accuracy: float) -> dict:
        case = {"data": "trec6", "kind": "fnet", "learning_rate": rate}
        return case | {"validation_accuracy": accuracy, "rows": {"train": 90, "validation": 10}}

    rows = [make(1e-3, 0.9), make(5e-4, 0.95)]
    monkeypatch.setattr(tables, "read", lambda name: rows if name == "rivals.jsonl" else [])
    assert "| data | model | 0.0005 | 0.001 |" in tables.rivals_table()
    assert "| fnet | **95.00** | 90.00 | 90, 10 |" in tables.rivals_table()
