"""The classifier to export, with what belongs to it, and what is no classifier or cannot be exported."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

# Of the model's config: where it came from, and the code that is not needed any more.
LEFT_OUT = ("_name_or_path", "auto_map")


@dataclass
class Source:
    """The model to export, with what belongs to it."""

    name: str
    model: PreTrainedModel
    tokenizer: Any
    config: dict[str, Any]
    max_length: int
    inputs: list[str]

    @classmethod
    def load(cls, name: str, max_length: int | None = None, trust_remote_code: bool = False) -> "Source":
        """ValueError or OSError, with what it is, if it is not there or cannot be exported."""
        trust = {"trust_remote_code": trust_remote_code}
        tokenizer = load_tokenizer(name, trust)
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"The tokenizer of {name!r} must be a fast one, which has a tokenizer.json.")
        config = AutoConfig.from_pretrained(name, **trust)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(
                f"The weights of {name!r} are quantised. Export the float model; `format` onnx-int8 quantises it."
            )
        max_length = find_max_length(max_length, tokenizer, config)
        if config.model_type == "wave":
            # The longest text is known here: positions have a table for it, and no text is read in chunks.
            config.folded, config.chunk_length, config.wave_implementation = False, None, "auto"
            if config.position_embedding_type == "sinusoidal":
                config.max_position_embeddings = max_length
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **trust
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{name!r} is no trained classifier: its weights lack {', '.join(sorted(info['missing_keys'])[:5])}."
            )
        local = find_local(name)
        saved = {key: value for key, value in model.config.to_dict().items() if key not in LEFT_OUT}
        return cls(
            name=name if local is None else local.name,
            model=model.eval().requires_grad_(False),
            tokenizer=tokenizer,
            config=saved,
            max_length=max_length,
            inputs=find_inputs(model, tokenizer),
        )

    @property
    def pad_token_id(self) -> int:
        ids = (self.tokenizer.pad_token_id, getattr(self.model.config, "pad_token_id", None))
        return next((int(index) for index in ids if index is not None), 0)

    @property
    def vocab_size(self) -> int:
        return cast(torch.Tensor, self.model.get_input_embeddings().weight).shape[0]

    @property
    def weights_bytes(self) -> int:
        """The size of the weights in float32, which is that of a safetensors file up to its header."""
        return 4 * sum(parameter.numel() for parameter in self.model.parameters())


def load_tokenizer(name: str, trust: dict[str, bool]) -> Any:
    """The tokenizer of a model; a ValueError with the model's name, too, if one of its files is damaged."""
    try:
        return AutoTokenizer.from_pretrained(name, **trust)
    except Exception as error:
        # What transformers itself refuses, it names; what json and tokenizers do has no common type, and no file.
        if isinstance(error, OSError | ImportError) or type(error) is ValueError:
            raise
        raise ValueError(
            f"The tokenizer of {name!r} cannot be read, its tokenizer.json or tokenizer_config.json may be cut short: "
            f"{type(error).__name__}: {error}"
        ) from error


def find_local(model: str) -> Path | None:
    """The folder of a model, by a path that ends in its name; None for a name on the Hub."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    return folder if folder.name not in ("", "..") else folder.resolve()


def find_max_length(asked: int | None, tokenizer: Any, config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if config.model_type == "wave" and config.position_embedding_type != "absolute":
        limit = None
    # A tokenizer without a limit says 10^30.
    known = [length for length in (tokenizer.model_max_length, limit) if length is not None and length < 10**9]
    if asked is None:
        return int(min(known, default=512))
    if asked < 2 or (limit is not None and asked > limit):
        allowed = "at least 2" if limit is None else f"2 to {limit}, which the positions of the model allow"
        raise ValueError(f"`max_length` must be {allowed}, got {asked}.")
    return asked


def find_inputs(model: nn.Module, tokenizer: Any) -> list[str]:
    taken = inspect.signature(model.forward).parameters
    missing = [name for name in ("input_ids", "attention_mask") if name not in taken]
    if missing:
        raise ValueError(
            f"`{type(model).__name__}.forward` must take padded texts, as `input_ids` and `attention_mask`; it lacks "
            f"{', '.join(missing)}."
        )
    has_types = "token_type_ids" in taken and "token_type_ids" in tokenizer.model_input_names
    # A Wave Network has the argument in any case, for models that have segments.
    uses_types = has_types and getattr(model.config, "type_vocab_size", 1) > 0
    return ["input_ids", "attention_mask"] + (["token_type_ids"] if uses_types else [])
