"""Starting from an encoder: --model auto, the probe, cross-validation, a teacher, and weights in float16."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from small_runs import WORDS, distance, finetune_small, make_rows, read_metrics, refuse, small_words, write_csv
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification as AutoClassifier
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

import wave_network
from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel, train_wave_tokenizer
from wave_network.cli import main
from wave_network.training import teacher
from wave_network.training.probe import Probe, cut_folds, shrink
from wave_network.training.start import look_at
from wave_network.training.teacher import SHARE, TeacherLoss, change
from wave_network.training.trainer import ClassificationLoss, WaveTrainer

ROOT = Path(__file__).parents[1]
NEW = {"hidden_size": None, "vocab_size": None, "hidden_dropout_prob": None, "subword_buckets": None}
SHORT = {"num_train_epochs": 1}
OURS = NEW | {"learning_rate": None, "num_train_epochs": None, "per_device_train_batch_size": None}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the English encoder: untrained, with a tokenizer that has read our docs."""
    folder = tmp_path_factory.mktemp("encoder")
    texts = [path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")]
    texts += [" ".join(words) for words in WORDS.values()] * 2
    tokenizer = train_wave_tokenizer(texts, 4000, show_progress=False, model_max_length=64)
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "pad_token_id": 0, "conv_kernel_size": 3, "position_embedding_type": "none"}
    WaveModel(WaveConfig(vocab_size=len(tokenizer), **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def english(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wave_network, "ENGLISH", encoder)
    return encoder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 rows of three classes, and 12 to test on."""
    folder = tmp_path_factory.mktemp("rows")
    write_csv(folder / "train.csv", make_rows(24, seed=0))
    write_csv(folder / "test.csv", make_rows(12, seed=1))
    return folder


@pytest.mark.parametrize(
    ("texts", "is_english"),  # tests/test_marks.py has other languages
    [
        (["The model learns from the training rows.", "It finds the columns, and leaves a run folder."], True),
        (["Das Modell lernt aus den Zeilen der Trainingsdaten.", "Welche Einstellungen gibt es dafür?"], False),
        (["The model learns from the training rows.", "โมเดลเรียนรู้จากข้อมูลการฝึก"], False),
        (["12.5 77.1 0.3 99", "2024-01-03 10:11:12 404"], False),
        ([""], False),
    ],
)
def test_english_texts_are_known_by_how_they_are_cut(encoder: Path, texts: list[str], is_english: bool):
    found, why = look_at(texts, AutoTokenizer.from_pretrained(encoder))
    assert found == is_english, why


def test_auto_is_english_for_english_texts_alone(english: Path, rows: Path, tmp_path: Path, capsys: Any):
    run = finetune_small(rows, tmp_path / "run", **OURS)
    metrics, printed = read_metrics(run), capsys.readouterr().out
    assert "--model auto starts from the English encoder" in printed
    assert "Accuracy on 24 training rows held out in turn: probe" in printed
    assert (metrics["base_model"], metrics["settings"]["tokenizer"]) == ("english", "english")
    assert "--model english" in metrics["command"]
    # No row is wasted, and each has a figure.
    assert metrics["data"]["rows"] == {"train": 24, "validation": 24, "test": 12}
    assert metrics["data"]["cross_validated"]
    assert metrics["results"]["validation"]["rows"] == 24
    card = (run / "README.md").read_text("utf-8")
    assert "The validation rows are training rows that were held out in turn" in card
    assert "fine-tuned from english" in card
    assert AutoClassifier.from_pretrained(run).config.hidden_size == 16


def test_spanish_texts_a_given_shape_and_none_get_a_new_model(english: Path, tmp_path: Path, capsys: Any):
    texts = ["el partido terminó con empate", "las acciones subieron mucho", "llegó otro cohete"]
    data = write_csv(tmp_path / "es.csv", [{"text": f"{texts[row % 3]} {row}", "label": row % 3} for row in range(30)])
    for name, settings in (("es", NEW | SHORT), ("shape", SHORT), ("none", NEW | SHORT | {"model": "none"})):
        metrics = read_metrics(finetune_small(data, tmp_path / name, **settings))
        assert (metrics["base_model"], metrics["data"]["cross_validated"]) == (None, False)
        assert "--model none" in metrics["command"]
        assert ("--model auto trains a new model: its vocabulary" in capsys.readouterr().out) == (name == "es")


def test_a_missing_encoder_is_said_in_one_line(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(wave_network, "ENGLISH", tmp_path / "nothing")
    finetune_small(rows, tmp_path / "run", **NEW | {"num_train_epochs": 1})
    assert "--model auto trains a new model: the English encoder is not there." in capsys.readouterr().out
    error = refuse(small_words(rows, tmp_path / "other", **NEW | {"model": "english"}), capsys)
    assert "The English encoder is not there" in error


@pytest.mark.filterwarnings("error::UserWarning:sklearn")
@pytest.mark.parametrize(
    "counts", [{"sport": 2, "money": 2}, {"sport": 3, "money": 1, "space": 1}, {f"class {n}": 2 for n in range(150)}]
)
def test_two_rows_a_class_are_enough(english: Path, tmp_path: Path, counts: dict[str, int]):
    chooser, words = random.Random(0), [word for words in WORDS.values() for word in words]
    names = [name for name, count in counts.items() for _ in range(count)]
    few = [{"text": " ".join(chooser.choices(words, k=8)), "label": name} for name in names]
    metrics = read_metrics(finetune_small(write_csv(tmp_path / "few.csv", few), tmp_path / "run", **OURS | SHORT))
    assert metrics["data"]["rows"]["train"] == len(few)
    assert metrics["results"]["validation"]["rows"] >= len(few) / 2


@pytest.mark.parametrize(("telling", "pooling"), [(slice(0, 2), "opening"), (slice(4, 20), "mean")])
def test_a_classifier_reads_the_first_words_apart_where_they_tell(
    english: Path, tmp_path: Path, capsys: Any, telling: slice, pooling: str
):
    chooser, rows = random.Random(0), []
    for row in range(60):
        label = ("sport", "money")[row % 2]
        words = chooser.choices([*WORDS["sport"], *WORDS["money"]], k=20)
        words[telling] = chooser.choices(WORDS[label], k=len(words[telling]))
        rows.append({"text": " ".join(words), "label": label})
    data = write_csv(tmp_path / "rows.csv", rows)
    run = finetune_small(data, tmp_path / "run", **OURS | SHORT)
    assert AutoClassifier.from_pretrained(run).config.classifier_pooling == pooling
    assert ("--classifier_pooling opening" in capsys.readouterr().out) == (pooling == "opening")
    run = finetune_small(data, tmp_path / "given", **OURS | SHORT, classifier_pooling="max")
    assert AutoClassifier.from_pretrained(run).config.classifier_pooling == "max"


def test_what_is_given_is_kept(english: Path, rows: Path, tmp_path: Path):
    given = SHORT | {"learning_rate": 0.002, "per_device_train_batch_size": 4, "hidden_dropout_prob": 0.2}
    metrics = read_metrics(finetune_small(rows, tmp_path / "given", **OURS | given, validation_fraction=0.2))
    assert {name: metrics["settings"][name] for name in given} == given
    assert metrics["data"]["validation_was_split"]
    assert metrics["data"]["rows"]["validation"] < 10
    assert metrics["best"]["epoch"] == 1


def test_a_run_that_was_stopped_goes_on(english: Path, rows: Path, tmp_path: Path, monkeypatch: Any):
    whole = finetune_small(rows, tmp_path / "whole", **OURS | SHORT)
    with monkeypatch.context() as patched:
        patched.setattr("wave_network.training.finetune.make_record", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune_small(rows, tmp_path / "stopped", **OURS | SHORT)
    again = finetune_small(rows, tmp_path / "stopped", **OURS | SHORT, resume_from_checkpoint="last")
    assert distance(whole, again) == 0


@pytest.mark.parametrize(("classes", "parts"), [(2, 1), (3, 1), (3, 2)])
def test_a_probe_is_the_regression_on_vectors_whose_parts_weigh_the_same(classes: int, parts: int):
    chooser = np.random.default_rng(0)
    labels = np.arange(60) % classes
    vectors = 5 + chooser.normal(size=(60, 8)) * 3 + labels[:, None]
    vectors[:, :4] *= 10
    probe = Probe(vectors, labels, 3.0, classes + 1, parts=parts)
    centred = np.split(vectors - vectors.mean(0), parts, axis=1)
    scaled = np.concatenate([part / np.sqrt(parts * (part**2).sum(1).mean()) for part in centred], axis=1)
    fitted = LogisticRegression(C=3, max_iter=1000).fit(scaled, labels)
    logits = probe(vectors)
    found = np.exp(logits[:, :classes]) / np.exp(logits[:, :classes]).sum(1, keepdims=True)
    np.testing.assert_allclose(found, fitted.predict_proba(scaled), atol=1e-4)
    assert (logits.argmax(1) < classes).all()  # a class without rows is never found
    model = WaveForSequenceClassification(WaveConfig(vocab_size=9, hidden_size=8, num_labels=classes + 1))
    probe.put_into(model)
    np.testing.assert_allclose(model.classifier(torch.tensor(vectors).float()).detach(), logits, atol=1e-3)


def test_rows_of_the_same_text_are_held_out_together():
    texts = [f"text {row // 2}" for row in range(40)]
    for train, held in cut_folds(np.arange(40) // 2 % 2, texts, 0):
        assert not {texts[row] for row in train} & {texts[row] for row in held}
    assert len(cut_folds(np.arange(40) % 2, range(40), 0)) == 3
    assert len(cut_folds(np.arange(3000) % 2, range(3000), 0)) == 1


def test_a_model_with_a_small_table_learns_the_same():
    torch.manual_seed(0)
    model = WaveForSequenceClassification(
        WaveConfig(vocab_size=50, hidden_size=8, num_labels=2, hidden_dropout_prob=0.0)
    )
    rows = Dataset.from_dict({"input_ids": [[3, 41, 7], [7, 8, 41]]})
    small, ids = shrink(model, rows), torch.tensor(rows["input_ids"][:])
    assert small.get_input_embeddings().num_embeddings == 5  # 0 is the padding
    for each in (model, small):
        optimizer = torch.optim.AdamW(each.parameters(), 0.1, weight_decay=0.0)
        for _ in range(2):
            optimizer.zero_grad()
            each(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
            optimizer.step()
    torch.testing.assert_close(model(input_ids=ids).logits, small(input_ids=ids).logits)


def test_weights_in_float16_give_the_same_logits(rows: Path, tmp_path: Path):
    full, half = (
        finetune_small(rows, tmp_path / name, save_dtype=name, num_train_epochs=2) for name in ("float32", "float16")
    )
    assert {weight.dtype for weight in load_file(half / "model.safetensors").values()} == {torch.float16}
    batch = AutoTokenizer.from_pretrained(full)(["goal match", "orbit bank"], padding=True, return_tensors="pt")
    first, second = (AutoClassifier.from_pretrained(folder)(**batch).logits for folder in (full, half))
    torch.testing.assert_close(first, second, atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def teachers(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier, whose classes are in another order, and a sentence encoder, both of one layer."""
    folder = tmp_path_factory.mktemp("teachers")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {0: "space", 1: "sport", 2: "money"}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, id2label=names, **sizes)
    torch.manual_seed(0)
    models = {"classifier": BertForSequenceClassification(config), "encoder": BertModel(config)}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: folder / name for name in models}


@pytest.mark.parametrize("kind", ["classifier", "encoder"])
def test_a_teacher_is_asked_once_about_each_text(
    kind: str, teachers: dict[str, Path], english: Path, rows: Path, tmp_path: Path, monkeypatch: Any
):
    unlabelled = write_csv(tmp_path / "more.csv", [{"text": row["text"]} for row in make_rows(30, 5)])
    asked: list[int] = []

    class Counting(WaveTrainer):
        def predict(self, test_dataset: Any, **settings: Any) -> Any:
            if len(asked) == 3 and 0 not in asked and kind == "classifier":
                asked.append(0)
                raise KeyboardInterrupt
            if "labels" not in test_dataset.column_names:
                asked.append(len(test_dataset))
            return super().predict(test_dataset, **settings)

    monkeypatch.setattr(teacher, "WaveTrainer", Counting)
    monkeypatch.setattr(teacher, "SHARD", 32)
    settings = OURS | {"teacher": teachers[kind], "unlabelled": unlabelled, "num_train_epochs": 1}
    if kind == "classifier":
        with pytest.raises(SystemExit):
            main(small_words(rows, tmp_path / "run", **settings))
        settings["resume_from_checkpoint"] = "last"
    metrics = read_metrics(finetune_small(rows, tmp_path / "run", **settings))
    texts = 2 * (metrics["data"]["rows"]["train"] + 30)
    assert sum(asked) == texts == metrics["settings"]["texts_of_teacher"]
    assert metrics["settings"]["teacher"] == str(teachers[kind])


def test_a_teacher_must_have_the_same_classes(teachers: dict[str, Path], tmp_path: Path, capsys: Any):
    data = write_csv(tmp_path / "two.csv", make_rows(40, 0, ["space", "sport"]))
    error = refuse(small_words(data, tmp_path / "run", teacher=teachers["classifier"]), capsys)
    assert "must have the classes ['space', 'sport'], got ['space', 'sport', 'money']" in error
    error = refuse(small_words(data, tmp_path / "other", unlabelled=data), capsys)
    assert "--unlabelled" in error


def test_the_loss_of_a_teacher_is_the_mean_over_the_rows():
    torch.manual_seed(0)
    logits, taught = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.cat([torch.tensor([[0.0], [2.0], [-1.0], [-1.0]]), taught], dim=1)

    def measure(labels: torch.Tensor, rows: slice = slice(4), count: int | None = None) -> torch.Tensor:
        return TeacherLoss(ClassificationLoss())(SimpleNamespace(logits=logits[rows]), labels[rows], count)

    soft = ((logits - logits.mean(1, keepdim=True)) - (taught - taught.mean(1, keepdim=True))).square().mean()
    hard = cross_entropy(logits[:2], torch.tensor([0, 2]), reduction="sum") / 4
    torch.testing.assert_close(measure(labels), soft + SHARE * hard)
    halves = (measure(labels, rows, labels.numel()) for rows in (slice(2), slice(2, 4)))
    torch.testing.assert_close(sum(halves), measure(labels))
    validation = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(measure(validation), cross_entropy(logits, validation))


def test_changed_copies_hold_words_of_the_text_alone():
    text = "one two three four five six"
    copies = {change(text, random.Random(seed)) for seed in range(50)}
    assert len(copies) > 20
    assert all(copy and set(copy.split()) <= set(text.split()) for copy in copies)
    assert change("", random.Random(0)) == ""
