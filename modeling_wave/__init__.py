"""The model room: the mathematics (`ops_wave`), the same fast (`fused_wave`), and the model (`modeling_wave`)."""

from .modeling_wave import WaveForSequenceClassification, WaveModel, WavePreTrainedModel

__all__ = ["WaveForSequenceClassification", "WaveModel", "WavePreTrainedModel"]
