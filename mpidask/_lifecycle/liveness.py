"""How ranks notice that the scheduler's or the leader's rank has died, and what follows.

MPI does not report dead ranks, and not every launcher ends a job when one of its processes dies
(Slurm's srun does not). So the leader keeps an idle connection to the scheduler: when it breaks,
the process at its other end is gone. If the leader is the scheduler's rank, a worker keeps it.
Should both ends die at once, workers find out: they have no scheduler, and the leader is silent.

Over this connection, a rank also wakes the other one up ("poll MPI now"). So nobody has to poll
often while the cluster runs and nothing happens. And the leader gives signs of life: a process
that is stopped, or whose Python does not run, keeps its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mpidask._dask.connection_info import ConnectionInfo
from mpidask._lifecycle import silence
from mpidask._lifecycle.messages import LeaderSought
from mpidask._lifecycle.roles import Roles
from mpidask._log import logger
from mpidask._mpi import job_exit
from mpidask._mpi.communicator import TO_LEADER, Communicator
from mpidask._threads import start_task
from mpidask._waiting import Deadline

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.core import Status

#: The operations of the scheduler's rank: keep this connection open; wake up.
_WATCH, _WAKE = "mpidask-watch", "mpidask-wake"
#: A sign of life, on a connection that is kept open.
_ALIVE = "mpidask-alive"
#: Seconds to keep trying to connect to the scheduler, and between attempts.
_TIMEOUT, _PAUSE = 300, 1
#: Seconds from a broken connection to the conclusion that its other end is dead: on the leader and
#: the scheduler's rank; and on a worker, which the leader has to tell that the scheduler was shut
#: down.
_GRACE, _WORKER_GRACE = 2, 3
#: Seconds between looks at whether this rank's worker has a scheduler.
_INTERVAL = 30


class LivenessServer:
    """The scheduler's end of these connections.

    Calls `on_wake` when another rank has sent something, and `on_disconnect` when the process at
    the other end of a connection is gone.
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
        """Wake this rank and those at the other ends."""
        self._on_wake()
        for comm in list(self._watchers):  # changes while a message is written
            await _wake(comm)

    async def _watched(self, comm: Any, who: str | None) -> Status:
        from distributed.core import Status

        self._watchers.add(comm)
        async with silence.SilenceWatch(who) as watch:

            def hear(message: object) -> None:
                watch.hear()
                if message != _ALIVE:
                    self._on_wake()

            await _read_until_closed(comm, hear)
        self._watchers.discard(comm)
        self._on_disconnect()
        return Status.dont_reply


class LivenessClient:
    """The end of a rank that watches the scheduler."""

    def __init__(
        self, cluster: ConnectionInfo, on_wake: Callable[[], object], who: str | None = None
    ) -> None:
        self._cluster = cluster
        self._on_wake = on_wake
        self._who = who
        self._comm: Any = None

    async def run(self) -> None:
        """Return once the scheduler is gone, or can't be reached for a long time."""
        self._comm = await _connect(self._cluster)
        if self._comm is None:
            return
        living = start_task(self._give_signs_of_life())
        try:
            await _read_until_closed(self._comm, lambda message: self._on_wake())
        finally:
            living.cancel()
            self._comm.abort()

    async def _give_signs_of_life(self) -> None:
        with contextlib.suppress(OSError):  # then reading fails, too
            await self._comm.write({"op": _WATCH, "reply": False, "who": self._who})
            while True:
                await asyncio.sleep(silence.INTERVAL)
                await self._comm.write(_ALIVE)

    async def wait_for_death(
        self, closed: Callable[[], Awaitable[object]], grace: float | None = None
    ) -> bool:
        """Wait until the scheduler is gone, and return whether its process has died.

        It was shut down instead if `closed`, which waits for its rank to report that, returns
        within `grace` seconds.
        """
        await self.run()
        self._on_wake()
        try:
            await asyncio.wait_for(closed(), _GRACE if grace is None else grace)
        except asyncio.TimeoutError:
            return True
        return False

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


async def _connect(cluster: ConnectionInfo) -> Any:
    """Connect to the scheduler, which may refuse connections while it is busy."""
    deadline = Deadline(_TIMEOUT)
    while True:
        try:
            return await cluster.connect("client")
        except (OSError, asyncio.TimeoutError) as error:
            if not deadline.left:
                why = error or "it does not answer"
                logger.warning("no connection to the scheduler for %s s: %s", _TIMEOUT, why)
                return None
        await asyncio.sleep(_PAUSE)


async def _can_connect(cluster: ConnectionInfo) -> bool:
    try:
        comm = await cluster.connect("client")
    except (OSError, asyncio.TimeoutError):
        return False
    await comm.close()
    return True


async def _wake(comm: Any) -> None:
    with contextlib.suppress(OSError):  # the other end is gone
        await comm.write(_WAKE)


async def _read_until_closed(comm: Any, hear: Callable[[object], object]) -> None:
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        while True:
            hear(await comm.read())


class LivenessGuard:
    """Ends the job, on any rank, if the rank that should do so is dead; and wakes the leader."""

    def __init__(self, comm: Communicator, roles: Roles) -> None:
        self._comm = comm
        self._roles = roles
        self._scheduler: Scheduler | None = None
        self._server: LivenessServer | None = None
        self._cluster: ConnectionInfo | None = None
        self._ending = False
        self._scheduler_closed = asyncio.Event()
        self._leader_heard = asyncio.Event()

    def stand_down(self) -> None:
        """Never end the job from here on: the leader has ordered the end."""
        self._ending = True

    def expect_no_scheduler(self) -> None:
        """Accept that the scheduler goes away: it was shut down."""
        self._scheduler_closed.set()

    def serve(self, scheduler: Scheduler) -> None:
        """Accept connections on the scheduler's rank, and notice when the leader's breaks."""
        self._scheduler = scheduler
        self._server = LivenessServer(scheduler, self._comm.wake, self._on_disconnect)

    def _on_disconnect(self) -> None:
        self._comm.wake()
        if self._roles.leader != self._roles.scheduler and not self._ending:
            asyncio.get_running_loop().call_later(_GRACE, self._end_leaderless_job)

    def _end_leaderless_job(self) -> None:
        from distributed.core import Status

        if self._scheduler is not None and self._scheduler.status == Status.running:
            self.end_job(f"the client on rank {self._roles.leader} is gone")

    def watch(self, cluster: ConnectionInfo) -> Coroutine[Any, Any, None] | None:
        """Record the cluster, and return what to run if this rank watches its scheduler.

        One worker watches a scheduler whose rank is the leader.
        """
        self._cluster = cluster
        others = (rank for rank in self._roles.workers if rank != self._roles.leader)
        if self._roles.leader != self._roles.scheduler or self._comm.rank != next(others, None):
            return None
        return self._watch(cluster)

    async def _watch(self, cluster: ConnectionInfo) -> None:
        client = LivenessClient(cluster, self._comm.wake)
        if await client.wait_for_death(self._scheduler_closed.wait, _WORKER_GRACE):
            self.end_job(f"the scheduler on rank {self._roles.leader} is gone")

    async def watch_leader(self, has_scheduler: Callable[[], bool], timeout: float) -> None:
        """End the job, on a worker's rank, once both scheduler and leader are dead.

        The leader has `timeout` seconds to answer, as user code may hold up its event loop.
        """
        timeout += job_exit.STAGGER * min(self._comm.rank, job_exit.STAGGERED)
        # The scheduler of another job may come back.
        while self._cluster is not None and not self._scheduler_closed.is_set():
            await asyncio.sleep(_INTERVAL)
            if has_scheduler() or await self._leader_answers(timeout):
                continue
            if not has_scheduler() and not await _can_connect(self._cluster):
                self.end_job(self._both_silent(timeout))

    async def _leader_answers(self, timeout: float) -> bool:
        self._leader_heard.clear()
        self._comm.send(self._roles.leader, TO_LEADER, LeaderSought())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._leader_heard.wait(), timeout)
        return self._leader_heard.is_set()

    def hear_of_leader(self) -> None:
        """Take note that the leader has answered."""
        self._leader_heard.set()

    def _both_silent(self, timeout: float) -> str:
        ranks = dict.fromkeys((self._roles.scheduler, self._roles.leader))
        named = " and ".join(
            f"rank {rank} ({self._roles.of(rank)})" for rank in ranks if rank is not None
        )
        return f"no answer from {named} for {timeout:.3g} s (startup_timeout)"

    def wake_leader(self) -> None:
        """Make the leader poll at once."""
        if self._server is not None:
            start_task(self._server.wake_all())
        elif self._cluster is not None:
            start_task(wake_leader(self._cluster))

    def end_job_after(self, grace: float, status: int) -> asyncio.TimerHandle:
        """End the job if the leader has not done so within `grace` seconds."""
        reason = (
            f"no answer from rank {self._roles.leader} (dead, or in a call that does not let "
            "Python run)"
        )
        return asyncio.get_running_loop().call_later(grace, self.end_job, reason, status)

    def end_job(self, reason: str, status: int = 1) -> None:
        """End the job because of a rank that can't be told to, unless it ends anyway."""
        if not self._ending:
            job_exit.end_job(reason, status)
