"""Tokenizers, trained or loaded: stock classes that read every text, complete, and the same in every process."""

import json
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
# U+2028 is a token of Chinese BERT vocabularies, and a line break for str.splitlines().
VOCABULARY = [*SPECIAL, "\u2028", "the", "cat", "##s", "dog"]
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
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=["trained", "file", "json", "folder", "folder of a vocabulary"])
def tokenizer(request, vocab_file, tmp_path):
    """One tokenizer from each source, all of them with a maximum of 8 tokens."""
    if request.param in ("file", "folder of a vocabulary"):
        return load_wave_tokenizer(vocab_file if request.param == "file" else tmp_path, model_max_length=8)
    train(model_max_length=8).save_pretrained(tmp_path / "saved")
    if request.param == "json":
        return load_wave_tokenizer(tmp_path / "saved" / "tokenizer.json", model_max_length=8)
    return train(model_max_length=8) if request.param == "trained" else load_wave_tokenizer(tmp_path / "saved")


def test_it_is_a_stock_class_with_berts_special_tokens(tokenizer):
    assert type(tokenizer) in (BertTokenizer, PreTrainedTokenizerFast)
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    assert [getattr(tokenizer, f"{name.strip('[]').lower()}_token") for name in SPECIAL] == SPECIAL
    assert tokenizer.pad_token_id == WaveConfig().pad_token_id == 0


def test_texts_and_pairs_are_framed_padded_and_cut_as_in_bert(tokenizer):
    cat, dog = (tokenizer(word)["input_ids"][1] for word in ("cat", "dog"))
    batch = tokenizer(["Cat DOG", ""], padding=True)
    assert batch["input_ids"] == [[2, cat, dog, 3], [2, 3, 0, 0]]
    assert batch["attention_mask"] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    pair = tokenizer("cat dog", "dog", return_token_type_ids=True)
    assert pair["input_ids"] == [2, cat, dog, 3, dog, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert tokenizer.decode(pair["input_ids"], skip_special_tokens=True) == "cat dog dog"
    for texts in (["cat " * 20], ["cat " * 20, "dog " * 20]):
        ids = tokenizer(*texts, truncation=True)["input_ids"]
        assert (len(ids), ids[-1]) == (8, 3)


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
        expected = unicodedata.normalize("NFC", "".join(character.lower() for character in expected))
    assert "".join(unicodedata.normalize("NFC", tokenizer.decode(ids)).split()) == "".join(expected.split())


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


def test_a_long_run_without_a_space_is_read_in_time_that_grows_with_it():
    ids = TRAINED[True]("catdog" * 20_000, add_special_tokens=False)["input_ids"]
    assert TRAINED[True].decode(ids).replace(" ", "") == "catdog" * 20_000
    assert max(map(len, split("a" * 10_000))) == 64


def test_training_learns_words_within_the_size_that_was_asked_for():
    assert len(train(vocab_size=70)) == 70 + 256
    large = train(vocab_size=5000)
    assert len(large) < 5000
    assert large.tokenize("The cat sat") == [" the", " cat", " sat"]
    assert sorted(large.get_vocab().values()) == list(range(len(large)))


def test_frequent_characters_have_a_token_and_rare_ones_are_bytes():
    tokenizer = train(["año ano"] * 40_000 + ["☃"], vocab_size=6)
    assert tokenizer.tokenize("ñ☃") == [" ", "ñ", " ", "<0xE2>", "<0x98>", "<0x83>"]
    assert len(tokenizer) == 5 + 256 + len(" año") + 1


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
    command = [sys.executable, "-c", code, str(tmp_path), json.dumps(TEXTS[::-1])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    pair = tokenizer("the cat", "sat 😀 " * 20, truncation=True)
    assert json.loads(printed) == [tokenizer.get_vocab(), 9, dict(pair)]


def test_spellings_say_where_a_word_begins(vocab_file):
    trained = TRAINED[True]
    cut = dict(zip(trained.convert_ids_to_tokens(range(len(trained))), spell(trained), strict=True))
    spelled = {" cat": ("cat", True), "a": ("a", False), " ": ("", True), "[CLS]": ("", False), "<0xE2>": ("", False)}
    assert {token: cut[token] for token in spelled} == spelled
    found = spell(load_wave_tokenizer(vocab_file))
    assert found[:5] == [("", False)] * 5
    assert found[6:] == [("the", True), ("cat", True), ("s", False), ("dog", True)]
    assert spell(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE({"a": 0}, [])))) is None


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


def test_a_mark_before_a_vocabulary_and_empty_lines_after_it_are_no_tokens(vocab_file):
    vocab_file.write_bytes(b"\xef\xbb\xbf" + vocab_file.read_bytes() + b"\n\n")
    tokenizer = load_wave_tokenizer(vocab_file)
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(VOCABULARY)}
    assert tokenizer("cats")["input_ids"] == [2, 7, 8, 3]
    assert tokenizer.model_max_length == 512


@pytest.mark.parametrize(
    ("texts", "vocab_size", "words"),
    [
        ("one text", 100, ["texts", "single string", "[text]"]),
        (["fine", None], 100, ["texts", "None", "index 1"]),
        (["fine", b"bytes"], 100, ["texts", "b'bytes'", "index 1"]),
        (["fine", "\ud800"], 100, ["texts", "index 1", "'\\ud800'"]),
        (["", "  \n"], 100, ["texts", "at least one", "none"]),
        (TEXTS, 5, ["vocab_size", "5", "from 6"]),
        (TEXTS, 2**40, ["vocab_size", str(2**40), "16777216"]),
        (TEXTS, "100", ["vocab_size", "'100'"]),
    ],
    ids=str,
)
def test_bad_corpora_are_refused_by_name(texts, vocab_size, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        train(texts, vocab_size)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("words.txt", b"[PAD]\n[UNK]\nthe\n[SEP]\n", ["it lacks", "['[CLS]', '[MASK]']"]),
        ("words.txt", "\n".join([*SPECIAL, "hello", "hello"]).encode(), ["each token once", "['hello']"]),
        ("words.txt", "\n".join([*SPECIAL, "caf\u00e9"]).encode("latin-1"), ["UTF-8"]),
        ("tokenizer.json", b"{}", ["cannot be read"]),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_by_name(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vocabulary|tokenizer\.json") as caught:
        load_wave_tokenizer(path)
    assert all(word in str(caught.value) for word in [*words, str(path)])


def test_a_missing_file_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_wave_tokenizer(tmp_path / "nowhere.txt")
