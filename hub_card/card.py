"""The model card of a finished run: `model_card.md`, filled from `metrics.json` and `config.json`."""

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_url
from huggingface_hub.utils import validate_repo_id
from jinja2 import UndefinedError

from ..data import measure
from ..files import read_json, write_text

FILES = ("metrics.json", "config.json", "tokenizer_config.json")
# Metrics that have another name on the Hub; with several labels F1 is that of all, "micro".
ON_HUB = {"spearman": "spearmanr", "pearson": "pearsonr", "subset_accuracy": "accuracy", "micro_f1": "f1"}
TEMPLATE = Path(__file__).with_name("model_card.md")


def write_card(run_folder: str | os.PathLike, repo_id: str | None = None, license: str = "apache-2.0") -> Path:
    """
    Writes the model card of a run into its folder, over any card that is there.

    Args:
        run_folder: What `wave-network finetune` wrote. The card shows the pictures that are there.
        repo_id: Where the folder will be pushed, `user/name`. None: the card has the name of the folder.
        license: The license of the model, as the Hub spells it.

    Returns the path of the card, `run_folder/README.md`. Raises a FileNotFoundError or a ValueError if one of `FILES`
    is missing or damaged, or `repo_id` is not a name that the Hub takes.
    """
    folder = Path(run_folder).resolve()
    name = repo_id or folder.name
    if repo_id is not None:
        validate_repo_id(repo_id)
    run, config, tokenizer = (read_json(folder / file) for file in FILES)
    try:
        split = "test" if "test" in run["results"] else "validation"
        about: dict[str, Any] = {"name": name, "run": run, "config": config, "tokenizer": tokenizer, "split": split}
        about |= {"measure": measure, "escape": escape, "percent": lambda share: f"{100 * share:.2f}"}
        about["pictures"] = [path.name for path in folder.glob("*.png")]
        card = ModelCard.from_template(describe_model(run, split, name, license), str(TEMPLATE), **about)
    except (KeyError, TypeError, UndefinedError) as error:
        raise ValueError(f"{os.fspath(folder / 'metrics.json')!r} is not what finetune writes: {error!r}.") from error
    write_text(folder / "README.md", str(card).rstrip("\n") + "\n")
    return folder / "README.md"


def describe_model(run: dict[str, Any], split: str, name: str, license: str) -> ModelCardData:
    """The YAML at the top of the card. The Hub shows the results from it."""
    data, base_model, result = run["data"], run["base_model"], run["results"][split]
    is_on_hub = base_model is not None and "/" in base_model and not base_model.startswith((".", "/"))
    place = {"dataset_type": data["name"], "dataset_name": data["name"], "dataset_split": split}
    if "/" in name:
        place |= {"source_name": "metrics.json", "source_url": hf_hub_url(name, "metrics.json")}
    titles = {metric: measure.TITLES[metric] for metric in measure.METRICS[run["task"]]}
    on_hub = {metric: ON_HUB.get(metric, metric) for metric in titles}
    if run["task"] == "single":
        on_hub["macro_f1"] = "f1"
        titles |= {f"accuracy_{end}": f"accuracy, {end} end of the 95 % interval" for end in ("low", "high")}

    def describe(metric: str, title: str) -> EvalResult:
        kind = on_hub.get(metric, metric)
        return EvalResult(
            "text-classification", metric_type=kind, metric_name=title, metric_value=result[metric], **place
        )

    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["wave-network", "text-classification"],
        base_model=base_model if is_on_hub else None,
        datasets=[data["name"]] if data["is_on_hub"] else None,
        metrics=list(on_hub.values()),
        model_name=name,
        eval_results=[describe(metric, title) for metric, title in titles.items()],
    )


def escape(text: str) -> str:
    """A text as one line of Markdown: what Markdown or HTML could read becomes a reference, which both show."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", text).split())
    markup = r"[&<>\"'`|\\*\[\]~$#!:]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(markup, lambda match: f"&#{ord(match.group())};", line)
