"""What every line of a result file says about where and when it was measured."""

import datetime
import os
import platform
from pathlib import Path

import torch
import transformers

from wave_network.training.record import read_commit

ROOT = Path(__file__).parents[1]


def read_processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


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
    return {"commit": read_commit() or "unknown", "date": datetime.date.today().isoformat()}
