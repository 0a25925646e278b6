"""Subwords: the embedding of a token is made of its spelling while it trains, and is a plain table afterwards."""

import math
import zlib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.training.subwords import (
    BUCKETS,
    SubwordEmbedding,
    add_subwords,
    cut_grams,
    fold_subwords,
    mark_words,
    resolve_subwords,
)

PIECES = ["", "<wave>", "ing>", "<a>", "<waves>"]


def make_table(buckets: int = 7) -> SubwordEmbedding:
    torch.manual_seed(0)
    table = SubwordEmbedding(nn.Embedding(len(PIECES), 4, padding_idx=0, dtype=torch.float64), PIECES, buckets)
    nn.init.normal_(table.subwords)
    return table


def make_model() -> tuple[WaveForSequenceClassification, PreTrainedTokenizerFast]:
    tokenizer = train_wave_tokenizer(["wave waves waving", "wave"], 60, show_progress=False)
    torch.manual_seed(0)
    model = WaveForSequenceClassification(WaveConfig(vocab_size=len(tokenizer) + 3, hidden_size=8)).eval()
    return model, tokenizer


def test_the_n_grams_of_a_word():
    assert cut_grams("<wave>") == ["<wa", "wav", "ave", "ve>", "<wav", "wave", "ave>", "<wave", "wave>"]
    assert cut_grams("<a>") == ["<a>"]
    assert cut_grams("") == []


def test_a_tokenizer_says_where_its_pieces_begin():
    tokenizer = make_model()[1]
    pieces = dict(zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), mark_words(tokenizer), strict=True))
    assert (pieces[" wave"], pieces["s"], pieces["[CLS]"]) == ("<wave>", "s>", "")
    other = BPE({"<s>": 0, "▁": 1, "▁wave": 2, "s": 3, "<0x41>": 4}, [])
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(other), bos_token="<s>")
    assert mark_words(other) == ["", "", "<wave>", "s>", ""]
    assert [resolve_subwords(None, other, is_new) for is_new in (True, False)] == [BUCKETS, 0]
    assert resolve_subwords(7, other, is_new=False) == 7


@pytest.mark.parametrize("buckets", [1, 7, 5000])
def test_each_row_is_its_own_and_the_sum_of_its_n_grams_over_the_root_of_their_number(buckets: int):
    table = make_table(buckets)
    for index, piece in enumerate(PIECES):
        rows = [zlib.crc32(gram.encode()) % buckets for gram in cut_grams(piece)]
        expected = table.own[index] + table.subwords[rows].sum(0) / math.sqrt(len(rows) or 1)
        torch.testing.assert_close(table(torch.tensor([[index]]))[0, 0], expected)


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


def test_other_tables_and_tokenizers_are_refused():
    model, tokenizer = make_model()
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    assert resolve_subwords(None, plain, is_new=True) == 0
    other = WaveForSequenceClassification(model.config)
    other.set_input_embeddings(nn.EmbeddingBag(5, 8))
    for given in ((model, plain), (other, tokenizer)):
        with pytest.raises(ValueError, match=r"`subword_buckets` must be 0 of WaveForSeq.*, got 11: it needs words"):
            add_subwords(*given, 11)
