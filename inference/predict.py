"""`wave-network predict`: a file of texts in, a file of labels and probabilities out, at any size."""

import contextlib
import csv
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from ..data.load import read_texts
from ..data.tokens import Losses
from ..files import open_whole, refuse_existing
from .classify import CHUNK, CPU_TOKENS, make_header, make_row, resolve_problem, split_batches, to_cell

logger = logging.getLogger(__name__)


@dataclass
class PredictArguments:
    """What to classify, and with what."""

    _argument_group_name = "settings"

    model: str = field(metadata={"help": "Run folder, or name of a model on the Hub."})
    file: str = field(
        metadata={"help": "Texts: CSV, Excel, JSON, JSON lines, Parquet, or plain text (one a line); compressed too."}
    )
    output: str | None = field(
        default=None, metadata={"help": "CSV to write, or - for standard output. Default: beside the input file."}
    )
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Column with the text, or two for pairs. Default: as it was trained."}
    )
    delimiter: str | None = field(default=None, metadata={"help": "Between the columns of CSV. Default: found."})
    encoding: str | None = field(default=None, metadata={"help": "Of text files, such as cp1252. Default: found."})
    no_header: bool = field(
        default=False, metadata={"help": "The first row of CSV and Excel is data; columns are column_1, column_2 ..."}
    )
    keep: list[str] = field(default_factory=list, metadata={"help": "Columns to copy, such as an id."})
    batch_size: int = field(default=64, metadata={"help": "Texts in a batch, at most."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 ... Default: a GPU if there is one."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output file if it exists."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the model folder. Not needed for a Wave Network."}
    )


def predict(arguments: PredictArguments) -> Path | None:
    """
    Classifies each text of a file and writes one row for each, in order: row number, label, its probability, the
    probability of every label, and the columns of `keep`. A regression model writes its value, a multi-label model all
    labels above one half.

    Only safetensors weights are read, and no code from the model folder unless `trust_remote_code` is set. Texts that
    are longer than the model allows are cut off, and counted in a warning, as are unknown tokens.

    Returns:
        The output file, which takes its name only when it is complete. None for standard output.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set.
        ValueError, OSError: The model, the file, a column or the device is not as it must be; the message names it.
    """
    if arguments.batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {arguments.batch_size}.")
    output = None if arguments.output == "-" else resolve_output(arguments)
    device = resolve_device(arguments.device)
    # The file before the weights, which may have to come from the Hub.
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    names = ("delimiter", "encoding", "no_header", "keep")
    settings = {name: getattr(arguments, name) for name in names}
    batches = read_trained(arguments.file, arguments.text_columns, config, batch_size=CHUNK, **settings)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    model = load_classifier(arguments.model, arguments.trust_remote_code)
    classifier = Classifier(model.to(device), tokenizer, arguments.batch_size)
    labels, problem = classifier.labels, classifier.problem
    with contextlib.nullcontext(sys.stdout) if output is None else open_whole(output) as file:
        writer = csv.writer(file)
        writer.writerow([*make_header(labels, problem), *arguments.keep])
        classified = chain.from_iterable(zip(batch, classifier.logits(batch), strict=True) for batch in batches)
        for number, (row, logits) in enumerate(tqdm(classified, desc="Classifying", unit=" texts")):
            writer.writerow([*map(to_cell, make_row(number, logits, labels, problem)), *row.get("kept", {}).values()])
    for line in classifier.losses.describe():
        logger.warning(line)
    return output


def read_trained(
    path: str, text_columns: list[str] | None, config: Any, **settings: Any
) -> Iterator[list[dict[str, Any]]]:
    """The texts of a file, by default of the columns that the model was trained on."""
    trained = getattr(config, "text_columns", None)
    try:
        return read_texts(path, text_columns=text_columns or trained, **settings)
    except ValueError as error:
        if text_columns or not str(error).startswith("`text_columns`"):
            raise
        raise ValueError(f"{error} The model was trained on {trained}.") from error


def resolve_output(arguments: PredictArguments) -> Path:
    """The file to write. Raises a ValueError or an OSError if it cannot be written, or must not be."""
    source = Path(arguments.file).expanduser()
    output = Path(arguments.output or source.with_name(f"{source.name}.predictions.csv")).expanduser()
    if output.exists() and not output.is_file():
        raise ValueError(f"`output` must be a file, or - for standard output, got {str(output)!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must be in a folder that exists, got {str(output)!r}.")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"`output` must be another file than `file` ({arguments.file!r}), got {str(output)!r}.")
    refuse_existing(output, arguments.overwrite)
    return output


def resolve_device(device: str | None) -> str:
    """A GPU if there is one. Raises a ValueError if torch cannot compute on the device."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`device` must be one that torch finds here, such as cpu, got {device!r}: {reason}"
        ) from error
    return device


def load_classifier(name: str, trust_remote_code: bool = False, **settings: Any) -> Any:
    """
    A sequence classifier, from safetensors alone.

    Raises:
        ValueError, OSError: The model is missing, damaged, or no trained classifier; the message names what is wrong.
    """
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        name,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        ignore_mismatched_sizes=True,  # refused below: transformers itself points to a table in its log
        output_loading_info=True,
        **settings,
    )
    if loaded["mismatched_keys"]:
        weight, found, expected = min(loaded["mismatched_keys"])
        raise ValueError(
            f"`model` {name!r} must have the {weight!r} that its config.json asks for, of shape {tuple(expected)}, got "
            f"one of shape {tuple(found)}."
        )
    if loaded["missing_keys"]:
        raise ValueError(f"`model` {name!r} must be a trained classifier; it has no {min(loaded['missing_keys'])!r}.")
    return model.eval()


class Classifier:
    """A model with its tokenizer: rows of `text` (and `text_pair`) in, logits out."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.labels = [model.config.id2label[index] for index in range(len(model.config.id2label))]
        self.problem = resolve_problem(model.config.problem_type, len(self.labels))
        self.losses = Losses(tokenizer)
        self.most_tokens = CPU_TOKENS if model.device.type == "cpu" else sys.maxsize

    @torch.inference_mode()
    def logits(self, rows: list[dict[str, str]]) -> np.ndarray:
        """The logits of each row, float32, of shape (rows, labels). Texts of similar length share a batch."""
        pairs = [row["text_pair"] for row in rows] if rows and "text_pair" in rows[0] else None
        encoding = self.tokenizer([row["text"] for row in rows], pairs, truncation=True)
        self.losses.count(encoding)
        lengths = [len(ids) for ids in encoding["input_ids"]]
        logits = np.empty((len(rows), len(self.labels)), np.float32)
        for chosen in split_batches(lengths, self.batch_size, self.most_tokens):
            features = {name: [values[index] for index in chosen] for name, values in encoding.items()}
            # A batch of empty texts has one token of padding.
            longest = max(1, *(lengths[index] for index in chosen))
            batch = self.tokenizer.pad(features, padding="max_length", max_length=longest, return_tensors="pt")
            logits[chosen] = self.model(**batch.to(self.model.device)).logits.float().cpu().numpy()
        return logits
