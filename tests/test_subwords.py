"""Subwords: the embedding of a token is made of its spelling while it trains, and is a plain table afterwards."""

import math
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import finetune_small, interrupt, read_metrics, refuse, small_words, write_data
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.training.cli import main
from wave_network.training.settings import RunArguments
from wave_network.training.subwords import (
    BUCKETS,
    SubwordEmbedding,
    add_subwords,
    cut_grams,
    fold_subwords,
    settle_subwords,
    spell,
)

PIECES = ["", "<wave>", "ing>", "<a>", "<waves>"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


def make_table(buckets: int = 7) -> SubwordEmbedding:
    torch.manual_seed(0)
    table = SubwordEmbedding(nn.Embedding(len(PIECES), 4, padding_idx=0, dtype=torch.float64), PIECES, buckets)
    nn.init.normal_(table.subwords)
    return table


def test_the_n_grams_of_a_word():
    assert list(cut_grams("<wave>")) == ["<wa", "wav", "ave", "ve>", "<wav", "wave", "ave>", "<wave", "wave>"]
    assert list(cut_grams("<a>")) == ["<a>"]
    assert list(cut_grams("")) == []


def test_a_tokenizer_says_where_its_pieces_begin():
    tokenizer = train_wave_tokenizer(["wave waves waving", "wave"], 60)
    pieces = dict(zip(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), spell(tokenizer), strict=True))
    assert pieces["wave"] == "<wave>"
    assert pieces["##s"] == "s>"
    assert {pieces[token] for token in tokenizer.all_special_tokens} == {""}


@pytest.mark.parametrize("buckets", [1, 7, 5000])
def test_each_row_is_its_own_and_the_sum_of_its_n_grams_over_the_root_of_their_number(buckets: int):
    table = make_table(buckets)
    for index, piece in enumerate(PIECES):
        expected = table.own[index].clone()
        rows = [zlib.crc32(gram.encode()) % buckets for gram in cut_grams(piece)]
        for row in rows:
            expected += table.subwords[row] / math.sqrt(len(rows))
        torch.testing.assert_close(table(torch.tensor([[index]]))[0, 0], expected)
        torch.testing.assert_close(table.weight[index], expected)


def test_ids_of_any_shape_and_repeated_ones_get_their_rows_and_all_gradients():
    table, ids = make_table(), torch.tensor([[1, 4, 1], [0, 2, 3]])
    torch.testing.assert_close(table(ids), table.weight[ids])
    weights = torch.randn(2, 3, 4, dtype=torch.float64)
    (table(ids) * weights).sum().backward()
    found = [table.own.grad.clone(), table.subwords.grad.clone()]
    table.zero_grad()
    (table.weight[ids] * weights).sum().backward()
    # Padding is a constant, as in nn.Embedding, and has no n-grams.
    assert (found[0][0] == 0).all()
    torch.testing.assert_close(found[0][1:], table.own.grad[1:])
    torch.testing.assert_close(found[1], table.subwords.grad)


def test_row_sparse_gradients_are_the_same():
    tables, ids = [make_table(), make_table()], torch.tensor([[1, 4, 1], [0, 2, 3]])
    tables[1].sparse = True
    for table in tables:
        table(ids).square().sum().backward()
    for dense, sparse in zip(*(table.parameters() for table in tables), strict=True):
        assert sparse.grad.is_sparse
        torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)


def test_an_id_that_is_no_row_is_refused():
    with pytest.raises(IndexError):
        make_table()(torch.tensor([len(PIECES)]))


def make_model() -> tuple[WaveForSequenceClassification, PreTrainedTokenizerFast]:
    tokenizer = train_wave_tokenizer(["wave waves waving", "wave"], 60)
    torch.manual_seed(0)
    model = WaveForSequenceClassification(WaveConfig(vocab_size=len(tokenizer) + 3, hidden_size=8)).eval()
    return model, tokenizer


def test_a_model_begins_as_it_was_and_folds_to_what_it_has_become(tmp_path: Path):
    model, tokenizer = make_model()
    names, ids = set(model.state_dict()), torch.arange(len(tokenizer) + 3)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        add_subwords(model, tokenizer, 11)
        assert torch.equal(model(input_ids=ids).logits, before)
        nn.init.normal_(model.get_input_embeddings().subwords)
        grown = model(input_ids=ids).logits
        assert not torch.allclose(grown, before)

        # A checkpoint of the training loads as a plain model too, with the same embeddings.
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(input_ids=ids).logits, grown)
        fold_subwords(model)
        torch.testing.assert_close(model(input_ids=ids).logits, grown)
    assert set(model.state_dict()) == names
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_saved_is_what_is_loaded_to_the_bit():
    table, other = make_table(), make_table()
    nn.init.normal_(other.subwords)
    nn.init.normal_(other.own)
    assert other.load_state_dict(table.state_dict()) == ([], [])
    assert torch.equal(other.own, table.own)
    assert torch.equal(other.subwords, table.subwords)


def test_other_tables_and_tokenizers_are_refused():
    model, _ = make_model()
    with pytest.raises(ValueError, match=r"`subword_buckets` \(11\) is for a WordPiece tokenizer.* BPE"):
        add_subwords(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE())), 11)
    model.set_input_embeddings(nn.EmbeddingBag(5, 8))
    with pytest.raises(ValueError, match=r"in an nn.Embedding; those of WaveForSequenceClassification are in Embedd"):
        add_subwords(model, make_model()[1], 11)


def test_a_run_leaves_a_plain_model_and_its_record(data: Path, tmp_path: Path):
    run = finetune_small(data, tmp_path / "run", subword_buckets=50, mixup_alpha=1.0, packing=True, calibrate=True)
    plain = finetune_small(data, tmp_path / "plain")
    weights = load_file(run / "model.safetensors")
    assert weights.keys() == load_file(plain / "model.safetensors").keys()
    metrics = read_metrics(run)
    assert metrics["model"]["parameters"] == read_metrics(plain)["model"]["parameters"]
    assert metrics["settings"]["subword_buckets"] == 50
    assert "--subword_buckets 50" in metrics["command"]

    # The table is that of the best checkpoint, which has its parts as well.
    found = [load_file(path) for path in sorted(run.glob("checkpoint-*/model.safetensors"))]
    name = "wave.embeddings.word_embeddings."
    assert any(torch.equal(each[name + "weight"], weights[name + "weight"]) for each in found)
    assert all(each[name + "subwords"].shape == (50, 16) for each in found)
    assert all((each[name + "subwords"] != 0).any() for each in found)


def test_a_new_model_has_them_without_a_word(data: Path, tmp_path: Path):
    words = small_words(data, tmp_path / "run", num_train_epochs=1)
    at = words.index("--subword_buckets")
    main([*words[:at], *words[at + 2 :]])
    metrics = read_metrics(tmp_path / "run")
    assert metrics["settings"]["subword_buckets"] == BUCKETS
    assert "subword" not in metrics["command"]


@pytest.mark.parametrize(
    "others", [{}, {"sparse_embeddings": True}, {"ema_decay": 0.9, "mixup_alpha": 1.0}], ids=["alone", "sparse", "mean"]
)
def test_a_run_goes_on_to_the_same_weights(others: dict[str, Any], data: Path, tmp_path: Path):
    settings = {"subword_buckets": 50} | others
    whole = finetune_small(data, tmp_path / "whole", **settings)
    halved = interrupt(data, tmp_path / "halved", 1, **settings)
    finetune_small(data, halved, **settings, resume=True)
    expected, found = (load_file(run / "model.safetensors") for run in (whole, halved))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("buckets", [0, 51])
def test_a_resumed_run_must_have_the_subwords_it_had(
    buckets: int, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = interrupt(data, tmp_path / "run", 1, subword_buckets=50)
    error = refuse(small_words(data, run, resume=True, subword_buckets=buckets), capsys)
    assert f"`subword_buckets` ({buckets}) must be what it was" in error
    assert "begun with 50" in error


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"subword_buckets": -1}, ["`subword_buckets`", "at least 1", "got -1"]),
        ({"subword_buckets": 9, "fsdp": True}, ["`subword_buckets` (9)", "`fsdp` (True)"]),
    ],
)
def test_what_makes_no_run_is_refused(
    settings: dict, words: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data, tmp_path / "run", **settings), capsys)
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "is_new", "model", "expected"),
    [
        ({}, True, WordPiece(), BUCKETS),
        ({"subword_buckets": 0}, True, WordPiece(), 0),
        ({"subword_buckets": 7}, False, WordPiece(), 7),
        ({}, False, WordPiece(), 0),
        ({}, True, BPE(), 0),
        ({"fsdp": True}, True, WordPiece(), 0),
    ],
)
def test_a_new_model_on_word_pieces_has_them_by_default(
    settings: dict[str, Any], is_new: bool, model: Any, expected: int, tmp_path: Path
):
    arguments = RunArguments(output_dir=str(tmp_path), use_cpu=True)
    for name, value in settings.items():  # `fsdp` alone asks for a GPU or more processes
        setattr(arguments, name, value)
    settle_subwords(arguments, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model)), is_new)
    assert arguments.subword_buckets == expected
