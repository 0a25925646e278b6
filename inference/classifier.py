"""A trained classifier in Python: `load("runs/reviews").predict(["great", "awful"])`."""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as bars

from ..data.tokens import Losses, to_tensors
from ..files import check_source
from .classify import CHUNK, CPU_TOKENS, Answers, clean, resolve_abstain, split_batches, to_scores
from .explain import explain_row, list_words

logger = logging.getLogger(__name__)


def load(
    model: str | os.PathLike, *, device: str | None = None, batch_size: int = 64, trust_remote_code: bool = False
) -> "Classifier":
    """
    The classifier of a run folder, or of a name on the Hub, with its tokenizer. Only safetensors weights are read. Code
    of the model is run only with `trust_remote_code`, which a Wave Network does not need.

    `device` is "cpu", "cuda", "cuda:1" ...; None: a GPU if there is one. A batch has at most `batch_size` texts.
    Raises a ValueError or an OSError if the model is missing, damaged, or no trained classifier.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    device, name = resolve_device(device), os.fspath(model)
    check_source("model", name)
    loaded = load_classifier(name, trust_remote_code).to(device)
    return Classifier(loaded, AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code), batch_size)


class Classifier(Answers):
    """
    A model with its tokenizer. A text is a string, or for a model of pairs a tuple of two. Methods that take texts take
    one, with one answer, or several, with a list of answers. Long texts are cut off, with a warning that counts them.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64):
        super().__init__(model.config.to_dict())
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.losses = Losses(tokenizer)
        self.most_tokens = CPU_TOKENS if model.device.type == "cpu" else sys.maxsize

    def predict(self, texts: Any, abstain: float | None = None) -> Any:
        """
        The label of each text; the list of its labels if there may be several; or its number. With `abstain`, a
        precision that validation found, such as 0.95, None in place of labels that would have a smaller one.
        """
        least = resolve_abstain(self.config, abstain)
        rows, is_one = self.to_rows(texts)
        logits_NK = self.logits_of_all(rows)
        if self.problem == "regression":
            answers = logits_NK[:, 0].tolist() if len(self.labels) == 1 else logits_NK.tolist()
        else:
            answers = [label for _, label, *_ in self.make_rows(logits_NK, least=least)]
        return answers[0] if is_one else answers

    def predict_proba(self, texts: Any) -> np.ndarray:
        """The probability of every label, float32 of shape (texts, labels); (labels,) for one text."""
        if self.problem == "regression":
            raise ValueError("`predict_proba` is for a model with labels; this one gives a number: use `predict`.")
        rows, is_one = self.to_rows(texts)
        scores_NK = to_scores(self.logits_of_all(rows), self.problem)
        return scores_NK[0] if is_one else scores_NK

    def explain(self, texts: Any) -> Any:
        """
        The words of each text in order, as tuples of a word and its weight: how much lower the probability of the best
        label (or the number) is without the word. A text of more than 256 words has passages in place of words.
        """
        rows, is_one = self.to_rows(texts)
        answers = [list_words(row, explain_row(self, row)) for row in rows]
        return answers[0] if is_one else answers

    def to_rows(self, texts: Any) -> tuple[list[dict[str, str]], bool]:
        """Texts as rows of `text` (and `text_pair`), and whether it is a single one."""
        width = self.text_columns and (2 if len(self.text_columns) == 2 else 1)
        is_one = isinstance(texts, str) or (width == 2 and isinstance(texts, tuple))
        if not hasattr(texts, "__iter__") or hasattr(texts, "columns") or isinstance(texts, Mapping):
            raise ValueError(f"`texts` must be a text or a list of texts, got {type(texts).__name__}.")
        rows = []
        for place, text in enumerate([texts] if is_one else texts):
            parts = list(text) if isinstance(text, tuple | list) else [text]
            width = width or (2 if len(parts) == 2 else 1)
            if len(parts) != width or not all(isinstance(part, str) for part in parts):
                kind = "pairs of strings" if width == 2 else "strings"
                raise ValueError(f"`texts` must be {kind}, got {text!r:.60} in place {place}.")
            rows.append(dict(zip(("text", "text_pair"), map(clean, parts), strict=False)))
        return rows, is_one

    def logits_of_all(self, rows: list[dict[str, str]]) -> np.ndarray:
        """The logits of any number of rows, with a warning of what the tokenizer loses."""
        self.losses = Losses(self.tokenizer)
        parts = [self.logits(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
        for line in self.losses.describe():
            logger.warning(line)
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)

    @torch.inference_mode()
    def logits(self, rows: list[dict[str, str]], count: bool = True) -> np.ndarray:
        """The logits of each row, float32, of shape (rows, labels). With `count`, `losses` counts what is cut off."""
        pairs = [row["text_pair"] for row in rows] if rows and "text_pair" in rows[0] else None
        encoding = self.tokenizer([row["text"] for row in rows], pairs, truncation=True)
        if count:
            self.losses.count(encoding)
        lengths = [len(ids) for ids in encoding["input_ids"]]
        logits = np.empty((len(rows), len(self.labels)), np.float32)
        for chosen in split_batches(lengths, self.batch_size, self.most_tokens):
            features = {name: [values[index] for index in chosen] for name, values in encoding.items()}
            # A batch of empty texts has one token of padding.
            longest = max(1, *(lengths[index] for index in chosen))
            batch = to_tensors(self.tokenizer.pad(features, padding="max_length", max_length=longest))
            logits[chosen] = self.model(**batch.to(self.model.device)).logits.float().cpu().numpy()
        if not np.isfinite(logits).all():
            raise ValueError("The `model` must give finite logits, got others: its weights are damaged.")
        return logits


def resolve_device(device: str | None) -> str:
    """A GPU if there is one. Raises a ValueError if torch cannot compute on the device."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`device` must be one that torch finds, such as cpu, got {device!r}: {reason}") from error
    return device


def load_classifier(name: str, trust_remote_code: bool = False, **settings: Any) -> Any:
    """A sequence classifier, from safetensors alone; a ValueError or an OSError says what is wrong with it."""
    # What transformers itself says of weights of another shape points to a table in its log.
    settings |= {"ignore_mismatched_sizes": True, "output_loading_info": True, "trust_remote_code": trust_remote_code}
    has_bars = bars.is_progress_bar_enabled()
    if os.path.isdir(name):
        bars.disable_progress_bar()  # which would stay on the screen, of what takes an instant
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(name, use_safetensors=True, **settings)
    finally:
        if has_bars:
            bars.enable_progress_bar()
    for weight, found, expected in sorted(loaded["mismatched_keys"]):
        asked = f"must have the {weight!r} that its config.json asks for, of shape {tuple(expected)}"
        raise ValueError(f"`model` {name!r} {asked}, got one of shape {tuple(found)}.")
    if loaded["missing_keys"]:
        raise ValueError(f"`model` {name!r} must be a trained classifier; it has no {min(loaded['missing_keys'])!r}.")
    return model.eval()
