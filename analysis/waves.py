"""The study `waves`: what the first layer makes of one text, and what decides about it.

The waves are those of the paper (2411.02674, 3.1 and 3.2; docs/maths.md, sections 1 and 2), with its L2 magnitude: each
dimension has a magnitude G, which all tokens share, and each token a phase in it. `cos^2` of the phase is the token's
energy share. Two variants of a token interfere: the intensity of their sum is `G^2 + G'^2 + 2 G G' cos(alpha - alpha')`
(eq. 4), larger than that of the two alone where the cosine is positive.

Energy shares describe the mixing, not the decision. So integrated gradients (Sundararajan et al., arXiv 1703.01365)
stand beside them; and how fast the probability of the predicted class falls when words are taken out of a text in the
order of each, or in a random one.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from tqdm.auto import tqdm

from ..files import find_fonts, setting
from .figures import BLACK, BLUE, VERMILION, new_figure
from .phase import find_embeddings, find_phases, find_variants
from .study import Experiment, Picture, Result, Settings, Study, list_texts, make_table

ENERGY, GRADIENTS, INTERFERENCE = "energy share (%)", "integrated gradients (logit)", "interference (mean cosine)"
ORDERS = ("energy share", "integrated gradients", "random order")
# Parts of a text that are taken out: fine at the start, where good orders differ from others.
FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TEXTS_AT_ONCE = 16
# Orange for negative values, blue for positive ones: black can be read on both.
BAR = ["#E69F00", "#56B4E9"]
WORDS = {
    GRADIENTS: (
        "Which words decided?",
        "What each token adds to the <b>logit</b>, the score from which the probability of the answer is made, beside "
        "a text whose words are empty (<b>integrated gradients</b>). Blue: it speaks for the answer. Orange: against.",
    ),
    ENERGY: (
        "What does the model mix?",
        "It holds a text as waves, one in each <b>dimension</b>: a place in the list of numbers that stands for a "
        "token. The <b>energy</b> of a wave is its height squared. Here is each token's share of the text's energy, in "
        "percent. A token with much energy colours all others. It need not decide.",
    ),
}


@dataclass
class WavesSettings(Settings):
    """Which text to show, and how to explain it."""

    text: str | None = setting("The text to show. Default: one of the data, drawn by the seed.", None)
    max_length: int = setting("Tokens of it that are shown; the rest is cut off.", 48)
    texts: int = setting("Texts of the data from which words are taken out; without --data: --text.", 64)
    deletion_length: int = setting("Tokens to which these texts are cut.", 256)
    orders: int = setting("Random orders for each text.", 5)
    steps: int = setting("Steps of integrated gradients.", 50)


def measure(experiment: Experiment, settings: WavesSettings) -> Result:
    """
    A row for each token of the text. Details: `text`; `label`, the predicted class, and its `probability`; `rest`, by
    how much the sum of the integrated gradients misses the difference of the logits; `texts`, how many words are taken
    out of; `areas`, by order, the `mean` area under the probability by the part that is taken out, the mean difference
    to the area in a random order, `less random`, and the standard error of that, `se`.
    """
    rows = draw_texts(experiment, settings)
    shown = rows if settings.text is None else {"text": [settings.text]}
    table, details = measure_text(experiment, *encode(experiment, shown, "max_length", settings)[0], settings.steps)
    generator = np.random.default_rng(experiment.seed)
    texts = encode(experiment, rows, "deletion_length", settings)
    measured = [
        delete_words(experiment.model, ids, places, settings, generator) for ids, places in tqdm(texts, unit=" texts")
    ]
    return Result(table, {"text": " ".join(each[0] for each in shown.values())} | details | summarise(measured))


def draw_texts(experiment: Experiment, settings: WavesSettings) -> dict[str, list[str]]:
    """The texts from which words are taken out, drawn by the seed; `text` alone if there are no data."""
    if experiment.data is None:
        if settings.text is None:
            raise ValueError("Give `text`, or `data` from which one is drawn; words are taken out of `data`.")
        return {"text": [settings.text]}
    rows = experiment.draw_rows()
    filled = [place for place, text in enumerate(rows["text"]) if text.strip()]
    chosen = rows.select(filled[: settings.texts])[:]
    return {name: chosen[name] for name in ("text", "text_pair") if name in chosen}


def encode(
    experiment: Experiment, rows: dict[str, list[str]], name: str, settings: WavesSettings
) -> list[tuple[list[int], np.ndarray]]:
    """The token ids of each row, cut to the length of this name, and the places of its words: not [CLS] and [SEP]."""
    length = getattr(settings, name)
    how = {"truncation": True, "max_length": length, "return_special_tokens_mask": True}
    encoded = experiment.tokenizer(*list_texts(rows), **how)
    words = [np.flatnonzero(np.array(mask) == 0) for mask in encoded["special_tokens_mask"]]
    found = [(ids, places) for ids, places in zip(encoded["input_ids"], words, strict=True) if len(places)]
    if not found:
        raise ValueError(f"`text`, cut to `{name}` = {length}, must hold a word; got {rows['text'][0]!r}.")
    return found


# One text.


def measure_text(
    experiment: Experiment, ids: list[int], places: np.ndarray, steps: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Its waves, its prediction and its integrated gradients."""
    model = experiment.model
    ids_1L = torch.tensor([ids], device=model.device)
    w_VLD = torch.cat(find_variants(model, ids_1L)).double().cpu()
    gradients_L, rest, target = integrate_gradients(model, ids, places, steps)
    with torch.inference_mode():
        probabilities = model(input_ids=ids_1L).logits[0].softmax(-1)
    phases_VLD, shares_L = find_phases(w_VLD, "l2"), find_shares(w_VLD)
    cosines_LD = (phases_VLD[0] - phases_VLD[1]).cos()
    table = [
        {
            "token": token,
            ENERGY: 100 * float(shares_L[place]),
            GRADIENTS: float(gradients_L[place]),
            INTERFERENCE: float(cosines_LD[place].mean()),
            "destructive dimensions (%)": 100 * float((cosines_LD[place] < 0).double().mean()),
        }
        for place, token in enumerate(experiment.tokenizer.convert_ids_to_tokens(ids))
    ]
    label = str(model.config.id2label[target])
    return table, {"label": label, "probability": float(probabilities[target]), "rest": rest}


def find_shares(w_VLD: torch.Tensor) -> torch.Tensor:
    """
    The energy share of each token, `w^2 / G^2 = cos^2(alpha)`, as the mean over variants and dimensions, shape (L,). It
    sums to one; a column of zeros, which has no energy, is left out.
    """
    energy_VLD = w_VLD.square()
    total_V1D = energy_VLD.sum(dim=1, keepdim=True)
    shares_VLD = energy_VLD / total_V1D.masked_fill(total_V1D == 0, 1)
    return shares_VLD.sum(dim=(0, 2)) / (total_V1D > 0).sum().clamp(min=1)


def integrate_gradients(model: Any, ids: list[int], places: np.ndarray, steps: int) -> tuple[torch.Tensor, float, int]:
    """
    What each token adds to the logit of the predicted class, by integrated gradients from a text of the same [CLS] and
    [SEP] whose words are zero vectors: shape (L,), by how much their sum misses the difference of the two logits, and
    the class.
    """
    ids_1L = torch.tensor([ids], device=model.device)
    end_1LD = find_embeddings(model, ids_1L)
    start_1LD = end_1LD.index_fill(1, torch.from_numpy(places).to(model.device), 0)
    with torch.no_grad():
        logits = classify(model, ids_1L, torch.cat([start_1LD, end_1LD]))
    target, gradient_LD = int(logits[1].argmax()), torch.zeros_like(end_1LD[0])
    # The mean gradient on the straight way from the start to the end, by the rule of Gauss and Legendre.
    places_S, weights_S = torch.tensor(np.array(leggauss(steps)), device=model.device).float() / 2
    for parts, weights in zip((places_S + 0.5).split(TEXTS_AT_ONCE), weights_S.split(TEXTS_AT_ONCE), strict=True):
        x_BLD = torch.lerp(start_1LD, end_1LD, parts[:, None, None]).requires_grad_()
        (gradient_BLD,) = torch.autograd.grad(classify(model, ids_1L, x_BLD)[:, target].sum(), x_BLD)
        gradient_LD += torch.einsum("b,bld->ld", weights, gradient_BLD)
    added_L = ((end_1LD - start_1LD)[0] * gradient_LD).sum(dim=-1).double().cpu()
    return added_L, abs(float(added_L.sum()) - float(logits[1, target] - logits[0, target])), target


def classify(model: Any, ids_1L: torch.Tensor, x_BLD: torch.Tensor) -> torch.Tensor:
    """The logits, shape (B, classes), of a text from what its first layer is given instead of its embeddings."""
    first = model.base_model.layers[0]
    handle = first.register_forward_pre_hook(lambda layer, arguments: (x_BLD, *arguments[1:]))
    try:
        return model(input_ids=ids_1L.expand(len(x_BLD), -1)).logits
    finally:
        handle.remove()


# Words taken out.


def delete_words(
    model: Any, ids: list[int], places: np.ndarray, settings: WavesSettings, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """For one text, the probability of the predicted class by order and fraction."""
    gradients_L, _, target = integrate_gradients(model, ids, places, settings.steps)
    w_VLD = torch.cat(find_variants(model, torch.tensor([ids], device=model.device))).double().cpu()
    measures = (find_shares(w_VLD), gradients_L)
    orders = [places[np.argsort(-each_L.numpy()[places], kind="stable")] for each_L in measures]
    orders += [generator.permutation(places) for _ in range(settings.orders)]
    curves = delete(model, ids, orders, target)
    return dict(zip(ORDERS, (curves[0], curves[1], curves[2:].mean(axis=0)), strict=True))


@torch.inference_mode()
def delete(model: Any, ids: list[int], orders: Sequence[np.ndarray], target: int) -> np.ndarray:
    """
    The probability of a class after the first tokens of each order have been taken out of the text, (orders,
    fractions). A token that is taken out is masked like padding: the waves and the pooling do not see it.
    """
    masks = torch.ones((len(orders), len(FRACTIONS), len(ids)), dtype=torch.long)
    for number, order in enumerate(orders):
        for place, fraction in enumerate(FRACTIONS):
            masks[number, place, order[: round(fraction * len(order))]] = 0
    masks = masks.flatten(0, 1).to(model.device)
    inputs = torch.tensor(ids, device=model.device).expand(len(masks), -1)
    probabilities = model(input_ids=inputs, attention_mask=masks).logits.softmax(dim=-1)[:, target]
    return probabilities.double().cpu().numpy().reshape(len(orders), len(FRACTIONS))


def summarise(measured: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """What the curves of all texts come to, as `measure` describes it."""
    parts, areas = torch.tensor(FRACTIONS), {}
    by_order = {name: torch.trapezoid(torch.tensor([list(each[name]) for each in measured]), parts) for name in ORDERS}
    for name, areas_N in by_order.items():
        less_N = areas_N - by_order["random order"]
        error = float(less_N.std(correction=min(1, len(less_N) - 1))) / math.sqrt(len(less_N))
        areas[name] = {"mean": float(areas_N.mean()), "less random": float(less_N.mean()), "se": error}
    return {"texts": len(measured), "areas": areas}


def draw(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    details, tokens = result.details, [row["token"] for row in result.table]
    title = f"{record['model']['name']} says: {details['label']} ({details['probability']:.1%})"
    figure = new_figure(12, max(4, 0.32 * len(tokens) + 2), title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, colour in zip(panels, (ENERGY, GRADIENTS), (BLUE, VERMILION), strict=True):
        axes.barh(range(len(tokens)), [row[name] for row in result.table], color=colour)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel(name)
        axes.grid(axis="x", alpha=0.3)
    families, missing = find_fonts(tokens)
    shown = [f"#{place}" if missing & set(token) else token for place, token in enumerate(tokens, start=1)]
    axes.set_yticks(range(len(tokens)), shown, parse_math=False, fontfamily=families)
    axes.invert_yaxis()
    yield Picture(
        "waves",
        figure,
        "Left, energy share: how much of the text's energy a token has. Right, integrated gradients: what a token adds "
        "to the score of the predicted class; below zero, it speaks against it.",
    )


def describe(record: dict[str, Any], result: Result) -> str:
    details, text = result.details, " ".join(result.details["text"].split())
    by_share, by_gradient = (
        ", ".join(f"`{row['token']}`" for row in sorted(result.table, key=lambda row: -row[name])[:3])
        for name in (ENERGY, GRADIENTS)
    )
    areas = [
        {"order": name, "area under the curve": f"{area['mean']:.3f}"}
        | {"less that of a random order": f"{area['less random']:+.3f} ± {area['se']:.3f}"}
        for name, area in details["areas"].items()
    ]
    return "\n\n".join(
        [
            f"> {text if len(text) <= 300 else f'{text[:300]} …'}",
            f"The model says **{details['label']}** ({details['probability']:.1%}). The largest energy shares have "
            f"{by_share}. By integrated gradients {by_gradient} do most for the decision; their sum misses the "
            f"difference of the logits by {details['rest']:.1e}. The two variants of a token weaken each other in "
            f"{find_destructive(result):.1f} % of all tokens and dimensions.",
            f"How soon the decision falls when words are taken out, over {details['texts']:,} texts (difference ± "
            "standard error; the smaller the area, the better the order finds what decides):",
            make_table(areas),
        ]
    )


def make_page(record: dict[str, Any], result: Result) -> str:
    """The text token by token, with bars, and each word explained: a page that needs nothing but itself."""
    import pandas

    label, model = html.escape(result.details["label"]), html.escape(record["model"]["name"])
    table, sections = pandas.DataFrame(result.table), ""
    for name, (question, text) in WORDS.items():
        style = table[["token", name]].style.hide(axis="index").hide(axis="columns").format(precision=2, escape="html")
        align: Any = "left" if name == ENERGY else "zero"
        style = style.bar([name], align=align, vmin=0 if name == ENERGY else None, color=BAR, height=70)
        sections += f"<h2>{question}</h2>\n<p>{text}</p>\n{style.to_html(table_uuid=name.split()[0])}\n"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Waves: {label}</title>
<style>body {{ font: 18px/1.6 sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }}
table {{ width: 100%; border-spacing: 0 }} td {{ padding: 0 .6rem; unicode-bidi: plaintext }}
td:first-child {{ width: 30%; text-align: right; overflow-wrap: anywhere }}</style>
<h1>{label}, {result.details["probability"]:.1%}</h1>
<p>This is the answer of the Wave Network <b>{model}</b> to the text below, and how sure it is. It reads the text
token by token, from top to bottom. A <b>token</b> is a word or a piece of one; [CLS] and [SEP] mark the ends of the
text.</p>
{sections}<h2>Do its waves strengthen each other?</h2>
<p>The model makes two waves of each token and lays one over the other (<b>interference</b>). Where they swing together
they strengthen each other, where they swing against each other they weaken each other: here in
{find_destructive(result):.1f} % of all tokens and dimensions.</p>
</html>
"""


def find_destructive(result: Result) -> float:
    """In how many of all tokens and dimensions two variants weaken each other, in percent."""
    return float(np.mean([row["destructive dimensions (%)"] for row in result.table]))


STUDY = Study(
    "The waves of a text",
    WavesSettings,
    measure,
    draw,
    describe,
    lambda record, result: {"waves.html": make_page(record, result)},
    lengths=("max_length", "deletion_length"),
    needs_data=False,
    needs_classifier=True,
)
