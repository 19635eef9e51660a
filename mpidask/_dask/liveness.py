"""A connection between two ranks that only stands there, next to MPI.

By it, the ranks of scheduler and leader notice that the other one has died: it breaks.
MPI does not tell, and not every launcher ends a job when one of its processes dies
(Slurm's srun does not).

By it, a rank also wakes the other: "look for messages of MPI now". So while the cluster
runs and nothing happens, nobody has to look often.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpidask._dask.connection_info import ConnectionInfo
from mpidask._log import logger

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.core import Status

_WATCH, _WAKE = "mpidask-watch", "mpidask-wake"
#: Seconds for which a watcher tries to connect to the scheduler, and between its attempts.
_TIMEOUT, _PAUSE = 300, 1


class WatchedScheduler:
    """The scheduler's end of such connections.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    on_wake : callable
        Called when another rank has sent something.
    on_disconnect : callable
        Called when a rank that watched is gone.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        on_wake: Callable[[], object],
        on_disconnect: Callable[[], object],
    ) -> None:
        self._on_wake = on_wake
        self._on_disconnect = on_disconnect
        self._watchers: set[Any] = set()
        scheduler.handlers[_WATCH] = self._watched
        scheduler.handlers[_WAKE] = self.wake_all

    async def wake_all(self) -> None:
        """Wake this rank, and those that watch."""
        self._on_wake()
        for comm in list(self._watchers):  # one may come or go while a message is written
            await _wake(comm)

    async def _watched(self, comm: Any) -> Status:
        from distributed.core import Status

        self._watchers.add(comm)
        await _read_until_closed(comm, self._on_wake)
        self._watchers.discard(comm)
        self._on_disconnect()
        return Status.dont_reply


class SchedulerWatch:
    """The other end: a rank that watches the scheduler of a cluster."""

    def __init__(self, cluster: ConnectionInfo, on_wake: Callable[[], object]) -> None:
        self._cluster = cluster
        self._on_wake = on_wake
        self._comm: Any = None

    async def run(self) -> None:
        """Watch, and return when the scheduler is gone, or can't be reached for long."""
        self._comm = await _connect_at_last(self._cluster)
        if self._comm is None:
            return
        try:
            with contextlib.suppress(OSError):  # reading tells that it is gone
                await self._comm.write({"op": _WATCH, "reply": False})
            await _read_until_closed(self._comm, self._on_wake)
        finally:
            self._comm.abort()

    async def wake(self) -> None:
        """Wake the scheduler's rank."""
        if self._comm is not None:
            await _wake(self._comm)


async def wake_leader(cluster: ConnectionInfo) -> None:
    """Wake the ranks of scheduler and leader, from any other rank of the job."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        comm = await cluster.connect("client")
        await comm.write({"op": _WAKE, "reply": False})
        await comm.close()


async def _connect_at_last(cluster: ConnectionInfo) -> Any:
    """Connect, or say after many attempts why not: a busy scheduler may refuse some."""
    end = time.monotonic() + _TIMEOUT
    while True:
        try:
            return await cluster.connect("client")
        except (OSError, asyncio.TimeoutError) as error:
            if time.monotonic() > end:
                why = error or "it does not answer"
                logger.warning("no connection to the scheduler for %s s: %s", _TIMEOUT, why)
                return None
        await asyncio.sleep(_PAUSE)


async def _wake(comm: Any) -> None:
    with contextlib.suppress(OSError):  # the other end is gone
        await comm.write(_WAKE)


async def _read_until_closed(comm: Any, on_wake: Callable[[], object]) -> None:
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        while True:
            await comm.read()
            on_wake()
