"""The Wave Network as the paper writes it, in polar form: a rival of our own form.

Each variant of a token becomes the complex number `G exp(i alpha)` with `alpha = arctan2(sqrt(1 - (w/G)^2), w/G)`. The
two are added or multiplied as complex tensors. The state dict is that of `WaveForSequenceClassification`.
"""

import torch

from wave_network.modeling_wave import WaveForSequenceClassification
from wave_network.modeling_wave.modeling_wave import WaveMixing


def to_polar(w_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
    """`Z = G exp(i alpha)` (paper, eq. 1 to 3), a complex tensor. Padding enters no sum."""
    if mask_BL is not None:
        w_BLD = w_BLD.masked_fill(~mask_BL[..., None], 0)
    magnitude_B1D = w_BLD.square().sum(dim=1, keepdim=True).sqrt()
    ratio_BLD = w_BLD / (magnitude_B1D + 1e-8)
    alpha_BLD = torch.arctan2((1 - ratio_BLD.square()).clamp(min=0).sqrt(), ratio_BLD)
    return magnitude_B1D * torch.exp(1j * alpha_BLD)


class PolarMixing(WaveMixing):
    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary=None):
        z_BLD, z2_BLD = (to_polar(w_BLD, mask_BL) for w_BLD in self.variants(hidden_states).chunk(2, dim=-1))
        wave_BLD = z_BLD * z2_BLD if self.config.wave_operation == "modulation" else z_BLD + z2_BLD
        return self.return_real(torch.cat([wave_BLD.real, wave_BLD.imag], dim=-1))


def make_polar(model: WaveForSequenceClassification) -> WaveForSequenceClassification:
    """Has the layers of a model compute in polar form, for padded texts."""
    for layer in model.wave.layers:
        layer.mixing.__class__ = PolarMixing
    return model
