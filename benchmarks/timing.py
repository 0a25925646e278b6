"""Clocks and quantiles: cases that take turns, so that the noise of a shared machine meets all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

# Calls of a case in one round: as many as fill this time, and no more than that. The median of them is the round's.
SECONDS_A_VISIT, MOST_CALLS = 0.3, 20
PATIENCE = 2.0


def clock(step: Callable[[int], object], turn: int, device: str) -> float:
    """Seconds that one call takes, with what it leaves running on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(turn)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def choose_calls(seconds: float) -> int:
    return max(1, min(MOST_CALLS, int(SECONDS_A_VISIT / max(seconds, 1e-9))))


def warm_up(step: Callable[[int], object], device: str) -> float:
    """The first calls allocate and compile. Returns the seconds of one that follows."""
    first = clock(step, 0, device)
    # A model that needs long for one call is warm after it.
    return first if first > PATIENCE else min(clock(step, turn, device) for turn in (1, 2))


def time_in_rounds(
    steps: Mapping[str, Callable[[int], object]],
    calls: Mapping[str, int],
    every: Mapping[str, int],
    rounds: int,
    device: str,
    label: str = "",
) -> dict[str, list[float | None]]:
    """
    Runs the cases in rounds, A B C A B C ...

    Args:
        calls: How often a case is called in a round; see `choose_calls`.
        every: 2 for a case that only every second round runs, and so on.

    Returns:
        The milliseconds of each case in each round; None where it did not run.
    """
    times: dict[str, list[float | None]] = {name: [] for name in steps}
    with tqdm(total=rounds * len(steps), desc=label, disable=None) as progress:
        for turn in range(rounds):
            for name, step in steps.items():
                if turn % every[name]:
                    times[name].append(None)
                else:
                    if calls[name] > 1:  # what ran before it has emptied the caches
                        step(turn)
                    seconds = [clock(step, turn * calls[name] + call, device) for call in range(calls[name])]
                    times[name].append(1000 * statistics.median(seconds))
                progress.update()
    return times


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between the sorted values."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summarise(values: Sequence[float | None]) -> dict[str, float | None]:
    """Median, 20th and 80th percentile of the rounds that ran."""
    known = [value for value in values if value is not None]
    if not known:
        return {"median": None, "p20": None, "p80": None}
    return {"median": quantile(known, 0.5), "p20": quantile(known, 0.2), "p80": quantile(known, 0.8)}


def pair(times: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    """The ratio in each round in which both ran: neighbours in time share the machine's noise."""
    return [x / y if x is not None and y is not None else None for x, y in zip(times, others, strict=True)]
