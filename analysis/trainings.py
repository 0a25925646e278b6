"""The models that the studies train and compare: two Wave Networks, a Transformer layer and BERT.

All of them read the same texts in the same order with the same optimizer. The Wave Networks have the settings of the
model that is studied, but for the superposition. The Transformer layer is a BERT of one layer. In the paper
(2411.02674, section 5) it has the token embeddings of a trained BERT, and so it has here if `bert` names one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertForSequenceClassification, set_seed

from ..files import setting
from ..modeling_wave import WaveForSequenceClassification
from .figures import LOOKS
from .study import Experiment, Settings, list_texts

CONTENDERS = tuple(LOOKS)
LARGEST_GRADIENT_NORM = 1.0
# The paper fine-tunes a trained BERT with 2e-5, which does not move random weights.
RATE_OF_TRAINED_BERT, RATE_OF_NEW_BERT = 2e-5, 1e-4


@dataclass
class TrainingSettings(Settings):
    """What the studies that train have in common. The paper: 500 batches."""

    seeds: int = setting("Trainings of each model.", 3)
    max_length: int = setting("Tokens to which texts are cut.", 64)
    learning_rate: float = setting("Constant. BERT has 2e-5, as in the paper, or 1e-4 if its weights are new.", 1e-3)


class Contender(NamedTuple):
    """A model, what makes tokens of its texts, and its optimizer."""

    model: Any
    tokenizer: Any
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
    config, tokenizer, rate = deepcopy(experiment.model.config), experiment.tokenizer, settings.learning_rate
    if name == "BERT":
        rate = RATE_OF_TRAINED_BERT if given else RATE_OF_NEW_BERT
    if name.startswith("Wave"):
        config.wave_operation, config.num_labels = name.removeprefix("Wave, "), num_labels
        model: Any = WaveForSequenceClassification(config)
    elif given is None:
        tokens = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        positions = {"max_position_embeddings": max(512, settings.max_length)}
        shape = make_bert_shape(config.hidden_size, 12 if name == "BERT" else 1)
        model = experiment.load_bert(num_labels, **shape, **tokens, **positions)
    else:
        model, tokenizer = experiment.load_bert(num_labels), AutoTokenizer.from_pretrained(given)
        if name != "BERT":
            config, embeddings = deepcopy(model.config), model.bert.embeddings
            config.num_hidden_layers = 1
            model = BertForSequenceClassification(config)
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
    What `train` makes of each training, by contender; it is given a new contender and the seed. Models take turns, seed
    by seed, so that what else the machine does meets all of them.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    turns = [(seed, name) for seed in range(experiment.seed, experiment.seed + settings.seeds) for name in CONTENDERS]
    for seed, name in tqdm(turns, unit=" trainings"):
        set_seed(seed)
        found[name].append(train(build(experiment, settings, name), seed))
    return found


def draw_batches(rows: Dataset, size: int, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """So many batches: all rows in a random order, then in another one, and so on."""
    while count > 0:
        for batch in rows.shuffle(seed=seed).take(min(len(rows), size * count)).iter(size):
            yield batch
            count -= 1
        seed += 2**16


def describe_bert(record: Mapping[str, Any]) -> str:
    """Which BERT took part, in words."""
    if record["bert"]:
        layer = "The Transformer layer is one new layer of its shape on its token embeddings, as in the paper."
        return f"BERT is {record['bert']} with its trained weights. {layer}"
    return (
        "BERT (12 layers) and the Transformer layer (one) start from **random weights**, as the Wave Networks do. This "
        "says nothing about a BERT that was pre-trained: for that, `--bert bert-base-uncased`."
    )
