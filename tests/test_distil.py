"""`distil`: every stage, a stop and a new start at each, teachers of several kinds, and what reads the result."""

import gzip
import hashlib
import itertools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from wave_network import ENGLISH, WaveForSequenceClassification
from wave_network.files import read_json
from wave_network.training import distil as room
from wave_network.training.distil import DistilArguments, Student, distil

sentence_transformers = pytest.importorskip("sentence_transformers")

WORDS = "the a cat dog bird sat ran sang on by under mat door tree red old small house river stone".split()  # noqa: SIM905
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_texts(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(5, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A BERT of two layers, with a vocabulary of its own that splits words elsewhere."""
    folder = tmp_path_factory.mktemp("teacher")
    tokens = [*SPECIAL, *WORDS[:10], *"bcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdehilmnorstuvy")]
    BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokens), initializer_range=0.1, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """One passage a line, gzip, and a CSV file with a long text."""
    folder = tmp_path_factory.mktemp("texts")
    with gzip.open(folder / "lines.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(make_texts(500, 0)) + "\n")
    long = " ".join(make_texts(8, 1))
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{text},1\n" for text in [long, "too short"]))
    return [str(folder / "lines.txt.gz"), str(folder / "rows.csv")]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(room, "SHARD", 128)
    # Trainer moves what it trains to a GPU if there is one, where sums have another order.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def set_up(teacher, texts, folder: Path, **settings) -> DistilArguments:
    defaults = {
        "vocab_size": 60,
        "hidden_size": 16,
        "held_out": 100,
        "batch_size": 32,
        "num_train_epochs": 10,
        "learning_rate": 1e-2,
        "table_learning_rate": 1e-2,
        "warmup_steps": 5,
        "eval_steps": 20,
        "disable_tqdm": True,
    }
    teacher = teacher if isinstance(teacher, list) else str(teacher)
    return DistilArguments(teacher, str(folder), texts=texts, **defaults | settings)


@pytest.fixture(scope="module")
def encoder(teacher, files, tmp_path_factory) -> Path:
    """The result of a run that nothing stopped."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(room, "SHARD", 128)
        arguments = set_up(teacher, files, tmp_path_factory.mktemp("run") / "encoder", licenses=["CC0", "by nobody"])
        return distil(arguments)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModel.from_pretrained(folder).state_dict()


# --- The whole -------------------------------------------------------------------------------------------------------


def test_it_comes_close_to_its_teacher_on_texts_that_it_did_not_see(encoder):
    metrics = read_json(encoder / "metrics.json")
    assert metrics["cosine"] > 0.6
    assert metrics["found"] > 0.5
    assert not list((encoder / "work").glob("training-*"))


def test_libraries_read_it_and_it_gives_the_mean_of_its_tokens(encoder):
    texts = make_texts(5, 2)
    model = sentence_transformers.SentenceTransformer(str(encoder), device="cpu")
    inputs = AutoTokenizer.from_pretrained(encoder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(encoder)(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(torch.from_numpy(model.encode(texts)), means)
    classifier = WaveForSequenceClassification.from_pretrained(encoder, num_labels=3)
    torch.testing.assert_close(classifier.wave.state_dict(), read_weights(encoder))


def test_the_english_encoder_comes_with_the_package():
    assert sum(path.stat().st_size for path in ENGLISH.rglob("*") if path.is_file()) < 16e6
    assert AutoModel.from_pretrained(ENGLISH).config.hidden_size == 256
    assert AutoTokenizer.from_pretrained(ENGLISH).backend_tokenizer.truncation is None
    texts = ["The bank raised its interest rates.", "Lenders are charging more for loans.", "The striker scored twice."]
    model = sentence_transformers.SentenceTransformer(str(ENGLISH), device="cpu")
    rates, loans, goals = model.encode(texts, normalize_embeddings=True)
    assert rates @ loans > 2 * max(rates @ goals, 0)


def test_the_card_says_who_taught_what(encoder, teacher, files):
    card = (encoder / "README.md").read_text()
    sha256 = hashlib.sha256((teacher / "model.safetensors").read_bytes()).hexdigest()
    for said in [
        "lines.txt.gz | 1 | CC0",
        "rows.csv | 1 | by nobody",
        f"learned from {teacher.name}\n",
        f"{teacher.name} | model.safetensors | {sha256}",
    ]:
        assert said in card
    assert str(teacher.parent) not in card


def test_passages_have_so_many_words_and_stand_there_once(encoder, files):
    passages = room.load_from_disk(next((encoder / "work").glob("passages-*")))["text"]
    assert len(set(passages)) == len(passages)
    assert {len(text.split()) for text in passages} <= set(range(5, 65))
    long = Path(files[1]).read_text().split("\n")[1].removesuffix(",1").split()
    assert " ".join(long[:64]) in passages


# --- A stop and a new start ------------------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818
    pass


def fail_at(function, call: int):
    """The function, which raises `Stop` at its nth call."""
    calls = itertools.count(1)

    def wrapped(*arguments, **settings):
        if next(calls) == call:
            raise Stop
        return function(*arguments, **settings)

    return wrapped


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (room, "read_texts", 2),
        (room.Dataset, "save_to_disk", 1),
        (room, "train_wave_tokenizer", 1),
        (room.np, "save", 1),  # the vocabulary
        (room.np, "save", 3),  # the second file of vectors
        (room.Dataset, "map", 1),
        (room.Student, "forward", 30),
        (room, "describe", 1),
        (room.os, "replace", -1),  # half of the result has its name
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_was_stopped_goes_on_to_the_same_weights(
    teacher, files, encoder, tmp_path, monkeypatch, owner, name, call
):
    arguments = set_up(teacher, files, tmp_path / "encoder")
    with monkeypatch.context() as patched:
        if call < 0:
            patched.setattr(Path, "rmdir", fail_at(Path.rmdir, 1))
        else:
            patched.setattr(owner, name, fail_at(getattr(owner, name), call))
        with pytest.raises(Stop):
            distil(arguments)
    if call > 0:
        assert not (tmp_path / "encoder" / "config.json").exists()
        distil(arguments)
    assert not list((tmp_path / "encoder" / "work").glob("**/*.tmp"))
    torch.testing.assert_close(read_weights(tmp_path / "encoder"), read_weights(encoder), rtol=0, atol=0)


def test_more_passages_ask_the_teacher_for_the_new_ones_alone(teacher, files, tmp_path, monkeypatch):
    asked = []
    encode = sentence_transformers.SentenceTransformer.encode

    def count(self, texts, **settings):
        asked.append(len(texts))
        return encode(self, texts, **settings)

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode", count)
    settings = {"work_dir": str(tmp_path / "work"), "num_train_epochs": 0.1, "tokenizer": str(teacher)}
    distil(set_up(teacher, files, tmp_path / "few", max_passages=128, **settings))
    distil(set_up(teacher, files, tmp_path / "more", max_passages=256, **settings))
    vocabulary = len(AutoTokenizer.from_pretrained(teacher)) - len(SPECIAL)
    assert asked == [vocabulary, 128, 128]


# --- Teachers --------------------------------------------------------------------------------------------------------


def test_first_tokens_and_means_of_a_plain_model(teacher, files, tmp_path):
    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModel.from_pretrained(teacher).eval()
    for pooling, dtype in (("cls", "float32"), ("mean", "float32"), (None, "float32"), ("mean", "bfloat16")):
        settings = {"teacher_pooling": pooling, "teacher_dtype": dtype, "max_passages": 110}
        arguments = set_up(teacher, files, tmp_path / f"{pooling}-{dtype}", **settings)
        stages = room.Stages(arguments)
        found = np.load(stages.get_vectors()[0] / "00000.npy")
        inputs = tokenizer(stages.passages["text"][:128], padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        expected = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(
            torch.from_numpy(found).float(), expected, rtol=2e-3, atol=2e-3 if dtype == "float32" else 5e-2
        )


def test_a_table_holds_what_the_teacher_has_for_each_token_alone(teacher, files, tmp_path, monkeypatch):
    stages = room.Stages(set_up(teacher, files, tmp_path / "run", hidden_size=32))
    tokenizer = AutoTokenizer.from_pretrained(teacher)  # WordPiece: "##a" is asked for as "a"
    tokens = stages.get_tokens(tokenizer)
    shortened = stages.get_table(tokenizer, tokens)
    monkeypatch.setattr(room, "RARE", 1e6)
    table = stages.get_table(tokenizer, tokens)
    vocabulary = tokenizer.get_vocab()
    assert not table[: len(SPECIAL)].any()
    torch.testing.assert_close(table[vocabulary["a"]], table[vocabulary["##a"]])
    words = [vocabulary[word] for word in ("cat", "dog", "b")]
    expected = torch.from_numpy(stages.teachers[0][0].encode(["cat", "dog", "b"]))
    distances = torch.pdist(table[words])
    torch.testing.assert_close(distances / distances.sum(), torch.pdist(expected) / torch.pdist(expected).sum())
    assert table.std().item() == pytest.approx(room.TABLE_SCALE)
    # A frequent word keeps its direction, and is shorter beside a rare one.
    ratios = shortened[words].norm(dim=-1) / table[words].norm(dim=-1)
    assert ratios[0] < ratios[2] / 2
    torch.testing.assert_close(torch.cosine_similarity(shortened[words], table[words]), torch.ones(3))


def test_vectors_of_several_teachers_stand_side_by_side(teacher, files, tmp_path):
    other = shutil.copytree(teacher, tmp_path / "other")
    folder = distil(set_up([str(teacher), str(other)], files, tmp_path / "encoder", num_train_epochs=0.1))
    assert [row["teacher"] for row in read_json(folder / "metrics.json")["teachers"]] == [teacher.name, "other"]
    assert f"learned from {teacher.name} and other\n" in (folder / "README.md").read_text()
    folders = sorted((folder / "work").glob("vectors-*"))
    # A teacher beside its own copy says what it says alone.
    alone, twice = (room.Vectors(given, 256, 16)[range(20)] for given in (folders[:1], folders))
    assert len(folders) == 2
    torch.testing.assert_close(twice @ twice.T, alone @ alone.T, rtol=0, atol=1e-5)
    # Fewer directions than dimensions: the rest is 0, and no angle changes.
    wide = room.Vectors(folders[:1], 256, 40)
    expected = wide.join(range(20))
    assert wide[range(20)].shape == (20, 40)
    torch.testing.assert_close(wide[range(20)] @ wide[range(20)].T, expected @ expected.T, rtol=0, atol=1e-5)


def test_a_parquet_file_of_texts_and_vectors_is_a_teacher(tmp_path):
    texts = list(dict.fromkeys(make_texts(400, 3)))
    directions = torch.randn(len(WORDS), 12, generator=torch.Generator().manual_seed(0))
    vectors = [sum(directions[WORDS.index(word)] for word in text.split()).tolist() for text in texts]
    pq.write_table(pa.table({"text": texts, "vector": vectors}), tmp_path / "known.parquet")
    arguments = set_up(tmp_path / "known.parquet", [], tmp_path / "encoder")
    metrics = read_json(distil(arguments) / "metrics.json")
    assert metrics["cosine"] > 0.6
    assert metrics["passages"] == len(texts)


# --- Parts -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_half_of_one_minus_cosine_and_a_choice_within_the_batch():
    torch.manual_seed(0)
    config = room.WaveConfig(vocab_size=50, hidden_size=8, hidden_dropout_prob=0.0)
    student = Student(room.WaveModel(config), contrast=0.3, temperature=0.1)
    ids = torch.randint(5, 50, (4, 7))
    vectors = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    outputs = student(ids, torch.ones_like(ids), vectors)
    cosines = torch.stack([torch.cosine_similarity(outputs["found"][[row]], vectors) for row in range(4)])
    choices = -(cosines / 0.1).log_softmax(-1).diagonal().mean()
    torch.testing.assert_close(outputs["loss"], (1 - cosines.diagonal().mean()) / 2 + 0.3 * choices)


def test_half_precision_halves_the_file_and_loads_as_float32(teacher, files, tmp_path):
    settings = {"num_train_epochs": 0.1, "work_dir": str(tmp_path / "work")}
    halved, whole = (
        distil(set_up(teacher, files, tmp_path / dtype, save_dtype=dtype, **settings))
        for dtype in ("float16", "float32")
    )
    assert (halved / "model.safetensors").stat().st_size < 0.6 * (whole / "model.safetensors").stat().st_size
    assert {weight.dtype for weight in read_weights(halved).values()} == {torch.float32}
    torch.testing.assert_close(read_weights(halved), read_weights(whole), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"texts": []}, ValueError, ["texts", "got []"]),
        ({"texts": [], "teacher": ["known.parquet", "b"]}, ValueError, ["teacher", "one Parquet file alone"]),
        ({"teacher": "known.parquet"}, ValueError, ["texts", "Parquet", "lines.txt.gz"]),
        ({"texts": ["{0}:0"]}, ValueError, ["texts", "lines.txt.gz:0", "above 0"]),
        ({"texts": ["{0}:all"]}, ValueError, ["texts", "lines.txt.gz:all", "SHARE"]),
        ({"texts": ["nowhere.txt"]}, FileNotFoundError, ["nowhere.txt"]),
        ({"held_out": 5000}, ValueError, ["held_out", "5000", "passages"]),
        ({"max_words": 3}, ValueError, ["max_words", "3", "at least 5"]),
        ({"licenses": ["CC0"]}, ValueError, ["licenses", "2", "1"]),
        ({"model_config": '{"magnitude": "l3"}'}, ValueError, ["magnitude", "l3"]),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(teacher, files, tmp_path, settings, error, words):
    texts = [each.format(*files) for each in settings.get("texts", files)]
    with pytest.raises(error) as caught:
        distil(set_up(**{"teacher": teacher, "folder": tmp_path} | settings | {"texts": texts}))
    assert all(word in str(caught.value) for word in words)


def test_an_encoder_is_not_overwritten(encoder, teacher, files):
    before = json.dumps(read_json(encoder / "config.json"))
    with pytest.raises(FileExistsError, match="config"):
        distil(set_up(teacher, files, encoder))
    assert json.dumps(read_json(encoder / "config.json")) == before
