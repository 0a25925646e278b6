# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""PyTorch Wave Network model: embeddings -> wave layers -> WaveModel -> heads.

Source: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), section 4. The mathematics is in ops_wave.py,
what stands before the first layer in embeddings_wave.py, documents longer than a chunk in documents_wave.py.
Shapes: B texts, L tokens, D `hidden_size`, C choices; `mask_BL` is True at tokens and False at padding.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
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

from ..configuration.configuration_wave import WaveConfig
from .documents_wave import needs_chunks, read_chunks
from .embeddings_wave import WaveConvolution, WaveDropout, WaveEmbeddings, WaveSinusoidalEmbedding, WaveTokens
from .fused_wave import superpose as fused_superpose
from .ops_wave import Summary, amplitude, superpose, widen
from .pooling_wave import compare, count_pooled, pool, pool_packed, unpack

logger = logging.get_logger(__name__)


class WaveMixing(nn.Module):
    """Two variants of each token become waves, are superposed, and return to a real vector (paper, 3.1 to 3.2)."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.config = config
        self.variants = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        if config.restore == "linear":
            self.restore = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary: Summary | None = None) -> torch.Tensor:
        """(B, L, D) to (B, L, D). `summary` is that of the whole texts, if these are chunks of them."""
        variants_BLE = self.variants(hidden_states)
        settings = mask_BL, self.config.wave_operation, self.config.magnitude, cu_seq_lens
        if summary is not None or self.config.wave_implementation == "eager":
            return self.return_real(superpose(variants_BLE, *settings, summary))
        return self.return_real(fused_superpose(variants_BLE, *settings))

    def return_real(self, waves_BLE: torch.Tensor) -> torch.Tensor:
        """The way back from the two parts of a wave, side by side, to D real numbers."""
        if self.config.restore == "linear":
            return self.restore(waves_BLE)
        re_BLD, im_BLD = waves_BLE.chunk(2, dim=-1)
        return amplitude((re_BLD, im_BLD))


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

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary: Summary | None = None) -> torch.Tensor:
        mixed = self.mixing(hidden_states, mask_BL, cu_seq_lens, summary)
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
    _input_embed_layer = "word_embeddings"
    # The loss is a mean over one step. Trainer, seeing **kwargs, would take it for one over all accumulated steps.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, WaveSinusoidalEmbedding):
            init.copy_(module.weight, module.compute_table())
        elif isinstance(module, WaveConvolution):
            init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)

    def make_classifier_dropout(self) -> nn.Module:
        rate = self.config.classifier_dropout
        return WaveDropout(self.config.hidden_dropout_prob if rate is None else rate)

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor | None, **how) -> torch.Tensor | None:
        """The loss of transformers for this head, with an error that says what is wrong with the labels."""
        if labels is None:
            return None
        if "num_items_in_batch" in how:  # of all accumulated steps if Trainer counted them
            count = how["num_items_in_batch"]
            count = labels.ne(-100).sum() if count is None else torch.as_tensor(count)
            how["num_items_in_batch"] = count.clamp(min=1)
        try:
            return self.loss_function(logits=logits, labels=labels, **how)
        except IndexError as error:
            allowed, given = logits.shape[-1], labels[labels != -100]
            raise IndexError(
                f"`labels` must lie in 0 ... {allowed - 1}, as there are {allowed} logits, "
                f"got {int(given.min())} ... {int(given.max())}."
            ) from error

    def warn_without_order(self) -> None:
        if self.config.conv_kernel_size is None:
            logger.warning_once(
                f"{type(self).__name__} asks about single tokens, and in this model no token sees the neighbours on "
                "its right: `conv_kernel_size` is None. For a new model set it to 3 or 5."
            )


@auto_docstring
class WaveModel(WavePreTrainedModel):
    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.embeddings = WaveEmbeddings(config)
        self.layers = nn.ModuleList([WaveLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

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
        pooling: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts: the batch is one row of texts laid end to end without padding, and text `n` stands from
            `cu_seq_lens[n]` to `cu_seq_lens[n + 1]`. Instead of an `attention_mask`.
        pooling (`str`, *optional*):
            `"mean"`, `"max"`, `"cls"` (the first token) or `"opening"` (the mean of all tokens and that of the first
            three, twice as wide): one vector for each text in `pooler_output`. A document that is read in chunks has no
            `last_hidden_state` then, which would need the memory of the whole. `"segments"`: the two texts of a pair,
            by `token_type_ids`, are read as texts of their own, each first one before its second, and the vector, 4
            times as wide, has both means and how they compare.
        """
        if pooling not in (None, "mean", "max", "cls", "opening", "segments"):
            raise ValueError(f"`pooling` must be 'mean', 'max', 'cls', 'opening', 'segments' or None, got {pooling!r}.")
        if kwargs.get("cu_seq_lens_q") is not None:
            raise ValueError("Packed texts need `cu_seq_lens`, got `cu_seq_lens_q`, which is for attention.")
        tokens = WaveTokens.check(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens)
        is_pair = pooling == "segments"
        if is_pair:
            tokens, pooling = tokens.split_pairs(), "mean"
        hidden_states = pooled_BD = None
        if needs_chunks(self, tokens) and not kwargs.get("output_hidden_states"):
            chunks = read_chunks(self, tokens)
            if pooling is None:
                hidden_states = torch.cat([hidden_states for hidden_states, _ in chunks], dim=1)
        else:
            hidden_states = self.embeddings(tokens)
            for layer in self.layers:
                hidden_states = layer(hidden_states, tokens.mask_BL, tokens.cu_seq_lens)
            chunks = iter([(hidden_states, tokens.mask_BL)])
        if pooling is not None:
            is_packed = tokens.cu_seq_lens is not None
            pooled_BD = pool_packed(hidden_states, tokens.cu_seq_lens, pooling) if is_packed else pool(chunks, pooling)
            pooled_BD = compare(pooled_BD) if is_pair else pooled_BD
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled_BD)


@auto_docstring(custom_intro="A Wave Network with a linear classifier (or regressor) on the pooled tokens.")
class WaveForSequenceClassification(WavePreTrainedModel):
    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.wave = WaveModel(config)
        self.dropout = self.make_classifier_dropout()
        self.classifier = nn.Linear(count_pooled(config.hidden_size, config.classifier_pooling), config.num_labels)
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
            For packed texts, as in [`WaveModel`]. Logits and labels are one for each text.
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, config.num_labels)`, *optional*):
            Class indices, floats of 0 and 1 for each label, or values, by `config.problem_type`, as in BERT.
        """
        inputs = input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens
        outputs = self.wave(*inputs, self.config.classifier_pooling, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        if self.config.classifier_temperature != 1:
            logits = logits / self.config.classifier_temperature
        loss = self.compute_loss(logits, labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="A Wave Network with a language-modelling head: which token stands at each place.")
class WaveForMaskedLM(WavePreTrainedModel):
    _tied_weights_keys = {"decoder.weight": "wave.embeddings.word_embeddings.weight"}
    accepts_loss_kwargs = True

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.warn_without_order()
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
            The token at each place, or -100 where none is asked for. The loss is the mean over the others, 0 for none.
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts, as in [`WaveModel`]. Logits and labels are packed like the tokens.
        """
        count = kwargs.pop("num_items_in_batch", None)
        inputs = input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens
        outputs = self.wave(*inputs, return_dict=True, **kwargs)
        logits = self.decoder(self.norm(self.activation(self.transform(outputs.last_hidden_state))))
        loss = self.compute_loss(logits, labels, vocab_size=self.config.vocab_size, num_items_in_batch=count)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="A Wave Network with a linear classifier on each token.")
class WaveForTokenClassification(WavePreTrainedModel):
    accepts_loss_kwargs = True

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.warn_without_order()
        self.num_labels = config.num_labels
        self.wave = WaveModel(config)
        self.dropout = self.make_classifier_dropout()
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
            The class of each token, or -100 where it has none. The loss is the mean over the others, 0 for none.
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts, as in [`WaveModel`]. Logits and labels are packed like the tokens.
        """
        count = kwargs.pop("num_items_in_batch", None)
        inputs = input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens
        outputs = self.wave(*inputs, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = self.compute_loss(logits, labels, config=self.config, num_items_in_batch=count)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="A Wave Network that finds the answer to a question in a text: where it begins and ends.")
class WaveForQuestionAnswering(WavePreTrainedModel):
    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.warn_without_order()
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
        cu_seq_lens (`torch.LongTensor` of shape `(number of texts + 1,)`, *optional*):
            For packed texts, as in [`WaveModel`]. Logits and positions are those of the same texts padded on the
            right. At padding the logits are the lowest number of their dtype: no answer lies there.
        """
        inputs = input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cu_seq_lens
        outputs = self.wave(*inputs, return_dict=True, **kwargs)
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
    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.wave = WaveModel(config)
        self.dropout = self.make_classifier_dropout()
        self.classifier = nn.Linear(count_pooled(config.hidden_size, config.classifier_pooling), 1)
        self.post_init()

    @staticmethod
    def loss_function(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the choices: transformers has no loss for this head."""
        return nn.functional.cross_entropy(widen(logits), labels)

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
            The tokens of each choice; all other inputs have one more axis in the same place.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The right choice of each row.
        """
        if kwargs.get("cu_seq_lens") is not None:
            raise ValueError("`cu_seq_lens` must be None for multiple choice: choices are padded, not packed.")
        given, axes = (input_ids, 3) if input_ids is not None else (inputs_embeds, 4)
        if given is None or given.dim() != axes:
            must = "`input_ids` must have the shape (batch size, choices, length), or `inputs_embeds` one axis more"
            raise ValueError(f"{must}; got {None if given is None else tuple(given.shape)}.")
        rows, choices = given.shape[:2]
        inputs = input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        flat = [x if x is None or x.dim() == 1 else x.flatten(end_dim=1) for x in inputs]
        outputs = self.wave(*flat, pooling=self.config.classifier_pooling, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(rows, choices)
        loss = self.compute_loss(logits, labels)
        return MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def compute_place_loss(logits_BL: torch.Tensor, places_B: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the texts whose place is one of their tokens; 0 if there are none."""
    places_B = places_B.reshape(-1)
    inside_B = (places_B >= 0) & (places_B < logits_BL.shape[1])
    chosen_B = logits_BL.gather(1, places_B.where(inside_B, 0)[:, None])[:, 0]
    inside_B = inside_B & (chosen_B > torch.finfo(logits_BL.dtype).min)
    total = nn.functional.cross_entropy(widen(logits_BL), places_B.where(inside_B, -100), reduction="sum")
    return total / inside_B.sum().clamp(min=1)


__all__ = [
    "WaveForMaskedLM",
    "WaveForMultipleChoice",
    "WaveForQuestionAnswering",
    "WaveForSequenceClassification",
    "WaveForTokenClassification",
    "WaveModel",
    "WavePreTrainedModel",
]
