"""Writes the tables of README.md and docs/choices.md from the result files: `python benchmarks/tables.py`.

`--check` writes nothing and fails if a table is not what the result files say; the tests run it.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> list[dict]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def classification_table() -> str:
    """Mean and standard deviation over the seeds of benchmarks/classification.py."""
    groups = defaultdict(list)
    for row in read("classification.jsonl"):
        groups[row["dataset"], row["rows"]["train"], row["rows"]["validation"], row["model"]].append(row)
    lines = [
        "| data (train + validation / test) | model | test accuracy, % | runs | parameters (core) | seconds | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dataset, train, validation, model), rows in sorted(groups.items(), key=lambda item: item[0][0::3]):
        accuracies = [100 * row["accuracy"] for row in rows]
        spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        core = f" ({rows[0]['core_parameters']:,})" if "core_parameters" in rows[0] else ""
        seconds = f"{mean(row['seconds'] for row in rows):.0f}"
        data = f"{dataset} ({train:,} + {validation:,} / {rows[0]['rows']['test']:,})"
        lines.append(
            f"| {data} | {model} | {mean(accuracies):.2f}{spread} | {len(rows)} | {rows[0]['parameters']:,}{core} "
            f"| {seconds} | {max(row['date'] for row in rows)} |"
        )
    return "\n".join(lines)


def choices_table() -> str:
    """Best epoch and last epoch of benchmarks/choices.py, mean over the seeds."""
    groups = defaultdict(list)
    for row in read("choices.jsonl"):
        groups[row["case"]["hidden_size"], row["name"]].append(row)
    lines = [
        "| hidden size | case | best epoch, % | last epoch, % | epochs | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (hidden_size, name), rows in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "base")):
        best = [100 * max(row["validation_accuracy_by_epoch"]) for row in rows]
        last = [100 * row["validation_accuracy_by_epoch"][-1] for row in rows]
        spread = f" ± {stdev(best):.2f}" if len(best) > 1 else ""
        lines.append(
            f"| {hidden_size} | {name} | {mean(best):.2f}{spread} | {mean(last):.2f} | {rows[0]['case']['epochs']} "
            f"| {len(rows)} |"
        )
    return "\n".join(lines)


TABLES = {"README.md": {"classification": classification_table}, "docs/choices.md": {"choices": choices_table}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a table is out of date, and write nothing")
    check = parser.parse_args().check
    stale = []
    for file, tables in TABLES.items():
        path = ROOT / file
        old = new = path.read_text(encoding="utf-8")
        for name, make in tables.items():
            begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
            pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), flags=re.DOTALL)
            if not pattern.search(new):
                sys.exit(f"{file} has no place for the table {name!r}: {begin} ... {end}")
            table = f"{begin}\n{make()}\n{end}"
            new = pattern.sub(lambda _, table=table: table, new)
        if new != old:
            stale.append(file)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"Not what the result files say: {', '.join(stale)}. Run: python benchmarks/tables.py")


if __name__ == "__main__":
    main()
