"""Fetches transformers' own common tests, of the version that is installed, for test_transformers_suite.py.

They are not in the wheel; the source distribution on PyPI carries the modules of `tests/`, without its sub-folders.
They go to a cache that git ignores. Run it once before the tests: `python tests/fetch_transformers_tests.py`.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

VERSION = version("transformers")
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "transformers-tests"
# To be put on sys.path; holds the package `transformers_tests`.
SUITE = CACHE / VERSION


def main() -> None:
    if SUITE.is_dir():
        print(f"transformers {VERSION}: its tests are already in {SUITE}")
        return
    print(f"transformers {VERSION}: downloading its source distribution for the tests ...", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="download-") as temporary:
        archive = download(Path(temporary))
        new = Path(temporary, "suite")
        count = extract(archive, new / "transformers_tests")
        try:
            new.rename(SUITE)  # at once, so that an interrupted run leaves nothing half done
        except OSError:
            if not SUITE.is_dir():  # else another process was first
                raise
    print(f"transformers {VERSION}: {count} test modules in {SUITE}")


def download(folder: Path) -> Path:
    """The source distribution, through pip, which knows the user's indexes and proxies."""
    # pip asks a source distribution for its metadata: without isolation that needs no second download.
    options = ["--no-deps", "--no-binary=transformers", "--no-build-isolation", "--quiet", "--dest", str(folder)]
    pip = [sys.executable, "-m", "pip", "download", *options, f"transformers=={VERSION}"]
    result = subprocess.run(pip, capture_output=True, text=True)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        sys.exit(
            f"The tests of transformers {VERSION} could not be downloaded, and tests/test_transformers_suite.py needs "
            "them. Is there a network, is this version on PyPI, and are pip and setuptools installed?\n"
            f"{' '.join(pip)}\n{result.stderr.strip()}"
        )
    return archives[0]


def extract(archive: Path, package: Path) -> int:
    """Writes the modules of `tests/` as a package, and returns their number."""
    package.mkdir(parents=True)
    Path(package, "__init__.py").touch()
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            if match := re.fullmatch(r"[^/]+/tests/([^/]+\.py)", member.name):
                Path(package, match[1]).write_bytes(tar.extractfile(member).read())
                count += 1
    if count == 0:
        sys.exit(f"{archive.name} carries no tests/*.py; did transformers {VERSION} move them?")
    return count


if __name__ == "__main__":
    main()
