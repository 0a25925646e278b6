"""The models that the studies train and compare: two Wave Networks, a Transformer layer and BERT.

All of them read the same texts in the same order with the same optimizer. The Wave Networks have the settings of the
model that is studied, but for the superposition. The Transformer layer is a BERT of one layer. In the paper (2411.02674,
section 5) it has the token embeddings of a trained BERT, and so it has here if `bert` names one.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerBase, set_seed

from ..modeling_wave import WaveForSequenceClassification
from .figures import LOOKS
from .study import Experiment, Settings, list_texts

CONTENDERS = tuple(LOOKS)
PAPER = {"seeds": 5, "hidden_size": 768}
LARGEST_GRADIENT_NORM = 1.0
# The paper fine-tunes a trained BERT with 2e-5, which does not move random weights.
RATE_OF_TRAINED_BERT, RATE_OF_NEW_BERT = 2e-5, 1e-4


@dataclass
class TrainingSettings(Settings):
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


class Contender(NamedTuple):
    """A model, what makes tokens of its texts, and its optimizer."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    optimizer: torch.optim.Optimizer

    def encode(self, rows: Mapping[str, Sequence[Any]], max_length: int) -> dict[str, torch.Tensor]:
        """Rows as the arguments of the model, padded to the longest of them, with `labels`, on its device."""
        settings = {"truncation": True, "max_length": max_length, "padding": True, "return_tensors": "pt"}
        inputs = self.tokenizer(*list_texts(rows), **settings)
        inputs["labels"] = torch.tensor(list(rows["label"]))
        return dict(inputs.to(self.model.device))

    def step(self) -> None:
        """What follows on the backward pass."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


def build(experiment: Experiment, settings: TrainingSettings, name: str) -> Contender:
    """A contender by its name, with AdamW at a constant rate: the paper states neither optimizer nor schedule."""
    num_labels, given = len(experiment.data.label_names), experiment.arguments.bert
    width, tokenizer = settings.hidden_size or experiment.model.config.hidden_size, experiment.tokenizer
    rate = settings.learning_rate
    if name == "BERT":
        rate = settings.bert_learning_rate or (RATE_OF_TRAINED_BERT if given else RATE_OF_NEW_BERT)
    if name.startswith("Wave"):
        config = deepcopy(experiment.model.config)
        config.wave_operation, config.hidden_size = name.removeprefix("Wave, "), width
        config.num_labels = num_labels
        model = WaveForSequenceClassification(config)
    elif given is None:
        tokens = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        positions = {"max_position_embeddings": max(512, settings.max_length)}
        shape = make_bert_shape(width, 12 if name == "BERT" else 1)
        model = experiment.load_bert(num_labels, **shape, **tokens, **positions)
    else:
        model, tokenizer = experiment.load_bert(num_labels), AutoTokenizer.from_pretrained(given)
        if name != "BERT":
            config = deepcopy(model.config)
            config.num_hidden_layers = 1
            embeddings, model = model.bert.embeddings, BertForSequenceClassification(config)
            model.bert.embeddings = embeddings
    model.to(experiment.device)
    # A new model has states as small as denormal numbers, with which a CPU is slow.
    torch.set_flush_denormal(True)
    return Contender(model, tokenizer, torch.optim.AdamW(model.parameters(), lr=rate))


def make_bert_shape(hidden_size: int, layers: int) -> dict[str, Any]:
    """BERT-base's proportions at another width: heads of 64 dimensions, if they can be, and 4 D in the middle."""
    heads = next(count for count in range(max(1, hidden_size // 64), 0, -1) if hidden_size % count == 0)
    shape = {"hidden_size": hidden_size, "num_hidden_layers": layers}
    return shape | {"num_attention_heads": heads, "intermediate_size": 4 * hidden_size}


def run_trainings(
    experiment: Experiment, settings: TrainingSettings, train: Callable[[Contender, int], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """
    Trains each contender so many times. Models take turns, seed by seed: what else the machine does meets all of them.

    Args:
        train: Is given a new contender and the seed of the training.

    Returns:
        By contender, what `train` made of each training.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    turns = [(seed, name) for seed in range(experiment.seed, experiment.seed + settings.seeds) for name in CONTENDERS]
    for seed, name in tqdm(turns, unit=" trainings"):
        set_seed(seed)
        found[name].append(train(build(experiment, settings, name), seed))
    return found


def draw_batches(rows: int, size: int, count: int, seed: int) -> list[list[int]]:
    """So many batches of row numbers: all rows in a random order, then in another one, and so on."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(rows) for _ in range(-(-size * count // rows))]
    return np.concatenate(orders)[: size * count].reshape(count, size).tolist()


def describe_bert(record: Mapping[str, Any], hidden_size: int) -> str:
    """Which BERT took part, in words."""
    if record["bert"]:
        return (
            f"BERT is {record['bert']} with its trained weights. The Transformer layer is one new layer of its shape "
            "on its token embeddings, as in the paper."
        )
    return (
        f"BERT and the Transformer layer (12 layers and one, width {hidden_size:,}) start from **random weights**, as "
        "the Wave Networks do. This says nothing about a BERT that was pre-trained: for that, "
        "`--bert bert-base-uncased`."
    )
