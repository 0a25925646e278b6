"""From a classifier to the file of a format, by transformers' exporters."""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from .checks import TOLERANCE, TRACED_LENGTH, TRACED_ROWS, check_shapes
from .int8 import quantize_onnx
from .runtime import GRAPHS, count_cores
from .source import Source

# What a format needs here, and by which extra it comes.
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
}
FILES = {
    "onnx": ("model.onnx",),
    "onnx-int8": ("model.onnx",),
    "openvino": ("openvino_model.xml", "openvino_model.bin"),
    "executorch": ("model.pte",),
}
# What runs it.
RUNTIMES = {
    "onnx": ("tokenizers", "onnxruntime"),
    "onnx-int8": ("tokenizers", "onnxruntime"),
    "openvino": ("tokenizers", "openvino"),
    "executorch": ("tokenizers", "torch", "executorch"),
}
# ExecuTorch lays out memory for the largest batch beforehand.
BATCH_SIZE = {"executorch": 8}
# Protobuf, of which an ONNX file is made, ends at 2 GiB.
LARGEST_ONNX = 2**31 - 2**26


def check_packages(kind: str) -> None:
    if kind not in PACKAGES:
        raise ValueError(f"`format` must be one of {list(PACKAGES)}, got {kind!r}.")
    extra = kind.removesuffix("-int8")
    try:
        for package in PACKAGES[kind]:
            importlib.import_module(package)
        from transformers.exporters import ExportedModel  # noqa: F401  since version 5.23
    except ImportError as error:
        raise ImportError(
            f'The format {kind} needs more packages, transformers 5.23 among them: pip install "wave-network[{extra}]"'
        ) from error


def convert(source: Source, kind: str, folder: Path) -> dict[str, Any]:
    """Writes the graph, and returns what runtime.py has to know about it."""
    settings = {
        "model": source.name,
        "format": kind,
        "file": FILES[kind][0],
        "inputs": source.inputs,
        "max_length": source.max_length,
        "batch_size": BATCH_SIZE.get(kind, 64),
        "pad_token_id": source.pad_token_id,
        "padding_side": source.tokenizer.padding_side,
        "truncation_side": source.tokenizer.truncation_side,
    }
    if kind.startswith("onnx") and source.weights_bytes > LARGEST_ONNX:
        raise ValueError(f"An ONNX file ends at 2 GB, got {source.weights_bytes / 1e9:.1f} GB of weights.")
    with quiet():
        try:
            exported = trace(source, kind, settings["batch_size"])
        except Exception as error:
            # Whatever the tracer and the converters raise, its first line says most.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{type(source.model).__name__} cannot be exported to {kind}: {reason}") from error
        exported.config = None  # it would write the model's code
        exported.save_pretrained(folder)
        if kind.startswith("onnx"):
            join_onnx(folder / "model.onnx")
        if kind == "onnx-int8":
            float_file = (folder / "model.onnx").rename(folder / "float.onnx")
            check_shapes(source, GRAPHS["onnx"](float_file, count_cores()), settings["batch_size"], TOLERANCE)
            quantize_onnx(float_file, folder / "model.onnx")
            float_file.unlink()
    return settings


def trace(source: Source, kind: str, batch_size: int) -> Any:
    """What transformers' exporter of the format makes of the model."""
    from transformers import exporters

    rows, length = TRACED_ROWS, min(TRACED_LENGTH, source.max_length)
    inputs: dict[str, Any] = {name: torch.zeros(rows, length, dtype=torch.long) for name in source.inputs}
    inputs["input_ids"] += torch.arange(rows * length).view(rows, length) % source.vocab_size
    inputs["attention_mask"][:, : length // 2] = 1
    most = batch_size if kind == "executorch" else None
    free = {0: torch.export.Dim("batch", max=most), 1: torch.export.Dim("length", max=source.max_length)}
    shapes: dict[str, Any] = {"dynamic_shapes": dict.fromkeys(inputs, free)}
    if kind == "openvino":
        return exporters.OpenVINOExporter().export(source.model, inputs, exporters.OpenVINOConfig(**shapes))
    if kind == "executorch":
        # Of an operation with several results, ExecuTorch's check of types takes the first for the list of them, and
        # its `len` as a number, which fixes the batch.
        check = "executorch.exir.verification.verifier._check_tensor_args_matching_op_allowed_dtype"
        with mock.patch(check, return_value=None):
            return exporters.ExecutorchExporter().export(source.model, inputs, exporters.ExecutorchConfig(**shapes))
    return exporters.OnnxExporter().export(source.model, inputs, exporters.OnnxConfig(**shapes))


def join_onnx(file: Path) -> None:
    """One file of the graph and its weights, without the lines of source code that each operation came from."""
    import onnx

    model = onnx.load(file)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    file.with_name(f"{file.name}.data").unlink()
    onnx.save(model, file)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the converters say on the way, which no user of this command can act on."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
