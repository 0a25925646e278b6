"""`wave-network export`: a trained classifier as an ONNX folder that runs without transformers and torch."""

import contextlib
import inspect
import io
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

from ..files import check_source, open_folder, refuse_existing, write_json, write_text
from .classifier import Classifier, load_classifier
from .classify import GRAPHS, ExportedClassifier, to_scores
from .predict import read_trained
from .web import fetch_runtime, write_page

DTYPES = dict(zip(GRAPHS, ("fp32", "q8"), strict=True))  # what transformers.js calls them
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

    model: str = field(metadata={"help": "Run folder, or name of a sequence classifier on the Hub."})
    format: Literal["onnx", "onnx-int8", "web"] = field(
        default="onnx",
        metadata={"help": "onnx-int8: a quarter of the size. web: that, and a page for a static server."},
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write. Default: the model's, or its name, with -FORMAT behind."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens of a text. Default: as the tokenizer says."})
    calibration: str | None = field(
        default=None, metadata={"help": "File of texts to compare model and export on. Default: texts of random words."}
    )
    text_columns: list[str] | None = field(default=None, metadata={"help": "Its text column, or two for pairs."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output folder if it holds an export."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the model folder. Not needed for a Wave Network."}
    )


def export_model(arguments: ExportArguments) -> Path:
    """
    Writes a sequence classifier as a folder that runs without transformers: the graph in `onnx/`, tokenizer, labels,
    `classify.py` (a class and a command), `handler.py` (for inference endpoints of the Hub) and a README.

    Only safetensors weights are read, and no code from the model folder unless `trust_remote_code` is set. The graph
    takes `input_ids`, `attention_mask` and, if the model has segments, `token_type_ids`, int64 of shape (batch,
    length), and gives `logits` of shape (batch, labels). Batch and length are free, the length up to `max_length`.

    The graph is compared with the model on other shapes than it was traced with, and on texts: logits must agree to
    `TOLERANCE`, in 8-bit integers the labels of `AGREEMENT` of the texts. Otherwise nothing is written.

    Returns:
        The folder, which takes its name only when it is complete.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set, or it holds no export.
        ImportError: A package is missing; the message says how to install it.
        ValueError, OSError: The model or a setting is not as it must be, or the export is not the model; the message
            says which and how far.
    """
    check_source("model", arguments.model)
    target = resolve_target(arguments)
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        packages = 'onnx onnxruntime onnxscript "transformers>=5.23"'
        raise ImportError(f"An export needs {', '.join(missing)}: pip install {packages}")
    if arguments.format == "web":
        fetch_runtime()
    batches = None  # the texts first: a model may have to come from the Hub
    if arguments.calibration is not None:
        config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
        batches = read_trained(arguments.calibration, arguments.text_columns, config)
    model, tokenizer = load_model(arguments)
    rows = make_rows(tokenizer) if batches is None else list(islice(chain.from_iterable(batches), CALIBRATION))
    odd_rows = [{"text": text} for text in ODD_TEXTS]
    classifier = Classifier(model, tokenizer)
    expected = classifier.logits(rows)
    with open_folder(target, arguments.overwrite) as folder:
        graph = folder / FORMATS["onnx"]
        write_graph(graph, model, tokenizer)
        write_files(folder, model, tokenizer, arguments.format)
        exported = ExportedClassifier(folder)
        difference = max(
            check_shapes(exported, classifier),
            check_logits(exported.logits(to_texts(odd_rows)), classifier.logits(odd_rows), "odd texts"),
            check_logits(exported.logits(to_texts(rows)), expected, f"{len(rows):,} texts"),
        )
        if FORMATS[arguments.format] == GRAPHS[1]:
            quantize(graph, folder / GRAPHS[1])
            graph.unlink()
            exported = ExportedClassifier(folder)
        agreement = check_labels(exported.logits(to_texts(rows)), expected, exported.problem, exported.thresholds)
        if arguments.format == "web":
            write_page(folder, describe_model(arguments.model))
        write_card(folder, arguments, exported, difference=difference, agreement=agreement, texts=len(rows))
    return target


# Before


def resolve_target(arguments: ExportArguments) -> Path:
    """The folder to write. Raises an error if it must not be written."""
    if arguments.format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}, got {arguments.format!r}.")
    source = Path(arguments.model)
    name = source.resolve() if source.is_dir() else Path(source.name)
    target = Path(arguments.output_dir or f"{name}-{arguments.format}")
    refuse_existing(target, arguments.overwrite)
    if target.is_dir() and any(target.iterdir()) and not (target / "classify.py").is_file():
        raise FileExistsError(f"`output_dir` {str(target)!r} holds no export and is not replaced. Choose another name.")
    return target


def make_rows(tokenizer: Any) -> list[dict[str, str]]:
    """Texts of random words of the vocabulary: no more than a stand-in for real ones."""
    chooser = random.Random(0)
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    return [{"text": tokenizer.decode(chooser.choices(words, k=chooser.randint(1, 64)))} for _ in range(MADE)]


def load_model(arguments: ExportArguments) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer, whose `model_max_length` is where the export cuts texts off."""
    name, trust_remote_code = arguments.model, arguments.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise ValueError(f"The tokenizer of {name!r} must be a fast one, which has a tokenizer.json.")
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
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
    model = load_classifier(name, trust_remote_code, config=config, dtype=torch.float32)
    return model.requires_grad_(False), tokenizer


# The folder


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
    config["transformers.js_config"] = {"dtype": DTYPES[FORMATS[format]]}
    write_json(folder / "config.json", config)
    packages = ("numpy", "onnxruntime", "tokenizers")
    write_text(folder / "requirements.txt", "".join(f"{name}>={version(name)}\n" for name in packages))
    for module in ("classify.py", "handler.py"):
        text = Path(__file__).with_name(module).read_text(encoding="utf-8")
        write_text(folder / module, text.replace("from .classify import", "from classify import"))


def write_graph(file: Path, model: Any, tokenizer: Any) -> None:
    """Traces the model, by transformers' exporter, and writes graph and weights as one file."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from transformers.exporters import OnnxConfig, OnnxExporter

    length = min(16, tokenizer.model_max_length)
    ids_BL = torch.arange(2 * length).view(2, length) % model.get_input_embeddings().weight.shape[0]
    inputs = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL).tril(length // 2)}
    # A Wave Network without segments has the argument, too.
    has_segments = getattr(model.config, "type_vocab_size", 1) > 0 and "token_type_ids" in tokenizer.model_input_names
    if has_segments and "token_type_ids" in inspect.signature(model.forward).parameters:
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


def quantize(source: Path, target: Path) -> None:
    """
    Tables and linear maps become 8-bit integers, each row or block with a scale of its own. What is computed with them
    stays float32, so that the answer of a text does not depend on the texts beside it.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    del model.graph.value_info[:]  # whose types would be wrong
    quantize_tables(model.graph)
    with quiet():
        quantizer = MatMulNBitsQuantizer(
            model, bits=8, block_size=128, is_symmetric=True, op_types_to_quantize=("MatMul",)
        )
        quantizer.process()
    onnx.save(quantizer.model.model, target)


def quantize_tables(graph: Any) -> None:
    """A row that is looked up is integers times one scale. onnxruntime's own tool has one scale for a whole table."""
    from onnx import TensorProto, helper, numpy_helper

    tables = {
        each.name: each for each in graph.initializer if len(each.dims) == 2 and each.data_type == TensorProto.FLOAT
    }
    for node in graph.node:  # a table that anything else reads stays as it is
        for name in node.input[node.op_type == "Gather" :]:
            tables.pop(name, None)
    for name, table in tables.items():
        values_VD = numpy_helper.to_array(table)
        scale_V1 = np.abs(values_VD).max(axis=1, keepdims=True) / 127
        integers_VD = np.rint(values_VD / np.where(scale_V1 == 0, 1, scale_V1)).astype(np.int8)
        table.CopyFrom(numpy_helper.from_array(integers_VD, name))
        graph.initializer.append(numpy_helper.from_array(scale_V1, f"{name}_scale"))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in tables:
            (found,) = node.output
            node.output[0] = f"{found}_integers"
            nodes += [
                helper.make_node("Cast", [f"{found}_integers"], [f"{found}_floats"], to=TensorProto.FLOAT),
                helper.make_node("Gather", [f"{node.input[0]}_scale", node.input[1]], [f"{found}_scale"]),
                helper.make_node("Mul", [f"{found}_floats", f"{found}_scale"], [found]),
            ]
    del graph.node[:]
    graph.node.extend(nodes)


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


# Is it the model?


def check_shapes(exported: ExportedClassifier, classifier: Classifier) -> float:
    """The largest difference on other shapes than traced. Raises a ValueError if it is more than `TOLERANCE`."""
    model, config = classifier.model, classifier.model.config
    longest = min(classifier.tokenizer.model_max_length, LONGEST_CHECKED)
    generator = np.random.default_rng(0)
    largest = 0.0
    for rows, length in ((2, 16), (1, 1), (1, longest), (5, longest // 9 + 1), (33, 5)):
        shape = (rows, min(length, longest))
        right_BL = np.arange(shape[1]) < generator.integers(1, shape[1] + 1, (rows, 1))
        masks = {"no padding": np.ones(shape, bool), "padding right": right_BL, "padding left": right_BL[:, ::-1]}
        if config.model_type == "wave":  # attention has no answer where there is nothing to attend to
            masks["a row of padding"] = np.arange(rows)[:, None] + np.zeros(shape, int) > 0
        for name, mask_BL in masks.items():
            batch = {
                "input_ids": generator.integers(0, model.get_input_embeddings().weight.shape[0], shape),
                "attention_mask": mask_BL.astype(np.int64),
                "token_type_ids": generator.integers(0, getattr(config, "type_vocab_size", 0) or 1, shape),
            }
            batch = {name: batch[name] for name in exported.inputs}
            where = f"a batch of {rows} x {shape[1]} tokens, {name},"
            with torch.inference_mode():
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
        raise ValueError(
            f"The export is not the model: on {where} a logit is off by {difference:.1e}, {allowed:.1e} allowed."
        )
    return difference


def check_labels(
    found: np.ndarray, expected: np.ndarray, problem: str, thresholds: Sequence[float] | None = None
) -> float:
    """The share of texts that keep their label. Raises a ValueError if it is less than `AGREEMENT`."""
    agreement = measure_agreement(found, expected, problem, thresholds)
    if agreement < AGREEMENT:
        raise ValueError(
            f"Only {agreement:.1%} of {len(found):,} texts keep their label in the export, and {AGREEMENT:.0%} must. "
            "Real texts say more than random words: --calibration FILE."
        )
    return agreement


def measure_agreement(
    found: np.ndarray, expected: np.ndarray, problem: str, thresholds: Sequence[float] | None = None
) -> float:
    """With several labels all must be the same; a value must keep to a hundredth of the range of all values."""
    if problem == "regression":
        allowed = 0.01 * np.maximum(np.ptp(expected, axis=0), 1e-3 * np.abs(expected).max())
        return float((np.abs(found - expected) <= allowed).all(axis=-1).mean())
    if problem == "multi_label_classification":
        least = 0.5 if thresholds is None else np.asarray(thresholds)
        above, expected_above = (to_scores(each, problem) > least for each in (found, expected))
        return float((above == expected_above).all(axis=-1).mean())
    return float((found.argmax(axis=-1) == expected.argmax(axis=-1)).mean())


def to_texts(rows: list[dict[str, str]]) -> list[Any]:
    """Rows as `ExportedClassifier` takes them: a pair is a tuple."""
    return [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in rows]


def describe_model(name: str) -> str:
    return Path(name).resolve().name if Path(name).is_dir() else name


def write_card(folder: Path, arguments: ExportArguments, exported: ExportedClassifier, **checks: Any) -> None:
    hub_name, file = None if Path(arguments.model).is_dir() else arguments.model, FORMATS[arguments.format]
    if arguments.format == "web":
        models = None if hub_name is None else [hub_name]
        data: Any = SpaceCardData(title=describe_model(arguments.model), sdk="static", models=models)
    else:
        tags = ["text-classification", arguments.format]
        data = ModelCardData(pipeline_tag="text-classification", library_name="onnx", tags=tags, base_model=hub_name)
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("export_card.md")),
        model=describe_model(arguments.model),
        origin=Path(arguments.calibration).name if arguments.calibration else "random words of the vocabulary",
        arguments=arguments,
        exported=exported,
        file=file,
        size=(folder / file).stat().st_size,
        **checks,
    )
    write_text(folder / "README.md", str(card).rstrip("\n") + "\n")
