# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""What stands before the first wave layer: the tokens of some texts, and their embeddings.

Shapes: B texts, L tokens, D `hidden_size`; `mask_BL` is True at tokens and False at padding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from ..configuration.configuration_wave import WaveConfig
from .ops_wave import index_texts

logger = logging.get_logger(__name__)

# Two primes and a multiplier for each, with which n-grams are hashed. Neither prime is 1 modulo 3, so that cubes lose
# nothing; and no number gets to 2^24, as OpenVINO divides integers in float32, which holds no more.
HASH = ((4091, 1103), (4079, 2377))

# Hooks that transformers leaves on modules and that are not about what is computed: that of gradient checkpointing, and
# that which records hidden states when they are asked for.
BLIND = ("make_inputs_require_grads", "output_capturing_hook")


@dataclass
class WaveTokens:
    """The tokens of some texts: padded, (B, L) with a mask, or packed, (1, L) with the N + 1 offsets between them."""

    input_ids: torch.Tensor | None
    mask_BL: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    position_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor | None
    cu_seq_lens: torch.Tensor | None
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
        others: Mapping[str, Any] | None = None,
    ) -> "WaveTokens":
        """From the arguments of a model. ValueError, naming the argument, if they cannot be or do not go together."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give exactly one of `input_ids` and `inputs_embeds`, got {given}.")
        shape = tuple(input_ids.shape if input_ids is not None else inputs_embeds.shape[:-1])
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(
                "`input_ids` must have the shape (batch size, length) and `inputs_embeds` (batch size, length, "
                f"hidden size), with a length of at least 1; got a batch of shape {shape}."
            )
        mask_BL = to_mask(attention_mask, shape)
        if others is not None and others.get("cu_seq_lens_q") is not None:
            raise ValueError(
                "Packed texts are told apart by `cu_seq_lens`; `cu_seq_lens_q`, which was given, is for attention."
            )
        if cu_seq_lens is not None:
            check_offsets(cu_seq_lens, shape, attention_mask)
        check_ids("input_ids", input_ids, [shape])
        token_type_ids, position_ids = add_batch(token_type_ids), add_batch(position_ids)
        for name, ids in (("token_type_ids", token_type_ids), ("position_ids", position_ids)):
            check_ids(name, ids, [shape, (1, shape[1])])
        return cls(input_ids, mask_BL, token_type_ids, position_ids, inputs_embeds, cu_seq_lens)

    @property
    def shape(self) -> tuple[int, int]:
        rows, length = (self.input_ids if self.inputs_embeds is None else self.inputs_embeds).shape[:2]
        return rows, length

    @property
    def device(self) -> torch.device:
        return (self.input_ids if self.inputs_embeds is None else self.inputs_embeds).device

    def chunks(self, length: int, reach: int = 0) -> Iterator[tuple["WaveTokens", slice]]:
        """So many tokens of each text at a time, with neighbours as far as `reach`; and where they stand among them."""
        for start in range(0, self.shape[1], length):
            first, stop = max(0, start - reach), min(start + length, self.shape[1])
            parts = {
                name: value if value is None or value.shape[1] == 1 else value[:, first : stop + reach]
                for name, value in vars(self).items()
            }
            yield WaveTokens(**parts), slice(start - first, stop - first)


class Lookup(NamedTuple):
    """A summand of the embeddings: `table(ids)`. Where each distinct row is read once, also as `rows[index]`."""

    name: str
    ids_BL: torch.Tensor
    rows_RD: torch.Tensor | None = None
    index_BL: torch.Tensor | None = None


class WaveDropout(nn.Dropout):
    """`nn.Dropout`, with 16 random bits for each element in place of a call of the generator.

    On a CPU the calls would take longer than the wave operation itself. Each element is kept with probability
    `round((1 - p) 2^16) / 2^16` and divided by it. Under the transforms of torch.func it is `nn.Dropout`.
    """

    @property
    def is_active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        kept = round((1 - self.p) * 2**16)
        is_plain_cpu = type(hidden_states) is torch.Tensor and hidden_states.device.type == "cpu"
        if not self.training or torch.compiler.is_compiling() or not is_plain_cpu or not 0 < kept < 2**16:
            return super().forward(hidden_states)
        if torch._C._are_functorch_transforms_active():
            return super().forward(hidden_states)
        count = hidden_states.numel()
        bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        is_kept = (bits[:count] < kept - 2**15).view(hidden_states.shape)
        return (hidden_states * is_kept).mul_(2**16 / kept)


class WaveConvolution(nn.Module):
    """
    What the neighbours of a token add to it: `W_j + sum_k a_k * W_{j+k}`, with one weight for each dimension and
    neighbour. A neighbour beyond the text, or at padding, is zero. The wave layer itself sees no order.
    """

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.reach = config.conv_kernel_size // 2
        self.weight = nn.Parameter(torch.empty(config.hidden_size, 1, config.conv_kernel_size))

    def forward(self, hidden_states: torch.Tensor, tokens: WaveTokens) -> torch.Tensor:
        own_BLD = hidden_states
        if tokens.mask_BL is not None:
            own_BLD = own_BLD.masked_fill(~tokens.mask_BL[..., None], 0)
        if tokens.cu_seq_lens is None:
            return hidden_states + self.convolve(own_BLD)
        # Packed texts are kept apart by zeros between them.
        length, gaps = hidden_states.shape[1], self.reach * (tokens.cu_seq_lens.shape[0] - 2)
        places_L = torch.arange(length, device=hidden_states.device)
        places_L = places_L + self.reach * index_texts(tokens.cu_seq_lens, length)
        spaced_BLD = own_BLD.new_zeros(1, length + gaps, own_BLD.shape[2]).index_copy(1, places_L, own_BLD)
        return hidden_states + self.convolve(spaced_BLD)[:, places_L]

    def convolve(self, x_BLD: torch.Tensor) -> torch.Tensor:
        # A picture of one line: a CPU has a much faster depthwise convolution in two dimensions than in one.
        x_BD1L = x_BLD.transpose(1, 2).unsqueeze(2)
        y_BD1L = nn.functional.conv2d(
            x_BD1L, self.weight.unsqueeze(2), padding=(0, self.reach), groups=self.weight.shape[0]
        )
        return y_BD1L.squeeze(2).transpose(1, 2)


class Replaceable(nn.Module):
    """Counts how often one of its modules was replaced: an adapter does that, and again when it is merged into it."""

    replaced = 0

    def __setattr__(self, name: str, value: Any):
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            self.__dict__["replaced"] = self.replaced + 1


class WaveEmbeddings(Replaceable):
    """Word + n-gram + position + segment embedding, a plain sum; then, if there is one, the convolution."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.word_embeddings: nn.Module = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.ngram_projection: nn.Module | None = None
        if config.ngram_vocab_size is not None:
            width = config.ngram_hidden_size or config.hidden_size
            self.ngram_embeddings: nn.Module = nn.Embedding(config.ngram_vocab_size, width, padding_idx=0)
            if config.ngram_hidden_size is not None:
                self.ngram_projection = nn.Linear(width, config.hidden_size, bias=False)
        self.position_embeddings: nn.Module
        if config.position_embedding_type == "absolute":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        elif config.position_embedding_type == "sinusoidal":
            self.position_embeddings = WaveSinusoidalEmbedding(config)
        if config.type_vocab_size > 0:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.dropout = WaveDropout(config.hidden_dropout_prob)
        self.convolution = WaveConvolution(config) if config.conv_kernel_size is not None else None

    @property
    def reach(self) -> int:
        """How many neighbours on each side the embedding of a token depends on, once its n-grams are found."""
        return 0 if self.convolution is None else self.convolution.reach

    def tables(self) -> dict[str, Any]:
        """The tables whose rows are added, by the name of the ids that choose them."""
        tables: dict[str, Any] = {"input_ids": self.word_embeddings}
        if self.config.ngram_vocab_size is not None:
            tables["ngram_ids"] = self.ngram_embeddings
        if self.config.position_embedding_type != "none":
            tables["position_ids"] = self.position_embeddings
        if self.config.type_vocab_size > 0:
            tables["token_type_ids"] = self.token_type_embeddings
        return tables

    def forward(self, tokens: WaveTokens) -> tuple[torch.Tensor, list[Lookup] | None]:
        """The embeddings, (B, L, D), and what they are a sum of; None in place of that if they are more than a sum."""
        if tokens.inputs_embeds is not None and tokens.inputs_embeds.shape[-1] != self.config.hidden_size:
            raise ValueError(
                f"`inputs_embeds` must have the shape (batch size, length, {self.config.hidden_size}), with "
                f"`hidden_size` at its end; got {tuple(tokens.inputs_embeds.shape)}."
            )
        ids, tables, is_sum = self.find_ids(tokens), self.tables(), tokens.inputs_embeds is None
        summands = [] if tokens.inputs_embeds is None else [self.dropout(tokens.inputs_embeds)]
        lookups = []
        sinusoidal = tables.get("position_ids")
        if isinstance(sinusoidal, WaveSinusoidalEmbedding):
            (position_ids,) = ids["position_ids"]
            is_given = tokens.position_ids is not None
            # Given ones may lie beyond the table, however short the text is, and a graph cannot ask; a trace cannot ask
            # for the length either.
            if torch.jit.is_tracing() or (is_given and is_in_graph(position_ids)):
                summands.append(self.dropout(sinusoidal(position_ids, are_all_computed=True)))
                del tables["position_ids"]
                is_sum = False
        for name, table in tables.items():
            for ids_BL in ids[name]:
                lookup = self.find_distinct(name, table, ids_BL)
                if lookup.rows_RD is None:
                    summands.append(self.read_rows(name, table, lookup.ids_BL))
                else:
                    summands.append(nn.functional.embedding(lookup.index_BL, lookup.rows_RD))
                lookups.append(lookup)
        hidden_states = sum_up(summands)
        if self.training and self.config.token_dropout_prob > 0:
            drawn_BL1 = torch.rand((*tokens.shape, 1), device=tokens.device)
            hidden_states, is_sum = hidden_states.masked_fill(drawn_BL1 < self.config.token_dropout_prob, 0), False
        if self.convolution is not None:
            hidden_states, is_sum = self.convolution(hidden_states, tokens), False
        return hidden_states, lookups if is_sum else None

    def find_ids(self, tokens: WaveTokens) -> dict[str, Sequence[torch.Tensor]]:
        """The ids that choose rows of each table: none, one row for each token, or of n-grams one for each n."""
        position_ids, token_type_ids = tokens.position_ids, tokens.token_type_ids
        if position_ids is None:
            position_ids = self.count_positions(tokens)
        if token_type_ids is None:
            token_type_ids = torch.zeros((1, 1), dtype=torch.long, device=tokens.device)
        ngram_ids_BLN = self.find_ngrams(tokens) if tokens.ngram_ids_BLN is None else tokens.ngram_ids_BLN
        return {
            "input_ids": [] if tokens.input_ids is None else [tokens.input_ids],
            "ngram_ids": [] if ngram_ids_BLN is None else ngram_ids_BLN.unbind(-1),
            "position_ids": [] if position_ids is None else [position_ids],
            "token_type_ids": [token_type_ids],
        }

    def find_ngrams(self, tokens: WaveTokens) -> torch.Tensor | None:
        """The rows of the n-grams that end at each token, if the model has n-grams and the tokens have ids."""
        rows = self.config.ngram_vocab_size
        if rows is None:
            return None
        if tokens.input_ids is None:
            if not torch.compiler.is_compiling():
                logger.warning_once(
                    "This model adds embeddings of hashed n-grams (`ngram_vocab_size`), which it finds by `input_ids`: "
                    "given `inputs_embeds`, it leaves them out."
                )
            return None
        return hash_ngrams(tokens, self.config.ngram_size, rows)

    def find_distinct(self, name: str, table: nn.Module, ids_BL: torch.Tensor) -> Lookup:
        """Each distinct row once, with dropout, where that can be had: how many there are depends on the data."""
        # Who waits for a call of the table, as NEFTune and Captum do, waits for one row for each token.
        is_whole = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_watched(table)
        if is_whole or type(ids_BL) is not torch.Tensor or ids_BL.device.type != "cpu":
            return Lookup(name, ids_BL)
        try:
            distinct_R, index_BL = ids_BL.unique(return_inverse=True)
        except RuntimeError:  # under torch.func.vmap
            return Lookup(name, ids_BL)
        return Lookup(name, ids_BL, self.read_rows(name, table, distinct_R), index_BL)

    def read_rows(self, name: str, table: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """The rows of a table in the width of the model, with dropout: (..., D)."""
        rows = look_up(table, ids, name)
        if name == "ngram_ids" and self.ngram_projection is not None:
            rows = self.ngram_projection(rows)
        return self.dropout(rows)

    def count_positions(self, tokens: WaveTokens) -> torch.Tensor | None:
        """Positions count tokens, not padding: a text has the same ones wherever the padding stands."""
        if self.config.position_embedding_type == "none":
            return None
        places_L = torch.arange(tokens.shape[1], device=tokens.device)
        if tokens.cu_seq_lens is not None:
            positions_BL = (places_L - tokens.cu_seq_lens[index_texts(tokens.cu_seq_lens, tokens.shape[1])])[None]
        elif tokens.mask_BL is not None:
            positions_BL = (tokens.mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)
        else:
            positions_BL = places_L[None]
        allowed = self.config.max_position_embeddings
        if self.config.position_embedding_type == "absolute" and tokens.shape[1] > allowed and positions_BL.numel() > 0:
            longest = int(positions_BL.max()) + 1
            if longest > allowed:
                raise ValueError(
                    f"A text of {longest} tokens is longer than `max_position_embeddings` ({allowed}) allows. Truncate "
                    "it (`tokenizer(text, truncation=True)`), or use a model with `position_embedding_type` "
                    "'sinusoidal' or 'none'."
                )
        return positions_BL


class WaveSinusoidalEmbedding(nn.Module):
    """Fixed positions of *Attention Is All You Need* (arXiv 1706.03762), section 3.5, times a scale.

    There is a table for the first `max_position_embeddings`; positions beyond it are computed when they come.
    """

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Buffer(self.compute_table(), persistent=False)
        self.register_load_state_dict_post_hook(fill_again)

    def compute_table(self) -> torch.Tensor:
        """The table, shape (max_position_embeddings, D), in the dtype that parameters get where it is made."""
        return self.compute(torch.arange(self.config.max_position_embeddings)).to(torch.get_default_dtype())

    def compute(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Sines in the even dimensions, cosines in the odd ones, shape (..., D)."""
        # In float64, where there is one: of the millionth position float32 keeps too few digits for a sine.
        wide = torch.float32 if position_ids.device.type == "mps" else torch.float64
        even = torch.arange(0, self.config.hidden_size, 2, dtype=wide, device=position_ids.device)
        angles = position_ids[..., None] * 10000.0 ** (-even / self.config.hidden_size)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(start_dim=-2)
        return (self.config.position_embedding_scale * waves).float()

    def forward(self, position_ids: torch.Tensor, are_all_computed: bool = False) -> torch.Tensor:
        if are_all_computed or goes_beyond(position_ids, self.weight.shape[0]):
            return self.compute(position_ids).to(self.weight.dtype)
        return nn.functional.embedding(position_ids, self.weight)


def fill_again(positions: WaveSinusoidalEmbedding, incompatible_keys: Any) -> None:
    """After `load_state_dict`, which brings no table: after `to_empty` there is none either."""
    if positions.weight.device.type != "meta":
        with torch.no_grad():
            positions.weight.copy_(positions.compute_table())


def hash_ngrams(tokens: WaveTokens, size: int, rows: int) -> torch.Tensor:
    """
    For each token the rows of the n-grams that end at it, n = 2 ... size, in a table of so many: (B, L, size - 1).

    With t = id + 1, or 0 beyond the text and at padding, and for two primes p with a multiplier a each:

        h_1 = t_j mod p,    h_n = (a h_{n-1} + t_{j-n+1})^3 mod p,    row = 1 + (q h_n + h'_n) mod (rows - 1)

    where h' and q belong to the second prime. Row 0 is that of padding. The same numbers on every device and runtime.
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
        # Not by `pad`, which torch.compile computes anew wherever its result is used.
        left_BL = torch.cat([left_BL.new_zeros(left_BL.shape[0], 1), left_BL], dim=1)[:, :-1]
        if tokens.cu_seq_lens is not None:
            left_BL = left_BL.masked_fill(is_first_L, 0)
        for k, (prime, factor) in enumerate(HASH):
            mixed_BL = (factor * hashes[k] + left_BL % prime) % prime
            hashes[k] = mixed_BL * mixed_BL % prime * mixed_BL % prime
        ids_BL = 1 + (HASH[1][0] * hashes[0] + hashes[1]) % (rows - 1)
        ids.append(ids_BL if tokens.mask_BL is None else ids_BL.masked_fill(~tokens.mask_BL, 0))
    return torch.stack(ids, dim=-1)


def sum_up(summands: list[torch.Tensor]) -> torch.Tensor:
    total = summands[0]
    for summand in summands[1:]:
        total = total + summand
    return total


def is_in_graph(x: torch.Tensor) -> bool:
    """Whether what happens here is compiled or captured, so that nothing may depend on the values of a tensor."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def goes_beyond(ids_BL: torch.Tensor, size: int) -> bool:
    """Whether some id is not below `size`. In a graph, which cannot ask for it, whether as many positions would be."""
    if is_in_graph(ids_BL):
        return ids_BL.shape[-1] > size
    try:
        return ids_BL.numel() > 0 and int(ids_BL.max()) >= size
    except RuntimeError:  # under torch.func.vmap and on the meta device nobody can ask; all may be computed
        return True


def check_offsets(cu_seq_lens: torch.Tensor, shape: tuple[int, ...], attention_mask: torch.Tensor | None) -> None:
    """ValueError if the offsets do not fit the tokens, of this shape (batch size, length)."""
    must = "`cu_seq_lens` must hold the offsets of packed texts, integers that rise from 0 to the length"
    if attention_mask is not None:
        raise ValueError("Give `attention_mask` or `cu_seq_lens`, got both: packed texts have no padding.")
    if shape[0] != 1:
        raise ValueError(f"Packed texts stand in one row: with `cu_seq_lens` the batch size must be 1, got {shape[0]}.")
    if cu_seq_lens.dim() != 1 or len(cu_seq_lens) < 2 or cu_seq_lens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{must} {shape[1]}; got the shape {tuple(cu_seq_lens.shape)} and {cu_seq_lens.dtype}.")
    if not is_in_graph(cu_seq_lens):
        offsets = cu_seq_lens.tolist()
        if offsets[0] != 0 or offsets[-1] != shape[1] or offsets != sorted(offsets):
            shown = ", ".join(map(str, offsets if len(offsets) <= 8 else [*offsets[:4], "...", *offsets[-3:]]))
            raise ValueError(f"{must} {shape[1]}; got {shown}.")


def check_ids(name: str, ids: torch.Tensor | None, shapes: list[tuple[int, ...]]) -> None:
    """ValueError if ids are there and are no integers, or have none of these shapes."""
    if ids is None:
        return
    if ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"`{name}` must be integers, torch.int64 or torch.int32; got {ids.dtype}.")
    if tuple(ids.shape) not in shapes:
        allowed = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"`{name}` must have the shape {allowed} of the tokens, got {tuple(ids.shape)}.")


def add_batch(ids: torch.Tensor | None) -> torch.Tensor | None:
    """Ids of shape (L,), the same for all texts, as (1, L)."""
    return ids[None] if ids is not None and ids.dim() == 1 else ids


def to_mask(attention_mask: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
    """A bool, int or float mask of 1 and 0 as bool, of the shape (B, L) of the tokens. None stays None: no padding."""
    if attention_mask is None:
        return None
    if tuple(attention_mask.shape) != shape:
        raise ValueError(
            f"`attention_mask` must have the shape {shape} of the tokens, (batch size, length), "
            f"got {tuple(attention_mask.shape)}."
        )
    return attention_mask != 0


def is_watched(module: nn.Module, blind: Sequence[str] = BLIND) -> bool:
    """
    Whether someone looks at a call of the module: by hooks, but for those of these names, or by a `forward` of its own,
    as accelerate sets it.
    """
    kinds = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    names = [getattr(hook, "__name__", "") for hooks in kinds for hook in hooks.values()]
    return any(name not in blind for name in names) or "forward" in module.__dict__


def is_int8(table: Any) -> bool:
    """Whether a table is in int8 by torchao, with one scale a row. Its own `forward` makes floats of all rows first."""
    # That of gradient checkpointing must be called: without it no gradient would reach an adapter.
    if type(table) is not nn.Embedding or is_watched(table, blind=()):
        return False
    weight: Any = table.weight
    return type(weight).__name__ == "Int8Tensor" and weight.scale.shape == (weight.shape[0], 1)


def look_up(table: Any, ids: torch.Tensor, name: str) -> torch.Tensor:
    """`table(ids)`, with an error that names what is wrong with the ids."""
    try:
        if is_int8(table):
            integers, scale = (nn.functional.embedding(ids, part) for part in (table.weight.qdata, table.weight.scale))
            return (integers * scale).to(table.weight.dtype)
        return table(ids)
    except IndexError as error:
        allowed, lowest, highest = len(table.weight) - 1, int(ids.min()), int(ids.max())
        if lowest >= 0 and highest <= allowed:
            raise  # of a hook of somebody
        raise IndexError(f"`{name}` must lie in 0 ... {allowed}, got {lowest} ... {highest}.") from error
