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
_SIZE = 2**22
#: How often it goes each way, after a first time that does not count, as all is new to it.
_REPEATS = 2


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
    data = memoryview(os.urandom(2**16) * (_SIZE // 2**16))
    seconds: dict[tuple[int, ...], list[float]] = {(): [], (rank,): []}
    comm = await connect(address, **connection_args)
    try:
        for _ in range(_REPEATS + 1):  # in turn, as the machine may be busier at times
            for peers, measured in seconds.items():
                fabric.peers = peers
                measured.append(await _round_trip(comm, data))
    finally:
        fabric.peers = before
        await comm.close()
    by_stream, by_mpi = (min(measured[1:]) for measured in seconds.values())
    return by_stream / by_mpi


async def _round_trip(comm: Any, data: memoryview) -> float:
    started = time.perf_counter()
    await comm.write({"op": _OP, "data": to_serialize(data), "reply": True})
    await comm.read()
    return time.perf_counter() - started
