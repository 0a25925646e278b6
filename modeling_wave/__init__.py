"""The model room: the mathematics (`ops_wave`) and the PyTorch model built on it (`modeling_wave`)."""

from .modeling_wave import WaveForSequenceClassification, WaveModel, WavePreTrainedModel

__all__ = ["WaveForSequenceClassification", "WaveModel", "WavePreTrainedModel"]
