"""Wave Network: a text encoder without attention, as a Hugging Face Transformers model.

Importing this package registers the model with the Auto classes of transformers.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertTokenizer,
)

from .configuration import WaveConfig
from .modeling_wave import (
    WaveForMaskedLM,
    WaveForMultipleChoice,
    WaveForQuestionAnswering,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
    WavePreTrainedModel,
)
from .tokenization import load_wave_tokenizer, train_wave_tokenizer

__version__ = "0.1.0"
__all__ = [
    "WaveConfig",
    "WaveForMaskedLM",
    "WaveForMultipleChoice",
    "WaveForQuestionAnswering",
    "WaveForSequenceClassification",
    "WaveForTokenClassification",
    "WaveModel",
    "WavePreTrainedModel",
    "load_wave_tokenizer",
    "train_wave_tokenizer",
]

AutoConfig.register("wave", WaveConfig, exist_ok=True)
AutoModel.register(WaveConfig, WaveModel, exist_ok=True)
AutoModelForMaskedLM.register(WaveConfig, WaveForMaskedLM, exist_ok=True)
AutoModelForMultipleChoice.register(WaveConfig, WaveForMultipleChoice, exist_ok=True)
AutoModelForQuestionAnswering.register(WaveConfig, WaveForQuestionAnswering, exist_ok=True)
AutoModelForSequenceClassification.register(WaveConfig, WaveForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(WaveConfig, WaveForTokenClassification, exist_ok=True)
AutoTokenizer.register(WaveConfig, fast_tokenizer_class=BertTokenizer, exist_ok=True)
