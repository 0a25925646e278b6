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
# What the Hub shows of each task: our metric, its name there, and a title.
METRICS = {
    "single": (
        ("accuracy", "accuracy", "Accuracy"),
        ("accuracy_low", "accuracy_low", "Accuracy, lower end of the 95 % interval"),
        ("accuracy_high", "accuracy_high", "Accuracy, upper end of the 95 % interval"),
        ("macro_f1", "f1", "Macro F1"),
    ),
    "multi": (
        ("micro_f1", "f1", "Micro F1"),
        ("macro_f1", "macro_f1", "Macro F1"),
        ("subset_accuracy", "accuracy", "All labels right"),
    ),
    "number": (
        ("spearman", "spearmanr", "Spearman"),
        ("pearson", "pearsonr", "Pearson"),
        ("mse", "mse", "Mean squared error"),
        ("mae", "mae", "Mean absolute error"),
    ),
}
TEMPLATE = Path(__file__).with_name("model_card.md")


def write_card(run_folder: str | os.PathLike, repo_id: str | None = None, license: str = "apache-2.0") -> Path:
    """
    Writes the model card of a run into its folder, over any card that is there.

    Args:
        run_folder: What `wave-network finetune` wrote. The card shows its `confusion_matrix.png` and `reliability.png`
            if they are there.
        repo_id: Where the folder will be pushed, `user/name`. None: the card has the name of the folder.
        license: The license of the model, as the Hub spells it.

    Returns:
        The path of the card, `run_folder/README.md`.

    Raises:
        FileNotFoundError: `metrics.json`, `config.json` or `tokenizer_config.json` is missing.
        ValueError: One of them is damaged, or `repo_id` is not a name that the Hub takes.
    """
    folder = Path(run_folder).resolve()
    name = repo_id or folder.name
    if repo_id is not None:
        validate_repo_id(repo_id)
    run, config, tokenizer = (read_json(folder / file) for file in FILES)
    try:
        split = "test" if "test" in run["results"] else "validation"
        card = ModelCard.from_template(
            describe_model(run, split, name, license),
            template_path=str(TEMPLATE),
            name=name,
            run=run,
            task=run.get("task", "single"),
            metrics=METRICS[run.get("task", "single")],
            label_column=", ".join([label] if isinstance(label := run["data"]["label_column"], str) else label),
            config=config,
            split=split,
            baselines=measure.BASELINES[run.get("task", "single")],
            measured=measure.METRICS[run.get("task", "single")],
            titles=measure.TITLES,
            show=measure.show,
            longest=tokenizer.get("model_max_length") or config.get("max_position_embeddings"),
            pictures=[path.name for path in folder.glob("*.png")],
            escape=escape,
            percent=lambda share: f"{100 * share:.2f}",
        )
    except (KeyError, TypeError, UndefinedError) as error:
        raise ValueError(f"{os.fspath(folder / 'metrics.json')!r} is not what finetune writes: {error!r}.") from error
    write_text(folder / "README.md", str(card).rstrip("\n") + "\n")
    return folder / "README.md"


def describe_model(run: dict[str, Any], split: str, name: str, license: str) -> ModelCardData:
    """The YAML at the top of the card. The Hub shows the results from it."""
    data, base_model, result = run["data"], run["base_model"], run["results"][split]
    metrics = METRICS[run.get("task", "single")]
    is_on_hub = base_model is not None and "/" in base_model and not base_model.startswith((".", "/"))
    source = {"source_name": "metrics.json", "source_url": hf_hub_url(name, "metrics.json")} if "/" in name else {}

    def describe(metric: str, title: str, value: float) -> EvalResult:
        place = {"dataset_type": data["name"], "dataset_name": data["name"], "dataset_split": split, **source}
        return EvalResult("text-classification", metric_type=metric, metric_name=title, metric_value=value, **place)

    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["wave-network", "text-classification"],
        base_model=base_model if is_on_hub else None,
        datasets=[data["name"]] if data["is_on_hub"] else None,
        metrics=[metric for _, metric, _ in metrics if not metric.startswith("accuracy_")],
        model_name=name,
        eval_results=[describe(metric, title, result[ours]) for ours, metric, title in metrics],
    )


def escape(text: str) -> str:
    """
    A text as one line of Markdown that shows it and does nothing else.

    The characters that Markdown or HTML could read become references, which mean the same in both.
    """
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", text).split())
    markup = r"[&<>\"'`|\\*\[\]~$#!:]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(markup, lambda match: f"&#{ord(match.group())};", line)
