"""Functions of a test file run in fresh processes that talk to a Hub of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# The first lines of every process. Some must not find our package, though this environment has it.
PRELUDE = """
import importlib, json, sys
place, module, step, with_package, arguments = json.loads(sys.argv[1])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wave_network":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if with_package:
    import wave_network
else:
    sys.meta_path.insert(0, Absent())
sys.path.insert(0, place)
result = getattr(importlib.import_module(module), step)(**arguments)
assert with_package or "wave_network" not in sys.modules
print("\\n" + json.dumps(result))  # on a line of its own: transformers asks for trust without ending the line
"""


def run_step(home: Path, url: str, module: str, step: str, *, with_package: bool, **arguments: Any) -> Any:
    """Runs a function of a file beside this one in a fresh process, and returns what it returned.

    Args:
        home: The empty folder for its caches, and the one that it works in.
        url: The Hub that it talks to.
        module: The file, without its ending.
        step: The function.
        with_package: Whether our package is imported first, or cannot be imported at all.
        **arguments: What the function takes. JSON carries them there and the result back.
    """
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_right",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # the same device in each process: bits are compared
        # The datasets library asks the Hub's viewer, at `datasets-server.` before the Hub's own address, and goes on
        # without it. A proxy keeps this question on the machine: the Hub gets it and answers that it has no such page.
        "http_proxy": url,
        "no_proxy": "127.0.0.1",
    }
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_HUB_CACHE",
        "HF_MODULES_CACHE",
        "HF_DATASETS_CACHE",
    ):
        environment.pop(name, None)
    request = json.dumps([str(Path(__file__).parent), module, step, with_package, arguments])
    process = subprocess.run(
        [sys.executable, "-c", PRELUDE, request],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout.splitlines()[-1])
