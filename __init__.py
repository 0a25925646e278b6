"""Wave Network: a text encoder without attention, as a Hugging Face Transformers model.

Importing this package registers the model with the Auto classes of transformers.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

from .configuration import WaveConfig
from .modeling_wave import WaveForSequenceClassification, WaveModel, WavePreTrainedModel
from .tokenization import load_wave_tokenizer, train_wave_tokenizer

__version__ = "0.1.0"
__all__ = [
    "WaveConfig",
    "WaveForSequenceClassification",
    "WaveModel",
    "WavePreTrainedModel",
    "load_wave_tokenizer",
    "train_wave_tokenizer",
]

AutoConfig.register("wave", WaveConfig, exist_ok=True)
AutoModel.register(WaveConfig, WaveModel, exist_ok=True)
AutoModelForSequenceClassification.register(WaveConfig, WaveForSequenceClassification, exist_ok=True)
AutoTokenizer.register(WaveConfig, fast_tokenizer_class=BertTokenizer, exist_ok=True)
