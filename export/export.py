"""`wave-network export`: a trained classifier as a folder that runs in another runtime, without transformers."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from ..training.data import read_texts
from .card import write_card
from .checks import (
    AGREEMENT,
    ANY_NUMBER,
    TOLERANCE,
    Difference,
    TorchGraph,
    check_shapes,
    check_tokens,
    make_texts,
    measure_agreement,
    measure_speed,
    with_graph,
)
from .convert import FILES, RUNTIMES, check_packages, convert
from .runtime import ExportedClassifier, Text
from .source import Source, find_local

ODD_TEXTS = ["", " ", "Tab\tand\nlines", "ÄÖÜ ß café 漢字 🙂", "don't; (really?) 3.14 #tag", "word " * 5000]
# Texts of the calibration file that are read, and texts that are made without one.
CALIBRATION, MADE = 4096, 512


@dataclass
class ExportArguments:
    """What to export, and as what."""

    _argument_group_name = "settings"

    model: str = field(metadata={"help": "Run folder, or name of a sequence classifier on the Hub."})
    format: Literal["onnx", "onnx-int8", "openvino", "executorch"] = field(
        default="onnx",
        metadata={"help": "onnx, onnx-int8 (a quarter of the size), openvino or executorch."},
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write. Default: the model's, or its name, with -FORMAT behind."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens after which a text is cut off. Default: what the tokenizer says."}
    )
    calibration: str | None = field(
        default=None,
        metadata={
            "help": "File of real texts (as `predict` reads it) on which model and export are compared. Default: texts "
            "of random words, a poor stand-in where a label must not change."
        },
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Column with the text in that file, or two for pairs."},
    )
    allow_disagreement: bool = field(
        default=False, metadata={"help": "Export to int8 although more than 1 %% of the texts get another label."}
    )
    report: bool = field(default=True, metadata={"help": "Whether to measure the speed, which takes a few seconds."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output folder if it holds an export."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code in the model folder. Not needed for a Wave Network."}
    )


def export_model(arguments: ExportArguments) -> Path:
    """
    Writes a sequence classifier as a folder that runs without transformers: the graph, tokenizer, labels, `runtime.py`
    (a class and a command), `handler.py` (for inference endpoints of the Hub) and a README with what was checked.

    Only safetensors weights are read, and no code from the model folder unless `trust_remote_code` is set. The model is
    exported in float32, unfolded, and in evaluation mode; batch and length stay free, the length up to `max_length`.

    The graph is compared with the model on other shapes than it was traced with, and on texts: logits must agree to
    `TOLERANCE` (1e-5), in 8-bit integers the labels of `AGREEMENT` (99 %) of the texts. Otherwise nothing is written.

    Returns:
        The folder, complete; it appears under its name only when it is.

    Raises:
        FileExistsError: The output exists and `overwrite` is not set, or it exists and holds no export. Where it came
            while the model was exported, it is left as it is too, and the message says where the export lies.
        ImportError: A package is missing; the message names the extra to install.
        ValueError, OSError: The model or a setting is not as it must be, or the export is not the model; the message
            says which and how far.
    """
    target = check_output(arguments)
    check_packages(arguments.format)
    with tqdm(total=4, bar_format="Step {n_fmt} of {total_fmt}: {desc} [{elapsed}]") as progress:

        def begin(step: str) -> None:
            progress.set_description_str(step, refresh=False)
            progress.update()

        begin("Loading the model")
        # The texts first: a model may have to come from the Hub.
        texts, origin = read_calibration(arguments)
        source = Source.load(arguments.model, arguments.max_length, arguments.trust_remote_code)
        texts = texts or make_texts(source.tokenizer, MADE, source.max_length)
        with open_folder(target, arguments.overwrite) as folder:
            begin("Tracing and converting")
            settings = convert(source, arguments.format, folder)
            write_files(source, settings, folder)
            begin("Checking")
            classifier = ExportedClassifier(folder)
            checks = check(source, classifier, texts, arguments) | {"texts_from": origin}
            begin("Measuring")
            checks["speed"] = compare_speed(source, classifier, texts) if arguments.report else None
            add_to_manifest(folder, checks=checks)
            write_card(folder)
    return target


# ---- What is asked for


def check_output(arguments: ExportArguments) -> Path:
    source = find_local(arguments.model)
    name = source or Path(Path(arguments.model).name)
    target = Path(arguments.output_dir or name.with_name(f"{name.name}-{arguments.format}"))
    if source is not None and target.resolve() == source.resolve():
        raise FileExistsError(f"`output_dir` must not be the model's own folder, got {str(target)!r}.")
    refuse_to_replace(target, arguments.overwrite)
    return target


def refuse_to_replace(target: Path, overwrite: bool) -> None:
    """A FileExistsError if something has the name that is not to be replaced. An empty folder may be."""
    # A link that leads nowhere has the name, too.
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"The output {str(target)!r} exists. Choose another `output_dir`, or add --overwrite.")
    if not is_export(target):
        raise FileExistsError(f"The output {str(target)!r} holds no export, and is not replaced. Choose another name.")


def is_export(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "classifier" in manifest


def read_calibration(arguments: ExportArguments) -> tuple[list[Text], str]:
    """The texts to compare on, none where they have to be made, and where they are from."""
    if arguments.calibration is None:
        return [], "random words of the vocabulary"
    batches = read_texts(arguments.calibration, text_columns=arguments.text_columns)
    rows = islice(chain.from_iterable(batches), CALIBRATION)
    texts: list[Text] = [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in rows]
    return texts, Path(arguments.calibration).name


def write_files(source: Source, settings: dict[str, Any], folder: Path) -> None:
    """All but the graph and the card. The modules import each other there as they do here, flat."""
    source.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(source.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    add_to_manifest(folder, classifier=settings)
    requirements = [f"{package}>={version(package).partition('+')[0]}" for package in RUNTIMES[settings["format"]]]
    (folder / "requirements.txt").write_text("\n".join(["numpy>=1.26", *requirements]) + "\n", encoding="utf-8")
    for module in ("runtime.py", "handler.py"):
        text = Path(__file__).with_name(module).read_text(encoding="utf-8")
        (folder / module).write_text(text.replace("from .runtime import", "from runtime import"), encoding="utf-8")


def add_to_manifest(folder: Path, **parts: Any) -> None:
    """To what transformers' exporter wrote, and reads."""
    file = folder / "export.json"
    manifest = json.loads(file.read_text(encoding="utf-8")) | parts
    file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def open_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """
    A folder to write into, which takes its name, and the place of what has it now, only once it is complete. In place
    of a link comes the folder itself; what the link leads to stays.

    Raises:
        FileExistsError: By now something has the name that is not to be replaced. It stays, and so does what was
            written; the message says where.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    replaced = folder.with_name(f"{folder.name}.replaced")
    try:
        folder.chmod(0o755)  # `mkdtemp` lets nobody else in
        yield folder
        try:
            refuse_to_replace(target, overwrite)
        except FileExistsError as error:
            kept = folder.rename(folder.with_name(folder.name.removeprefix(".")))
            raise FileExistsError(f"{error} It came in the meantime, so that the export is {str(kept)!r}.") from error
        if os.path.lexists(target):
            os.replace(target, replaced)
        os.replace(folder, target)
    finally:
        if os.path.lexists(replaced) and not os.path.lexists(target):
            os.replace(replaced, target)
        shutil.rmtree(folder, ignore_errors=True)
        if replaced.is_symlink():
            replaced.unlink()
        shutil.rmtree(replaced, ignore_errors=True)


# ---- Is it the model, and what was gained?


def check(source: Source, classifier: ExportedClassifier, texts: list[Text], arguments: ExportArguments) -> dict:
    """What is written down about the export. ValueError if it is not the model."""
    check_tokens(classifier, source.tokenizer, [*ODD_TEXTS, *texts[:100]])
    is_int8 = classifier.format == "onnx-int8"
    on_shapes = check_shapes(source, classifier.graph, classifier.batch_size, ANY_NUMBER if is_int8 else TOLERANCE)
    logits = classifier.logits(texts)
    expected = with_graph(classifier, TorchGraph(source.model, source.inputs)).logits(texts)
    on_texts, agreement = Difference.between(logits, expected), measure_agreement(classifier.problem, logits, expected)
    if is_int8 and agreement < AGREEMENT and not arguments.allow_disagreement:
        hint = "" if arguments.calibration else " Real texts say more than random words: --calibration FILE."
        raise ValueError(
            f"In int8 only {agreement:.1%} of {len(texts):,} texts keep their label, and {AGREEMENT:.0%} must.{hint}"
            " --allow_disagreement exports it all the same."
        )
    if not is_int8 and on_texts.relative > TOLERANCE:
        raise ValueError(
            f"The exported graph is not the model: on {len(texts):,} texts a logit is off by {on_texts.difference:.1e},"
            f" with {TOLERANCE * max(1.0, on_texts.logit):.1e} allowed (largest logit: {on_texts.logit:.1f})."
        )
    return {
        "texts": len(texts),
        "largest_difference": on_texts.difference,
        "largest_logit": on_texts.logit,
        "largest_difference_on_other_shapes": on_shapes.difference,
        "agreement": agreement,
        "file_bytes": sum((classifier.folder / name).stat().st_size for name in FILES[classifier.format]),
        "weights_bytes": source.weights_bytes,
    }


def compare_speed(source: Source, classifier: ExportedClassifier, texts: list[Text]) -> dict[str, Any]:
    """Texts a second, of the export and of the model in torch, one text at a time and 32."""
    others = {"export": classifier, "torch": with_graph(classifier, TorchGraph(source.model, source.inputs))}
    return {
        f"batch_{batch}": {name: measure_speed(each, texts, batch) for name, each in others.items()}
        for batch in (1, 32)
    }


def describe_export(folder: Path) -> str:
    """What an exported folder says about itself, in a few lines."""
    manifest = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    settings, checks = manifest["classifier"], manifest["checks"]
    size = f"{checks['file_bytes'] / 1e6:.2f} MB, {checks['file_bytes'] / checks['weights_bytes']:.2f} of the weights"
    lines = [
        f"Written: {folder} ({settings['file']}: {size} in float32)",
        f"On {checks['texts']:,} texts ({checks['texts_from']}): {checks['agreement']:.2%} with the same label, logits "
        f"off by {checks['largest_difference']:.1e} at most (largest {checks['largest_logit']:.1f})",
    ]
    for batch, rates in (checks["speed"] or {}).items():
        count = int(batch.removeprefix("batch_"))
        many = "one at a time" if count == 1 else f"{count} at a time"
        lines.append(f"{rates['export']:,.0f} texts a second, {many} (the model in torch: {rates['torch']:,.0f})")
    return "\n".join(lines)
