# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""PyTorch Wave Network model: embeddings -> wave layers -> WaveModel -> heads.

Source: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), section 4; the mathematics is in ops_wave.py.
Shapes: B texts, L tokens, D `hidden_size`; `mask_BL` is True at tokens and False at padding.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_wave import PLAIN_CARD, WaveConfig
from .fused_wave import serves
from .fused_wave import superpose as fused_superpose
from .ops_wave import Summary, amplitude, index_texts, merge, summarise, superpose, superpose_chunk

logger = logging.get_logger(__name__)

# Distinct rows of a table are projected once, and the products looked up, from this width on and if there are at most
# so many rows for each token; else gathering costs more than it saves (docs/benchmarks.md).
SHARED_WIDTH, SHARED_ROWS = 128, 0.65


@dataclass
class WaveTokens:
    """The tokens of some texts: padded, (B, L) with a mask, or packed, (1, L) with the N + 1 offsets between them."""

    input_ids: torch.Tensor | None
    mask_BL: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    position_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor | None
    cu_seq_lens: torch.Tensor | None

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
        """From the arguments of a model. ValueError, naming the argument, if they do not go together."""
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
        if cu_seq_lens is not None:
            check_offsets(cu_seq_lens, shape, attention_mask)
        return cls(input_ids, mask_BL, token_type_ids, position_ids, inputs_embeds, cu_seq_lens)

    @property
    def shape(self) -> tuple[int, int]:
        rows, length = (self.input_ids if self.inputs_embeds is None else self.inputs_embeds).shape[:2]
        return rows, length

    @property
    def device(self) -> torch.device:
        return (self.input_ids if self.inputs_embeds is None else self.inputs_embeds).device

    def chunks(self, length: int) -> Iterator["WaveTokens"]:
        """So many tokens of each text at a time."""
        for start in range(0, self.shape[1], length):
            stop = start + length
            parts = {
                name: value if value is None or value.shape[1] == 1 else value[:, start:stop]
                for name, value in vars(self).items()
            }
            yield WaveTokens(**parts)


class Lookup(NamedTuple):
    """A summand of the embeddings: `table(ids)`. Where each distinct row is read once, also as `rows[index]`."""

    name: str
    ids_BL: torch.Tensor
    rows_RD: torch.Tensor | None = None
    index_BL: torch.Tensor | None = None


class WaveDropout(nn.Dropout):
    """`nn.Dropout`, with 16 random bits for each element in place of a call of the generator.

    On a CPU the calls would take longer than the wave operation itself. Each element is kept with probability
    `round((1 - p) 2^16) / 2^16` and divided by it.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        kept = round((1 - self.p) * 2**16)
        is_plain_cpu = type(hidden_states) is torch.Tensor and hidden_states.device.type == "cpu"
        if not self.training or torch.compiler.is_compiling() or not is_plain_cpu or not 0 < kept < 2**16:
            return super().forward(hidden_states)
        count = hidden_states.numel()
        bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        is_kept = (bits[:count] < kept - 2**15).view(hidden_states.shape)
        return (hidden_states * is_kept).mul_(2**16 / kept)


class WaveEmbeddings(nn.Module):
    """Word + position + segment embedding, a plain sum: nothing nonlinear stands before the first wave layer."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.word_embeddings: nn.Module = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.position_embeddings: nn.Module
        if config.position_embedding_type == "absolute":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        elif config.position_embedding_type == "sinusoidal":
            self.position_embeddings = WaveSinusoidalEmbedding(config)
        if config.type_vocab_size > 0:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.dropout = WaveDropout(config.hidden_dropout_prob)

    def tables(self) -> dict[str, Any]:
        """The tables whose rows are added, by the name of the ids that choose them."""
        tables: dict[str, Any] = {"input_ids": self.word_embeddings}
        if self.config.position_embedding_type != "none":
            tables["position_ids"] = self.position_embeddings
        if self.config.type_vocab_size > 0:
            tables["token_type_ids"] = self.token_type_embeddings
        return tables

    def forward(self, tokens: WaveTokens) -> tuple[torch.Tensor, list[Lookup] | None]:
        """The sum, shape (B, L, D), and what it is a sum of; None in place of that if `inputs_embeds` are given."""
        ids = {
            "input_ids": tokens.input_ids,
            "position_ids": self.count_positions(tokens) if tokens.position_ids is None else tokens.position_ids,
            "token_type_ids": tokens.token_type_ids,
        }
        if tokens.token_type_ids is None:
            ids["token_type_ids"] = torch.zeros((1, 1), dtype=torch.long, device=tokens.device)
        summands = [] if tokens.inputs_embeds is None else [self.dropout(tokens.inputs_embeds)]
        lookups = []
        for name, table in self.tables().items():
            if ids[name] is not None:
                lookup = self.find_distinct(name, table, ids[name])
                if lookup.rows_RD is None:
                    summands.append(self.dropout(look_up(table, lookup.ids_BL, name)))
                else:
                    summands.append(nn.functional.embedding(lookup.index_BL, lookup.rows_RD))
                lookups.append(lookup)
        return sum_up(summands), lookups if tokens.inputs_embeds is None else None

    def find_distinct(self, name: str, table: nn.Module, ids_BL: torch.Tensor) -> Lookup:
        """Each distinct row once, with dropout, where that can be had: how many there are depends on the data."""
        if torch.compiler.is_compiling() or type(ids_BL) is not torch.Tensor or ids_BL.device.type != "cpu":
            return Lookup(name, ids_BL)
        try:
            distinct_R, index_BL = ids_BL.unique(return_inverse=True)
        except RuntimeError:  # under torch.func.vmap
            return Lookup(name, ids_BL)
        return Lookup(name, ids_BL, self.dropout(look_up(table, distinct_R, name)), index_BL)

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
        if self.config.position_embedding_type == "absolute" and tokens.shape[1] > allowed:
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

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        if goes_beyond(position_ids, self.weight.shape[0]):
            return self.compute(position_ids).to(self.weight.dtype)
        return nn.functional.embedding(position_ids, self.weight)


class WaveFolded(nn.Module):
    """The tables of the embeddings, already projected by the first layer: what `fold_` precomputes for inference."""

    def __init__(self, embeddings: WaveEmbeddings, variants: nn.Linear):
        super().__init__()
        self.sources = [variants.weight, variants.bias, *(table.weight for table in embeddings.tables().values())]
        self.versions = self.read_versions()
        bias = variants.bias
        for name, table in embeddings.tables().items():
            self.register_buffer(name, nn.functional.linear(table.weight, variants.weight, bias), persistent=False)
            bias = None

    def read_versions(self) -> list[int | None]:
        """What changes whenever a weight is written to."""
        return [None if source.is_inference() else source._version for source in self.sources]

    def covers(self, lookups: list[Lookup]) -> bool:
        """Whether all ids lie in the tables: sinusoidal positions may go beyond theirs, and wrong ids do."""
        return not any(goes_beyond(ids_BL, getattr(self, name).shape[0]) for name, ids_BL, *_ in lookups)

    def forward(self, lookups: list[Lookup]) -> torch.Tensor:
        return sum_up([nn.functional.embedding(ids_BL, getattr(self, name)) for name, ids_BL, *_ in lookups])


class WaveMixing(nn.Module):
    """Two variants of each token become waves, are superposed, and return to a real vector (paper, 3.1 to 3.2)."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.variants = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        if config.restore == "linear":
            self.restore = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.folded: WaveFolded | None = None

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        cu_seq_lens: torch.Tensor | None = None,
        lookups: list[Lookup] | None = None,
        summary: Summary | None = None,
    ) -> torch.Tensor:
        variants_BLE = self.project(hidden_states, lookups)
        operation, magnitude = self.config.wave_operation, self.config.magnitude
        if summary is not None:
            waves_BLE = superpose_chunk(variants_BLE, summary, mask_BL, operation, magnitude)
        else:
            form = fused_superpose if self.is_fused(variants_BLE.device) else superpose
            waves_BLE = form(variants_BLE, mask_BL, operation, magnitude, cu_seq_lens)
        if self.config.restore == "linear":
            return self.restore(waves_BLE)
        re_BLD, im_BLD = waves_BLE.chunk(2, dim=-1)
        return amplitude((re_BLD, im_BLD)) if self.config.restore == "magnitude" else re_BLD

    def is_fused(self, device: torch.device) -> bool:
        implementation = self.config.wave_implementation
        if implementation == "eager" or serves(device):
            return implementation != "eager"
        reason = (
            f"there is no fused form of the wave operations for the device {device}: a CPU needs nothing, a CUDA "
            "device the package triton"
        )
        if implementation == "fused":
            raise ValueError(f"`wave_implementation` is 'fused', but {reason}. Allowed here: 'auto' and 'eager'.")
        logger.warning_once(f"The readable wave operations are used: {reason}.")
        return False

    def project(self, hidden_states: torch.Tensor, lookups: list[Lookup] | None) -> torch.Tensor:
        """
        The two variants side by side, (B, L, 2D). A sum of look-ups, `E[id] + P[pos]`, is projected as
        `(E W + b)[id] + (P W)[pos]`: from folded tables, or each distinct row of the batch once, where that pays.
        """
        if lookups is None or not is_plain(self.variants, nn.Linear):
            return self.variants(hidden_states)
        if self.folded is not None and self.folded.covers(lookups):
            return self.folded(lookups)
        rows = [lookup.rows_RD for lookup in lookups]
        if any(rows_RD is None for rows_RD in rows) or hidden_states.shape[-1] < SHARED_WIDTH:
            return self.variants(hidden_states)
        if sum(len(rows_RD) for rows_RD in rows) > SHARED_ROWS * hidden_states.shape[:-1].numel():
            return self.variants(hidden_states)
        bias, products = self.variants.bias, []
        for lookup in lookups:
            rows_RE = nn.functional.linear(lookup.rows_RD, self.variants.weight, bias)
            products.append(nn.functional.embedding(lookup.index_BL, rows_RE))
            bias = None
        return sum_up(products)


class WaveFeedForward(nn.Module):
    """A position-wise feed-forward block, there only with an `intermediate_size`."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(hidden_states)))


class WaveLayer(GradientCheckpointingLayer):
    """One layer: `LayerNorm(W + Dropout(g(f(W))))` (paper, eq. 8 and fig. 6)."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.mixing = WaveMixing(config)
        self.mixing_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = WaveDropout(config.hidden_dropout_prob)
        self.feed_forward = WaveFeedForward(config) if config.intermediate_size is not None else None
        if self.feed_forward is not None:
            self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        cu_seq_lens: torch.Tensor | None = None,
        lookups: list[Lookup] | None = None,
        summary: Summary | None = None,
    ) -> torch.Tensor:
        mixed = self.mixing(hidden_states, mask_BL, cu_seq_lens, lookups, summary)
        hidden_states = self.mixing_norm(hidden_states + self.dropout(mixed))
        if self.feed_forward is not None:
            hidden_states = self.feed_forward_norm(hidden_states + self.dropout(self.feed_forward(hidden_states)))
        return hidden_states


@auto_docstring
class WavePreTrainedModel(PreTrainedModel):
    config: WaveConfig
    config_class = WaveConfig
    base_model_prefix = "wave"
    supports_gradient_checkpointing = True
    _no_split_modules = ["WaveEmbeddings", "WaveLayer"]
    _can_record_outputs = {"hidden_states": WaveLayer}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, WaveSinusoidalEmbedding):
            init.copy_(module.weight, module.compute_table())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any):
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            # It says what is wrong, but not with which file.
            raise OSError(
                f"The safetensors weights of {str(pretrained_model_name_or_path)!r} are cut short or damaged "
                f"({error}). Download or save them again."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.folded:
            # Quantised tables cannot be folded: `quantization_config` goes before.
            fold = model.fold_ if getattr(model, "hf_quantizer", None) is None else model.unfold_
            fold()
        return loaded

    def fold_(self):
        """
        Precomputes the product of the embedding tables with the first layer's map, for inference: a token's projection
        is `(E W + b)[id] + (P W)[position]`, so half of a single-layer model's matrix products become look-ups. The
        results are the same, up to rounding. It takes memory for twice the embedding tables more.

        The weights stay. A checkpoint holds them and says `folded` in its config, so that loading it folds again.
        `train()` unfolds.

        Returns:
            The model itself.

        Raises:
            ValueError: The model is in training mode, or something stands between the tables and the first layer that
                cannot be taken into the product; the message names it.
        """
        model = self.base_model
        first, tables = model.layers[0].mixing, model.embeddings.tables()
        if self.training:
            raise ValueError("`fold_()` is for inference, and in training dropout follows the tables: call `eval()`.")
        obstacle = None if is_plain(first.variants, nn.Linear) else first.variants
        for table in tables.values():
            is_table = is_plain(table, (nn.Embedding, WaveSinusoidalEmbedding)) and not getattr(table, "max_norm", None)
            obstacle = obstacle if is_table else table
        if obstacle is not None:
            name = next(name for name, module in self.named_modules() if module is obstacle)
            kind = f"{type(obstacle).__name__} (weight: {type(getattr(obstacle, 'weight', None)).__name__})"
            raise ValueError(
                "`fold_()` multiplies the embedding tables with the first linear map, both plain and without hooks; "
                f"in this model `{name}` is a {kind}, which it cannot take into the product."
            )
        with torch.no_grad():
            first.folded = WaveFolded(model.embeddings, first.variants)
        self.config.folded = model.config.folded = True
        return self

    def unfold_(self):
        """Drops what `fold_` computed. Returns the model itself."""
        self.base_model.layers[0].mixing.folded = None
        self.config.folded = self.base_model.config.folded = False
        return self

    def train(self, mode: bool = True):
        if mode and self.config.folded:
            self.unfold_()
        return super().train(mode)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any):
        # Whole on disk before the Hub is asked, which may refuse.
        push_to_hub = kwargs.pop("push_to_hub", False)
        super().save_pretrained(save_directory, *args, **kwargs)
        if push_to_hub:
            card = Path(save_directory, "README.md")
            text = card.read_text(encoding="utf-8") if card.exists() else None
            try:
                super().save_pretrained(save_directory, *args, **kwargs | {"push_to_hub": True})
            finally:
                # transformers writes the card of the Hub over the one that lies here.
                if text is not None:
                    card.write_text(text, encoding="utf-8")

    def _upload_modified_files(self, working_dir: str | os.PathLike, *args: Any, **kwargs: Any):
        # For a repository without a card transformers writes one of placeholders.
        card = Path(working_dir, "README.md")
        if "[More Information Needed]" in card.read_text(encoding="utf-8"):
            card.write_text(PLAIN_CARD, encoding="utf-8")
        return super()._upload_modified_files(working_dir, *args, **kwargs)


@auto_docstring
class WaveModel(WavePreTrainedModel):
    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.embeddings = WaveEmbeddings(config)
        self.layers = nn.ModuleList([WaveLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        cu_seq_lens: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutput:
        r"""
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts: the batch is one row of texts laid end to end without padding, and text `n` stands from
            `cu_seq_lens[n]` to `cu_seq_lens[n + 1]`. Instead of an `attention_mask`.
        """
        tokens = WaveTokens.check(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens)
        if self.reads_in_chunks(tokens, kwargs):
            chunks = [hidden_states for hidden_states, _ in self.read_chunks(tokens)]
            return BaseModelOutput(last_hidden_state=torch.cat(chunks, dim=1))
        self.refresh_folded()
        hidden_states, lookups = self.embeddings(tokens)
        if self.training and self.gradient_checkpointing:
            lookups = None  # it recomputes a layer from its hidden states
        for layer in self.layers:
            hidden_states = layer(hidden_states, tokens.mask_BL, tokens.cu_seq_lens, lookups)
            lookups = None
        return BaseModelOutput(last_hidden_state=hidden_states)

    def refresh_folded(self) -> None:
        """Folds again if a weight was written to since."""
        folded = self.layers[0].mixing.folded
        if folded is not None and not torch.compiler.is_compiling() and folded.versions != folded.read_versions():
            self.fold_()

    def reads_in_chunks(self, tokens: WaveTokens, kwargs: dict[str, Any]) -> bool:
        """Whether the texts are too long for one pass. Gradients, recorded layers and packed texts need one pass."""
        records = kwargs.get("output_hidden_states")
        records = self.config.output_hidden_states if records is None else records
        return (
            self.config.chunk_length is not None
            and tokens.shape[1] > self.config.chunk_length
            and not (torch.is_grad_enabled() or records or torch.compiler.is_compiling())
            and tokens.cu_seq_lens is None
        )

    def read_chunks(self, tokens: WaveTokens) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """
        The hidden states of long texts, and their mask, chunk by chunk: the same as in one pass, in the memory of a
        chunk. Each layer needs two numbers per column of the whole text before it can begin, so all chunks are read
        once for each layer, through the layers before it, and once more for the result.
        """
        self.refresh_folded()
        if tokens.position_ids is None:
            tokens = replace(tokens, position_ids=self.embeddings.count_positions(tokens))
        summaries: list[Summary] = []
        for layer in self.layers:
            summary = None
            for chunk in tokens.chunks(self.config.chunk_length):
                variants_BLE = layer.mixing.project(*self.run_layers(chunk, summaries))
                part = summarise(variants_BLE, chunk.mask_BL)
                summary = part if summary is None else merge(summary, part)
            summaries.append(summary)
        for chunk in tokens.chunks(self.config.chunk_length):
            yield self.run_layers(chunk, summaries)[0], chunk.mask_BL

    def run_layers(self, chunk: WaveTokens, summaries: list[Summary]) -> tuple[torch.Tensor, list[Lookup] | None]:
        """A chunk through as many layers as there are summaries; and its look-ups while there are none."""
        hidden_states, lookups = self.embeddings(chunk)
        for layer, summary in zip(self.layers, summaries, strict=False):
            hidden_states = layer(hidden_states, chunk.mask_BL, None, lookups, summary)
            lookups = None
        return hidden_states, lookups


@auto_docstring(custom_intro="A Wave Network with a linear classifier (or regressor) on the pooled tokens.")
class WaveForSequenceClassification(WavePreTrainedModel):
    # The loss is a mean over the texts of one step. Trainer, seeing **kwargs in `forward`, would believe that it was
    # divided by all texts of the accumulated steps, and step too far.
    accepts_loss_kwargs = False

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.wave = WaveModel(config)
        dropout = config.classifier_dropout if config.classifier_dropout is not None else config.hidden_dropout_prob
        self.dropout = WaveDropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        cu_seq_lens: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SequenceClassifierOutput:
        r"""
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts: the batch is one row of texts laid end to end without padding, and text `n` stands from
            `cu_seq_lens[n]` to `cu_seq_lens[n + 1]`. Instead of an `attention_mask`. Logits and labels are one for
            each text.
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, config.num_labels)`, *optional*):
            Targets. With `config.problem_type` `"single_label_classification"`, class indices below
            `config.num_labels` (cross-entropy); `"multi_label_classification"`, floats, one for each label (binary
            cross-entropy); `"regression"`, floats (mean squared error). If it is None, the type follows from
            `config.num_labels` and from the dtype of the labels, as in BERT.
        """
        tokens = WaveTokens.check(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens)
        recorded = None
        if self.wave.reads_in_chunks(tokens, kwargs):
            pooled_BD = pool(self.wave.read_chunks(tokens), self.config.classifier_pooling)
        else:
            outputs: BaseModelOutput = self.wave(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                cu_seq_lens=cu_seq_lens,
                return_dict=True,
                **kwargs,
            )
            recorded = outputs.hidden_states
            if cu_seq_lens is None:
                pooled_BD = pool([(outputs.last_hidden_state, tokens.mask_BL)], self.config.classifier_pooling)
            else:
                pooled_BD = pool_packed(outputs.last_hidden_state, cu_seq_lens, self.config.classifier_pooling)
        logits = self.classifier(self.dropout(pooled_BD))

        loss = None
        if labels is not None:
            try:
                loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
            except IndexError as error:
                raise IndexError(
                    f"`labels` must lie in 0 ... {self.num_labels - 1} (`config.num_labels` is {self.num_labels}), "
                    f"got {int(labels.min())} ... {int(labels.max())}."
                ) from error
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=recorded)


def is_plain(module: nn.Module, kind: type | tuple[type, ...]) -> bool:
    """Whether a module is what it looks like: not wrapped, not quantised, and without hooks that wait for a call."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(module) not in kinds or hasattr(module.weight, "__tensor_flatten__"):  # tensors in a tensor, as of torchao
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)


def sum_up(summands: list[torch.Tensor]) -> torch.Tensor:
    total = summands[0]
    for summand in summands[1:]:
        total = total + summand
    return total


def is_in_graph(x: torch.Tensor) -> bool:
    """Whether what happens here is compiled or captured, so that nothing may depend on the values of a tensor."""
    return torch.compiler.is_compiling() or (x.device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def goes_beyond(ids_BL: torch.Tensor, size: int) -> bool:
    """Whether some id is not below `size`. In a graph, which cannot ask for it, whether as many positions would be."""
    if is_in_graph(ids_BL):
        return ids_BL.shape[-1] > size
    return ids_BL.numel() > 0 and int(ids_BL.max()) >= size


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


def is_int8(table: Any) -> bool:
    """Whether a table is in int8 by torchao, with one scale a row. Its own `forward` makes floats of all rows first."""
    weight = getattr(table, "weight", None)
    if type(weight).__name__ != "Int8Tensor" or table._forward_hooks or table._forward_pre_hooks:
        return False
    return type(table) is nn.Embedding and weight.scale.shape == (weight.shape[0], 1)


def look_up(table: Any, ids: torch.Tensor, name: str) -> torch.Tensor:
    """`table(ids)`, with an error that names what is wrong with the ids."""
    try:
        if is_int8(table):
            integers, scale = (nn.functional.embedding(ids, part) for part in (table.weight.qdata, table.weight.scale))
            return (integers * scale).to(table.weight.dtype)
        return table(ids)
    except IndexError as error:
        allowed, lowest, highest = len(table.weight) - 1, int(ids.min()), int(ids.max())
        raise IndexError(f"`{name}` must lie in 0 ... {allowed}, got {lowest} ... {highest}.") from error


def pool(chunks: Iterable[tuple[torch.Tensor, torch.Tensor | None]], pooling: str) -> torch.Tensor:
    """
    One vector for each text, shape (B, D), from its tokens alone. A text without tokens is the zero vector.

    Args:
        chunks: Hidden states (B, L, D) and mask (B, L) or None, of the whole text or of one chunk after the other.
        pooling: "mean", "max" or "cls", the first token.
    """
    pooled_BD = tokens_B1 = None
    for hidden_states, mask_BL in chunks:
        if mask_BL is None:
            mask_BL = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        count_B1 = mask_BL.sum(dim=1, keepdim=True)
        if pooling == "mean":
            wide = torch.promote_types(hidden_states.dtype, torch.float32)
            part_BD = hidden_states.masked_fill(~mask_BL[..., None], 0).sum(dim=1, dtype=wide)
        elif pooling == "max":
            lowest = torch.finfo(hidden_states.dtype).min
            part_BD = hidden_states.masked_fill(~mask_BL[..., None], lowest).amax(dim=1)
        else:
            first_B = mask_BL.int().argmax(dim=1)
            part_BD = hidden_states[torch.arange(first_B.shape[0], device=first_B.device), first_B]
        if pooled_BD is None:
            pooled_BD, tokens_B1 = part_BD, count_B1
            continue
        if pooling == "mean":
            pooled_BD = pooled_BD + part_BD
        elif pooling == "max":
            pooled_BD = torch.maximum(pooled_BD, part_BD)
        else:
            pooled_BD = torch.where(tokens_B1 > 0, pooled_BD, part_BD)
        tokens_B1 = tokens_B1 + count_B1
    if pooling == "mean":
        return (pooled_BD / tokens_B1.clamp(min=1)).to(hidden_states.dtype)
    return pooled_BD.masked_fill(tokens_B1 == 0, 0)


def pool_packed(hidden_states: torch.Tensor, cu_seq_lens: torch.Tensor, pooling: str) -> torch.Tensor:
    """`pool` for N packed texts, hidden states of shape (1, L, D) to (N, D)."""
    lengths_N, hidden_LD = cu_seq_lens.diff(), hidden_states[0]
    text_L = index_texts(cu_seq_lens, hidden_LD.shape[0])
    shape = (lengths_N.shape[0], hidden_LD.shape[1])
    if pooling == "mean":
        wide = torch.promote_types(hidden_LD.dtype, torch.float32)
        total_ND = torch.zeros(shape, dtype=wide, device=hidden_LD.device).index_add(0, text_L, hidden_LD.to(wide))
        return (total_ND / lengths_N.clamp(min=1)[:, None]).to(hidden_LD.dtype)
    if pooling == "max":
        lowest_ND = hidden_LD.new_full(shape, torch.finfo(hidden_LD.dtype).min)
        pooled_ND = lowest_ND.scatter_reduce(0, text_L[:, None].expand_as(hidden_LD), hidden_LD, "amax")
    else:
        pooled_ND = hidden_LD[cu_seq_lens[:-1].clamp(max=hidden_LD.shape[0] - 1)]
    return pooled_ND.masked_fill((lengths_N == 0)[:, None], 0)


__all__ = ["WaveForSequenceClassification", "WaveModel", "WavePreTrainedModel"]
