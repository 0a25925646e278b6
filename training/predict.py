"""`wave-network predict`: a file of texts in, a file of labels and probabilities out, at any size."""

import contextlib
import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import CONFIG_NAME, cached_file

from .data import read_texts
from .packing import DataCollatorWithPacking, takes_packed
from .parts import Parts
from .processes import Processes, join_processes


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
    device: str | None = field(
        default=None,
        metadata={"help": "cpu, cuda, cuda:1 ... Default: a GPU if there is one, its own for each process."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace the output file if it exists, and start an interrupted run anew."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the model folder. Not needed for a Wave Network."}
    )


# So many rows are read, sorted by length into batches, and written before the next ones are read.
CHUNK = 4096
PROGRESS = {"desc": "Classifying", "unit": " texts"}

# On a CPU a batch of more tokens leaves the caches.
CPU_TOKENS = 4096
# Packed texts are gathered there into groups of about one length, at a cost for each group. It is more than their
# padding costs, sorted by length, if a text has so few numbers (tokens times hidden size).
CPU_NUMBERS = 1000


def predict(arguments: PredictArguments) -> Path | None:
    """
    Classifies each text of a file and writes one row for each, in order: row number, label, its probability, and the
    probability of every label. A regression model writes its value, a multi-label model all labels above one half.

    Only safetensors weights are read, and no code from the model folder unless `trust_remote_code` is set. Texts that
    are longer than the model allows are cut off.

    Into a file, the work can be interrupted, and the same call goes on with it; and under `torchrun` the processes
    share it, with the same output.

    Returns:
        The output file, complete; it appears under its name only when it is. None for standard output, and in all
        processes but the first.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set.
        ValueError, OSError: The model, the file, a column or the device is not as it must be, or not as it was when the
            run was interrupted; the message names it.
        ConnectionError: Another process has ended.
        SystemExit: Another process reports one of these.
    """
    with join_processes() as processes:
        with processes.together():
            output = find_output(arguments, processes)
            refuse_bad_device(arguments.device)
            # The file first: a model may have to come from the Hub.
            batches = read_texts(arguments.file, text_columns=arguments.text_columns, batch_size=CHUNK)
            chunks = number(batches, processes)
            classifier = Classifier(
                arguments.model, arguments.device, arguments.batch_size, arguments.trust_remote_code
            )
            if output is not None and processes.is_first:
                Parts(output).begin(describe(arguments, classifier), arguments.overwrite)
        if output is None:
            write_out(chunks, classifier)
            return None
        parts = Parts(output)
        try:
            count = write_parts(parts, chunks, classifier, processes)
            counts = processes.gather(count)
            if len(set(counts)) > 1:
                raise ValueError(f"`file` must be the same for all processes; they read {counts} chunks of it.")
            with processes.together():
                if processes.is_first:
                    parts.join(classifier.header, count)
        except BaseException:
            if processes.is_first:
                parts.leave()
            raise
    return output if processes.is_first else None


def find_output(arguments: PredictArguments, processes: Processes) -> Path | None:
    if arguments.batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {arguments.batch_size}.")
    if arguments.output == "-":
        if processes.count > 1:
            raise ValueError(f"`output` must be a file where {processes.count} processes share the work, got '-'.")
        return None
    source = Path(arguments.file).expanduser()
    output = (
        Path(arguments.output).expanduser() if arguments.output else source.with_name(f"{source.name}.predictions.csv")
    )
    if output.is_dir():
        raise ValueError(f"`output` must be a file, got the folder {str(output)!r}.")
    if output.exists() and not output.is_file():
        raise ValueError(f"`output` must be a file on a disk, or - for standard output, got {str(output)!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must be in a folder that is there, got {str(output)!r}.")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"`output` must be another file than `file` ({arguments.file!r}), got {str(output)!r}.")
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"The output {str(output)!r} exists. Choose another `output`, or add --overwrite.")
    return output


def describe(arguments: PredictArguments, classifier: "Classifier") -> dict[str, Any]:
    """What decides, beside its texts, what is written for a chunk."""
    return {
        "model": fingerprint_model(arguments.model),
        "text_columns": arguments.text_columns,
        "batch_size": arguments.batch_size,
        "device": classifier.device.type,
        "chunk": CHUNK,
        "wave_network": version("wave-network"),
    }


def fingerprint_model(name: str) -> str:
    """The sha256 over the files of a model that say what it does, wherever they lie."""
    folder = Path(name) if Path(name).is_dir() else Path(cast(str, cached_file(name, CONFIG_NAME))).parent
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt") and path.name != "metrics.json":
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Chunk:
    """Some rows of the file: which chunk of it, the number of the first row, and the texts."""

    index: int
    row: int
    texts: list[dict[str, str]]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:16]


def number(batches: Iterator[list[dict[str, str]]], processes: Processes) -> Iterator[Chunk]:
    """The chunks of the file. Each process reads all, and meets a bad row; the one whose chunk it is in reports it."""
    index = row = 0
    while True:
        try:
            texts = next(batches, None)
        except ValueError:
            if processes.owns(index):
                raise
            with contextlib.suppress(ConnectionError):
                processes.gather(None)
            sys.exit(2)
        if texts is None:
            return
        yield Chunk(index, row, texts)
        index, row = index + 1, row + len(texts)


def write_out(chunks: Iterator[Chunk], classifier: "Classifier") -> None:
    """Each chunk to standard output before the next one is read."""
    writer = csv.writer(sys.stdout)
    writer.writerow(classifier.header)
    with tqdm(**PROGRESS) as progress:
        for chunk in chunks:
            writer.writerows(to_rows(chunk, classifier))
            progress.update(len(chunk.texts))


def write_parts(parts: Parts, chunks: Iterator[Chunk], classifier: "Classifier", processes: Processes) -> int:
    """Each chunk to a part, if it is for this process and not finished yet. Returns how many chunks there are."""
    finished = parts.find()
    count = 0
    with tqdm(**PROGRESS, disable=not processes.is_first) as progress:
        for chunk in chunks:
            count += 1
            if processes.owns(chunk.index):
                if chunk.index not in finished:
                    parts.write(chunk.index, chunk.digest, to_rows(chunk, classifier))
                elif finished[chunk.index] != chunk.digest:
                    raise ValueError(
                        f"`file` is not what it was when the run was interrupted: of its rows {chunk.row:,} to "
                        f"{chunk.row + len(chunk.texts) - 1:,}, which are finished, some have changed. Choose another "
                        "`output`, or start anew with --overwrite."
                    )
            progress.update(len(chunk.texts))
    return count


def to_rows(chunk: Chunk, classifier: "Classifier") -> Iterator[list[Any]]:
    for place, cells in enumerate(classifier.classify(chunk.texts)):
        yield [chunk.row + place, *cells]


class Classifier:
    """A model with its tokenizer: rows of `text` (and `text_pair`) in, cells of the output file out."""

    def __init__(self, name: str, device: str | None, batch_size: int, trust_remote_code: bool):
        self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        # Sizes that differ are let pass here, where transformers would only point to a table above, and refused below.
        self.model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        if loaded["mismatched_keys"]:
            weight, found, expected = min(loaded["mismatched_keys"])
            raise ValueError(
                f"`model` {name!r} must have the {weight!r} that its {CONFIG_NAME} asks for, of shape "
                f"{tuple(expected)}, got one of shape {tuple(found)}."
            )
        if loaded["missing_keys"]:
            raise ValueError(
                f"`model` {name!r} must be a trained classifier; it has no {min(loaded['missing_keys'])!r}, without "
                "which its labels would be random."
            )
        self.device = torch.device(device or choose_device())
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


def refuse_bad_device(device: str | None) -> None:
    """Raises a ValueError if torch cannot compute on the device."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        found += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"`device` must be one that torch finds here, of {found}, got {device!r}.") from error


def choose_device() -> str:
    """A GPU if there is one; the processes of a machine take turns with its GPUs."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
