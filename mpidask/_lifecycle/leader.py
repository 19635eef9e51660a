"""The leader: the one rank that decides when the cluster is up, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable
from typing import Any

from mpidask._dask.client import give_up_reconnecting
from mpidask._lifecycle import messages
from mpidask._lifecycle.liveness import LivenessClient
from mpidask._lifecycle.member import REPORT_GRACE, SELDOM, SELDOM_JOINED, SOON
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.start_line import start_line
from mpidask._lifecycle.startup import Startup
from mpidask._log import logger
from mpidask._mpi import job_exit, launcher
from mpidask._mpi.communicator import TO_LEADER, TO_MEMBER, Communicator
from mpidask._options import Options
from mpidask._text import list_ranks
from mpidask._waiting import FIRST_NOTICE, Deadline, WaitNotice


class Leader:
    """Start the cluster, watch it while it runs, and end it.

    Three phases, each of which loops over the messages of all ranks::

        start   until `Startup.complete`: RankReady of all ranks, then ConnectionInfo, then
                enough WorkerStarted
        run     in the background: late workers, failures, signals, the end of the scheduler
        end     until every rank is Done, or is given up after `shutdown_timeout`

    `on_signal` is called with the number of the first signal that another rank received.
    """

    def __init__(
        self, comm: Communicator, roles: Roles, options: Options, on_signal: Callable[[int], None]
    ) -> None:
        self._comm = comm
        self._roles = roles
        self._options = options
        self._on_signal = on_signal
        self._startup = Startup(roles, options, comm.size)
        self._signalled = False
        self._warned_of: set[str] = set()
        self._running: asyncio.Task[None] | None = None
        self._liveness: LivenessClient | None = None
        self._watching: asyncio.Task[None] | None = None
        self.place = self._startup.place
        #: Whether the cluster is lost, and the log says why.
        self.broken = False
        #: The exit status, once the cluster has ended by itself: its scheduler was shut down, or
        #: the last worker that this job had added to another cluster is gone.
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    # -- Start. ----------------------------------------------------------------------

    async def start(self, deadline: Deadline) -> messages.ConnectionInfo | None:
        """Start the cluster, then keep listening in the background.

        Raises `StartupError` if a rank fails, or does not answer in time.
        """
        notice = WaitNotice(
            lambda waited: f"starting for {waited} s: {self._startup.progress()}",
            first=FIRST_NOTICE,
            interval=FIRST_NOTICE,
        )
        try:
            async with notice:
                await asyncio.wait_for(self._start(), deadline.left)
        except asyncio.TimeoutError:
            raise self._startup.timed_out(deadline.timeout) from None
        self._order_all(messages.Running())
        self._running = self._in_background(self._run())
        cluster = self._startup.cluster
        if cluster is not None:
            logger.info(start_line(self._startup))
            own = self._comm.rank
            who = f"{self.place(own)} ({self._roles.of(own)})"
            self._liveness = LivenessClient(cluster, self._comm.wake, who)
            self._watching = self._in_background(self._watch_scheduler(self._liveness, cluster))
        return cluster

    async def _start(self) -> None:
        startup = self._startup
        while not startup.complete:
            rank, message = await self._hear()
            startup.raise_if_hopeless()
            if isinstance(message, messages.Failed):
                self._warn_of(rank, message)
            self._send(startup.orders(rank, message))

    # -- Run. ------------------------------------------------------------------------

    async def _run(self) -> None:
        startup, working = self._startup, set(self._roles.workers)
        awaited = working - startup.workers.keys()
        joining = self._roles.scheduler is None
        while True:
            rank, message = await self._hear(longest=SELDOM_JOINED if joining else SELDOM)
            if isinstance(message, (messages.WorkerStarted, messages.Failed, messages.Finished)):
                awaited.discard(rank)
            match message:
                case messages.Failed(final=True) | messages.Finished("worker"):
                    working.discard(rank)
                case messages.Finished("scheduler"):
                    self._is_over(0)
                    self._order_all(messages.SchedulerClosed())
                case messages.WorkerStarted() if joining and not awaited:
                    logger.info(start_line(startup))
            self._send(startup.orders(rank, message))  # for workers that are late
            if joining and not working:
                self._is_over(1 if startup.failures else 0)

    async def _watch_scheduler(
        self, liveness: LivenessClient, cluster: messages.ConnectionInfo
    ) -> None:
        if not await liveness.wait_for_death(lambda: asyncio.shield(self.over)):
            give_up_reconnecting(cluster)
        else:
            rank = self._roles.scheduler
            assert rank is not None
            logger.error("the scheduler on %s is gone: ending the job", self.place(rank))
            self._break()

    def _in_background(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self.give_up_if_failed)
        return task

    def give_up_if_failed(self, task: asyncio.Task[Any]) -> None:
        """End the job if a task has failed, which only a bug in mpidask can cause."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the leader failed, ending the job", exc_info=error)
            self._break()

    def _break(self) -> None:
        """End the user's function as a signal would, which interrupts any wait."""
        self.broken = True
        self._on_signal(signal.SIGTERM)

    def _is_over(self, status: int) -> None:
        if not self.over.done():
            self.over.set_result(status)

    # -- End. ------------------------------------------------------------------------

    async def end(self, order: messages.End) -> None:
        """Order every rank to stop, and wait until all have.

        Ranks that don't are named, and the job is aborted with the status of `order`: when this
        rank leaves the program, or at once if it would not leave.
        """
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        self._order_all(order)
        self._comm.wake()
        if self._liveness is not None and self._watching is not None:
            await self._liveness.wake()
            self._watching.cancel()
        busy, timeout = set(range(self._comm.size)), self._options.shutdown_timeout

        def unanswered() -> str:
            return f"no answer from {list_ranks(busy, self.place)}"

        with contextlib.suppress(asyncio.TimeoutError):
            async with WaitNotice(lambda waited: f"ending for {waited} s: {unanswered()} yet"):
                await asyncio.wait_for(self._end(order, busy), timeout + REPORT_GRACE)
        if busy:
            end_job(
                order,
                f"{unanswered()} within {timeout:g} s (shutdown_timeout): dead, or in a call that "
                "does not let Python run",
            )

    async def _end(self, order: messages.End, busy: set[int]) -> None:
        while busy:
            rank, message = await self._hear()
            if isinstance(message, messages.Done):
                busy.discard(rank)
                self._report_what_is_left(order, self.place(rank), message)

    def _report_what_is_left(self, order: messages.End, place: str, done: messages.Done) -> None:
        if done.transfers_stuck:
            end_job(order, f"transfers by MPI on {place} do not end")
        if done.gangs_stuck:
            end_job(order, f"a function of submit_mpi on {place} does not end")
        elif done.stuck:
            logger.warning(
                "left behind on %s after %g s (shutdown_timeout), still running: %s",
                place,
                self._options.shutdown_timeout,
                ", ".join(done.stuck),
            )

    # -- Messages. -------------------------------------------------------------------

    async def _hear(self, longest: float = SOON) -> tuple[int, object]:
        rank, message = await self._comm.receive(TO_LEADER, longest=longest)
        self._startup.hear(rank, message)
        if isinstance(message, messages.Failed) and self._running is not None:
            self._warn_of(rank, message)  # even if it arrives only after the order to end
        match message:
            case messages.Signalled(signum):
                self._send([(rank, messages.SignalHeard())])
                self._act_on_first_signal(rank, signum)
            case messages.LeaderSought():
                self._send([(rank, messages.LeaderThere())])
        return rank, message

    def _warn_of(self, rank: int, failed: messages.Failed) -> None:
        if failed.cause in self._warned_of:
            return  # ranks often fail in the same way
        self._warned_of.add(failed.cause)
        logger.warning("the %s on %s failed: %s", failed.duty, self.place(rank), failed.cause)

    def _act_on_first_signal(self, rank: int, signum: int) -> None:
        if not self._signalled:
            self._signalled = True
            ambiguous = launcher.BY_OPEN_MPI and signum == signal.SIGTERM
            hint = " (Open MPI's mpirun also sends it for Ctrl-C)" if ambiguous else ""
            name = signal.Signals(signum).name
            logger.warning("%s was sent %s%s", self.place(rank), name, hint)
            self._on_signal(signum)

    def _order_all(self, order: object) -> None:
        self._send((rank, order) for rank in range(self._comm.size))

    def _send(self, orders: Iterable[tuple[int, object]]) -> None:
        for rank, order in orders:
            self._comm.send(rank, TO_MEMBER, order)


def end_job(order: messages.End, reason: str) -> None:
    """Abort the job of a cluster that does not end as ordered."""
    # A program that goes on would use MPI, and wait for dead ranks.
    goes_on = not order.leave and order.status == 0
    job_exit.end_job(reason, order.status if order.leave else 1, at_once=goes_on)
