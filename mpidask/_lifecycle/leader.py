"""The rank that decides: the cluster is up, or isn't; and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

from mpidask._dask.client import give_up_reconnecting
from mpidask._dask.liveness import SchedulerWatch
from mpidask._lifecycle.liveness_guard import LIVENESS_GRACE
from mpidask._lifecycle.member import SELDOM, SELDOM_JOINED, SOON
from mpidask._lifecycle.messages import (
    ConnectionInfo,
    End,
    Failed,
    Finished,
    Running,
    SchedulerClosed,
    SignalHeard,
    Signalled,
    WorkerStarted,
)
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.shutdown import Shutdown
from mpidask._lifecycle.start_orders import start_orders
from mpidask._lifecycle.startup import Startup, reporting_progress
from mpidask._log import logger
from mpidask._mpi import launcher
from mpidask._mpi.communicator import TO_LEADER, TO_MEMBER, Communicator
from mpidask._mpi.deadline import Deadline
from mpidask._options import Options


class Leader:
    """Brings the cluster up, listens while it runs, and ends it.

    `start` waits for `RankReady` of all ranks, then for `ConnectionInfo`, then for enough
    `WorkerStarted`. While the cluster runs it hears of what fails, finishes or was sent a
    signal. `end` waits for `Done` of all ranks.

    Parameters
    ----------
    comm : Communicator
    roles : Roles
    options : Options
    on_signal : callable
        Called with the number of the first signal that another rank was sent.

    Attributes
    ----------
    broken : bool
        Whether the cluster is lost, for a reason that has been told.
    over : asyncio.Future of int
        Done when the cluster has ended by itself: its scheduler was shut down, or the
        last worker of this job that had joined another is gone. Gives the exit status.
    """

    def __init__(
        self, comm: Communicator, roles: Roles, options: Options, on_signal: Callable[[int], None]
    ) -> None:
        self._comm = comm
        self._roles = roles
        self._options = options
        self._on_signal = on_signal
        self._signalled = False
        self.broken = False
        self._warned_of: set[str] = set()
        self._listening: asyncio.Task[None] | None = None
        self._watch: SchedulerWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        wait = options.wait_for_workers
        wanted = len(roles.workers) if wait is True else int(wait)
        if roles.scheduler is None:
            wanted = 0  # the cluster runs without them
        self._startup = Startup(roles, comm.size, wanted)
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self, deadline: Deadline) -> ConnectionInfo | None:
        """Bring the cluster up, then keep listening in the background.

        Raises
        ------
        StartupError
            If a rank fails, or does not answer in time.
        """
        try:
            async with reporting_progress(self._startup.progress):
                await asyncio.wait_for(self._start(), deadline.left)
        except asyncio.TimeoutError:
            raise self._startup.timed_out(deadline.timeout) from None
        self._order_all(Running())
        self._listening = asyncio.create_task(self._listen())
        self._listening.add_done_callback(self.give_up_if_failed)
        cluster = self._startup.cluster
        if cluster is not None:
            logger.info(self._startup.summary())
            self._watch = SchedulerWatch(cluster, self._comm.wake)
            self._watching = asyncio.create_task(self._watch_scheduler(self._watch, cluster))
            self._watching.add_done_callback(self.give_up_if_failed)
        return cluster

    async def _watch_scheduler(self, watch: SchedulerWatch, cluster: ConnectionInfo) -> None:
        await watch.run()
        self._comm.wake()
        with contextlib.suppress(asyncio.TimeoutError):
            # A scheduler that was shut down says so.
            await asyncio.wait_for(asyncio.shield(self.over), LIVENESS_GRACE)
        if self.over.done():
            give_up_reconnecting(cluster)
        else:
            rank = self._roles.scheduler
            assert rank is not None
            logger.error("the scheduler on %s is gone: ending the job", self._startup.place(rank))
            self._break()

    async def _start(self) -> None:
        startup = self._startup
        while not startup.complete:
            rank, message = await self._hear()
            startup.raise_if_hopeless()
            if isinstance(message, Failed):
                self._warn_of(rank, message)
            for one, order in start_orders(rank, message, startup, self._options):
                self._order(one, order)

    async def _listen(self) -> None:
        startup, working = self._startup, set(self._roles.workers)
        awaited = working - startup.workers.keys()
        joining = self._roles.scheduler is None
        while True:
            rank, message = await self._hear(longest=SELDOM_JOINED if joining else SELDOM)
            if isinstance(message, (WorkerStarted, Failed, Finished)):
                awaited.discard(rank)
            match message:
                case Failed(final=True) | Finished("worker"):
                    working.discard(rank)
                case Finished("scheduler"):
                    self._is_over(0)
                    self._order_all(SchedulerClosed())
                case WorkerStarted() if joining and not awaited:
                    logger.info(startup.summary())
            if startup.transport is not None:  # of workers that are late
                for one, order in startup.transport.orders(rank, message, startup.workers):
                    self._order(one, order)
            if joining and not working:
                self._is_over(1 if startup.failures else 0)

    def give_up_if_failed(self, task: asyncio.Task[Any]) -> None:
        """End the job rather than leave it to itself, should there be an error of ours."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the leader failed, ending the job", exc_info=error)
            self._break()

    def _break(self) -> None:
        """End the user's function as a signal would, which wakes it from any wait."""
        self.broken = True
        self._on_signal(signal.SIGTERM)

    def _warn_of(self, rank: int, failed: Failed) -> None:
        if failed.cause in self._warned_of:
            return  # what ails one rank often ails all of them
        self._warned_of.add(failed.cause)
        logger.warning(
            "the %s on %s failed: %s", failed.duty, self._startup.place(rank), failed.cause
        )

    def _is_over(self, status: int) -> None:
        if not self.over.done():
            self.over.set_result(status)

    async def _hear(self, longest: float = SOON) -> tuple[int, object]:
        rank, message = await self._comm.receive(TO_LEADER, longest=longest)
        self._startup.hear(rank, message)
        if isinstance(message, Failed) and self._listening is not None:
            self._warn_of(rank, message)  # also of what is heard only after the order to end
        if isinstance(message, Signalled):
            self._order(rank, SignalHeard())
            self._act_on_first_signal(rank, message.signum)
        return rank, message

    def _act_on_first_signal(self, rank: int, signum: int) -> None:
        if not self._signalled:
            self._signalled = True
            name, place = signal.Signals(signum).name, self._startup.place(rank)
            made = launcher.BY_OPEN_MPI and signum == signal.SIGTERM
            hint = " (which Open MPI's mpirun also makes of Ctrl-C)" if made else ""
            logger.warning("%s was sent %s%s", place, name, hint)
            self._on_signal(signum)

    def place(self, rank: int) -> str:
        """Name a rank and its host."""
        return self._startup.place(rank)

    async def end(self, order: End) -> None:
        """Order every rank to stop, and wait until all have.

        Ranks that don't are named, and the job is aborted, with the status of `order`,
        when this rank leaves the program (or at once, if it would not leave).
        """
        if self._listening is not None:
            self._listening.cancel()
            # What it has not heard to the end, `shutdown` hears.
            await asyncio.wait([self._listening])
        self._order_all(order)
        self._comm.wake()
        if self._watch is not None and self._watching is not None:
            await self._watch.wake()
            self._watching.cancel()
        shutdown = Shutdown(order, self._startup, self._options.shutdown_timeout)
        await shutdown.wait(self._hear)

    def _order_all(self, order: object) -> None:
        for rank in range(self._comm.size):
            self._order(rank, order)

    def _order(self, rank: int, order: object) -> None:
        self._comm.send(rank, TO_MEMBER, order)
