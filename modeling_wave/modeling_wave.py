# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""PyTorch Wave Network model: embeddings -> wave layers -> WaveModel -> heads.

Source: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), section 4; the mathematics is in ops_wave.py,
what stands before the first layer in embeddings_wave.py.
Shapes: B texts, L tokens, D `hidden_size`, C choices; `mask_BL` is True at tokens and False at padding.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_wave import WaveConfig, replace_placeholder_card
from .embeddings_wave import (
    Lookup,
    Replaceable,
    WaveConvolution,
    WaveDropout,
    WaveEmbeddings,
    WaveSinusoidalEmbedding,
    WaveTokens,
    goes_beyond,
    is_watched,
    sum_up,
)
from .fused_wave import serves
from .fused_wave import superpose as fused_superpose
from .ops_wave import Summary, amplitude, merge, summarise, superpose, superpose_chunk
from .pooling_wave import pool, pool_packed, unpack

logger = logging.get_logger(__name__)

# Distinct rows of a table are projected once, and the products looked up, from this width on and if there are at most
# so many rows for each token; else gathering costs more than it saves (docs/benchmarks.md).
SHARED_WIDTH, SHARED_ROWS = 128, 0.65


class WaveFolded(nn.Module):
    """The tables of the embeddings, already projected by the first layer: what `fold_` precomputes for inference."""

    def __init__(self, embeddings: WaveEmbeddings, mixing: "WaveMixing"):
        super().__init__()
        self.factors = find_factors(embeddings, mixing)
        self.replaced = embeddings.replaced, mixing.replaced
        self.weights = find_weights(self.factors)
        self.states = read_states(self.weights)
        bias = mixing.variants.bias
        # Tables outlive an autocast in which they happen to be made.
        with without_autocast(mixing.variants.weight.device):
            for name, table in embeddings.tables().items():
                self.register_buffer(
                    name, nn.functional.linear(table.weight, mixing.variants.weight, bias), persistent=False
                )
                bias = None

    def is_current(self, embeddings: WaveEmbeddings, mixing: "WaveMixing") -> bool:
        """Whether all is as it was when it was multiplied: the same modules, which nobody watches, and weights."""
        factors = find_factors(embeddings, mixing)
        # A module that was replaced may have come back with other weights.
        if factors != self.factors or self.replaced != (embeddings.replaced, mixing.replaced):
            return False
        if embeddings.dropout.is_active or any(is_watched(factor) for factor in factors):
            return False
        weights = find_weights(factors)
        is_same = all(weight is other for weight, other in zip(weights, self.weights, strict=True))
        return is_same and self.states == read_states(weights)

    def covers(self, lookups: list[Lookup]) -> bool:
        """Whether the tables hold all that is looked up: sinusoidal positions may go beyond theirs, wrong ids do."""
        return not any(goes_beyond(ids_BL, getattr(self, name).shape[0]) for name, ids_BL, *_ in lookups)

    def forward(self, lookups: list[Lookup]) -> torch.Tensor:
        return sum_up([nn.functional.embedding(ids_BL, getattr(self, name)) for name, ids_BL, *_ in lookups])


class WaveMixing(Replaceable):
    """Two variants of each token become waves, are superposed, and return to a real vector (paper, 3.1 to 3.2)."""

    folded: WaveFolded | None

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.variants = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        if config.restore == "linear":
            self.restore = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.register_module("folded", None)  # what `fold_` computed

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
        return self.return_real(waves_BLE)

    def return_real(self, waves_BLE: torch.Tensor) -> torch.Tensor:
        """The way back from the two parts of a wave, side by side, to D real numbers: `restore`."""
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
        elif isinstance(module, WaveConvolution):
            init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)

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
            # Quantised tables, maps with an adapter and parts of a model on several devices, on disk or on none cannot
            # be folded: what was asked for here goes before.
            is_bare = getattr(model, "hf_quantizer", None) is None and not model._hf_peft_config_loaded
            devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
            is_here = len(devices) < 2 and not devices & {"disk", "meta"} and model.device.type != "meta"
            fold = model.fold_ if is_bare and is_here else model.unfold_
            fold()
        return loaded

    def fold_(self):
        """
        Precomputes the product of the embedding tables with the first layer's map, for inference: a token's projection
        is `(E W + b)[id] + (P W)[position]`, so half of a single-layer model's matrix products become look-ups. The
        results are the same, up to rounding. It takes memory for twice the embedding tables more.

        The weights stay. A checkpoint holds them and says `folded` in its config, so that loading it folds again.
        `train()` unfolds. Where a gradient is to reach the weights they are multiplied as without it: it pays under
        `torch.no_grad()`.

        A weight that was written to or replaced is folded again by the next call, except where nobody can see it: a
        write past its count of versions (`weight.data.copy_()`); and in a compiled model any but `load_state_dict` and
        a replaced table or map. Call `fold_()` again there.

        Returns:
            The model itself.

        Raises:
            ValueError: The model is in training mode, or something stands between the tables and the first layer that
                cannot be taken into the product; the message names it.
        """
        model = self.base_model
        first = model.layers[0].mixing
        if self.training:
            raise ValueError("`fold_()` is for inference, and in training dropout follows the tables: call `eval()`.")
        obstacle = model.find_obstacle()
        if obstacle is not None:
            name = next(name for name, module in self.named_modules() if module is obstacle)
            kind = f"{type(obstacle).__name__} (weight: {type(getattr(obstacle, 'weight', None)).__name__})"
            raise ValueError(
                "`fold_()` multiplies the embedding tables with the first linear map, plain ones without hooks, with "
                f"nothing between; in this model `{name}` is a {kind}, which it cannot take into the product."
            )
        with torch.no_grad():
            first.register_module("folded", WaveFolded(model.embeddings, first))  # replaces no part of the model
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
        replace_placeholder_card(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


@auto_docstring
class WaveModel(WavePreTrainedModel):
    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.embeddings = WaveEmbeddings(config)
        self.layers = nn.ModuleList([WaveLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.register_load_state_dict_post_hook(fold_again)
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
        tokens = WaveTokens.check(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens, kwargs
        )
        if self.reads_in_chunks(tokens, kwargs):
            chunks = [hidden_states for hidden_states, _ in self.read_chunks(tokens)]
            return BaseModelOutput(last_hidden_state=torch.cat(chunks, dim=1))
        is_fresh = self.refresh_folded()
        hidden_states, lookups = self.embeddings(tokens)
        if not is_fresh or self.shows_first(kwargs) or (self.training and self.gradient_checkpointing):
            lookups = None  # a layer is computed from its hidden states, and by checkpointing computed again
        for layer in self.layers:
            hidden_states = layer(hidden_states, tokens.mask_BL, tokens.cu_seq_lens, lookups)
            lookups = None
        return BaseModelOutput(last_hidden_state=hidden_states)

    def find_obstacle(self) -> nn.Module | None:
        """What `fold_` cannot take into the product, if there is something."""
        embeddings, mixing = self.embeddings, cast(WaveMixing, self.layers[0].mixing)
        variants, *tables = find_factors(embeddings, mixing)
        for table in tables:
            if not is_plain(table, (nn.Embedding, WaveSinusoidalEmbedding)) or getattr(table, "max_norm", None):
                return table
        if not is_plain(variants, nn.Linear):
            return variants
        if embeddings.dropout.is_active:
            return embeddings.dropout
        return embeddings.ngram_projection or embeddings.convolution

    def refresh_folded(self) -> bool:
        """
        Whether the folded tables, if there are any, stand for the weights: not where something has come between that
        cannot be folded, nor where a gradient is to reach the weights. Folds again if these are others than they were.
        """
        mixing, is_compiling = cast(WaveMixing, self.layers[0].mixing), torch.compiler.is_compiling()
        folded = mixing.folded
        if folded is None:
            return True
        is_current = not is_compiling and folded.is_current(self.embeddings, mixing)
        if not is_current and self.find_obstacle() is not None:
            return False
        if torch.is_grad_enabled():
            weights = find_weights(find_factors(self.embeddings, mixing))
            if any(weight.requires_grad for weight in weights):
                return False
        if is_compiling:
            return folded.replaced == (self.embeddings.replaced, mixing.replaced)
        if not is_current:
            if torch._C._are_functorch_transforms_active():  # no tensor that is made in them outlives them
                return False
            self.fold_()
        return True

    def shows_first(self, kwargs: dict[str, Any]) -> bool:
        """Whether someone may change what the first layer is given, or ask for a gradient by it."""
        first = cast(WaveLayer, self.layers[0])
        if any(is_watched(module) for module in (self.embeddings, first, first.mixing)):
            return True
        return torch.is_grad_enabled() and self.records(kwargs)

    def records(self, kwargs: dict[str, Any]) -> bool:
        """Whether the hidden states of every layer are asked for."""
        records = kwargs.get("output_hidden_states")
        return bool(self.config.output_hidden_states if records is None else records)

    def reads_in_chunks(self, tokens: WaveTokens, kwargs: dict[str, Any]) -> bool:
        """Whether the texts are too long for one pass. Gradients, recorded layers and packed texts need one pass."""
        return (
            self.config.chunk_length is not None
            and tokens.shape[1] > self.config.chunk_length
            and not (torch.is_grad_enabled() or self.records(kwargs) or torch.compiler.is_compiling())
            and tokens.cu_seq_lens is None
            and not self.drops()
        )

    def drops(self) -> bool:
        """Whether dropout is active: chunks are read several times, and it would be another one each time."""
        if self.embeddings.training and self.config.token_dropout_prob > 0:
            return True
        return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in self.modules())

    def read_chunks(self, tokens: WaveTokens) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """
        The hidden states of long texts, and their mask, chunk by chunk: the same as in one pass, in the memory of a
        chunk. Each layer needs two numbers per column of the whole text before it can begin, so all chunks are read
        once for each layer, through the layers before it, and once more for the result.
        """
        if tokens.position_ids is None:
            tokens = replace(tokens, position_ids=self.embeddings.count_positions(tokens))
        tokens = replace(tokens, ngram_ids_BLN=self.embeddings.find_ngrams(tokens))
        summaries: list[Summary] = []
        for layer in self.layers:
            if hasattr(layer, "unshard"):  # FSDP brings the weights of a layer together for its `forward` alone
                layer.unshard()
            summary = None
            for hidden_states, mask_BL, lookups in self.run_layers(tokens, summaries):
                part = summarise(layer.mixing.project(hidden_states, lookups), mask_BL)
                summary = part if summary is None else merge(summary, part)
            summaries.append(summary)
        for hidden_states, mask_BL, _ in self.run_layers(tokens, summaries):
            yield hidden_states, mask_BL

    def run_layers(
        self, tokens: WaveTokens, summaries: list[Summary]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, list[Lookup] | None]]:
        """Chunk by chunk through as many layers as there are summaries: hidden states, mask, look-ups if no layer."""
        reads_lookups = self.refresh_folded() and not self.shows_first({})
        for chunk, own in tokens.chunks(self.config.chunk_length, self.embeddings.reach):
            hidden_states, lookups = self.embeddings(chunk)
            if not reads_lookups:
                lookups = None
            mask_BL = None if chunk.mask_BL is None else chunk.mask_BL[:, own]
            hidden_states = hidden_states[:, own]
            for layer, summary in zip(self.layers, summaries, strict=False):
                hidden_states = layer(hidden_states, mask_BL, None, lookups, summary)
                lookups = None
            yield hidden_states, mask_BL, lookups


@auto_docstring(custom_intro="A Wave Network with a linear classifier (or regressor) on the pooled tokens.")
class WaveForSequenceClassification(WavePreTrainedModel):
    # The loss is a mean over the texts of one step. Trainer, seeing **kwargs in `forward`, would believe that it was
    # divided by all texts of the accumulated steps, and step too far.
    accepts_loss_kwargs = False

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.wave = WaveModel(config)
        self.dropout = WaveDropout(get_classifier_dropout(config))
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
        tokens = WaveTokens.check(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens, kwargs
        )
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
        if self.config.classifier_temperature != 1:
            logits = logits / self.config.classifier_temperature

        loss = None
        if labels is not None:
            loss = compute_loss(
                lambda: self.loss_function(labels=labels, pooled_logits=logits, config=self.config), labels, logits
            )
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=recorded)


@auto_docstring(custom_intro="A Wave Network with a language-modelling head: which token stands at each place.")
class WaveForMaskedLM(WavePreTrainedModel):
    _tied_weights_keys = {"decoder.weight": "wave.embeddings.word_embeddings.weight"}
    accepts_loss_kwargs = True

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        warn_without_order(type(self), config)
        self.wave = WaveModel(config)
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder: nn.Module = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.decoder = new_embeddings

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        cu_seq_lens: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MaskedLMOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
            The token at each place, below `config.vocab_size`, or -100 where none is asked for. The loss is the mean
            cross-entropy over the others, and 0 if there are none.
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts, as in [`WaveModel`]. Logits and labels are packed like the tokens.
        """
        count = kwargs.pop("num_items_in_batch", None)
        outputs: BaseModelOutput = self.wave(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            cu_seq_lens,
            return_dict=True,
            **kwargs,
        )
        logits = self.decoder(self.norm(self.activation(self.transform(outputs.last_hidden_state))))
        loss = None
        if labels is not None:
            loss = compute_loss(
                lambda: self.loss_function(
                    logits, labels, self.config.vocab_size, num_items_in_batch=at_least_one(labels, count)
                ),
                labels,
                logits,
            )
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="A Wave Network with a linear classifier on each token.")
class WaveForTokenClassification(WavePreTrainedModel):
    accepts_loss_kwargs = True

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        warn_without_order(type(self), config)
        self.num_labels = config.num_labels
        self.wave = WaveModel(config)
        self.dropout = WaveDropout(get_classifier_dropout(config))
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
        labels: torch.LongTensor | None = None,
        cu_seq_lens: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | TokenClassifierOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
            The class of each token, below `config.num_labels`, or -100 where it has none. The loss is the mean
            cross-entropy over the others, and 0 if there are none.
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts, as in [`WaveModel`]. Logits and labels are packed like the tokens.
        """
        count = kwargs.pop("num_items_in_batch", None)
        outputs: BaseModelOutput = self.wave(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            cu_seq_lens,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = compute_loss(
                lambda: self.loss_function(logits, labels, self.config, num_items_in_batch=at_least_one(labels, count)),
                labels,
                logits,
            )
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="A Wave Network that finds the answer to a question in a text: where it begins and ends.")
class WaveForQuestionAnswering(WavePreTrainedModel):
    accepts_loss_kwargs = False

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        warn_without_order(type(self), config)
        self.wave = WaveModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
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
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        cu_seq_lens: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | QuestionAnsweringModelOutput:
        r"""
        start_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The first token of the answer in each text. One beyond the text, or at padding, takes no part in the loss.
        end_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The last token of the answer.
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts, as in [`WaveModel`]. Logits and positions are those of the same texts padded on the
            right. At padding the logits are the lowest number of their dtype.
        """
        outputs: BaseModelOutput = self.wave(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            cu_seq_lens,
            return_dict=True,
            **kwargs,
        )
        logits_BL2 = self.qa_outputs(outputs.last_hidden_state)
        lowest = torch.finfo(logits_BL2.dtype).min
        if cu_seq_lens is not None:
            logits_BL2 = unpack(logits_BL2, cu_seq_lens, lowest)
        elif attention_mask is not None:
            logits_BL2 = logits_BL2.masked_fill(attention_mask[..., None] == 0, lowest)
        start_BL, end_BL = logits_BL2.unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (compute_place_loss(start_BL, start_positions) + compute_place_loss(end_BL, end_positions)) / 2
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_BL, end_logits=end_BL, hidden_states=outputs.hidden_states
        )


@auto_docstring(custom_intro="A Wave Network that gives each of several texts, the choices, a score.")
class WaveForMultipleChoice(WavePreTrainedModel):
    accepts_loss_kwargs = False

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.wave = WaveModel(config)
        self.dropout = WaveDropout(get_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
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
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MultipleChoiceModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, length)`):
            The tokens of each choice; the other inputs have one more axis in the same place.
        token_type_ids (`torch.LongTensor` of shape `(batch_size, num_choices, length)`, *optional*):
            Segments.
        position_ids (`torch.LongTensor` of shape `(batch_size, num_choices, length)`, *optional*):
            Positions.
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_choices, length, hidden_size)`, *optional*):
            In place of `input_ids`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The right choice of each row (cross-entropy).
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        if kwargs.get("cu_seq_lens") is not None:
            raise ValueError("`cu_seq_lens` is not for choices: they are padded, with an `attention_mask`.")
        given = input_ids if input_ids is not None else inputs_embeds
        axes = 3 if input_ids is not None else 4
        if given is None or given.dim() != axes:
            raise ValueError(
                "`input_ids` must have the shape (batch size, choices, length), or `inputs_embeds` one axis more, got "
                f"{None if given is None else tuple(given.shape)}."
            )
        rows, choices = given.shape[:2]
        flat = {
            name: value if value is None or value.dim() == 1 else value.flatten(end_dim=1)
            for name, value in inputs.items()
        }
        outputs: BaseModelOutput = self.wave(**flat, return_dict=True, **kwargs)
        mask_BL = None if attention_mask is None else flat["attention_mask"] != 0
        pooled_BD = pool([(outputs.last_hidden_state, mask_BL)], self.config.classifier_pooling)
        logits = self.classifier(self.dropout(pooled_BD)).view(rows, choices)
        loss = None
        if labels is not None:
            loss = compute_loss(lambda: nn.functional.cross_entropy(widen(logits), labels), labels, logits)
        return MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def fold_again(model: WaveModel, incompatible_keys: Any) -> None:
    """After `load_state_dict`: a compiled model would not see that the weights of a folded one are others."""
    with torch.no_grad():
        model.refresh_folded()


def get_classifier_dropout(config: WaveConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


def warn_without_order(head: type, config: WaveConfig) -> None:
    if config.conv_kernel_size is None:
        seen = "no token sees its neighbours"
        if config.ngram_vocab_size is not None:
            seen = f"a token sees {config.ngram_size - 1} to its left (`ngram_size`) and none to its right"
        logger.warning_once(
            f"{head.__name__} asks about single tokens, and in this model {seen}: "
            "`conv_kernel_size` is None. Positions only say where a token stands. For a new model set it to 3 or 5."
        )


def compute_loss(loss: Callable[[], torch.Tensor], labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The loss, with an error that says what is wrong with the labels."""
    try:
        return loss()
    except IndexError as error:
        allowed, given = logits.shape[-1], labels[labels != -100]
        raise IndexError(
            f"`labels` must lie in 0 ... {allowed - 1}, as there are {allowed} logits, "
            f"got {int(given.min())} ... {int(given.max())}."
        ) from error


def at_least_one(labels: torch.Tensor, count: torch.Tensor | int | None) -> torch.Tensor:
    """Over how many labels a mean goes: all of the accumulated steps, if Trainer has counted them, or those here."""
    return (labels.ne(-100).sum() if count is None else torch.as_tensor(count)).clamp(min=1)


def widen(logits: torch.Tensor) -> torch.Tensor:
    """At least float32, for a loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def compute_place_loss(logits_BL: torch.Tensor, places_B: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the texts of which the place is one of their tokens, and 0 if there are none."""
    places_B = places_B.reshape(-1)
    inside_B = (places_B >= 0) & (places_B < logits_BL.shape[1])
    chosen_B = logits_BL.gather(1, places_B.where(inside_B, 0)[:, None])[:, 0]
    inside_B = inside_B & (chosen_B > torch.finfo(logits_BL.dtype).min)
    targets_B = places_B.where(inside_B, -100)
    total = nn.functional.cross_entropy(widen(logits_BL), targets_B, reduction="sum")
    return total / inside_B.sum().clamp(min=1)


def find_factors(embeddings: WaveEmbeddings, mixing: WaveMixing) -> list[Any]:
    """The modules that `fold_` multiplies: the map, and the tables."""
    return [mixing.variants, *embeddings.tables().values()]


def find_weights(factors: list[Any]) -> list[torch.Tensor]:
    return [factors[0].bias, *(factor.weight for factor in factors)]


def read_states(tensors: list[torch.Tensor]) -> list[tuple[int, int | None]]:
    """Where tensors lie, and how often they were written to."""
    return [(tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in tensors]


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Computes in the dtypes of the tensors, whatever is on around it."""
    is_there = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if is_there else contextlib.nullcontext()


def is_plain(module: nn.Module, kind: type | tuple[type, ...]) -> bool:
    """Whether a module is what it looks like: not wrapped, quantised or offloaded, and nobody waits for its call."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(module) not in kinds or is_watched(module):
        return False
    weight = module.weight
    # The second question, which is slow, is about tensors in a tensor, as of torchao.
    is_bare = type(weight) in (torch.Tensor, nn.Parameter) or not hasattr(weight, "__tensor_flatten__")
    return is_bare and not weight.is_meta


__all__ = [
    "WaveForMaskedLM",
    "WaveForMultipleChoice",
    "WaveForQuestionAnswering",
    "WaveForSequenceClassification",
    "WaveForTokenClassification",
    "WaveModel",
    "WavePreTrainedModel",
]
