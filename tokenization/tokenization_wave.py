"""A WordPiece tokenizer for the Wave Network, trained or loaded.

Both functions return transformers' own fast `BertTokenizer`, so a checkpoint's tokenizer loads anywhere, with no code
of ours. Not a class of its own: the Wave Network reads the same ids as BERT.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

# The default of `WaveConfig.max_position_embeddings`.
MODEL_MAX_LENGTH = 512


def train_wave_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 8192,
    *,
    min_frequency: int = 2,
    do_lower_case: bool = True,
    model_max_length: int = MODEL_MAX_LENGTH,
    show_progress: bool = True,
) -> BertTokenizer:
    """
    Trains a WordPiece tokenizer on a corpus.

    Args:
        texts: The corpus, one text at a time; it is read once, and only its distinct words are held.
        vocab_size: The most tokens that the vocabulary may have, the five special ones included. A small corpus gives
            fewer, and one with more distinct characters than that gives more.
        min_frequency: How often a pair of pieces must occur to be merged.
        do_lower_case: Whether to lowercase (and strip accents), as in bert-base-uncased.
        model_max_length: The length in tokens to which `truncation=True` cuts.
        show_progress: Whether to show a progress bar.

    Returns:
        The tokenizer: `[CLS] text [SEP]`, pairs as `[CLS] first [SEP] second [SEP]`, padded with `[PAD]` (id 0). The
        same texts, in any order, give the same one in every process.

    Raises:
        TypeError: `texts` is a single string, or holds something that is not a string; or a number is no integer.
        ValueError: `vocab_size` or another number is too small or too large, there is no text in `texts`, or one that
            cannot be written in UTF-8.
    """
    if isinstance(texts, str):
        raise TypeError("`texts` must be an iterable of strings, got a single string. Did you mean [text]?")
    if not isinstance(texts, Iterable):
        raise TypeError(f"`texts` must be an iterable of strings, got {texts!r}.")
    untrained = BertTokenizer(do_lower_case=do_lower_case)
    special_tokens = list(untrained.get_vocab())
    least = len(special_tokens) + 1
    # tokenizers reserves memory for so many tokens at once.
    check_integer("vocab_size", vocab_size, least, 2**24, f", the special tokens {special_tokens} among them")
    check_integer("min_frequency", min_frequency, 0, 2**63 - 1)
    check_integer("model_max_length", model_max_length, 3, 10**30, ": `[CLS]`, a token and `[SEP]`, or more")
    words = Counter(word for text in check_texts(texts) for word in text.split(" "))
    # tokenizers numbers single characters in the order of a hash table, which no two processes share, and breaks ties
    # between merges by these numbers. So a first pass finds the characters, and the second is told them in order.
    backend = untrained.backend_tokenizer
    backend.train_from_iterator(
        words, WordPieceTrainer(vocab_size=0, special_tokens=special_tokens, show_progress=False)
    )
    characters = sorted(backend.get_vocab().keys() - set(special_tokens))
    if not characters:
        raise ValueError("`texts` must hold at least one text that is not empty, got none.")
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_tokens + characters,
        show_progress=show_progress,
    )
    backend.train_from_iterator(words.elements(), trainer, words.total())
    return BertTokenizer(vocab=backend.get_vocab(), do_lower_case=do_lower_case, model_max_length=model_max_length)


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


def load_wave_tokenizer(name_or_file: str | os.PathLike, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer from a folder, from the Hub, or from a vocabulary file such as BERT's `vocab.txt`.

    Args:
        name_or_file: A folder with a saved tokenizer or a `vocab.txt` alone, a name on the Hub, a `.txt` file with one
            token on each line, or a `tokenizer.json`.
        kwargs: Passed on to `BertTokenizer` (for a file) or to `AutoTokenizer.from_pretrained`; for example
            `do_lower_case` or `model_max_length` (512 for a file, unless given).

    Raises:
        ValueError: The file is neither a `.txt` nor a `.json` file, lacks a special token, or is not in UTF-8; a `.txt`
            file holds a token twice; or a `tokenizer.json` is damaged, of another kind than BERT's, or contradicted by
            a setting in `kwargs`.
        OSError: There is no such folder, file or name.
    """
    path = Path(name_or_file)
    if path.is_dir() and [each.name for each in path.iterdir() if each.suffix in (".txt", ".json")] == ["vocab.txt"]:
        path /= "vocab.txt"
    if not path.is_file():
        return AutoTokenizer.from_pretrained(name_or_file, **kwargs)
    if path.suffix not in (".txt", ".json"):
        raise ValueError(f"A vocabulary must be a .txt or a .json file, got {str(path)!r}.")
    kwargs = {"model_max_length": MODEL_MAX_LENGTH} | kwargs
    if path.suffix == ".json":
        settings = read_settings(path, kwargs)
        for name, value in settings.items():
            if kwargs.get(name, value) != value:
                raise ValueError(
                    f"`{name}` must be what the tokenizer.json {str(path)!r} has, {value}, got {kwargs[name]}."
                )
        return BertTokenizer(tokenizer_file=str(path), **settings | kwargs)
    # Not splitlines(): Chinese vocabularies hold U+2028 and its like as tokens.
    try:
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"The vocabulary {str(path)!r} must be in UTF-8: {error}.") from error
    refuse_missing(path, tokens, kwargs)
    repeated = [token for token, count in Counter(tokens).items() if count > 1]
    if repeated:
        raise ValueError(
            f"The vocabulary {str(path)!r} must hold each token once, its id is its line; it holds {repeated[:5]} more "
            "than once."
        )
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, **kwargs)


def refuse_missing(path: Path, tokens: Collection[str], settings: Mapping[str, Any]) -> None:
    special_tokens = [str(settings.get(name, token)) for name, token in BertTokenizer().special_tokens_map.items()]
    missing = [token for token in special_tokens if token not in tokens]
    if missing:
        raise ValueError(f"The vocabulary {str(path)!r} must hold the special tokens of BERT; it lacks {missing}.")


def read_settings(path: Path, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    How a `tokenizer.json` normalises: the file alone says it, and what `BertTokenizer` saves must say it again. A
    ValueError if it cannot be what BERT's is; `kwargs` may name other special tokens.
    """
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more exact
        raise ValueError(f"The tokenizer.json {str(path)!r} cannot be read: {error}") from error
    model, normalizer = backend.model, backend.normalizer
    if not isinstance(model, WordPiece) or not isinstance(normalizer, BertNormalizer):
        raise ValueError(
            "A tokenizer.json must have a `model` of the type WordPiece and a `normalizer` of the type BertNormalizer, "
            f"as BERT's has; {str(path)!r} has {type(model).__name__} and {type(normalizer).__name__}. Load it with "
            "`PreTrainedTokenizerFast`."
        )
    refuse_missing(path, backend.get_vocab(), kwargs)
    return {
        "do_lower_case": normalizer.lowercase,
        "strip_accents": normalizer.strip_accents,
        "tokenize_chinese_chars": normalizer.handle_chinese_chars,
    }
