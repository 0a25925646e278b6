"""The study `independence`: how far the dimensions of the embedding stay apart, in the layer and in the table of words.

In the lift and in the superposition no dimension sees another (2411.06989; docs/maths.md, section 6): the Jacobian
between two of them is exactly zero. The linear maps and the normalisation around them do mix dimensions. The
off-diagonal share of a Jacobian says how much: the part of the sum of its squares that joins two different dimensions.
It is 0 if each dimension stays with itself, and `1 - 1 / D` if all D are mixed alike.

In the table of words two dimensions depend on each other as far as they are correlated over its rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from ..files import setting
from ..modeling_wave.ops_wave import lift, superpose
from .figures import BLACK, BLUE, VERMILION, new_figure
from .phase import find_embeddings, find_variants
from .study import Experiment, Picture, Result, Settings, Study
from .trainings import make_bert_shape

MAPS = ["lift", "superposition", "linear map to the variants"]
MAPS += ["wave layer without its residual", "wave layer", "layer of BERT"]
SHARE, ALIKE, TOKENS = "off-diagonal share (%)", "if all mix alike (%)", "from other tokens (%)"
MEAN, LARGEST = "correlation, mean of the absolute", "correlation, largest absolute"
WAVE, BERT, RANDOM = "Wave Network's table", "BERT's table", "random table"
# The columns of the table: a Jacobian fills in the first ones, a table of words the last ones.
COLUMNS = ("of", "dimensions", "texts or words", SHARE, ALIKE, TOKENS, MEAN, LARGEST)

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class IndependenceSettings(Settings):
    """How much to measure."""

    texts: int = setting("Texts at which Jacobians are taken, at one token of each.", 8)
    max_length: int = setting("Tokens to which these are cut.", 32)


def measure(experiment: Experiment, settings: IndependenceSettings) -> Result:
    """A row for each Jacobian and each table of words. Details: `bert_shape`, width and layers of the BERT."""
    model, given = experiment.model, experiment.arguments.bert
    bert = experiment.load_bert(2, **make_bert_shape(768, 12)).eval()
    rows = experiment.draw_rows(settings.texts)[:]
    ids = bert_ids = experiment.encode(rows, settings.max_length)
    if given is not None:
        bert_ids = experiment.encode(rows, settings.max_length, AutoTokenizer.from_pretrained(given))
    table = []
    for name in tqdm(MAPS, unit=" Jacobians"):
        who = (bert, bert_ids) if "BERT" in name else (model, ids)
        table.append(measure_jacobian(name, *who, experiment.seed))
    words = find_table(model)
    tables = {WAVE: words, BERT: find_table(bert), RANDOM: torch.randn(words.shape, dtype=torch.float64)}
    table += [measure_table(name, table_VD) for name, table_VD in tables.items()]
    shape = {"hidden_size": bert.config.hidden_size, "num_hidden_layers": bert.config.num_hidden_layers}
    return Result(table, {"bert_shape": shape})


# The Jacobians.


def find_map(name: str, model: Any, ids: list[int]) -> tuple[Map, torch.Tensor]:
    """
    The map of this name, (B, L, inputs) to (B, L, outputs), and the text at which it is differentiated, (1, L, inputs).
    Inputs and outputs may hold several parts of D dimensions side by side.
    """
    input_ids, config = torch.tensor([ids], device=model.device), model.config
    x_1LD = find_embeddings(model, input_ids)
    if name == "layer of BERT":
        return model.base_model.encoder.layer[0], x_1LD
    layer = model.base_model.layers[0]
    own = {"wave layer": layer, "wave layer without its residual": layer.mixing, MAPS[2]: layer.mixing.variants}
    if name in own:
        return own[name], x_1LD
    variants = find_variants(model, input_ids)
    if name == "lift":
        return lambda w_BLD: torch.cat(lift(w_BLD, None, config.magnitude), dim=-1), variants[0]
    return lambda v_BLE: superpose(v_BLE, None, config.wave_operation, config.magnitude), torch.cat(variants, dim=-1)


def measure_jacobian(name: str, model: Any, texts: list[list[int]], seed: int) -> dict[str, Any]:
    """The row of a Jacobian, over all texts."""
    dimensions, generator = model.config.hidden_size, torch.Generator().manual_seed(seed)
    energy_DD, of_others = torch.zeros(dimensions, dimensions, dtype=torch.float64), 0.0
    for ids in texts:
        token = int(torch.randint(len(ids), (), generator=generator))
        energy, others = differentiate(*find_map(name, model, ids), dimensions, token)
        energy_DD, of_others = energy_DD + energy, of_others + others
    total = float(energy_DD.sum())
    off_diagonal = float(energy_DD.fill_diagonal_(0).sum())
    row = {"of": name, "dimensions": dimensions, "texts or words": len(texts), SHARE: 100 * off_diagonal / total}
    return dict.fromkeys(COLUMNS) | row | {ALIKE: 100 * (1 - 1 / dimensions), TOKENS: 100 * of_others / total}


def differentiate(function: Map, x_1LI: torch.Tensor, dimensions: int, token: int) -> tuple[torch.Tensor, float]:
    """
    The squares of the Jacobian of a map, for the outputs at one token of a text: by dimension of the output and of the
    input, shape (D, D), in float64, summed over tokens and over the parts that belong to one dimension; and how much of
    their sum comes from other tokens.
    """
    jacobian_OLI = torch.autograd.functional.jacobian(lambda x_BLI: function(x_BLI)[0, token], x_1LI)[:, 0]
    parts_ODLID = jacobian_OLI.double().cpu().square().unflatten(2, (-1, dimensions)).unflatten(0, (-1, dimensions))
    energy_DLD = parts_ODLID.sum(dim=(0, 3))
    energy_DD = energy_DLD.sum(dim=1)
    energy_DLD[:, token] = 0
    return energy_DD, float(energy_DLD.sum())


# The tables of words.


@torch.no_grad()
def find_table(model: Any) -> torch.Tensor:
    """The word embeddings, (words, D), without the row of padding, which is no word's."""
    table_VD, padding = model.get_input_embeddings().weight.double().cpu(), model.config.pad_token_id
    return table_VD[torch.arange(len(table_VD)) != (-1 if padding is None else padding)]


def measure_table(name: str, table_VD: torch.Tensor) -> dict[str, Any]:
    """The row of a table of words: how far two different dimensions are correlated; 0 with a constant one."""
    words, dimensions = table_VD.shape
    correlations_DD = torch.corrcoef(table_VD.T).nan_to_num().abs().fill_diagonal_(0)
    mean = float(correlations_DD.sum()) / (dimensions * (dimensions - 1))
    row = {"of": name, "dimensions": dimensions, "texts or words": words}
    return dict.fromkeys(COLUMNS) | row | {MEAN: mean, LARGEST: float(correlations_DD.max())}


def draw(record: dict[str, Any], result: Result) -> Iterator[Picture]:
    rows = [row for row in result.table if row[SHARE] is not None]
    figure = new_figure(11, 5, f"{record['model']['name']} and {name_bert(record, result)}")
    axes = figure.add_subplot()
    names, shares = [row["of"] for row in rows], [row[SHARE] for row in rows]
    bars = axes.barh(names, shares, color=[VERMILION if "BERT" in name else BLUE for name in names])
    axes.bar_label(bars, list(map(format_share, shares)), padding=4)
    axes.plot([row[ALIKE] for row in rows], names, "|", color=BLACK, markersize=22, label="if all dimensions mix alike")
    axes.set(xlim=(0, 118), xlabel="off-diagonal share (%)")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center")
    yield Picture(
        "independence",
        figure,
        "If one dimension of the input changes a little, how much of the change in the output is in other dimensions? "
        "0 %: dimensions are independent. The mark: each dimension touches all others as much as itself.",
    )


def format_share(share: float) -> str:
    return "exactly 0 %" if share == 0 else f"{share:.3g} %"


def name_bert(record: dict[str, Any], result: Result) -> str:
    shape = result.details["bert_shape"]
    name = record["bert"] or "with random weights"
    return f"BERT {name} ({shape['num_hidden_layers']} layers, width {shape['hidden_size']})"


def describe(record: dict[str, Any], result: Result) -> str:
    rows = {row["of"]: row for row in result.table}
    shares = {name: format_share(row[SHARE]) for name, row in rows.items() if row[SHARE] is not None}
    layer, bert_layer = rows["wave layer"], rows["layer of BERT"]
    wave, bert, random = (rows[name] for name in (WAVE, BERT, RANDOM))
    new = "" if record["bert"] else " A BERT with random weights says nothing about a trained one (`--bert`)."
    return (
        f"**In the layer.** Between two dimensions the lift has {shares['lift']} of its squares and the superposition "
        f"{shares['superposition']}: here dimensions are independent. Around them they are not. The linear map has "
        f"{shares['linear map to the variants']} between two dimensions, what the layer adds to its input "
        f"{shares['wave layer without its residual']}; a map that mixes all dimensions alike has "
        f"{layer[ALIKE]:.3g} %. The whole layer has {shares['wave layer']}, since its residual "
        f"connection keeps dimensions in place. The first layer of {name_bert(record, result)} has "
        f"{shares['layer of BERT']}. From other tokens come {layer[TOKENS]:.3g} % of the squares in the wave layer and "
        f"{bert_layer[TOKENS]:.3g} % in BERT's.{new}\n\n"
        f"**In the table of words.** Two dimensions of the Wave Network are correlated by {wave[MEAN]:.3f} (mean of "
        f"the absolute), of BERT by {bert[MEAN]:.3f}, of a random table by {random[MEAN]:.3f}."
    )


STUDY = Study(
    "Independence of the embedding dimensions", IndependenceSettings, measure, draw, describe, lengths=("max_length",)
)
