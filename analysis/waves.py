"""The study `waves`: what the first layer makes of one text, and why that does not explain what the model decides.

The waves are those of the paper (2411.02674, 3.1 and 3.2; docs/maths.md, sections 1 and 2), with its L2 magnitude: each
dimension has a magnitude, which all tokens share, and each token a phase in it. `cos^2` of the phase is the token's
energy share. Two variants of a token interfere: the intensity of their sum is `G^2 + G'^2 + 2 G G' cos(alpha - alpha')`
(eq. 4), larger than that of the two alone where the cosine is positive.

Energy shares describe what is mixed, not what decides. So integrated gradients (Sundararajan et al., arXiv 1703.01365;
by captum) stand beside them, and a deletion curve says how fast the probability of the predicted class falls when
tokens are taken out of a text in the order of each, or in a random one.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from ..modeling_wave.embeddings_wave import WaveTokens
from ..modeling_wave.pooling_wave import pool
from .figures import BLACK, BLUE, GREY, VERMILION, new_figure, to_svg
from .phase import find_phases
from .study import Experiment, Picture, Result, Study, find_variants, make_table

SHARE, GRADIENTS, RANDOM = "energy share", "integrated gradients", "random order"
LOOKS = {SHARE: (BLUE, "o", "-"), GRADIENTS: (VERMILION, "s", "--"), RANDOM: (GREY, "^", ":")}
# Parts of a text that are deleted: fine at the start, where good orders differ from others.
FRACTIONS = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
TEXTS_IN_A_PART = 16
COSINE = "cos(α - α')"  # noqa: RUF001  # the paper's letter
# More rings than this cannot be told apart in the polar plot.
RINGS = 14


@dataclass
class WavesSettings:
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


@dataclass(frozen=True)
class WavesResult(Result):
    """
    What `waves` found; a row of the table for each token of the text.

    Attributes:
        text: The text, as it was given.
        label: The class that the model predicts for what is shown of it.
        probability: The probability of that class.
        rest: By how much the sum of the integrated gradients misses the difference of the logits; 0 if exact.
        magnitudes: Of each variant and dimension, G, shape (2, D).
        phases: Of each variant, token and dimension, in radians, shape (2, L, D), to four digits.
        deletion: Of the deletion curve: `texts`, how many; `curves`, by order and fraction, `mean` and `sd` over the
            texts of the probability; `areas`, by order, the same of the area under a text's curve; `differences`, by
            order, `mean` and `se` (standard error) of its area less that of the random order; `correlation`, `mean`
            and `sd` of Spearman's rank correlation between energy shares and integrated gradients, if there is one.
    """

    text: str
    label: str
    probability: float
    rest: float
    magnitudes: list[list[float]]
    phases: list[list[list[float]]]
    deletion: dict[str, Any]


def check(settings: WavesSettings) -> None:
    if settings.text is not None and not settings.text.strip():
        raise ValueError(f"`text` must hold at least one word, got {settings.text!r}.")


def measure_waves(experiment: Experiment, settings: WavesSettings) -> WavesResult:
    if experiment.arguments.data is None and settings.text is None:
        raise ValueError("Give `text`, or `data` from which one is drawn; the deletion curve needs `data`.")
    texts = draw_texts(experiment, settings)
    shown = {"text": [settings.text]} if settings.text is not None else {key: each[:1] for key, each in texts.items()}
    refuse_too_short(experiment, settings, is_pair=len(texts) == 2)
    (ids,), (is_word,) = encode(experiment, shown, settings.max_length)
    if not any(is_word):
        raise ValueError(f"`text` must hold at least one token, and the tokenizer makes none of {shown['text'][0]!r}.")
    found = experiment.part("text", partial(measure_text, experiment, ids, is_word, settings.steps))

    encoded, words = encode(experiment, texts, settings.deletion_length)
    rows = [(row, mask) for row, mask in zip(encoded, words, strict=True) if any(mask)]
    measured: list[dict[str, Any]] = []
    for start in experiment.progress(range(0, len(rows), TEXTS_IN_A_PART), f"x {TEXTS_IN_A_PART} texts"):
        chosen = rows[start : start + TEXTS_IN_A_PART]
        measured += experiment.part(f"deletion-{start}", partial(delete_from_each, experiment, chosen, settings))
    text = " ".join(each[0] for each in shown.values())
    return WavesResult(**found, text=text, deletion=summarise(measured))


def refuse_too_short(experiment: Experiment, settings: WavesSettings, is_pair: bool) -> None:
    """A ValueError that names the setting if it leaves no place for a token of the text."""
    special = experiment.tokenizer.num_special_tokens_to_add(pair=is_pair)
    for name in ("max_length", "deletion_length"):
        length = getattr(settings, name)
        if length <= special:
            raise ValueError(
                f"`{name}` must be at least {special + 1}, for {special} special tokens and one of the text; got "
                f"{length}."
            )


def draw_texts(experiment: Experiment, settings: WavesSettings) -> dict[str, list[str]]:
    """The texts for the deletion curve, drawn by the seed; that of `text` alone if there are no data."""
    if experiment.arguments.data is None:
        return {"text": [str(settings.text)]}
    rows = experiment.held_out
    order = np.random.default_rng(experiment.seed).permutation(len(rows))
    # An empty text has nothing to show, nor to delete.
    chosen = rows.select([int(row) for row in order if rows[int(row)]["text"].strip()][: settings.texts])[:]
    return {name: list(chosen[name]) for name in ("text", "text_pair") if name in chosen}


def encode(
    experiment: Experiment, rows: dict[str, list[str]], max_length: int
) -> tuple[list[list[int]], list[list[bool]]]:
    """The token ids of rows, and which of them are of the text, not [CLS] and [SEP]."""
    encoded = experiment.tokenizer(
        *rows.values(), truncation=True, max_length=max_length, return_special_tokens_mask=True
    )
    return encoded["input_ids"], [[not special for special in mask] for mask in encoded["special_tokens_mask"]]


# One text.


def measure_text(experiment: Experiment, ids: list[int], is_word: list[bool], steps: int) -> dict[str, Any]:
    """Its waves, its prediction and its integrated gradients."""
    model = experiment.model
    w_VLD = find_both(model, ids)
    gradients_L, rest, target = integrate_gradients(model, ids, is_word, steps)
    with torch.inference_mode():
        probabilities = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].softmax(-1)
    phases_VLD = find_phases(w_VLD, "l2")
    cosines_LD = (phases_VLD[0] - phases_VLD[1]).cos()
    shares_L = find_shares(w_VLD)
    distance_L = (phases_VLD - math.pi / 2).abs().median(dim=2).values.mean(dim=0)
    table = [
        {
            "token": token,
            "energy share (%)": 100 * float(shares_L[place]),
            "integrated gradients (logit)": float(gradients_L[place]),
            "phase from pi / 2, median (rad)": float(distance_L[place]),
            "cos(alpha - alpha'), mean": float(cosines_LD[place].mean()),
            "destructive dimensions (%)": 100 * float((cosines_LD[place] < 0).double().mean()),
        }
        for place, token in enumerate(experiment.tokenizer.convert_ids_to_tokens(ids))
    ]
    return {
        "table": table,
        "label": str(experiment.labels[target]),
        "probability": float(probabilities[target]),
        "rest": rest,
        "magnitudes": w_VLD.square().sum(dim=1).sqrt().tolist(),
        "phases": [[[round(phase, 4) for phase in row] for row in rows] for rows in phases_VLD.tolist()],
    }


@torch.inference_mode()
def find_both(model: Any, ids: list[int]) -> torch.Tensor:
    """The two variants of one text, `w` and `w'`, one after the other, shape (2, L, D), in float64."""
    input_ids = torch.tensor([ids], device=model.device)
    variants_1LE = find_variants(model, input_ids, torch.ones_like(input_ids))
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

    tokens = WaveTokens.check(torch.tensor([ids], device=model.device))
    with torch.no_grad():
        hidden_states = model.base_model.embeddings(tokens)
        target = int(classify(model, hidden_states)[0].argmax())
    words_1L1 = torch.tensor(is_word, device=model.device)[None, :, None]
    attributions, rest = IntegratedGradients(partial(classify, model)).attribute(
        hidden_states,
        baselines=hidden_states.masked_fill(words_1L1, 0),
        target=target,
        n_steps=steps,
        internal_batch_size=16,
        return_convergence_delta=True,
    )
    return attributions[0].sum(dim=-1).detach().double().cpu(), float(rest.abs().max()), target


def classify(model: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """The logits, shape (B, classes), of texts without padding from their embeddings, (B, L, D)."""
    for layer in model.base_model.layers:
        hidden_states = layer(hidden_states)
    pooled_BD = pool([(hidden_states, None)], model.config.classifier_pooling)
    return model.classifier(pooled_BD) / model.config.classifier_temperature


# The deletion curve.


def delete_from_each(
    experiment: Experiment, rows: Sequence[tuple[list[int], list[bool]]], settings: WavesSettings
) -> list[dict[str, Any]]:
    """For each text, the probability by order and fraction, and the correlation of shares and integrated gradients."""
    model, generator, found = experiment.model, np.random.default_rng(torch.initial_seed() % 2**32), []
    for ids, is_word in rows:
        places = np.flatnonzero(is_word)
        shares = find_shares(find_both(model, ids)).numpy()[places]
        gradients_L, _, target = integrate_gradients(model, ids, is_word, settings.steps)
        gradients = gradients_L.numpy()[places]
        orders = [np.argsort(-values, kind="stable") for values in (shares, gradients)]
        orders += [generator.permutation(len(places)) for _ in range(settings.orders)]
        curves = delete(model, ids, [places[order] for order in orders], target)
        curve = {SHARE: curves[0], GRADIENTS: curves[1], RANDOM: curves[2:].mean(axis=0)}
        varies = min(np.ptp(shares), np.ptp(gradients)) > 0
        correlation = float(spearmanr(shares, gradients).statistic) if varies else None
        found.append({"curves": {name: each.tolist() for name, each in curve.items()}, "correlation": correlation})
    return found


@torch.inference_mode()
def delete(model: Any, ids: list[int], orders: Sequence[np.ndarray], target: int) -> np.ndarray:
    """
    The probability of a class after the first tokens of each order have been taken out of the text, (orders,
    fractions). A token that is taken out is masked like padding: the waves and the pooling do not see it.
    """
    mask = torch.ones((len(orders), len(FRACTIONS), len(ids)), dtype=torch.long)
    for number, order in enumerate(orders):
        for place, fraction in enumerate(FRACTIONS):
            mask[number, place, order[: round(fraction * len(order))]] = 0
    masks = mask.flatten(0, 1).to(model.device)
    inputs = torch.tensor(ids, device=model.device).expand(len(masks), -1)
    probabilities = model(input_ids=inputs, attention_mask=masks).logits.softmax(dim=-1)[:, target]
    return probabilities.double().cpu().numpy().reshape(len(orders), len(FRACTIONS))


def summarise(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the curves of all texts come to: `WavesResult.deletion`."""
    curves = {name: np.array([each["curves"][name] for each in measured]) for name in LOOKS}
    areas = {name: find_areas(curve) for name, curve in curves.items()}
    known = np.array([each["correlation"] for each in measured if each["correlation"] is not None])
    differences = {name: areas[name] - areas[RANDOM] for name in (SHARE, GRADIENTS)}
    count = len(measured)
    return {
        "texts": count,
        "curves": {
            name: {"mean": curve.mean(axis=0).tolist(), "sd": curve.std(axis=0, ddof=min(1, count - 1)).tolist()}
            for name, curve in curves.items()
        },
        "areas": {name: mean_and_sd(values) for name, values in areas.items()},
        "differences": {
            name: {"mean": float(values.mean()), "se": mean_and_sd(values)["sd"] / math.sqrt(count)}
            for name, values in differences.items()
        },
        "correlation": mean_and_sd(known) if len(known) else None,
    }


def find_areas(curves: np.ndarray) -> np.ndarray:
    """The area under each curve over the fractions, by the trapezoid rule: (texts, fractions) to (texts,)."""
    return ((curves[:, 1:] + curves[:, :-1]) / 2 * np.diff(FRACTIONS)).sum(axis=1)


def mean_and_sd(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=min(1, len(values) - 1)))}


# Figures.


def draw_waves(record: dict[str, Any], result: WavesResult) -> Iterator[Picture]:
    yield Picture(
        "waves",
        draw_heat(record, result),
        "The text, token by token: its energy share in each dimension (first variant, dimensions by falling "
        "magnitude), where its two variants interfere constructively (positive) and destructively (negative), and the "
        "energy share over all dimensions beside what the token adds to the logit.",
    )
    yield Picture(
        "waves_phases",
        draw_rings(record, result),
        "The phases: each ring is a token, each dot one of its dimensions. The further from π/2, the more of the "
        "dimension's energy is the token's.",
    )
    yield Picture(
        "waves_magnitudes",
        draw_magnitudes(record, result),
        "The magnitude of each dimension, which all tokens of the text share, in falling order.",
    )
    yield Picture(
        "waves_deletion",
        draw_deletion(record, result),
        "Deletion curve: probability of the predicted class when tokens are taken out of a text in three orders; mean "
        "and one standard deviation over the texts. At 100 % only [CLS] and [SEP] are left.",
    )


def draw_heat(record: dict[str, Any], result: WavesResult) -> Any:
    tokens = [row["token"] for row in result.table]
    phases = np.array(result.phases)
    by_magnitude = np.argsort(-np.array(result.magnitudes[0]), kind="stable")
    figure = new_figure(12, max(3.2, 0.24 * len(tokens) + 1.6))
    heat, interference, bars = figure.subplots(1, 3, sharey=True, width_ratios=[4, 4, 3])
    span = {"aspect": "auto", "interpolation": "nearest"}
    shares = 100 * np.cos(phases[0][:, by_magnitude]) ** 2
    image = heat.imshow(shares, cmap="cividis", vmin=0, **span)
    figure.colorbar(image, ax=heat, label="energy share (%)", location="bottom", shrink=0.8)
    heat.set_title("energy shares, first variant")
    cosines = np.cos(phases[0] - phases[1])[:, by_magnitude]
    image = interference.imshow(cosines, cmap="PuOr", vmin=-1, vmax=1, **span)
    figure.colorbar(image, ax=interference, label=COSINE, location="bottom", shrink=0.8)
    interference.set_title("interference of the variants")
    for axes in (heat, interference):
        axes.set_xlabel("dimension, by falling magnitude")
        # The words come from the text: a dollar sign in one must not be read as mathematics.
        axes.set_yticks(range(len(tokens)), tokens, fontsize=8, parse_math=False)
    places = np.arange(len(tokens))
    bars.barh(
        places - 0.2,
        [row["energy share (%)"] for row in result.table],
        0.4,
        color=BLUE,
        label="energy share (%), below",
    )
    bars.set_xlabel("energy share (%)", color=BLUE)
    other = bars.twiny()
    gradients = [row["integrated gradients (logit)"] for row in result.table]
    other.barh(places + 0.2, gradients, 0.4, color=VERMILION, hatch="////", edgecolor="white", linewidth=0)
    other.set_xlabel("integrated gradients (logit, hatched)", color=VERMILION)
    # One zero for both axes.
    least, most = min(0.0, *gradients), max(0.0, *gradients, 1e-12)
    top = max(row["energy share (%)"] for row in result.table)
    bars.set_xlim(1.05 * top * least / most, 1.05 * top)
    other.set_xlim(1.05 * least, 1.05 * most)
    bars.axvline(0, color=BLACK, linewidth=0.8)
    figure.suptitle(
        f"{record['model']['name']}: {result.label} ({result.probability:.1%}), n = {len(tokens)} tokens, "
        f"{len(result.magnitudes[0])} dimensions",
        parse_math=False,
        fontsize=10,
    )
    return figure


def draw_rings(record: dict[str, Any], result: WavesResult) -> Any:
    phases = np.array(result.phases)
    energy = [row["energy share (%)"] for row in result.table]
    chosen = sorted(np.argsort([-value for value in energy], kind="stable")[:RINGS])
    figure = new_figure(10, 3.6)
    # By hand: a half disc gets the place of a whole one otherwise.
    figure.set_layout_engine("none")
    panels = [figure.add_axes((left, -0.12, 0.43, 1.19), projection="polar") for left in (0.01, 0.45)]
    for axes, variant, title in zip(panels, phases, ("first variant, w", "second variant, w'"), strict=True):
        for ring, token in enumerate(chosen, start=3):
            dots = axes.scatter(
                variant[token],
                np.full(variant.shape[1], ring),
                c=100 * np.cos(variant[token]) ** 2,
                s=9,
                cmap="cividis",
                vmin=0,
                vmax=100,
                rasterized=True,  # there are thousands, which would make a large SVG
            )
            name = result.table[token]["token"]
            axes.text(-0.06, ring, name, fontsize=7, rotation=-60, va="top", ha="left", parse_math=False)
        axes.set_thetamin(0)
        axes.set_thetamax(180)
        axes.set_xticks([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi], ["", "π/4", "π/2", "3π/4", ""])
        axes.set_rgrids(range(3, 3 + len(chosen)), [""] * len(chosen))
        axes.set_rlim(0, 3 + len(chosen))
        axes.grid(alpha=0.3)
        axes.set_title(title, fontsize=10, y=0.82)
    figure.colorbar(dots, cax=figure.add_axes((0.91, 0.2, 0.015, 0.6)), label="energy share (%)")
    cut = f", those with most energy of {len(result.table)}" if len(chosen) < len(result.table) else ""
    figure.suptitle(
        f"{record['model']['name']}: phase (rad) of n = {len(chosen)} tokens{cut}, {phases.shape[2]} dimensions each",
        parse_math=False,
        fontsize=10,
    )
    return figure


def draw_magnitudes(record: dict[str, Any], result: WavesResult) -> Any:
    figure = new_figure(6, 3.4)
    axes = figure.add_subplot()
    for values, label, colour, dashes in zip(
        result.magnitudes, ("first variant, G", "second variant, G'"), (BLUE, VERMILION), ("-", "--"), strict=True
    ):
        axes.plot(range(1, len(values) + 1), sorted(values, reverse=True), color=colour, linestyle=dashes, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("dimension, by falling magnitude")
    axes.set_ylabel("magnitude (units of the embedding)")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(
        f"{record['model']['name']}: n = {len(result.magnitudes[0])} dimensions, {len(result.table)} tokens",
        parse_math=False,
        fontsize=10,
    )
    return figure


def draw_deletion(record: dict[str, Any], result: WavesResult) -> Any:
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    percent = [100 * fraction for fraction in FRACTIONS]
    for name, (colour, marker, dashes) in LOOKS.items():
        mean, sd = (np.array(result.deletion["curves"][name][key]) for key in ("mean", "sd"))
        low, high = np.clip([mean - sd, mean + sd], 0, 1)
        axes.fill_between(percent, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(
            percent,
            mean,
            color=colour,
            marker=marker,
            linestyle=dashes,
            label=f"by {name}" if name != RANDOM else f"in {name}",
        )
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("tokens taken out (%)")
    axes.set_ylabel("probability of the predicted class")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    axes.set_title(f"{describe_source(record)}: n = {result.deletion['texts']:,} texts", parse_math=False, fontsize=10)
    return figure


def describe_source(record: dict[str, Any]) -> str:
    data = record["data"]
    return f"{record['model']['name']} on {data['name']}, {data['held_out_split']}" if data else record["model"]["name"]


# Words.


def describe_waves(record: dict[str, Any], result: WavesResult) -> str:
    phases, deletion = np.array(result.phases), result.deletion
    cosines = np.cos(phases[0] - phases[1])
    by_share, by_gradient = (
        [row["token"] for row in sorted(result.table, key=lambda row: -row[name])[:3]]
        for name in ("energy share (%)", "integrated gradients (logit)")
    )
    total = sum(row["energy share (%)"] for row in result.table)
    shown = result.text if len(result.text) <= 300 else f"{result.text[:300]} …"
    areas = [
        {
            "order": name,
            "area under the curve": f"{deletion['areas'][name]['mean']:.3f} ± {deletion['areas'][name]['sd']:.3f}",
            "less that of a random order": (
                f"{deletion['differences'][name]['mean']:+.3f} ± {deletion['differences'][name]['se']:.3f}"
                if name in deletion["differences"]
                else None
            ),
        }
        for name in LOOKS
    ]
    correlation = deletion["correlation"]
    agree = (
        f" Spearman's rank correlation between energy shares and integrated gradients within a text is "
        f"{correlation['mean']:.2f} ± {correlation['sd']:.2f}."
        if correlation
        else ""
    )
    own = (
        ""
        if record["model"]["magnitude"] == "l2"
        else " The model itself was trained with the RMS magnitude; the waves here are the paper's."
    )
    return "\n\n".join(
        [
            f"> {' '.join(shown.split())}",
            f"The model says **{result.label}**, with a probability of {result.probability:.1%}. The energy shares of "
            f"its {len(result.table)} tokens sum to {total:.6f} %; the largest are those of {quote(by_share)}. By "
            f"integrated gradients, most for the decision is done by {quote(by_gradient)}; their sum over the tokens "
            f"misses the difference of the logits by {result.rest:.1e}.{own}",
            f"The two variants interfere constructively, {COSINE} > 0, in {100 * np.mean(cosines > 0):.1f} % of all "
            f"tokens and dimensions and destructively in {100 * np.mean(cosines < 0):.1f} %; the mean cosine is "
            f"{cosines.mean():.3f}. Phases lie between 0 and π and crowd around π/2, so two of them are seldom more "
            "than π/2 apart.",
            f"Deletion, over {deletion['texts']:,} texts (means ± standard deviation, differences ± standard error; "
            "the smaller the area, the sooner the decision falls):",
            make_table(areas),
            f"An energy share says how much of a dimension is the token's, not what the model makes of it.{agree}",
        ]
    )


def quote(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.6 system-ui, sans-serif; color: #111; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .3rem; }
p.text { line-height: 2.1; } p.text span { padding: .15em .3em; border-radius: .2em; white-space: nowrap; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .15rem .7rem; text-align: right; }
th { border-bottom: 1px solid #111; } th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } small, figcaption { color: #444; font-size: .85rem; }
"""


def make_page(record: dict[str, Any], result: WavesResult) -> str:
    """The waves of the text as a page that needs nothing but itself, without scripts."""
    shares = [row["energy share (%)"] for row in result.table]
    gradients = [row["integrated gradients (logit)"] for row in result.table]
    weakened = [1 - row["cos(alpha - alpha'), mean"] for row in result.table]
    lines = [
        ("Energy shares", "How much of the text's energy is the token's: the darker, the more.", shares, "{:.1f} %"),
        (
            "Integrated gradients",
            f"What the token adds to the logit of {result.label}: blue for it, orange and underlined against it.",
            gradients,
            "{:+.3f}",
        ),
        (
            "Interference",
            f"How far the two variants are from strengthening each other fully, 1 - {COSINE}: the darker, the further.",
            weakened,
            "{:.3f}",
        ),
    ]
    sections = []
    for title, words, values, form in lines:
        spans = " ".join(
            f'<span style="{shade(value, values)}" title="{html.escape(form.format(value))}">'
            f"{html.escape(row['token'])}</span>"
            for row, value in zip(result.table, values, strict=True)
        )
        sections.append(f'<h2>{title}</h2>\n<small>{html.escape(words)}</small>\n<p class="text">{spans}</p>')
    for name, draw, words in (
        ("phases", draw_rings, "Phases: a ring for each token, a dot for each dimension."),
        (
            "deletion",
            draw_deletion,
            "What happens to a decision when tokens are taken out of a text in the order of each.",
        ),
    ):
        svg = to_svg(draw(record, result), name)
        sections.append(f"<figure>{svg}<figcaption>{words}</figcaption></figure>")
    header = "".join(f"<th>{html.escape(name)}</th>" for name in result.table[0])
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td>{html.escape(v if isinstance(v, str) else f'{v:.3f}')}</td>" for v in row.values())
        + "</tr>"
        for row in result.table
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Waves: {html.escape(result.label)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(result.label)}, {result.probability:.1%}</h1>
<p>What the first layer of the Wave Network <b>{html.escape(record["model"]["name"])}</b> makes of a text, and beside it
what decides. An energy share describes the mixing; it does not explain the prediction.</p>
{chr(10).join(sections)}
<h2>Table</h2>
<table>
<tr>{header}</tr>
{rows}
</table>
<p><small>wave-network analyze waves, {record["date"]}, seed {record["seed"]}; {html.escape(versions)}.</small></p>
</body>
</html>
"""


def shade(value: float, values: Sequence[float]) -> str:
    """A background on which black can be read: blue for positive values, orange and underlined for negative ones."""
    strength = 0.9 * abs(value) / max(max(abs(each) for each in values), 1e-12)
    if value < 0:
        return f"background:rgba(230,159,0,{strength:.2f});border-bottom:2px dashed"
    return f"background:rgba(86,180,233,{strength:.2f})"


STUDY = Study(
    title="The waves of a text",
    settings=WavesSettings,
    paper={"texts": 1000, "orders": 20, "steps": 200},
    result=WavesResult,
    measure=measure_waves,
    draw=draw_waves,
    describe=describe_waves,
    pages=lambda record, result: {"waves.html": make_page(record, result)},
    packages=("matplotlib", "captum"),
    needs_data=False,
    needs_classifier=True,
    check=check,
    lengths=lambda settings: {"max_length": settings.max_length, "deletion_length": settings.deletion_length},
)
