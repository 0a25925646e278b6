"""Wave Network: a text encoder without attention, as a Hugging Face Transformers model.

Importing this package registers the model with the Auto classes of transformers.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import finetune as finetune
    from .configuration import WaveConfig as WaveConfig
    from .inference.classifier import Classifier as Classifier
    from .inference.classifier import load as load
    from .modeling_wave import WaveForMaskedLM as WaveForMaskedLM
    from .modeling_wave import WaveForMultipleChoice as WaveForMultipleChoice
    from .modeling_wave import WaveForQuestionAnswering as WaveForQuestionAnswering
    from .modeling_wave import WaveForSequenceClassification as WaveForSequenceClassification
    from .modeling_wave import WaveForTokenClassification as WaveForTokenClassification
    from .modeling_wave import WaveModel as WaveModel
    from .modeling_wave import WavePreTrainedModel as WavePreTrainedModel
    from .tokenization import load_wave_tokenizer as load_wave_tokenizer
    from .tokenization import train_wave_tokenizer as train_wave_tokenizer
    from .training.distil import DistilArguments as DistilArguments
    from .training.distil import distil as distil

__version__ = "0.1.0"

# The English encoder that comes with the package: a folder for `AutoModel` and `SentenceTransformer`.
ENGLISH = Path(__file__).resolve().parent / "english"

# Public names, by the module that has them: each is imported when it is first asked for.
_MODULES = {
    "Classifier": "inference.classifier",
    "DistilArguments": "training.distil",
    "WaveConfig": "configuration",
    "WaveForMaskedLM": "modeling_wave",
    "WaveForMultipleChoice": "modeling_wave",
    "WaveForQuestionAnswering": "modeling_wave",
    "WaveForSequenceClassification": "modeling_wave",
    "WaveForTokenClassification": "modeling_wave",
    "WaveModel": "modeling_wave",
    "WavePreTrainedModel": "modeling_wave",
    "distil": "training.distil",
    "finetune": "api",
    "load": "inference.classifier",
    "load_wave_tokenizer": "tokenization",
    "train_wave_tokenizer": "tokenization",
}
__all__ = ["ENGLISH", *_MODULES, "register"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register() -> None:
    """Makes transformers' Auto classes know the Wave Network, here and not by code from a checkpoint."""
    import transformers

    from . import modeling_wave
    from .configuration import WaveConfig

    transformers.AutoConfig.register("wave", WaveConfig, exist_ok=True)
    transformers.AutoModel.register(WaveConfig, modeling_wave.WaveModel, exist_ok=True)
    for head in ("MaskedLM", "MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification"):
        auto_class = getattr(transformers, f"AutoModelFor{head}")
        auto_class.register(WaveConfig, getattr(modeling_wave, f"WaveFor{head}"), exist_ok=True)
    transformers.AutoTokenizer.register(
        WaveConfig, fast_tokenizer_class=transformers.PreTrainedTokenizerFast, exist_ok=True
    )


def _is_command() -> bool:
    name = sys.argv[0] if sys.argv else ""
    is_module = name == "-m" and any(word.partition(".")[0] == __name__ for word in sys.orig_argv)
    return Path(name).stem == "wave-network" or is_module


# The command answers `--help` without waiting for torch: it registers when a verb needs a model.
if not _is_command():
    register()
