"""The models that the studies train and compare: two Wave Networks, a Transformer layer and BERT.

All of them read the same texts in the same order with the same optimizer. The Wave Networks have the settings of the
model that is studied, but for the superposition. The Transformer layer is a BERT of one layer. In the paper
(2411.02674, section 5) it has the token embeddings of a trained BERT: so it has here, if `bert` names one.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..modeling_wave import WaveForSequenceClassification
from .figures import LOOKS
from .study import Experiment, place, read_bert

# As the looks of the figures: "Wave, modulation", "Wave, interference", "Transformer layer" and "BERT".
CONTENDERS = tuple(LOOKS)
LARGEST_GRADIENT_NORM = 1.0
# Where BERT has random weights, 2e-5, with which the paper fine-tunes a trained one, does not move it.
OF_A_TRAINED_BERT, OF_A_NEW_BERT = 2e-5, 1e-4


@dataclass
class TrainingSettings:
    """What the studies that train have in common."""

    seeds: int = field(default=3, metadata={"help": "Trainings of each model. With --paper: 5."})
    max_length: int = field(default=64, metadata={"help": "Tokens to which texts are cut."})
    hidden_size: int | None = field(
        default=None, metadata={"help": "Width of all models. Default: that of the model. With --paper: 768."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "That of all models but BERT, constant."})
    bert_learning_rate: float | None = field(
        default=None, metadata={"help": "That of BERT. Default: 2e-5 for a trained one, 1e-4 for random weights."}
    )


# What `--paper` makes of these.
PAPER = {"seeds": 5, "hidden_size": 768}


class Contender(NamedTuple):
    """A model, and what makes tokens of its texts."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def encode(self, rows: Mapping[str, Sequence[Any]], max_length: int) -> dict[str, torch.Tensor]:
        """Rows as the arguments of the model, padded to the longest of them, `labels` with them, on its device."""
        pairs = list(rows["text_pair"]) if "text_pair" in rows else None
        inputs = self.tokenizer(
            list(rows["text"]), pairs, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )
        inputs["labels"] = torch.tensor(list(rows["label"]))
        return dict(inputs.to(self.model.device))


def build(experiment: Experiment, name: str, hidden_size: int | None, max_length: int) -> Contender:
    """
    A contender by its name, with new weights from the seed of the part; of a trained BERT, those that it has.

    Args:
        hidden_size: The width of all models. None: that of the model that is studied. A BERT that is given has its own.
        max_length: The longest text, in tokens, for which new weights have positions.
    """
    num_labels = len(experiment.data.label_names)
    wave: Any = experiment.model.config
    if name.startswith("Wave"):
        config = deepcopy(wave)
        config.wave_operation = name.removeprefix("Wave, ")
        config.hidden_size = hidden_size or wave.hidden_size
        config.num_labels = num_labels
        config.folded = False
        model = WaveForSequenceClassification(config)
        return Contender(place(model, experiment.device), experiment.tokenizer)
    if experiment.arguments.bert is None:
        layers = 12 if name == "BERT" else 1
        shape = find_bert_shape(hidden_size or wave.hidden_size, layers) | {
            "vocab_size": len(experiment.tokenizer),
            "pad_token_id": experiment.tokenizer.pad_token_id,
            "max_position_embeddings": max(512, max_length),
        }
        return Contender(experiment.load_bert(num_labels, **shape), experiment.tokenizer)
    bert = experiment.load_bert(num_labels)
    tokenizer = AutoTokenizer.from_pretrained(experiment.arguments.bert)
    if name == "BERT":
        return Contender(bert, tokenizer)
    config = deepcopy(bert.config)
    config.num_hidden_layers = 1
    layer = BertForSequenceClassification(config)
    layer.bert.embeddings.load_state_dict(bert.bert.embeddings.state_dict())
    return Contender(place(layer, experiment.device), tokenizer)


def find_bert_shape(hidden_size: int, layers: int) -> dict[str, Any]:
    """BERT-base's proportions at another width: heads of 64 dimensions, if they can be, and 4 D in the middle."""
    heads = next(count for count in range(max(1, hidden_size // 64), 0, -1) if hidden_size % count == 0)
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden_size,
    }


def run_trainings(
    experiment: Experiment, settings: TrainingSettings, train: Callable[[Contender, int, float], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """
    Trains each contender so many times; each training is a part of the study.

    Args:
        train: Is given a new contender, the number of the training and the learning rate.

    Returns:
        By contender, what `train` made of each training.
    """

    def run(name: str, number: int) -> dict[str, Any]:
        contender = build(experiment, name, settings.hidden_size, settings.max_length)
        return train(contender, number, choose_learning_rate(experiment, settings, name))

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    # Models take turns, seed by seed: what else the machine does meets all of them.
    turns = [(name, number) for number in range(settings.seeds) for name in CONTENDERS]
    for name, number in experiment.progress(turns, "trainings"):
        part = f"{name.lower().replace(', ', '-').replace(' ', '-')}-{number}"
        found[name].append(experiment.part(part, partial(run, name, number)))
    return found


def choose_learning_rate(experiment: Experiment, settings: TrainingSettings, name: str) -> float:
    """That of the contender: BERT has its own, which depends on whether its weights are new."""
    if name != "BERT":
        return settings.learning_rate
    if settings.bert_learning_rate is not None:
        return settings.bert_learning_rate
    return OF_A_NEW_BERT if experiment.arguments.bert is None else OF_A_TRAINED_BERT


def draw_batches(rows: int, size: int, count: int, seed: int) -> list[list[int]]:
    """So many batches of row numbers: all rows in a random order, then in another one, and so on."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(rows) for _ in range(-(-size * count // rows))]
    return np.concatenate(orders)[: size * count].reshape(count, size).tolist()


def make_optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW at a constant rate, the same for all: the paper states rates, but neither optimizer nor schedule."""
    # A new model has states as small as denormal numbers, with which a CPU is slow: as `finetune` has it.
    torch.set_flush_denormal(True)
    return torch.optim.AdamW(model.parameters(), lr=learning_rate)


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """What follows on the backward pass."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()


def refuse_settings(settings: TrainingSettings) -> None:
    """A ValueError for a learning rate that is not positive."""
    for name in ("learning_rate", "bert_learning_rate"):
        rate = getattr(settings, name)
        if rate is not None and not rate > 0:
            raise ValueError(f"`{name}` must be greater than 0, got {rate}.")


def find_lengths(settings: TrainingSettings) -> dict[str, int]:
    """The longest text that the models are given, by its setting: `Study.lengths`."""
    return {"max_length": settings.max_length}


def tell_bert(record: Mapping[str, Any], hidden_size: int) -> str:
    """Which BERT took part, in words."""
    name = read_bert(record)
    if name is not None:
        return (
            f"BERT is {name} with its trained weights; the Transformer layer is one layer of its shape with "
            "random weights and its token embeddings, as in the paper."
        )
    shape = (
        "BERT-base" if hidden_size == 768 else f"12 layers, as BERT-base has, of width {hidden_size} in place of 768"
    )
    return (
        f"BERT is transformers' own of this shape: {shape}. It and the Transformer layer start from **random "
        "weights**, with the vocabulary of the model that is studied. This says nothing about a BERT that was "
        "pre-trained: for that, `--bert bert-base-uncased`."
    )
