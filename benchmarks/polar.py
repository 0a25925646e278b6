"""The Wave Network as the paper's symbols and the public implementations write it: the rival of our own form.

Each variant of a token becomes the complex number `G exp(i alpha)`, with `alpha = arctan2(sqrt(1 - (w/G)^2), w/G)`; the
two are added or multiplied as complex tensors, and real and imaginary part, side by side, go back through the same
linear map. The state dict is that of `WaveForSequenceClassification`, so both hold the same weights.
"""

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from wave_network import WaveConfig


def to_polar(w_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
    """`Z = G exp(i alpha)` (paper, eq. 1 to 3), a complex tensor. Padding enters no sum."""
    if mask_BL is not None:
        w_BLD = w_BLD.masked_fill(~mask_BL[..., None], 0)
    magnitude_B1D = w_BLD.square().sum(dim=1, keepdim=True).sqrt()
    ratio_BLD = w_BLD / (magnitude_B1D + 1e-8)
    alpha_BLD = torch.arctan2((1 - ratio_BLD.square()).clamp(min=0).sqrt(), ratio_BLD)
    return magnitude_B1D * torch.exp(1j * alpha_BLD)


class PolarMixing(nn.Module):
    def __init__(self, config: WaveConfig):
        super().__init__()
        self.operation = config.wave_operation
        self.variants = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.restore = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, hidden_BLD: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        z_BLD, z2_BLD = (to_polar(w_BLD, mask_BL) for w_BLD in self.variants(hidden_BLD).chunk(2, dim=-1))
        wave_BLD = z_BLD * z2_BLD if self.operation == "modulation" else z_BLD + z2_BLD
        return self.restore(torch.cat([wave_BLD.real, wave_BLD.imag], dim=-1))


class PolarLayer(nn.Module):
    def __init__(self, config: WaveConfig):
        super().__init__()
        self.mixing = PolarMixing(config)
        self.mixing_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_BLD: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        return self.mixing_norm(hidden_BLD + self.dropout(self.mixing(hidden_BLD, mask_BL)))


class PolarEmbeddings(nn.Module):
    """Words and the default positions of `WaveConfig`: a fixed sinusoid."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        places = torch.arange(config.max_position_embeddings)[:, None]
        angles = places * 10000.0 ** (-torch.arange(0, config.hidden_size, 2) / config.hidden_size)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(start_dim=1)
        self.positions = nn.Buffer(config.position_embedding_scale * table, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # Texts are padded on the right here, so a token's place in the row is its position.
        return self.dropout(self.word_embeddings(input_ids) + self.positions[: input_ids.shape[1]])


class PolarModel(nn.Module):
    def __init__(self, config: WaveConfig):
        super().__init__()
        self.embeddings = PolarEmbeddings(config)
        self.layers = nn.ModuleList([PolarLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, input_ids: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        hidden_BLD = self.embeddings(input_ids)
        for layer in self.layers:
            hidden_BLD = layer(hidden_BLD, mask_BL)
        return hidden_BLD


class PolarForSequenceClassification(nn.Module):
    """Mean pooling and a linear classifier, as ours."""

    def __init__(self, config: WaveConfig):
        super().__init__()
        self.wave = PolarModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        mask_BL = None if attention_mask is None else attention_mask != 0
        hidden_BLD = self.wave(input_ids, mask_BL)
        if mask_BL is None:
            pooled_BD = hidden_BLD.mean(dim=1)
        else:
            mask_BL1 = mask_BL[..., None]
            pooled_BD = hidden_BLD.masked_fill(~mask_BL1, 0).sum(dim=1) / mask_BL1.sum(dim=1)
        logits = self.classifier(self.dropout(pooled_BD))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
