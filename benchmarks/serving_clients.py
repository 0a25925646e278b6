"""The clients of benchmarks/serving.py, in a process of their own, which imports nothing that is slow or takes threads.

Each of them sends a text, waits for its scores and sends the next ("closed loop"). What is asked comes as JSON on
standard input, and what was found goes as JSON to standard output.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter

import aiohttp

PATIENCE = aiohttp.ClientTimeout(total=60)


async def load(url: str, path: str, texts: list[str], connections: int, seconds: float) -> dict:
    """
    Requests to one server for so many seconds, after one from each client that is not counted.

    Args:
        path: `/classify`, or `/health` for what a request costs without a model.
        texts: Taken in turn by all clients, again from the first after the last.

    Returns:
        Latencies in ms of the requests that ended in time and well, errors by kind, and the seconds.
    """
    bodies = itertools.cycle([json.dumps({"inputs": text}).encode() for text in texts])
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    kind = {"Content-Type": "application/json"}

    async def request() -> str | None:
        """What went wrong."""
        try:
            sent = session.get(path) if path == "/health" else session.post(path, data=next(bodies), headers=kind)
            async with sent as answer:
                await answer.read()
                return None if answer.status == 200 else str(answer.status)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return type(error).__name__

    async def ask_until(end: float) -> None:
        while (start := time.perf_counter()) < end:
            error = await request()
            now = time.perf_counter()
            if error is not None:
                errors[error] += 1
            elif now <= end:
                latencies.append(1000 * (now - start))

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(url, connector=connector, timeout=PATIENCE) as session:
        await asyncio.gather(*(request() for _ in range(connections)))
        end = time.perf_counter() + seconds
        await asyncio.gather(*(ask_until(end) for _ in range(connections)))
    return {"latencies_ms": latencies, "errors": dict(errors), "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(**json.load(sys.stdin)))))
