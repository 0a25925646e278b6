"""Runs recipes over several seeds: `python -m research.reproduce ag-news-small --seeds 5 --data path/to/data`.

A finished seed is a line in the result file, and is not run again. A seed that was interrupted goes on from its last
checkpoint in the output folder.
"""

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from wave_network.files import append_line, read_json, read_lines, write_json

from .recipes import DATA_SETS, RECIPES, Recipe, Settings
from .runs import RESULTS, describe_measurement, locate_rows, summarise, train


def reproduce(
    names: list[str],
    seeds: int = 5,
    *,
    data: Path | None = None,
    tokenizer: str | None = None,
    output: Path = Path("runs/reproduce"),
    results: Path = RESULTS / "reproduction.jsonl",
    recipes: Mapping[str, Recipe] = RECIPES,
) -> list[dict[str, Any]]:
    """
    Runs the seeds 0, 1, ... of each recipe that are not in `results`.

    Args:
        data: Folder that holds the data sets; None for those on the Hub, which are measured apart.
        tokenizer: Folder or vocabulary file, instead of the tokenizer on the Hub that the paper's recipes name.

    Returns:
        The lines of these recipes and seeds.

    Raises:
        ValueError: A recipe is unknown, or the output folder has runs with other settings.
        FileNotFoundError: There is no such data set in `data`.
    """
    chosen = choose_recipes(names, recipes)
    where, found = describe_measurement(), []
    for recipe in chosen:
        for seed in range(1 if recipe.kind == "svm" else seeds):  # a linear SVM has one optimum
            line = find_line(results, recipe, seed, is_on_hub=data is None)
            # Other recipes start from the model of this one, which the line does not hold.
            is_start = any(other.model.get("model") == recipe.name for other in chosen)
            if line is None or (is_start and not (output / recipe.name / f"seed-{seed}" / "metrics.json").exists()):
                print(f"{recipe.name}, seed {seed}", flush=True)
                made = run_seed(recipe, seed, data, tokenizer, output) | where
                if line is None:
                    results.parent.mkdir(parents=True, exist_ok=True)
                    append_line(results, line := made)
            found.append(line)
    return found


def choose_recipes(names: list[str], recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """The recipes of these names, each after the one whose model it starts from."""
    chosen: dict[str, Recipe] = {}
    for name in names:
        if name not in recipes:
            close = difflib.get_close_matches(name, recipes, n=3) or list(recipes)[:3]
            raise ValueError(f"{name!r} is no recipe; close: {', '.join(close)}. All: --list.")
        start = recipes[name].model.get("model")
        chosen |= {each.name: each for each in (choose_recipes([start], recipes) if start else [])}
        chosen[name] = recipes[name]
    return list(chosen.values())


def find_line(results: Path, recipe: Recipe, seed: int, is_on_hub: bool) -> dict[str, Any] | None:
    """The line of a finished seed, if it had the settings of the recipe and rows from the same place."""
    key = (recipe.name, seed, describe_settings(recipe), is_on_hub)
    for line in read_lines(results):
        if (line["recipe"], line["seed"], line["settings"], line["is_on_hub"]) == key:
            return line
    return None


def describe_settings(recipe: Recipe) -> dict[str, Settings]:
    return {"model": recipe.model, "training": recipe.training, "rows": recipe.rows}


def run_seed(recipe: Recipe, seed: int, data: Path | None, tokenizer: str | None, output: Path) -> dict[str, Any]:
    """One seed, as a result line."""
    folder, start = output / recipe.name / f"seed-{seed}", recipe.model.get("model")
    check_folder(folder.parent, recipe)
    model = recipe.model | {"model": str(output / start / f"seed-{seed}") if start else "none"}
    if "tokenizer" in model and tokenizer is not None:
        model["tokenizer"] = tokenizer
    rows = locate_rows(DATA_SETS[recipe.data], data) | recipe.rows
    metrics, was_interrupted = train(folder, recipe.kind, rows, model, recipe.training, seed)
    line = {"recipe": recipe.name, "data": recipe.data, "kind": recipe.kind, "seed": seed}
    line |= {"settings": describe_settings(recipe), **summarise(metrics)}
    return line | {"seconds": None if was_interrupted else line["seconds"]}


def check_folder(folder: Path, recipe: Recipe) -> None:
    """ValueError if the folder has runs with other settings than those of the recipe."""
    path, settings = folder / "recipe.json", describe_settings(recipe)
    if path.exists() and read_json(path) != settings:
        raise ValueError(f"{str(folder)!r} has runs of {recipe.name} with other settings: choose another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def describe_recipes(recipes: Mapping[str, Recipe] = RECIPES) -> str:
    """What `--list` prints."""
    lines = []
    for recipe in sorted(recipes.values(), key=lambda recipe: list(DATA_SETS).index(recipe.data)):
        claim = recipe.claim
        sign = "at least " if claim and claim.at_least else ""
        against = f"  [{sign}{100 * claim.accuracy:.2f} %: {claim.source}]" if claim else ""
        lines.append(f"{recipe.name:32}{recipe.about}{against}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="names of recipes")
    parser.add_argument("--list", action="store_true", help="show the recipes, and what each is compared with")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each recipe, with seeds 0, 1 ... (default: 5)")
    parser.add_argument("--data", type=Path, help="folder that holds the data sets (default: the Hub)")
    parser.add_argument("--tokenizer", help="folder or vocabulary file, for recipes that name a tokenizer on the Hub")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "reproduction.jsonl", help="file of result lines")
    arguments = vars(parser.parse_args())
    if arguments.pop("list"):
        print(describe_recipes())
        return
    names = arguments.pop("recipes")
    if not names or arguments["seeds"] < 1:
        parser.error("name at least one recipe (--list shows them) and at least one seed")
    try:
        lines = reproduce(names, **arguments)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    accuracy = pd.DataFrame(lines).groupby("recipe", sort=False)["accuracy"].agg(["mean", "std", "count"])
    print(accuracy.to_string())


if __name__ == "__main__":
    main()
