"""The card of a run, its pictures, and what is pushed."""

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2.meta
import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given
from hypothesis import strategies as st
from loopback_hub import USER, LoopbackHub
from markdown_it import MarkdownIt

from wave_network import WaveConfig
from wave_network.data.measure import measure
from wave_network.files import find_fonts
from wave_network.hub_card import card as card_module
from wave_network.hub_card import draw_pictures, pictures, push, push_run, write_card

LABELS = ["business", "sport", "tech"]
# 20 of 25 right. Precision and recall differ, so a transposed matrix cannot pass.
CONFUSION = np.array([[8, 2, 0], [0, 9, 1], [1, 1, 3]])
TRUE, PREDICTED = np.repeat(np.argwhere(CONFUSION >= 0), CONFUSION.reshape(-1), axis=0).T
TEST_RESULT = measure("single", np.eye(3)[PREDICTED], TRUE, LABELS)
VALIDATION_RESULT = measure("single", np.eye(3)[[0, 1, 1, 1]], [0, 1, 1, 1], LABELS)
BINS = [
    {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
    {"low": 0.5, "high": 1.0, "count": 25, "confidence": 0.9, "accuracy": 0.8},
]
METRICS = {
    "schema": 1,
    "created": "2026-11-21T11:05:00+00:00",
    "duration_seconds": 61.2,
    "seed": 42,
    "device": "cpu (AMD EPYC, 2 threads)",
    "versions": {"wave_network": "0.1.0", "transformers": "5.23.0"},
    "command": "wave-network finetune --dataset bbc_news",
    "base_model": None,
    "data": {
        "name": "bbc_news",
        "is_on_hub": False,
        "fingerprint": "0f343b0931126a20",
        "rows": {"train": 1361, "validation": 4, "test": 25},
        "label_names": LABELS,
        "text_columns": ["text"],
        "label_column": "label",
        "validation_was_split": True,
    },
    "model": {"parameters": 483, "core_parameters": 323, "table_parameters": 160},
    "settings": {"learning_rate": 0.001, "class_weights": "none"},
    "best": {"epoch": 4.0, "step": 120, "metric": "accuracy", "value": 1.0},
    "task": "single",
    "results": {"validation": VALIDATION_RESULT, "test": TEST_RESULT},
    "baselines": {},
    "calibration": {
        "temperature": 1.25,
        "validation": {"ece": 0.1, "bins": BINS, "before": {"ece": 0.3, "bins": BINS}},
        "test": {"ece": 0.1, "bins": BINS, "before": {"ece": 0.3, "bins": BINS}},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a run that the card is made from."""
    folder = tmp_path / "news-run"
    WaveConfig(vocab_size=20, hidden_size=8, id2label=dict(enumerate(LABELS))).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 48}', encoding="utf-8")
    return folder


def edit(file: Path, *field: str, value: Any) -> None:
    """Sets one field of a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    inner = content
    for name in field[:-1]:
        inner = inner[name]
    inner[field[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def relabel(folder: Path, labels: list[str], result: dict[str, Any]) -> None:
    per_class = dict(zip(labels, result["per_class"].values(), strict=True))
    edit(folder / "metrics.json", "data", "label_names", value=labels)
    edit(folder / "metrics.json", "results", value={"test": result | {"per_class": per_class}})


def read_tables(card: str) -> list[list[list[str]]]:
    """The tables of a card as a Markdown reader shows them; a cell that is more than plain text fails the test."""
    tables: list[list[list[str]]] = []
    in_cell = False
    for token in MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1]):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open", "th_close", "td_close"):
            in_cell = token.type.endswith("open")
        elif token.type == "inline" and in_cell:
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            tables[-1][-1].append("".join(child.content for child in token.children))
    return tables


def test_the_metadata_are_those_of_the_run(folder: Path):
    path = write_card(folder, repo_id="someone/news")
    assert path == folder / "README.md"
    card = ModelCard.load(path)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    assert (card.data.license, card.data.datasets, card.data.base_model) == ("apache-2.0", None, None)
    name, results = model_index_to_eval_results(yaml.safe_load(path.read_text().split("---\n")[1])["model-index"])
    assert name == "someone/news"
    assert {result.metric_type: round(result.metric_value, 6) for result in results} == {
        "accuracy": 0.8,
        "accuracy_low": 0.608690,
        "accuracy_high": 0.911394,
        "f1": 0.775651,
    }
    assert {(result.dataset_name, result.dataset_split) for result in results} == {("bbc_news", "test")}
    assert results[0].source_url.endswith("/someone/news/resolve/main/metrics.json")


def test_data_and_base_model_on_the_hub_are_linked(folder: Path):
    edit(folder / "metrics.json", "data", "name", value="fancyzhx/ag_news")
    edit(folder / "metrics.json", "data", "is_on_hub", value=True)
    edit(folder / "metrics.json", "base_model", value="someone/base")
    card = ModelCard.load(write_card(folder, license="mit"))
    assert (card.data.datasets, card.data.base_model) == (["fancyzhx/ag_news"], "someone/base")
    assert card.data.license == "mit"
    assert "](https://huggingface.co/datasets/fancyzhx/ag_news)" in card.text
    assert "\n# news-run\n" in card.text  # without a repository the folder's name
    edit(folder / "metrics.json", "base_model", value="./runs/first")
    assert ModelCard.load(write_card(folder)).data.base_model is None


def test_the_tables_hold_the_figures(folder: Path):
    tables = read_tables(write_card(folder).read_text(encoding="utf-8"))
    assert ["core_parameters", "323"] in tables[0]
    assert ["learning_rate", "0.001"] in tables[1]
    assert tables[2][1:] == [
        ["validation", "4", "100.00", "51.01 to 100.00", "100.00"],
        ["test", "25", "80.00", "60.87 to 91.14", "77.57"],
    ]
    assert tables[3][1:] == [
        ["business", "88.89", "80.00", "84.21", "10"],
        ["sport", "75.00", "90.00", "81.82", "10"],
        ["tech", "75.00", "60.00", "66.67", "5"],
    ]
    assert ["transformers", "5.23.0"] in tables[4]


@pytest.mark.parametrize(
    ("changes", "there", "missing"),
    [
        ({}, "(`modulation`)", "(`interference`)"),
        ({"wave_operation": "interference"}, "(`interference`)", "(`modulation`)"),
        ({"magnitude": "rms"}, "root mean square", None),
        ({"classifier_pooling": "max"}, "the maximum over the tokens", "the mean of the tokens"),
        ({"position_embedding_type": "none"}, "the same words in another order", "position added"),
        ({"conv_kernel_size": 5}, "a convolution over 5", "the same words in another order"),
        ({"ngram_vocab_size": 50, "ngram_size": 3}, "n-grams of up to 3", None),
        ({"model_type": "bert"}, "with 3 classes, trained from scratch", "arxiv.org/abs/2411.02674), a small"),
    ],
)
def test_the_prose_follows_the_configuration(folder: Path, changes: dict[str, Any], there: str, missing: str | None):
    for field, value in changes.items():
        edit(folder / "config.json", field, value=value)
    card = write_card(folder).read_text(encoding="utf-8")
    assert there in card
    assert missing is None or missing not in card
    assert "cuts a text off at 48 tokens" in card
    assert "pip install" not in card


def test_the_prose_follows_the_run(folder: Path):
    card = write_card(folder).read_text(encoding="utf-8")
    assert "step 120, the best in validation by accuracy" in card
    assert "temperature of 1.250" in card
    assert "is 10.00 % with it and 30.00 % without" in card
    edit(folder / "metrics.json", "best", value=None)
    edit(folder / "metrics.json", "calibration", "temperature", value=None)
    card = write_card(folder).read_text(encoding="utf-8")
    assert "those of the last step" in card
    assert "not calibrated: their expected calibration error on the test split is 10.00 %" in card
    edit(folder / "metrics.json", "calibration", value=None)
    assert "calibrat" not in write_card(folder).read_text(encoding="utf-8")


def test_the_template_asks_for_nothing_that_it_is_not_given(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Jinja fills an unknown name with nothing."""
    given: set[str] = set()
    original = ModelCard.from_template.__func__

    def from_template(cls, card_data, template_path, **values):
        given.update(values, ["card_data"])
        return original(cls, card_data, template_path, **values)

    monkeypatch.setattr(ModelCard, "from_template", classmethod(from_template))
    write_card(folder)
    parsed = jinja2.Environment().parse(card_module.TEMPLATE.read_text(encoding="utf-8"))
    assert jinja2.meta.find_undeclared_variables(parsed) == given


@pytest.mark.parametrize(
    "nasty",
    [
        "</details><script>alert(1)</script>",
        "[link](https://example.org) ![picture](x.png)",
        "{{ seed }} {% if x %} Straße, 数学, عربى, 🎉 snake_case",
    ],
)
def test_a_label_is_shown_as_it_is_and_breaks_nothing(folder: Path, nasty: str):
    labels = [nasty, "sport", "two\nlines | \u202e more"]
    relabel(folder, labels, TEST_RESULT)
    edit(folder / "metrics.json", "data", "name", value=nasty)
    edit(folder / "metrics.json", "device", value=nasty)
    card = write_card(folder).read_text(encoding="utf-8")
    assert [row[0] for row in read_tables(card)[3]] == ["Class", nasty, "sport", "two lines | more"]
    parsed = MarkdownIt().parse(ModelCard.load(folder / "README.md").text)
    kinds = {child.type for token in parsed for child in token.children or []}
    assert not kinds & {"html_inline", "image"}


MARKUP = st.sampled_from([*"|\\`*_[]()<>&;#~$!:{}'\"- +.1\n\t@/=^%"])


@given(text=st.text(MARKUP | st.characters(codec="utf-8"), max_size=20))
def test_any_text_is_one_cell_of_a_table(text: str):
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", text).split())
    table = f"---\n---\n\n| Class | Rows |\n| --- | --- |\n| {card_module.escape(text)} | 1 |\n"
    assert read_tables(table) == [[["Class", "Rows"], [line, "1"]]]


def test_many_classes_are_folded_away(folder: Path):
    labels = [f"class {index}" for index in range(21)]
    score = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
    assert "<details>" not in write_card(folder).read_text(encoding="utf-8")
    relabel(folder, labels, TEST_RESULT | {"per_class": dict.fromkeys(labels, score)})
    card = write_card(folder).read_text(encoding="utf-8")
    assert [row[0] for row in read_tables(card.replace("<details>", ""))[3][1:]] == labels
    assert card.split("<details>")[1].split("</details>")[0].count("| class ") == 21


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"data": ', b"\xff"], ids=["missing", "empty", "cut", "not UTF-8"])
def test_a_damaged_file_is_named_and_the_old_card_stays(folder: Path, name: str, content: bytes | None):
    (folder / "README.md").write_text("The card of before", encoding="utf-8")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=re.escape(str(folder / name))):
        write_card(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == "The card of before"
    assert not list(folder.glob(".*"))


def test_a_field_that_is_missing_is_named(folder: Path):
    for field in ("data", "results", "model", "settings", "best", "created"):
        (folder / "metrics.json").write_text(json.dumps({k: v for k, v in METRICS.items() if k != field}))
        if field not in ("best", "created"):  # without these the card says less
            with pytest.raises(ValueError, match=rf"metrics\.json' is not what finetune writes: .*{field}"):
                write_card(folder)
    with pytest.raises(ValueError, match="a/b/c"):
        write_card(folder, repo_id="a/b/c")


# Pictures


@pytest.mark.parametrize("labels", [["a $x$ label", "b_c", "long" * 20], [f"class {index}" for index in range(30)]])
def test_pictures_are_drawn_and_shown(folder: Path, labels: list[str]):
    size = len(labels)
    scores = dict.fromkeys(labels, TEST_RESULT["per_class"]["tech"])
    counts = [[int(row == column) for column in range(size)] for row in range(size)]
    relabel(folder, labels, TEST_RESULT | {"per_class": scores, "confusion": counts})
    edit(folder / "metrics.json", "data", "name", value="costs $5 or $6")
    assert "](confusion_matrix.png)" not in write_card(folder).read_text(encoding="utf-8")
    paths = draw_pictures(folder)
    assert [path.name for path in paths] == ["confusion_matrix.png", "reliability.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    card = write_card(folder).read_text(encoding="utf-8")
    assert all(f"]({path.name})" in card for path in paths)
    edit(folder / "metrics.json", "calibration", value=None)
    assert [path.name for path in draw_pictures(folder)] == ["confusion_matrix.png"]


def test_the_confusion_matrix_has_a_row_for_each_true_class():
    axes = pictures.draw_confusion(TEST_RESULT, LABELS).axes[0]
    assert [text.get_text() for text in axes.texts] == ["8", "2", "0", "0", "9", "1", "1", "1", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == LABELS
    assert axes.get_ylabel() == "true class"
    assert axes.images[0].get_array().tolist()[1] == [0, 0.9, 0.1]


@pytest.mark.parametrize("classes", [1, 300])
def test_any_number_of_classes_has_a_confusion_matrix(classes: int):
    names = [f"class {index}" for index in range(classes)]
    counts = [[0] * classes for _ in names]
    axes = pictures.draw_confusion({"accuracy": 0.0, "confusion": counts}, names).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == (names if classes < 300 else [])


def test_the_bins_are_drawn_by_how_many_texts_they_hold():
    points, strip = pictures.draw_reliability({"ece": 0.1, "bins": BINS}).axes
    assert [text.get_text() for text in strip.texts] == ["25"]
    assert points.collections[0].get_offsets().tolist() == [[0.9, 0.8]]


def test_the_f1_of_each_of_several_labels_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]):
    edit(folder / "metrics.json", "calibration", value=None)
    result = {"rows": 25, "micro_f1": 0.8, "per_class": TEST_RESULT["per_class"]}
    relabel(folder, ["sport", "\ue123 private", "two\nlines"], result)
    assert [path.name for path in draw_pictures(folder)] == ["labels.png"]
    assert capsys.readouterr().out.count("the pictures show their numbers") == 1
    axes = pictures.draw_labels(result, LABELS).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.84 (10)", "0.82 (10)", "0.67 (5)"]


def test_numbers_are_drawn_over_the_true_ones(folder: Path):
    result = {"rows": 3, "spearman": 0.5, "pearson": 0.4, "mse": 2.0, "mae": 1.0, "points": [[1, 1], [3, 2], [2, 4]]}
    for fields, value in ((["task"], "number"), (["calibration"], None), (["data", "label_names"], [])):
        edit(folder / "metrics.json", *fields, value=value)
    edit(folder / "metrics.json", "results", value={"test": result})
    assert [path.name for path in draw_pictures(folder)] == ["numbers.png"]
    card = write_card(folder).read_text(encoding="utf-8")
    assert "](numbers.png)" in card
    assert read_tables(card)[2][1] == ["test", "3", "0.5", "0.4", "2", "1"]
    axes = pictures.draw_numbers(result).axes[0]
    assert axes.collections[0].get_offsets().tolist() == result["points"]


def test_a_name_that_cannot_be_drawn_is_a_number():
    families, missing = find_fonts(["\U0001d49c sport", "\ue123"])
    assert missing == {"\ue123"}
    assert families[0] == "DejaVu Sans"
    assert len(families) == 2  # matplotlib comes with another one for that letter
    names = ["\ue123 private", " ", "two\nlines", "$5", "long " * 9]
    shown = [pictures.shorten(name, number, missing) for number, name in enumerate(names, start=1)]
    assert shown == ["#1", "#2", "two lines", r"\$5", "long long long long lon…"]


# The push


def test_an_unfinished_run_is_not_pushed(folder: Path):
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors, tokenizer\.json"):
        push_run(folder, "someone/news")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        monkeypatch.setattr(push, "HfApi", partial(HfApi, endpoint=hub.url))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def test_a_run_is_pushed_in_one_commit_and_its_card_names_the_owner(run: Path, tmp_path: Path, hub: LoopbackHub):
    copied = shutil.copytree(run, tmp_path / "copied")
    (copied / "training_args.bin").touch()
    before = {file.name for file in copied.iterdir() if file.is_file()}
    address = push_run(copied, "news", token="any", private=True)
    files = hub.files(f"{USER}/news")
    assert address.startswith(f"{hub.url}/{USER}/news/commit/")
    assert set(files) - {".gitattributes"} == before - {"training_args.bin", "mistakes.csv"}
    assert f"# {USER}/news" in files["README.md"].decode()
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    push_run(copied, f"{USER}/news", token="any", revision="next", commit_message=None)
    assert set(hub.files(f"{USER}/news", "next")) == set(files)
    (copied / "notes.txt").write_text("new")
    assert "/discussions/1" in push_run(copied, f"{USER}/news", token="any", create_pr=True)


def test_what_can_have_no_card_makes_no_repository(folder: Path, hub: LoopbackHub):
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).touch()
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics\.json"):
        push_run(folder, "news", token="any")
    assert hub.repositories == {}


def test_the_code_of_the_card_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copied = shutil.copytree(run, tmp_path / "news")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", write_card(copied).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["classify"]("goal match striker")[0]["label"] == "sport"
    assert names["model"].config.id2label == names["classify"].model.config.id2label
