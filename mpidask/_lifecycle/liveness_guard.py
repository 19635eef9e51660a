"""What a member does when the rank of the leader, or of the scheduler, is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from mpidask._dask.liveness import SchedulerWatch, WatchedScheduler, wake_leader
from mpidask._lifecycle.roles import Roles
from mpidask._log import logger
from mpidask._mpi import job_exit
from mpidask._mpi.communicator import Communicator

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._dask.connection_info import ConnectionInfo

#: Seconds between the break of a connection and the conclusion that its other end is dead.
LIVENESS_GRACE = 2
#: Seconds in which a scheduler that was shut down, and is not dead, says so.
_SCHEDULER_GRACE = 3


class LivenessGuard:
    """Ends the job for one member when nobody else can, and wakes the leader.

    Parameters
    ----------
    comm : Communicator
    roles : Roles
    """

    def __init__(self, comm: Communicator, roles: Roles) -> None:
        self._comm = comm
        self._roles = roles
        self._scheduler: Scheduler | None = None
        self._watched: WatchedScheduler | None = None
        self._cluster: ConnectionInfo | None = None
        self._waking: set[asyncio.Task[None]] = set()
        self._ending = False
        self._scheduler_closed = False

    def stand_down(self) -> None:
        """Abort nothing from now on: the order to end has come."""
        self._ending = True

    def expect_no_scheduler(self) -> None:
        """Take no dead rank for the cause when the scheduler is gone: it was shut down."""
        self._scheduler_closed = True

    def guard(self, scheduler: Scheduler) -> None:
        """Let the leader watch the scheduler of this rank, and notice when it is gone."""
        self._scheduler = scheduler
        self._watched = WatchedScheduler(scheduler, self._comm.wake, self._on_watcher_lost)

    def _on_watcher_lost(self) -> None:
        self._comm.wake()
        if self._roles.leader != self._roles.scheduler and not self._ending:
            asyncio.get_running_loop().call_later(LIVENESS_GRACE, self._abort_if_leaderless)

    def _abort_if_leaderless(self) -> None:
        from distributed.core import Status

        if self._scheduler is not None and self._scheduler.status == Status.running:
            self.abort(f"the client on rank {self._roles.leader} is gone")

    def watch(self, cluster: ConnectionInfo) -> Coroutine[Any, Any, None] | None:
        """Take note of the cluster; give what is to run if this rank watches its scheduler.

        One worker watches a scheduler that is the leader, too.
        """
        self._cluster = cluster
        others = (rank for rank in self._roles.workers if rank != self._roles.leader)
        if self._roles.leader != self._roles.scheduler or self._comm.rank != next(others, None):
            return None
        return self._watch(cluster)

    async def _watch(self, cluster: ConnectionInfo) -> None:
        await SchedulerWatch(cluster, self._comm.wake).run()
        self._comm.wake()
        await asyncio.sleep(_SCHEDULER_GRACE)
        if not self._scheduler_closed:
            self.abort(f"the scheduler on rank {self._roles.leader} is gone")

    def wake_leader(self) -> None:
        """Let the leader look for a message at once."""
        if self._watched is not None:
            waking = asyncio.create_task(self._watched.wake_all())
        elif self._cluster is not None:
            waking = asyncio.create_task(wake_leader(self._cluster))
        else:
            return
        self._waking.add(waking)  # else it may be collected before it ends
        waking.add_done_callback(self._waking.discard)

    def abort_after(self, grace: float, status: int) -> asyncio.TimerHandle:
        """End the job if the leader does not, within so many seconds."""
        reason = (
            f"no answer from rank {self._roles.leader} (dead, or in a call that does not let "
            "Python run)"
        )
        return asyncio.get_running_loop().call_later(grace, self.abort, reason, status)

    def abort(self, reason: str, status: int = 1) -> None:
        """End the job, because of a rank that can't be told to; unless it has ended it."""
        if not self._ending:
            logger.error("%s: ending the job", reason)
            job_exit.abort_at_exit(status, at_once=True)
