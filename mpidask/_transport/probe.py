"""A short comparison of the two ways that data can take."""

from __future__ import annotations

import os
import time
from typing import Any

from distributed.comm.core import connect
from distributed.protocol.serialize import to_serialize

from mpidask._transport import fabric as fabrics

#: Name of the handler that takes data and does nothing with it.
_OP = "mpidask-take"
#: Bytes of a message: enough to tell, and sent in milliseconds.
_SIZE = 2**23


async def _take(data: object) -> None:
    pass


def answer_probes(server: Any) -> None:
    """Let a server of distributed take the data of a probe."""
    server.handlers[_OP] = _take


async def compare(address: str, rank: int, connection_args: dict[str, Any]) -> float:
    """Tell how many times as fast as the stream MPI is to the server of another rank.

    Parameters
    ----------
    address : str
        The server's, which answers probes.
    rank : int
        The server's.
    connection_args : dict
        As for `distributed.comm.connect`.

    Raises
    ------
    OSError
        The server can't be reached, or was lost.
    RuntimeError
        This process does not use the transport.
    """
    fabric = fabrics.current()
    if fabric is None:
        raise RuntimeError("this process does not use the transport")
    before = fabric.peers
    comm = await connect(address, **connection_args)
    try:
        fabric.peers = ()
        by_stream = await _shortest_round_trip(comm)
        fabric.peers = (rank,)
        by_mpi = await _shortest_round_trip(comm)
    finally:
        fabric.peers = before
        await comm.close()
    return by_stream / by_mpi


async def _shortest_round_trip(comm: Any) -> float:
    """Send some messages; the first does not count, as all is new to it."""
    data = memoryview(os.urandom(2**16) * (_SIZE // 2**16))
    seconds = [await _round_trip(comm, data) for _ in range(3)]
    return min(seconds[1:])


async def _round_trip(comm: Any, data: memoryview) -> float:
    started = time.perf_counter()
    await comm.write({"op": _OP, "data": to_serialize(data), "reply": True})
    await comm.read()
    return time.perf_counter() - started
