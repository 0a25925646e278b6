"""What all rooms share: files that are written whole or not at all, result lines, tables, and what machine this is."""

import ctypes
import datetime
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unicodedata import bidirectional, category

# What is said when a disk is full or fails. Of torch's files, only their writer is named.
FAILURES = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)] + ["inline_container"]
PACKAGES = ("wave-network", "transformers", "torch", "datasets", "tokenizers", "accelerate")


def setting(help: str, default: Any = MISSING, **more: Any) -> Any:
    """A field of a dataclass of settings, and what `--help_all` says of it."""
    return field(default=default, metadata={"help": help}, **more)


@contextmanager
def name_failures(path: str | os.PathLike) -> Iterator[None]:
    """An OSError that names the path if the disk is full or fails, whatever a library makes of it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        if repr(os.fspath(path)) in reason or not any(failure in reason for failure in FAILURES):
            raise
        raise OSError(f"{os.fspath(path)!r} cannot be written: {reason}") from error


@contextmanager
def open_whole(path: str | os.PathLike, mode: str = "w") -> Iterator[Any]:
    """
    A file to write that takes its name only once it is complete and on the disk; an older one stays until then, also if
    the process is killed or the machine loses power.
    """
    path = Path(path)
    settings: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115  # renamed after it is closed
        mode, dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False, **settings
    )
    try:
        with name_failures(path), temporary as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary.name, 0o666 & ~_read_umask())  # a temporary file lets nobody else in
        os.replace(temporary.name, path)
    except BaseException:
        Path(temporary.name).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    with open_whole(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """The value of a JSON file; ValueError, with its name, if it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} must be a JSON file; it is damaged or cut short: {error}") from error


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()] if Path(path).exists() else []


def append_line(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


@contextmanager
def open_folder(target: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    A folder to write into, which takes its name, and the place of what has it now, only once it is complete, also if
    the process is killed. Its files are not forced onto the disk.

    Raises:
        FileExistsError: There is something of that name, now or when the folder is complete, and not `overwrite`.
    """
    target = Path(target).resolve()  # a link stays one
    refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    replaced = folder.with_name(f"{folder.name}.replaced")
    try:
        folder.chmod(0o777 & ~_read_umask())
        with name_failures(target):
            yield folder
        refuse_existing(target, overwrite)
        if not (target.exists() and exchange(folder, target)):
            if target.exists():
                os.replace(target, replaced)
            os.replace(folder, target)
    finally:
        if replaced.exists() and not target.exists():
            os.replace(replaced, target)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Gives each of two folders the name of the other, at once. False where the system cannot, as outside Linux."""
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of the kernel
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def refuse_existing(target: Path, overwrite: bool = False) -> None:
    """
    FileExistsError if there is something of that name, but for an empty folder, and not `overwrite`. OSError if nothing
    can be written there.
    """
    place = next(path for path in target.absolute().parents if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise OSError(f"{os.fspath(target)!r} cannot be written: {str(place)!r} is no folder that you may write to.")
    if target.exists() and not overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{os.fspath(target)!r} exists. Choose another name, or add --overwrite.")


def check_source(setting: str, name: str | None, endings: Sequence[str] = (".json", ".safetensors", ".txt")) -> None:
    """
    Looks at the name of a model or data set before anything reads it.

    Raises:
        FileNotFoundError: It can only be that of a file or folder, and there is none: the Hub is not asked for it.
        ValueError: A file of a model folder is damaged.
    """
    path = Path(name or ".")
    if name is None or path.exists():
        return check_folder(setting, path) if name is not None and path.is_dir() else None
    is_path = name.startswith((".", "~", "/", os.sep)) or "\\" in name or name.count("/") > 1 or name.endswith("/")
    is_beside = path.parent.name == "runs" or (path.parent.name and path.parent.is_dir())
    if is_path or is_beside or not name.strip() or name.lower().endswith(tuple(endings)):
        raise FileNotFoundError(f"There is no file or folder {name!r} (`{setting}`).")
    return None


def check_folder(setting: str, folder: Path) -> None:
    """A ValueError for a file of a model that is damaged: what reads it later raises all kinds of errors."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    def check_object(file: str) -> None:
        if not isinstance(read_json(file), dict):
            raise ValueError(f"{file!r} must hold a JSON object.")

    readers: dict[str, Callable[[str], Any]] = {
        "config.json": check_object,
        "tokenizer_config.json": check_object,
        "tokenizer.json": Tokenizer.from_file,
        "*.safetensors": lambda file: safe_open(file, "np"),  # its header says how long it must be
    }
    for pattern, read in readers.items():
        for file in sorted(folder.glob(pattern)):
            try:
                read(str(file))
            except Exception as error:  # tokenizers raises nothing more exact
                raise ValueError(f"{str(file)!r} (`{setting}`) is damaged: {error}") from error


def write_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table."""
    rows = list(rows)
    lines = [list(rows[0]), ["---"] * len(rows[0])] if rows else []
    lines += [[str(value).replace("|", "\\|").replace("\n", " ") for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def find_fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """
    Fonts of this machine that draw the characters of texts, as matplotlib's `font.family`, and the characters that none
    draws as it should be.
    """
    from matplotlib import __version_info__
    from matplotlib.font_manager import fontManager, get_font

    families, left = ["DejaVu Sans"], {character for text in texts for character in text if not character.isspace()}
    lost = {each for each in left if category(each) in ("Cc", "Cn", "Co", "Cs")}
    if __version_info__ < (3, 11):  # which draws each character by itself, from left to right
        lost |= {each for each in left if category(each) in ("Mn", "Mc") or bidirectional(each) in ("R", "AL")}
    left -= lost
    fonts = [font for font in fontManager.ttflist if font.style == "normal" and not font.name.startswith("Last Resort")]
    for font in sorted(fonts, key=lambda font: (font.name not in families, font.weight not in (400, 500))):
        if not left:
            break
        loaded = get_font(font.fname)
        found = {each for each in left if loaded.scalable and loaded.get_char_index(ord(each))}
        families += [font.name] if found and font.name not in families else []
        left -= found
    return families, left | lost


def describe_run(device: str = "cpu") -> dict[str, Any]:
    """Where, when and with what something was made: device, versions, commit and date."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{device} ({read_processor()}, {os.cpu_count()} cores)",
        "versions": read_versions(),
        "commit": read_commit(),
    }


def read_processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def read_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def read_commit() -> str | None:
    """The commit of this code, with "-dirty" if a Python file was changed since; None where it is no git checkout."""
    root = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    if not (root / ".git").exists():
        return None
    return git("rev-parse", "--short", "HEAD") + (
        "-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", "*.py") else ""
    )


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
