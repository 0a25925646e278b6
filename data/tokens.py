"""What a tokenizer gives, as tensors; and what it loses: it cuts long texts off, and may not know all tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers import DataCollatorWithPadding as SlowCollator


def to_tensors(padded: Mapping[str, Any]) -> BatchEncoding:
    """What `tokenizer.pad` gives as lists, as tensors. By itself it counts the ids one by one, slower than a model."""
    tensors = {name: torch.tensor(values) for name, values in padded.items()}
    return BatchEncoding({name: tensor if tensor.numel() else tensor.long() for name, tensor in tensors.items()})


class DataCollatorWithPadding(SlowCollator):
    """The batches of transformers' collator, in a fraction of the time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer, return_tensors=None)  # type: ignore[arg-type]

    def __call__(self, features: list[dict[str, Any]]) -> BatchEncoding:  # type: ignore[override]
        return to_tensors(super().__call__(features))


class Losses:
    """Counts of the texts that were read so far, those of them that were cut off, and the tokens that are unknown."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.max_length, self.unknown_id = tokenizer.model_max_length, tokenizer.unk_token_id
        self.texts = self.cut = self.unknown = 0

    def count(self, encoding: BatchEncoding) -> None:
        """Counts texts that were encoded with `truncation`."""
        ids = encoding["input_ids"]
        self.texts += len(ids)
        # A tokenizer that is not a fast one does not tell which texts were cut.
        is_cut = [each.overflowing for each in encoding.encodings or ()] or [len(row) >= self.max_length for row in ids]
        self.cut += sum(map(bool, is_cut))
        self.unknown += sum(row.count(self.unknown_id) for row in ids)

    def describe(self, advice: str = "") -> list[str]:
        """A line for the texts that were cut off, and one for the unknown tokens, if there are any."""
        lines = [f"{self.cut:,} of {self.texts:,} texts were cut at {self.max_length:,} tokens{advice}."]
        lines += [f"{self.unknown:,} tokens of {self.texts:,} texts are unknown to the tokenizer."]
        return [line for line, count in zip(lines, (self.cut, self.unknown), strict=True) if count]
