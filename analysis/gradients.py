"""The study `gradients`: what the loss sends back to the tokens and to the classifier, step by step of a training.

For each step of a training (paper 2411.06989; batches of 32 texts) it measures the Euclidean norm of the gradients of

    [CLS] token         each text's own loss by the embedding of its first token, (D,)
    input text          each text's own loss by the embeddings of all its tokens, (n, D), padding left out
    classifier          the batch's mean loss by the weights and the bias of the last linear map

where the embedding is the row of the word table, before positions, normalisation and dropout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..files import setting
from .figures import new_figure, plot_runs
from .study import Experiment, Picture, Result, Study
from .trainings import CONTENDERS, Contender, TrainingSettings, describe_bert, draw_batches, run_trainings

PARTS = ("[CLS] token", "input text", "classifier")


@dataclass
class GradientsSettings(TrainingSettings):
    """How long to train, and on what."""

    batches: int = setting("Steps of each training. The paper: 500.", 30)
    batch_size: int = setting("Texts in a batch.", 32)


def measure(experiment: Experiment, settings: GradientsSettings) -> Result:
    """
    A row for each model and part. Details: `norms`, by model and part, the norm in each step, a list for each seed: for
    a batch's [CLS] tokens and texts the mean of their norms.
    """
    found = run_trainings(experiment, settings, partial(train, experiment, settings))
    norms = {name: {part: [each[part] for each in found[name]] for part in PARTS} for name in CONTENDERS}
    table = [
        {"model": name, "gradient of": part} | summarise(norms[name][part]) for name in CONTENDERS for part in PARTS
    ]
    return Result(table, {"norms": norms})


def train(
    experiment: Experiment, settings: GradientsSettings, contender: Contender, seed: int
) -> dict[str, list[float]]:
    """The norms of each step of one training, by part."""
    norms: dict[str, list[float]] = {part: [] for part in PARTS}
    contender.model.train()
    for batch in draw_batches(experiment.data.train, settings.batch_size, settings.batches, seed):
        found = find_gradients(contender.model, contender.encode(batch, settings.max_length))
        for part, gradients in found.items():
            norms[part].append(sum(float(each.norm()) for each in gradients) / len(gradients))
        contender.step()
    return norms


def find_gradients(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """
    The gradients of a batch, by part: of each text's own loss by the embedding of its first token, (D,), and of all its
    tokens, (n, D); of the mean loss by the parameters of the classifier, as one vector.
    """
    found: list[Any] = []

    def keep(table: torch.nn.Module, ids: Any, embeddings_BLD: torch.Tensor) -> None:
        embeddings_BLD.retain_grad()
        found.append(embeddings_BLD)

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        model(**inputs).loss.backward()
    finally:
        handle.remove()
    # The loss is the mean over B texts, so B times its gradient is the gradient of a text's own loss.
    gradients_BLD = found[0].grad * len(found[0])
    texts = [text_LD[mask_L.bool()] for text_LD, mask_L in zip(gradients_BLD, inputs["attention_mask"], strict=True)]
    classifier = torch.cat([parameter.grad.flatten() for parameter in model.classifier.parameters()])
    return {"[CLS] token": [text[0] for text in texts], "input text": texts, "classifier": [classifier]}


def summarise(norms: list[list[float]]) -> dict[str, Any]:
    """The norms of a model and a part, a list for each training, in a few numbers."""
    values = np.array(norms)
    return {
        "trainings": len(values),
        "steps": values.shape[1],
        "mean norm": float(values.mean()),
        "standard deviation": float(values.std(ddof=1)) if values.size > 1 else None,
        "norm in the first step": float(values[:, 0].mean()),
        "norm in the last step": float(values[:, -1].mean()),
    }


def draw(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    row = result.table[0]
    title = f"{record['data']['name']}: {row['trainings']} trainings of {row['steps']:,} steps, batches of "
    figure = new_figure(14, 6, f"{title}{record['settings']['batch_size']}, width {record['model']['hidden_size']:,}")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, part in zip(panels, PARTS, strict=True):
        for name, runs in result.details["norms"].items():
            plot_runs(axes, range(1, row["steps"] + 1), runs[part], name)
        axes.set(yscale="log", xlabel="step of the training", title=f"gradient of the {part}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("length (norm) of the gradient, logarithmic")
    panels[1].legend(framealpha=1)
    yield Picture(
        "gradients",
        figure,
        "Gradient: how the loss wants a part of the model to change; its length says how much. Left: the first token. "
        "Middle: all tokens of a text. Right: the last layer. Line: mean of the trainings. Band: standard deviation.",
    )


def describe(record: dict[str, Any], result: Result) -> str:
    rows = {(row["model"], row["gradient of"]): row for row in result.table}
    told, shares = [], []
    for part in PARTS:
        pairs = {name: [rows[name, part][f"norm in the {at} step"] for at in ("first", "last")] for name in CONTENDERS}
        told.append(f"- **{part}**: " + "; ".join(f"{name} {a:.2g} and {b:.2g}" for name, (a, b) in pairs.items()))
    for name in CONTENDERS:
        first, text = (rows[name, part]["mean norm"] for part in PARTS[:2])
        shares.append(f"{name} {100 * first / text:.0f} %" if text else f"{name} none")
    return (
        f"Norms of the gradients in the first and in the last of {result.table[0]['steps']:,} steps:\n\n"
        + "\n".join(told)
        + f"\n\nThe [CLS] token's norm as a share of the whole text's: {'; '.join(shares)}. BERT and the Transformer "
        "layer read the answer from [CLS]; the Wave Networks read it as `classifier_pooling` of the model says. "
        + describe_bert(record)
    )


STUDY = Study("Gradients, step by step", GradientsSettings, measure, draw, describe, lengths=("max_length",))
