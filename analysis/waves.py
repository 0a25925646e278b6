"""The study `waves`: what the first layer makes of one text, and what decides about it.

The waves are those of the paper (2411.02674, 3.1 and 3.2; docs/maths.md, sections 1 and 2), with its L2 magnitude: each
dimension has a magnitude G, which all tokens share, and each token a phase in it. `cos^2` of the phase is the token's
energy share. Two variants of a token interfere: the intensity of their sum is `G^2 + G'^2 + 2 G G' cos(alpha - alpha')`
(eq. 4), larger than that of the two alone where the cosine is positive.

Energy shares describe the mixing, not the decision. So integrated gradients (Sundararajan et al., arXiv 1703.01365; by
captum) stand beside them. A deletion curve says how fast the probability of the predicted class falls when tokens are
taken out of a text in the order of each, or in a random one.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .figures import BLACK, BLUE, GREY, VERMILION, new_figure
from .phase import find_phases
from .study import Experiment, Picture, Result, Settings, Study, find_embeddings, find_variants, list_texts, make_table

ENERGY, GRADIENTS, INTERFERENCE = "energy share (%)", "integrated gradients (logit)", "cos(alpha - alpha'), mean"
ORDERS = {
    "energy share": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "integrated gradients": {"color": VERMILION, "marker": "s", "linestyle": "--"},
    "random order": {"color": GREY, "marker": "^", "linestyle": ":"},
}
# Parts of a text that are deleted: fine at the start, where good orders differ from others.
FRACTIONS = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
WORDS = {
    "Energy share": "How much of the text's energy a token has, over all dimensions and both variants. All tokens "
    "together have 100 %. It says what the layer mixes, not what decides.",
    "Integrated gradients": "What a token adds to the score (logit) of the predicted class, beside a text whose words are "
    "empty. Blue: for the class. Orange, underlined: against it.",
    "Interference": "The layer makes two waves of each token. Where they swing together they strengthen each other (1), "
    "where they swing against each other they weaken each other (-1): the mean over the dimensions.",
}


@dataclass
class WavesSettings(Settings):
    """Which text to show, and how to explain it."""

    _argument_group_name = "waves"

    text: str | None = field(
        default=None, metadata={"help": "The text to show. Default: one of the data, drawn by the seed."}
    )
    max_length: int = field(default=48, metadata={"help": "Tokens of it that are shown; the rest is cut off."})
    texts: int = field(
        default=64,
        metadata={
            "help": "Texts of the data for the deletion curve; without --data it is of --text. With --paper: 1000."
        },
    )
    deletion_length: int = field(default=256, metadata={"help": "Tokens to which these texts are cut."})
    orders: int = field(default=5, metadata={"help": "Random orders for each text. With --paper: 20."})
    steps: int = field(default=50, metadata={"help": "Steps of integrated gradients. With --paper: 200."})


def measure_waves(experiment: Experiment, settings: WavesSettings) -> Result:
    """
    A row for each token of the text. Details: `text`; `label`, the predicted class, and its `probability`; `rest`, by how
    much the sum of the integrated gradients misses the difference of the logits; `texts`, how many the deletion curve
    is over; `curves`, by order, `mean` and `sd` over these texts of the probability at each of `FRACTIONS`; `areas`, by
    order, the mean area under the curve, `less random`, its difference to that of a random order, and the standard
    error `se` of the difference; `correlation`, Spearman's, of both measures within a text, mean, if there is one.
    """
    texts = draw_texts(experiment, settings)
    shown = {"text": [settings.text]} if settings.text is not None else {key: each[:1] for key, each in texts.items()}
    ids, is_word = encode(experiment, shown, settings.max_length)[0]
    if not any(is_word):
        raise ValueError(
            f"`text` and `max_length` must leave a token besides [CLS] and [SEP], got {shown['text'][0]!r}."
        )
    table, details = measure_text(experiment, ids, is_word, settings.steps)
    measured, generator = [], np.random.default_rng(experiment.seed)
    for ids, is_word in tqdm(encode(experiment, texts, settings.deletion_length), unit=" texts"):
        if any(is_word):
            measured.append(delete_words(experiment.model, ids, is_word, settings, generator))
    if not measured:
        raise ValueError(
            f"`deletion_length` must leave a token besides [CLS] and [SEP], got {settings.deletion_length}."
        )
    text = " ".join(each[0] for each in shown.values())
    return Result(table, {"text": text} | details | summarise(measured))


def draw_texts(experiment: Experiment, settings: WavesSettings) -> dict[str, list[str]]:
    """The texts for the deletion curve, drawn by the seed; `text` alone if there are no data."""
    if settings.text is not None and not settings.text.strip():
        raise ValueError(f"`text` must hold at least one word, got {settings.text!r}.")
    if experiment.data is None:
        if settings.text is None:
            raise ValueError("Give `text`, or `data` from which one is drawn; the deletion curve needs `data`.")
        return {"text": [settings.text]}
    rows = experiment.draw_rows(len(experiment.held_out))
    filled = [place for place, text in enumerate(rows["text"]) if text.strip()]
    chosen = rows.select(filled[: settings.texts])[:]
    return {name: list(chosen[name]) for name in ("text", "text_pair") if name in chosen}


def encode(experiment: Experiment, rows: dict[str, list[str]], max_length: int) -> list[tuple[list[int], list[bool]]]:
    """The token ids of each row, and which of them belong to the text: not [CLS] and [SEP]."""
    settings = {"truncation": True, "max_length": max_length, "return_special_tokens_mask": True}
    encoded = experiment.tokenizer(*list_texts(rows), **settings)
    masks = [[not special for special in mask] for mask in encoded["special_tokens_mask"]]
    return list(zip(encoded["input_ids"], masks, strict=True))


# One text.


def measure_text(
    experiment: Experiment, ids: list[int], is_word: list[bool], steps: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Its waves, its prediction and its integrated gradients."""
    model = experiment.model
    w_VLD = find_both(model, ids)
    gradients_L, rest, target = integrate_gradients(model, ids, is_word, steps)
    with torch.inference_mode():
        probabilities = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].softmax(-1)
    phases_VLD, shares_L = find_phases(w_VLD, "l2"), find_shares(w_VLD)
    cosines_LD = (phases_VLD[0] - phases_VLD[1]).cos()
    distance_L = (phases_VLD - math.pi / 2).abs().median(dim=2).values.mean(dim=0)
    table = [
        {
            "token": token,
            ENERGY: 100 * float(shares_L[place]),
            GRADIENTS: float(gradients_L[place]),
            "phase from pi / 2, median (rad)": float(distance_L[place]),
            INTERFERENCE: float(cosines_LD[place].mean()),
            "destructive dimensions (%)": 100 * float((cosines_LD[place] < 0).double().mean()),
        }
        for place, token in enumerate(experiment.tokenizer.convert_ids_to_tokens(ids))
    ]
    label = str(model.config.id2label[target])
    return table, {"label": label, "probability": float(probabilities[target]), "rest": rest}


def find_both(model: Any, ids: list[int]) -> torch.Tensor:
    """The two variants of one text, `w` and `w'`, one after the other, shape (2, L, D), in float64."""
    variants_1LE = find_variants(model, torch.tensor([ids], device=model.device))
    return torch.cat(variants_1LE.chunk(2, dim=-1)).double().cpu()


def find_shares(w_VLD: torch.Tensor) -> torch.Tensor:
    """
    The energy share of each token, `w^2 / G^2 = cos^2(alpha)`, as the mean over variants and dimensions, shape (L,). It
    sums to one; a column of zeros, which has no energy, is left out.
    """
    energy_VLD = w_VLD.square()
    total_V1D = energy_VLD.sum(dim=1, keepdim=True)
    shares_VLD = energy_VLD / total_V1D.masked_fill(total_V1D == 0, 1)
    return shares_VLD.sum(dim=(0, 2)) / (total_V1D > 0).sum().clamp(min=1)


def integrate_gradients(model: Any, ids: list[int], is_word: list[bool], steps: int) -> tuple[torch.Tensor, float, int]:
    """
    What each token adds to the logit of the predicted class, by integrated gradients from a text of the same [CLS] and
    [SEP] whose words are zero vectors: shape (L,), by how much their sum misses the difference of the two logits, and
    the class.
    """
    from captum.attr import IntegratedGradients

    ids_1L = torch.tensor([ids], device=model.device)
    embeddings_1LD, words_L1 = find_embeddings(model, ids_1L), torch.tensor(is_word, device=model.device)[:, None]
    with torch.no_grad():
        target = int(classify(model, ids_1L, embeddings_1LD)[0].argmax())
    attributions, rest = IntegratedGradients(partial(classify, model, ids_1L)).attribute(
        embeddings_1LD,
        baselines=embeddings_1LD.masked_fill(words_L1, 0),
        target=target,
        n_steps=steps,
        internal_batch_size=16,
        return_convergence_delta=True,
    )
    return attributions[0].sum(dim=-1).detach().double().cpu(), float(rest.abs().max()), target


def classify(model: Any, ids_1L: torch.Tensor, embeddings_BLD: torch.Tensor) -> torch.Tensor:
    """The logits, shape (B, classes), of a text from so many embeddings of it, which the first layer is given."""
    handle = model.base_model.embeddings.register_forward_hook(lambda *_: embeddings_BLD)
    try:
        return model(input_ids=ids_1L.expand(len(embeddings_BLD), -1)).logits
    finally:
        handle.remove()


# The deletion curve.


def delete_words(
    model: Any, ids: list[int], is_word: list[bool], settings: WavesSettings, generator: np.random.Generator
) -> dict[str, Any]:
    """For one text, the probability by order and fraction, and the correlation of shares and integrated gradients."""
    from scipy.stats import spearmanr

    places = np.flatnonzero(is_word)
    shares = find_shares(find_both(model, ids)).numpy()[places]
    gradients_L, _, target = integrate_gradients(model, ids, is_word, settings.steps)
    gradients = gradients_L.numpy()[places]
    orders = [np.argsort(-values, kind="stable") for values in (shares, gradients)]
    orders += [generator.permutation(len(places)) for _ in range(settings.orders)]
    curves = delete(model, ids, [places[order] for order in orders], target)
    varies = min(np.ptp(shares), np.ptp(gradients)) > 0
    found = dict(zip(ORDERS, (curves[0], curves[1], curves[2:].mean(axis=0)), strict=True))
    return found | {"correlation": float(spearmanr(shares, gradients).statistic) if varies else None}


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


def summarise(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the curves of all texts come to, as `measure_waves` describes it."""
    count, curves, areas = len(measured), {}, {}
    random = np.trapezoid([each["random order"] for each in measured], FRACTIONS)
    for name in ORDERS:
        values = np.array([each[name] for each in measured])
        area, sd = np.trapezoid(values, FRACTIONS), values.std(axis=0, ddof=min(1, count - 1))
        curves[name] = {"mean": values.mean(axis=0).tolist(), "sd": sd.tolist()}
        error = float((area - random).std(ddof=min(1, count - 1))) / math.sqrt(count)
        areas[name] = {"mean": float(area.mean()), "less random": float((area - random).mean()), "se": error}
    known = [each["correlation"] for each in measured if each["correlation"] is not None]
    correlation = float(np.mean(known)) if known else None
    return {"texts": count, "curves": curves, "areas": areas, "correlation": correlation}


def draw_waves(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    details, tokens = result.details, [row["token"] for row in result.table]
    title = f"{record['model']['name']} says: {details['label']} ({details['probability']:.1%})"
    figure = new_figure(12, max(4, 0.32 * len(tokens) + 2), title)
    for axes, name, colour in zip(
        figure.subplots(1, 2, sharey=True), (ENERGY, GRADIENTS), (BLUE, VERMILION), strict=True
    ):
        axes.barh(range(len(tokens)), [row[name] for row in result.table], color=colour)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel(name)
        axes.grid(axis="x", alpha=0.3)
    axes.set_yticks(range(len(tokens)), tokens, parse_math=False)
    axes.invert_yaxis()
    yield Picture(
        "waves",
        figure,
        f"Left, energy share: {WORDS['Energy share'][0].lower()}{WORDS['Energy share'][1:]} Right, integrated gradients: "
        "what a token adds to the score of the predicted class; below zero, it speaks against it.",
    )
    figure = new_figure(9, 6, f"{details['texts']:,} texts")
    axes = figure.add_subplot()
    percent = [100 * fraction for fraction in FRACTIONS]
    for name, looks in ORDERS.items():
        mean, sd = (np.array(details["curves"][name][key]) for key in ("mean", "sd"))
        axes.fill_between(
            percent, *np.clip([mean - sd, mean + sd], 0, 1), color=looks["color"], alpha=0.12, linewidth=0
        )
        axes.plot(percent, mean, label=name, **looks)
    axes.set(xlabel="words taken out of the text (%)", ylabel="probability of the predicted class", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(title="first taken out: the largest", framealpha=1)
    yield Picture(
        "waves_deletion",
        figure,
        "Deletion: take words out of a text, the most important ones first, and see how soon the model changes its mind. "
        "The faster a line falls, the better its order finds what decides. Mean and one standard deviation of the texts.",
    )


def describe_waves(record: dict[str, Any], result: Result) -> str:
    details, text = result.details, " ".join(result.details["text"].split())
    by_share, by_gradient = (
        ", ".join(f"`{row['token']}`" for row in sorted(result.table, key=lambda row: -row[name])[:3])
        for name in (ENERGY, GRADIENTS)
    )
    destructive = np.mean([row["destructive dimensions (%)"] for row in result.table])
    areas = [
        {"order": name, "area under the curve": f"{area['mean']:.3f}"}
        | {"less that of a random order": f"{area['less random']:+.3f} ± {area['se']:.3f}"}
        for name, area in details["areas"].items()
    ]
    agree = details["correlation"]
    told = "" if agree is None else f" Within a text the two agree by {agree:.2f} (Spearman's correlation, mean)."
    return "\n\n".join(
        [
            f"> {text if len(text) <= 300 else f'{text[:300]} …'}",
            f"The model says **{details['label']}** ({details['probability']:.1%}). The largest energy shares are those "
            f"of {by_share}. By integrated gradients {by_gradient} do most for the decision; their sum misses the "
            f"difference of the logits by {details['rest']:.1e}. The two variants of a token weaken each other in "
            f"{destructive:.1f} % of all tokens and dimensions.",
            f"How soon the decision falls when words are taken out, over {details['texts']:,} texts (difference ± "
            "standard error; the smaller the area, the better the order finds what decides):",
            make_table(areas),
            f"An energy share says how much of a dimension is the token's, not what the model makes of it.{told}",
        ]
    )


STYLE = """
body { font: 18px/1.6 system-ui, sans-serif; color: #111; background: #fff; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; } p { margin: .3rem 0; }
p.text { line-height: 2.3; font-size: 1.25rem; } p.text span { padding: .15em .3em; border-radius: .2em; }
table { border-collapse: collapse; } th, td { padding: .15rem .7rem; text-align: right; }
th { border-bottom: 1px solid #111; } th:first-child, td:first-child { text-align: left; }
"""


def make_page(record: dict[str, Any], result: Result) -> str:
    """The text three times, shaded, with each word explained: a page without scripts that needs nothing but itself."""
    details, sections = result.details, []
    for (title, words), name in zip(WORDS.items(), (ENERGY, GRADIENTS, INTERFERENCE), strict=True):
        values = [row[name] for row in result.table]
        spans = " ".join(
            f'<span style="{shade(value, values)}" title="{value:.3g}">{html.escape(row["token"])}</span>'
            for row, value in zip(result.table, values, strict=True)
        )
        sections.append(f'<h2>{title}</h2>\n<p>{html.escape(words)}</p>\n<p class="text">{spans}</p>')
    names = ("token", ENERGY, GRADIENTS, INTERFERENCE)
    cells = [[row["token"], *(f"{row[name]:.3g}" for name in names[1:])] for row in result.table]
    rows = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    label, model = html.escape(details["label"]), html.escape(record["model"]["name"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Waves: {label}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{label}, {details["probability"]:.1%}</h1>
<p>This is what the Wave Network <b>{model}</b> says of a text. Below, the text token by token (a token is a word or a
piece of one; [CLS] and [SEP] mark its ends): the stronger the colour, the larger the value.</p>
{chr(10).join(sections)}
<h2>The same in numbers</h2>
<table>
<tr>{"".join(f"<th>{html.escape(name)}</th>" for name in names)}</tr>
{rows}
</table>
</body>
</html>
"""


def shade(value: float, values: Sequence[float]) -> str:
    """A background on which black can be read: blue for positive values, orange and underlined for negative ones."""
    strength = 0.9 * abs(value) / max(max(map(abs, values)), 1e-12)
    if value < 0:
        return f"background:rgba(230,159,0,{strength:.2f});border-bottom:2px dashed"
    return f"background:rgba(86,180,233,{strength:.2f})"


STUDY = Study(
    title="The waves of a text",
    settings=WavesSettings,
    measure=measure_waves,
    draw=draw_waves,
    describe=describe_waves,
    pages=lambda record, result: {"waves.html": make_page(record, result)},
    paper={"texts": 1000, "orders": 20, "steps": 200},
    lengths=("max_length", "deletion_length"),
    packages=("captum",),
    needs_data=False,
    needs_classifier=True,
)
