"""Whether an exported graph computes what its model computes, on other shapes than it was traced with; and how fast."""

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from torch import nn

from .runtime import ExportedClassifier, Text
from .source import Source

# What the largest difference of logits may be, of the largest logit or of 1, whichever is more.
TOLERANCE = 1e-5
# In 8-bit integers so many texts must keep their label; of logits it is asked only that they are numbers.
AGREEMENT, ANY_NUMBER = 0.99, np.finfo(np.float64).max

# Rows and tokens that a graph is traced with; and the longest texts to check, since a free length knows no other limit.
TRACED_ROWS, TRACED_LENGTH, LONGEST_CHECKED = 2, 16, 4096

Graph = Callable[[dict[str, np.ndarray]], np.ndarray]


class TorchGraph:
    """A model of torch with the interface of the graphs in runtime.py."""

    def __init__(self, model: nn.Module, inputs: Sequence[str]):
        self.model, self.inputs = model, inputs

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return self.model(**{name: torch.from_numpy(batch[name]) for name in self.inputs}).logits.numpy()


@dataclass(frozen=True)
class Difference:
    """The largest difference of two sets of logits, and the largest logit."""

    difference: float = 0.0
    logit: float = 0.0

    @classmethod
    def between(cls, logits: np.ndarray, expected: np.ndarray) -> "Difference":
        # Where both are the same infinity or not a number, they agree.
        same = (logits == expected) | (np.isnan(logits) & np.isnan(expected))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0, np.abs(logits - expected))
        finite = expected[np.isfinite(expected)]
        largest = np.nan_to_num(difference, nan=np.inf).max(initial=0)
        return cls(float(largest), float(np.abs(finite).max(initial=0)))

    def merge(self, other: "Difference") -> "Difference":
        return Difference(max(self.difference, other.difference), max(self.logit, other.logit))

    @property
    def relative(self) -> float:
        return self.difference / max(1.0, self.logit)


def check_shapes(source: Source, graph: Graph, batch_size: int, tolerance: float) -> Difference:
    batches = make_batches(
        (TRACED_ROWS, min(TRACED_LENGTH, source.max_length)),
        batch_size,
        min(source.max_length, LONGEST_CHECKED),
        source.vocab_size,
        source.pad_token_id,
        source.config.get("type_vocab_size") or 1,
    )
    return compare(graph, TorchGraph(source.model, source.inputs), batches, tolerance)


def make_batches(
    traced: tuple[int, int], most: int, max_length: int, vocab_size: int, pad_token_id: int, segments: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """
    What a graph is checked on, and its name: one text and several, an odd number of them and the most that there may
    be; one token, another length than traced, the longest; padding right, left, and all of a row.
    """
    generator = np.random.default_rng(0)
    words = np.setdiff1d(np.arange(vocab_size), [pad_token_id])
    longer = min(traced[1] + 7, max_length)
    shapes = [traced, (1, 1), (1, longer), (min(5, most), max(1, longer // 2)), (min(3, most), longer), (1, max_length)]
    for rows, length in dict.fromkeys([*shapes, (most, min(5, max_length))]):
        ids_BL = generator.choice(words, (rows, length))
        masks = {"without padding": np.ones((rows, length), np.int64)}
        if length > 1:
            lengths_B1 = generator.integers(1, length + 1, (rows, 1))
            masks["padding on the right"] = (np.arange(length) < lengths_B1).astype(np.int64)
            masks["padding on the left"] = masks["padding on the right"][:, ::-1].copy()
            masks["one token in the first row"] = masks["padding on the right"].copy()
            masks["one token in the first row"][0] = np.arange(length) == 0
        if rows > 1:
            masks["a row of padding"] = np.ones((rows, length), np.int64)
            masks["a row of padding"][-1] = 0
        for name, mask_BL in masks.items():
            yield (
                f"{rows} x {length}, {name}",
                {
                    "input_ids": np.where(mask_BL == 1, ids_BL, pad_token_id),
                    "attention_mask": mask_BL,
                    "token_type_ids": generator.integers(0, segments, (rows, length)),
                },
            )


def compare(
    graph: Graph,
    expected: Graph,
    batches: Iterator[tuple[str, dict[str, np.ndarray]]],
    tolerance: float = TOLERANCE,
) -> Difference:
    """
    The largest difference over all batches.

    Raises:
        ValueError: It is more than the tolerance in one of them, or the graph fails there; the message says in which.
    """
    total = Difference()
    for name, batch in batches:
        logits, reference = run(graph, batch, name, "exported graph"), run(expected, batch, name, "model")
        compared = is_defined(expected, batch, reference)
        found = Difference.between(logits[compared], reference[compared])
        if found.relative > tolerance:
            raise ValueError(
                f"The exported graph is not the model: on a batch of {name} a logit is off by {found.difference:.1e}, "
                f"with {tolerance * max(1.0, found.logit):.1e} allowed (largest logit: {found.logit:.1f})."
            )
        total = total.merge(found)
    return total


def is_defined(expected: Graph, batch: dict[str, np.ndarray], reference: np.ndarray) -> np.ndarray:
    """
    For each row, whether the model has a result that a graph could agree with. It has none for a row of nothing but
    padding, where it is changed by what stands there: attention that has nothing to attend to.
    """
    is_empty = batch["attention_mask"].sum(axis=1) == 0
    if not is_empty.any():
        return ~is_empty
    ids_BL = np.where(batch["attention_mask"] == 1, batch["input_ids"], batch["input_ids"].max())
    return ~is_empty | np.isclose(expected(batch | {"input_ids": ids_BL}), reference, atol=1e-6).all(axis=-1)


def run(graph: Graph, batch: dict[str, np.ndarray], name: str, who: str) -> np.ndarray:
    try:
        return graph(batch)
    except Exception as error:
        # What a runtime raises has no common type.
        length = batch["input_ids"].shape[1]
        raise ValueError(
            f"The {who} fails on a batch of {name}. If it knows no texts of {length} tokens, give a smaller "
            f"`max_length`. It says: {error}"
        ) from error


def check_tokens(classifier: ExportedClassifier, tokenizer, texts: Sequence[Text]) -> None:
    """ValueError, with the text, unless the exported tokenizer does what that of the model does."""
    for text in texts:
        parts = text if isinstance(text, tuple) else (text,)
        # In lists: alone, a pair whose second text is empty would count as one text.
        expected = tokenizer(
            *([part] for part in parts), truncation=True, max_length=classifier.max_length, return_token_type_ids=True
        )
        found = classifier.tokenizer.encode(*parts)
        if ([found.ids], [found.type_ids]) != (expected["input_ids"], expected["token_type_ids"]):
            raise ValueError(
                "The tokenizer of the model does something that its tokenizer.json does not say, so that the exported "
                f"one reads {text!r:.80} otherwise: {found.tokens[:20]}."
            )


def make_texts(tokenizer, count: int, max_length: int) -> list[Text]:
    """Texts of random words of the vocabulary: no more than a stand-in for real ones."""
    chooser = random.Random(0)
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    lengths = [chooser.randint(1, max(1, min(64, max_length - 2))) for _ in range(count)]
    return [tokenizer.decode(chooser.choices(words, k=length)) for length in lengths]


def with_graph(classifier: ExportedClassifier, graph: Graph) -> ExportedClassifier:
    """The same classifier, of another graph."""
    other = copy.copy(classifier)
    other.graph = graph
    return other


def measure_agreement(problem: str, logits: np.ndarray, expected: np.ndarray) -> float:
    """
    The part of texts that keep their label; with several labels, all of them; with a value, that keep it up to a
    hundredth of the range of all values, or of the value where all are the same.
    """
    if problem == "regression":
        spread = expected.max(axis=0) - expected.min(axis=0)
        allowed = 0.01 * np.where(spread > 0, spread, np.maximum(1, np.abs(expected).max(axis=0)))
        return float((np.abs(logits - expected) <= allowed).all(axis=-1).mean())
    if problem == "multi_label_classification":
        return float(((logits > 0) == (expected > 0)).all(axis=-1).mean())
    return float((logits.argmax(axis=-1) == expected.argmax(axis=-1)).mean())


def measure_speed(classifier: ExportedClassifier, texts: Sequence[Text], batch: int, seconds: float = 1.0) -> float:
    """
    Texts a second from text to logits, `batch` texts in a call: of all calls within so many seconds. Fewer texts than
    that are repeated.
    """
    texts = list(islice(cycle(texts), max(batch, len(texts))))
    calls = [texts[start : start + batch] for start in range(0, len(texts) - batch + 1, batch)]
    classifier.logits(calls[0])
    count, start = 0, time.perf_counter()
    while True:
        chosen = calls[count // batch % len(calls)]
        classifier.logits(chosen)
        count += len(chosen)
        spent = time.perf_counter() - start
        if spent >= seconds:
            return count / spent
