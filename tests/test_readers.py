"""The kinds of files, frames and cells that people have: what is read of them, and what is refused in a line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import struct
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import example, given
from hypothesis import strategies as st
from small_runs import make_rows, write_csv

from wave_network.data.load import TextData, load_text_data, read_texts
from wave_network.data.read import COMPRESSIONS, find_legacy_encoding

ROWS = [row | {"text": f"{row['text']} {index}"} for index, row in enumerate(make_rows(60, seed=0))]
TEXTS = [row["text"] for row in ROWS]
NAMES = ["money", "space", "sport"]
FRAME = pd.DataFrame(ROWS)


def write_table(path: Path, rows: list[dict[str, Any]], header: bool = True, **settings: Any) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False, header=header, **settings)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(data: TextData) -> set[tuple[str, Any]]:
    splits = [data.train, data.validation]
    names = data.label_names
    return {(row["text"], names[row["label"]] if data.task == "single" else row["label"]) for s in splits for row in s}


def read_all(path: Path | str, **settings: Any) -> list[str]:
    return [row["text"] for batch in read_texts(path, **settings) for row in batch]


EXPECTED = {(row["text"], row["label"]) for row in ROWS}


# Files


def compress(content: bytes, ending: str) -> bytes:
    if ending == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data/a.csv", content)
            archive.writestr("__MACOSX/._a.csv", b"of another system")
        return buffer.getvalue()
    if ending == ".zst":
        return pa.compress(content, codec="zstd", asbytes=True)
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending](content)


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_files_are_read_and_cut_ones_refused(tmp_path: Path, ending: str):
    content = compress(FRAME.to_csv(index=False).encode(), ending)
    path = tmp_path / ("a.zip" if ending == ".zip" else f"a.csv{ending}")
    path.write_bytes(content)
    assert read_rows(load_text_data(path)) == EXPECTED
    assert read_all(path) == TEXTS
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"The file .*a\.(csv|zip).* cannot be read"):
        read_all(path)


def test_a_zip_file_of_several_files_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "text\n")
        archive.writestr("b.csv", "text\n")
    with pytest.raises(ValueError, match=r"must hold one file, got 2: \['a.csv', 'b.csv'\]"):
        load_text_data(tmp_path / "a.zip")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.xlsx": lambda path: FRAME.to_excel(path, index=False),
    "a.feather": FRAME.to_feather,
    "a.parquet": FRAME.to_parquet,
    "a.arrow": lambda path: Dataset.from_list(ROWS).save_to_disk(str(path.with_name("disk"))),
    "a.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "a.ft.txt": lambda path: path.write_text("".join(f"__label__{row['label']} {row['text']}\n" for row in ROWS)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_kinds_of_files(tmp_path: Path, name: str):
    WRITERS[name](tmp_path / name)
    path = next((tmp_path / "disk").glob("*.arrow")) if name == "a.arrow" else tmp_path / name
    assert read_rows(load_text_data(path)) == EXPECTED
    assert read_all(path, text_columns=["text"], batch_size=7) == TEXTS


def test_excel_files_without_a_header_and_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.xlsx"
    FRAME.to_excel(path, index=False, header=False)
    with pytest.raises(ValueError, match=r"Line 1 of .*a.xlsx"):
        load_text_data(path)
    assert read_rows(load_text_data(path, no_header=True)) == EXPECTED
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ValueError, match="openpyxl"):
        load_text_data(path, no_header=True)


def test_excel_files_of_other_programs(tmp_path: Path):
    """A wrong dimension, empty rows, a note beside the table, and a formula whose value was never computed."""
    book = openpyxl.Workbook()
    rows = [[], ["text", "label", "sum"], ["one", "x", "=1+1"], [], [None, "y"], ["last", None, None, "a note"], []]
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "right.xlsx")
    with zipfile.ZipFile(tmp_path / "right.xlsx") as old, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as new:
        for name in old.namelist():
            new.writestr(name, re.sub(b'<dimension ref=".*?"', b'<dimension ref="A1"', old.read(name)))
    assert read_all(tmp_path / "a.xlsx") == ["one", "", "", "last"]
    with pytest.raises(ValueError, match=r"got .'formula without a value': '=1.1'. in row 1 of"):
        read_all(tmp_path / "a.xlsx", text_columns=["sum"])


@pytest.mark.parametrize("pattern", ["{split}/{label}/{index}.txt", "{label}/{index}.txt"])
def test_folders_of_classes(tmp_path: Path, pattern: str, caplog: pytest.LogCaptureFixture):
    more = [{"text": "d\xe9j\xe0 vu", "label": "sport"}, {"text": "none", "label": "unsup"}]
    for index, row in enumerate(ROWS + more):
        for split in ("train", "test"):
            path = tmp_path / pattern.format(split=split, index=index, **row)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["text"].encode("cp1252"))
    (tmp_path / "readme.txt").write_text("about these data")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "1.txt").write_text("of another program")
    if "split" in pattern:
        __import__("shutil").rmtree(tmp_path / "test" / "unsup")
    data = load_text_data(tmp_path)
    assert read_rows(data) == EXPECTED | {("d\xe9j\xe0 vu", "sport")}
    assert (len(data.test) if data.test else None) == (61 if "split" in pattern else None)
    assert "Dropped 1 of 62 training rows: they have no label." in caplog.text
    assert "is read as cp1252" in caplog.text


def test_several_files_and_what_predict_left_beside_them(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("train.csv", "other.csv", "test.csv", "test.csv.predictions.csv", "zipped.zip"):
        write_table(tmp_path / name, ROWS if name == "train.csv" else ROWS[:9], compression=None)
    data = load_text_data(tmp_path)
    assert (len(data.train) + len(data.validation), data.test and len(data.test)) == (60, 9)
    assert "The splits ['other', 'zipped'] of" in caplog.text
    files = {"train_file": tmp_path / "train.csv", "validation_file": tmp_path / "other.csv"}
    data = load_text_data(**files, test_file=tmp_path / "test.csv")
    assert data.name == "train.csv"
    assert [len(split or ()) for split in (data.train, data.validation, data.test)] == [60, 9, 9]
    assert len(load_text_data(tmp_path / "train.csv", validation_file=tmp_path / "other.csv").validation) == 9
    for arguments in ({}, files | {"dataset": tmp_path}):
        with pytest.raises(ValueError, match="One of `dataset` and `train_file` must be given"):
            load_text_data(**arguments)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_on_the_web_leave_nothing_behind(tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    write_table(tmp_path / "a.csv", ROWS)
    data = load_text_data(f"{site}/a.csv?raw=1")
    assert (read_rows(data), data.is_on_hub) == (EXPECTED, False)
    assert read_all(f"{site}/a.csv") == TEXTS
    with pytest.raises(OSError, match=r"absent.csv' cannot be downloaded: HTTP Error 404"):
        load_text_data(f"{site}/absent.csv")
    assert not any((tmp_path / "temporary").iterdir())


# Frames


@pytest.mark.parametrize(
    "make",
    [
        lambda: FRAME,
        lambda: pa.Table.from_pandas(FRAME),
        lambda: Dataset.from_list(ROWS),
        lambda: DatasetDict(train=Dataset.from_list(ROWS)),
        lambda: {"train": FRAME},
        lambda: ROWS,
        lambda: (TEXTS, FRAME["label"].tolist()),
        lambda: FRAME.to_dict("list"),
    ],
)
def test_objects_of_python(make: Callable[[], Any]):
    data = load_text_data(make())
    assert read_rows(data) == EXPECTED
    assert (data.is_on_hub, data.text_columns, data.label_column) == (False, ["text"], "label")


def test_gaps_and_other_columns_of_frames(caplog: pytest.LogCaptureFixture):
    frame = FRAME.assign(label=[None, *[index % 2 for index in range(59)]], mixed=[1, "a", [2]] * 20, empty=None)
    data = load_text_data(frame.rename(columns={"mixed": 7}))
    assert (data.label_names, len(data.train) + len(data.validation)) == (["0", "1"], 59)
    for wrong in (42, ["a", "b"], {"text": ["a"], "label": []}, {"train": 1}):
        with pytest.raises(ValueError, match="`dataset` must be a name or a DataFrame"):
            load_text_data(wrong)


# Encodings, delimiters, headers

GERMAN = [
    "Sch\xf6ne Gr\xfc\xdfe, das Ger\xe4t ist gut",
    "F\xfcr den Preis v\xf6llig \xfcberteuert",
    "Caf\xe9 \xe0 la carte, sehr gut",
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encodings_and_delimiters_are_found(
    tmp_path: Path, encoding: str, delimiter: str, caplog: pytest.LogCaptureFixture
):
    texts = [f"{GERMAN[index % 3]} {index}" for index in range(30)]
    rows = [
        {"Bewertung": text, "Note": str(index % 2), "Datum": "2024-01-01", "Preis": f"{index},5"}
        for index, text in enumerate(texts)
    ]
    path = write_table(tmp_path / "a.csv", rows, sep=delimiter, encoding=encoding)
    data = load_text_data(path)
    assert (data.text_columns, data.label_column) == (["Bewertung"], "Note")
    assert read_rows(data) == {(row["Bewertung"], row["Note"]) for row in rows}
    assert ("is read as cp1252" in caplog.text) == (encoding == "cp1252")
    assert read_all(path, encoding=encoding, delimiter=delimiter, text_columns=["Bewertung"])[1] == f"{GERMAN[1]} 1"


LEGACY_TEXTS = {  # French, Polish, Japanese, Chinese
    "cp1252": "Tr\xe8s bon produit, je suis d\xe9\xe7u par la livraison",
    "cp1250": "Bardzo dobry produkt, polecam ka\u017cdemu, \u017ale dzia\u0142a, zwr\xf3ci\u0142em",
    "cp932": "\u3068\u3066\u3082\u826f\u3044\u5546\u54c1\u3067\u3059\u3059\u3081\u3057\u307e\u3059",
    "gb18030": "\u975e\u5e38\u597d\u7684\u4ea7\u54c1\uff0c\u63a8\u8350\u7ed9\u5927\u5bb6\uff0c\u8d28\u91cf",
}


@pytest.mark.parametrize("encoding", LEGACY_TEXTS)
def test_legacy_encodings(encoding: str):
    assert find_legacy_encoding(LEGACY_TEXTS[encoding].encode(encoding), "a.csv") == encoding


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good,0\nbad,1\ngood,0\n", "Line 1 of .*but 'good' may be data: set `no_header`"),
        (b"a text of words,x\nanother one,y\n", "Line 1 of .*may be data"),
        (b"3,a b\n4,c d\n", "Line 1 of .*but '3' may be data"),
        (b"great\nbad\n", "Line 1 of .*but 'great' may be data"),
        (b"text,label,label\na,b,c\n", "Line 1 of .*'label' stands there twice"),
        (b"text;x,label\na;b,c\nd;e,f\n", "may be one of .*set `delimiter`"),
        (b"text,label\nhello, world,1\nbye,0\n", "up to line 2: 3 fields where the first row has 2.*`delimiter`"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n", "is a Git LFS pointer"),
        (b"\n <!DOCTYPE html>\n<html>", "is a web page, not data"),
        (b"", "at least one row"),
        (b"\n\r\n", "at least one row"),
        (b"PK\x03\x04\x00\x00\xff\xfe" * 9, "is no text file"),
        ("text,label\ncaf\xe9,1\nna\xefve,2\n".encode() + b"d\xe9j\xe0,3\n", "Line 4 of .*is not UTF-8, as others are"),
    ],
)
def test_files_that_would_need_a_guess_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for read in (load_text_data, read_all):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert "a.csv" in str(error.value)


def test_files_without_a_header(tmp_path: Path):
    path = write_table(tmp_path / "a.csv", ROWS, header=False)
    data = load_text_data(path, no_header=True)
    assert (data.text_columns, data.label_column, read_rows(data)) == (["column_1"], "column_2", EXPECTED)
    assert read_all(path, no_header=True, text_columns=["column_1"]) == TEXTS
    (tmp_path / "b.csv").write_text("".join(f"{text}\n" for text in TEXTS))
    assert read_all(tmp_path / "b.csv", no_header=True, text_columns=["text"]) == TEXTS


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b",text,label,,\n0,a,1,,\n1,b,0,,\n", ["a", "b"]),
        (b"text,label\ra,1\rb,0\r", ["a", "b"]),
        (b'\xef\xbb\xbftext\r\n"a, ""b""\r\nc"\r\n', ['a, "b"\r\nc']),
        (b"Text\nNA\n\nnull\n", ["NA", "null"]),
    ],
)
def test_files_of_other_programs(tmp_path: Path, content: bytes, texts: list[str]):
    (tmp_path / "a.csv").write_bytes(content)
    assert read_all(tmp_path / "a.csv") == texts


def test_an_unknown_encoding_or_delimiter_is_refused(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", ROWS)
    for arguments in ({"encoding": "utf-99"}, {"encoding": "base64"}, {"delimiter": ";;"}):
        with pytest.raises(ValueError, match="cannot be read"):
            read_all(path, **arguments)


# Columns


def test_nested_json_and_columns_that_nobody_uses(tmp_path: Path):
    mixed = [1, "a", None, {"x": [1]}, [], {"y": {"z": 2}}]
    others = [{"": value, "\ud800": 0} for value in mixed * 10]
    rows = [
        {"ticket": {"body": row["text"], "id": 7}, "kind": {"name": row["label"]}} | other
        for row, other in zip(ROWS, others, strict=True)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    settings = {"text_columns": ["ticket.body"], "label_column": "kind.name"}
    assert read_rows(load_text_data(path, **settings)) == EXPECTED
    assert read_rows(load_text_data(rows, **settings)) == EXPECTED
    assert read_all(path, text_columns=["ticket.body"]) == TEXTS


def test_predict_reads_the_column_that_was_trained_or_stops(tmp_path: Path):
    path = write_table(
        tmp_path / "a.csv", [{"text": "noise", "summary": text, "id": index} for index, text in enumerate(TEXTS)]
    )
    assert read_all(path, text_columns=["summary"]) == TEXTS
    with pytest.raises(ValueError, match=r"`text_columns` must be among the columns .*got 'body'"):
        read_all(path, text_columns=["body"])
    kept = next(iter(read_texts(path, text_columns=["summary"], keep=["id", "text"])))
    assert kept[1] == {"text": TEXTS[1], "kept": {"id": "1", "text": "noise"}}
    write_table(tmp_path / "one.csv", [{"message": text} for text in TEXTS])
    assert read_all(tmp_path / "one.csv", text_columns=["summary"]) == TEXTS
    with pytest.raises(ValueError, match="must be among"):
        read_all(tmp_path / "one.csv", text_columns=["premise", "hypothesis"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": "a b", "label": "x"}, {"text": 7, "label": "y"}],
            "'text' must hold strings of Unicode, got 7 in row 2 of",
        ),
        ([{"text": "a \ud83d", "label": "x"}], "must hold strings of Unicode, got .* in row 1 of"),
        (
            [{"text": "a", "label": "x"}, {"text": "b", "label": 1}],
            "numbers, strings or lists, one kind, got 1 in row 2",
        ),
        ([{"text": "a", "label": ["x"]}, {"text": "b", "label": "x"}], "one kind, got 'x' in row 2"),
        ([{"text": "a", "label": [["x"]]}], "must hold numbers, strings or lists"),
    ],
)
def test_columns_of_mixed_kinds_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str):
    for data in (write_jsonl(tmp_path / "a.jsonl", rows), rows):
        with pytest.raises(ValueError, match=message):
            load_text_data(data)


# Tasks


def load_labels(labels: list[Any], **settings: Any) -> TextData:
    return load_text_data({"text": TEXTS, "label": [labels[index % len(labels)] for index in range(60)]}, **settings)


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        ([["a"], ["b", "a"], []], {}),
        (["a", "b; a;;", ""], {"label_separator": ";"}),
        (["['a']", "['b', 'a']", "[]"], {}),
        ([["a"], ["b", "b", "a"], None], {"label_separator": "|"}),
    ],
)
def test_several_labels_a_row(labels: list[Any], settings: dict[str, Any]):
    data = load_labels(labels, **settings)
    rows = {row["text"]: row["label"] for split in (data.train, data.validation) for row in split}
    assert (data.task, data.label_names) == ("multi", ["a", "b"])
    expected = [rows[text] for text in TEXTS[: 2 if labels[2] is None else 3]]
    assert expected == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]][: len(expected)]


def test_labels_as_flags_and_indices(tmp_path: Path):
    flags = [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
    texts = {"text": TEXTS}
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["x", "y", "z"]))})
    indices = [[i for i, flag in enumerate(row) if flag] for row in flags]
    columns = {name: [row[index] for row in flags] * 20 for index, name in enumerate("xyz")}
    for data in (
        load_text_data(texts | columns, label_column=["x", "y", "z"]),
        load_text_data(Dataset.from_dict(texts | {"labels": indices * 20}, features=features)),
    ):
        assert (data.task, data.label_names) == ("multi", ["x", "y", "z"])
        rows = {row["text"]: row["label"] for split in (data.train, data.validation) for row in split}
        assert [rows[text] for text in TEXTS] == flags * 20
    assert load_labels([str(row) for row in flags]).label_names == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"must hold 0 or 1, got .* in row 3 of"):
        load_text_data(texts | columns | {"x": [0, 1, 2] * 20}, label_column=["x", "y"])


def test_numbers(tmp_path: Path):
    data = load_labels([index / 7 for index in range(30)])
    assert (data.task, data.label_names, data.train["label"][:2]) == ("number", [], [0.0, pytest.approx(1 / 7)])
    assert load_labels([1, 2, 3], task="number").task == "number"
    assert load_labels(["0.5", "1.5"], task="single").label_names == ["0.5", "1.5"]


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (["a;b", "a", "b", "c;a", "c"], {}, "look like several labels each: set `label_separator` to ';'"),
        (["a, b", "a", "b"], {"task": "number"}, "must be numbers such as 3.5 .*got 'a, b' in row 1"),
        (["3,5", "2,5"], {"task": "number"}, "must be numbers such as 3.5"),
        (["['a' 'b']", "['b']"], {}, "must be a list such as .*`label_separator`.*in row 1"),
        (["[a]", "[b]"], {}, "must be a list such as"),
        ([0.5, 1.5], {}, "set `task` to 'number' or 'single'"),
        ([["a", "b"], ["b"]], {"task": "single"}, "`task` 'multi' is for lists.*got 'single'"),
        (["a", "b"], {"task": "multi"}, "`task` 'multi' is for lists"),
        (["a", "b"], {"task": "regression"}, "`task` must be one of"),
        (["a", "b"], {"task": "single", "label_separator": ";"}, "`label_separator` .* is for several labels"),
        ([1, 1], {"task": "number"}, "two different numbers"),
    ],
)
def test_labels_of_no_task_are_refused(labels: list[Any], settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        load_labels(labels, **settings)


def test_labels_that_look_joined_but_are_paths_are_classes():
    assert load_labels(["Home|Garden", "Home|Kitchen", "Sport|Ball"]).task == "single"
    assert load_labels(["a;b", "a", "b", "c;a"], task="single").label_names == ["a", "a;b", "b", "c;a"]


@pytest.mark.parametrize(
    ("labels", "names", "line"),
    [
        (["a", "A ", "b"], ["A", "a", "b"], "differ by case or spaces alone are different classes: [['A', 'a']]"),
        ([-1, 0, 1], ["-1", "0", "1"], "The label -1 is a class like the others."),
        (["", "a", "b"], ["a", "b"], "Dropped 20 of 60 training rows: they have no label."),
    ],
)
def test_labels_that_may_be_wrong_are_told(labels: list, names: list, line: str, caplog: pytest.LogCaptureFixture):
    assert load_labels(labels).label_names == names
    assert line in caplog.text


def test_rows_of_a_class_label_without_a_label_are_dropped(caplog: pytest.LogCaptureFixture):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = load_text_data(Dataset.from_dict({"text": TEXTS, "label": [-1, 0, 1] * 20}, features=features))
    assert (data.label_names, len(data.train) + len(data.validation)) == (["no", "yes"], 40)
    assert "Dropped 20 of 60 training rows: they have no label." in caplog.text


# The cut


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "a b", "a  b", " c", "c", *"defghij"]), st.integers(0, 2)), min_size=6
    ),
    seed=st.integers(0, 3),
    several=st.booleans(),
)
def test_no_text_is_on_both_sides_of_the_cut_and_all_labels_are_trained(rows: list, seed: int, several: bool):
    labels = [[str(label), "all"] if several else label for _, label in rows]
    try:
        data = load_text_data(([text for text, _ in rows], labels), validation_fraction=0.3, seed=seed)
    except ValueError as error:
        if not re.search("two rows of different texts|at least two classes", str(error)):
            raise
        return
    trained, validated = ([" ".join(text.split()) for text in split["text"]] for split in (data.train, data.validation))
    assert not set(trained) & set(validated)
    assert len(trained) + len(validated) == len(rows)
    assert validated


def test_hundreds_of_classes_of_two_rows(caplog: pytest.LogCaptureFixture):
    texts = [f"text {index}" for index in range(600)]
    data = load_text_data((texts, [f"class {index // 2}" for index in range(600)]))
    assert (len(data.train), len(data.validation)) == (300, 300)
    assert "300 of 600 rows are validated on, since each class has one." in caplog.text


# Anything at all

CELLS = st.text(
    st.sampled_from([*",;\t|\"'\r\n=_x0", "\u2028", "\ufeff", "\x85", "\x1c"])
    | st.characters(codec="utf-8", exclude_characters="\x00"),
    max_size=12,
)
# What XML holds; formulas are told apart below.
EXCEL = CELLS.map(lambda text: re.sub("[\x00-\x08\x0b-\x1f\ufffe\uffff]", " ", text).lstrip("="))
FRAMES: dict[str, Callable[[pd.DataFrame, Any], Any]] = {
    "parquet": pd.DataFrame.to_parquet,
    "feather": pd.DataFrame.to_feather,
    "xlsx": lambda frame, file: frame.to_excel(file, index=False),
    "json": lambda frame, file: file.write(json.dumps(frame.to_dict("records"), ensure_ascii=False).encode()),
    "jsonl": lambda frame, file: file.writelines(
        f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in frame.to_dict("records")
    ),
    "txt": lambda frame, file: file.write("\n".join(frame["text"]).encode()),
    "csv": lambda frame, file: file.write(frame.to_csv(index=False).encode()),
    "tsv": lambda frame, file: file.write(frame.to_csv(index=False, sep="\t").encode()),
}


def write_frame(rows: list[dict[str, Any]], kind: str) -> bytes:
    FRAMES[kind](pd.DataFrame(rows), file := io.BytesIO())
    return file.getvalue()


@given(texts=st.lists(CELLS, min_size=1, max_size=8), kind=st.sampled_from(["jsonl", "json", "parquet", "feather"]))
def test_what_is_written_is_read(tmp_path: Path, texts: list[str], kind: str):
    (tmp_path / f"a.{kind}").write_bytes(write_frame([{"text": text, "id": 0} for text in texts], kind))
    assert read_all(tmp_path / f"a.{kind}", batch_size=3) == texts


@given(texts=st.lists(EXCEL, min_size=1, max_size=8))
def test_what_is_written_to_excel_is_read(tmp_path: Path, texts: list[str]):
    (tmp_path / "a.xlsx").write_bytes(write_frame([{"text": text, "id": 0} for text in texts], "xlsx"))
    assert read_all(tmp_path / "a.xlsx", batch_size=3) == texts


@given(
    texts=st.lists(CELLS, min_size=1, max_size=8),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
@example(texts=["a\rb", "c"], encoding="utf-8", delimiter=",", end="\n", quoting=csv.QUOTE_MINIMAL)
@example(texts=["a\nb", "c"], encoding="utf-8", delimiter=",", end="\r", quoting=csv.QUOTE_MINIMAL)
def test_what_is_written_to_csv_is_read(
    tmp_path: Path, texts: list[str], encoding: str, delimiter: str, end: str, quoting: Any
):
    with (tmp_path / "a.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerows([["text", "id"], *([text, index] for index, text in enumerate(texts))])
    settings = {"delimiter": delimiter} if quoting == csv.QUOTE_MINIMAL else {}  # else it may be one of several
    assert read_all(tmp_path / "a.csv", batch_size=3, **settings) == texts


SHORT = [row | {"text": row["text"][:20]} for row in ROWS[:9]]
SCRAPS = [b"text,label\n", b'"', b",", b"\n", b"\r", b"\xe9", b"\xff\xfe", b"\x00", b"{", b"[", b'"text":', b"PAR1"]
SCRAPS += [b"\xff\xff\xff\x7f", b"\\ud800", b"1e999", b"NaN", b"9" * 5000]
WHOLE = {kind: write_frame(SHORT, kind) for kind in FRAMES} | {
    (ending if ending == ".zip" else f"csv{ending}").lstrip("."): compress(write_frame(SHORT, "csv"), ending)
    for ending in COMPRESSIONS
}


def damage(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Puts scraps in places, in the stead of so many bytes."""
    for place, count, scrap in changes:
        start = int(place * len(content))
        content = content[:start] + scrap + content[start + count :]
    return content


# A damaged file of Arrow had ended the process: where a text ends was read from it.
TABLE, ARROW = pa.table({"text": pa.array(["a " * 500, "b", "c"], pa.string()), "label": ["x", "y", "x"]}), io.BytesIO()
with pa.ipc.new_file(ARROW, TABLE.schema) as writer:
    writer.write_table(TABLE)
PAST_ITS_END = ARROW.getvalue().replace(struct.pack("<3i", 0, 1000, 1001), struct.pack("<3i", 0, 9, 2**30))


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from([0, 1, 4, 20, 10**6]), st.sampled_from(SCRAPS) | st.binary(max_size=4)
        ),
        max_size=5,
    ),
    is_new=st.booleans(),
)
@example(kind="feather", changes=[(0.0, 0, PAST_ITS_END)], is_new=True)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, kind: str, changes: list, is_new: bool):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(damage(b"" if is_new else WHOLE[kind], changes))
    refusals = []
    for read in (load_text_data, read_all):
        try:
            read(path)
        except ValueError as error:
            refusals.append(str(error))
    assert not [line for line in refusals if "\n" in line or len(line) > 1000]


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label", "a.b"]), inner),
        max_leaves=8,
    ),
    label=st.lists(
        st.none() | st.integers(-1, 2) | st.sampled_from(["a", "b;c", "0.5", "[1]", ""]), min_size=1, max_size=4
    ),
)
def test_any_values_are_read_or_refused_in_one_line(tmp_path: Path, value: Any, label: list[Any]):
    refusals = []
    rows = [{"text": f"text {index}", "other": value, "label": label[index % len(label)]} for index in range(6)]
    for data in (rows, [*rows, {"text": value, "label": value}], value, write_jsonl(tmp_path / "a.jsonl", rows)):
        if isinstance(data, str):
            continue
        try:
            load_text_data(data)
        except ValueError as error:
            refusals.append(str(error))
    assert not [line for line in refusals if "\n" in line]
