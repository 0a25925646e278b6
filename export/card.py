"""Writes README.md of an exported folder, from its files alone."""

import html
import json
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).with_name("card.md")


def write_card(folder: Path) -> None:
    config, manifest = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("config.json", "export.json")
    )
    # A folder of one's own is no name that the Hub knows.
    model = manifest["classifier"]["model"]
    text = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined).render(
        labels=[show(config["id2label"][str(index)]) for index in range(len(config["id2label"]))],
        architecture=config["architectures"][0],
        on_hub=model if "/" in model else None,
        requirements=(folder / "requirements.txt").read_text(encoding="utf-8").split(),
        **manifest["classifier"],
        **manifest["checks"],
    )
    (folder / "README.md").write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def show(label: str) -> str:
    """A label, which may be anything, as one line without tags."""
    return html.escape(" ".join(label.split()), quote=False)
