"""Measure MPI against the stream, between two servers."""

from __future__ import annotations

import os
import time
from typing import Any

from distributed.comm.core import connect
from distributed.protocol.serialize import to_serialize

from mpidask._transport import context as contexts

#: Name of the handler that receives data and ignores it.
_OP = "mpidask-take"
#: Bytes of a message: large enough to be significant, and sent in milliseconds.
_SIZE = 2**22
#: Repetitions each way, after a warm-up.
_REPEATS = 2


async def _take(data: object) -> None:
    pass


def answer_probes(server: Any) -> None:
    """Let a server of distributed take part in probes."""
    server.handlers[_OP] = _take


async def compare(address: str, rank: int, connection_args: dict[str, Any]) -> float:
    """Return the speed of MPI relative to the stream, to the server of another rank.

    Parameters
    ----------
    address : str
        Of the server, on which `answer_probes` was called.
    rank : int
        Of the server.
    connection_args : dict
        As for `distributed.comm.connect`.

    Raises
    ------
    OSError
        The server can't be reached, or the connection was lost.
    RuntimeError
        The transport is not enabled in this process.
    """
    context = contexts.current()
    if context is None:
        raise RuntimeError("the transport is not enabled in this process")
    before = context.peers
    data = memoryview(os.urandom(2**16) * (_SIZE // 2**16))
    seconds: dict[tuple[int, ...], list[float]] = {(): [], (rank,): []}
    comm = await connect(address, **connection_args)
    try:
        for _ in range(_REPEATS + 1):  # in turn, so that other load affects both
            for peers, measured in seconds.items():
                context.peers = peers
                measured.append(await _round_trip(comm, data))
    finally:
        context.peers = before
        await comm.close()
    by_stream, by_mpi = (min(measured[1:]) for measured in seconds.values())
    return by_stream / by_mpi


async def _round_trip(comm: Any, data: memoryview) -> float:
    started = time.perf_counter()
    await comm.write({"op": _OP, "data": to_serialize(data), "reply": True})
    await comm.read()
    return time.perf_counter() - started
