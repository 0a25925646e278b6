"""`wave-network predict`: a file of texts in, a file of labels and probabilities out, at any size."""

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from .data import read_texts
from .packing import DataCollatorWithPacking, takes_packed


@dataclass
class PredictArguments:
    """What to classify, and with what."""

    _argument_group_name = "settings"

    model: str = field(metadata={"help": "Run folder, or name of a model on the Hub."})
    file: str = field(metadata={"help": "Texts: CSV, TSV, JSON, JSONL, Parquet or plain text (one a line); .gz too."})
    output: str | None = field(
        default=None, metadata={"help": "CSV to write, or - for standard output. Default: beside the input file."}
    )
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Column with the text, or two for pairs. Found by itself if unambiguous."}
    )
    batch_size: int = field(default=64, metadata={"help": "Texts in a batch, at most."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 ... Default: a GPU if there is one."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output file if it exists."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the model folder. Not needed for a Wave Network."}
    )


# So many rows are read, sorted by length into batches, and written before the next ones are read.
CHUNK = 4096

# On a CPU a batch of more tokens leaves the caches.
CPU_TOKENS = 4096
# Packed texts are read there by groups of one length, at a fixed cost for each group. It is more than their padding
# costs, sorted by length, if a text has so few numbers (tokens times hidden size).
CPU_NUMBERS = 1000


def predict(arguments: PredictArguments) -> Path | None:
    """
    Classifies each text of a file and writes one row for each, in order: row number, label, its probability, and the
    probability of every label. A regression model writes its value, a multi-label model all labels above one half.

    Only safetensors weights are read, and no code from the model folder unless `trust_remote_code` is set. Texts that
    are longer than the model allows are cut off.

    Returns:
        The output file, complete; it appears under its name only when it is. None for standard output.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set.
        ValueError, OSError: The model, the file or a column is not as it must be; the message names it.
    """
    if arguments.batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {arguments.batch_size}.")
    output = None
    if arguments.output != "-":
        source = Path(arguments.file)
        output = Path(arguments.output) if arguments.output else source.with_name(f"{source.name}.predictions.csv")
    # One process does the work, also where torchrun started several.
    if int(os.environ.get("RANK", "0")) != 0:
        return output
    if output is not None and output.exists() and not arguments.overwrite:
        raise FileExistsError(f"The output {str(output)!r} exists. Choose another `output`, or add --overwrite.")

    # The file first: a model may have to come from the Hub.
    chunks = read_texts(arguments.file, text_columns=arguments.text_columns, batch_size=CHUNK)
    classifier = Classifier(arguments.model, arguments.device, arguments.batch_size, arguments.trust_remote_code)
    with open_output(output) as file:
        writer = csv.writer(file)
        writer.writerow(classifier.header)
        row = 0
        with tqdm(desc="Classifying", unit=" texts", file=sys.stderr) as progress:
            for texts in chunks:
                for cells in classifier.classify(texts):
                    writer.writerow([row, *cells])
                    row += 1
                progress.update(len(texts))
    return output


class Classifier:
    """A model with its tokenizer: rows of `text` (and `text_pair`) in, cells of the output file out."""

    def __init__(self, name: str, device: str | None, batch_size: int, trust_remote_code: bool):
        self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=trust_remote_code
        )
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device).eval()
        self.batch_size = batch_size
        self.takes_packed = takes_packed(self.model)
        labels = self.model.config.id2label
        self.labels = [labels[index] for index in range(len(labels))]
        # As in BERT: one label and no type is a value.
        self.problem = self.model.config.problem_type or ("regression" if len(labels) == 1 else None)

    @property
    def header(self) -> list[str]:
        if self.problem == "regression":
            return ["row", *self.labels]
        return ["row", "label", "probability", *(f"probability_{label}" for label in self.labels)]

    @torch.inference_mode()
    def classify(self, rows: list[dict[str, str]]) -> Iterator[list[Any]]:
        pairs = [row["text_pair"] for row in rows] if rows and "text_pair" in rows[0] else None
        encoding = self.tokenizer([row["text"] for row in rows], pairs, truncation=True)
        lengths = [len(ids) for ids in encoding["input_ids"]]
        # Texts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        logits = torch.empty(len(rows), len(self.labels))
        for chosen in self.share_out(order, lengths):
            features = [{name: values[index] for name, values in encoding.items()} for index in chosen]
            batch = self.collate(features, [lengths[index] for index in chosen])
            inputs = {name: value.to(self.device) for name, value in batch.items()}
            logits[chosen] = self.model(**inputs).logits.float().cpu()
        for values in logits:
            yield self.to_cells(values)

    def share_out(self, order: list[int], lengths: list[int]) -> Iterator[list[int]]:
        """Batches of texts, from the shortest text to the longest."""
        budget = CPU_TOKENS if self.device.type == "cpu" else sys.maxsize
        chosen: list[int] = []
        for index in order:
            if chosen and (len(chosen) == self.batch_size or lengths[index] * (len(chosen) + 1) > budget):
                yield chosen
                chosen = []
            chosen.append(index)
        if chosen:
            yield chosen

    def collate(self, features: list[dict[str, list[int]]], lengths: list[int]) -> Mapping[str, torch.Tensor]:
        if self.packs(lengths):
            return DataCollatorWithPacking()(features)
        # A batch of empty texts alone is of one token of padding.
        longest = max(1, *lengths)
        return self.tokenizer.pad(features, padding="max_length", max_length=longest, return_tensors="pt")

    def packs(self, lengths: list[int]) -> bool:
        """Whether to lay texts end to end rather than to pad them: the results are the same."""
        if not self.takes_packed or sum(lengths) == 0:
            return False
        config = self.model.config
        chunk_length = getattr(config, "chunk_length", None)
        if chunk_length is not None and max(lengths) > chunk_length:
            return False  # to save memory, the model reads long texts in chunks, and only padded ones
        return self.device.type != "cpu" or sum(lengths) * config.hidden_size > CPU_NUMBERS * len(lengths)

    def to_cells(self, logits: torch.Tensor) -> list[Any]:
        if self.problem == "regression":
            return [f"{value:.6g}" for value in logits.tolist()]
        if self.problem == "multi_label_classification":
            probabilities = logits.sigmoid().tolist()
            chosen = [label for label, value in zip(self.labels, probabilities, strict=True) if value > 0.5]
            best = ";".join(chosen)
        else:
            probabilities = logits.softmax(-1).tolist()
            best = self.labels[int(logits.argmax())]
        return [best, f"{max(probabilities):.6f}", *(f"{value:.6f}" for value in probabilities)]


@contextlib.contextmanager
def open_output(path: Path | None):
    """Standard output, or a file that takes its name only once it is complete."""
    if path is None:
        yield sys.stdout
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
