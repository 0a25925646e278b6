"""Draws the figures of docs/analysis.md again and fills in its findings: `python -m research.studies`.

A result that is shown there lies in research/results/analysis/STUDY/result.json, as `wave-network analyze` left it. Its
findings stand between `<!-- study: NAME -->` and `<!-- end of study -->`.
"""

import shutil
import tempfile
from pathlib import Path

from wave_network.analysis.study import STUDIES, load_study, read_result, write_files
from wave_network.files import write_text

from .runs import RESULTS, ROOT

FIGURES = ROOT / "docs" / "figures" / "analysis"


def main() -> None:
    page = ROOT / "docs" / "analysis.md"
    text = page.read_text(encoding="utf-8")
    for name in STUDIES:
        folder = RESULTS / "analysis" / name
        record, result = read_result(folder / "result.json")
        with tempfile.TemporaryDirectory() as made:
            write_files(record, result, Path(made))
            shutil.copy(Path(made) / "table.csv", folder)
            for picture in (*Path(made).glob("*.png"), *Path(made).glob("*.html")):
                shutil.copy(picture, FIGURES)
        versions = ", ".join(f"{package} {record['versions'][package]}" for package in ("transformers", "torch"))
        findings = f"{load_study(name).describe(record, result)}\n\n*{record['date']}, {record['device']}, {versions}.*"
        start, end = f"<!-- study: {name} -->\n", "<!-- end of study -->"
        before, rest = text.split(start)
        text = f"{before}{start}{findings}\n{end}{rest.partition(end)[2]}"
    write_text(page, text)


if __name__ == "__main__":
    main()
