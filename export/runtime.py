"""Runs an exported text classifier with numpy, tokenizers and the runtime of its format, without transformers.

    classifier = ExportedClassifier("bbc_news-onnx")
    classifier.classify(["Striker scores twice as the champions win the cup final"])

`wave-network export` puts this file into every folder that it writes. There it is a command, too: `python runtime.py
texts.csv` writes what `wave-network predict` writes.
"""

import argparse
import contextlib
import csv
import gzip
import importlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from tokenizers import Encoding, Tokenizer

# A text, or a pair of texts for models of pairs.
Text: TypeAlias = str | tuple[str, str]

FUNCTIONS = ("softmax", "sigmoid", "none")
# On a CPU a batch of more tokens leaves the caches.
BATCH_TOKENS = 4096
# What export.json says of the classifier.
SETTINGS = (
    "format",
    "file",
    "inputs",
    "max_length",
    "batch_size",
    "pad_token_id",
    "padding_side",
    "truncation_side",
)


class ExportedClassifier:
    """
    A folder that `wave-network export` wrote.

    Args:
        folder: The folder.
        threads: Threads of the runtime. None: one for each core that the process may use.

    Attributes:
        format: "onnx", "onnx-int8", "openvino" or "executorch".
        labels: Names of the labels, in the order of the logits.
        problem: "single_label_classification", "multi_label_classification", or "regression" (also where the model
            names no type and has one label): what the logits are.
        max_length: Tokens, with the special ones, after which a text is cut off.
        batch_size: Texts in a batch, at most; `logits` sorts and batches by itself.

    Raises:
        FileNotFoundError: There is no such folder, or a file is missing in it.
        ImportError: The runtime of the format is not installed; the message names it.
        ValueError: `threads` is less than 1, or a file is not as `wave-network export` wrote it; the message names it.
    """

    def __init__(self, folder: str | os.PathLike, threads: int | None = None):
        self.folder = Path(folder)
        if threads is not None and threads < 1:
            raise ValueError(f"`threads` must be at least 1, got {threads}.")
        config = self.read_json("config.json", "id2label")
        settings = self.read_json("export.json", "classifier")["classifier"]
        self.refuse_missing("export.json", settings, SETTINGS, "classifier.")
        self.format: str = settings["format"]
        if self.format not in GRAPHS:
            path = str(self.folder / "export.json")
            raise ValueError(f"`classifier.format` of {path!r} must be one of {list(GRAPHS)}, got {self.format!r:.80}.")
        numbers = [str(index) for index in range(len(config["id2label"]))]
        self.refuse_missing("config.json", config["id2label"], numbers, "id2label.")
        self.labels: list[str] = [config["id2label"][number] for number in numbers]
        self.problem: str = config.get("problem_type") or (
            "regression" if len(self.labels) == 1 else "single_label_classification"
        )
        self.max_length: int = settings["max_length"]
        self.batch_size: int = settings["batch_size"]
        self.pad_token_id: int = settings["pad_token_id"]
        self.pads_left: bool = settings["padding_side"] == "left"
        # Encoding cuts off what is too long; counting does not.
        self.tokenizer, self.counter = self.load_tokenizer(), self.load_tokenizer()
        self.tokenizer.enable_truncation(self.max_length, direction=settings["truncation_side"])
        self.graph = self.load_graph(settings["file"], threads or count_cores())

    def find_file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{str(self.folder)!r} is not what `wave-network export` writes: it lacks {name}.")
        return path

    def read_json(self, name: str, *fields: str) -> dict[str, Any]:
        """A file of the folder, which must hold a JSON object with these fields."""
        path = self.find_file(name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"The file {str(path)!r} is cut short, or not JSON: {error}") from error
        self.refuse_missing(name, content, fields)
        return content

    def refuse_missing(self, name: str, content: Any, fields: Sequence[str], place: str = "") -> None:
        """A ValueError if a part of a JSON file is no object, or lacks a field."""
        for field in fields:
            if not isinstance(content, dict) or field not in content:
                path = str(self.folder / name)
                raise ValueError(f"The file {path!r} must have `{place}{field}`, as `wave-network export` writes it.")

    def load_graph(self, name: str, threads: int) -> Any:
        path = self.find_file(name)
        try:
            return GRAPHS[self.format](path, threads)
        except ImportError:
            raise
        except Exception as error:
            # What a runtime raises has no common type.
            raise ValueError(f"The graph {str(path)!r} cannot be loaded: {to_line(error)}") from error

    def load_tokenizer(self) -> Tokenizer:
        path = self.find_file("tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            # tokenizers raises nothing more exact.
            raise ValueError(f"The tokenizer {str(path)!r} cannot be read: {to_line(error)}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count_tokens(self, texts: Sequence[Text]) -> list[int]:
        """The tokens of each text, with the special ones, before anything is cut off."""
        return [len(encoding.ids) for encoding in self.counter.encode_batch_fast(check_texts(texts))]

    def classify(
        self, texts: Sequence[Text], top_k: int | None = 1, function_to_apply: str | None = None
    ) -> list[list[dict[str, Any]]]:
        """
        The best labels of each text, best first, as transformers' text-classification pipeline gives them.

        Args:
            texts: Texts, or pairs of texts as tuples. What is longer than `max_length` tokens is cut off.
            top_k: So many labels. None: all of them.
            function_to_apply: What makes scores of logits: "softmax", "sigmoid" or "none". None: what fits `problem`.

        Returns:
            For each text a list of `{"label": str, "score": float}`.

        Raises:
            TypeError: `texts` are not a list of texts; the message names the first that is none.
            ValueError: `top_k` or `function_to_apply` is not as described.
        """
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"`top_k` must be a number of labels, at least 1, or None for all of them, got {top_k!r}.")
        results = []
        for scores in self.to_scores(self.logits(texts), function_to_apply).tolist():
            best = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top_k]
            results.append([{"label": self.labels[index], "score": scores[index]} for index in best])
        return results

    def to_scores(self, logits: np.ndarray, function: str | None = None) -> np.ndarray:
        """Logits as probabilities, or as they are for a regression."""
        if function is None:
            others = {"regression": "none", "multi_label_classification": "sigmoid"}
            function = others.get(self.problem, "softmax")
        if function not in FUNCTIONS:
            raise ValueError(f"`function_to_apply` must be one of {list(FUNCTIONS)} or None, got {function!r}.")
        if function == "none":
            return logits
        if function == "sigmoid":
            return (1 + np.tanh(logits / 2)) / 2  # 1 / (1 + exp(-logits)), without its overflow
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """The logits of each text, float32, of shape (texts, labels)."""
        encodings = self.tokenizer.encode_batch_fast(check_texts(texts))
        logits = np.empty((len(encodings), len(self.labels)), np.float32)
        for chosen in self.share_out([len(encoding.ids) for encoding in encodings]):
            logits[chosen] = self.graph(self.pad([encodings[index] for index in chosen]))
        return logits

    def share_out(self, lengths: list[int]) -> Iterator[list[int]]:
        """Batches of texts of similar length, so that little of them is padding, from the shortest to the longest."""
        chosen: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            if chosen and (len(chosen) == self.batch_size or lengths[index] * (len(chosen) + 1) > BATCH_TOKENS):
                yield chosen
                chosen = []
            chosen.append(index)
        if chosen:
            yield chosen

    def pad(self, encodings: list[Encoding]) -> dict[str, np.ndarray]:
        """The inputs of the graph, int64, of shape (texts, length), with at least one place."""
        longest = max(1, *(len(encoding.ids) for encoding in encodings))
        ids_BL = np.full((len(encodings), longest), self.pad_token_id, np.int64)
        mask_BL, types_BL = np.zeros_like(ids_BL), np.zeros_like(ids_BL)
        for row, encoding in enumerate(encodings):
            count = len(encoding.ids)
            place = slice(longest - count, longest) if self.pads_left else slice(0, count)
            ids_BL[row, place], mask_BL[row, place], types_BL[row, place] = encoding.ids, 1, encoding.type_ids
        return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}


def check_texts(texts: Sequence[Text]) -> list[Text]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"`texts` must be a list of texts, got {type(texts).__name__}.")
    for index, text in enumerate(texts):
        parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
        if not all(isinstance(part, str) for part in parts):
            raise TypeError(f"`texts` must hold texts, or pairs of texts as tuples, got {text!r:.80} at {index}.")
    return [clean(text) for text in texts]


def clean(text: Any) -> Any:
    """A text without what is no Unicode, such as half of a surrogate pair, which the tokenizer refuses."""
    if isinstance(text, tuple):
        return tuple(map(clean, text))
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def to_line(error: Exception) -> str:
    return " ".join(str(error).split())


def count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- The graphs: a padded batch in, logits out. Each may be called by several threads at a time.


def import_runtime(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This export runs with {package}: pip install {package} (see requirements.txt)") from error


class OnnxGraph:
    def __init__(self, file: Path, threads: int):
        onnxruntime = import_runtime("onnxruntime", "onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return self.session.run(["logits"], {name: batch[name] for name in self.inputs})[0]


class OpenVinoGraph:
    def __init__(self, file: Path, threads: int):
        openvino = import_runtime("openvino", "openvino")
        # By itself it would compute in bfloat16 where the processor can.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self.inputs = [node.any_name for node in self.compiled.inputs]

    def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        request = self.compiled.create_infer_request()
        return request.infer({name: batch[name] for name in self.inputs})["logits"].copy()


class ExecutorchGraph:
    def __init__(self, file: Path, threads: int):
        # In Python, ExecuTorch takes and returns tensors of torch.
        self.torch = import_runtime("torch", "torch")
        library = import_runtime("executorch.extension.pybindings.portable_lib", "executorch")
        library._unsafe_reset_threadpool(threads)
        self.program = import_runtime("executorch.runtime", "executorch").Runtime.get().load_program(file)
        self.method = self.program.load_method("forward")
        manifest = json.loads(file.with_name("export.json").read_text(encoding="utf-8"))
        self.inputs = manifest["classifier"]["inputs"]
        self.lock = threading.Lock()

    def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        with self.lock:
            (logits,) = self.method.execute([self.torch.from_numpy(batch[name]) for name in self.inputs])
            return logits.numpy().copy()


GRAPHS: dict[str, Callable[[Path, int], Any]] = {
    "onnx": OnnxGraph,
    "onnx-int8": OnnxGraph,
    "openvino": OpenVinoGraph,
    "executorch": ExecutorchGraph,
}


# ---- The command: a file of texts in, a file of labels and probabilities out, at any size

TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = ("text", "sentence", "content", "review", "question")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "coarse_label")
FILE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# So many rows are read, sorted by length into batches, and written before the next ones are read.
CHUNK = 4096


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Classifies each text of a file: one row for each, in order, with its row number, its label, that "
        "label's probability, and the probability of every label. A regression model writes its value, a multi-label "
        "model all labels above one half."
    )
    parser.add_argument("file", type=Path, help="texts: CSV, TSV, JSON lines or plain text (one a line); .gz too")
    parser.add_argument("--output", help="CSV to write, or - for standard output (default: beside the input file)")
    parser.add_argument(
        "--text_columns", nargs="+", metavar="COLUMN", help="column with the text, or two for pairs (default: found)"
    )
    parser.add_argument("--batch_size", type=int, help="texts in a batch, at most")
    parser.add_argument("--threads", type=int, help="threads of the runtime (default: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent, help="the exported model (default: where this file is)"
    )
    arguments = parser.parse_args(words)
    try:
        output = predict(**vars(arguments))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"runtime.py: {type(error).__name__}: {error}")
    if output is not None:
        print(f"Written: {output}")


def predict(
    folder: Path,
    file: Path,
    output: str | None = None,
    text_columns: list[str] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> Path | None:
    """The command. Returns the output file, which appears under its name only when it is complete."""
    target = None if output == "-" else Path(output or file.with_name(f"{file.name}.predictions.csv"))
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if target is not None and target.exists() and file.exists() and target.samefile(file):
        raise ValueError(f"`output` must be another file than `file` ({str(file)!r}), got {str(target)!r}.")
    if target is not None and target.exists() and not overwrite:
        raise FileExistsError(f"The output {str(target)!r} exists. Choose another `output`, or add --overwrite.")
    chunks = read_texts(file, text_columns)
    classifier = ExportedClassifier(folder, threads)
    classifier.batch_size = min(batch_size or classifier.batch_size, classifier.batch_size)
    with open_output(target) as opened, show_progress() as advance:
        writer = csv.writer(opened)
        writer.writerow(make_header(classifier))
        row = 0
        for texts in chunks:
            for logits in classifier.logits(texts):
                writer.writerow([row, *to_cells(classifier, logits)])
                row += 1
            advance(len(texts))
    return target


def make_header(classifier: ExportedClassifier) -> list[str]:
    if classifier.problem == "regression":
        return ["row", *classifier.labels]
    return ["row", "label", "probability", *(f"probability_{label}" for label in classifier.labels)]


def to_cells(classifier: ExportedClassifier, logits: np.ndarray) -> list[str]:
    values = classifier.to_scores(logits).tolist()
    if classifier.problem == "regression":
        return [f"{value:.6g}" for value in values]
    if classifier.problem == "multi_label_classification":
        chosen = [label for label, value in zip(classifier.labels, values, strict=True) if value > 0.5]
        best = ";".join(chosen)
    else:
        best = classifier.labels[int(logits.argmax())]
    return [best, f"{max(values):.6f}", *(f"{value:.6f}" for value in values)]


def read_texts(path: Path, text_columns: Sequence[str] | None) -> Iterator[list[Text]]:
    """The texts of a file, so many at a time. The columns have been found when this function returns."""
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending not in FILE_ENDINGS:
        raise ValueError(f"`file` must end in one of {list(FILE_ENDINGS)}, each also with .gz, got {str(path)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    rows = read_rows(path, ending)
    first = list(islice(rows, CHUNK))
    if not first:
        raise ValueError(f"The file {str(path)!r} must hold at least one row, got none.")
    columns = find_columns(first, text_columns)

    def chunks() -> Iterator[list[Text]]:
        chunk = first
        while chunk:
            yield [to_text(row, columns, path) for row in chunk]
            chunk = list(islice(rows, CHUNK))

    return chunks()


def read_rows(path: Path, ending: str) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        # A line ends where a line feed stands, and nowhere else.
        with cast(IO[str], opener(path, "rt", encoding="utf-8-sig", newline="\n")) as file:
            if ending == ".txt":
                yield from ({"text": line.rstrip("\r\n")} for line in file)
            elif ending in (".csv", ".tsv"):
                yield from read_fields(file, "," if ending == ".csv" else "\t")
            else:
                yield from read_objects(file)
    except (ValueError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"The file {str(path)!r} cannot be read: {error}") from error


def read_fields(file: IO[str], delimiter: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # by itself, a field may have 131,072 characters
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header = next(reader, [])
    if not header or len(set(header)) < len(header):
        raise ValueError(f"its first line must hold different column names, got {header}.")
    for fields in reader:
        if fields and len(fields) != len(header):
            raise ValueError(
                f"every row must have the {len(header)} fields of the header, got {len(fields)} in the row that ends "
                f"in line {reader.line_num}."
            )
        if fields:
            yield dict(zip(header, fields, strict=True))


def read_objects(file: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it must hold a JSON object on each line, got {type(row).__name__} in line {number}.")
            yield row


def find_columns(rows: list[dict[str, Any]], given: Sequence[str] | None) -> list[str]:
    """The column with the text, or two for pairs, as `wave-network predict` finds them."""
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    if given is not None:
        missing = [name for name in given if name not in names]
        if missing or len(set(given)) < len(given):
            raise ValueError(f"`text_columns` must be different columns among {names}, got {list(given)}.")
        return list(given)
    others = [name for name in names if name.lower() not in LABEL_COLUMNS]
    by_lower = {name.lower(): name for name in others}
    found = [[by_lower[part] for part in pair] for pair in TEXT_PAIRS if by_lower.keys() >= set(pair)]
    in_pairs = list(chain(*found))
    found += [[name] for name in others if name.lower() in TEXT_COLUMNS and name not in in_pairs]
    # With nothing else that holds words, an unusual name will do.
    found = found or [[name] for name in others if has_words([row.get(name) for row in rows[:1000]])]
    if len(found) != 1:
        reason = f"several may hold the text: {list(chain(*found))}" if found else "none of them holds words"
        raise ValueError(f"`text_columns` must be given: the columns are {names}, and {reason}.")
    return found[0]


def has_words(values: list[Any]) -> bool:
    return any(isinstance(value, str) and value and not NUMBER.fullmatch(value) for value in values)


def to_text(row: dict[str, Any], columns: list[str], path: Path) -> Text:
    """The text of a row, or its pair of texts; of more than two columns one text."""
    values = ["" if row.get(name) is None else row[name] for name in columns]
    for name, value in zip(columns, values, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"The text column {name!r} of {str(path)!r} must hold texts, got {value!r:.80}.")
    if len(values) == 2:
        return values[0], values[1]
    return " ".join(filter(None, values))


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
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


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[[int], Any]]:
    """What is told of so many texts more: a bar if tqdm is installed, else a line for each chunk."""
    try:
        from tqdm import tqdm
    except ImportError:
        count = 0

        def advance(texts: int) -> None:
            nonlocal count
            count += texts
            sys.stderr.write(f"Classifying: {count} texts\n")

        yield advance
        return
    with tqdm(desc="Classifying", unit=" texts", file=sys.stderr) as progress:
        yield progress.update


if __name__ == "__main__":
    main()
