"""Data by MPI: one rank's part."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any

from mpidask._lifecycle.messages import MeasureTransport, StartTransport, TransportMeasured
from mpidask._mpi.communicator import Communicator
from mpidask._options import Options

if TYPE_CHECKING:
    from mpidask._dask.connection_info import ConnectionInfo

#: Seconds that a measurement may take.
_MEASURE_TIMEOUT = 5
#: The part of a worker's memory that free buffers may take at most, as 1 : n.
_SHARE_KEPT = 8
#: For tests: bytes from which a message goes by MPI.
_THRESHOLD = "MPIDASK_TRANSPORT_THRESHOLD"


class RankTransport:
    """Lets the servers and clients of this rank send and receive by MPI, if ordered to."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._started = False

    def start(self, order: StartTransport) -> None:
        """Take part."""
        from mpidask import _transport

        threshold = os.environ.get(_THRESHOLD)
        settings: dict[str, Any] = {} if threshold is None else {"threshold": int(threshold)}
        _transport.enable(self._comm.mpi, job=order.job, peers=order.peers, **settings)
        self._started = True

    def options_of_worker(self, options: Options) -> Options:
        """Let the worker of this rank have an address that tells of MPI."""
        return dataclasses.replace(options, protocol="mpi") if self._started else options

    async def measure(self, order: MeasureTransport, cluster: ConnectionInfo) -> TransportMeasured:
        """Compare MPI with the stream, on the way to the worker of another rank."""
        from distributed import Security

        from mpidask import _transport

        security = cluster.security or Security()
        arguments = security.get_connection_args("worker")
        comparing = _transport.compare(order.address, order.rank, arguments)
        try:
            gain = await asyncio.wait_for(comparing, _MEASURE_TIMEOUT)
        except Exception:  # what can't be measured is not used
            logging.getLogger(__name__).debug("no comparison", exc_info=True)
            gain = 0.0
        return TransportMeasured(gain)

    def send_to_all(self) -> None:
        """Send to all ranks by MPI."""
        from mpidask import _transport

        _transport.send_to(range(self._comm.size))

    def keep_within(self, memory_limit: int | None) -> None:
        """Leave most of the memory of this rank's worker to its tasks."""
        from mpidask import _transport

        if memory_limit:
            _transport.limit_pool(memory_limit // _SHARE_KEPT)

    async def stop(self, timeout: float) -> bool:
        """Take part no more; tell whether MPI is done with all transfers."""
        from mpidask import _transport

        if not self._started:
            return True
        self._started = False
        return await asyncio.to_thread(_transport.disable, timeout)
