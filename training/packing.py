"""Packed batches: texts laid end to end with `cu_seq_lens`, where others are padded to the longest of them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def takes_packed(model: nn.Module) -> bool:
    """Whether a model can read packed batches: by the arguments of its `forward`."""
    return "cu_seq_lens" in inspect.signature(model.forward).parameters


class DataCollatorWithPacking:
    """
    Batches without padding, in place of `DataCollatorWithPadding`. The logits are the same, one row for each text.

    From N texts without padding, with T tokens in all, it makes `input_ids` and `token_type_ids` (1, T), `cu_seq_lens`
    (N + 1,), between which the texts stand, and `labels`, first: Trainer counts the rows by the first tensor.
    """

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {}
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        for name in ("input_ids", "token_type_ids"):
            if name in features[0]:
                batch[name] = torch.cat([torch.tensor(feature[name]) for feature in features])[None]
        lengths_N = torch.tensor([len(feature["input_ids"]) for feature in features])
        batch["cu_seq_lens"] = nn.functional.pad(lengths_N.cumsum(0), (1, 0))
        return batch
