"""The study `independence`: how far the dimensions of the embedding stay apart, in the layer and in the table.

In the lift and in the superposition no dimension sees another (2411.06989; docs/maths.md, section 6), so the Jacobian
between two of them is exactly zero. The linear maps and the normalisation around them do mix dimensions. How much, says
the off-diagonal share of a Jacobian: the part of the sum of its squares that joins two different dimensions. It is 0 if
each dimension stays with itself and `1 - 1 / D` if all D are mixed alike.

In the table of words two dimensions are dependent as far as they are correlated over its rows. The mutual coherence
(Donoho and Huo, 2001) is the largest absolute cosine between two of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, set_seed

from ..modeling_wave.embeddings_wave import WaveTokens
from ..modeling_wave.ops_wave import lift, superpose
from .figures import BLACK, BLUE, GREY, VERMILION, new_figure
from .study import Experiment, Picture, Result, Study, read_bert

# The corner of a Jacobian that is drawn, and the rows that are differentiated at once.
CORNER, AT_ONCE = 48, 64
BINS = 200
SHARE, TOKENS = "off-diagonal share (%)", "from other tokens (%)"
WAVE, BERT, RANDOM = "Wave Network's table", "BERT's table", "random table"
LOOKS = {WAVE: (BLUE, "-"), BERT: (VERMILION, "--"), RANDOM: (GREY, ":")}

# The columns of the table: a Jacobian fills in the first ones, a table of words the last ones.
COLUMNS: dict[str, Any] = dict.fromkeys(
    [
        "of",
        "dimensions",
        "texts or words",
        SHARE,
        "if all mix alike (%)",
        TOKENS,
        "correlation, mean of the absolute",
        "correlation, largest absolute",
        "mutual coherence",
        "dimensions in effect",
    ]
)

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class IndependenceSettings:
    """How much to measure."""

    _argument_group_name = "independence"

    texts: int = field(default=4, metadata={"help": "Texts at which Jacobians are taken. With --paper: 32."})
    max_length: int = field(default=32, metadata={"help": "Tokens to which these are cut. With --paper: 128."})


@dataclass(frozen=True)
class IndependenceResult(Result):
    """
    What `independence` found; a row of the table for each Jacobian and each table of words.

    Attributes:
        corners: By the name of a Jacobian, the squares of its first dimensions, summed over tokens and texts and
            divided by their largest sum: rows are outputs, columns inputs, shape (48, 48) at most.
        bins: The edges of the histograms of correlations.
        densities: By the name of a table, the density of the correlations between its dimensions.
        bert_shape: Width and layers of the BERT it is compared with.
    """

    corners: dict[str, list[list[float]]]
    bins: list[float]
    densities: dict[str, list[float]]
    bert_shape: dict[str, int]


def measure_independence(experiment: Experiment, settings: IndependenceSettings) -> IndependenceResult:
    set_seed(experiment.seed)  # of BERT's weights, if they are random
    bert = experiment.load_bert().eval()
    order = np.random.default_rng(experiment.seed).permutation(len(experiment.held_out))[: settings.texts]
    rows = experiment.held_out.select(order)[:]
    wave_ids = experiment.encode(rows, settings.max_length)
    bert_ids = wave_ids
    if experiment.arguments.bert is not None:
        tokenizer = AutoTokenizer.from_pretrained(experiment.arguments.bert)
        bert_ids = experiment.encode(rows, settings.max_length, tokenizer)
    jobs: list[tuple[str, Callable[[], Any]]] = [
        (name, partial(measure_jacobian, name, partial(find_map, model), ids, width(model), experiment.seed))
        for name, find_map, model, ids in (
            ("lift", find_lift, experiment.model, wave_ids),
            ("superposition", find_superposition, experiment.model, wave_ids),
            ("linear map to the variants", find_linear, experiment.model, wave_ids),
            ("wave layer without its residual", find_mixing, experiment.model, wave_ids),
            ("wave layer", find_wave_layer, experiment.model, wave_ids),
            ("layer of BERT", find_bert_layer, bert, bert_ids),
        )
    ]
    tables = {WAVE: find_table(experiment.model), BERT: find_table(bert)}
    jobs += [(name, partial(measure_table, name, table)) for name, table in tables.items()]
    jobs.append((RANDOM, lambda: measure_table(RANDOM, torch.randn(tables[WAVE].shape))))
    found = {}
    for number, (name, compute) in enumerate(experiment.progress(jobs, "parts")):
        found[name] = experiment.part(f"{number}", compute)
    return IndependenceResult(
        table=[each["row"] for each in found.values()],
        corners={name: each["corner"] for name, each in found.items() if "corner" in each},
        bins=np.linspace(-1, 1, BINS + 1).tolist(),
        densities={name: each["density"] for name, each in found.items() if "density" in each},
        bert_shape={"hidden_size": bert.config.hidden_size, "num_hidden_layers": bert.config.num_hidden_layers},
    )


def width(model: Any) -> int:
    return model.config.hidden_size


# The maps: each gives a function of vectors, (B, L, inputs) to (B, L, outputs), and where it is differentiated. Inputs
# and outputs may hold several parts of D dimensions side by side.


@torch.no_grad()
def find_embeddings(model: Any, ids: list[int]) -> torch.Tensor:
    """What the first layer is given for a text, shape (1, L, D)."""
    input_ids = torch.tensor([ids], device=model.device)
    if model.config.model_type == "bert":
        return model.base_model.embeddings(input_ids)
    hidden_states = model.base_model.embeddings(WaveTokens.check(input_ids))
    return hidden_states


def find_lift(model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    """`w` to `concat(re, im)`, at the first variant."""
    _, variants_1LE = find_superposition(model, ids)
    magnitude = model.config.magnitude
    return lambda w_BLD: torch.cat(lift(w_BLD, None, magnitude), dim=-1), variants_1LE.chunk(2, dim=-1)[0]


def find_superposition(model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    """`concat(w, w')` to `concat(re, im)` of the sum or the product of their waves."""
    variants, hidden_states = find_linear(model, ids)
    with torch.no_grad():
        variants_1LE = variants(hidden_states)
    config = model.config
    return lambda v_BLE: superpose(v_BLE, None, config.wave_operation, config.magnitude), variants_1LE


def find_linear(model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    """The embeddings to `concat(w, w')`."""
    return model.base_model.layers[0].mixing.variants, find_embeddings(model, ids)


def find_mixing(model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    """What the first layer adds to its input: linear map, superposition, and linear map back."""
    return model.base_model.layers[0].mixing, find_embeddings(model, ids)


def find_wave_layer(model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    """The whole first layer, with its residual connection and its normalisation."""
    return model.base_model.layers[0], find_embeddings(model, ids)


def find_bert_layer(model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    layer = model.base_model.encoder.layer[0]

    def run(x_BLD: torch.Tensor) -> torch.Tensor:
        # Older versions of transformers return a tuple.
        output = layer(x_BLD)
        return output[0] if isinstance(output, tuple) else output

    return run, find_embeddings(model, ids)


# The Jacobians.


def measure_jacobian(
    name: str,
    find_map: Callable[[list[int]], tuple[Map, torch.Tensor]],
    texts: list[list[int]],
    dimensions: int,
    seed: int,
) -> dict[str, Any]:
    """The row of a Jacobian, over all texts, and the corner of it that is drawn."""
    generator = torch.Generator().manual_seed(seed)
    energy_DD = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    of_others = 0.0
    for ids in texts:
        energy, others = differentiate(*find_map(ids), dimensions, generator)
        energy_DD += energy
        of_others += others
    total = float(energy_DD.sum())
    off_diagonal = float(energy_DD.masked_fill(torch.eye(dimensions, dtype=torch.bool), 0).sum())
    corner = (energy_DD[:CORNER, :CORNER] / energy_DD.max().clamp(min=1e-300)).tolist()
    row = {
        "of": name,
        "dimensions": dimensions,
        "texts or words": len(texts),
        SHARE: 100 * off_diagonal / total,
        "if all mix alike (%)": 100 * (1 - 1 / dimensions),
        TOKENS: 100 * of_others / total,
    }
    return {"row": COLUMNS | row, "corner": [[float(f"{value:.3g}") for value in line] for line in corner]}


def differentiate(
    function: Map, x_1LI: torch.Tensor, dimensions: int, generator: torch.Generator
) -> tuple[torch.Tensor, float]:
    """
    The squares of the Jacobian of a map at a text, of one row for each output: at a token that is drawn for each.

    Returns:
        The squares summed over tokens, and over the parts of inputs and outputs that belong to one dimension, by
        dimension of the output and of the input, shape (D, D), in float64; and what of their sum is of other tokens
        than that of the output.
    """
    length = x_1LI.shape[1]
    with torch.no_grad():
        outputs = function(x_1LI).shape[-1]
    token_O = torch.randint(length, (outputs,), generator=generator).to(x_1LI.device)
    energy_DD = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    of_others = 0.0
    for start in range(0, outputs, AT_ONCE):
        output_N = torch.arange(start, min(start + AT_ONCE, outputs), device=x_1LI.device)
        copy_N = torch.arange(len(output_N), device=x_1LI.device)
        token_N = token_O[output_N]
        # A copy of the text for each output, so that one backward gives the row of each.
        x_NLI = x_1LI.detach().expand(len(output_N), -1, -1).clone().requires_grad_(True)
        picked = function(x_NLI)[copy_N, token_N, output_N].sum()
        (gradient_NLI,) = torch.autograd.grad(picked, x_NLI)
        square_NLD = gradient_NLI.double().square().reshape(len(output_N), length, -1, dimensions).sum(dim=2)
        energy_DD.index_add_(0, output_N.cpu() % dimensions, square_NLD.sum(dim=1).cpu())
        square_NLD[copy_N, token_N] = 0
        of_others += float(square_NLD.sum())
    return energy_DD, of_others


# The tables of words.


@torch.no_grad()
def find_table(model: Any) -> torch.Tensor:
    """The word embeddings, (words, D), without the row of padding, which is no word's."""
    table_VD = model.get_input_embeddings().weight.double().cpu()
    kept_V = torch.arange(len(table_VD)) != (-1 if model.config.pad_token_id is None else model.config.pad_token_id)
    return table_VD[kept_V]


def measure_table(name: str, table_VD: torch.Tensor) -> dict[str, Any]:
    """The row of a table of words, and the histogram of the correlations between its dimensions."""
    words, dimensions = table_VD.shape
    correlations = find_cosines(table_VD - table_VD.mean(dim=0))
    variances = torch.linalg.eigvalsh(torch.cov(table_VD.T)).clamp(min=0)
    row = {
        "of": name,
        "dimensions": dimensions,
        "texts or words": words,
        "correlation, mean of the absolute": float(correlations.abs().mean()),
        "correlation, largest absolute": float(correlations.abs().max()),
        "mutual coherence": float(find_cosines(table_VD).abs().max()),
        "dimensions in effect": float(variances.sum() ** 2 / variances.square().sum()),
    }
    density = np.histogram(correlations.numpy(), bins=BINS, range=(-1, 1), density=True)[0]
    return {"row": COLUMNS | row, "density": density.tolist()}


def find_cosines(table_VD: torch.Tensor) -> torch.Tensor:
    """The cosines between each two different columns, shape (D (D - 1) / 2,); 0 with a column of zeros."""
    unit_VD = torch.nn.functional.normalize(table_VD, dim=0)
    above = torch.triu_indices(table_VD.shape[1], table_VD.shape[1], offset=1)
    return (unit_VD.T @ unit_VD)[above[0], above[1]].clamp(-1, 1)


# Figures.


def draw_independence(record: dict[str, Any], result: IndependenceResult) -> Iterator[Picture]:
    yield Picture(
        "independence",
        draw_jacobians(record, result),
        f"Squares of Jacobians, the first {CORNER} dimensions of each: rows are outputs, columns inputs. White is "
        "exactly zero.",
    )
    yield Picture(
        "independence_shares",
        draw_shares(record, result),
        "The off-diagonal share of each Jacobian, beside that of a map that mixes all dimensions alike.",
    )
    yield Picture(
        "independence_tables",
        draw_tables(record, result),
        "Correlations between the dimensions of the tables of words.",
    )


def draw_jacobians(record: dict[str, Any], result: IndependenceResult) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    figure = new_figure(9.6, 6.8)
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    colours = colormaps["viridis_r"].with_extremes(bad="white")
    rows = {row["of"]: row for row in result.table}
    for axes, (name, corner) in zip(panels.flat, result.corners.items(), strict=True):
        squares = np.ma.masked_equal(np.array(corner), 0)
        image = axes.imshow(squares, norm=LogNorm(1e-6, 1), cmap=colours, interpolation="nearest")
        axes.set_title(f"{name}\n{format_share(rows[name][SHARE])} off the diagonal", fontsize=9)
        axes.set_facecolor("white")
    for axes in panels[-1]:
        axes.set_xlabel("dimension of the input")
    for axes in panels[:, 0]:
        axes.set_ylabel("dimension of the output")
    figure.colorbar(image, ax=panels, label="square, of the largest", extend="min", shrink=0.7)
    figure.suptitle(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def draw_shares(record: dict[str, Any], result: IndependenceResult) -> Any:
    rows = [row for row in result.table if row[SHARE] is not None][::-1]
    figure = new_figure(7, 3.4)
    axes = figure.add_subplot()
    bars = axes.barh(
        [row["of"] for row in rows],
        [row[SHARE] for row in rows],
        color=[VERMILION if "BERT" in row["of"] else BLUE for row in rows],
        hatch=["////" if "BERT" in row["of"] else "" for row in rows],
        edgecolor="white",
    )
    axes.bar_label(bars, [format_share(row[SHARE]) for row in rows], padding=3)
    alike = [row["if all mix alike (%)"] for row in rows]
    axes.plot(alike, range(len(rows)), "|", color=BLACK, markersize=16, label="if all dimensions mix alike")
    axes.set_xlim(0, 118)
    axes.set_xlabel(SHARE)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    axes.set_title(describe_sample(record, result), parse_math=False, fontsize=10)
    return figure


def draw_tables(record: dict[str, Any], result: IndependenceResult) -> Any:
    rows = {row["of"]: row for row in result.table}
    figure = new_figure(7, 3.6)
    axes = figure.add_subplot()
    middles = [(low + high) / 2 for low, high in zip(result.bins, result.bins[1:], strict=False)]
    for name, (colour, dashes) in LOOKS.items():
        words, dimensions = rows[name]["texts or words"], rows[name]["dimensions"]
        axes.step(
            middles,
            result.densities[name],
            where="mid",
            color=colour,
            linestyle=dashes,
            label=f"{name}: n = {words:,} words, {dimensions} dimensions",
        )
    largest = max(row["correlation, largest absolute"] or 0 for row in result.table)
    axes.set_xlim(-1.1 * largest, 1.1 * largest)
    axes.set_yscale("log")
    axes.set_xlabel("correlation between two dimensions")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    axes.set_title(f"{record['model']['name']} and {name_bert(record, result)}", parse_math=False, fontsize=10)
    return figure


def format_share(share: float) -> str:
    return "exactly 0 %" if share == 0 else f"{share:.3g} %"


def name_bert(record: dict[str, Any], result: IndependenceResult) -> str:
    shape = f"{result.bert_shape['num_hidden_layers']} layers, width {result.bert_shape['hidden_size']}"
    name = read_bert(record)
    return f"BERT with random weights ({shape})" if name is None else f"BERT {name} ({shape})"


def describe_sample(record: dict[str, Any], result: IndependenceResult) -> str:
    texts, length = result.table[0]["texts or words"], record["settings"]["max_length"]
    return (
        f"{record['model']['name']} and {name_bert(record, result)}\n{record['data']['name']}, "
        f"{record['data']['held_out_split']}: n = {texts} texts of up to {length} tokens"
    )


# Words.


def describe_independence(record: dict[str, Any], result: IndependenceResult) -> str:
    rows = {row["of"]: row for row in result.table}
    inside = [rows[name] for name in ("lift", "superposition")]
    zero = (
        "are exactly zero, as the closed form says"
        if all(row[SHARE] == 0 for row in inside)
        else f"have shares of {inside[0][SHARE]:.1e} % and {inside[1][SHARE]:.1e} %, where the closed form says zero"
    )
    layer, bert_layer = rows["wave layer"], rows["layer of BERT"]
    wave, bert, random = (rows[name] for name in (WAVE, BERT, RANDOM))
    mean, effect = "correlation, mean of the absolute", "dimensions in effect"
    weights = (
        ""
        if record["bert"]
        else " No trained BERT was given (`--bert`): its weights are random, so its rows show its shape alone, not "
        "what training makes of it."
    )
    shares = {name: format_share(row[SHARE]) for name, row in rows.items() if row[SHARE] is not None}
    return (
        f"**In the layer.** Between two dimensions, the Jacobians of the lift and of the superposition {zero}. That is "
        "a property of these two operations, not of the network: the linear map before them has "
        f"{shares['linear map to the variants']} of its squares off the diagonal, what the layer adds to its input "
        f"{shares['wave layer without its residual']}, and the whole layer, with the residual connection that keeps "
        f"dimensions where they are, {shares['wave layer']}. One that mixes all dimensions alike would have "
        f"{layer['if all mix alike (%)']:.3g} %. The first layer of {name_bert(record, result)} has "
        f"{shares['layer of BERT']}. From other tokens than the output's own come {layer[TOKENS]:.3g} % of the squares "
        f"in the wave layer and {bert_layer[TOKENS]:.3g} % in BERT's.{weights}\n\n"
        f"**In the table of words.** The mean absolute correlation between two dimensions is {wave[mean]:.3f} in the "
        f"Wave Network, {bert[mean]:.3f} in BERT and {random[mean]:.3f} in a random table of the Wave Network's size; "
        f"the mutual coherence {wave['mutual coherence']:.3f}, {bert['mutual coherence']:.3f} and "
        f"{random['mutual coherence']:.3f}. As many dimensions without any correlation would have the same spread of "
        f"variance: {wave[effect]:.1f} of {wave['dimensions']}, {bert[effect]:.1f} of {bert['dimensions']} and "
        f"{random[effect]:.1f} of {random['dimensions']}."
    )


STUDY = Study(
    title="Independence of the embedding dimensions",
    settings=IndependenceSettings,
    paper={"texts": 32, "max_length": 128},
    result=IndependenceResult,
    measure=measure_independence,
    draw=draw_independence,
    describe=describe_independence,
    lengths=lambda settings: {"max_length": settings.max_length},
)
