"""Tokenizers for the Wave Network, trained or loaded.

Both are classes of transformers, so that a checkpoint's tokenizer loads anywhere without this package.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from numbers import Integral
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# The default of `WaveConfig.max_position_embeddings`.
MODEL_MAX_LENGTH = 512
SPECIAL_TOKENS = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]
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
    min_frequency: int = 2,
    lowercase: bool = True,
    model_max_length: int = MODEL_MAX_LENGTH,
    show_progress: bool = True,
) -> PreTrainedTokenizerFast:
    """
    Trains a tokenizer on a corpus of any language: byte pair encoding (Sennrich et al., 2016, arXiv 1508.07909) within
    words. Each other character than a letter, a mark or a digit is a word of its own. Accents and marks are kept, and
    a character that the corpus lacks is read as its bytes, so that no text is unknown.

    Args:
        texts: The corpus, one text at a time; it is read once, and only its distinct words are held.
        vocab_size: The most tokens to learn, with the 5 special ones; 256 bytes come on top of them. A small corpus
            gives fewer, and one with more distinct characters than that gives more.
        min_frequency: How often a pair of pieces must occur to be merged.
        lowercase: Whether to lowercase.
        model_max_length: The length in tokens to which `truncation=True` cuts.
        show_progress: Whether to show a progress bar.

    Returns:
        The tokenizer: `[CLS] text [SEP]`, pairs as `[CLS] first [SEP] second [SEP]`, padded with `[PAD]` (id 0). What
        it encodes it decodes again, but for case, spaces and Unicode's composition (NFC). The same texts, in any order,
        give the same one in every process.

    Raises:
        TypeError: `texts` is a single string, or holds something that is not a string; or a number is no integer.
        ValueError: `vocab_size` or another number is too small or too large, there is no text in `texts`, or one that
            cannot be written in UTF-8.
    """
    if isinstance(texts, str):
        raise TypeError("`texts` must be an iterable of strings, got a single string. Did you mean [text]?")
    if not isinstance(texts, Iterable):
        raise TypeError(f"`texts` must be an iterable of strings, got {texts!r}.")
    special = list(SPECIAL_TOKENS.values())
    # tokenizers reserves memory for so many tokens at once.
    check_integer("vocab_size", vocab_size, len(special) + 1, 2**24, f", the special tokens {special} among them")
    check_integer("min_frequency", min_frequency, 0, 2**63 - 1)
    check_integer("model_max_length", model_max_length, 3, 10**30, ": `[CLS]`, a token and `[SEP]`, or more")
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *[normalizers.Lowercase()] * bool(lowercase)])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, "removed", invert=True),
            pre_tokenizers.Metaspace(BEGIN, "always", split=False),
        ]
    )
    words = Counter(word for text in check_texts(texts) for word in text.split())
    if not words:
        raise ValueError("`texts` must hold at least one text that is not empty, got none.")
    alphabet = find_alphabet({backend.normalizer.normalize_str(word): count for word, count in words.items()})
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=show_progress,
    )
    backend.train_from_iterator((" ".join([word] * count) for word, count in words.items()), trainer, len(words))
    model = json.loads(backend.to_str())["model"]
    tokens = [*special, *BYTES, *sorted(model["vocab"], key=model["vocab"].get)[len(special) :]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]]
    backend.model = BPE(vocabulary, merges, unk_token="[UNK]", byte_fallback=True)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(BEGIN, 1, 0)])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=model_max_length, model_input_names=INPUT_NAMES, **SPECIAL_TOKENS
    )


def find_alphabet(words: dict[str, int]) -> list[str]:
    """The most frequent characters, as many as make up `COVERAGE` of the words, and what a word begins with."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    before = accumulate((counts[character] for character in ordered), initial=0)
    enough = COVERAGE * counts.total()
    return [BEGIN, *(character for character, covered in zip(ordered, before, strict=False) if covered < enough)]


def check_integer(name: str, number: Any, least: int, most: int, why: str = "") -> None:
    must = f"`{name}` must be an integer from {least} to {most}{why}; got {number!r}."
    if not isinstance(number, Integral):
        raise TypeError(must)
    if not least <= int(number) <= most:
        raise ValueError(must)


def check_texts(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"`texts` must hold strings, got {text!r} ({type(text).__name__}) at index {index}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate, which JSON may hold
            raise ValueError(f"`texts` must be of Unicode characters, got {text!r} at index {index}.") from error
        yield text


def spell(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]] | None:
    """
    What each id is spelled like, and whether a word begins with it; ("", False) for a special token, a byte or a gap.
    None if the tokens do not say where a word begins, as they do in WordPiece ("##ing" goes on), in SentencePiece
    ("▁wave" begins) and here (" wave" begins).
    """
    vocabulary = tokenizer.get_vocab()
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    mark = next((mark for mark in (BEGIN, "▁") if mark in vocabulary), None)
    if isinstance(model, WordPiece):
        within = model.continuing_subword_prefix
        cut = {token: (token.removeprefix(within), not token.startswith(within)) for token in vocabulary}
    elif mark is not None:
        cut = {token: (token.removeprefix(mark), token.startswith(mark)) for token in vocabulary}
    else:
        return None
    cut |= dict.fromkeys([*tokenizer.all_special_tokens, *BYTES], ("", False))
    spellings = [("", False)] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        spellings[index] = cut[token]
    return spellings


def load_wave_tokenizer(name_or_file: str | os.PathLike, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer from a folder, from the Hub, or from a vocabulary file such as BERT's `vocab.txt`.

    Args:
        name_or_file: A folder with a saved tokenizer or a `vocab.txt` alone, a name on the Hub, a `.txt` file with one
            token on each line, or a `tokenizer.json` of any kind.
        kwargs: Passed on to `BertTokenizer` (for a `.txt`), to `PreTrainedTokenizerFast` (for a `.json`) or to
            `AutoTokenizer.from_pretrained`; for example `model_max_length` (512 for a file, unless given), or for a
            `.txt` `do_lower_case`.

    Raises:
        ValueError: The file is neither a `.txt` nor a `.json` file, lacks a special token, is damaged, or is not in
            UTF-8; or a `.txt` file holds a token twice.
        OSError: There is no such folder, file or name.
    """
    path = Path(name_or_file)
    if path.is_dir() and [each.name for each in path.iterdir() if each.suffix in (".txt", ".json")] == ["vocab.txt"]:
        path /= "vocab.txt"
    if not path.is_file():
        return AutoTokenizer.from_pretrained(name_or_file, **kwargs)
    if path.suffix not in (".txt", ".json"):
        raise ValueError(f"A vocabulary must be a .txt or a .json file, got {str(path)!r}.")
    settings = {"model_max_length": MODEL_MAX_LENGTH} | SPECIAL_TOKENS | kwargs
    vocabulary = read_backend(path).get_vocab() if path.suffix == ".json" else read_vocabulary(path)
    missing = [str(settings[name]) for name in SPECIAL_TOKENS if str(settings[name]) not in vocabulary]
    if missing:
        raise ValueError(f"The vocabulary {str(path)!r} must hold the special tokens of BERT; it lacks {missing}.")
    if path.suffix == ".json":
        return PreTrainedTokenizerFast(tokenizer_file=str(path), **settings)
    return BertTokenizer(vocab=vocabulary, **settings)


def read_backend(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more exact
        raise ValueError(f"The tokenizer.json {str(path)!r} cannot be read: {error}") from error


def read_vocabulary(path: Path) -> dict[str, int]:
    # Not splitlines(): Chinese vocabularies hold U+2028 and its like as tokens.
    try:
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"The vocabulary {str(path)!r} must be in UTF-8: {error}.") from error
    repeated = [token for token, count in Counter(tokens).items() if count > 1]
    if repeated:
        raise ValueError(
            f"The vocabulary {str(path)!r} must hold each token once, its id is its line; it holds {repeated[:5]} more "
            "than once."
        )
    return {token: index for index, token in enumerate(tokens)}
