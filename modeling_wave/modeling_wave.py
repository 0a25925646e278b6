# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""PyTorch Wave Network model: embeddings -> wave layers -> WaveModel -> heads.

Source: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), section 4; the mathematics is in ops_wave.py.
Shapes: B texts, L tokens, D `hidden_size`; `mask_BL` is True at tokens and False at padding.
"""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_wave import PLAIN_CARD, WaveConfig
from .ops_wave import OPERATIONS, amplitude, lift


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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        mask_BL: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            inputs_embeds = look_up(self.word_embeddings, input_ids, "input_ids", self.config.vocab_size)
        embeddings_BLD = inputs_embeds
        if self.config.position_embedding_type != "none":
            if position_ids is None:
                position_ids = self.count_positions(embeddings_BLD, mask_BL)
            embeddings_BLD = embeddings_BLD + look_up(
                self.position_embeddings, position_ids, "position_ids", self.config.max_position_embeddings
            )
        if self.config.type_vocab_size > 0:
            if token_type_ids is None:
                token_type_ids = torch.zeros(embeddings_BLD.shape[:2], dtype=torch.long, device=embeddings_BLD.device)
            embeddings_BLD = embeddings_BLD + look_up(
                self.token_type_embeddings, token_type_ids, "token_type_ids", self.config.type_vocab_size
            )
        return self.dropout(embeddings_BLD)

    def count_positions(self, embeddings_BLD: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        """Positions count tokens, not padding: a text has the same ones wherever the padding stands."""
        length, allowed = embeddings_BLD.shape[1], self.config.max_position_embeddings
        if length > allowed:
            longest = length if mask_BL is None else int(mask_BL.sum(dim=1).max())
            if longest > allowed:
                raise ValueError(
                    f"A text of {longest} tokens is longer than `max_position_embeddings` ({allowed}) allows. Truncate "
                    "it (`tokenizer(text, truncation=True)`), or use a model with `position_embedding_type='none'`."
                )
        if mask_BL is None:
            return torch.arange(length, device=embeddings_BLD.device)[None]
        return (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)


class WaveSinusoidalEmbedding(nn.Module):
    """Fixed positions of *Attention Is All You Need* (arXiv 1706.03762), section 3.5, times a scale."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Buffer(self.compute_table(), persistent=False)

    def compute_table(self) -> torch.Tensor:
        """The table, shape (max_position_embeddings, D): sines in the even dimensions, cosines in the odd ones."""
        positions = torch.arange(self.config.max_position_embeddings, dtype=torch.float32)[:, None]
        even = torch.arange(0, self.config.hidden_size, 2, dtype=torch.float32)
        angles = positions * 10000.0 ** (-even / self.config.hidden_size)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(start_dim=1)
        return self.config.position_embedding_scale * table

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(position_ids, self.weight)


class WaveMixing(nn.Module):
    """Two variants of each token become waves, are superposed, and return to a real vector (paper, 3.1 to 3.2)."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.variants = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        if config.restore == "linear":
            self.restore = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        w_BLD, w2_BLD = self.variants(hidden_states).chunk(2, dim=-1)
        superpose = OPERATIONS[self.config.wave_operation]
        wave = superpose(lift(w_BLD, mask_BL, self.config.magnitude), lift(w2_BLD, mask_BL, self.config.magnitude))
        if self.config.restore == "linear":
            return self.restore(torch.cat(wave, dim=-1))
        return amplitude(wave) if self.config.restore == "magnitude" else wave[0]


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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.feed_forward = WaveFeedForward(config) if config.intermediate_size is not None else None
        if self.feed_forward is not None:
            self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
        hidden_states = self.mixing_norm(hidden_states + self.dropout(self.mixing(hidden_states, mask_BL)))
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
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            # It says what is wrong, but not with which file.
            raise OSError(
                f"The safetensors weights of {str(pretrained_model_name_or_path)!r} are cut short or damaged "
                f"({error}). Download or save them again."
            ) from error

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutput:
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
        hidden_states = self.embeddings(
            input_ids=input_ids,
            mask_BL=mask_BL,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask_BL)
        return BaseModelOutput(last_hidden_state=hidden_states)


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
        self.dropout = nn.Dropout(dropout)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SequenceClassifierOutput:
        r"""
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, config.num_labels)`, *optional*):
            Targets. With `config.problem_type` `"single_label_classification"`, class indices below
            `config.num_labels` (cross-entropy); `"multi_label_classification"`, floats, one for each label (binary
            cross-entropy); `"regression"`, floats (mean squared error). If it is None, the type follows from
            `config.num_labels` and from the dtype of the labels, as in BERT.
        """
        outputs: BaseModelOutput = self.wave(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        mask_BL = to_mask(attention_mask, tuple(hidden_states.shape[:2]))
        logits = self.classifier(self.dropout(pool(hidden_states, mask_BL, self.config.classifier_pooling)))

        loss = None
        if labels is not None:
            try:
                loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
            except IndexError as error:
                raise IndexError(
                    f"`labels` must lie in 0 ... {self.num_labels - 1} (`config.num_labels` is {self.num_labels}), "
                    f"got {int(labels.min())} ... {int(labels.max())}."
                ) from error
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


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


def look_up(embedding: nn.Module, ids: torch.Tensor, name: str, size: int) -> torch.Tensor:
    """`embedding(ids)`, with an error that names what is wrong with the ids."""
    try:
        return embedding(ids)
    except IndexError as error:
        lowest, highest = int(ids.min()), int(ids.max())
        raise IndexError(f"`{name}` must lie in 0 ... {size - 1}, got {lowest} ... {highest}.") from error


def pool(hidden_states: torch.Tensor, mask_BL: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """One vector for each text, shape (B, D), from its tokens alone. A text without tokens is the zero vector."""
    if mask_BL is None:
        mask_BL = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    mask_BL1 = mask_BL[..., None]
    if pooling == "mean":
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        total_BD = hidden_states.masked_fill(~mask_BL1, 0).sum(dim=1, dtype=wide)
        return (total_BD / mask_BL1.sum(dim=1).clamp(min=1)).to(hidden_states.dtype)
    if pooling == "max":
        lowest = torch.finfo(hidden_states.dtype).min
        pooled_BD = hidden_states.masked_fill(~mask_BL1, lowest).amax(dim=1)
    else:
        first_B = mask_BL.int().argmax(dim=1)
        pooled_BD = hidden_states[torch.arange(first_B.shape[0], device=first_B.device), first_B]
    return pooled_BD.masked_fill(~mask_BL.any(dim=1, keepdim=True), 0)


__all__ = ["WaveForSequenceClassification", "WaveModel", "WavePreTrainedModel"]
