"""Builds what cases.py names, and turns it into steps that can be timed.

A training step is forward, loss, backward, gradient clipping, AdamW and zero_grad, the same for every model, with the
dropout that the model comes with (0.5 in ours, 0.1 in BERT's family, 0 in ModernBERT). Rivals are transformers' own
classes with random weights, and with the vocabulary of the text, so that they look up the same ids.
"""

import contextlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.benchmarks.cases import Contender, Setting
from wave_network.benchmarks.polar import PolarForSequenceClassification
from wave_network.benchmarks.texts import Batch

LEARNING_RATE, LARGEST_GRADIENT_NORM = 1e-4, 1.0
# Sizes of a rival in a smoke run.
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
Step = Callable[[int], object]


class MatrixProducts(nn.Module):
    """The floor: the matrix products of one wave layer, and of its backward, with nothing between them."""

    def __init__(self, setting: Setting):
        super().__init__()
        size, tokens = setting.hidden_size, setting.tokens
        self.variants = nn.Buffer(torch.randn(2 * size, size) / math.sqrt(size))
        self.restore = nn.Buffer(torch.randn(size, 2 * size) / math.sqrt(2 * size))
        self.x_TD = nn.Buffer(torch.randn(tokens, size))
        self.gradient_TD = nn.Buffer(torch.randn(tokens, size))

    def multiply(self) -> tuple[torch.Tensor, torch.Tensor]:
        y_TE = self.x_TD @ self.variants.T
        return y_TE, y_TE @ self.restore.T

    def multiply_back(self, y_TE: torch.Tensor) -> list[torch.Tensor]:
        """What a backward multiplies: the gradients of both weights, of the superposition and of the embeddings."""
        of_y_TE = self.gradient_TD @ self.restore
        return [self.gradient_TD.T @ y_TE, of_y_TE.T @ self.x_TD, of_y_TE @ self.variants]

    def compute(self, mode: str) -> dict[str, torch.Tensor]:
        y_TE, z_TD = self.multiply()
        products = {"product": z_TD}
        if mode == "training":
            products |= {f"product {place} of the backward": x for place, x in enumerate(self.multiply_back(y_TE))}
        return products


def build(
    contender: Contender,
    setting: Setting,
    *,
    vocab_size: int,
    num_labels: int,
    positions: int = 512,
    quick: bool = False,
) -> nn.Module:
    """A contender with random weights, always the same: those of ours, readable and polar are equal.

    Args:
        positions: `max_position_embeddings` of ours; those of the rivals are their own.
        quick: Rivals of one small layer, for a smoke run.
    """
    torch.manual_seed(0)
    shared = {"vocab_size": vocab_size, "num_labels": num_labels, "pad_token_id": 0}
    small = SMALL if quick else {}
    if contender.family == "products":
        return MatrixProducts(setting)
    if contender.family in ("wave", "polar"):
        config = WaveConfig(
            **shared,
            hidden_size=setting.hidden_size,
            max_position_embeddings=max(512, positions),
            wave_implementation=contender.implementation,
        )
        model = WaveForSequenceClassification(config)
        spread_maps(model)
        if contender.family == "polar":
            polar = PolarForSequenceClassification(config)
            polar.load_state_dict(model.state_dict())
            return polar
        return model
    if contender.family == "bert":
        return BertForSequenceClassification(BertConfig(**shared | small))
    if contender.family == "bert_core":
        core = count_parameters(build(Contender("wave", ""), setting, vocab_size=8, num_labels=num_labels))["core"]
        return BertForSequenceClassification(BertConfig(**shared | (small or find_bert_shape(core))))
    if contender.family == "distilbert":
        own = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64} if quick else {}
        return DistilBertForSequenceClassification(DistilBertConfig(**shared | own))
    if contender.family == "fnet":
        return FNetForSequenceClassification(FNetConfig(**shared | small, bos_token_id=None, eos_token_id=None))
    if contender.family == "modernbert":
        special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
        config = ModernBertConfig(**shared | small | special, attn_implementation="sdpa")
        return ModernBertForSequenceClassification(config)
    raise ValueError(f"No model is known by the name {contender.family!r}.")


@torch.no_grad()
def spread_maps(model: nn.Module) -> None:
    """Linear maps of standard deviation 1/sqrt(inputs). At the 0.02 of a new model the waves hardly reach the logits,
    and the parity check would see no mistake in them."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)


def find_bert_shape(core: int) -> dict[str, int]:
    """
    The BERT of two layers, as BERT-tiny has, whose parameters outside the embedding tables come nearest to `core`.

    Two wide layers rather than twelve narrow ones: on short texts that is the fastest shape of its size, and a rival
    should be at its best. The width is a multiple of 16, which suits matrix products.
    """

    def count(size: int) -> int:
        layers = 2 * (12 * size**2 + 13 * size)
        return layers + size**2 + size + 2 * size  # the pooler, and the normalisation of the embeddings

    size = min(range(16, 1040, 16), key=lambda size: abs(count(size) - core))
    return {"hidden_size": size, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * size}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """All parameters, and the core: those outside the embedding tables."""
    tables = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding))
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"total": total, "core": total - tables}


def make_inputs(contender: Contender, batch: Batch) -> dict[str, torch.Tensor]:
    inputs = batch.packed() if contender.form == "packed" else batch.padded()
    if contender.family == "fnet":
        inputs.pop("attention_mask", None)  # it has none: padding mixes into its text
    return inputs


def autocast(setting: Setting, device: str):
    if setting.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=getattr(torch, setting.dtype))


def prepare(contender: Contender, model: nn.Module, mode: str) -> nn.Module:
    """The model in the form that the contender runs in, ready for `mode`."""
    model.train(mode == "training")
    if contender.form == "folded":
        model.fold_()
    if contender.form == "unshared":
        # A map that someone watches is called for every token.
        model.wave.layers[0].mixing.variants.register_forward_hook(lambda *_: None)
    if contender.form == "compiled":
        return torch.compile(model, dynamic=True)
    return model


def make_step(
    contender: Contender, model: nn.Module, mode: str, setting: Setting, batches: Sequence[Batch], optimizer=None
) -> Step:
    """`step(i)` runs the contender once, on batch i of those it takes in turn."""
    if contender.family == "products":
        return lambda _: model.compute(mode)
    device = batches[0].ids.device.type
    inputs = [make_inputs(contender, batch) for batch in batches]
    if mode == "inference":

        def infer(turn: int) -> object:
            with torch.inference_mode(), autocast(setting, device):
                return model(**inputs[turn % len(inputs)]).logits

        return infer
    labelled = [x | {"labels": batch.labels} for x, batch in zip(inputs, batches, strict=True)]

    def train(turn: int) -> object:
        return train_once(model, optimizer, labelled[turn % len(labelled)], setting, device)

    return graph(model, optimizer, labelled, setting) if contender.form == "graphed" else train


def make_optimizer(contender: Contender, model: nn.Module) -> torch.optim.Optimizer | None:
    parameters = list(model.parameters())
    if not parameters:
        return None
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True, capturable=contender.form == "graphed")


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict, setting: Setting, device: str):
    with autocast(setting, device):
        loss = model(**inputs).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def graph(model: nn.Module, optimizer: torch.optim.Optimizer, labelled: Sequence[dict], setting: Setting) -> Step:
    """A training step recorded as one CUDA graph; a batch is copied to where the graph reads it."""
    inputs = {name: tensor.clone() for name, tensor in labelled[0].items()}
    # Recording needs libraries and the optimizer's state to exist, made on another stream (PyTorch's own recipe).
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            train_once(model, optimizer, inputs, setting, "cuda")
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        loss = train_once(model, optimizer, inputs, setting, "cuda")

    def replay(turn: int) -> torch.Tensor:
        for name, tensor in labelled[turn % len(labelled)].items():
            inputs[name].copy_(tensor)
        recorded.replay()
        return loss

    return replay
