"""What every line of a result file says about where and when it was measured."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[1]


def read_processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def read_commit() -> str:
    """The commit, with "-dirty" if a file of code is not as it was committed; "unknown" without git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    return (commit + ("-dirty" if git("status", "--porcelain", "--", "*.py") else "")) or "unknown"


def describe_machine(device: str = "cpu") -> dict:
    if device == "cuda":
        name = f"cuda ({torch.cuda.get_device_name()})"
    else:
        name = f"cpu ({read_processor()}, {os.cpu_count()} cores)"
    versions = {
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    return {"device": name, "threads": torch.get_num_threads(), "versions": versions}


def describe_run() -> dict:
    return {"commit": read_commit(), "date": datetime.date.today().isoformat()}
