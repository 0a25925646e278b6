"""
Runs an exported text classifier with onnxruntime, tokenizers and numpy, without transformers and torch.

    classifier = ExportedClassifier("bbc_news-onnx")
    classifier.classify(["Striker scores twice in the cup final"])

`wave-network export` copies this file into each folder that it writes. There it is a command, too:
`python classify.py "A text" "Another text"`, or `python classify.py --file texts.csv > labels.csv`.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

# A text, or a pair of texts for models of pairs.
Text: TypeAlias = str | tuple[str, str]

GRAPHS = ("onnx/model.onnx", "onnx/model_quantized.onnx")
CPU_TOKENS = 4096  # on a CPU a batch of more tokens leaves the caches
BEST = ("label", "probability")
CHUNK = 4096  # rows that are read, sorted by length into batches and written before the next ones are read


class Answers:
    """
    What the logits of a classifier say, by its config.json. `labels` are in the order of the logits; `problem` is
    "single_label_classification", "multi_label_classification" or "regression".
    """

    def __init__(self, config: dict[str, Any]):
        self.config, names = config, config["id2label"]
        self.labels: list[str] = [names[index] for index in sorted(names, key=int)]
        # As in transformers' models, one label and no type is a regression.
        kind = "regression" if len(names) == 1 else "single_label_classification"
        self.problem: str = config.get("problem_type") or kind
        self.is_multi = self.problem == "multi_label_classification"
        self.text_columns: list[str] | None = config.get("text_columns")
        self.thresholds: list[float] | None = config.get("classifier_thresholds")

    def make_header(self, top_k: int | None = None) -> list[str]:
        """The columns of an answer. With `top_k` they are the labels of the highest probabilities, not all of them."""
        if self.problem == "regression":
            return ["row", *self.labels]
        names = [f"probability_{label}" for label in self.labels]
        if top_k is not None:  # the best of single labels is the label itself
            names = [f"{name}_{place}" for place in range(2 - self.is_multi, top_k + 1) for name in BEST]
        return ["row", *BEST, *names]

    def make_rows(
        self, logits_NK: np.ndarray, start: int = 0, top_k: int | None = None, least: float = 0.0
    ) -> list[list[Any]]:
        """
        What stands under `make_header`, from row number `start` on. Of several labels, `label` is a list of all above
        their threshold, by default one half; else it is None if its probability is less than `least`.
        """
        scores_NK = to_scores(logits_NK, self.problem).astype(float)
        if self.problem == "regression":
            return [[row, *(float(f"{value:.6g}") for value in values)] for row, values in enumerate(scores_NK, start)]
        best_NK = np.argsort(-logits_NK, axis=-1, kind="stable")
        above_NK = scores_NK > (self.thresholds or 0.5)
        rows: list[list[Any]] = []
        for best, values in zip(best_NK.tolist(), scores_NK.round(6).tolist(), strict=True):
            label: str | list[str] | None = self.labels[best[0]] if values[best[0]] >= least else None
            if self.is_multi:
                label = [self.labels[index] for index in np.flatnonzero(above_NK[len(rows)])]
            ranked = (part for index in best[1 - self.is_multi : top_k] for part in (self.labels[index], values[index]))
            rows.append([start + len(rows), label, values[best[0]], *(values if top_k is None else ranked)])
        return rows


class ExportedClassifier(Answers):
    """
    A folder that `wave-network export` wrote. onnxruntime has so many `threads`; None: one for each core. Raises a
    ValueError that names the file if one is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike, threads: int | None = None):
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads or 0, 3
        super().__init__(load(folder / "config.json", lambda file: json.loads(Path(file).read_text(encoding="utf-8"))))
        self.text_columns: list[str] = self.text_columns or ["text"]
        self.tokenizer = load(folder / "tokenizer.json", Tokenizer.from_file)  # it cuts long texts off
        self.session = load(
            next((folder / name for name in GRAPHS if (folder / name).is_file()), folder / GRAPHS[0]),
            lambda file: onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]),
        )
        self.inputs = [node.name for node in self.session.get_inputs()]

    def classify(self, texts: Sequence[Text], top_k: int | None = 1) -> list[list[dict[str, Any]]]:
        """
        The `top_k` best labels of each text (None: all), best first, as `{"label": str, "score": float}`: what
        transformers' text-classification pipeline gives. A pair of texts is a tuple. Long texts are cut off.
        """
        scores_BC = to_scores(self.logits(texts), self.problem)
        best_BC = np.argsort(-scores_BC, axis=-1, kind="stable")[:, :top_k]
        return [
            [{"label": self.labels[index], "score": float(scores[index])} for index in best]
            for scores, best in zip(scores_BC, best_BC, strict=True)
        ]

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """The logits of each text, float32, of shape (texts, labels)."""
        encodings = self.tokenizer.encode_batch_fast([clean(text) for text in texts])
        logits = np.empty((len(encodings), len(self.labels)), np.float32)
        for chosen in split_batches([len(encoding.ids) for encoding in encodings], 64, CPU_TOKENS):
            logits[chosen] = self.run([encodings[index] for index in chosen])
        return logits

    def run(self, encodings: list[Any]) -> np.ndarray:
        """The logits of one batch: token ids are padded on the right to at least one place."""
        longest = max(1, *(len(encoding.ids) for encoding in encodings))
        ids_BL = np.full((len(encodings), longest), self.config.get("pad_token_id") or 0, np.int64)
        mask_BL, types_BL = np.zeros_like(ids_BL), np.zeros_like(ids_BL)
        for row, encoding in enumerate(encodings):
            count = len(encoding.ids)
            ids_BL[row, :count], mask_BL[row, :count], types_BL[row, :count] = encoding.ids, 1, encoding.type_ids
        batch = {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}
        return self.session.run(["logits"], {name: batch[name] for name in self.inputs})[0]


def load(path: Path, read: Callable[[str], Any]) -> Any:
    try:
        return read(str(path))
    except Exception as error:  # what tokenizers and onnxruntime raise has no common type
        raise ValueError(f"{str(path)!r} is missing or damaged: {' '.join(str(error).split())}") from error


def clean(text: Text) -> Any:
    """A text without half surrogate pairs, which no tokenizer reads."""
    return tuple(map(clean, text)) if isinstance(text, tuple) else text.encode("utf-8", "replace").decode("utf-8")


def split_batches(lengths: Sequence[int], batch_size: int, most_tokens: int) -> Iterator[list[int]]:
    """Indices of texts of similar length, from the shortest to the longest; a batch has at least one."""
    chosen: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if chosen and (len(chosen) == batch_size or lengths[index] * (len(chosen) + 1) > most_tokens):
            yield chosen
            chosen = []
        chosen.append(index)
    if chosen:
        yield chosen


def to_scores(logits: np.ndarray, problem: str) -> np.ndarray:
    """Logits as probabilities, or as they are in a regression."""
    if problem == "regression":
        return logits
    if problem == "multi_label_classification":
        return (1 + np.tanh(logits / 2)) / 2  # 1 / (1 + exp(-logits)), without its overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def resolve_abstain(config: Mapping[str, Any], precision: float | None) -> float:
    """
    The probability from which on an answer has a precision, as validation found it; 0 for None. Raises a ValueError if
    the model's config has no such precision.
    """
    known = config.get("classifier_abstain")
    if precision is None:
        return 0.0
    if known is None:
        raise ValueError(f"`abstain` ({precision}) is for a model of `finetune` with one label a row; this is none.")
    if f"{precision:g}" not in known:
        allowed = f"one of {list(map(float, known))}" if known else "left out: validation reached no precision"
        raise ValueError(f"`abstain` must be {allowed}, got {precision}.")
    return known[f"{precision:g}"]


def to_cell(value: Any) -> Any:
    """A value as it stands in a CSV file: several labels in one cell, with semicolons between them."""
    return ";".join(value) if isinstance(value, list) else value


def read_file(path: Path, columns: Sequence[str]) -> Iterator[Text]:
    """The texts of a CSV or TSV file, or pairs of two columns; each line of any other file is a text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix not in (".csv", ".tsv"):
            yield from (line.rstrip("\r\n") for line in file)
            return
        csv.field_size_limit(2**31 - 1)  # by itself, a field may have 131,072 characters
        rows = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t", strict=True)
        if not set(columns) <= set(rows.fieldnames or []):
            raise ValueError(f"--text_columns must be among {rows.fieldnames}, got {list(columns)}.")
        for row in rows:
            values = tuple(row[name] for name in columns)
            if None in row or None in row.values():
                raise ValueError(f"{str(path)!r} has another number of fields than its header in line {rows.line_num}.")
            yield values if len(values) == 2 else " ".join(filter(None, values))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes a CSV with the label and the probabilities of each text.")
    parser.add_argument("texts", nargs="*", help="texts to classify")
    parser.add_argument("--file", type=Path, help="CSV or TSV with a header, or plain text with one text a line")
    parser.add_argument("--text_columns", nargs="+", help="default: those that the model was trained on")
    parser.add_argument("--abstain", type=float, metavar="P", help="no label where the precision would be less than P")
    parser.add_argument("--threads", type=int, help="threads of onnxruntime (default: all cores)")
    parser.add_argument("--folder", default=Path(__file__).parent, help="exported model (default: where this file is)")
    arguments = parser.parse_args(words)
    try:
        classifier = ExportedClassifier(arguments.folder, arguments.threads)
        least = resolve_abstain(classifier.config, arguments.abstain)
        columns = arguments.text_columns or classifier.text_columns
        texts = iter(read_file(arguments.file, columns) if arguments.file else arguments.texts)
        writer, number = csv.writer(sys.stdout), 0
        writer.writerow(classifier.make_header())
        while chunk := list(islice(texts, CHUNK)):
            rows = classifier.make_rows(classifier.logits(chunk), number, least=least)
            writer.writerows(map(to_cell, row) for row in rows)
            number += len(chunk)
    except (OSError, ValueError, ImportError, csv.Error) as error:
        sys.exit(f"classify.py: {error}")


if __name__ == "__main__":
    main()
