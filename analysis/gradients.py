"""The study `gradients`: what the loss sends back to the tokens and to the classifier, step by step of a training.

For each step of a training (paper 2411.06989; batches of 32 texts) it measures the gradients of

    [CLS] token         each text's own loss by the embedding of its first token, (D,)
    input text          each text's own loss by the embeddings of all its tokens, (n, D), padding left out
    classifier          the batch's mean loss by the weights and the bias of the last linear map

where the embedding is the row of the word table, before positions, normalisation and dropout: their Euclidean norm, and
how the absolute values of their elements are distributed.

It also checks the backward pass of the wave operation, of the readable form and of the fast one, against the closed
form of docs/maths.md, section 6.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from ..modeling_wave import fused_wave, ops_wave
from .figures import LOOKS, new_figure, plot_runs
from .study import Experiment, Picture, Result, Study, find_variants
from .trainings import CONTENDERS, PAPER, Contender, TrainingSettings, describe_bert, draw_batches, run_trainings

PARTS = ("[CLS] token", "input text", "classifier")
# Bins of absolute values, ten in each power of ten. What lies below the first is counted as zero.
BINS = np.logspace(-14, 4, 181)
QUANTILES = (0.05, 0.5, 0.95)
# Who computes the gradient that is checked, and in which dtype.
FORMS = (
    ("readable", ops_wave.superpose, torch.float64),
    ("readable", ops_wave.superpose, torch.float32),
    ("fast", fused_wave.superpose, torch.float32),
)


@dataclass
class GradientsSettings(TrainingSettings):
    """How long to train, and on what."""

    _argument_group_name = "gradients"

    batches: int = field(default=30, metadata={"help": "Steps of each training. With --paper: 500."})
    batch_size: int = field(default=32, metadata={"help": "Texts in a batch."})
    checked_texts: int = field(
        default=16, metadata={"help": "Texts on which the backward pass is checked against its closed form, at most."}
    )


def measure_gradients(experiment: Experiment, settings: GradientsSettings) -> Result:
    """
    A row for each model and part. Details: `norms`, by model and part, the norm in each step, a list for each seed (for
    a batch's [CLS] tokens and texts the mean of their norms); `densities`, by model and part, the share of the elements
    in each of `BINS` (%); `checks`, for each operation and form, the largest deviation from the closed form, relative
    to the largest element; `checked_texts`, `hidden_size`.
    """
    checks, checked_texts = check_closed_form(experiment, settings)
    found = run_trainings(experiment, settings, partial(train, experiment, settings))
    table, norms, densities = [], {}, {}
    for name in CONTENDERS:
        norms[name] = {part: [each["norms"][part] for each in found[name]] for part in PARTS}
        densities[name] = {}
        for part in PARTS:
            counts = np.sum([each["counts"][part] for each in found[name]], axis=0)
            densities[name][part] = (100 * counts[1:] / counts.sum()).tolist()
            row = {"model": name, "gradient of": part}
            table.append(row | summarise(norms[name][part]) | summarise_counts(counts))
    width = settings.hidden_size or experiment.model.config.hidden_size
    details = {"norms": norms, "densities": densities, "checks": checks, "checked_texts": checked_texts}
    return Result(table, details | {"hidden_size": width})


def train(experiment: Experiment, settings: GradientsSettings, contender: Contender, seed: int) -> dict[str, Any]:
    """The norms of each step of one training, and over all steps how many elements are zero and in each bin."""
    rows = experiment.data.train
    norms: dict[str, list[float]] = {part: [] for part in PARTS}
    counts = {part: np.zeros(len(BINS), dtype=np.int64) for part in PARTS}
    contender.model.train()
    for batch in draw_batches(len(rows), settings.batch_size, settings.batches, seed):
        found = find_gradients(contender, contender.encode(rows[batch], settings.max_length))
        for part, gradients in found.items():
            norms[part].append(float(np.mean([float(each.norm()) for each in gradients])))
            counts[part] += count_elements(torch.cat([each.flatten() for each in gradients]))
        contender.step()
    return {"norms": norms, "counts": counts}


def find_gradients(contender: Contender, inputs: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """
    The gradients of a batch, by part: of each text's own loss by the embedding of its first token, (D,), and of all its
    tokens, (n, D); of the mean loss by the parameters of the classifier, as one vector.
    """
    model, others = contender.model, dict(inputs)
    input_ids = others.pop("input_ids")
    embeddings_BLD = model.get_input_embeddings()(input_ids)
    embeddings_BLD.retain_grad()

    def add_ids(_: torch.nn.Module, arguments: tuple[Any]) -> None:
        arguments[0].input_ids = input_ids  # a Wave Network finds its n-grams by them

    handle = None
    if model.config.model_type == "wave":
        handle = model.base_model.embeddings.register_forward_pre_hook(add_ids)
    try:
        model(inputs_embeds=embeddings_BLD, **others).loss.backward()
    finally:
        if handle is not None:
            handle.remove()
    # The loss is the mean over B texts, so B times its gradient is the gradient of a text's own loss.
    gradients_BLD = embeddings_BLD.grad * len(embeddings_BLD)
    texts = [text_LD[mask_L.bool()] for text_LD, mask_L in zip(gradients_BLD, inputs["attention_mask"], strict=True)]
    classifier = torch.cat([parameter.grad.flatten() for parameter in model.classifier.parameters()])
    return {"[CLS] token": [text[0] for text in texts], "input text": texts, "classifier": [classifier]}


def count_elements(elements: torch.Tensor) -> np.ndarray:
    """How many elements count as zero, and how many lie in each bin."""
    values = elements.detach().abs().double().cpu().numpy()
    seen = values[values >= BINS[0]].clip(max=BINS[-1])
    return np.concatenate([[len(values) - len(seen)], np.histogram(seen, BINS)[0]])


def summarise_counts(counts: np.ndarray) -> dict[str, Any]:
    """Quantiles of the elements that are not zero, as precise as the bins are wide: 26 %."""
    total = counts[1:].sum()
    places = np.searchsorted(np.cumsum(counts[1:]), [quantile * total for quantile in QUANTILES])
    middles = np.sqrt(BINS[1:] * BINS[:-1])
    row = {
        f"{quantile:.0%} quantile of |element|": float(middles[place]) if total else None
        for quantile, place in zip(QUANTILES, places, strict=True)
    }
    return row | {"zeros (%)": float(100 * counts[0] / counts.sum())}


def summarise(norms: list[list[float]]) -> dict[str, Any]:
    """The norms of a model and a part, a list for each training, in words of numbers."""
    values = np.array(norms)
    return {
        "trainings": len(values),
        "steps": values.shape[1],
        "mean norm": float(values.mean()),
        "standard deviation": float(values.std(ddof=1)) if values.size > 1 else None,
        "norm in the first step": float(values[:, 0].mean()),
        "norm in the last step": float(values[:, -1].mean()),
    }


# The closed form.


def check_closed_form(experiment: Experiment, settings: GradientsSettings) -> tuple[list[dict[str, Any]], int]:
    """The wave operation of the model that is studied on texts of the data: gradients against the closed form."""
    rows = experiment.draw_rows(settings.checked_texts)
    worst = dict.fromkeys(product(ops_wave.OPERATIONS, FORMS), 0.0)
    for ids in experiment.encode(rows[:], settings.max_length):
        variants_BLE = find_variants(experiment.model, torch.tensor([ids], device=experiment.device))
        upstream_BLE = torch.randn_like(variants_BLE)
        for operation, form in worst:
            _, superpose, dtype = form
            expected_BLE = find_closed_form(variants_BLE.double(), upstream_BLE.double(), operation)
            leaf_BLE = variants_BLE.to(dtype, copy=True).requires_grad_()
            superpose(leaf_BLE, None, operation).backward(upstream_BLE.to(dtype))
            error = (leaf_BLE.grad.double() - expected_BLE).abs().max() / expected_BLE.abs().max()
            worst[operation, form] = max(worst[operation, form], float(error))
    checks = [
        {"operation": operation, "form": name, "dtype": str(dtype).removeprefix("torch."), "deviation": error}
        for (operation, (name, _, dtype)), error in worst.items()
    ]
    return checks, len(rows)


def find_closed_form(variants_BLE: torch.Tensor, upstream_BLE: torch.Tensor, operation: str) -> torch.Tensor:
    """
    The gradient of the loss by the variants, by the formulas of docs/maths.md, section 6, with the L2 magnitude:

        dL/dw_m = p_m + w_m sum_{j != m} q_j / c_j

    where `p` and `q` are the gradients by `w` and by its context `c`. Interference hands both variants those of its
    result, `P` and `Q`; modulation, `Z Z' = (w w' - c c') + i (w c' + w' c)`, hands w

        p = P w' + Q c'        q = Q w' - P c'

    and w' the same with the two exchanged. It takes L^2 steps, on purpose: no sum from which a term is subtracted.

    Args:
        variants_BLE: `concat(w, w')` of texts without padding, shape (B, L, 2D).
        upstream_BLE: `concat(P, Q)`, of the same shape.
    """
    w_BLD, w2_BLD = variants_BLE.chunk(2, dim=-1)
    p_BLD, q_BLD = upstream_BLE.chunk(2, dim=-1)
    others_LL = 1 - torch.eye(w_BLD.shape[1], dtype=w_BLD.dtype, device=w_BLD.device)
    c_BLD, c2_BLD = ((others_LL @ each_BLD.square()).sqrt() for each_BLD in (w_BLD, w2_BLD))
    if operation == "interference":
        handed = [(p_BLD, q_BLD), (p_BLD, q_BLD)]
    else:
        handed = [
            (p_BLD * other_BLD + q_BLD * context_BLD, q_BLD * other_BLD - p_BLD * context_BLD)
            for other_BLD, context_BLD in ((w2_BLD, c2_BLD), (w_BLD, c_BLD))
        ]
    of_variants = []
    for each_BLD, context_BLD, (of_w_BLD, of_c_BLD) in zip((w_BLD, w2_BLD), (c_BLD, c2_BLD), handed, strict=True):
        # Where `c_j` is 0 all other tokens are, and its term is 0.
        terms_BLD = torch.where(context_BLD == 0, 0, of_c_BLD / context_BLD)
        of_variants.append(of_w_BLD + each_BLD * (others_LL @ terms_BLD))
    return torch.cat(of_variants, dim=-1)


def draw_gradients(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    row, details = result.table[0], result.details
    figure = new_figure(
        13,
        8,
        f"{record['data']['name']}: {row['trainings']} trainings of {row['steps']:,} steps, batches of "
        f"{record['settings']['batch_size']} texts, width {details['hidden_size']:,}",
    )
    panels = figure.subplots(2, 3, sharey="row")
    for (top, bottom), part in zip(panels.T, PARTS, strict=True):
        for name in CONTENDERS:
            runs, shares = details["norms"][name][part], np.array(details["densities"][name][part])
            plot_runs(top, range(1, len(runs[0]) + 1), runs, name)
            looks = LOOKS[name] | {"marker": ""}
            bottom.plot(np.sqrt(BINS[1:] * BINS[:-1])[shares > 0], shares[shares > 0], label=name, **looks)
        top.set(yscale="log", xlabel="step of the training", title=f"gradient of the {part}")
        bottom.set(xscale="log", xlabel="size of an element")
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("length (norm) of the gradient")
    panels[1, 0].set_ylabel("share of the elements (%, in a tenth of a power of ten)")
    panels[0, 1].legend(framealpha=1)
    yield Picture(
        "gradients",
        figure,
        "Gradient: how the loss wants a part of the model to change. Top: its length in each step; line: mean of the "
        "trainings, band: one standard deviation. Bottom: how large its single numbers are, over all steps.",
    )


def describe_gradients(record: dict[str, Any], result: Result) -> str:
    rows = {(row["model"], row["gradient of"]): row for row in result.table}
    told = []
    for part in PARTS:
        pairs = {name: [rows[name, part][f"norm in the {at} step"] for at in ("first", "last")] for name in CONTENDERS}
        told.append(
            f"- **{part}**: " + "; ".join(f"{name} {a:.2g} and {b:.2g}" for name, (a, b) in pairs.items()) + "."
        )
    shares = []
    for name in CONTENDERS:
        first, text = (rows[name, part]["mean norm"] for part in PARTS[:2])
        shares.append(f"{name} {100 * first / text:.0f} %" if text else f"{name} none")
    exact, single = (
        max(check["deviation"] for check in result.details["checks"] if check["dtype"] == dtype)
        for dtype in ("float64", "float32")
    )
    return (
        f"Norms of the gradients in the first and in the last of {result.table[0]['steps']:,} steps:\n\n"
        + "\n".join(told)
        + f"\n\nThe [CLS] token's norm as a share of the whole text's: {'; '.join(shares)}. BERT and the Transformer "
        "layer read the answer from [CLS]; the Wave Networks read it as `classifier_pooling` of the model says.\n\n"
        f"The backward pass of the wave operation is the closed form, on {result.details['checked_texts']:,} texts: it "
        f"deviates by at most {exact:.0e} of the largest element in float64 and {single:.0e} in float32.\n\n"
        + describe_bert(record, result.details["hidden_size"])
    )


STUDY = Study(
    title="Gradients, step by step",
    settings=GradientsSettings,
    measure=measure_gradients,
    draw=draw_gradients,
    describe=describe_gradients,
    paper=PAPER | {"batches": 500},
    lengths=("max_length",),
)
