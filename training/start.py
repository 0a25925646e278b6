"""What `--model` starts from: a model that is named, the English encoder that comes with the package, or nothing."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..data.load import TextData
from ..tokenization import load_wave_tokenizer, spell
from .settings import AUTO, ENGLISH, NONE, ModelArguments

SAMPLE = 2000  # texts that are looked at
WORD = re.compile(r"[^\W\d_]+")
# English words come in 1.0 to 1.2 pieces, French, Spanish and German ones in 1.8 to 2.4, mixed ones between; Vietnamese
# and Thai need bytes. Where fewer characters than this are letters, as in numbers and logs, there is little to know.
MOST_PIECES, MOST_BYTES, LEAST_LETTERS = 1.45, 0.05, 0.5


def resolve_start(arguments: ModelArguments, data: TextData, is_own: bool) -> ModelArguments:
    """
    The settings with what `--model auto` stands for: english, if the texts are and nothing asks for another model.
    `is_own` says that the model is made elsewhere.

    Raises:
        FileNotFoundError: The English encoder is asked for, and not there.
    """
    if arguments.model != AUTO:
        find_start(arguments)
        return arguments
    if is_own or arguments.tokenizer is not None or arguments.of_a_new_model:
        return replace(arguments, model=NONE)
    is_english, why = look_for_english(data)
    print(
        f"--model auto {'starts from the English encoder' if is_english else 'trains a new model'}: {why}.", flush=True
    )
    return replace(arguments, model=ENGLISH if is_english else NONE)


def find_start(arguments: ModelArguments) -> str | None:
    """The folder or name of the model to start from; None for a new model."""
    if arguments.model == ENGLISH:
        return str(find_english())
    return None if arguments.model in (AUTO, NONE) else arguments.model


def find_english() -> Path:
    from .. import ENGLISH as FOLDER

    if not (FOLDER / "config.json").is_file():
        raise FileNotFoundError(f"The English encoder is not there: {str(FOLDER)!r}. Use --model none, or another one.")
    return FOLDER


def read_sample(data: TextData) -> list[str]:
    rows = data.train.select(range(0, len(data.train), max(1, len(data.train) // SAMPLE)))
    return [text for name in ("text", "text_pair") if name in rows.column_names for text in rows[name]]


def look_for_english(data: TextData) -> tuple[bool, str]:
    """Whether the English encoder is there and the texts are English, and what this goes by."""
    try:
        tokenizer = load_wave_tokenizer(str(find_english()))
    except FileNotFoundError:
        return False, "the English encoder is not there"
    return look_at(read_sample(data), tokenizer)


def look_at(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[bool, str]:
    """Whether texts are English, by how the vocabulary of the English encoder cuts their words, and what it goes by."""
    sample = [text[:1000] for text in texts]
    words = Counter(chain.from_iterable(map(WORD.findall, sample)))
    characters = sum(len(part) for text in sample for part in text.split())
    letters = sum(len(word) * count for word, count in words.items()) / max(1, characters)
    spelled = [spelling for spelling, _ in spell(tokenizer) or ()]
    cut = tokenizer([*words, *sample], add_special_tokens=False)["input_ids"]
    pieces = sum(len(ids) * count for ids, count in zip(cut, words.values(), strict=False)) / max(1, words.total())
    ids = list(chain.from_iterable(cut[len(words) :]))
    unspelled = sum(not spelled[index] for index in ids) / max(1, len(ids))
    is_english = pieces <= MOST_PIECES and unspelled <= MOST_BYTES and letters >= LEAST_LETTERS
    found = f"{pieces:.2f} pieces a word, {unspelled:.1%} bytes, {letters:.0%} letters"
    return is_english, f"its vocabulary cuts these texts like {'English' if is_english else 'no English'} ({found})"
