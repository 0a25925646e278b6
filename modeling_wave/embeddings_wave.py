# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""What stands before the first wave layer: the tokens of some texts, and their embeddings.

Shapes: B texts, L tokens, D `hidden_size`; `mask_BL` is True at tokens and False at padding.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..configuration.configuration_wave import WaveConfig
from .fused_wave import clear_padding, is_blocked, is_traced
from .ops_wave import index_texts

logger = logging.get_logger(__name__)

# Two primes, each with a multiplier, hash the n-grams. Neither prime is 1 modulo 3, so cubing loses nothing. No number
# reaches 2^24, because OpenVINO divides integers in float32.
HASH = ((4091, 1103), (4079, 2377))


@dataclass
class WaveTokens:
    """
    The tokens of some texts: padded, ids (B, L) with a mask, or packed, ids (1, L) with N + 1 offsets `cu_seq_lens`.
    `inputs_embeds` (B, L, D) may stand in place of `input_ids`; `ngram_ids_BLN` are rows of the table of n-grams.
    """

    input_ids: torch.Tensor | None = None
    mask_BL: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    inputs_embeds: torch.Tensor | None = None
    cu_seq_lens: torch.Tensor | None = None
    ngram_ids_BLN: torch.Tensor | None = None

    @classmethod
    def check(
        cls,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        inputs_embeds=None,
        cu_seq_lens=None,
    ) -> "WaveTokens":
        """The tokens, from the arguments of a model. ValueError names an argument that is wrong or does not fit."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give exactly one of `input_ids` and `inputs_embeds`, got {given}.")
        shape = tuple(input_ids.shape if input_ids is not None else inputs_embeds.shape[:-1])
        if len(shape) != 2 or shape[1] == 0:
            must = "`input_ids` must have the shape (batch size, length), `inputs_embeds` one axis more"
            raise ValueError(f"{must}, with a length of at least 1; got a batch of shape {shape}.")
        if cu_seq_lens is not None:
            check_offsets(cu_seq_lens, shape, attention_mask)
        ids = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
        ids = {name: each[None] if each is not None and each.dim() == 1 else each for name, each in ids.items()}
        for name, each in {"attention_mask": attention_mask, **ids}.items():
            if each is None:
                continue
            if name != "attention_mask" and each.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"`{name}` must be integers, torch.int64 or torch.int32; got {each.dtype}.")
            shapes = [shape, (1, shape[1])] if name in ("token_type_ids", "position_ids") else [shape]
            if tuple(each.shape) not in shapes:
                allowed = " or ".join(map(str, dict.fromkeys(shapes)))
                raise ValueError(f"`{name}` must have the shape {allowed} of the tokens, got {tuple(each.shape)}.")
        mask_BL = None if attention_mask is None else attention_mask != 0
        return cls(mask_BL=mask_BL, inputs_embeds=inputs_embeds, cu_seq_lens=cu_seq_lens, **ids)

    @property
    def shape(self) -> tuple[int, int]:
        rows, length = (self.input_ids if self.inputs_embeds is None else self.inputs_embeds).shape[:2]
        return rows, length

    @property
    def device(self) -> torch.device:
        return (self.input_ids if self.inputs_embeds is None else self.inputs_embeds).device

    def split_pairs(self) -> "WaveTokens":
        """Pairs of texts as twice as many texts, each first one before its second, the tokens of the other segments."""
        is_second_BL = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        if self.token_type_ids is not None:
            is_second_BL = is_second_BL | (self.token_type_ids > 0)
        if self.cu_seq_lens is not None:
            text_L = index_texts(self.cu_seq_lens, self.shape[1])
            seconds_N = torch.zeros_like(self.cu_seq_lens[1:]).index_add(
                0, text_L, is_second_BL[0].to(self.cu_seq_lens)
            )
            ends_N2 = torch.stack([self.cu_seq_lens[1:] - seconds_N, self.cu_seq_lens[1:]], dim=1)
            return replace(self, cu_seq_lens=torch.cat([self.cu_seq_lens[:1], ends_N2.flatten()]))
        is_token_BL = torch.ones_like(is_second_BL) if self.mask_BL is None else self.mask_BL
        mask_B2L = torch.stack([is_token_BL & ~is_second_BL, is_token_BL & is_second_BL], dim=1)
        rows = {name: x for name, x in vars(self).items() if x is not None and x.shape[0] == self.shape[0]}
        twice = {name: torch.stack([x, x], dim=1).flatten(end_dim=1) for name, x in rows.items()}
        return replace(self, **twice | {"mask_BL": mask_B2L.flatten(end_dim=1)})

    def slice(self, start: int, stop: int) -> "WaveTokens":
        """The tokens of padded texts from one place to another."""
        return replace(self, **{name: x[:, start:stop] for name, x in vars(self).items() if x is not None})


class WaveDropout(nn.Dropout):
    """
    `nn.Dropout`, which on a CPU draws 16 random bits for each element: `nn.Dropout` takes longer there than the wave
    operation itself. An element is kept with probability `round((1 - p) 2^16) / 2^16` and divided by it.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        kept = round((1 - self.p) * 2**16)
        if not self.training or not is_blocked(hidden_states) or not 0 < kept < 2**16:
            return super().forward(hidden_states)
        count = hidden_states.numel()
        bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        is_kept = (bits[:count] < kept - 2**15).view(hidden_states.shape)
        # A mask of floats, 0 or the scale, is the factor of the backward too.
        mask = is_kept.to(torch.promote_types(hidden_states.dtype, torch.float32)).mul_(2**16 / kept)
        return (hidden_states * mask).to(hidden_states.dtype)


class WaveConvolution(nn.Module):
    """
    What its neighbours add to a token: `W_j + sum_k a_k * W_{j+k}`, with one weight for each dimension and neighbour.
    Neighbours beyond the text and at padding are zero. The wave layer itself does not see the order of the tokens.
    """

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.reach = config.conv_kernel_size // 2
        self.weight = nn.Parameter(torch.empty(config.hidden_size, 1, config.conv_kernel_size))

    def forward(self, hidden_states: torch.Tensor, tokens: WaveTokens) -> torch.Tensor:
        own_BLD = hidden_states
        if tokens.mask_BL is not None:
            own_BLD = clear_padding(own_BLD, tokens.mask_BL)
        if tokens.cu_seq_lens is None:
            return hidden_states + self.convolve(own_BLD)
        # Packed texts are kept apart by zeros between them.
        length, gaps = hidden_states.shape[1], self.reach * (tokens.cu_seq_lens.shape[0] - 2)
        places_L = torch.arange(length, device=hidden_states.device)
        places_L = places_L + self.reach * index_texts(tokens.cu_seq_lens, length)
        spaced_BLD = own_BLD.new_zeros(1, length + gaps, own_BLD.shape[2]).index_copy(1, places_L, own_BLD)
        return hidden_states + self.convolve(spaced_BLD)[:, places_L]

    def convolve(self, x_BLD: torch.Tensor) -> torch.Tensor:
        # As a picture of one line: on a CPU a depthwise convolution is much faster in two dimensions than in one.
        x_BD1L, weight = x_BLD.transpose(1, 2).unsqueeze(2), self.weight.unsqueeze(2)
        y_BD1L = nn.functional.conv2d(x_BD1L, weight, padding=(0, self.reach), groups=weight.shape[0])
        return y_BD1L.squeeze(2).transpose(1, 2)


class WaveEmbeddings(nn.Module):
    """Word + n-gram + position + segment embedding, a plain sum; then, if there is one, the convolution."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config, width = config, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        if config.ngram_vocab_size is not None:
            narrow = config.ngram_hidden_size
            self.ngram_embeddings = nn.Embedding(config.ngram_vocab_size, narrow or width, padding_idx=0)
            self.ngram_projection = nn.Linear(narrow, width, bias=False) if narrow is not None else None
        if config.position_embedding_type == "absolute":
            self.position_embeddings: nn.Module = nn.Embedding(config.max_position_embeddings, width)
        elif config.position_embedding_type == "sinusoidal":
            self.position_embeddings = WaveSinusoidalEmbedding(config)
        if config.type_vocab_size > 0:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.dropout = WaveDropout(config.hidden_dropout_prob)
        self.convolution = WaveConvolution(config) if config.conv_kernel_size is not None else None

    @property
    def reach(self) -> int:
        """How many neighbours on each side the embedding of a token depends on, once its n-grams are found."""
        return 0 if self.convolution is None else self.convolution.reach

    def forward(self, tokens: WaveTokens) -> torch.Tensor:
        """The embeddings, (B, L, D). Each token of each text draws its own dropout."""
        if tokens.inputs_embeds is None:
            hidden_states = look_up(self.word_embeddings, tokens.input_ids, "input_ids")
        else:
            hidden_states, width = tokens.inputs_embeds, self.config.hidden_size
            if hidden_states.shape[-1] != width:
                raise ValueError(f"`inputs_embeds` must be {width} wide, `hidden_size`; got {hidden_states.shape[-1]}.")
        ngram_ids_BLN = self.find_ngrams(tokens) if tokens.ngram_ids_BLN is None else tokens.ngram_ids_BLN
        if ngram_ids_BLN is not None:
            for ids_BL in ngram_ids_BLN.unbind(-1):
                rows = look_up(self.ngram_embeddings, ids_BL, "ngram_ids")
                hidden_states = hidden_states + (rows if self.ngram_projection is None else self.ngram_projection(rows))
        if self.config.position_embedding_type != "none":
            hidden_states = hidden_states + self.embed_positions(tokens)
        if self.config.type_vocab_size > 0:
            type_ids = tokens.token_type_ids
            if type_ids is None:
                type_ids = torch.zeros((1, 1), dtype=torch.long, device=tokens.device)
            hidden_states = hidden_states + look_up(self.token_type_embeddings, type_ids, "token_type_ids")
        hidden_states = self.dropout(hidden_states)
        if self.training and self.config.token_dropout_prob > 0:
            drawn_BL1 = torch.rand((*tokens.shape, 1), device=tokens.device)
            hidden_states = hidden_states.masked_fill(drawn_BL1 < self.config.token_dropout_prob, 0)
        return hidden_states if self.convolution is None else self.convolution(hidden_states, tokens)

    def embed_positions(self, tokens: WaveTokens) -> torch.Tensor:
        """The position embeddings, (B, L, D), or (1, L, D) where they are the same for all texts."""
        position_ids = self.count_positions(tokens) if tokens.position_ids is None else tokens.position_ids
        if self.config.position_embedding_type == "sinusoidal" and tokens.position_ids is None:
            return self.position_embeddings(position_ids, limit=tokens.shape[1])
        return look_up(self.position_embeddings, position_ids, "position_ids")

    def find_ngrams(self, tokens: WaveTokens) -> torch.Tensor | None:
        """The rows of the n-grams that end at each token, if the model has n-grams and the tokens have ids."""
        rows = self.config.ngram_vocab_size
        if rows is None:
            return None
        if tokens.input_ids is not None:
            return hash_ngrams(tokens, self.config.ngram_size, rows)
        if not torch.compiler.is_compiling():
            logger.warning_once(
                "This model adds embeddings of hashed n-grams (`ngram_vocab_size`), which it finds by `input_ids`: "
                "given `inputs_embeds`, it leaves them out."
            )
        return None

    def count_positions(self, tokens: WaveTokens) -> torch.Tensor:
        """Positions count tokens, not padding: a text has the same ones wherever the padding stands."""
        places_L = torch.arange(tokens.shape[1], device=tokens.device)
        if tokens.cu_seq_lens is not None:
            return (places_L - tokens.cu_seq_lens[index_texts(tokens.cu_seq_lens, tokens.shape[1])])[None]
        if tokens.mask_BL is not None:
            return (tokens.mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)
        return places_L[None]


class WaveSinusoidalEmbedding(nn.Module):
    """
    Fixed positions of *Attention Is All You Need* (arXiv 1706.03762), section 3.5, times a scale. The first
    `max_position_embeddings` stand in a table; others are computed when they come.
    """

    weight: torch.Tensor

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.register_buffer("weight", self.compute_table(), persistent=False)

    def compute_table(self) -> torch.Tensor:
        """The table, shape (max_position_embeddings, D), in the default dtype."""
        return self.compute(torch.arange(self.config.max_position_embeddings)).to(torch.get_default_dtype())

    def compute(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Sines in the even dimensions, cosines in the odd ones, shape (..., D)."""
        # In float64 where the device has it: float32 keeps too few digits of the millionth position for a sine.
        wide = torch.float32 if position_ids.device.type == "mps" else torch.float64
        even = torch.arange(0, self.config.hidden_size, 2, dtype=wide, device=position_ids.device)
        angles = position_ids[..., None] * 10000.0 ** (-even / self.config.hidden_size)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(start_dim=-2)
        return (self.config.position_embedding_scale * waves).float()

    def forward(self, position_ids: torch.Tensor, limit: int | None = None) -> torch.Tensor:
        """The positions, shape (..., D). `limit`: all ids are known to lie below it; None: nothing is known."""
        size = self.weight.shape[0]
        is_short = limit is not None and not torch.jit.is_tracing() and limit <= size
        # Nothing is known in a graph, or on a GPU, which must not wait.
        if not is_short and is_blocked(position_ids):
            is_short = position_ids.numel() == 0 or int(position_ids.max()) < size
        if is_short:
            return nn.functional.embedding(position_ids, self.weight)
        return self.compute(position_ids).to(self.weight.dtype)


def hash_ngrams(tokens: WaveTokens, size: int, rows: int) -> torch.Tensor:
    """
    For each token the rows of the n-grams that end at it, n = 2 ... size, in a table of `rows`: (B, L, size - 1).

    With t = id + 1, or 0 beyond the text and at padding, and for two primes p with a multiplier a each:

        h_1 = t_j mod p,    h_n = (a h_{n-1} + t_{j-n+1})^3 mod p,    row = 1 + (q h_n + h'_n) mod (rows - 1)

    where h' and q belong to the second prime. Row 0 is for padding. All devices and runtimes get the same numbers.
    """
    left_BL = tokens.input_ids + 1
    if tokens.mask_BL is not None:
        left_BL = left_BL.masked_fill(~tokens.mask_BL, 0)
    if tokens.cu_seq_lens is not None:
        text_L = index_texts(tokens.cu_seq_lens, tokens.shape[1])
        is_first_L = text_L != nn.functional.pad(text_L, (1, 0), value=-1)[:-1]
    hashes = [left_BL % prime for prime, _ in HASH]
    ids = []
    for _ in range(size - 1):
        # torch.compile would compute `pad` again wherever its result is used.
        left_BL = torch.cat([left_BL.new_zeros(left_BL.shape[0], 1), left_BL], dim=1)[:, :-1]
        if tokens.cu_seq_lens is not None:
            left_BL = left_BL.masked_fill(is_first_L, 0)
        for k, (prime, factor) in enumerate(HASH):
            mixed_BL = (factor * hashes[k] + left_BL % prime) % prime
            hashes[k] = mixed_BL * mixed_BL % prime * mixed_BL % prime
        ids_BL = 1 + (HASH[1][0] * hashes[0] + hashes[1]) % (rows - 1)
        ids.append(ids_BL if tokens.mask_BL is None else ids_BL.masked_fill(~tokens.mask_BL, 0))
    return torch.stack(ids, dim=-1)


def check_offsets(cu_seq_lens: torch.Tensor, shape: tuple[int, ...], attention_mask: torch.Tensor | None) -> None:
    """ValueError if the offsets do not fit tokens of this shape, (batch size, length)."""
    must = "`cu_seq_lens` must hold the offsets of packed texts, integers that rise from 0 to the length"
    if attention_mask is not None:
        raise ValueError("Give `attention_mask` or `cu_seq_lens`, got both: packed texts have no padding.")
    if shape[0] != 1:
        raise ValueError(f"Packed texts stand in one row: with `cu_seq_lens` the batch size must be 1, got {shape[0]}.")
    if cu_seq_lens.dim() != 1 or len(cu_seq_lens) < 2 or cu_seq_lens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{must} {shape[1]}; got the shape {tuple(cu_seq_lens.shape)} and {cu_seq_lens.dtype}.")
    # A graph cannot ask for the values, and a GPU would have to wait for them.
    if cu_seq_lens.device.type == "cpu" and not is_traced():
        offsets = cu_seq_lens.tolist()
        if offsets[0] != 0 or offsets[-1] != shape[1] or offsets != sorted(offsets):
            raise ValueError(f"{must} {shape[1]}; got {offsets[:8]}{'...' if len(offsets) > 8 else ''}.")


def look_up(table: Any, ids: torch.Tensor, name: str) -> torch.Tensor:
    """`table(ids)`, with an error that names what is wrong with the ids."""
    try:
        return table(ids)
    except IndexError as error:
        hint = " Truncate longer texts: `tokenizer(text, truncation=True)`." if name == "position_ids" else ""
        allowed, lowest, highest = len(table.weight) - 1, int(ids.min()), int(ids.max())
        raise IndexError(f"`{name}` must lie in 0 ... {allowed}, got {lowest} ... {highest}.{hint}") from error
