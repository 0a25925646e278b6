"""Commands of `wave-network` in several processes with the environment that torchrun gives them.

They are forked from a server that has done the imports once, so that a test need not wait for them.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["wave_network.training.finetune"])


class Ended(NamedTuple):
    """How a process has ended: its exit code (negative: the signal that killed it), and what it said."""

    code: int
    out: str
    err: str


def run_processes(
    count: int, words: list[str], folder: Path, prepare: Callable[[int], None] | None = None, patience: float = 100
) -> list[Ended]:
    """
    Runs one command in `count` processes, each with `prepare(rank)` before it, and returns how each has ended.

    Raises:
        TimeoutError: One has not ended in so many seconds. It is killed.
    """
    folder.mkdir()
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        CONTEXT.Process(target=run_one, args=(rank, count, port, words, folder, prepare)) for rank in range(count)
    ]
    end = time.monotonic() + patience
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(end - time.monotonic())
        late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
        if late:
            raise TimeoutError(f"The processes {late} have not ended: {[read_end(folder, rank) for rank in late]}")
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [collect(process, folder, rank) for rank, process in enumerate(processes)]


def run_one(
    rank: int, count: int, port: int, words: list[str], folder: Path, prepare: Callable[[int], None] | None
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    import torch

    from wave_network.cli import main

    torch.set_num_threads(1)
    if prepare is not None:
        prepare(rank)
    main(words)
    sys.stdout.flush()


def collect(process: BaseProcess, folder: Path, rank: int) -> Ended:
    assert process.exitcode is not None
    return Ended(process.exitcode, *(read_end(folder, rank, name) for name in ("out", "err")))


def read_end(folder: Path, rank: int, name: str = "err") -> str:
    return (folder / f"{rank}.{name}").read_text(encoding="utf-8")
