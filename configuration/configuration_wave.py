# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""Configuration of the Wave Network.

Sources: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), sections 3 and 4, and *The Backpropagation of
the Wave Network* (Token2Wave, arXiv 2411.06989). What the papers leave open was chosen by validation accuracy.
"""

import difflib
import math
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import auto_docstring, logging

logger = logging.get_logger(__name__)

# The files that `trust_remote_code=True` loads, and the class for each Auto class.
HUB_FILES = (
    "configuration/configuration_wave.py",
    "modeling_wave/ops_wave.py",
    "modeling_wave/fused_wave.py",
    "modeling_wave/pooling_wave.py",
    "modeling_wave/embeddings_wave.py",
    "modeling_wave/documents_wave.py",
    "modeling_wave/modeling_wave.py",
)
AUTO_MAP = {
    "AutoConfig": "configuration_wave.WaveConfig",
    "AutoModel": "modeling_wave.WaveModel",
    "AutoModelForMaskedLM": "modeling_wave.WaveForMaskedLM",
    "AutoModelForMultipleChoice": "modeling_wave.WaveForMultipleChoice",
    "AutoModelForQuestionAnswering": "modeling_wave.WaveForQuestionAnswering",
    "AutoModelForSequenceClassification": "modeling_wave.WaveForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_wave.WaveForTokenClassification",
}


@auto_docstring(checkpoint="wave-network/wave-base")
@strict
class WaveConfig(PreTrainedConfig):
    r"""
    wave_operation (`str`, *optional*, defaults to `"modulation"`):
        How the two variants of a token are superposed: `"modulation"` multiplies them (paper, eq. 6 and 7),
        `"interference"` adds them (eq. 4).
    magnitude (`str`, *optional*, defaults to `"l2"`):
        `"l2"`: the context of a token is the L2 norm of the other tokens, as in the paper; it grows like the square
        root of the text's length. `"rms"`: their root mean square, which does not.
    restore (`str`, *optional*, defaults to `"linear"`):
        How the complex token returns to a real one. `"linear"` reads both parts, `Linear(concat(re, im))`.
        `"magnitude"`, `|Z|`, has no parameters and goes with interference: under modulation it loses all phase, as
        `|Z Z'| = G G'` is the same for every token of the text.
    intermediate_size (`int`, *optional*):
        Width of a feed-forward block after the wave layer. `None`: no such block, as in the paper.
    conv_kernel_size (`int`, *optional*):
        Width of a depthwise convolution over neighbouring tokens before the first layer, odd and at least 3. It shows
        the model the order of words, which language modelling, tagging and question answering need. `None`: none, as in
        the paper.
    ngram_vocab_size (`int`, *optional*):
        Rows of a table of hashed n-grams, from 2 (the first is for padding) to 2^24. Each n-gram of tokens adds its row
        to the embedding of its last token. They are found by `input_ids`: with `inputs_embeds` the model adds none.
        `None`: no such table, as in the paper.
    ngram_size (`int`, *optional*, defaults to 2):
        The longest n-grams: 2 for pairs of neighbouring tokens, 3 for pairs and triples, and so on. Used only with an
        `ngram_vocab_size`.
    ngram_hidden_size (`int`, *optional*):
        Width of that table, from which a linear map leads to `hidden_size`: more rows for the same number of
        parameters. Used only with an `ngram_vocab_size`. `None`: `hidden_size`, without a map.
    position_embedding_type (`str`, *optional*, defaults to `"sinusoidal"`):
        `"sinusoidal"` (fixed, scaled by `position_embedding_scale`), `"absolute"` (learned) or `"none"`. The wave
        layer itself does not see the order of the tokens.
    position_embedding_scale (`float`, *optional*, defaults to 0.02):
        Amplitude of the sinusoidal positions. Amplitude 1 drowns a table of standard deviation 0.02.
    max_position_embeddings (`int`, *optional*, defaults to 512):
        The longest text, in tokens without padding, that absolute positions allow. Sinusoidal ones compute what lies
        beyond.
    type_vocab_size (`int`, *optional*, defaults to 0):
        Number of segment embeddings. 0: none, and `token_type_ids` are accepted and not used.
    hidden_act (`str`, *optional*, defaults to `"gelu"`):
        Activation of the feed-forward block, which is there only with an `intermediate_size`, and of the head of
        [`WaveForMaskedLM`].
    hidden_dropout_prob (`float`, *optional*, defaults to 0.5):
        Dropout on what each layer adds to its input (paper, eq. 8) and on the sum of the embeddings, where each token
        draws its own.
    token_dropout_prob (`float`, *optional*, defaults to 0.0):
        In training, the probability with which a token's whole embedding, before the convolution and the first layer,
        is set to zero; the others are not scaled.
    classifier_dropout (`float`, *optional*):
        Dropout before a classifier. `None`: `hidden_dropout_prob`.
    classifier_pooling (`str`, *optional*, defaults to `"mean"`):
        How a classifier of whole texts reads them: `"mean"` or `"max"` over its tokens, `"cls"`, its first token,
        `"opening"`, the mean of all tokens and that of the first three, or `"segments"`, for pairs of texts: each is
        read as a text of its own, and of the means u and v of their tokens the classifier reads
        `[u, v, |u - v|, u * v]`. Which tokens are those of the second text, `token_type_ids` say.
    classifier_temperature (`float`, *optional*, defaults to 1.0):
        [`WaveForSequenceClassification`] divides its logits by it, also before the loss: above 1, probabilities are
        less certain.
    initializer_range (`float`, *optional*, defaults to 0.02):
        Standard deviation of the embedding tables and of the linear maps at the start.
    layer_norm_eps (`float`, *optional*, defaults to 1e-08):
        Added to the variance by the layer normalisations. Below 2.4e-10 its inverse root is more than float16 holds,
        and a row of zeros, such as padding, has NaN gradients there.
    wave_implementation (`str`, *optional*, defaults to `"auto"`):
        `"eager"`: the wave operations as they are written in `ops_wave.py`. `"fused"` or `"auto"`: the same, faster and
        with a backward written by hand (`fused_wave.py`). Weights and results are the same.
    chunk_length (`int`, *optional*, defaults to 32768):
        Without gradients, longer texts are read in chunks of this many tokens, each twice per layer, in the memory of
        one chunk. `None`: always in one pass.

    Examples:

    ```python
    >>> from wave_network import WaveConfig, WaveModel

    >>> model = WaveModel(WaveConfig())  # the paper's single-layer modulation model with random weights
    ```"""

    model_type = "wave"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 1
    wave_operation: Literal["modulation", "interference"] = "modulation"
    magnitude: Literal["l2", "rms"] = "l2"
    restore: Literal["linear", "magnitude"] = "linear"
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    conv_kernel_size: int | None = None
    ngram_vocab_size: int | None = None
    ngram_size: int = 2
    ngram_hidden_size: int | None = None
    position_embedding_type: Literal["sinusoidal", "absolute", "none"] = "sinusoidal"
    position_embedding_scale: float | int = 0.02
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    hidden_dropout_prob: float | int = 0.5
    token_dropout_prob: float | int = 0.0
    classifier_dropout: float | int | None = None
    classifier_pooling: Literal["mean", "cls", "max", "opening", "segments"] = "mean"
    classifier_temperature: float | int = 1.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-8
    wave_implementation: Literal["auto", "eager", "fused"] = "auto"
    chunk_length: int | None = 32768
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if kwargs.pop("folded", False):  # a field of version 0.1
            raise ValueError("`folded` must be False, got True. Set it to False in config.json: the weights stay.")
        unused = find_misspelt(kwargs, {field.name for field in fields(self)})
        if unused is not None and self.transformers_version is None:
            raise TypeError(unused)
        if unused is not None:  # from a file: what was saved, with an attribute that somebody had set, can be loaded
            logger.warning("%s It is kept and not used.", unused)
        super().__post_init__(**kwargs)
        # Each Auto class loads every checkpoint, and a copy does not name the repository that it was read from.
        self.auto_map = dict(AUTO_MAP)

    def validate_sizes(self):
        """Sizes are positive, or zero where zero has a meaning."""
        at_least = {
            "vocab_size": 1,
            "hidden_size": 1,
            "num_hidden_layers": 1,
            "intermediate_size": 1,
            "max_position_embeddings": 1,
            "type_vocab_size": 0,
            "ngram_size": 2,
            "ngram_hidden_size": 1,
            "chunk_length": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value}.")
        width = self.conv_kernel_size
        if width is not None and (width < 3 or width % 2 == 0):
            raise ValueError(f"`conv_kernel_size` must be None or an odd integer of at least 3, got {width}.")
        rows = self.ngram_vocab_size
        if rows is not None and not 2 <= rows <= 2**24:
            raise ValueError(f"`ngram_vocab_size` must be None or an integer from 2 to 16777216 (2^24), got {rows}.")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"`pad_token_id` must be None or an id below `vocab_size` ({self.vocab_size}), got {self.pad_token_id}."
            )
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                "`position_embedding_type='sinusoidal'` pairs a sine with a cosine and needs an even `hidden_size`, "
                f"got {self.hidden_size}. Allowed with an odd size: 'absolute' or 'none'."
            )

    def validate_rates(self):
        """Probabilities lie in [0, 1], scales and the temperature are positive."""
        for name in ("hidden_dropout_prob", "token_dropout_prob", "classifier_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be a probability between 0 and 1, got {value}.")
        for name in ("initializer_range", "position_embedding_scale", "layer_norm_eps", "classifier_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be a finite number greater than 0, got {getattr(self, name)}.")

    def validate_modes(self):
        """Activation functions have too many names for a `Literal`."""
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {sorted(ACT2FN)}, got {self.hidden_act!r}.")

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """
        Saves the configuration, and the code that loads the model without this package.

        Every save of a model goes through here, so every checkpoint, pushed or not, is complete. Arguments are those of
        [`PreTrainedConfig.save_pretrained`].
        """
        super().save_pretrained(save_directory)
        write_hub_files(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)


def find_misspelt(unknown: dict, known: set[str]) -> str | None:
    """What is wrong with an unknown keyword that looks like one of ours. Others pass: checkpoints carry many."""
    own = sorted(known - {field.name for field in fields(PreTrainedConfig)})
    for name in unknown:
        # transformers keeps any special token here, which attention other models use, and how some of them generate.
        if name == "temperature" or name.endswith(("_token_id", "attn_implementation", "experts_implementation")):
            continue
        words = name.split("_")
        meant = [
            field for field in own if all(any(part.startswith(word) for part in field.split("_")) for word in words)
        ]
        meant = meant or difflib.get_close_matches(name, own, n=3, cutoff=0.8)
        if meant:
            choices = " or ".join(f"`{field}`" for field in meant)
            return f"WaveConfig has no field `{name}` (got {unknown[name]!r}). Did you mean {choices}?"
    return None


def write_hub_files(folder: str | os.PathLike) -> None:
    """Writes the code files flat beside the weights, where `trust_remote_code=True` looks for them."""
    for name in HUB_FILES:
        # They lie in rooms in the package, and flat if this code came from the Hub: all of them, or for AutoConfig one.
        source = Path(__file__).with_name(Path(name).name)
        if not source.exists():
            source = Path(__file__).parents[1] / name
        if source.exists():
            code = source.read_text(encoding="utf-8")
            flat = re.sub(r"^from \.\.\w+\.(\w+) import", r"from .\1 import", code, flags=re.MULTILINE)
            Path(folder, source.name).write_text(flat, encoding="utf-8")


__all__ = ["WaveConfig"]
