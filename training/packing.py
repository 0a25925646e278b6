"""Packed batches: texts laid end to end with `cu_seq_lens`, where others are padded to the longest of them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

# What a feature may hold for each of its tokens, beside its mask, and what it may call its target.
PER_TOKEN = ("input_ids", "token_type_ids", "position_ids")
TARGETS = ("labels", "label", "label_ids")


def takes_packed(model: nn.Module) -> bool:
    """Whether a model can read packed batches: by the arguments of its `forward`."""
    return "cu_seq_lens" in inspect.signature(model.forward).parameters


class DataCollatorWithPacking:
    """
    Batches without padding, in place of `DataCollatorWithPadding`, for a model whose `forward` takes `cu_seq_lens`. The
    logits are the same, one row for each text, in order.

    A feature holds `input_ids`, and may hold `token_type_ids` and `position_ids` of the same length, and a target as
    `labels`, `label` or `label_ids`: lists, arrays or tensors. Tokens at its ends that its `attention_mask` leaves out
    are left out of the batch; other names are passed over. A text without tokens keeps its place, and its row of
    logits.

    From N features with T tokens in all it makes

        labels                          (N,), or (N, number of labels); int64 or float32
        input_ids                       (1, T)
        token_type_ids, position_ids    (1, T), if the features have them
        cu_seq_lens                     (N + 1,): text n stands from `cu_seq_lens[n]` to `cu_seq_lens[n + 1]`

    with the labels first, as Trainer counts the rows of a batch by the first tensor in it.

    Raises:
        ValueError: The features make no batch; the message names the field.
    """

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        if len(features) == 0:
            raise ValueError("`features` is empty: a batch needs at least one text.")
        batch = {}
        for name in TARGETS:
            if "labels" not in batch and is_given(name, features):
                batch["labels"] = stack_targets(name, features)
        names = [name for name in PER_TOKEN if name == "input_ids" or is_given(name, features)]
        texts = [read_text(names, feature, index) for index, feature in enumerate(features)]
        for name in names:
            batch[name] = torch.cat([text[name] for text in texts])[None]
        if batch["input_ids"].shape[1] == 0:
            raise ValueError("`input_ids` is empty in every feature: a batch needs at least one token.")
        lengths_N = torch.tensor([len(text["input_ids"]) for text in texts])
        batch["cu_seq_lens"] = nn.functional.pad(lengths_N.cumsum(0), (1, 0))
        return batch


def is_given(name: str, features: Sequence[Mapping[str, Any]]) -> bool:
    return any(feature.get(name) is not None for feature in features)


def stack_targets(name: str, features: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """The targets of all texts: whole numbers are classes, others values."""
    targets = [read(name, feature) for feature in features]
    shapes = sorted({tuple(target.shape) for target in targets})
    if len(shapes) > 1:
        raise ValueError(f"`{name}` must have one shape in all features of a batch, got {shapes}.")
    targets_N = torch.stack(targets)
    return targets_N.float() if targets_N.is_floating_point() else targets_N.long()


def read_text(names: Sequence[str], feature: Mapping[str, Any], index: int) -> dict[str, torch.Tensor]:
    """The named fields of one text, each of shape (L,), without the tokens at its ends that its mask leaves out."""
    text = {name: read(name, feature) for name in names}
    if feature.get("attention_mask") is not None:
        text["attention_mask"] = read("attention_mask", feature)
    length = tuple(text["input_ids"].shape)
    for name, ids_L in text.items():
        if ids_L.dim() != 1 or ids_L.shape != length or (ids_L.is_floating_point() and len(ids_L) > 0):
            raise ValueError(
                f"`{name}` of a feature must be a flat row of whole numbers, as many as `input_ids`, shape {length}; "
                f"got the shape {tuple(ids_L.shape)} of {ids_L.dtype}."
            )
    mask_L = text.pop("attention_mask", None)
    if mask_L is not None and not mask_L.all():
        kept = mask_L.nonzero()[:, 0]
        if len(kept) > 0 and int(kept[-1] - kept[0]) >= len(kept):
            # Padded, the tokens beside the hole would not be neighbours.
            raise ValueError(
                f"`attention_mask` of feature {index} must be 0 at the ends of the text alone, as padding is, "
                f"got {mask_L.tolist()}."
            )
        text = {name: ids_L[kept] for name, ids_L in text.items()}
    return {name: ids_L.long() for name, ids_L in text.items()}


def read(name: str, feature: Mapping[str, Any]) -> torch.Tensor:
    """A field of a feature as a tensor."""
    value = feature.get(name)
    if value is None:
        raise ValueError(f"`{name}` is missing in a feature that has {sorted(feature)}.")
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)
