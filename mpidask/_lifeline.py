"""How the ranks of client and scheduler notice that the other one has died.

MPI does not tell, and not every launcher ends a job when one of its processes dies
(Slurm's srun does not). A connection that only stands there does: it breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpidask._agreement import Cluster

if TYPE_CHECKING:
    from distributed import Scheduler

_OPERATION = "mpidask-lifeline"


def attach(scheduler: Scheduler, on_break: Callable[[], object]) -> None:
    """Let the leader hold on to a scheduler, and call `on_break` when it lets go."""
    from distributed.core import Status

    async def held(comm: Any) -> Status:
        await _wait_for_end(comm)
        on_break()
        return Status.dont_reply

    scheduler.handlers[_OPERATION] = held


async def hold(cluster: Cluster) -> None:
    """Hold on to the scheduler of a cluster until the connection breaks."""
    from distributed import Security
    from distributed.comm.core import connect

    security = cluster.security or Security()
    comm = await connect(cluster.address, **security.get_connection_args("client"))
    try:
        await comm.write({"op": _OPERATION, "reply": False})
        await _wait_for_end(comm)
    finally:
        comm.abort()


async def _wait_for_end(comm: Any) -> None:
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        while True:
            await comm.read()
