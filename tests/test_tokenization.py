"""Tokenizers, trained or loaded: stock classes that read every text, complete, and the same in every process."""

import json
import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer, train_wave_tokenizer
from wave_network.tokenization import spell

BERT_VOCAB = Path(__file__).parents[2] / "shared" / "data" / "bert_vocab" / "vocab.txt"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "The cat sat on the mat, and the dog sat by the door.",
    "A dog saw the cat; the cat saw 17 birds!",
    "Birds sing at the café, naïvely, every año.",
] * 3


def train(texts=TEXTS, vocab_size=100, **settings) -> PreTrainedTokenizerFast:
    return train_wave_tokenizer(texts, vocab_size, show_progress=False, **settings)


TRAINED = {lowercase: train(lowercase=lowercase) for lowercase in (True, False)}


def split(text: str) -> list[str]:
    """The words that a text is split into."""
    backend = TRAINED[True].backend_tokenizer
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    return [word.removeprefix(" ") for word, _ in words]


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


# --- What every tokenizer does ---------------------------------------------------------------------------------------


def test_it_is_a_stock_class_with_berts_special_tokens(tokenizer):
    assert type(tokenizer) in (BertTokenizer, PreTrainedTokenizerFast)
    assert tokenizer.is_fast
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    named = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    assert [getattr(tokenizer, name) for name in named] == SPECIAL
    assert tokenizer.pad_token_id == WaveConfig().pad_token_id == 0


def test_texts_and_pairs_are_framed_as_in_bert(tokenizer):
    cat, dog = (tokenizer(word)["input_ids"][1] for word in ("cat", "dog"))
    single = tokenizer("Cat DOG")
    assert single["input_ids"] == [2, cat, dog, 3]
    assert single["attention_mask"] == [1, 1, 1, 1]
    pair = tokenizer("cat dog", "dog", return_token_type_ids=True)
    assert pair["input_ids"] == [2, cat, dog, 3, dog, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert tokenizer.decode(pair["input_ids"], skip_special_tokens=True) == "cat dog dog"
    assert tokenizer("")["input_ids"] == [2, 3]


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


# --- Every text is read ----------------------------------------------------------------------------------------------


# Of characters that this Python knows: an older Unicode orders the marks of a newer one otherwise.
KNOWN = st.characters(exclude_categories=["Cn", "Cs"])


@pytest.mark.parametrize("lowercase", [True, False])
@given(text=st.text(KNOWN, max_size=200))
@example(text="año ёлка में मैं バス má mả ﷽ \u2581 \ufeff\x00\x1c İstanbul ΣΑΣ 👩\u200d👩\u200d👧")
def test_no_text_is_unknown_or_loses_more_than_case_and_spaces(lowercase, text):
    tokenizer = TRAINED[lowercase]
    assume(not any(token in text for token in tokenizer.all_special_tokens))  # which are read as such, as BERT's are
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    expected = unicodedata.normalize("NFC", text)
    if lowercase:
        expected = "".join(character.lower() for character in expected)
    found, expected = (
        "".join(unicodedata.normalize("NFC", each).split()) for each in (tokenizer.decode(ids), expected)
    )
    assert found == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("great😀", ["great", "😀"]),
        ("😀great😀😍", ["😀", "great", "😀", "😍"]),
        ("(Wait,what?!)", ["(", "wait", ",", "what", "?", "!", ")"]),
        ("a $5 b-to-b e_mail", ["a", "$", "5", "b", "-", "to", "-", "b", "e", "_", "mail"]),
        ("man\u0303ana में می\u200cخواهم\u3000バス", ["mañana", "में", "می\u200cخواهم", "バス"]),  # noqa: RUF001
    ],
)
def test_words_end_at_spaces_marks_and_emoji(text, words):
    assert split(text) == words


@pytest.mark.parametrize("pair", ["año ano", "में मैं", "ёлка елка", "バス パス", "má mả", "naïve naive"])
def test_marks_tell_words_apart(pair):
    one, other = (TRAINED[True](word)["input_ids"] for word in pair.split())
    assert one != other


def test_a_long_run_without_a_space_is_read_in_time_that_grows_with_it():
    tokenizer = TRAINED[True]
    ids = tokenizer("catdog" * 20_000, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).replace(" ", "") == "catdog" * 20_000
    assert max(map(len, split("a" * 10_000))) == 64


# --- Training --------------------------------------------------------------------------------------------------------


def test_training_learns_words_within_the_size_that_was_asked_for():
    assert len(train(vocab_size=70)) == 70 + 256
    large = train(vocab_size=5000)
    assert len(large) < 5000
    assert large.tokenize("The cat sat") == [" the", " cat", " sat"]
    assert sorted(large.get_vocab().values()) == list(range(len(large)))


def test_case_is_kept_on_request():
    assert TRAINED[False].tokenize("The") != TRAINED[False].tokenize("the")
    assert TRAINED[True].tokenize("The") == TRAINED[True].tokenize("the")


def test_frequent_characters_have_a_token_and_rare_ones_are_bytes():
    tokenizer = train(["año ano"] * 40_000 + ["☃"], vocab_size=6)
    assert tokenizer.tokenize("ñ☃") == [" ", "ñ", " ", "<0xE2>", "<0x98>", "<0x83>"]
    assert len(tokenizer) == 5 + 256 + len(" año") + 1


def test_a_generator_is_read_once_and_gives_the_same_vocabulary():
    seen = []
    streamed = train(seen.append(text) or text for text in TEXTS)
    assert seen == TEXTS
    assert streamed.get_vocab() == train().get_vocab()


def in_fresh_process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_a_saved_tokenizer_is_the_same_in_every_process_and_loads_without_our_package(tmp_path):
    """From the folder of a model, whose config.json is of a type that transformers does not know."""
    tokenizer = train(model_max_length=9)
    tokenizer.save_pretrained(tmp_path)
    WaveForSequenceClassification(WaveConfig(vocab_size=len(tokenizer), hidden_size=8)).save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is PreTrainedTokenizerFast
    code = (
        "import json, sys; from transformers import AutoTokenizer\n"
        "from wave_network import train_wave_tokenizer\n"
        "vocabulary = train_wave_tokenizer(json.loads(sys.argv[2]), 100, show_progress=False).get_vocab()\n"
        "for name in [*sys.modules]: name.startswith('wave_network') and sys.modules.update({name: None})\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)\n"
        "ids = tokenizer('the cat', 'sat 😀 ' * 20, truncation=True)\n"
        "print(json.dumps([vocabulary, tokenizer.model_max_length, dict(ids)]))"
    )
    pair = tokenizer("the cat", "sat 😀 " * 20, truncation=True)
    expected = [tokenizer.get_vocab(), 9, dict(pair)]
    assert json.loads(in_fresh_process(code, tmp_path, json.dumps(TEXTS[::-1]))) == expected


def test_spellings_say_where_a_word_begins(vocab_file):
    trained, loaded = TRAINED[True], load_wave_tokenizer(vocab_file)
    cut = dict(zip(trained.convert_ids_to_tokens(range(len(trained))), spell(trained), strict=True))
    assert [cut[token] for token in (" cat", "a", " ", "[CLS]", "<0xE2>")] == [
        ("cat", True),
        ("a", False),
        ("", True),
        ("", False),
        ("", False),
    ]
    assert spell(loaded) == [("", False)] * 5 + [
        ("\u2028", True),
        ("the", True),
        ("cat", True),
        ("s", False),
        ("dog", True),
    ]
    assert spell(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE({"a": 0}, [])))) is None


# --- Loading ---------------------------------------------------------------------------------------------------------


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


def test_a_mark_before_a_vocabulary_and_empty_lines_after_it_are_no_tokens(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join([*SPECIAL, "cat"]).encode("utf-8-sig") + b"\n\n\n")
    assert load_wave_tokenizer(path).get_vocab() == {token: index for index, token in enumerate([*SPECIAL, "cat"])}


@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {}, {"strip_accents": False}], ids=str)
def test_what_is_loaded_from_a_json_file_of_bert_is_saved_as_it_is(tmp_path, settings):
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *"thecaféBirds猫犬"])}
    saved = BertTokenizer(vocab=vocabulary, tokenize_chinese_chars=False, **settings)
    saved.save_pretrained(tmp_path / "a")
    loaded = load_wave_tokenizer(tmp_path / "a" / "tokenizer.json")
    loaded.save_pretrained(tmp_path / "b")
    again = AutoTokenizer.from_pretrained(tmp_path / "b")
    text = "T h e c a f é 猫犬 B 猫"
    assert again(text)["input_ids"] == loaded(text)["input_ids"] == saved(text)["input_ids"]


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "settings", "error", "words"),
    [
        ("one text", {}, TypeError, ["texts", "single string", "[text]"]),
        (["fine", None], {}, TypeError, ["texts", "None", "NoneType", "index 1"]),
        (["fine", b"bytes"], {}, TypeError, ["texts", "b'bytes'", "bytes", "index 1"]),
        (TEXTS, {"vocab_size": 5}, ValueError, ["vocab_size", "5", "[MASK]"]),
        (TEXTS, {"vocab_size": 2**40}, ValueError, ["vocab_size", str(2**40), "16777216"]),
        (TEXTS, {"vocab_size": "100"}, TypeError, ["vocab_size", "'100'"]),
        (TEXTS, {"min_frequency": -1}, ValueError, ["min_frequency", "-1", "from 0"]),
        (TEXTS, {"model_max_length": 2}, ValueError, ["model_max_length", "2", "from 3"]),
        (None, {}, TypeError, ["texts", "None", "iterable"]),
        (["fine", "\ud800"], {}, ValueError, ["texts", "index 1", "'\\ud800'"]),
        (["", "  \n"], {}, ValueError, ["texts", "at least one", "none"]),
    ],
    ids=str,
)
def test_bad_corpora_are_refused_by_name(texts, settings, error, words):
    with pytest.raises(error) as caught:
        train(texts, **settings)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("words.tsv", "\n".join(SPECIAL).encode(), [".txt or a .json file"]),
        ("vocab.txt", b"[PAD]\n[UNK]\nthe\n[SEP]\n", ["it lacks", "['[CLS]', '[MASK]']"]),
        ("vocab.txt", "\n".join([*SPECIAL, "hello", "hello"]).encode(), ["each token once", "['hello']"]),
        ("vocab.txt", "\n".join([*SPECIAL, "caf\u00e9"]).encode("latin-1"), ["UTF-8"]),
        ("tokenizer.json", b'{"version": ', ["cannot be read"]),
        ("tokenizer.json", Tokenizer(BPE({"[PAD]": 0}, [])).to_str().encode(), ["it lacks", "'[CLS]'"]),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_by_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        load_wave_tokenizer(tmp_path / name)
    assert all(word in str(caught.value) for word in [*words, str(tmp_path / name)])


def test_a_missing_file_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_wave_tokenizer(tmp_path / "nowhere.txt")
