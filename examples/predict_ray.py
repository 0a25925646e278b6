"""Classify a folder of Parquet files on a Ray cluster: `python examples/predict_ray.py EXPORT FROM TO`.

EXPORT is what `wave-network export` wrote. All machines must see the three folders. Each file of FROM gives a file of
the same name in TO, with the answers of `wave-network predict` beside its columns. A file appears in TO when it is
complete, and is not made again: the same command goes on where it was stopped. What a lost machine had begun, another
one does.
"""

import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import ray

from wave_network.files import open_whole
from wave_network.inference.classify import CHUNK, ExportedClassifier


def classify_files(batch: dict[str, Any], export: str, source: str, target: str) -> dict[str, Any]:
    """How many rows each file has. Ray runs this in one process for each core of the cluster."""
    classifier = ExportedClassifier(export, threads=1)
    return {"rows": [classify_file(classifier, Path(source, name), Path(target, name)) for name in batch["item"]]}


def classify_file(classifier: ExportedClassifier, source: Path, target: Path) -> int:
    columns, rows = classifier.text_columns, []
    table = pyarrow.parquet.read_table(source, partitioning=None)
    if missing := set(columns) - set(table.column_names):
        raise ValueError(f"{source} must have the columns {columns}; it has no {min(missing)!r}.")
    texts = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    for start in range(0, len(texts), CHUNK):
        chunk = [tuple(text or "" for text in each) for each in texts[start : start + CHUNK]]
        logits = classifier.logits([each if len(each) == 2 else " ".join(filter(None, each)) for each in chunk])
        rows += classifier.make_rows(logits, start)
    for place, name in enumerate(classifier.make_header()[1:], start=1):  # without the number of the row
        kind = pyarrow.string() if name == "label" and classifier.problem != "regression" else pyarrow.float64()
        kind = pyarrow.list_(kind) if name == "label" and classifier.is_multi else kind
        name = f"predicted_{name}" if name in table.column_names else name
        table = table.append_column(name, pyarrow.array([row[place] for row in rows], kind))
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(target, "wb") as file:
        pyarrow.parquet.write_table(table, file)
    return len(table)


def main(export: str, source: str, target: str) -> None:
    folders = {"export": str(Path(export).resolve()), "source": str(Path(source).resolve())}
    folders["target"] = str(Path(target).resolve())
    names = [path.relative_to(source).as_posix() for path in sorted(Path(source).rglob("*.parquet"))]
    left = [name for name in names if not Path(target, name).exists()]
    print(f"{len(names) - len(left):,} of {len(names):,} files are done", flush=True)
    if left:
        ray.init()  # the cluster of RAY_ADDRESS or of `ray start`, or else the cores of this machine
        done = ray.data.from_items(left).map_batches(classify_files, batch_size=1, fn_kwargs=folders).take_all()
        print(f"{sum(each['rows'] for each in done):,} rows are classified")


if __name__ == "__main__":
    main(*sys.argv[1:])
