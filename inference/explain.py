"""
The words that decided: each word is left out once, and the answer is computed again. Exact, and without gradients.

A word is a run of letters, or of other characters than letters and spaces. Where a script has no spaces between words,
the tokens of the tokenizer take their place.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

import jinja2
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from ..files import write_text
from .classify import to_scores

LETTERS = r"[\p{L}\p{N}](?:[\p{L}\p{M}\p{N}_\u200c\u200d]|['\u2019](?=\p{L}))*"
WORDS = Split(Regex(rf"{LETTERS}|[^\s\p{{L}}\p{{N}}]+"), "isolated")
# Thai, Lao, Burmese and Khmer, kana, Chinese characters.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
MOST = 256  # words of a text; a longer one is explained in as many passages
SHOWN = 200  # rows on a page


class Word(NamedTuple):
    """A part of a text, and how much lower the probability of the best label, or the number, is without it."""

    name: str  # `text` or `text_pair`
    start: int
    end: int
    is_spaced: bool  # else no space stands between its neighbours when it is left out
    weight: float = 0.0


def explain_row(classifier: Any, row: Mapping[str, str]) -> list[Word]:
    """The words of a row in order; of a text that is cut off, those that the model reads."""
    read = find_read(classifier.tokenizer, row)
    parts = [find_words(row[name], name, *places) for name, places in read.items()]
    size = math.ceil(sum(map(len, parts)) / MOST)
    if size > 1:  # both texts of a pair have passages of their own
        groups = [part[start : start + size] for part in parts for start in range(0, len(part), size)]
        parts = [[group[0]._replace(end=group[-1].end) for group in groups]]
    words = list(chain.from_iterable(parts))
    kept = {name: row[name][start:end] for name, (start, end, _) in read.items()}
    variants = [kept]
    for word in words:
        start, end, _ = read[word.name]
        before, after = row[word.name][start : word.start], row[word.name][word.end : end]
        if word.is_spaced:
            before, after = f"{before.rstrip()} ", after.lstrip()
        variants.append({**kept, word.name: (before + after).strip()})
    scores_VK = to_scores(classifier.logits(variants, count=False), classifier.problem).astype(float)
    best = int(scores_VK[0].argmax())
    falls = (scores_VK[0, best] - scores_VK[1:, best]).round(6)
    return [word._replace(weight=fall) for word, fall in zip(words, falls.tolist(), strict=True)]


def find_read(tokenizer: Any, row: Mapping[str, str]) -> dict[str, tuple[int, int, set[int]]]:
    """Of each text where what is read of it starts and ends, and where its tokens start."""
    encoding = tokenizer(*row.values(), truncation=True, return_offsets_mapping=True)
    is_cut = any(part.overflowing for part in encoding.encodings)
    read = {}
    for index, name in enumerate(row):
        places = zip(encoding["offset_mapping"], encoding.sequence_ids(0), strict=True)
        spans = [span for span, text in places if text == index] or [(0, 0)]
        start, end = (spans[0][0], spans[-1][1]) if is_cut else (0, len(row[name]))
        read[name] = start, end, {start for start, _ in spans}
    return read


def find_words(text: str, name: str, first: int, last: int, token_starts: set[int]) -> list[Word]:
    """The words of a part of a text. A mark belongs to the letter before it."""
    words = []
    for part, (start, end) in WORDS.pre_tokenize_str(text[:last]):
        if UNSPACED.search(part):
            inside = [place for place in token_starts if start < place < end and category(text[place])[0] != "M"]
            words += [Word(name, *edges, False) for edges in pairwise([start, *sorted(inside), end])]
        elif not part.isspace():
            words.append(Word(name, start, end, True))
    return [word for word in words if word.start >= first]


def list_words(row: Mapping[str, str], words: Sequence[Word]) -> list[tuple[str, float]]:
    return [(row[word.name][word.start : word.end], word.weight) for word in words]


def write_page(path: Path, model: str, rows: Sequence[tuple[str, Mapping[str, str], list[Word]]]) -> None:
    """An HTML page of the first rows: what was answered, the texts and their words."""
    template = Path(__file__).with_name("explain.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
    write_text(path, page.render(model=model, rows=rows, most=SHOWN))
