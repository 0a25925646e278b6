"""Which training rows become the validation split: random ones, the newest, or whole texts and none of their parts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import write_csv

from wave_network.training.cuts import cut_newest, cut_whole_texts
from wave_network.training.data import load_text_data

# Sentences of 8 words and more with their phrases, as in SST-2. "a dull plot" is in two sentences.
SENTENCES = {
    "the actors play well in spite of a dull plot": ["the actors play well", "in spite of a dull plot", "a dull plot"],
    "what remains is a dull plot without an end": ["what remains", "a dull plot", "without an end"],
    "a warm and funny film for the whole family": ["a warm and funny film", "warm and funny", "the whole family"],
    "nobody in this room has laughed a single time": ["nobody in this room", "laughed a single time"],
}


def phrases() -> tuple[list[str], list[int]]:
    rows = [(text, label % 2) for label, (whole, parts) in enumerate(SENTENCES.items()) for text in (whole, *parts)]
    return [text for text, _ in rows], [label for _, label in rows]


def contains(text: str, part: str) -> bool:
    return f" {' '.join(part.split())} " in f" {' '.join(text.split())} "


def test_the_newest_rows_of_each_class_are_cut():
    labels = ["a", "b", "a", "b", "a", "b", "a", "c"]
    assert cut_newest(labels, [10, 9, 40, 7, 20, 8, 30, 99], 0.5) == ([0, 3, 4, 7], [1, 2, 5, 6])


@pytest.mark.parametrize("seed", range(6))
def test_no_part_of_a_text_that_is_validated_on_alone_is_trained_on(seed: int):
    texts, labels = phrases()
    kept, cut = cut_whole_texts(texts, labels, 0.5, seed)
    assert len(cut) == 2  # one sentence of each class
    assert {labels[index] for index in cut} == {0, 1}
    held_out = {texts[index] for index in cut}
    assert held_out <= set(SENTENCES)
    for index, text in enumerate(texts):
        is_elsewhere = any(contains(sentence, text) for sentence in set(SENTENCES) - held_out)
        assert (index in kept) == (text not in held_out and is_elsewhere), text


def test_spaces_do_not_hide_a_part_and_half_words_are_none():
    texts = ["one two three four five six seven eight", " two  three ", "eight", "our", "a b c d e f g h i"]
    texts += ["one two three four five six seven eight "]  # the same text once more
    kept, cut = cut_whole_texts(texts, [0, 0, 0, 0, 1, 0], 0.9, seed=0)
    # Of class 0 the only whole text of 8 words stands in two rows, one of which is kept by `cut_rows`: both go.
    assert cut == [0, 5]
    assert kept == [3, 4]


def test_short_texts_alone_cannot_be_cut():
    with pytest.raises(ValueError, match=r"whole_texts.*8 words or more"):
        cut_whole_texts(["a b", "c d e"], [0, 1], 0.5, seed=0)


def write_split(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    write_csv(folder / f"{split}.csv", rows)
    return folder


def test_a_data_set_is_cut_by_its_order_column_which_is_neither_text_nor_label(tmp_path: Path):
    rows = [{"id": 1000 - index, "text": f"text {index}", "label": index % 2} for index in range(20)]
    data = load_text_data(write_split(tmp_path, rows), validation_cut="newest", order_column="id")
    assert data.validation["text"] == ["text 0", "text 1"]
    assert data.text_columns == ["text"]
    assert data.train.column_names == ["text", "label"]
    # Numbers are no words: 1000 comes after 999.
    dates = [row | {"id": f"2026-01-{1 + index:02}"} for index, row in enumerate(rows)]
    data = load_text_data(write_split(tmp_path, dates), validation_cut="newest", order_column="id")
    assert data.validation["text"] == ["text 18", "text 19"]


def test_a_validation_split_can_be_the_test_and_another_is_cut(tmp_path: Path):
    texts, labels = phrases()
    rows = [{"sentence": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    write_split(tmp_path, rows)
    write_split(tmp_path, rows[:3], "validation")
    settings = {"test_split": "validation", "validation_cut": "whole_texts", "validation_fraction": 0.5}
    data = load_text_data(tmp_path, **settings)
    assert data.test is not None
    assert len(data.test) == 3
    assert data.validation_was_split
    assert not any(contains(text, part) for text in data.validation["text"] for part in data.train["text"][:1])
    assert not set(data.validation["text"]) & set(data.train["text"])


def test_a_class_that_would_not_be_trained_on_is_named(tmp_path: Path):
    def text(word: str) -> str:
        return " ".join([word] * 9)

    rows = [{"text": text("bad"), "label": "bad"}] * 2 + [{"text": text(f"w{i}"), "label": "good"} for i in range(20)]
    with pytest.raises(
        ValueError, match=r"labels of the validation split must occur in the training rows, got \['bad'\]"
    ):
        load_text_data(write_split(tmp_path, rows), validation_cut="whole_texts")


def test_more_validation_than_was_asked_for_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"text": f"text {index}", "label": f"class {index // 2}"} for index in range(40)]
    assert len(load_text_data(write_split(tmp_path, rows)).validation) == 20
    assert "Validation has 20 of 40 rows, more than `validation_fraction` (0.1)" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_cut": "oldest"}, "`validation_cut` must be one of ['random', 'newest', 'whole_texts'], got"),
        ({"validation_cut": "newest"}, "`order_column` is for `validation_cut` 'newest', which needs it; got None"),
        ({"order_column": "id"}, "got 'id' with 'random'"),
        ({"validation_cut": "newest", "order_column": "when"}, "`order_column` must be among the columns"),
        ({"validation_cut": "newest", "order_column": "label", "label_column": "label"}, "neither a text column nor"),
        ({"validation_cut": "newest", "order_column": "id"}, "must hold a value in every row, got none in row 3"),
        ({"validation_cut": "whole_texts", "text_columns": ["text", "id"]}, "is for rows of one text, got pairs"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(settings: dict[str, Any], message: str, tmp_path: Path):
    rows = [{"id": "" if index == 2 else index, "text": f"text {index}", "label": index % 2} for index in range(9)]
    with pytest.raises(ValueError, match=re.escape(message)):
        load_text_data(write_split(tmp_path, rows), **settings)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([10, 9, "NA", 8, 7, "?"], "must hold numbers in every row or in none, got 'NA' in row 3"),
        (["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05", 2026, "2026-01-06"], "got '2026' in row 5"),
        ([10, 9, 8, float("nan"), 7, 6], "must hold a value in every row, got none in row 4"),
    ],
)
def test_an_order_that_would_not_be_one_of_numbers_or_of_words_is_refused(
    order: list[Any], message: str, tmp_path: Path
):
    is_missing = any(value != value for value in order)
    rows = [
        {"when": value if is_missing else str(value), "text": f"text {index}", "label": index % 2}
        for index, value in enumerate(order)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        load_text_data(path, validation_cut="newest", order_column="when")


def test_a_cut_beside_a_validation_split_is_refused(tmp_path: Path):
    rows = [{"id": index, "text": f"text {index}", "label": index % 2} for index in range(9)]
    write_split(tmp_path, rows)
    write_split(tmp_path, rows, "validation")
    with pytest.raises(ValueError, match=r"`validation_cut` \('newest'\) is for data without a validation split"):
        load_text_data(tmp_path, validation_cut="newest", order_column="id")
