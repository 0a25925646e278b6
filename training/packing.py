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
    Batches without padding, in place of `DataCollatorWithPadding`, for a model whose `forward` takes `cu_seq_lens`. The
    logits are the same, one row for each text, in order.

    From N features, what a tokenizer gives for one text each and maybe `labels`, with T tokens in all it makes

        labels                          (N,), first: Trainer counts the rows of a batch by the first tensor in it
        input_ids, token_type_ids, position_ids    (1, T)
        cu_seq_lens                     (N + 1,): text n stands from `cu_seq_lens[n]` to `cu_seq_lens[n + 1]`

    Raises:
        ValueError: There is no feature, or one is padded.
    """

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        if not features or not any(len(feature["input_ids"]) for feature in features):
            raise ValueError(f"`features` must hold a text with at least one token, got {len(features)} features.")
        if any(0 in feature.get("attention_mask", ()) for feature in features):
            raise ValueError("`attention_mask` of a feature must be 1 everywhere: padded texts cannot be packed.")
        batch = {}
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        for name in ("input_ids", "token_type_ids", "position_ids"):
            if name in features[0]:
                rows = [torch.as_tensor(feature[name], dtype=torch.long) for feature in features]
                batch[name] = torch.cat(rows)[None]
        lengths_N = torch.tensor([len(feature["input_ids"]) for feature in features])
        batch["cu_seq_lens"] = nn.functional.pad(lengths_N.cumsum(0), (1, 0))
        return batch
