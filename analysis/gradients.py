"""The study `gradients`: what the loss sends back to the tokens and to the classifier, step by step of a training.

For each step of a training (paper 2411.06989; batches of 32 texts) it measures the gradients of

    [CLS] token         each text's own loss by the embedding of its first token, (D,)
    input text          each text's own loss by the embeddings of all its tokens, (n, D), padding left out
    classifier          the batch's mean loss by the weights and the bias of the last linear map

where the embedding is the row of the word table, before positions, normalisation and dropout. Of each it keeps the
Euclidean norm and how the absolute values of its elements are distributed.

Beside that it checks the backward pass of the wave operation on the model that is studied: what autograd makes of the
readable operations, and what the hand-written backward says, against the closed form of docs/maths.md (section 6) as it
stands there.
"""

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..modeling_wave import fused_wave, ops_wave
from ..modeling_wave.embeddings_wave import WaveEmbeddings, WaveTokens
from .contenders import (
    CONTENDERS,
    PAPER,
    Contender,
    TrainingSettings,
    draw_batches,
    find_lengths,
    make_optimizer,
    refuse_settings,
    run_trainings,
    step,
    tell_bert,
)
from .figures import LOOKS, new_figure, plot_runs
from .study import Experiment, Picture, Result, Study, find_variants

PARTS = ("[CLS] token", "input text", "classifier")
# Decimal logarithms of absolute values: ten bins in each power of ten. What lies below is counted as zero.
LOWEST, HIGHEST, BINS_IN_A_DECADE = -14, 4, 10
QUANTILES = (0.05, 0.5, 0.95)
SEEN = 0.02  # the smallest share that shows in a figure, in percent
OPERATIONS = tuple(ops_wave.OPERATIONS)
# Who computes the gradient that is checked, and in which dtype.
FORMS = (
    ("autograd", ops_wave.superpose, torch.float64),
    ("autograd", ops_wave.superpose, torch.float32),
    ("by hand", fused_wave.superpose, torch.float32),
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


@dataclass(frozen=True)
class GradientsResult(Result):
    """
    What `gradients` found; a row of the table for each model and each part: [CLS] token, input text, classifier.

    Attributes:
        norms: By model and part, the norm in each step, a list for each seed: of a batch's [CLS] tokens and texts the
            mean of their norms.
        bins: The edges of the distributions: decimal logarithms of absolute values.
        densities: By model and part, the share of the elements in each bin (%), over all steps and seeds.
        checks: For each operation and form, the largest deviation from the closed form, relative to the largest
            element of the gradient.
        checked_texts: On how many texts.
        hidden_size: The width of the models.
    """

    norms: dict[str, dict[str, list[list[float]]]]
    bins: list[float]
    densities: dict[str, dict[str, list[float]]]
    checks: list[dict[str, Any]]
    checked_texts: int
    hidden_size: int


def measure_gradients(experiment: Experiment, settings: GradientsSettings) -> GradientsResult:
    checked = experiment.part("closed-form", partial(check_closed_form, experiment, settings))
    found = run_trainings(experiment, settings, partial(train, experiment, settings))
    norms = {name: {part: [each["norms"][part] for each in found[name]] for part in PARTS} for name in CONTENDERS}
    tallies = {
        name: {part: Tally.join([each["counts"][part] for each in found[name]]) for part in PARTS}
        for name in CONTENDERS
    }
    return GradientsResult(
        table=[
            {"model": name, "gradient of": part} | summarise(norms[name][part]) | tallies[name][part].summarise()
            for name in CONTENDERS
            for part in PARTS
        ],
        norms=norms,
        bins=np.linspace(LOWEST, HIGHEST, len(Tally().counts) + 1).tolist(),
        densities={name: {part: tally.find_shares() for part, tally in tallies[name].items()} for name in CONTENDERS},
        checks=checked["checks"],
        checked_texts=checked["texts"],
        hidden_size=settings.hidden_size or experiment.model.config.hidden_size,
    )


class Tally:
    """How absolute values are distributed, of elements that come a few at a time."""

    def __init__(self, counts: list[int] | None = None, zeros: int = 0) -> None:
        empty = [0] * ((HIGHEST - LOWEST) * BINS_IN_A_DECADE)
        self.counts: np.ndarray = np.array(empty if counts is None else counts, dtype=np.int64)
        self.zeros = zeros

    @classmethod
    def join(cls, dumped: list[dict[str, Any]]) -> "Tally":
        """Of the parts of a study."""
        counts = np.sum([each["counts"] for each in dumped], axis=0).tolist()
        return cls(counts, sum(each["zeros"] for each in dumped))

    def dump(self) -> dict[str, Any]:
        return {"counts": self.counts.tolist(), "zeros": self.zeros}

    def add(self, elements: torch.Tensor) -> None:
        values = elements.detach().flatten().abs().double().cpu().numpy()
        logarithms = np.log10(values[values >= 10.0**LOWEST])
        # What is larger than the last bin stands in it: the number of elements stays what it is.
        self.counts += np.histogram(logarithms.clip(max=HIGHEST), bins=len(self.counts), range=(LOWEST, HIGHEST))[0]
        self.zeros += len(values) - len(logarithms)

    def summarise(self) -> dict[str, Any]:
        """Quantiles of those that are not zero, as precise as the bins are wide: 26 %."""
        count = int(self.counts.sum())
        places = np.searchsorted(np.cumsum(self.counts), [quantile * count for quantile in QUANTILES])
        return {
            **{
                f"{quantile:.0%} quantile of |element|": 10 ** (LOWEST + (place + 0.5) / BINS_IN_A_DECADE)
                if count
                else None
                for quantile, place in zip(QUANTILES, places.tolist(), strict=True)
            },
            "zeros (%)": 100 * self.zeros / (count + self.zeros),
        }

    def find_shares(self) -> list[float]:
        """Of all elements, in percent."""
        return (100 * self.counts / (self.counts.sum() + self.zeros)).tolist()


def train(
    experiment: Experiment, settings: GradientsSettings, contender: Contender, number: int, learning_rate: float
) -> dict[str, Any]:
    """The norms of each step of one training, and the distributions over all of them."""
    optimizer = make_optimizer(contender.model, learning_rate)
    rows = experiment.data.train
    batches = draw_batches(len(rows), settings.batch_size, settings.batches, experiment.seed + number)
    norms: dict[str, list[float]] = {part: [] for part in PARTS}
    tallies = {part: Tally() for part in PARTS}
    contender.model.train()
    for batch in tqdm(batches, desc=f"training {number}", unit=" batches", leave=False, disable=None):
        found = find_gradients(contender, contender.encode(rows[batch], settings.max_length))
        for part, gradients in found.items():
            norms[part].append(statistics.mean(float(each.norm()) for each in gradients))
            for each in gradients:
                tallies[part].add(each)
        step(contender.model, optimizer)
    return {"norms": norms, "counts": {part: tally.dump() for part, tally in tallies.items()}}


def find_gradients(contender: Contender, inputs: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """
    The gradients of a batch, which the parameters of the model keep.

    Returns:
        By part: of each text's own loss by the embedding of its first token, (D,), and of all its tokens, (n, D); of
        the mean loss by the parameters of the classifier, as one vector.
    """
    model: Any = contender.model
    embeddings_BLD: Any = model.get_input_embeddings()(inputs["input_ids"])
    embeddings_BLD.retain_grad()
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    with knows_ngrams(model, inputs):
        model(inputs_embeds=embeddings_BLD, **others).loss.backward()
    # The loss is the mean over the texts: so many times that is the gradient of a text's own.
    of_texts_BLD = embeddings_BLD.grad * len(embeddings_BLD)
    texts = [
        of_text_LD[mask_L.bool()] for of_text_LD, mask_L in zip(of_texts_BLD, inputs["attention_mask"], strict=True)
    ]
    classifier = [parameter.grad.flatten() for parameter in model.classifier.parameters()]
    return {"[CLS] token": [text[0] for text in texts], "input text": texts, "classifier": [torch.cat(classifier)]}


@contextlib.contextmanager
def knows_ngrams(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Gives the n-grams of the tokens to a Wave Network that has some: by embeddings alone it leaves them out."""
    embeddings = next((part for part in model.modules() if isinstance(part, WaveEmbeddings)), None)
    if embeddings is None:
        yield
        return
    ngram_ids_BLN = embeddings.find_ngrams(WaveTokens.check(inputs["input_ids"], inputs["attention_mask"]))

    def add(_: torch.nn.Module, arguments: tuple[WaveTokens]) -> None:
        arguments[0].ngram_ids_BLN = ngram_ids_BLN

    handle = embeddings.register_forward_pre_hook(add)
    try:
        yield
    finally:
        handle.remove()


def summarise(norms: list[list[float]]) -> dict[str, Any]:
    """The norms of a model and a part, in words of numbers."""
    everything = [norm for of_seed in norms for norm in of_seed]
    return {
        "trainings": len(norms),
        "steps": len(norms[0]),
        "mean norm": statistics.mean(everything),
        "standard deviation": statistics.stdev(everything) if len(everything) > 1 else None,
        "norm in the first step": statistics.mean(of_seed[0] for of_seed in norms),
        "norm in the last step": statistics.mean(of_seed[-1] for of_seed in norms),
    }


# The closed form.


def check_closed_form(experiment: Experiment, settings: GradientsSettings) -> dict[str, Any]:
    """The wave operation of the model that is studied on its own texts: gradients against the closed form."""
    rows = experiment.held_out
    chosen = np.random.default_rng(experiment.seed).permutation(len(rows))[: settings.checked_texts].tolist()
    worst = dict.fromkeys(product(OPERATIONS, FORMS), 0.0)
    for ids in experiment.encode(rows.select(chosen)[:], settings.max_length):
        ids_BL = torch.tensor([ids], device=experiment.device)
        with torch.no_grad():
            variants_BLE = find_variants(experiment.model, ids_BL, torch.ones_like(ids_BL))
        upstream_BLE = torch.randn_like(variants_BLE)
        for operation, form in worst:
            _, superpose, dtype = form
            expected_BLE = find_closed_form(variants_BLE.double(), upstream_BLE.double(), operation)
            leaf_BLE: Any = variants_BLE.to(dtype, copy=True).requires_grad_()
            superpose(leaf_BLE, None, operation).backward(upstream_BLE.to(dtype))
            error = (leaf_BLE.grad.double() - expected_BLE).abs().max() / expected_BLE.abs().max()
            worst[operation, form] = max(worst[operation, form], float(error))
    return {
        "texts": len(chosen),
        "checks": [
            {
                "operation": operation,
                "gradient": by_whom,
                "dtype": str(dtype).removeprefix("torch."),
                "largest relative deviation": error,
            }
            for (operation, (by_whom, _, dtype)), error in worst.items()
        ],
    }


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


def draw_gradients(record: dict[str, Any], result: GradientsResult) -> Iterator[Picture]:
    yield Picture(
        "gradients",
        draw_norms(record, result),
        "Norm of the gradient in each step: mean of the trainings, and a band of one standard deviation on each side.",
    )
    yield Picture(
        "gradients_distribution",
        draw_distributions(record, result),
        "How the absolute values of the gradients' elements are distributed, over all steps and trainings.",
    )


def draw_norms(record: dict[str, Any], result: GradientsResult) -> Any:
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = new_figure(11, 4)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, part in zip(panels, PARTS, strict=True):
        for name, of_parts in result.norms.items():
            steps = list(range(1, len(of_parts[part][0]) + 1))
            plot_runs(axes, steps, of_parts[part], name, markevery=max(1, len(steps) // 10))
        axes.set_yscale("log")
        axes.set_xlabel(f"step (batches of {record['settings']['batch_size']} texts)")
        axes.set_title(part)
        axes.grid(alpha=0.3)
    axes = panels[0]
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_ylabel("norm of the gradient (nats per unit)")
    panels[1].legend(fontsize=8, framealpha=1, loc="lower left")
    figure.suptitle(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def draw_distributions(record: dict[str, Any], result: GradientsResult) -> Any:
    figure = new_figure(11, 4)
    panels = figure.subplots(1, 3, sharey=True)
    middles = [10 ** ((low + high) / 2) for low, high in zip(result.bins, result.bins[1:], strict=False)]
    for axes, part in zip(panels, PARTS, strict=True):
        for name, of_parts in result.densities.items():
            colour, _, dashes = LOOKS[name]
            axes.plot(middles, of_parts[part], color=colour, linestyle=dashes, linewidth=1.5, label=name)
        # From the first to the last bin that one could see.
        filled = [
            place
            for of_parts in result.densities.values()
            for place, share in enumerate(of_parts[part])
            if share > SEEN
        ]
        if filled:
            axes.set_xlim(10 ** result.bins[min(filled)], 10 ** result.bins[max(filled) + 1])
        axes.set_xscale("log")
        axes.set_xlabel("absolute value of an element")
        axes.set_title(part)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"share of the elements (% in a bin of 1/{BINS_IN_A_DECADE} decade)")
    panels[0].legend(fontsize=8, framealpha=1)
    figure.suptitle(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def describe_sample(record: dict[str, Any], result: GradientsResult) -> str:
    """How much went into a figure."""
    row = result.table[0]
    return (
        f"{record['data']['name']}, train: n = {row['trainings']} trainings of {row['steps']:,} steps, batches of "
        f"{record['settings']['batch_size']}, width {result.hidden_size:,}"
    )


def describe_gradients(record: dict[str, Any], result: GradientsResult) -> str:
    rows = {(row["model"], row["gradient of"]): row for row in result.table}
    told = []
    for part in PARTS:
        pairs = [[rows[name, part][f"norm in the {place} step"] for place in ("first", "last")] for name in CONTENDERS]
        of_models = (
            f"{name} {first:.2g} and {last:.2g}" for name, (first, last) in zip(CONTENDERS, pairs, strict=True)
        )
        told.append(f"- **{part}**: {'; '.join(of_models)}.")
    told_shares = []
    for name in CONTENDERS:
        of_first, of_text = (rows[name, part]["mean norm"] for part in PARTS[:2])
        told_shares.append(f"{name} {100 * of_first / of_text:.0f} %" if of_text else f"{name} none at all")
    exact, single = (
        max(check["largest relative deviation"] for check in result.checks if check["dtype"] == dtype)
        for dtype in ("float64", "float32")
    )
    return (
        f"Norms in the first and in the last of {rows[CONTENDERS[0], PARTS[0]]['steps']:,} steps:\n\n"
        + "\n".join(told)
        + f"\n\nThe [CLS] token's norm as a share of the whole text's: {'; '.join(told_shares)}. The Wave Networks "
        "read a text by `classifier_pooling` of the model that is studied, BERT by its [CLS] token: where that is the "
        "mean of all tokens, [CLS] is a token among others. Zeros are what dropout leaves out of the embeddings.\n\n"
        f"The backward pass of the wave operation, on {result.checked_texts:,} texts and for both superpositions, is "
        f"what the closed form says: autograd through the readable form deviates from it by at most {exact:.0e} of the "
        f"largest element in float64, and in float32, with the hand-written backward too, by at most {single:.0e}.\n\n"
        f"{tell_bert(record, result.hidden_size)}"
    )


STUDY = Study(
    title="Gradients, step by step",
    settings=GradientsSettings,
    paper=PAPER | {"batches": 500},
    result=GradientsResult,
    measure=measure_gradients,
    draw=draw_gradients,
    describe=describe_gradients,
    check=refuse_settings,
    lengths=find_lengths,
)
