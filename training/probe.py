"""From an encoder to a classifier: a probe in the head, and how far to fine-tune from there, by cross-validation.

N rows, D dimensions of a text's vector, K classes.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer

from ..data.measure import METRICS, decide, measure, negative_log_likelihood
from .settings import FEW, FROM_PROBE, RunArguments, set_quietly
from .trainer import find_classifier

# What logistic regression is tried with: the smaller, the more its weights are held down.
STRENGTHS = (1.0, 3.0)
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
    scores: dict[str, float]


class Probe:
    """
    Logistic regression on vectors (N, D), one for each of several labels, or for numbers a ridge regression, as the
    weight (K, D) and bias (K,) of a linear map on the vectors as they are. Distances stay those of the encoder: the
    vectors are centred, and each of their `parts` is divided by one number, so that its mean squared length is 1.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        strength: float,
        classes: int,
        is_balanced: bool = False,
        task: str = "single",
        parts: int = 1,
    ):
        mean = vectors.mean(0)
        lengths = np.square(vectors - mean).mean(0).reshape(parts, -1).sum(1) ** 0.5
        scale = np.repeat(np.where(lengths > 0, lengths, 1) * parts**0.5, vectors.shape[1] // parts)
        scaled = (vectors - mean) / scale
        if task == "number":
            ridge = Ridge(1 / strength).fit(scaled, labels)
            weight, bias = ridge.coef_.reshape(1, -1), np.reshape(ridge.intercept_, 1)
        elif task == "multi":
            maps = [fit_classes(scaled, has_label, 2, strength, False) for has_label in (labels > 0).astype(int).T]
            weight, bias = np.stack([each[1] - each[0] for each, _ in maps]), np.stack([z[1] - z[0] for _, z in maps])
        else:
            weight, bias = fit_classes(scaled, labels, classes, strength, is_balanced)
        self.weight = weight / scale
        self.bias = bias - self.weight @ mean

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.weight.T + self.bias

    def put_into(self, model: PreTrainedModel) -> None:
        classifier = find_classifier(model)
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(self.weight))
            classifier.bias.copy_(torch.from_numpy(self.bias))


def fit_classes(
    vectors: np.ndarray, labels: np.ndarray, classes: int, strength: float, is_balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a logistic regression. A class without rows is never found."""
    found = np.unique(labels)
    weight, bias = np.zeros((len(found), vectors.shape[1])), np.zeros(len(found))
    if len(found) > 1:
        balance = "balanced" if is_balanced else None
        fitted = LogisticRegression(C=strength, class_weight=balance, max_iter=1000).fit(vectors, labels)
        weight, bias = fitted.coef_, fitted.intercept_
        if len(found) == 2:  # one map tells which of the two
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.stack([-bias[0], bias[0]]) / 2
    all_weight, all_bias = np.zeros((classes, vectors.shape[1])), np.full(classes, bias.min() - 10)
    all_weight[found], all_bias[found] = weight, bias
    return all_weight, all_bias


def fit_probe(
    vectors: np.ndarray,
    labels: np.ndarray,
    classes: int,
    folds: Folds,
    is_balanced: bool = False,
    task: str = "single",
    parts: int = 1,
) -> tuple[Probe, list[Probe], np.ndarray, float]:
    """
    A probe of all rows, one without those that are held out for each fold, the logits of these rows, (M, K), and their
    loss, which chooses the strength.
    """
    settings, results = (classes, is_balanced, task, parts), []
    held = np.concatenate([held for _, held in folds])
    for strength in STRENGTHS:
        probes = [Probe(vectors[train], labels[train], strength, *settings) for train, _ in folds]
        logits = np.concatenate([probe(vectors[held]) for probe, (_, held) in zip(probes, folds, strict=True)])
        results.append((measure_loss(task, logits, labels[held]), strength, probes, logits))
    loss, strength, probes, logits = min(results, key=lambda result: result[:2])
    return Probe(vectors, labels, strength, *settings), probes, logits, loss


def measure_loss(task: str, logits: np.ndarray, labels: np.ndarray) -> float:
    if task == "single":
        return negative_log_likelihood(logits, labels)
    losses = np.logaddexp(0, logits) - labels * logits if task == "multi" else np.square(logits[:, 0] - labels)
    return float(losses.mean())


def score_rows(task: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How right the answer to each row is, (M,): of several labels its F1, of numbers the squared error, negative."""
    if task == "single":
        return (logits.argmax(-1) == labels).astype(float)
    if task == "number":
        return -np.square(logits[:, 0] - labels)
    found, wanted = decide(logits), labels > 0
    both, either = (found & wanted).sum(1), found.sum(1) + wanted.sum(1)
    return np.where(either, 2 * both / either.clip(min=1), 1.0)


def choose(
    model: PreTrainedModel,
    encoded: Dataset,
    texts: Sequence[Any],
    arguments: RunArguments,
    make_trainer: MakeTrainer,
    task: str = "single",
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
        task: "single", "multi" or "number".
        may_stay: Whether the probe may be kept as it is.
    """
    labels, vectors = np.asarray(encoded["labels"]), embed(model, encoded, arguments, make_trainer)
    folds = cut_folds(stratify(task, labels), texts, arguments.seed)
    probe, probes, logits, _ = fit_model_probe(model, encoded, vectors, folds, arguments, task)
    small, parts = shrink(model, encoded), []
    bar = tqdm([*zip(probes, folds, strict=True)], "Cross-validation", disable=arguments.disable_tqdm, leave=False)
    for start, (train, held) in bar:
        tried = copy.deepcopy(small)
        if goes_on_from_probe(model, len(labels)):
            start.put_into(tried)
        trainer = make_trainer(tried, set_quietly(arguments, {}), encoded.select(train))
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # the logits in the order of the rows
        parts.append(np.asarray(trainer.predict(encoded.select(held)).predictions))
    rows, tuned = np.concatenate([held for _, held in folds]), np.concatenate(parts)
    gains = score_rows(task, logits, labels[rows]) - score_rows(task, tuned, labels[rows])
    is_alone = may_stay and bool(gains.mean() > gains.std() / len(gains) ** 0.5)
    names = [str(index) for index in range(cast(int, model.config.num_labels))]
    scores = {
        name: measure(task, each, labels[rows], names)[METRICS[task][0]]
        for name, each in (("probe", logits), ("fine-tuned", tuned))
    }
    return Choice(probe, is_alone, folds, rows, logits if is_alone else tuned, scores)


def compares_pairs(model: PreTrainedModel) -> bool:
    return getattr(model.config, "classifier_pooling", None) == "segments"


def goes_on_from_probe(model: PreTrainedModel, rows: int) -> bool:
    """With a new head, a model learns pairs by heart before it has found that their texts are to be compared."""
    return rows <= FROM_PROBE or compares_pairs(model)


def start_head(
    model: PreTrainedModel, encoded: Dataset, arguments: RunArguments, make_trainer: MakeTrainer, task: str
) -> None:
    """Puts a probe of at most `FEW` rows into the head of a model of pairs."""
    few = take_few(encoded, arguments.seed)
    folds = cut_folds(stratify(task, np.asarray(few["labels"])), range(len(few)), arguments.seed)
    vectors = embed(model, few, arguments, make_trainer)
    fit_model_probe(model, few, vectors, folds, arguments, task)[0].put_into(model)


def choose_pooling(
    model: PreTrainedModel,
    encoded: Dataset,
    texts: Dataset,
    arguments: RunArguments,
    make_trainer: MakeTrainer,
    task: str,
) -> str:
    """
    Has a classifier whose head is new read the first tokens beside the mean of all ("opening"), if a probe that does so
    has the smaller loss on rows that are held out, of at most `FEW`. Returns the pooling.
    """
    few, texts = take_few(encoded, arguments.seed), take_few(texts, arguments.seed)
    folds = cut_folds(stratify(task, np.asarray(few["labels"])), texts, arguments.seed)
    set_pooling(model, "opening")
    vectors = embed(model, few, arguments, make_trainer)
    size = model.config.hidden_size  # the mean comes first
    losses = {
        pooling: fit_model_probe(model, few, part, folds, arguments, task)[-1]
        for pooling, part in (("mean", vectors[:, :size]), ("opening", vectors))
    }
    best = min(losses, key=losses.__getitem__)
    set_pooling(model, best)
    return best


def set_pooling(model: Any, pooling: str) -> None:
    """Another way to read the tokens, with a new head."""
    model.config.update({"classifier_pooling": pooling})
    model.classifier = type(model)(model.config).classifier.to(model.device)


def take_few(rows: Dataset, seed: int) -> Dataset:
    return rows.shuffle(seed).select(range(min(FEW, len(rows))))


def fit_model_probe(
    model: PreTrainedModel, encoded: Dataset, vectors: np.ndarray, folds: Folds, arguments: RunArguments, task: str
) -> tuple[Probe, list[Probe], np.ndarray, float]:
    """`fit_probe` on what the head of a model reads."""
    labels, classes = np.asarray(encoded["labels"]), cast(int, model.config.num_labels)
    is_balanced, parts = arguments.class_weights == "balanced", vectors.shape[1] // model.config.hidden_size
    with warnings.catch_warnings():  # of a regression that has not quite converged
        warnings.simplefilter("ignore", UserWarning)
        return fit_probe(vectors, labels, classes, folds, is_balanced, task, parts)


def stratify(task: str, labels: np.ndarray) -> np.ndarray:
    """What each part of a cross-validation has its share of: classes, the rarest label of each row, or ranges."""
    if task == "multi":
        rarity = np.append(labels.sum(0), len(labels) + 1)  # of rows without a label, too
        return np.where(np.pad(labels > 0, ((0, 0), (0, 1)), constant_values=True), rarity, np.inf).argmin(1)
    if task == "number":
        return np.argsort(np.argsort(labels, kind="stable"), kind="stable") * FOLDS // max(len(labels), 2 * FOLDS)
    return labels


def cut_folds(labels: np.ndarray, texts: Sequence[Any], seed: int) -> Folds:
    """Rows to learn from and rows to measure on, several times. With many rows not all are measured on."""
    most = int(np.bincount(labels).max())
    if most < 2:
        raise ValueError(f"One class must have two training rows of different texts, got {len(labels)} rows.")
    groups = np.unique([str(text) for text in texts], return_inverse=True)[1]
    cutter = StratifiedGroupKFold(min(FOLDS, most), shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of classes with fewer rows than parts, which are what it is for
        warnings.simplefilter("ignore", UserWarning)
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


def shrink(model: PreTrainedModel, encoded: Mapping[str, Any] | Dataset) -> PreTrainedModel:
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
