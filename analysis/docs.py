"""`make docs`: the figures and tables of docs/analysis.md again, from the committed results of `wave-network analyze`.

A result that is to be shown there lies in benchmarks/results/analysis/STUDY/result.json, as the study left it. Its
figures are written to docs/figures/analysis/, its table and its findings in words beside it, and benchmarks/tables.py
puts these two into the text.
"""

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .study import STUDIES, load_study, read_bert, save_pictures, write_atomically, write_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "analysis"
FIGURES = ROOT / "docs" / "figures" / "analysis"


def draw_again(folder: Path, figures: Path) -> list[Path]:
    """
    Makes the tables and `findings.md` of a result in its folder, and its figures and pages in another one.

    Returns:
        The figures (PNG) and pages.

    Raises:
        FileNotFoundError: There is no `result.json` in the folder.
    """
    written = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    record = written["study"]
    study = load_study(record["study"])
    result = study.result(**written["result"])
    write_tables(folder, result)
    write_atomically(folder / "findings.md", f"{study.describe(record, result)}\n\n{describe_run(record)}\n")
    made = [figures / f"{picture.name}.png" for picture in save_pictures(study, record, result, figures)]
    for name, text in study.pages(record, result).items():
        write_atomically(figures / name, text)
        made.append(figures / name)
    return made


def describe_run(record: dict[str, Any]) -> str:
    """In which run a result was measured: the command, with what is set other than by default, and the machine."""
    words = ["wave-network", "analyze", record["study"], "--model", record["model"]["name"]]
    words += ["--data", record["data"]["name"]] if record["data"] else []
    bert = read_bert(record)
    words += [] if bert is None else ["--bert", bert]
    defaults = asdict(load_study(record["study"]).settings())
    for name, value in record["settings"].items():
        if value != defaults[name]:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"`{shlex.join(words)}`, seed {record['seed']}, {record['date']}, {record['device']}, {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for the figures (default: %(default)s)")
    arguments = parser.parse_args()
    found = [name for name in STUDIES if (arguments.results / name / "result.json").is_file()]
    if not found:
        parser.error(f"argument --results: there is no result of a study in {str(arguments.results)!r}.")
    for name in found:
        for path in draw_again(arguments.results / name, arguments.out):
            print(path)


if __name__ == "__main__":
    main()
