"""`wave-network export`: a trained classifier as an ONNX folder that runs without transformers and torch."""

import contextlib
import io
import logging
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData, SpaceCardData
from tokenizers import normalizers
from transformers import AutoConfig, AutoTokenizer

from ..data.load import read_texts
from ..files import check_source, open_folder, refuse_existing, setting, write_json, write_text
from .classifier import Classifier, load_classifier
from .classify import GRAPHS, ExportedClassifier, to_scores
from .web import fetch_runtime, write_page

FORMATS = {"onnx": GRAPHS[0], "onnx-int8": GRAPHS[1], "web": GRAPHS[1]}
TOLERANCE = 1e-5  # the largest difference of a logit, of the largest logit or of 1, whichever is more
AGREEMENT = 0.99  # the share of texts that must keep their label in 8-bit integers
LONGEST_CHECKED = 4096
CALIBRATION, MADE = 4096, 512  # texts that are read from a file, and texts that are made without one
ODD_TEXTS = ("", " ", "Tab\tand\nlines", "ÄÖÜ ß café 漢字 🙂", "don't; (really?) 3.14 #tag", "word " * 5000)
PACKAGES = ("onnx", "onnxruntime", "onnxscript", "transformers.exporters")


@dataclass
class ExportArguments:
    """What to export, and as what."""

    _argument_group_name = "settings"

    model: str = setting("Run folder, or name of a sequence classifier on the Hub.")
    format: Literal["onnx", "onnx-int8", "web"] = setting(
        "onnx-int8: a quarter of the size. web: that, and a page for a static server.", "onnx"
    )
    output_dir: str | None = setting("Folder to write. Default: the model's, or its name, with -FORMAT behind.", None)
    max_length: int | None = setting("Tokens of a text. Default: as the tokenizer says.", None)
    calibration: str | None = setting("Texts to compare model and export on, a file. Default: random words.", None)
    text_columns: list[str] | None = setting("Its text column, or two for pairs.", None)
    overwrite: bool = setting("Replace the output folder if it holds an export.", False)
    trust_remote_code: bool = setting("Run the code in the model folder. Not needed for a Wave Network.", False)


def export_model(arguments: ExportArguments) -> Path:
    """
    Writes a sequence classifier as a folder that runs without transformers: the graph in `onnx/`, tokenizer, labels,
    `classify.py` (a class and a command), `handler.py` (for inference endpoints of the Hub) and a README.

    The graph takes `input_ids`, `attention_mask` and, if the model has segments, `token_type_ids`, int64 of shape
    (batch, length), both free up to `max_length`, and gives `logits` of shape (batch, labels). It is compared with the
    model on other shapes than it was traced with, and on texts: logits must agree to `TOLERANCE`, in 8-bit integers the
    labels of `AGREEMENT` of the texts. The folder takes its name only when it is complete and checked.

    Raises a FileExistsError for an output that must not be replaced, an ImportError that says how to install what is
    missing, and a ValueError or an OSError if the model or a setting is not as it must be, or the export not the model.
    """
    check_source("model", arguments.model)
    target = resolve_target(arguments)
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        packages = 'onnx onnxruntime onnxscript "transformers>=5.23"'
        raise ImportError(f"An export needs {', '.join(missing)}: pip install {packages}")
    if arguments.format == "web":
        fetch_runtime()
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    rows = []  # the texts first: the weights may have to come from the Hub
    if arguments.calibration is not None:
        columns = arguments.text_columns or getattr(config, "text_columns", None)
        rows = list(islice(chain.from_iterable(read_texts(arguments.calibration, text_columns=columns)), CALIBRATION))
    classifier = load_exact(arguments, config)
    model, tokenizer = classifier.model, classifier.tokenizer
    rows = rows or make_rows(tokenizer)
    texts: list[Any] = [tuple(row.values()) if "text_pair" in row else row["text"] for row in rows]
    odd_rows, expected = [{"text": text} for text in ODD_TEXTS], classifier.logits(rows)
    with open_folder(target, arguments.overwrite) as folder:
        graph = folder / FORMATS["onnx"]
        write_graph(graph, model, tokenizer)
        write_files(folder, model, tokenizer, arguments.format)
        exported = ExportedClassifier(folder)
        difference = max(
            check_shapes(exported, classifier),
            check_logits(exported.logits(ODD_TEXTS), classifier.logits(odd_rows), "odd texts"),
            check_logits(exported.logits(texts), expected, f"{len(rows):,} texts"),
        )
        if FORMATS[arguments.format] == GRAPHS[1]:
            quantize(graph, folder / GRAPHS[1])
            graph.unlink()
            exported = ExportedClassifier(folder)
        agreement = measure_agreement(exported.logits(texts), expected, exported.problem, exported.thresholds or 0.5)
        if agreement < AGREEMENT:
            share = f"{agreement:.1%} of {len(rows):,} texts keep their label in the export, and {AGREEMENT:.0%} must."
            raise ValueError(f"Only {share} Real texts say more than random words: --calibration FILE.")
        name = Path(arguments.model).resolve().name if Path(arguments.model).is_dir() else arguments.model
        if arguments.format == "web":
            write_page(folder, name)
        checks = {"difference": difference, "agreement": agreement, "texts": len(rows)}
        write_card(folder, name, arguments, exported=exported, **checks)
    return target


def resolve_target(arguments: ExportArguments) -> Path:
    """The folder to write. Raises an error if it must not be written."""
    if arguments.format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}, got {arguments.format!r}.")
    source = Path(arguments.model)
    name = source.resolve() if source.is_dir() else source.name
    target = Path(arguments.output_dir or f"{name}-{arguments.format}")
    refuse_existing(target, arguments.overwrite)
    if target.is_dir() and any(target.iterdir()) and not (target / "classify.py").is_file():
        raise FileExistsError(f"`output_dir` {str(target)!r} holds no export and is not replaced. Choose another name.")
    return target


def load_exact(arguments: ExportArguments, config: Any) -> Classifier:
    """The model in float32 with its tokenizer, whose `model_max_length` is where the export cuts texts off."""
    name, trust = arguments.model, {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(name, **trust)
    if not tokenizer.is_fast:
        raise ValueError(f"The tokenizer of {name!r} must be a fast one, which has a tokenizer.json.")
    is_any_length = config.model_type == "wave" and config.position_embedding_type != "absolute"
    limit = 10**9 if is_any_length else getattr(config, "max_position_embeddings", 10**9)
    known = min(limit, tokenizer.model_max_length)  # a tokenizer without a limit says 10^30
    tokenizer.model_max_length = arguments.max_length or (512 if known == 10**9 else known)
    if not 2 <= tokenizer.model_max_length <= limit:
        raise ValueError(f"`max_length` must be 2 to {limit:,}, got {tokenizer.model_max_length}.")
    if is_any_length:
        config.max_position_embeddings = tokenizer.model_max_length
    if config.model_type == "wave":
        config.chunk_length = None  # a graph reads a text in one pass
    model = load_classifier(name, config=config, dtype=torch.float32, **trust)
    return Classifier(model.requires_grad_(False), tokenizer)


def make_rows(tokenizer: Any) -> list[dict[str, str]]:
    """Texts of random words of the vocabulary: no more than a stand-in for real ones."""
    chooser = random.Random(0)
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    return [{"text": tokenizer.decode(chooser.choices(words, k=chooser.randint(1, 64)))} for _ in range(MADE)]


def write_graph(file: Path, model: Any, tokenizer: Any) -> None:
    """Traces the model, by transformers' exporter, and writes graph and weights as one file."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from transformers.exporters import OnnxConfig, OnnxExporter

    length = min(16, tokenizer.model_max_length)
    ids_BL = torch.arange(2 * length).view(2, length) % model.get_input_embeddings().weight.shape[0]
    inputs = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL).tril(length // 2)}
    if getattr(model.config, "type_vocab_size", 1) and "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = torch.zeros_like(ids_BL)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=tokenizer.model_max_length)}
    with quiet():
        try:
            exported = OnnxExporter().export(model, inputs, OnnxConfig(dynamic_shapes=dict.fromkeys(inputs, free)))
        except Exception as error:  # what the tracer and the converter raise has no common type
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{type(model).__name__} cannot be exported: {reason}") from error
        ClearMetadataAndDocStringPass()(exported.program)  # source lines of this machine
        file.parent.mkdir(exist_ok=True)
        onnx_ir.save(exported.program, file)


def write_files(folder: Path, model: Any, tokenizer: Any, format: str) -> None:
    """All but the graph, the page and the README."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None and backend.normalizer.normalize_str("\u03a3") == "\u03c3":
        # Of sigma at the end of a word, JavaScript makes another letter.
        backend.normalizer = normalizers.Sequence([normalizers.Replace("\u03a3", "\u03c3"), backend.normalizer])
    backend.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    backend.no_padding()
    tokenizer.save_pretrained(folder)
    config = {key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path", "auto_map")}
    if config["model_type"] == "wave":
        config["model_type"] = "bert"  # transformers.js refuses what it does not know, and runs any encoder as this one
    config["label2id"] = {label: index for index, label in config["id2label"].items()}
    config["transformers.js_config"] = {"dtype": "fp32" if FORMATS[format] == GRAPHS[0] else "q8"}
    write_json(folder / "config.json", config)
    packages = ("numpy", "onnxruntime", "tokenizers")
    write_text(folder / "requirements.txt", "".join(f"{name}>={version(name)}\n" for name in packages))
    for module in ("classify.py", "handler.py"):
        text = Path(__file__).with_name(module).read_text(encoding="utf-8")
        write_text(folder / module, text.replace("from .classify import", "from classify import"))


def quantize(source: Path, target: Path) -> None:
    """
    Tables and linear maps become 8-bit integers, each row or block with a scale of its own. What is computed with them
    stays float32, so that the answer of a text does not depend on the texts beside it.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    del model.graph.value_info[:]  # whose types would be wrong
    for table in list(model.graph.initializer):  # onnxruntime's own tool has one scale for a whole table
        nodes = [node for node in model.graph.node if table.name in node.input]
        is_float = len(table.dims) == 2 and table.data_type == onnx.TensorProto.FLOAT
        if not is_float or {node.op_type for node in nodes} != {"Gather"}:
            continue
        values_VD, scale = onnx.numpy_helper.to_array(table), f"{table.name}_scale"
        scale_V1 = np.abs(values_VD).max(axis=1, keepdims=True) / 127
        integers_VD = (np.rint(values_VD / np.where(scale_V1 == 0, 1, scale_V1)) + 128).astype(np.uint8)
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale_V1, scale))
        table.CopyFrom(onnx.numpy_helper.from_array(integers_VD, table.name))
        row = max(16, 1 << (values_VD.shape[1] - 1).bit_length())  # the power of two that holds one
        settings = {"bits": 8, "block_size": row, "quantize_axis": 1, "domain": "com.microsoft"}
        for node in nodes:
            node.CopyFrom(onnx.helper.make_node("GatherBlockQuantized", [*node.input, scale], node.output, **settings))
    with quiet():
        quantizer = MatMulNBitsQuantizer(model, bits=8, is_symmetric=True, op_types_to_quantize=("MatMul",))
        quantizer.process()
    onnx.save(quantizer.model.model, target)


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


def check_shapes(exported: ExportedClassifier, classifier: Classifier) -> float:
    """The largest difference on other shapes than traced. Raises a ValueError if it is more than `TOLERANCE`."""
    model, config = classifier.model, classifier.model.config
    longest = min(classifier.tokenizer.model_max_length, LONGEST_CHECKED)
    generator = np.random.default_rng(0)
    largest = 0.0
    for rows, length in ((2, 16), (1, 1), (1, longest), (5, longest // 9 + 1), (33, 5)):
        shape = (rows, min(length, longest))
        right_BL = np.arange(shape[1]) < generator.integers(1, shape[1] + 1, (rows, 1))
        masks = [np.ones(shape), right_BL, right_BL[:, ::-1]]
        if config.model_type == "wave":  # attention has no answer for a row of padding
            masks.append(np.ones(shape) * np.arange(rows)[:, None] > 0)
        for mask_BL in masks:
            batch = {
                "input_ids": generator.integers(0, model.get_input_embeddings().weight.shape[0], shape),
                "attention_mask": mask_BL.astype(np.int64),
                "token_type_ids": generator.integers(0, getattr(config, "type_vocab_size", 0) or 1, shape),
            }
            batch = {name: batch[name] for name in exported.inputs}
            where = f"a batch of {rows} x {shape[1]} tokens"
            expected = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
            try:
                found = exported.session.run(["logits"], batch)[0]
            except Exception as error:  # what onnxruntime raises has no common type
                raise ValueError(f"The export is not the model: it fails on {where} with {error}") from error
            largest = max(largest, check_logits(found, expected, where))
    return largest


def check_logits(found: np.ndarray, expected: np.ndarray, where: str) -> float:
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(found - expected).max())
    if not difference <= allowed:
        reason = f"on {where} a logit is off by {difference:.1e}, {allowed:.1e} allowed."
        raise ValueError(f"The export is not the model: {reason}")
    return difference


def measure_agreement(found: np.ndarray, expected: np.ndarray, problem: str, thresholds: Any = 0.5) -> float:
    """
    The share of texts that keep their label; with several labels all must be the same; a value must keep to a hundredth
    of the range of all values.
    """
    if problem == "regression":
        allowed = 0.01 * np.maximum(np.ptp(expected, axis=0), 1e-3 * np.abs(expected).max())
        same_NK = np.abs(found - expected) <= allowed
    elif problem == "multi_label_classification":
        same_NK = (to_scores(found, problem) > thresholds) == (to_scores(expected, problem) > thresholds)
    else:
        same_NK = found.argmax(axis=-1, keepdims=True) == expected.argmax(axis=-1, keepdims=True)
    return float(same_NK.all(axis=-1).mean())


def write_card(folder: Path, name: str, arguments: ExportArguments, **checks: Any) -> None:
    hub_name, file = None if Path(arguments.model).is_dir() else name, FORMATS[arguments.format]
    if arguments.format == "web":
        data: Any = SpaceCardData(title=name, sdk="static", models=[hub_name] if hub_name else None)
    else:
        tags = ["text-classification", arguments.format]
        data = ModelCardData(pipeline_tag="text-classification", library_name="onnx", tags=tags, base_model=hub_name)
    template = str(Path(__file__).with_name("export_card.md"))
    checks |= {"model": name, "arguments": arguments, "file": file}
    checks["origin"] = Path(arguments.calibration).name if arguments.calibration else "random words of the vocabulary"
    card = ModelCard.from_template(data, template, size=(folder / file).stat().st_size, **checks)
    write_text(folder / "README.md", str(card).rstrip("\n") + "\n")
