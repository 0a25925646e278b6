"""`--subword_buckets`: while it trains, the embedding of a token is also made of those of its character n-grams."""

import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization import spell

SIZES = range(3, 6)  # of character n-grams, with the marks "<" and ">" of where a word begins and ends
BUCKETS = 16384  # of a new model


class SubwordEmbedding(nn.Module):
    """
    A table whose rows share what their spelling shares, after fastText (Bojanowski et al., 2017, arXiv 1607.04606,
    section 3.2): of a token w with the n-grams G_w, hashed to buckets,

        E_w = V_w + |G_w|^(-1/2) sum_{g in G_w} Z_g

    where fastText has a plain sum. Z starts from zero, so that E is what the table was. A state dict has E as well,
    under the name of the table: a checkpoint of the training loads as a model without subwords, embeddings alike.

    Args:
        table: The table to begin from. Its rows V are trained on.
        pieces: What each row stands for, as `mark_words` has it; "" has no n-grams.
        buckets: The rows of Z, at least 1.
    """

    rows_of_grams: torch.Tensor
    starts_V: torch.Tensor  # and their number at the end

    def __init__(self, table: nn.Embedding, pieces: Sequence[str], buckets: int):
        super().__init__()
        self.padding_idx = table.padding_idx
        self.own = table.weight
        self.subwords = nn.Parameter(table.weight.new_zeros(buckets, table.embedding_dim))
        grams = [cut_grams(piece) for piece in pieces]
        rows = [zlib.crc32(gram.encode()) % buckets for each in grams for gram in each]
        starts = list(accumulate(map(len, grams), initial=0))
        self.register_buffer("rows_of_grams", torch.tensor(rows, dtype=torch.long), persistent=False)
        self.register_buffer("starts_V", torch.tensor(starts), persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # E (V, D)
        return self.compose(torch.arange(len(self.own), device=self.own.device))

    @torch.compiler.disable  # how many n-grams there are depends on the tokens
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The rows of E for ids of any shape: (..., D). IndexError if an id is no row."""
        distinct_R, index = input_ids.unique(return_inverse=True)
        return nn.functional.embedding(index, self.compose(distinct_R))

    def compose(self, ids_R: torch.Tensor) -> torch.Tensor:
        """The rows of E for distinct ids: (R, D)."""
        own_RD = nn.functional.embedding(ids_R, self.own, self.padding_idx)
        counts_R = self.starts_V[ids_R + 1] - self.starts_V[ids_R]
        bags_R = counts_R.cumsum(0) - counts_R
        places = torch.arange(int(counts_R.sum()), device=ids_R.device)
        places = places + (self.starts_V[ids_R] - bags_R).repeat_interleave(counts_R)
        sums_RD = nn.functional.embedding_bag(self.rows_of_grams[places], self.subwords, bags_R, mode="sum")
        return own_RD + sums_RD * counts_R.clamp(min=1).to(sums_RD.dtype).rsqrt()[:, None]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.pop(prefix + "weight", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def cut_grams(piece: str) -> list[str]:
    """The character n-grams of a piece, the shortest ones first."""
    return [piece[start : start + size] for size in SIZES for start in range(len(piece) - size + 1)]


def mark_words(tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """What `spell` has of each id: "<wave>" is a word or how one begins, "ing>" goes on, "" has no spelling."""
    spellings = spell(tokenizer)
    return None if spellings is None else ["<" * begins + f"{text}>" if text else "" for text, begins in spellings]


def resolve_subwords(buckets: int | None, tokenizer: PreTrainedTokenizerBase, is_new: bool) -> int:
    """The buckets where none are given: `BUCKETS` for a new model, if the tokenizer can be spelled."""
    if buckets is None:
        return BUCKETS if is_new and mark_words(tokenizer) is not None else 0
    return buckets


def add_subwords(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, buckets: int) -> None:
    """Puts a `SubwordEmbedding` in place of a model's table of words, if there are buckets. ValueError if none can."""
    if not buckets:
        return
    table, pieces = model.get_input_embeddings(), mark_words(tokenizer)
    if type(table) is not nn.Embedding or pieces is None:
        raise ValueError(
            f"`subword_buckets` must be 0 of {type(model).__name__} with this tokenizer, got {buckets}: it needs words "
            "in an nn.Embedding, and tokens that say where a word begins."
        )
    # A table may have more rows than the tokenizer has tokens.
    pieces += [""] * (table.num_embeddings - len(pieces))
    model.set_input_embeddings(SubwordEmbedding(table, pieces, buckets))


def fold_subwords(model: PreTrainedModel) -> None:
    """Puts a plain table with the same embeddings in place of a `SubwordEmbedding`, if there is one."""
    table = cast(nn.Module, model.get_input_embeddings())
    if isinstance(table, SubwordEmbedding):
        weight = table.weight.detach()
        model.set_input_embeddings(nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=table.padding_idx))
