"""The study `convergence`: curves summarised by hand, and trainings whose accuracy is known."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import refuse, write_csv
from transformers import BertConfig, BertForSequenceClassification
from worked_model import save_worked_model, write_worked_data

from wave_network.analysis import analyze
from wave_network.analysis.contenders import CONTENDERS, draw_batches, find_bert_shape
from wave_network.analysis.convergence import STUDY, summarise
from wave_network.training import cli

SMALL: dict[str, Any] = {"batches": 5, "every": 2, "batch_size": 4, "seeds": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_worked_model(tmp_path_factory.mktemp("model") / "worked")


def words(model: Path, data: Path, output: Path) -> list[str]:
    return ["analyze", "convergence", f"--model={model}", f"--data={data}", f"--output_dir={output}"]


def write_undecidable_data(folder: Path) -> Path:
    """Each test text once with each label: whatever a model says of it, it is right once in two."""
    write_worked_data(folder)
    texts = ["three four", "none", "four"] * 2
    labels = ["one"] * 3 + ["two"] * 3
    write_csv(folder / "test.csv", [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)])
    return folder


def test_the_table_is_what_one_works_out_by_hand(model: Path, tmp_path: Path):
    data = write_undecidable_data(tmp_path / "data")
    result = analyze("convergence", model=str(model), data=str(data), output_dir=str(tmp_path / "out"), **SMALL)
    assert [row["model"] for row in result.table] == list(CONTENDERS)
    for row in result.table:
        curve = result.curves[row["model"]]
        assert curve["batches"] == [0, 2, 4, 5], "the last batch is measured too"
        assert curve["accuracy"] == [[50.0] * 4] * 2
        assert row["accuracy (%)"] == 50
        assert row["standard deviation (points)"] == 0
        assert row["batches to 50 %"] == 0
        assert row["seconds to 50 %"] == 0
        assert row["batches to 80 %"] is None
        for seconds in curve["seconds"]:
            assert seconds[0] == 0
            assert seconds == sorted(seconds)
    assert result.test_texts == 6
    assert result.hidden_size == 2


def test_the_summary_of_curves_by_hand():
    curve = {
        "batches": [0, 10, 20],
        "accuracy": [[20.0, 60.0, 90.0], [40.0, 45.0, 80.0]],
        "seconds": [[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]],
    }
    row = summarise(curve)
    assert row["accuracy (%)"] == 85
    assert row["standard deviation (points)"] == pytest.approx(50**0.5)
    assert row["ms per batch"] == pytest.approx(150)
    assert row["standard deviation (ms)"] == pytest.approx(5000**0.5)
    assert (row["batches to 50 %"], row["seconds to 50 %"]) == (15, 2.5)
    assert (row["batches to 80 %"], row["seconds to 80 %"]) == (20, 3)
    curve["accuracy"][1][2] = 79.9
    assert summarise(curve)["batches to 80 %"] is None, "one training did not come there"
    single = {name: values if name == "batches" else values[:1] for name, values in curve.items()}
    assert summarise(single)["standard deviation (points)"] is None


def test_models_learn_what_can_be_learnt(tmp_path: Path):
    """One word says the class: a Wave Network gets from chance to everything."""
    model = save_worked_model(tmp_path / "worked")
    data = write_worked_data(tmp_path / "data")
    rows = [{"text": text, "label": label} for text, label in (("three", "one"), ("none", "two"))] * 8
    for split in ("train", "validation", "test"):
        write_csv(data / f"{split}.csv", rows)
    settings = SMALL | {
        "batches": 40,
        "every": 40,
        "seeds": 1,
        "hidden_size": 16,
        "learning_rate": 0.02,
        "batch_size": 16,
    }
    result = analyze("convergence", model=str(model), data=str(data), output_dir=str(tmp_path / "out"), **settings)
    accuracies = {row["model"]: row["accuracy (%)"] for row in result.table}
    assert accuracies["Wave, modulation"] == accuracies["Wave, interference"] == 100
    assert result.hidden_size == 16
    assert [curve["accuracy"][0][0] for curve in result.curves.values()] == [50] * 4


def test_all_models_see_the_same_texts_and_each_row_as_often():
    batches = draw_batches(rows=5, size=2, count=5, seed=3)
    assert batches == draw_batches(rows=5, size=2, count=5, seed=3)
    assert batches != draw_batches(rows=5, size=2, count=5, seed=4)
    drawn = [row for batch in batches for row in batch]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(5))


@pytest.mark.parametrize(("width", "heads"), [(2, 1), (128, 2), (200, 2), (768, 12)])
def test_the_shape_of_bert(width: int, heads: int):
    shape = find_bert_shape(width, layers=12)
    assert (shape["num_attention_heads"], shape["intermediate_size"]) == (heads, 4 * width)
    if width == 768:
        base = BertConfig()
        assert {name: getattr(base, name) for name in shape} == shape


def test_a_trained_bert_takes_part_with_its_weights_its_tokens_and_its_embeddings(model: Path, tmp_path: Path):
    from wave_network.analysis.contenders import build
    from wave_network.analysis.study import Experiment, make_settings

    bert = tmp_path / "bert"
    shape = {"hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 4}
    BertForSequenceClassification(BertConfig(vocab_size=8, **shape)).save_pretrained(bert)
    save_worked_model(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bert / name).write_bytes((tmp_path / "other" / name).read_bytes())
    data = write_worked_data(tmp_path / "data")
    given = {"model": str(model), "data": str(data), "bert": str(bert), "device": "cpu"}
    experiment = Experiment("convergence", STUDY, *make_settings("convergence", given))
    whole, layer = (build(experiment, name, None, 64).model for name in ("BERT", "Transformer layer"))
    saved = BertForSequenceClassification.from_pretrained(bert)
    assert whole.config.num_hidden_layers == 2
    assert layer.config.num_hidden_layers == 1
    for model_ in (whole, layer):
        table = model_.get_input_embeddings().weight
        assert table.equal(saved.get_input_embeddings().weight)
    ours, theirs = (each.bert.encoder.layer[0].output.dense.weight for each in (layer, saved))
    assert not ours.equal(theirs), "its layer is new"


def test_settings_that_cannot_be_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_worked_data(tmp_path / "data")
    command = words(model, data, tmp_path / "o")
    for name in ("learning_rate", "bert_learning_rate"):
        assert f"`{name}` must be greater than 0, got 0.0" in refuse([*command, f"--{name}", "0"], capsys)
    assert "`every` must be at least 1, got 0." in refuse([*command, "--every", "0"], capsys)
    bounded = save_worked_model(tmp_path / "encoder")
    assert "`bert` must be of one of the families ['bert']" in refuse([*command, "--bert", str(bounded)], capsys)


def test_a_length_without_positions_is_refused_before_anything_is_trained(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bert = tmp_path / "bert"
    BertConfig(vocab_size=8, max_position_embeddings=16).save_pretrained(bert)
    data = write_worked_data(tmp_path / "data")
    command = words(model, data, tmp_path / "o")
    message = refuse([*command, "--bert", str(bert), "--max_length", "17"], capsys)
    assert "`max_length` must be at most 16, " in message
    assert not (tmp_path / "o").exists()


def test_an_empty_text_and_one_of_a_word_take_part(model: Path, tmp_path: Path):
    data = write_worked_data(tmp_path / "data", ("", "none", "four four"))
    cli.main([*words(model, data, tmp_path / "out"), *(f"--{name}={value}" for name, value in SMALL.items())])
    assert (tmp_path / "out" / "convergence.svg").is_file()
