"""The processes that share one command, as `torchrun` starts them: who is who, and one answer for all."""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# So long the first process to finish waits for the last one. One that has died is noticed at once.
PATIENCE = timedelta(days=1)


class Processes:
    """This process, `rank`, among `count` of them."""

    def __init__(self, rank: int = 0, count: int = 1, group: dist.ProcessGroup | None = None):
        self.rank = rank
        self.count = count
        self.group = group

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def owns(self, index: int) -> bool:
        """Whether a piece of work is for this process: they take turns."""
        return index % self.count == self.rank

    def gather(self, value: Any) -> list[Any]:
        """
        What each process gives, by rank. It waits for all of them.

        Raises:
            ConnectionError: Another process has ended, or has not come within a day.
        """
        if self.count == 1:
            return [value]
        values = [None] * self.count
        try:
            dist.all_gather_object(values, value, group=self.group)
        except RuntimeError as error:
            raise ConnectionError(f"Another one of the {self.count} processes has ended.") from error
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """
        What no process goes on from before all have done it. If one fails in it, all end: the first one with an error
        raises it, the others exit with status 2 and without a word.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        failed = self.gather(error is not None)
        if error is not None and failed.index(True) == self.rank:
            raise error
        if any(failed):
            sys.exit(2)


@contextlib.contextmanager
def join_processes() -> Iterator[Processes]:
    """The processes that `torchrun`, or a launcher with the same environment, has started; or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    is_ours = not dist.is_initialized()
    if is_ours:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        group = None if is_ours else dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Processes(dist.get_rank(), count, group)
    finally:
        if is_ours:
            dist.destroy_process_group()
