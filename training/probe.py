"""From an encoder to a classifier: a probe in the head, and how far to fine-tune from there, by cross-validation.

N rows, D dimensions of a text's vector, K classes.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer

from ..data.measure import negative_log_likelihood
from .settings import FROM_PROBE, RunArguments, set_quietly
from .trainer import find_classifier

# What logistic regression is tried with: the smaller, the more its weights are held down.
STRENGTHS = (0.01, 0.03, 0.1)
# Parts of a cross-validation. From more rows than this on, not all parts are held out.
FOLDS, FOLDED = 3, 1000

Folds = list[tuple[np.ndarray, np.ndarray]]
MakeTrainer = Callable[[PreTrainedModel, RunArguments, Dataset], Trainer]


class Choice(NamedTuple):
    """How to go on from an encoder, and what was measured on the rows that were held out, (M,) and (M, K)."""

    probe: "Probe"
    is_alone: bool  # whether the probe is kept as it is
    folds: "Folds"
    rows: np.ndarray
    logits: np.ndarray
    accuracies: dict[str, float]


class Probe:
    """
    Logistic regression on standardised vectors (N, D) as the weight (K, D) and bias (K,) of a linear map on the vectors
    as they are. A class without rows is never found.
    """

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, classes: int, strength: float, is_balanced: bool):
        scaler = StandardScaler().fit(vectors)
        found = np.unique(labels)
        weight, bias = np.zeros((len(found), vectors.shape[1])), np.zeros(len(found))
        if len(found) > 1:
            balance = "balanced" if is_balanced else None
            fitted = LogisticRegression(C=strength, class_weight=balance, max_iter=1000)
            fitted.fit(scaler.transform(vectors), labels)
            weight, bias = fitted.coef_ / scaler.scale_, fitted.intercept_
            bias = bias - weight @ scaler.mean_
            if len(found) == 2:  # one map tells which of the two
                weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.stack([-bias[0], bias[0]]) / 2
        self.weight, self.bias = np.zeros((classes, vectors.shape[1])), np.full(classes, bias.min() - 10)
        self.weight[found], self.bias[found] = weight, bias

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.weight.T + self.bias

    def put_into(self, model: PreTrainedModel) -> None:
        classifier = find_classifier(model)
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(self.weight))
            classifier.bias.copy_(torch.from_numpy(self.bias))


def fit_probe(
    vectors: np.ndarray, labels: np.ndarray, classes: int, folds: Folds, is_balanced: bool = False
) -> tuple[Probe, list[Probe], np.ndarray]:
    """
    A probe of all rows, one without those that are held out for each fold, and the logits of these rows, (M, K). Their
    negative log-likelihood chooses the strength.
    """
    results = {}
    for strength in STRENGTHS:
        probes = [Probe(vectors[train], labels[train], classes, strength, is_balanced) for train, _ in folds]
        logits = [probe(vectors[held]) for probe, (_, held) in zip(probes, folds, strict=True)]
        results[strength] = probes, np.concatenate(logits)
    held = np.concatenate([held for _, held in folds])
    strength = min(STRENGTHS, key=lambda each: negative_log_likelihood(results[each][1], labels[held]))
    return Probe(vectors, labels, classes, strength, is_balanced), *results[strength]


def choose(
    model: PreTrainedModel,
    encoded: Dataset,
    texts: Sequence[Any],
    arguments: RunArguments,
    make_trainer: MakeTrainer,
    may_stay: bool = True,
) -> Choice:
    """
    Fine-tuning, or a probe alone if it does better on rows that were held out in turn, by a standard error: on few rows
    chance decides much, and fine-tuning is better on average.

    Args:
        model: A classifier whose head is new. It stays as it is.
        encoded: The training rows.
        texts: Of each row, as it is compared. Rows of the same text are held out together.
        arguments: Settings of the fine-tuning.
        make_trainer: Makes the trainer of a model, settings and rows.
        may_stay: Whether the probe may be kept as it is.
    """
    labels, vectors = np.asarray(encoded["labels"]), embed(model, encoded, arguments, make_trainer)
    is_balanced = arguments.class_weights == "balanced"
    with warnings.catch_warnings():  # of few rows a class, which are what it is for
        warnings.simplefilter("ignore", UserWarning)
        folds = cut_folds(labels, texts, arguments.seed)
        probe, probes, logits = fit_probe(vectors, labels, cast(int, model.config.num_labels), folds, is_balanced)
    small, parts = shrink(model, encoded), []
    bar = tqdm([*zip(probes, folds, strict=True)], "Cross-validation", disable=arguments.disable_tqdm, leave=False)
    for start, (train, held) in bar:
        tried = copy.deepcopy(small)
        if len(labels) <= FROM_PROBE:
            start.put_into(tried)
        trainer = make_trainer(tried, set_quietly(arguments, {}), encoded.select(train))
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # the logits in the order of the rows
        parts.append(np.asarray(trainer.predict(encoded.select(held)).predictions))
    rows, tuned = np.concatenate([held for _, held in folds]), np.concatenate(parts)
    right, tuned_right = ((each.argmax(-1) == labels[rows]).astype(float) for each in (logits, tuned))
    gains = right - tuned_right
    is_alone = may_stay and bool(gains.mean() > gains.std() / len(gains) ** 0.5)
    accuracies = {"probe": float(right.mean()), "fine-tuned": float(tuned_right.mean())}
    return Choice(probe, is_alone, folds, rows, logits if is_alone else tuned, accuracies)


def cut_folds(labels: np.ndarray, texts: Sequence[Any], seed: int) -> Folds:
    """Rows to learn from and rows to measure on, several times. With many rows not all are measured on."""
    most = int(np.bincount(labels).max())
    if most < 2:
        raise ValueError(f"One class must have two training rows of different texts, got {len(labels)} rows.")
    groups = np.unique([str(text) for text in texts], return_inverse=True)[1]
    cutter = StratifiedGroupKFold(min(FOLDS, most), shuffle=True, random_state=seed)
    folds = [fold for fold in cutter.split(labels, labels, groups) if all(map(len, fold))]
    return folds[: max(1, FOLDS * FOLDED // len(labels))]


def embed(model: PreTrainedModel, encoded: Dataset, arguments: RunArguments, make_trainer: MakeTrainer) -> np.ndarray:
    """What the head of a classifier reads of each row, (N, D)."""
    found: list[torch.Tensor] = []
    hook = find_classifier(model).register_forward_pre_hook(lambda head, given: found.append(given[0].float().cpu()))
    settings = set_quietly(arguments, {"train_sampling_strategy": "random", "per_device_train_batch_size": 1})
    try:
        make_trainer(model, settings, encoded).predict(encoded)
    finally:
        hook.remove()
    return torch.cat(found).numpy().astype(np.float64)


def shrink(model: PreTrainedModel, encoded: Dataset) -> PreTrainedModel:
    """A copy with only those tokens in its table that occur: it learns the same, and a step costs much less."""
    small, table = copy.deepcopy(model), cast(nn.Embedding, model.get_input_embeddings())
    used = torch.tensor(sorted({table.padding_idx or 0, *chain.from_iterable(encoded["input_ids"])}))
    places = torch.zeros(table.num_embeddings, dtype=torch.long, device=table.weight.device)
    places[used] = torch.arange(len(used), device=places.device)
    padding = None if table.padding_idx is None else int(places[table.padding_idx])
    rows = nn.Embedding.from_pretrained(table.weight[used].detach().clone(), freeze=False, padding_idx=padding)
    rows.register_forward_pre_hook(lambda module, given: (places[given[0]],))
    small.set_input_embeddings(rows)
    return small
