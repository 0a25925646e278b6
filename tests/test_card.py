"""The card room: what a run's files become, and which files get no card.

The figures below are worked by hand from two small confusion matrices; the intervals are those of
`scipy.stats.binomtest(correct, rows).proportion_ci(method="wilson")`.
"""

import copy
import json
import os
import re
import shutil
from pathlib import Path

import jinja2
import jinja2.meta
import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.hub_card import write_card

LABELS = ["business", "sport", "tech"]
TEMPLATE = Path(__file__).parents[1] / "hub_card" / "model_card.md"

# 20 of 25 right. Columns sum to 9, 12 and 4, so precision and recall differ and a transposed matrix cannot pass.
TEST_RESULT = {
    "rows": 25,
    "accuracy": 0.8,
    "accuracy_low": 0.6086904963045967,
    "accuracy_high": 0.9113941531319742,
    "macro_f1": (16 / 19 + 9 / 11 + 2 / 3) / 3,
    "per_class": {
        "business": {"precision": 8 / 9, "recall": 0.8, "f1": 16 / 19, "support": 10},
        "sport": {"precision": 0.75, "recall": 0.9, "f1": 9 / 11, "support": 10},
        "tech": {"precision": 0.75, "recall": 0.6, "f1": 2 / 3, "support": 5},
    },
    "confusion": [[8, 2, 0], [0, 9, 1], [1, 1, 3]],
}
# 4 of 4 right, and no row of the class "tech", which so counts for nothing in macro F1.
VALIDATION_RESULT = {
    "rows": 4,
    "accuracy": 1.0,
    "accuracy_low": 0.5101091635454027,
    "accuracy_high": 1.0,
    "macro_f1": 1.0,
    "per_class": {
        "business": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1},
        "sport": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3},
        "tech": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    },
    "confusion": [[1, 0, 0], [0, 3, 0], [0, 0, 0]],
}


def build_model(labels: list[str]) -> WaveForSequenceClassification:
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    return WaveForSequenceClassification(WaveConfig(vocab_size=20, hidden_size=8, **names))


@pytest.fixture(scope="module")
def model() -> WaveForSequenceClassification:
    return build_model(LABELS)


@pytest.fixture(scope="module")
def saved_run(model, tmp_path_factory) -> Path:
    """A run folder as `wave-network finetune` leaves it, without a tokenizer and without a picture."""
    folder = tmp_path_factory.mktemp("saved") / "news-run"
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # the plain card of every save, to see when `write_card` writes one
    # By hand: the table is 20 x 8; the core is 8 x 16 + 16 (variants), 16 x 8 + 8 (restore), 16 (norm), 8 x 3 + 3.
    metrics = {
        "schema": 1,
        "created": "2026-11-21T11:05:00+00:00",
        "duration_seconds": 61.2,
        "seed": 42,
        "device": "cpu (AMD EPYC 7B13, 2 threads)",
        "versions": {"wave_network": "0.1.0", "transformers": "5.23.0", "python": "3.11.7"},
        "command": "wave-network finetune --dataset bbc_news",
        "base_model": None,
        "data": {
            "name": "bbc_news",
            "is_on_hub": False,
            "fingerprint": "0f343b0931126a20f133d67c2b018a3b",
            "rows": {"train": 1361, "validation": 4, "test": 25},
            "label_names": LABELS,
            "text_columns": ["text"],
            "label_column": "label",
            "validation_was_split": True,
        },
        "model": {"parameters": 483, "core_parameters": 323, "table_parameters": 160},
        "settings": {"learning_rate": 0.001, "num_train_epochs": 5, "class_weights": "none", "bf16": False},
        "best": {"epoch": 4.0, "step": 120, "metric": "accuracy", "value": 1.0},
        "results": {"validation": VALIDATION_RESULT, "test": TEST_RESULT},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder


@pytest.fixture
def run_folder(saved_run, tmp_path) -> Path:
    return Path(shutil.copytree(saved_run, tmp_path / "news-run"))


def edit(file: Path, *field: str, value: object) -> None:
    """Sets one field of a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    inner = content
    for name in field[:-1]:
        inner = inner[name]
    inner[field[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def relabel(run_folder: Path, labels: list[str], results: dict) -> None:
    """Gives a run other classes, in both files."""
    edit(run_folder / "config.json", "id2label", value=dict(enumerate(labels)))
    edit(run_folder / "metrics.json", "data", "label_names", value=labels)
    edit(run_folder / "metrics.json", "results", value=results)
    rows = {"train": 1361} | {split: result["rows"] for split, result in results.items()}
    edit(run_folder / "metrics.json", "data", "rows", value=rows)


def rename(result: dict, labels: list[str]) -> dict:
    return result | {"per_class": dict(zip(labels, result["per_class"].values(), strict=True))}


def read_tables(card: str) -> list[list[list[str]]]:
    """The tables of a card as a Markdown reader shows them; a cell that is more than plain text fails the test."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1]):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            in_cell = True
        elif token.type in ("th_close", "td_close"):
            in_cell = False
        elif token.type == "inline" and tables and in_cell:
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            tables[-1][-1].append("".join(child.content for child in token.children))
    return tables


def test_the_card_loads_and_its_metadata_are_those_of_the_run(run_folder):
    path = write_card(run_folder, repo_id="someone/news")
    assert path == run_folder / "README.md"
    data = ModelCard.load(path).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-classification"
    assert data.license == "apache-2.0"
    assert "wave-network" in data.tags
    assert data.datasets is None  # a built-in name is not a data set of the Hub
    assert data.base_model is None


def test_another_license_and_a_base_model_on_the_hub_are_named(run_folder):
    edit(run_folder / "metrics.json", "base_model", value="someone/wave-base")
    card = ModelCard.load(write_card(run_folder, license="mit"))
    assert card.data.license == "mit"
    assert card.data.base_model == "someone/wave-base"
    assert "fine-tuned from someone/wave-base" in card.text
    assert "trained from scratch" not in card.text


def test_a_base_model_that_is_a_local_folder_stays_out_of_the_metadata(run_folder):
    edit(run_folder / "metrics.json", "base_model", value="/home/me/runs/first")
    assert ModelCard.load(write_card(run_folder)).data.base_model is None


def test_model_index_holds_the_test_results_with_their_interval(run_folder):
    card = write_card(run_folder, repo_id="someone/news").read_text(encoding="utf-8")
    name, results = model_index_to_eval_results(yaml.safe_load(card.split("---\n")[1])["model-index"])
    assert name == "someone/news"
    assert {result.metric_type: round(result.metric_value, 6) for result in results} == {
        "accuracy": 0.8,
        "accuracy_low": 0.608690,
        "accuracy_high": 0.911394,
        "f1": 0.775651,
    }
    assert {(result.dataset_name, result.dataset_split) for result in results} == {("bbc_news", "test")}
    assert results[0].source_url.endswith("/someone/news/resolve/main/metrics.json")


def test_without_a_test_split_the_validation_results_stand(run_folder):
    relabel(run_folder, LABELS, {"validation": VALIDATION_RESULT})
    card = ModelCard.load(write_card(run_folder))
    assert [result.metric_value for result in card.data.eval_results] == pytest.approx([1, 0.510109, 1, 1], abs=1e-6)
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert "By class, on the validation split" in card.text


def test_the_tables_hold_the_figures_worked_by_hand(run_folder):
    tables = read_tables(write_card(run_folder).read_text(encoding="utf-8"))
    assert ["validation", "4", "100.00", "51.01 to 100.00", "100.00"] in tables[2]
    assert ["test", "25", "80.00", "60.87 to 91.14", "77.57"] in tables[2]
    assert tables[3][1:] == [
        ["business", "88.89", "80.00", "84.21", "10"],
        ["sport", "75.00", "90.00", "81.82", "10"],
        ["tech", "75.00", "60.00", "66.67", "5"],
    ]
    assert ["Core parameters", "323"] in tables[0]
    assert ["Embedding table", "160"] in tables[0]
    assert ["learning_rate", "0.001"] in tables[1]
    assert ["transformers", "5.23.0"] in tables[4]


def read_entry(run_folder: Path, file_name: str) -> EvalResultEntry:
    text = (run_folder / ".eval_results" / file_name).read_text(encoding="utf-8")
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    return entry


def test_data_on_the_hub_are_linked(run_folder):
    edit(run_folder / "metrics.json", "data", "name", value="fancyzhx/ag_news")
    edit(run_folder / "metrics.json", "data", "is_on_hub", value=True)
    path = write_card(run_folder, repo_id="someone/news")
    assert ModelCard.load(path).data.datasets == ["fancyzhx/ag_news"]
    entry = read_entry(run_folder, "fancyzhx--ag_news.yaml")
    assert (entry.dataset_id, entry.task_id, entry.value) == ("fancyzhx/ag_news", "default", 0.8)
    assert entry.date == "2026-11-21T11:05:00+00:00"
    assert entry.source_url.endswith("/someone/news/resolve/main/metrics.json")
    assert entry.notes == "accuracy on the 25 rows of the test split, 95 % Wilson interval 0.6087 to 0.9114"


@pytest.mark.parametrize("name", ["bbc_news", "news.csv", "news.jsonl.gz"])
def test_data_from_elsewhere_claim_no_place_on_the_hub(run_folder, name):
    edit(run_folder / "metrics.json", "data", "name", value=name)
    card = ModelCard.load(write_card(run_folder, repo_id="someone/news"))
    assert card.data.datasets is None
    assert "huggingface.co/datasets/" not in card.text
    assert read_entry(run_folder, f"{name}.yaml").notes.endswith("; the data set is not on the Hub")


@pytest.mark.parametrize("was_split", [True, False])
def test_the_entry_says_that_its_rows_were_split_off_the_training_data(run_folder, was_split):
    relabel(run_folder, LABELS, {"validation": VALIDATION_RESULT})
    edit(run_folder / "metrics.json", "data", "validation_was_split", value=was_split)
    write_card(run_folder)
    assert ("split off the training data" in read_entry(run_folder, "bbc_news.yaml").notes) == was_split


def test_a_repository_without_its_namespace_is_no_source(run_folder):
    results = ModelCard.load(write_card(run_folder, repo_id="news")).data.eval_results
    assert {result.source_url for result in results} == {None}


def test_a_name_the_hub_would_not_take_is_refused(run_folder):
    with pytest.raises(ValueError, match="a/b/c"):
        write_card(run_folder, repo_id="a/b/c")
    assert not (run_folder / "README.md").exists()


def test_without_a_repository_the_card_has_the_name_of_the_folder(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    assert "\n# news-run\n" in write_card(".").read_text(encoding="utf-8")


def test_the_picture_is_shown_only_if_it_exists(run_folder):
    assert "confusion_matrix.png" not in write_card(run_folder).read_text(encoding="utf-8")
    (run_folder / "confusion_matrix.png").write_bytes(b"picture")
    assert "](confusion_matrix.png)" in write_card(run_folder).read_text(encoding="utf-8")


def test_the_prose_follows_the_configuration(run_folder):
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "(`modulation`)" in card
    assert "linear map" in card
    edit(run_folder / "config.json", "wave_operation", value="interference")
    edit(run_folder / "config.json", "position_embedding_type", value="none")
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "(`interference`)" in card
    assert "(`modulation`)" not in card
    assert "does not see word order: the same words" in card
    edit(run_folder / "config.json", "conv_kernel_size", value=5)
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "a convolution over 5 neighbouring tokens" in card
    assert "the same words in another order" not in card


def test_only_learned_positions_end_somewhere(run_folder):
    edit(run_folder / "config.json", "position_embedding_type", value="absolute")
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "It reads at most 512 tokens" in card
    assert "reads longer texts" not in card


@pytest.mark.parametrize("positions", ["sinusoidal", "none"])
def test_a_model_of_any_length_says_where_its_tokenizer_cuts(run_folder, positions):
    edit(run_folder / "config.json", "position_embedding_type", value=positions)
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "the tokenizer cuts a text off at 512 tokens" in card
    assert "reads longer texts, too" in card
    assert "reads at most" not in card
    (run_folder / "tokenizer_config.json").write_text('{"model_max_length": 48}', encoding="utf-8")
    assert "cuts a text off at 48 tokens" in write_card(run_folder).read_text(encoding="utf-8")


def test_n_grams_are_named_among_the_embeddings_where_there_are_some(run_folder):
    assert "the embeddings of words and, if they are learned, of positions" in write_card(run_folder).read_text(
        encoding="utf-8"
    )
    edit(run_folder / "config.json", "ngram_vocab_size", value=50)
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "the embeddings of words, of hashed n-grams and, if they are learned, of positions" in card


def test_a_run_that_chose_no_weights_says_so(run_folder):
    edit(run_folder / "metrics.json", "best", value=None)
    card = write_card(run_folder).read_text(encoding="utf-8")
    assert "those of the last step" in card
    assert "best in validation" not in card


def test_every_number_of_the_prose_comes_from_the_files(run_folder):
    """Two runs that share no number give cards that share only the numbers of this list."""
    edit(run_folder / "metrics.json", "device", value="cpu")
    first = ModelCard.load(write_card(run_folder)).text
    relabel(
        run_folder,
        ["a", "b"],
        {
            "validation": {
                "rows": 101,
                "accuracy": 78 / 101,
                "accuracy_low": 0.6814098987582484,
                "accuracy_high": 0.8431917294398497,
                "macro_f1": (62 / 85 + 94 / 117) / 2,
                "per_class": {
                    "a": {"precision": 31 / 45, "recall": 31 / 40, "f1": 62 / 85, "support": 40},
                    "b": {"precision": 47 / 56, "recall": 47 / 61, "f1": 94 / 117, "support": 61},
                },
                "confusion": [[31, 9], [14, 47]],
            }
        },
    )
    metrics = run_folder / "metrics.json"
    for field, value in {
        ("created",): "1999-06-08T17:39:58+02:30",
        ("duration_seconds",): 333.4,
        ("seed",): 77,
        ("device",): "tpu",
        ("versions",): {"torch": "6.66"},
        ("data", "fingerprint"): "none",
        ("data", "rows", "train"): 9876,
        ("model",): {"parameters": 71 * 90 + 13, "core_parameters": 13, "table_parameters": 71 * 90},
        ("settings",): {"weight_decay": 0.375},
        ("best", "step"): 888,
    }.items():
        edit(metrics, *field, value=value)
    for field, value in {"vocab_size": 71, "hidden_size": 90, "max_position_embeddings": 345}.items():
        edit(run_folder / "config.json", field, value=value)
    edit(run_folder / "config.json", "num_hidden_layers", value=17)
    second = ModelCard.load(write_card(run_folder)).text

    def numbers(text: str) -> set[str]:
        return set(re.findall(r"\b\d+(?:[.,]\d+)*", text))  # not that of F1, which is a name

    confidence, papers = {"95"}, {"2411.02674", "2411.06989", "2024"}
    assert numbers(first) & numbers(second) == confidence | papers


def test_the_template_asks_for_nothing_that_it_is_not_given(run_folder, monkeypatch):
    """Jinja fills an unknown name with nothing, silently."""
    given: set[str] = set()
    original = ModelCard.from_template.__func__

    def from_template(cls, card_data, template_path, **kwargs):
        given.update(kwargs, ["card_data"])
        return original(cls, card_data, template_path, **kwargs)

    monkeypatch.setattr(ModelCard, "from_template", classmethod(from_template))
    write_card(run_folder)
    asked = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(TEMPLATE.read_text(encoding="utf-8")))
    assert asked - {"name"} == given - {"name"}


NASTY = [
    "a|b",
    "back\\slash\\|pipe",
    "</details><script>alert(1)</script>",
    "[link](https://example.org) ![picture](x.png)",
    "**bold** _slanted_ ~~gone~~ `code`",
    "&amp; &lt;",
    "\"double\" and 'single'",
    "{{ seed }} {% if x %}",
    "# heading",
    "---",
    "Straße, 数学, عربى, 🎉",
    "snake_case_name",
    "$x^2$ <!-- comment",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_a_label_is_shown_as_it_is_and_breaks_nothing(run_folder, nasty):
    labels = [nasty, "sport", "tech"]
    relabel(run_folder, labels, {"validation": rename(VALIDATION_RESULT, labels), "test": rename(TEST_RESULT, labels)})
    tables = read_tables(write_card(run_folder).read_text(encoding="utf-8"))
    assert [row[0] for row in tables[3]] == ["Class", *labels]
    assert {len(row) for row in tables[3]} == {5}


def test_line_breaks_and_direction_overrides_in_a_label_become_spaces(run_folder):
    labels = ["two\nlines\r\n| and | more\u202e", "sport", "tech"]
    relabel(run_folder, labels, {"validation": rename(VALIDATION_RESULT, labels), "test": rename(TEST_RESULT, labels)})
    tables = read_tables(write_card(run_folder).read_text(encoding="utf-8"))
    assert [row[0] for row in tables[3]] == ["Class", "two lines | and | more", "sport", "tech"]


@pytest.mark.parametrize("field", [("data", "name"), ("data", "fingerprint"), ("device",), ("data", "label_column")])
@pytest.mark.parametrize("nasty", ["x\n---\n# Title\n", "</details><script>", "a `b` |", "{{ seed }}"])
def test_other_texts_of_the_run_break_nothing_either(run_folder, field, nasty):
    plain = write_card(run_folder)
    skeleton = [token.type for token in MarkdownIt().parse(ModelCard.load(plain).text)]
    edit(run_folder / "metrics.json", *field, value=nasty)
    card = ModelCard.load(write_card(run_folder))
    assert card.data.library_name == "transformers"
    parsed = MarkdownIt().parse(card.text)
    assert [token.type for token in parsed] == skeleton
    inline = {child.type for token in parsed for child in token.children or []}
    assert "html_inline" not in inline


def test_a_command_cannot_leave_its_code_block(run_folder):
    command = "wave-network finetune --dataset x\n```\n# Title\n````\n<script>"
    edit(run_folder / "metrics.json", "command", value=command)
    parsed = MarkdownIt().parse(ModelCard.load(write_card(run_folder)).text)
    assert [token.content for token in parsed if token.type == "fence" and token.info == "sh"] == [command + "\n"]


def test_many_classes_are_folded_away_and_stay_a_table(run_folder):
    labels = [f"class {index}" for index in range(150)]
    counts = [[int(row == column) for column in range(150)] for row in range(150)]
    result = {
        "rows": 150,
        "accuracy": 1.0,
        "accuracy_low": 0.9750297556319234,
        "accuracy_high": 1.0,
        "macro_f1": 1.0,
        "per_class": {label: {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1} for label in labels},
        "confusion": counts,
    }
    relabel(run_folder, labels, {"validation": result})
    card = write_card(run_folder).read_text(encoding="utf-8")
    folded = card.split("<details>")[1].split("</details>")[0]
    assert folded.count("| class ") == 150
    assert [row[0] for row in read_tables(card)[3][1:]] == labels


def test_few_classes_are_not_folded_away(run_folder):
    assert "<details>" not in write_card(run_folder).read_text(encoding="utf-8")


RESULT = ("results", "test")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ((*RESULT, "accuracy"), 0.81, "0.8"),
        ((*RESULT, "accuracy"), 0.800002, "0.8"),
        ((*RESULT, "accuracy"), float("nan"), "a number"),
        ((*RESULT, "accuracy"), True, "a number"),
        ((*RESULT, "accuracy"), "0.8", "a number"),
        ((*RESULT, "accuracy_low"), 0.61, "0.60869"),
        ((*RESULT, "accuracy_high"), 0.92, "0.91139"),
        ((*RESULT, "macro_f1"), 0.78, "0.77565"),
        ((*RESULT, "rows"), 26, "25"),
        ((*RESULT, "per_class", "sport", "precision"), 0.9, "0.75"),
        ((*RESULT, "per_class", "sport", "recall"), 0.75, "0.9"),
        ((*RESULT, "per_class", "sport", "f1"), 0.9, "0.81818"),
        ((*RESULT, "per_class", "sport", "support"), 11, "10"),
        ((*RESULT, "per_class"), {"business": {}}, "sport"),
        ((*RESULT, "confusion"), [[8, 2], [0, 9]], "3 classes"),
        ((*RESULT, "confusion"), [[8, 2, 0], [0, 9, 1], [1, 1]], "square table"),
        ((*RESULT, "confusion"), [[8, 2, 0], [0, 9, 1], [1, 1, -3]], "square table"),
        ((*RESULT, "confusion"), [[0, 0, 0]] * 3, "must count the rows"),
        (("data", "rows", "test"), 24, "25"),
        (("data", "rows", "train"), None, "a count"),
        (("data", "rows"), {"train": 1361, "validation": 4}, "validation"),
        (("results",), {"validation": VALIDATION_RESULT}, "test"),
        (("data", "label_names"), ["business", "tech", "sport"], "business"),
        (("data", "label_names"), ["business", "sport"], "tech"),
        (("model", "parameters"), 484, "323 + 160 = 483"),
        (("model",), {"parameters": 343, "core_parameters": 184, "table_parameters": 159}, "160"),
        (("schema",), 2, "schema 1"),
        (("created",), "yesterday", "ISO 8601"),
        (("seed",), "42", "a count"),
        (("settings",), None, "a record"),
        (("best",), {"step": 120}, "metric"),
    ],
)
def test_a_figure_that_no_run_produced_is_refused_and_the_old_card_stays(run_folder, field, value, expected):
    (run_folder / "README.md").write_text("The card of before", encoding="utf-8")
    edit(run_folder / "metrics.json", *field, value=value)
    before = sorted(run_folder.rglob("*"))
    with pytest.raises(ValueError, match=re.escape(expected)) as raised:
        write_card(run_folder)
    message = str(raised.value)
    assert str(run_folder / "metrics.json") in message
    assert ".".join(field) in message
    if isinstance(value, int | float | str):
        assert repr(value) in message
    assert (run_folder / "README.md").read_text(encoding="utf-8") == "The card of before"
    assert sorted(run_folder.rglob("*")) == before


def test_rounding_is_no_disagreement(run_folder):
    edit(run_folder / "metrics.json", *RESULT, "macro_f1", value=0.775651)
    assert "77.57" in write_card(run_folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model_type", "bert", "'wave'"),
        ("wave_operation", "division", "interference"),
        ("id2label", {"0": "business", "1": "sport", "3": "tech"}, "label_names"),
        ("hidden_size", None, "a count"),
    ],
)
def test_a_configuration_of_something_else_is_refused(run_folder, field, value, expected):
    edit(run_folder / "config.json", field, value=value)
    with pytest.raises(ValueError, match=field) as raised:
        write_card(run_folder)
    assert str(run_folder / "config.json") in str(raised.value)
    assert expected in str(raised.value)
    assert not (run_folder / "README.md").exists()


def test_two_classes_of_the_same_name_are_refused(run_folder):
    labels = ["news", "news", "tech"]
    edit(run_folder / "config.json", "id2label", value=dict(enumerate(labels)))
    edit(run_folder / "metrics.json", "data", "label_names", value=labels)
    with pytest.raises(ValueError, match=r"`data\.label_names`.*the same name"):
        write_card(run_folder)


def test_the_default_labels_that_transformers_leaves_out_of_the_configuration_are_known(run_folder):
    labels = ["LABEL_0", "LABEL_1"]
    build_model(labels).save_pretrained(run_folder)
    assert "id2label" not in json.loads((run_folder / "config.json").read_text(encoding="utf-8"))
    half = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    result = {
        "rows": 4,
        "accuracy": 0.5,
        "accuracy_low": 0.15003898915214953,
        "accuracy_high": 0.8499610108478505,
        "macro_f1": 0.5,
        "per_class": dict.fromkeys(labels, half),
        "confusion": [[1, 1], [1, 1]],
    }
    edit(run_folder / "metrics.json", "data", "label_names", value=labels)
    edit(run_folder / "metrics.json", "data", "rows", value={"train": 1361, "test": 4})
    edit(run_folder / "metrics.json", "results", value={"test": result})
    assert "LABEL_1" in write_card(run_folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["metrics.json", "config.json"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "cut short"),
        (lambda file: file.write_bytes(b""), "cut short"),
        (lambda file: file.write_bytes(b'{"name": "\xff"}'), "not JSON"),
        (lambda file: file.write_text("[1, 2]"), "missing"),
    ],
    ids=["missing", "cut short", "empty", "not UTF-8", "a list"],
)
def test_a_damaged_file_is_named(run_folder, name, damage, expected):
    damage(run_folder / name)
    with pytest.raises(ValueError, match=expected) as raised:
        write_card(run_folder)
    assert str(run_folder / name) in str(raised.value)
    assert not (run_folder / "README.md").exists()


def test_every_field_of_the_schema_is_needed(run_folder):
    """Whatever is taken out of metrics.json, it is missed by name, and no other error comes of it."""
    file = run_folder / "metrics.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    unread = {("best", "epoch"), ("best", "value")}
    places = {(name,) for name in whole} | {
        (outer, name) for outer in ("data", "model", "best") for name in whole[outer]
    }
    for *outer, name in sorted(places - unread):
        content = copy.deepcopy(whole)
        del (content[outer[0]] if outer else content)[name]
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=name):
            write_card(run_folder)
    assert not (run_folder / "README.md").exists()


def test_a_write_that_fails_leaves_the_old_card_and_no_debris(run_folder, monkeypatch):
    edit(run_folder / "metrics.json", "data", "name", value="fancyzhx/ag_news")
    (run_folder / "README.md").write_text("The card of before", encoding="utf-8")

    def fail(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_card(run_folder)
    assert (run_folder / "README.md").read_text(encoding="utf-8") == "The card of before"
    assert [path.name for path in run_folder.rglob("*.tmp")] == []
    assert list(run_folder.glob(".eval_results/*")) == []


def test_the_card_replaces_that_of_trainer_and_survives_later_saves(run_folder, model):
    (run_folder / "README.md").write_text("---\ntags:\n- generated_from_trainer\n---\n\n# run\n", encoding="utf-8")
    path = write_card(run_folder)
    card = path.read_bytes()
    assert b"generated_from_trainer" not in card
    model.save_pretrained(run_folder)
    assert path.read_bytes() == card


def test_writing_the_card_again_changes_nothing(run_folder):
    first = write_card(run_folder).read_bytes()
    assert write_card(run_folder).read_bytes() == first
