"""Small messages: what a connection that can use MPI costs beside an ordinary one.

    python tests/benchmarks/messages.py

Both ends are in one process, so its CPU time is that of the whole dialogue of two workers: a
request, an answer with data and a receipt. The connections take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from distributed import Security
from distributed.comm import connect, listen
from distributed.protocol import to_serialize
from mpi4py import MPI

from mpidask import _transport

_REQUEST = {"op": "get_data", "keys": ["sum-1"], "who": "tls://10.0.0.7:40163", "reply": True}


@asynccontextmanager
async def ends(scheme: str, security: Security) -> AsyncIterator[tuple[Any, Any]]:
    """Give both ends of a connection."""
    accepted: asyncio.Queue[Any] = asyncio.Queue()
    arguments = security.get_listen_args("worker")
    async with listen(f"{scheme}://127.0.0.1", accepted.put, **arguments) as listener:
        address = listener.contact_address
        one = await connect(address, **security.get_connection_args("worker"))
        other = await accepted.get()
        yield one, other
        await one.close()
        await other.close()


async def dialogue(one: Any, other: Any, data: np.ndarray) -> None:
    """Let one ask, and the other answer."""

    async def answer() -> None:
        await other.read()
        await other.write({"status": "OK", "data": {"sum-1": to_serialize(data)}})
        await other.read()

    answering = asyncio.create_task(answer())
    await one.write(_REQUEST)
    await one.read()
    await one.write("OK")
    await answering


async def cpu_time(one: Any, other: Any, data: np.ndarray, repeats: int) -> float:
    """Give the CPU time of a dialogue in seconds."""
    started = time.process_time()
    for _ in range(repeats):
        await dialogue(one, other, data)
    return (time.process_time() - started) / repeats


async def measure(options: argparse.Namespace) -> None:
    """Print the medians, and the median of the ratios."""
    security = Security.temporary()
    async with ends("tls", security) as plain, ends("mpi", security) as ours:
        for nbytes in options.sizes:
            data = np.ones(nbytes, "u1")
            pairs = [
                [await cpu_time(*one, data, options.repeats) for one in (plain, ours)]
                for _ in range(options.rounds)
            ]
            tls, mpi = (1e6 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(ours / plain for plain, ours in pairs)
            print(f"{nbytes} bytes: {tls:.0f} µs by tls, {mpi:.0f} µs by mpi, {ratio:.2f} times")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000], help="bytes")
    parser.add_argument("--repeats", type=int, default=50, help="dialogues in each round")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    _transport.enable(MPI.COMM_WORLD.Dup(), job="messages", peers={0})
    asyncio.run(measure(options))
    _transport.disable(5)


if __name__ == "__main__":
    main()
