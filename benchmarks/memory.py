"""The peak memory of one case, in a process of its own that bench.py starts: `python benchmarks/memory.py JOB`.

On a CPU: the peak of the resident memory over two steps, less what the process held before the model was built. That
was after a small model of the same kind had made a step, so that the interpreter and the libraries are not counted, and
weights, gradients, the optimizer's state and activations are. On a GPU: `torch.cuda.max_memory_allocated`.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from wave_network.benchmarks.cases import CONTENDERS, Case, shrink
from wave_network.benchmarks.models import build, make_optimizer, make_step, prepare
from wave_network.benchmarks.texts import Batch

STATUS = Path("/proc/self/status")
STEPS = 2


def read_resident(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the peak) of this process, in MiB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"{STATUS} has no field {field}.")


def run_steps(case: Case, batches: list[Batch], device: str, job: dict) -> None:
    contender = CONTENDERS[case.contender]
    sizes = {"vocab_size": job["vocab_size"], "num_labels": job["num_labels"], "positions": case.setting.length}
    with torch.device(device):
        model = build(contender, case.setting, **sizes, quick=job["quick"])
    model = prepare(contender, model, case.mode)
    optimizer = make_optimizer(contender, model) if case.mode == "training" else None
    reset_peak(device)
    step = make_step(contender, model, case.mode, case.setting, batches, optimizer)
    for turn in range(STEPS):
        step(turn)


def reset_peak(device: str) -> None:
    """What building the model took for a moment is no part of a step."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # Where the kernel refuses, the peak is that of the whole process, which is not lower.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def measure(job: dict) -> float:
    """MiB of one case above the baseline."""
    device, case, batches = job["device"], job["case"], [batch.to(job["device"]) for batch in job["batches"]]
    small = shrink(case)
    rows = slice(0, small.setting.batch), slice(0, small.setting.length)
    little = [
        Batch(batch.ids[rows], None if batch.mask is None else batch.mask[rows], batch.labels[rows[0]])
        for batch in batches
    ]
    run_steps(small, little, device, job | {"quick": True})
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        baseline = torch.cuda.memory_allocated() / 2**20
        run_steps(case, batches, device, job)
        return torch.cuda.max_memory_allocated() / 2**20 - baseline
    baseline = read_resident("VmRSS")
    run_steps(case, batches, device, job)
    return read_resident("VmHWM") - baseline


def measure_apart(
    case: Case, batches: list[Batch], *, vocab_size: int, num_labels: int, device: str, quick: bool, threads: int
) -> float:
    """`measure` in a fresh process: the peak of a process never falls, and the heap remembers what ran before."""
    if device == "cpu" and not STATUS.exists():
        raise OSError(f"Peak memory on a CPU is read from {STATUS}, which only Linux has.")
    job = {
        "case": case,
        "batches": batches[:STEPS],
        "vocab_size": vocab_size,
        "num_labels": num_labels,
        "device": device,
        "quick": quick,
        "threads": threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.pt")
        torch.save(job, path)
        command = [sys.executable, __file__, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{case.name}: the process that measures its memory failed.\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])["peak_memory_mib"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="what bench.py saved: the case and its batches")
    # Written by bench.py a moment ago: a pickle of our own classes.
    job = torch.load(parser.parse_args().job, weights_only=False)
    torch.set_num_threads(job["threads"])
    torch.set_flush_denormal(True)
    print(json.dumps({"peak_memory_mib": measure(job)}))


if __name__ == "__main__":
    main()
