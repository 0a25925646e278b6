"""Answers: of `predict` on the command line, by kind of output and with their words; of `evaluate`; and in Python."""

import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import make_rows, refuse, write_csv
from test_predict import save_model
from transformers import AutoTokenizer

import wave_network
from wave_network.cli import main
from wave_network.inference.explain import MOST

TEXTS = ["goal match striker", "bank", "orbit rocket, lunar", ""]
HOSTILE = "<script>alert(1)</script> & \"goal\" 'x' \x1b[31m\x00 \u202etheme"


@pytest.fixture(scope="module")
def classifier(run: Path) -> Any:
    return wave_network.load(run, device="cpu")


@pytest.fixture(scope="module")
def multi(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "multi"
    settings = {"problem_type": "multi_label_classification", "label_column": "labels", "text_columns": ["text"]}
    return save_model(folder, AutoTokenizer.from_pretrained(run), list("abc"), **settings)


def predict(run: Path, *words: Any) -> None:
    main(["predict", str(run), *map(str, words), "--device", "cpu"])


# The command line


def test_texts_of_the_command_line_and_of_standard_input(
    run: Path, classifier: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    texts = ["goal match striker", "- a dash first", f"bank {HOSTILE}"]
    predict(run, texts[0], "--top_k", 2, *texts[1:])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == classifier.predict(texts)
    assert [line.count("%") for line in lines] == [2, 2, 2]
    assert lines[0].endswith("  goal match striker")
    assert all(line.isprintable() for line in lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufefforbit\r\n漢字 goal\n\n".encode())))
    predict(run, "-", "--output", "-")
    found = pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False)
    assert found["text"].tolist() == ["orbit", "漢字 goal", ""]
    assert found["label"].tolist() == classifier.predict(["orbit", "漢字 goal", ""])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Texts, one file, or - for standard input must be given"),
        (["new reviews.csv"], "There is no file 'new reviews.csv'"),
        (["old.XLS"], "There is no file 'old.XLS'"),
        (["./goal"], "There is no file 'goal'"),
        (["goal", "there.csv"], "'there.csv' stands for a file, among 2 texts"),
        (["goal", "-"], "'-' stands for a file, among 2 texts"),
        (["there.csv", "--file", "there.csv"], "must be given, got --file 'there.csv'"),
        (["goal", "--keep", "id"], "--keep (['id']) is for a file of texts"),
        (["goal", "--top_k", "4"], "--top_k must be 1 to the number of labels, 3, got 4"),
        (["goal", "--output", "x.doc"], "--output must be a file that ends in .csv"),
        (["goal", "--output", "x.html"], "--output must be a file that ends in .csv"),
        (["goal", "--abstain", "2"], "--abstain"),
        (["-", "--encoding", "klingon"], "klingon"),
        (["-"], "Standard input must be in --encoding (utf-8)"),
        (["goal", "--explane"], "unknown setting --explane; did you mean --explain"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run: Path,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff goal")))
    write_csv(Path("there.csv"), [{"text": "goal"}])
    assert message in refuse(["predict", str(run), *words], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_model_of_pairs_takes_two_texts(
    pairs_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pairs = [("goal match", "bank"), ("orbit", "rocket")]
    predict(pairs_run, *pairs[0], *pairs[1])
    lines = capsys.readouterr().out.splitlines()
    model = wave_network.load(pairs_run, device="cpu")
    assert [line.split()[0] for line in lines] == model.predict(pairs)
    assert model.predict(pairs[0]) == model.predict(pairs)[0]
    with pytest.raises(ValueError, match="`texts` must be pairs of strings, got 'goal' in place 0"):
        model.predict(["goal"])
    assert "The model reads pairs: two texts, in a line with a tab between them, got ['goal']" in refuse(
        ["predict", str(pairs_run), "goal"], capsys
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"goal match\tbank\norbit\trocket\n")))
    predict(pairs_run, "-")
    assert capsys.readouterr().out.splitlines() == lines
    words = model.explain(("goal match", "bank"))
    assert [word for word, _ in words] == ["goal", "match", "bank"]
    full, *others = model.predict_proba(
        [("goal match", "bank"), ("match", "bank"), ("goal", "bank"), ("goal match", "")]
    )
    assert [weight for _, weight in words] == pytest.approx(
        [full.max() - each[full.argmax()] for each in others], abs=1e-5
    )


# Kinds of output

READERS = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False),
    ".tsv": lambda path: pd.read_csv(path, sep="\t", keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}


@pytest.mark.parametrize("ending", list(READERS))
def test_every_kind_of_output_has_the_same_rows(
    run: Path, classifier: Any, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("wave_network.inference.predict.CHUNK", 2)
    texts = [*TEXTS, HOSTILE.replace("\x00", ""), 'a "quoted", text\nof two lines']
    rows = [
        {"text": text, "label": index, "id": None if index < 2 else f"n{index}"} for index, text in enumerate(texts)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / f"out{ending}"
    predict(run, tmp_path / "in.jsonl", "--output", output, "--keep", "id", "label", "--top_k", 2)
    found = READERS[ending](output)
    names = ["row", "label", "probability", "label_2", "probability_2", "id", "kept_label", "text"]
    assert list(found) == names
    assert found["text"].tolist() == texts
    assert found["kept_label"].tolist() == list(range(6))
    assert found["label"].tolist() == classifier.predict(texts)
    best = np.sort(classifier.predict_proba(texts), axis=-1)[:, ::-1]
    assert found[["probability", "probability_2"]].to_numpy() == pytest.approx(best[:, :2], abs=1e-5)


def test_several_labels_are_a_list(multi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_csv(tmp_path / "in.csv", [{"text": text} for text in TEXTS])
    for ending in (".csv", ".jsonl", ".parquet"):
        predict(multi, file, "--output", tmp_path / f"out{ending}")
    labels = wave_network.load(multi, device="cpu").predict(TEXTS)
    assert len({len(label) for label in labels}) > 1
    assert READERS[".csv"](tmp_path / "out.csv")["label"].tolist() == [";".join(label) for label in labels]
    assert READERS[".jsonl"](tmp_path / "out.jsonl")["label"].tolist() == labels
    assert [list(label) for label in READERS[".parquet"](tmp_path / "out.parquet")["label"]] == labels
    capsys.readouterr()
    predict(multi, *TEXTS[:3])
    for line, label in zip(capsys.readouterr().out.splitlines(), labels[:3], strict=True):
        assert line.split("  ")[0].count("%") == len(label)


# The words that decided


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Goal, match!!  isn't  ", ["Goal", ",", "match", "!!", "isn't"]),
        ("e\u0301t में goal", ["e\u0301t", "में", "goal"]),
        ("🙂❤️ x_1", ["🙂❤️", "x_1"]),
        ("日本 goal", ["日", "本", "goal"]),
        ("", []),
        ("\x00\x1b", ["\x00\x1b"]),
    ],
)
def test_the_weight_of_a_word_is_what_the_answer_loses_without_it(classifier: Any, text: str, words: list[str]):
    found = classifier.explain(text)
    assert [word for word, _ in found] == words
    full = classifier.predict_proba(text)
    for place, (_, weight) in enumerate(found):
        rest = " ".join(words[:place] + words[place + 1 :]).replace("日 本", "日本")
        assert weight == pytest.approx(full.max() - classifier.predict_proba(rest)[full.argmax()], abs=1e-5)


def test_a_long_text_is_explained_in_passages_of_what_is_read(run: Path, multi: Path, tmp_path: Path):
    text = " ".join(row["text"] for row in make_rows(200, seed=3))
    found = wave_network.load(run, device="cpu").explain([text])[0]
    assert len(found) == 30  # of 32 tokens
    tokenizer = AutoTokenizer.from_pretrained(multi)
    tokenizer.model_max_length = 10**9
    tokenizer.save_pretrained(multi)
    found = wave_network.load(multi, device="cpu").explain(text)
    assert MOST / 2 < len(found) <= MOST
    assert " ".join(word for word, _ in found) == text


class Page(HTMLParser):
    """The text of a page, and its elements."""

    def __init__(self, content: str):
        super().__init__()
        self.text, self.marks, self.tags = "", 0, set()
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        self.marks += tag == "mark"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_words_are_in_the_output_and_on_a_page(
    run: Path, classifier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = HOSTILE.replace("\x00", "")
    file = write_csv(tmp_path / "in.csv", [{"text": "goal match"}, {"text": text}])
    predict(run, file, "--explain", "--output", tmp_path / "out.jsonl")
    found = [json.loads(line)["words"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for each, words in zip(["goal match", text], found, strict=True):
        expected = classifier.explain(each)
        assert sorted((word["word"], word["weight"]) for word in words) == sorted(expected)
        assert abs(words[0]["weight"]) == max(abs(weight) for _, weight in expected)
    page = Page((tmp_path / "out.html").read_text())
    assert text in page.text
    assert "script" not in page.tags
    assert page.marks == 2 + sum(map(len, found))
    assert "out.html' exists" in refuse(
        ["predict", str(run), str(file), "--explain", "--output", str(tmp_path / "out.csv")], capsys
    )
    capsys.readouterr()
    predict(run, "goal match", "--explain")
    assert "goal" in capsys.readouterr().out.splitlines()[1]


# evaluate


def test_evaluate_measures_what_the_run_has_measured(
    run: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(["evaluate", str(run), str(data_folder / "test.csv"), "--output", str(tmp_path / "x.json"), "--device", "cpu"])
    metrics, found = json.loads((run / "metrics.json").read_text()), json.loads((tmp_path / "x.json").read_text())
    assert found["results"] == metrics["results"]["test"]
    assert found["calibration"]["ece"] == pytest.approx(metrics["calibration"]["test"]["ece"], abs=1e-6)
    out = capsys.readouterr().out
    assert f"43 rows, accuracy {found['results']['accuracy']:.2%}" in out
    assert all(part in out for part in ("macro F1", "precision", "Confusion", "Calibration", "sport"))


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        (
            [{"text": "goal", "label": "sports"}],
            [],
            "among those of the model, ['money', 'space', 'sport'], got ['sports']",
        ),
        ([{"text": "goal", "label": "1"}], [], "got ['1']"),
        ([{"text": "goal", "label": "sport"}, {"text": "bank", "label": ""}], [], "row 2 of"),
        ([{"text": "goal", "kind": "sport"}], [], "--label_column must be among the columns"),
        ([{"text": "goal", "label": "sport"}], ["--output", "x.csv"], "--output must be a .json file"),
        ([{"text": "goal", "label": "sport"}], ["--label_separator", ";"], "--label_separator"),
    ],
)
def test_evaluate_refuses_what_it_cannot_measure(
    run: Path, rows: Any, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert message in refuse(["evaluate", str(run), str(write_csv(tmp_path / "in.csv", rows)), *words], capsys)


def test_evaluate_several_labels_and_numbers(
    run: Path, multi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = wave_network.load(multi, device="cpu")
    rows = [{"text": text, "labels": ";".join(model.predict(text))} for text in TEXTS]
    main(["evaluate", str(multi), str(write_csv(tmp_path / "in.csv", rows)), "--label_separator", ";"])
    assert "micro F1 100.00%" in capsys.readouterr().out
    value = save_model(tmp_path / "value", AutoTokenizer.from_pretrained(run), ["stars"], problem_type="regression")
    rows = [{"text": text, "label": wave_network.load(value, device="cpu").predict(text)} for text in TEXTS]
    main(["evaluate", str(value), str(write_csv(tmp_path / "in.csv", rows))])
    assert "Spearman 1, Pearson 1" in capsys.readouterr().out


# Python


def test_answers_in_python_have_the_form_of_the_question(run: Path, multi: Path, classifier: Any):
    one, several = classifier.predict(TEXTS[0]), classifier.predict(TEXTS)
    assert one == several[0] == "sport"
    assert classifier.predict(pd.Series(TEXTS)) == classifier.predict(tuple(TEXTS)) == several
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.predict_proba(TEXTS[0]) == pytest.approx(classifier.predict_proba(TEXTS)[0], abs=1e-6)
    assert classifier.labels == ["money", "space", "sport"]
    assert isinstance(wave_network.load(multi, device="cpu").predict("goal"), list)


@pytest.mark.parametrize(
    "texts", [None, 3, b"goal", [1], ["goal", None], {"text": "a"}, pd.DataFrame({"text": ["a"]}), [("a", "b")]]
)
def test_what_is_no_text_is_refused(classifier: Any, texts: Any):
    with pytest.raises(ValueError, match="`texts` must be "):
        classifier.predict(texts)


def test_damaged_weights_give_no_answers(run: Path):
    model = wave_network.load(run, device="cpu")
    model.model.classifier.bias.data[1] = float("nan")
    with pytest.raises(ValueError, match="must give finite logits"):
        model.predict("goal")


SETTINGS = {"use_cpu": True, "disable_tqdm": True, "hidden_size": 8, "vocab_size": 100, "subword_buckets": 0}


def test_finetune_in_python_makes_a_run_of_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(make_rows(60, seed=0))
    model = wave_network.finetune(frame, test=frame[:9], seed=3, max_steps=2, **SETTINGS)
    assert model.predict("goal") in model.labels == ["money", "space", "sport"]
    record = json.loads(Path("runs/data/metrics.json").read_text())
    assert (record["seed"], record["results"]["test"]["rows"]) == (3, 9)
    assert record["command"].startswith("wave_network.finetune(data, ")
    assert Path("runs/data/README.md").exists()
    assert wave_network.load("runs/data").predict("goal") == model.predict("goal")
    with pytest.raises(FileExistsError, match="runs/data"):
        wave_network.finetune(frame, **SETTINGS)
    pairs = ([(row["text"], "x") for row in make_rows(60, seed=0)], frame["label"])
    model = wave_network.finetune(pairs, "runs/pairs", validation=pairs, max_steps=2, **SETTINGS)
    assert model.predict(("goal", "x")) in model.labels
    assert model.text_columns == ["text", "text_pair"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rat": 1}, "unknown setting learning_rat; did you mean `learning_rate`"),
        ({"data": "absent.csv"}, "There is no file or folder 'absent.csv'"),
        ({"data": "a.csv", "test": [{"text": "a", "label": 1}]}, "`test` must be a file"),
        ({"class_weights": "even"}, "`class_weights` must be one of"),
        ({"data": (["a", "b"], ["x"])}, "one length"),
        ({"data": 3}, "`dataset` must be a name or"),
    ],
)
def test_finetune_in_python_refuses_in_a_line(arguments: dict[str, Any], message: str, tmp_path: Path):
    data = arguments.pop("data", (["goal", "bank"], ["a", "b"]))
    with pytest.raises((ValueError, OSError), match=message):
        wave_network.finetune(data, tmp_path / "run", use_cpu=True, **arguments)
    assert not (tmp_path / "run").exists()
