"""What a run starts from: a model that is named, the English encoder that comes with the package, or nothing."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..configuration import WaveConfig
from ..data.load import TextData
from ..data.measure import PROBLEMS
from ..modeling_wave import WaveForSequenceClassification, WaveModel
from ..tokenization import load_wave_tokenizer, spell, train_wave_tokenizer
from .settings import AUTO, DROPOUT, ENGLISH, MAX_LENGTH, NONE, ModelArguments

SAMPLE = 2000  # texts that are looked at
WORD = re.compile(r"[^\W\d_]+")
# English words come in 1.0 to 1.2 pieces, French, Spanish and German ones in 1.8 to 2.4, mixed ones between; Vietnamese
# and Thai need bytes. Where fewer characters than this are letters, as in numbers and logs, there is little to know.
MOST_PIECES, MOST_BYTES, LEAST_LETTERS = 1.45, 0.05, 0.5
# What a config says of the weights as they were.
OF_WEIGHTS = {"classifier_temperature": 1.0, "classifier_thresholds": None, "classifier_abstain": None}


def resolve_start(arguments: ModelArguments, data: TextData, is_own: bool) -> ModelArguments:
    """
    The settings with what `--model auto` stands for: english, if the texts are and nothing asks for another model.
    `is_own` says that the model is made elsewhere.
    """
    if arguments.model != AUTO:
        return arguments
    if is_own or arguments.tokenizer is not None or arguments.of_a_new_model:
        return replace(arguments, model=NONE)
    sample = data.train.select(range(0, len(data.train), max(1, len(data.train) // SAMPLE)))
    try:
        is_english, why = look_at(list_texts(sample), load_wave_tokenizer(find_english()))
    except FileNotFoundError:
        is_english, why = False, "the English encoder is not there"
    start = "starts from the English encoder" if is_english else "trains a new model"
    print(f"--model auto {start}: {why}.", flush=True)
    return replace(arguments, model=ENGLISH if is_english else NONE)


def find_start(arguments: ModelArguments) -> str | None:
    """The folder or name of the model to start from; None for a new model. FileNotFoundError if it is not there."""
    if arguments.model == ENGLISH:
        return find_english()
    return None if arguments.model in (AUTO, NONE) else arguments.model


def find_english() -> str:
    from .. import ENGLISH as FOLDER

    if not (FOLDER / "config.json").is_file():
        raise FileNotFoundError(f"The English encoder is not there: {str(FOLDER)!r}. Use --model none, or another one.")
    return str(FOLDER)


def list_texts(rows: Any) -> list[str]:
    return [text for name in ("text", "text_pair") if name in rows.column_names for text in rows[name]]


def look_at(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[bool, str]:
    """Whether texts are English, by how the vocabulary of the English encoder cuts their words, and what it goes by."""
    sample = [text[:1000] for text in texts]
    words = Counter(chain.from_iterable(map(WORD.findall, sample)))
    characters = sum(len(part) for text in sample for part in text.split())
    letters = sum(len(word) * count for word, count in words.items()) / max(1, characters)
    spelled = [spelling for spelling, _ in spell(tokenizer) or ()]
    cut = tokenizer([*words, *sample], add_special_tokens=False)["input_ids"]
    pieces = sum(len(ids) * count for ids, count in zip(cut, words.values(), strict=False)) / max(1, words.total())
    ids = list(chain.from_iterable(cut[len(words) :]))
    unspelled = sum(not spelled[index] for index in ids) / max(1, len(ids))
    is_english = pieces <= MOST_PIECES and unspelled <= MOST_BYTES and letters >= LEAST_LETTERS
    found = f"{pieces:.2f} pieces a word, {unspelled:.1%} bytes, {letters:.0%} letters"
    return is_english, f"its vocabulary cuts these texts like {'English' if is_english else 'no English'} ({found})"


def get_tokenizer(arguments: ModelArguments, data: TextData) -> PreTrainedTokenizerBase:
    """The tokenizer that is asked for, or that of the model to start from, or one trained on the training texts."""
    source = arguments.tokenizer or find_start(arguments)
    if source is None:
        settings: dict[str, Any] = {"lowercase": arguments.lowercase, "show_progress": False}
        settings["model_max_length"] = arguments.max_length or MAX_LENGTH
        return train_wave_tokenizer(list_texts(data.train), arguments.vocab_size, **settings)
    tokenizer = load_wave_tokenizer(source)
    longest = tokenizer.model_max_length
    if arguments.max_length is not None and arguments.max_length > longest:
        raise ValueError(f"`max_length` must be at most {longest}, as in {source!r}, got {arguments.max_length}.")
    tokenizer.model_max_length = arguments.max_length or min(longest, MAX_LENGTH)
    return tokenizer


def get_model(
    arguments: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    label_names: Sequence[str],
    task: str = "single",
    is_pair: bool = False,
) -> PreTrainedModel:
    """A classifier of these labels: the model to start from with a head that fits, or a new Wave Network."""
    names = label_names if task != "number" else ["value"]
    labels: dict[str, Any] = {"id2label": dict(enumerate(names)), "problem_type": PROBLEMS[task]}
    labels["label2id"] = {name: index for index, name in enumerate(names)}
    if arguments.classifier_pooling == "segments" and not is_pair:
        raise ValueError("`classifier_pooling` 'segments' is for pairs of texts, got rows of one text.")
    start, dropout = find_start(arguments), arguments.hidden_dropout_prob
    if start is not None:
        return load_model(start, dropout, tokenizer, labels, is_pair)
    own = {name: value for name, value in asdict(arguments).items() if hasattr(WaveConfig, name)}
    own["hidden_dropout_prob"] = WaveConfig.hidden_dropout_prob if dropout is None else dropout
    own |= {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    own["conv_kernel_size"] = arguments.conv_kernel_size or None
    own["classifier_pooling"] = arguments.classifier_pooling or ("segments" if is_pair else "mean")
    own["type_vocab_size"] = 2 if is_pair else 0
    model = WaveForSequenceClassification(WaveConfig(**own, pad_token_id=tokenizer.pad_token_id, **labels))
    if is_pair:
        nn.init.zeros_(model.wave.embeddings.token_type_embeddings.weight)  # a word is the same in both texts
    return model


def load_model(
    start: str, dropout: float | None, tokenizer: PreTrainedTokenizerBase, labels: dict[str, Any], is_pair: bool
) -> Any:
    config = AutoConfig.from_pretrained(start, trust_remote_code=False, **OF_WEIGHTS, **labels)
    if dropout is not None and not hasattr(config, "hidden_dropout_prob"):
        raise ValueError(f"`hidden_dropout_prob` ({dropout}) is not a field of {type(config).__name__}.")
    segments = getattr(config, "type_vocab_size", 0)
    if is_encoder(config):
        dropout = DROPOUT if dropout is None else dropout
        if is_pair:
            config.update({"classifier_pooling": "segments", "type_vocab_size": max(segments, 2)})
    config.update({} if dropout is None else {"hidden_dropout_prob": dropout})
    # The classifier may be of other classes, and is new then.
    settings: dict[str, Any] = {"ignore_mismatched_sizes": True, "use_safetensors": True, "trust_remote_code": False}
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        start, config=config, output_loading_info=True, **settings
    )
    for weight, found, expected in sorted(loaded["mismatched_keys"]):
        if weight.startswith(f"{model.base_model_prefix}.") and "token_type_embeddings" not in weight:
            raise ValueError(
                f"`model` {start!r} must have the {weight!r} that its config.json asks for, of shape "
                f"{tuple(expected)}, got one of shape {tuple(found)}."
            )
    if getattr(model.config, "type_vocab_size", 0) > segments:
        nn.init.zeros_(model.wave.embeddings.token_type_embeddings.weight)  # reads as before
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return model


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model is a Wave Network that has no classifier yet."""
    return config.model_type == WaveConfig.model_type and config.architectures == [WaveModel.__name__]
