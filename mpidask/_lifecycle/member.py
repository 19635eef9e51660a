"""One rank's part in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import cpu_quota
from mpidask._dask.log_level import at_log_level
from mpidask._dask.server_options import uses_nanny
from mpidask._dask.spawn import shield_children
from mpidask._lifecycle.liveness_guard import LivenessGuard
from mpidask._lifecycle.messages import (
    ConnectionInfo,
    Done,
    End,
    Failed,
    Finished,
    MeasureTransport,
    RankReady,
    Running,
    SchedulerClosed,
    SendByMPI,
    SignalHeard,
    Signalled,
    StartScheduler,
    StartTransport,
    StartWorker,
    WorkerStarted,
)
from mpidask._lifecycle.rank_gangs import RankGangs
from mpidask._lifecycle.rank_transport import RankTransport
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.scheduler_runner import SchedulerRunner
from mpidask._lifecycle.shutdown import REPORT_GRACE
from mpidask._lifecycle.worker_supervisor import WorkerSupervisor, root_cause
from mpidask._mpi import launcher
from mpidask._mpi.communicator import TO_LEADER, TO_MEMBER, Communicator
from mpidask._mpi.deadline import Deadline
from mpidask._options import Options
from mpidask._placement.node import this_node

if TYPE_CHECKING:
    from distributed import Scheduler

#: Seconds between looks for messages: while one is expected soon; while the others start;
#: and while the cluster runs, when Dask's connections tell of one that has been sent. They
#: don't tell a rank that serves no more; nor any where the scheduler belongs to another job.
SOON, STARTING, SELDOM, SELDOM_UNTOLD, SELDOM_JOINED = 0.02, 0.05, 5.0, 1.0, 0.2


class Member:
    """One rank's part: it runs what the leader orders, and reports.

    It says `RankReady`, then takes orders as they come: `StartScheduler`, `StartWorker`,
    `Running`, and at last, or at any time, `End`. What it runs goes on in tasks beside.
    What it sets for the whole process, logging say, holds until `settings` are closed.
    """

    def __init__(
        self, comm: Communicator, roles: Roles, options: Options, settings: contextlib.ExitStack
    ) -> None:
        self._comm = comm
        self._roles = roles
        self._options = options
        self._settings = settings
        self._hosts_server = comm.rank in {roles.scheduler, *roles.workers}
        self._cluster: ConnectionInfo | None = None
        self._scheduler: SchedulerRunner | None = None
        self._worker: WorkerSupervisor | None = None
        self._transport = RankTransport(comm)
        self._gangs = RankGangs(comm, roles, options)
        self._tasks: set[asyncio.Task[None]] = set()
        self._guard = LivenessGuard(comm, roles)
        self._unheard: list[asyncio.TimerHandle] = []
        self._ending = False
        self._running = False

    async def serve(self) -> End:
        """Report, follow the leader's orders, and return the one that ended the cluster."""
        self._report(RankReady(this_node(cpu_quota())))
        grace = self._options.startup_timeout + self._options.shutdown_timeout + REPORT_GRACE
        self._starting = self._guard.abort_after(grace, 1)
        self._set_up_process()
        order = await self._follow_orders()
        if self._hosts_server:
            self._silence()
        self._report(await self._stop(order.status))
        await self._comm.flush()
        return order

    def _set_up_process(self) -> None:
        self._settings.enter_context(launcher.hidden_from_children())
        if self._hosts_server:
            from mpidask._compat.tls import raise_oserror_for_closed_tls

            self._settings.enter_context(at_log_level(self._options.log_level))
            raise_oserror_for_closed_tls()
        shield_children()

    async def _follow_orders(self) -> End:
        while True:
            _, order = await self._comm.receive(TO_MEMBER, longest=self._longest_pause)
            if isinstance(order, End):
                self._ending = True
                self._guard.stand_down()
                return order
            self._follow(order)

    def _follow(self, order: object) -> None:
        match order:
            case StartScheduler():
                self._scheduler = SchedulerRunner(self._options, order, self._report)
                running = self._scheduler.run(self._serve, before_close=self._scheduler_closes)
                self._launch("scheduler", running)
            case StartTransport():
                self._transport.start(order)
            case MeasureTransport():
                self._launch("transport", self._measure(order))
            case SendByMPI():
                self._transport.send_to_all()
            case ConnectionInfo():
                self._cluster = order
                if watching := self._guard.watch(order):
                    self._launch("scheduler watch", watching)
            case StartWorker():
                self._launch("worker", self._run_worker(order))
            case Running():
                self._starting.cancel()
                self._running = True
                for duty, work in self._scheduler.later_duties() if self._scheduler else ():
                    self._launch(duty, work)
            case SchedulerClosed():
                self._guard.expect_no_scheduler()
            case SignalHeard() if self._roles.client is not None:
                # A function of the user's has to come to its end; else the order to end
                # the cluster is near.
                while self._unheard:
                    self._unheard.pop().cancel()

    def _serve(self, scheduler: Scheduler) -> None:
        self._guard.guard(scheduler)
        self._gangs.serve(scheduler)

    def _scheduler_closes(self) -> None:
        self._silence()
        if not self._ending:
            # Now, before its connections break: what follows may take longer than those who
            # see them break wait before they take this rank for dead.
            self._report(Finished("scheduler"))

    async def _run_worker(self, order: StartWorker) -> None:
        options = self._transport.options_of_worker(self._options)
        if self._cluster is not None:
            options = self._gangs.options_of_worker(options, self._cluster)
        found = None
        if self._comm.rank != self._roles.client:
            found = self._settings.enter_context(contextlib.ExitStack())
        self._worker = WorkerSupervisor(
            options, order, self._cluster, self._report, self._expect_end, found
        )
        await self._worker.run()
        self._report(Finished("worker"))

    @property
    def _longest_pause(self) -> float:
        if self._running:
            if self._roles.scheduler is None:
                return SELDOM_JOINED
            return SELDOM if self._is_told else SELDOM_UNTOLD
        # A rank that hosts no server waits for the end alone.
        return SOON if self._hosts_server and not self._tasks else STARTING

    @property
    def _is_told(self) -> bool:
        """Whether connections of Dask's tell of messages: the leader's, or that of a server."""
        serves = any(not task.done() for task in self._tasks)
        # A nanny does not learn why its worker has closed.
        return self._comm.rank == self._roles.leader or (serves and not uses_nanny(self._options))

    def _expect_end(self) -> None:
        """Look for the order to end: the scheduler has closed the worker, as it does then."""
        self._silence()
        self._comm.wake()

    def _silence(self) -> None:
        # Connections break now, as they must. Nobody needs to read of it.
        self._settings.enter_context(at_log_level(logging.CRITICAL))

    def _report(self, message: object) -> None:
        if isinstance(message, WorkerStarted):
            self._transport.keep_within(message.memory_limit)
        self._comm.send(self._roles.leader, TO_LEADER, message)
        if isinstance(message, (Failed, Signalled)):
            self._guard.wake_leader()

    def _launch(self, duty: str, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                if not self._ending:
                    logging.getLogger(__name__).debug("%s failed", duty, exc_info=True)
                    self._report(Failed(duty, root_cause(error)))

        self._tasks.add(asyncio.create_task(guarded(), name=f"mpidask-{duty}"))

    async def _measure(self, order: MeasureTransport) -> None:
        assert self._cluster is not None
        self._report(await self._transport.measure(order, self._cluster))

    async def _stop(self, status: int) -> Done:
        """Stop everything, and tell what doesn't."""
        deadline = Deadline(self._options.shutdown_timeout + 1)
        gangs_ended = await self._gangs.stop()
        if self._worker is not None:
            self._worker.expect_end()
        if self._scheduler is not None:
            await self._end_of("scheduler", self._scheduler.stop(status), deadline)
        if self._worker is not None and gangs_ended:
            await self._end_of("worker", self._worker.stop(), deadline)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        transfers_ended = await self._transport.stop(max(1, deadline.left))
        tasks = () if self._worker is None else self._worker.running_tasks()
        return Done(tasks, transfers_stuck=not transfers_ended, gangs_stuck=not gangs_ended)

    async def _end_of(self, duty: str, ending: Coroutine[Any, Any, None], end: Deadline) -> None:
        try:
            await asyncio.wait_for(ending, max(1, end.left))
        except Exception:  # what goes on is named below; connections break now
            logging.getLogger(__name__).debug("the end of the %s", duty, exc_info=True)

    def report_signal(self, signum: int) -> None:
        """Tell the leader that this rank was sent a signal."""
        self._report(Signalled(signum))
        grace = self._options.shutdown_timeout + REPORT_GRACE
        self._unheard.append(self._guard.abort_after(grace, 128 + signum))

    def replace_worker(self) -> None:
        """Replace a worker whose process should end, as a task of its wants."""
        if self._worker is not None:
            self._worker.replace()
