"""Tokenizers for the Wave Network, trained or loaded: stock classes, which load anywhere without this package."""

import json
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# The default of `WaveConfig.max_position_embeddings`.
MODEL_MAX_LENGTH = 512
SPECIAL_TOKENS = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
SPECIAL = list(SPECIAL_TOKENS.values())
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# Stands before each word. No word has a space in it, so that none is taken for it.
BEGIN = " "
# The characters that get a token make up this share of the texts; the others are read as bytes.
COVERAGE = 0.9999
# Letters with their marks, digits and joiners are a word; any other character is one of its own. A longer word is cut,
# so that the time to read a text grows with its length, with or without spaces.
LETTER = r"\p{L}\p{M}\p{N}\u200c\u200d"
WORDS = Regex(rf"[{LETTER}]{{1,64}}|[^\s{LETTER}]")


def train_wave_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 8192,
    *,
    lowercase: bool = True,
    model_max_length: int = MODEL_MAX_LENGTH,
    show_progress: bool = True,
) -> PreTrainedTokenizerFast:
    """
    Trains a tokenizer on a corpus of any language: byte pair encoding (Sennrich et al., 2016, arXiv 1508.07909) within
    words. Each other character than a letter, a mark or a digit is a word of its own. Accents and marks are kept, and
    a character that the corpus lacks is read as its bytes, so that no text is unknown.

    Args:
        texts: The corpus, which is read once; only its distinct words are held.
        vocab_size: The most tokens to learn, with the 5 special ones; 256 bytes come on top of them. A corpus with more
            distinct characters gives more.

    Returns:
        The tokenizer: `[CLS] text [SEP]`, pairs as `[CLS] first [SEP] second [SEP]`, padded with `[PAD]` (id 0). What
        it encodes it decodes again, but for case, spaces and Unicode's composition (NFC). The same texts, in any order,
        give the same one in every process.

    Raises:
        ValueError: `texts` is one string, or holds no word or no strings of Unicode; `vocab_size` is not 6 to 2**24.
    """
    # tokenizers reserves memory for so many tokens at once.
    if not isinstance(vocab_size, int) or not len(SPECIAL) < vocab_size <= 2**24:
        raise ValueError(f"`vocab_size` must be an integer from {len(SPECIAL) + 1} to {2**24}, got {vocab_size!r}.")
    words = count_words(texts)
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *[normalizers.Lowercase()] * bool(lowercase)])
    split = pre_tokenizers.Split(WORDS, "removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.Metaspace(BEGIN, "always", split=False)])
    alphabet = find_alphabet(words, backend.normalizer)
    settings: dict[str, Any] = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": show_progress}
    trainer = BpeTrainer(vocab_size=vocab_size, min_frequency=2, limit_alphabet=len(alphabet), **settings)
    backend.train_from_iterator((" ".join([word] * count) for word, count in words.items()), trainer, len(words))
    model = json.loads(backend.to_str())["model"]
    tokens = [*SPECIAL, *BYTES, *sorted(model["vocab"], key=model["vocab"].get)[len(SPECIAL) :]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]]
    backend.model = BPE(vocabulary, merges, unk_token="[UNK]", byte_fallback=True)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(BEGIN, 1, 0)])
    frame = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*frame)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {"model_max_length": model_max_length, "model_input_names": names} | SPECIAL_TOKENS
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, as it is written between spaces."""
    if isinstance(texts, str):
        raise ValueError("`texts` must be an iterable of strings, got a single string. Did you mean [text]?")
    words: Counter[str] = Counter()
    for index, text in enumerate(texts):
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError) as error:  # no string; a lone surrogate, which JSON may hold
            message = f"`texts` must hold strings of Unicode characters, got {text!r} at index {index}."
            raise ValueError(message) from error
        words.update(text.split())
    if not words:
        raise ValueError("`texts` must hold at least one text that is not empty, got none.")
    return words


def find_alphabet(words: Counter[str], normalizer: Any) -> list[str]:
    """The most frequent characters, as many as make up `COVERAGE` of the words, and what a word begins with."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in normalizer.normalize_str(word):
            counts[character] += count
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    before = accumulate((counts[character] for character in ordered), initial=0)
    return [BEGIN, *ordered[: bisect_left([*before], COVERAGE * counts.total())]]


def spell(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]] | None:
    """
    What each id is spelled like, and whether a word begins with it; ("", False) for a special token, a byte or a gap.
    None if the tokens do not say where a word begins, as they do in WordPiece ("##ing" goes on), in SentencePiece
    ("▁wave" begins) and here (" wave" begins).
    """
    vocabulary = tokenizer.get_vocab()
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    is_wordpiece = isinstance(model, WordPiece)
    mark = model.continuing_subword_prefix if is_wordpiece else BEGIN if BEGIN in vocabulary else "▁"
    if not is_wordpiece and mark not in vocabulary:
        return None
    unspelled = {*tokenizer.all_special_tokens, *BYTES}
    spellings = [("", False)] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if token not in unspelled:
            spellings[index] = token.removeprefix(mark), token.startswith(mark) != is_wordpiece
    return spellings


def load_wave_tokenizer(name_or_file: str | os.PathLike, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer by `AutoTokenizer` from a folder or a name on the Hub, by `PreTrainedTokenizerFast` from a
    tokenizer.json, or by `BertTokenizer` from a vocabulary, a file with one token on each line or a folder that holds a
    `vocab.txt` alone. They get the `kwargs`.

    Raises:
        ValueError: The file is neither, or lacks a special token.
        OSError: There is no such folder, file or name.
    """
    path, settings = Path(name_or_file), {"model_max_length": MODEL_MAX_LENGTH} | SPECIAL_TOKENS | kwargs
    if path.is_dir() and [each.name for each in path.iterdir() if each.suffix in (".txt", ".json")] == ["vocab.txt"]:
        path /= "vocab.txt"
    if not path.is_file():
        return AutoTokenizer.from_pretrained(name_or_file, **kwargs)
    if path.suffix == ".json":
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more exact
            raise ValueError(f"The tokenizer.json {str(path)!r} cannot be read: {error}") from error
        check_special(path, backend.get_vocab(), settings)
        return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)
    try:
        # Not splitlines(): Chinese vocabularies hold U+2028 and its like as tokens.
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"The vocabulary {str(path)!r} must be in UTF-8: {error}.") from error
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if repeated := [token for index, token in enumerate(tokens) if vocabulary[token] != index]:
        raise ValueError(f"The vocabulary {str(path)!r} must hold each token once; {repeated[:5]} it holds again.")
    check_special(path, vocabulary, settings)
    return BertTokenizer(vocab=vocabulary, **settings)


def check_special(path: Path, vocabulary: dict[str, int], settings: dict[str, Any]) -> None:
    if missing := [settings[name] for name in SPECIAL_TOKENS if str(settings[name]) not in vocabulary]:
        raise ValueError(f"The vocabulary {str(path)!r} must hold the special tokens of BERT; it lacks {missing}.")
