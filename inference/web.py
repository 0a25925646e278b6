"""The page of `wave-network export --format web`, and the JavaScript that it runs on, from the npm registry."""

import base64
import hashlib
import html
import io
import os
import shutil
import tarfile
from pathlib import Path

from huggingface_hub import cached_assets_path
from huggingface_hub.utils import get_session

from ..files import open_folder, write_text

# Archive, its hash as npm writes it, and the files that the page needs. Licences: MIT and Apache-2.0.
RUNTIME = (
    (
        "onnxruntime-web/-/onnxruntime-web-1.23.2.tgz",
        "T09JUtMn+CZLk3mFwqiH0lgQf+4S7+oYHHtk6uhaYAAJI95bTcKi5bOOZYwORXfS/RLZCjDDEXGWIuOCAFlEjg==",
        ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    ),
    (
        "@huggingface/tokenizers/-/tokenizers-0.2.0.tgz",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ("dist/tokenizers.min.mjs", "LICENSE"),
    ),
)


def fetch_runtime() -> list[Path]:
    """
    The JavaScript files. They are downloaded once, 26 MB, from the npm registry or that of `NPM_CONFIG_REGISTRY`, and
    kept in the folder `assets` of the Hub's cache. Raises an OSError if the registry cannot be reached, and a
    ValueError if it sends something else than what is pinned here.
    """
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    files = []
    for archive, expected, names in RUNTIME:
        folder, url = cached_assets_path("wave-network", "web", archive), f"{registry}/{archive}"
        if not any(folder.iterdir()):
            try:
                content = get_session().get(url, timeout=60).raise_for_status().content
            except Exception as error:  # httpx has two names, and no common type with what the Hub raises offline
                raise OSError(f"`format` web needs {url} once, which cannot be had: {error}") from error
            if base64.b64encode(hashlib.sha512(content).digest()).decode() != expected:
                raise ValueError(f"{url} is not the file that `format` web needs: its sha512 must be {expected}.")
            with tarfile.open(fileobj=io.BytesIO(content)) as tar, open_folder(folder, overwrite=True) as new:
                for name in names:
                    tar.extract(f"package/{name}", new, filter="data")
        files += [folder / "package" / name for name in names]
    return files


def write_page(folder: Path, title: str) -> None:
    """What a static server needs beside an exported model."""
    (folder / "vendor").mkdir()
    for file in fetch_runtime():
        shutil.copyfile(file, folder / "vendor" / file.name)
    for file in Path(__file__).with_name("web").iterdir():
        write_text(folder / file.name, file.read_text(encoding="utf-8").replace("TITLE", html.escape(title)))
