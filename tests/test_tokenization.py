"""The tokenizers that are trained or loaded: transformers' own class, complete, and the same in every process."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase
from transformers import AutoTokenizer, BertTokenizer

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer, train_wave_tokenizer

BERT_VOCAB = Path(__file__).parents[2] / "shared" / "data" / "bert_vocab" / "vocab.txt"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "The cat sat on the mat, and the dog sat by the door.",
    "A dog saw the cat; the cat saw 17 birds!",
    "Birds sing at the café, naïvely.",
] * 3


def train(**settings) -> BertTokenizer:
    return train_wave_tokenizer(TEXTS, **({"vocab_size": 120, "show_progress": False} | settings))


@pytest.fixture
def vocab_file(tmp_path) -> Path:
    # U+2028 is a token of Chinese BERT vocabularies, and a line break for str.splitlines().
    tokens = [*SPECIAL, "\u2028", "the", "cat", "##s", "dog"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=["trained", "file", "folder", "folder of a vocabulary", "json"])
def tokenizer(request, vocab_file, tmp_path):
    """One tokenizer from each source, all of them with a maximum of 8 tokens."""
    if request.param == "file":
        return load_wave_tokenizer(vocab_file, model_max_length=8)
    if request.param == "folder of a vocabulary":
        return load_wave_tokenizer(vocab_file.parent, model_max_length=8)
    trained = train(model_max_length=8)
    if request.param == "trained":
        return trained
    trained.save_pretrained(tmp_path / "saved")
    if request.param == "folder":
        return load_wave_tokenizer(tmp_path / "saved")
    return load_wave_tokenizer(tmp_path / "saved" / "tokenizer.json", model_max_length=8)


def test_it_is_the_stock_class_with_berts_special_tokens(tokenizer):
    assert type(tokenizer) is BertTokenizer
    assert tokenizer.is_fast
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    named = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    assert [getattr(tokenizer, name) for name in named] == SPECIAL
    assert tokenizer.pad_token_id == WaveConfig().pad_token_id == 0


def test_texts_and_pairs_are_framed_as_in_bert(tokenizer):
    cat, dog = (tokenizer.convert_tokens_to_ids(word) for word in ("cat", "dog"))
    single = tokenizer("Cat DOG")
    assert single["input_ids"] == [2, cat, dog, 3]
    assert single["token_type_ids"] == [0, 0, 0, 0]
    pair = tokenizer("cat dog", "dog")
    assert pair["input_ids"] == [2, cat, dog, 3, dog, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert tokenizer.decode(pair["input_ids"], skip_special_tokens=True) == "cat dog dog"


def test_an_empty_text_is_two_special_tokens_and_an_unknown_word_is_one(tokenizer):
    assert tokenizer("")["input_ids"] == [2, 3]
    assert tokenizer("cat ☃ cat")["input_ids"][2] == 1


def test_padding_is_masked(tokenizer):
    batch = tokenizer(["cat", "cat dog cat"], padding=True)
    assert batch["input_ids"][0][-2:] == [0, 0]
    assert batch["attention_mask"] == [[1, 1, 1, 0, 0], [1] * 5]


def test_long_texts_are_truncated_or_warned_of(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert tokenizer.model_max_length == 8
    cut = tokenizer("cat " * 20, truncation=True)["input_ids"]
    assert len(cut) == 8
    assert cut[-1] == tokenizer.sep_token_id
    assert len(tokenizer("cat " * 20, "dog " * 20, truncation=True)["input_ids"]) == 8
    with caplog.at_level("WARNING", logger="transformers"):
        assert len(tokenizer("cat " * 20)["input_ids"]) == 22
    assert "22 > 8" in caplog.text


def test_training_learns_words_within_the_size_that_was_asked_for():
    assert len(train(vocab_size=70)) == 70
    large = train(vocab_size=5000)
    assert len(large) < 5000
    assert large.tokenize("The cat sat") == ["the", "cat", "sat"]
    assert sorted(large.get_vocab().values()) == list(range(len(large)))


def test_case_and_accents_are_kept_on_request():
    assert "é" not in train().get_vocab()
    cased = train(do_lower_case=False)
    assert cased.tokenize("The") != cased.tokenize("the")
    assert any("é" in token for token in cased.get_vocab())


def test_a_generator_is_read_once_and_gives_the_same_vocabulary():
    seen = []

    def stream():
        for text in TEXTS:
            seen.append(text)
            yield text

    streamed = train_wave_tokenizer(stream(), vocab_size=120, show_progress=False)
    assert seen == TEXTS
    assert streamed.get_vocab() == train().get_vocab()


def test_more_characters_than_the_vocabulary_holds_are_all_kept():
    """A character without an id would be unknown, and its word with it."""
    assert len(train(vocab_size=6)) > 6
    assert "[UNK]" not in train(vocab_size=6).tokenize("cat and dog")


def in_fresh_process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_training_gives_the_same_vocabulary_in_every_process():
    """tokenizers' own training does not: it numbers single characters in the order of a hash table."""
    code = (
        "import json, sys; from wave_network import train_wave_tokenizer\n"
        "tokenizer = train_wave_tokenizer(json.loads(sys.argv[1]), vocab_size=120, show_progress=False)\n"
        "print(json.dumps(tokenizer.get_vocab(), sort_keys=True))"
    )
    expected = train().get_vocab()
    for texts in (TEXTS, TEXTS[::-1]):
        assert json.loads(in_fresh_process(code, json.dumps(texts))) == expected


def test_a_saved_tokenizer_loads_without_our_package(tmp_path):
    """From the folder of a model, whose config.json is of a type that transformers does not know."""
    tokenizer = train(model_max_length=9)
    tokenizer.save_pretrained(tmp_path)
    WaveForSequenceClassification(WaveConfig(vocab_size=len(tokenizer), hidden_size=8)).save_pretrained(tmp_path)
    code = (
        "import json, sys; from transformers import AutoTokenizer\n"
        "sys.modules['wave_network'] = None\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)\n"
        "ids = tokenizer('the cat', 'sat ' * 20, truncation=True)['input_ids']\n"
        "print(json.dumps([type(tokenizer).__name__, tokenizer.model_max_length, ids]))"
    )
    expected = ["BertTokenizer", 9, tokenizer("the cat", "sat " * 20, truncation=True)["input_ids"]]
    assert json.loads(in_fresh_process(code, tmp_path)) == expected


def test_auto_tokenizer_loads_the_folder_of_a_model(tmp_path):
    tokenizer = train()
    tokenizer.save_pretrained(tmp_path)
    WaveForSequenceClassification(WaveConfig(vocab_size=len(tokenizer), hidden_size=8)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is BertTokenizer
    assert loaded.get_vocab() == tokenizer.get_vocab()


@pytest.mark.skipif(not BERT_VOCAB.exists(), reason="BERT's vocabulary lies beside the repository, not in it")
def test_berts_own_vocabulary_gives_berts_own_ids():
    tokenizer = load_wave_tokenizer(BERT_VOCAB)
    assert type(tokenizer) is BertTokenizer
    assert len(tokenizer) == WaveConfig().vocab_size
    assert tokenizer.model_max_length == 512
    # The ids that the documentation of bert-base-uncased shows.
    assert tokenizer("Hello, my dog is cute")["input_ids"] == [101, 7592, 1010, 2026, 3899, 2003, 10140, 102]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.mask_token_id == 103


def test_a_vocabulary_file_gives_each_line_its_number(vocab_file):
    tokenizer = load_wave_tokenizer(vocab_file)
    assert tokenizer.get_vocab()["\u2028"] == 5
    assert tokenizer("cats")["input_ids"] == [2, 7, 8, 3]
    assert tokenizer.model_max_length == 512


@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {}, {"strip_accents": False}], ids=str)
def test_what_is_loaded_from_a_json_file_is_saved_as_it_is(tmp_path, settings):
    vocabulary = train(do_lower_case=False).get_vocab()
    BertTokenizer(vocab=vocabulary, tokenize_chinese_chars=False, **settings).save_pretrained(tmp_path / "a")
    loaded = load_wave_tokenizer(tmp_path / "a" / "tokenizer.json")
    loaded.save_pretrained(tmp_path / "b")
    again = AutoTokenizer.from_pretrained(tmp_path / "b")
    text = "The café 猫犬 Birds"
    assert again(text)["input_ids"] == loaded(text)["input_ids"]
    assert again.backend_tokenizer.normalizer.__getstate__() == loaded.backend_tokenizer.normalizer.__getstate__()


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "settings", "error", "words"),
    [
        ("one text", {}, TypeError, ["texts", "single string", "[text]"]),
        (["fine", None], {}, TypeError, ["texts", "None", "NoneType", "index 1"]),
        (["fine", b"bytes"], {}, TypeError, ["texts", "b'bytes'", "bytes", "index 1"]),
        ([["a", "list"]], {}, TypeError, ["texts", "['a', 'list']", "index 0"]),
        (TEXTS, {"vocab_size": 5}, ValueError, ["vocab_size", "5", "[MASK]"]),
        (TEXTS, {"vocab_size": -1}, ValueError, ["vocab_size", "-1", "[MASK]"]),
        (TEXTS, {"vocab_size": 2**40}, ValueError, ["vocab_size", str(2**40), "16777216"]),
        (TEXTS, {"vocab_size": "100"}, TypeError, ["vocab_size", "'100'"]),
        (TEXTS, {"min_frequency": -1}, ValueError, ["min_frequency", "-1", "from 0"]),
        (TEXTS, {"min_frequency": 1.5}, TypeError, ["min_frequency", "1.5", "integer"]),
        (TEXTS, {"model_max_length": 2}, ValueError, ["model_max_length", "2", "from 3"]),
        (None, {}, TypeError, ["texts", "None", "iterable"]),
        (["fine", "\ud800"], {}, ValueError, ["texts", "index 1", "'\\ud800'"]),
        ([], {}, ValueError, ["texts", "at least one", "none"]),
        (["", "  \n"], {}, ValueError, ["texts", "at least one", "none"]),
    ],
    ids=str,
)
def test_bad_corpora_are_refused_by_name(texts, settings, error, words):
    with pytest.raises(error) as caught:
        train_wave_tokenizer(texts, show_progress=False, **settings)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("suffix", [".vocab", "", ".tsv"])
def test_a_file_of_another_kind_is_refused(tmp_path, suffix):
    path = tmp_path / f"words{suffix}"
    path.write_text("\n".join(SPECIAL))
    with pytest.raises(ValueError, match=r"\.txt or a \.json file") as caught:
        load_wave_tokenizer(path)
    assert str(path) in str(caught.value)


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nthe\n[SEP]\n")
    with pytest.raises(ValueError, match="it lacks") as caught:
        load_wave_tokenizer(path)
    _, lacks = str(caught.value).split("it lacks")
    assert str(path) in str(caught.value)
    assert [token in lacks for token in SPECIAL] == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello\nhello\nworld\n", ["each token once", "['hello']"]),
        ("caf\u00e9\n".encode("latin-1"), ["UTF-8"]),
    ],
    ids=["repeated", "latin-1"],
)
def test_a_vocabulary_that_would_give_wrong_ids_is_refused(tmp_path, content, words):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join(SPECIAL).encode() + b"\n" + content)
    with pytest.raises(ValueError, match="vocabulary") as caught:
        load_wave_tokenizer(path)
    assert all(word in str(caught.value) for word in [*words, str(path)])


def test_a_mark_before_a_vocabulary_and_empty_lines_after_it_are_no_tokens(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join([*SPECIAL, "cat"]).encode("utf-8-sig") + b"\n\n\n")
    assert load_wave_tokenizer(path).get_vocab() == {token: index for index, token in enumerate([*SPECIAL, "cat"])}


def test_a_json_file_without_a_special_token_is_refused(tmp_path):
    backend = train().backend_tokenizer
    state = json.loads(backend.to_str())
    state["model"]["vocab"]["[ELSE]"] = state["model"]["vocab"].pop("[CLS]")
    state["added_tokens"], state["post_processor"] = [], None
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"lacks \['\[CLS\]'\]"):
        load_wave_tokenizer(tmp_path / "tokenizer.json")


def test_a_missing_file_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_wave_tokenizer(tmp_path / "nowhere.txt")


def test_a_setting_that_contradicts_the_json_file_is_refused(tmp_path):
    train(do_lower_case=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`do_lower_case` must be what .* has, False, got True"):
        load_wave_tokenizer(tmp_path / "tokenizer.json", do_lower_case=True)


def test_a_damaged_json_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(ValueError, match=r"tokenizer\.json' cannot be read"):
        load_wave_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("model", "normalizer", "words"),
    [(BPE(), BertNormalizer(), ["BPE"]), (WordPiece({"[UNK]": 0}), Lowercase(), ["WordPiece", "Lowercase"])],
    ids=["model", "normalizer"],
)
def test_a_json_file_of_another_kind_of_tokenizer_is_refused(tmp_path, model, normalizer, words):
    path = tmp_path / "tokenizer.json"
    backend = Tokenizer(model)
    backend.normalizer = normalizer
    backend.save(str(path))
    with pytest.raises(ValueError, match="`model` of the type WordPiece") as caught:
        load_wave_tokenizer(path)
    for word in [*words, str(path), "PreTrainedTokenizerFast"]:
        assert word in str(caught.value)
