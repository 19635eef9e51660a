"""One rank's part in a cluster: it runs what the leader orders, and reports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import cpu_quota
from mpidask._dask.log_level import at_log_level
from mpidask._dask.spawn import shield_children
from mpidask._dask.worker_class import uses_nanny
from mpidask._gang.rank import RankService
from mpidask._lifecycle import messages
from mpidask._lifecycle.liveness import LivenessGuard
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.servers import SchedulerRunner, WorkerSupervisor, root_cause
from mpidask._log import empty_stdin
from mpidask._mpi import launcher
from mpidask._mpi.communicator import TO_LEADER, TO_MEMBER, Communicator
from mpidask._options import Options
from mpidask._placement.node import this_node
from mpidask._threads import to_daemon_thread
from mpidask._waiting import Deadline

if TYPE_CHECKING:
    from distributed import Scheduler

#: Longest pauses, in seconds, between polls for messages: while one is expected soon; while the
#: other ranks start; and while the cluster runs, when a connection of Dask's announces messages.
#: None does on a rank without a server, nor where the scheduler belongs to another job.
SOON, STARTING, SELDOM, SELDOM_UNTOLD, SELDOM_JOINED = 0.02, 0.05, 5.0, 1.0, 0.2
#: Seconds that ranks have beyond `shutdown_timeout` to report that they are done.
REPORT_GRACE = 5
#: Seconds that the comparison of MPI with sockets may take.
_MEASURE_TIMEOUT = 5
#: Free buffers of the transport take at most this fraction of a worker's memory, as 1 : n.
_SHARE_KEPT = 8
#: For tests: the size in bytes from which messages go by MPI.
_THRESHOLD = "MPIDASK_TRANSPORT_THRESHOLD"


class Member:
    """Run what the leader orders on one rank, and report.

    After `RankReady` it takes orders in any sequence: `StartScheduler`, `StartWorker`,
    `Running`, and finally, or at any time, `End`. What it starts runs in separate tasks.
    `settings` collects those of the whole process, such as log levels; the caller closes it.
    """

    def __init__(
        self, comm: Communicator, roles: Roles, options: Options, settings: contextlib.ExitStack
    ) -> None:
        self._comm = comm
        self._roles = roles
        self._options = options
        self._settings = settings
        self._hosts_server = comm.rank in {roles.scheduler, *roles.workers}
        self._cluster: messages.ConnectionInfo | None = None
        self._scheduler: SchedulerRunner | None = None
        self._worker: WorkerSupervisor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._guard = LivenessGuard(comm, roles)
        self._gangs = RankService(comm, roles.workers, options, self._guard.end_job)
        self._unheard: list[asyncio.TimerHandle] = []
        self._uses_mpi = False
        self._ending = False
        self._running = False

    async def serve(self) -> messages.End:
        """Report, follow the leader's orders, and return the one that ended the cluster."""
        self._report(messages.RankReady(this_node(cpu_quota())))
        grace = self._options.startup_timeout + self._options.shutdown_timeout + REPORT_GRACE
        self._starting = self._guard.end_job_after(grace, 1)
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
            if self._comm.rank != self._roles.client:
                self._settings.enter_context(empty_stdin())
            raise_oserror_for_closed_tls()
        shield_children()

    # -- Orders. ---------------------------------------------------------------------

    async def _follow_orders(self) -> messages.End:
        while True:
            _, order = await self._comm.receive(TO_MEMBER, longest=self._longest_pause)
            if isinstance(order, messages.End):
                self._ending = True
                self._guard.stand_down()
                return order
            self._follow(order)

    def _follow(self, order: object) -> None:
        match order:
            case messages.StartScheduler():
                self._scheduler = SchedulerRunner(self._options, order, self._report)
                running = self._scheduler.run(self._serve, before_close=self._scheduler_closes)
                self._launch("scheduler", running)
            case messages.StartTransport():
                self._start_transport(order)
            case messages.MeasureTransport():
                self._launch("transport", self._measure(order))
            case messages.SendByMPI():
                self._send_by_mpi()
            case messages.ConnectionInfo():
                self._cluster = order
                if watching := self._guard.watch(order):
                    self._launch("scheduler watch", watching)
            case messages.StartWorker():
                self._launch("worker", self._run_worker(order))
            case messages.Running():
                self._starting.cancel()
                self._running = True
                for duty, work in self._scheduler.later_duties() if self._scheduler else ():
                    self._launch(duty, work)
            case messages.SchedulerClosed():
                self._guard.expect_no_scheduler()
            case messages.LeaderThere():
                self._guard.hear_of_leader()
            case messages.SignalHeard() if self._roles.client is not None:
                # The user's function may now take its time to end. Without one, the order to
                # end is imminent.
                while self._unheard:
                    self._unheard.pop().cancel()

    def _launch(self, duty: str, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                if not self._ending:
                    logging.getLogger(__name__).debug("%s failed", duty, exc_info=True)
                    self._report(messages.Failed(duty, root_cause(error)))

        self._tasks.add(asyncio.create_task(guarded(), name=f"mpidask-{duty}"))

    @property
    def _longest_pause(self) -> float:
        if self._running:
            if self._roles.scheduler is None:
                return SELDOM_JOINED
            return SELDOM if self._is_told else SELDOM_UNTOLD
        # A rank without a server has nothing to do until the end.
        return SOON if self._hosts_server and not self._tasks else STARTING

    @property
    def _is_told(self) -> bool:
        """Whether a connection of Dask's announces messages: the leader's, or that of a server."""
        serves = any(not task.done() for task in self._tasks)
        # A nanny does not learn why its worker was closed.
        return self._comm.rank == self._roles.leader or (serves and not uses_nanny(self._options))

    def _report(self, message: object) -> None:
        if isinstance(message, messages.WorkerStarted) and message.memory_limit:
            from mpidask import _transport

            _transport.limit_pool(message.memory_limit // _SHARE_KEPT)
        self._comm.send(self._roles.leader, TO_LEADER, message)
        if isinstance(message, (messages.Failed, messages.Signalled)):
            self._guard.wake_leader()

    def report_signal(self, signum: int) -> None:
        """Tell the leader that this rank received a signal."""
        self._report(messages.Signalled(signum))
        grace = self._options.shutdown_timeout + REPORT_GRACE
        self._unheard.append(self._guard.end_job_after(grace, 128 + signum))

    # -- Scheduler and worker. -------------------------------------------------------

    def _serve(self, scheduler: Scheduler) -> None:
        self._guard.serve(scheduler)
        self._gangs.serve(scheduler)

    def _scheduler_closes(self) -> None:
        self._silence()
        if not self._ending:
            # Before its connections break: closing may take longer than the grace after which
            # those at the other ends conclude that this rank is dead.
            self._report(messages.Finished("scheduler"))

    async def _run_worker(self, order: messages.StartWorker) -> None:
        worker_options, found = self._options.worker_options, None
        if self._cluster is not None:
            worker_options = self._gangs.worker_options(self._cluster)
        if self._comm.rank != self._roles.client:
            found = self._settings.enter_context(contextlib.ExitStack())
        self._worker = worker = WorkerSupervisor(
            self._options,
            order,
            self._cluster,
            self._report,
            self._expect_end,
            worker_options,
            found,
        )
        timeout = self._options.startup_timeout
        watching = self._guard.watch_leader(lambda: worker.has_scheduler, timeout)
        watch = asyncio.create_task(watching)
        try:
            await worker.run()
        finally:
            watch.cancel()
        self._report(messages.Finished("worker"))

    def _expect_end(self) -> None:
        """Look for the order to end at once: the scheduler has closed the worker."""
        self._silence()
        self._comm.wake()

    def _silence(self) -> None:
        # Connections break during the end, and Dask logs each of them at length.
        self._settings.enter_context(at_log_level(logging.CRITICAL))

    def replace_worker(self) -> None:
        """Replace the worker, one of whose tasks has tried to end the process."""
        if self._worker is not None:
            self._worker.replace()

    # -- Transport. ------------------------------------------------------------------

    def _start_transport(self, order: messages.StartTransport) -> None:
        from mpidask import _transport

        threshold = os.environ.get(_THRESHOLD)
        settings: dict[str, Any] = {} if threshold is None else {"threshold": int(threshold)}
        _transport.enable(self._comm.mpi, job=order.job, peers=order.peers, **settings)
        self._uses_mpi = True

    def _send_by_mpi(self) -> None:
        from mpidask import _transport

        _transport.send_to(range(self._comm.size))

    async def _measure(self, order: messages.MeasureTransport) -> None:
        """Compare MPI with the stream, on the way to the worker of another rank."""
        from distributed import Security

        from mpidask import _transport

        assert self._cluster is not None
        security = self._cluster.security or Security()
        arguments = security.get_connection_args("worker")
        comparing = _transport.compare(order.address, order.rank, arguments)
        try:
            gain = await asyncio.wait_for(comparing, _MEASURE_TIMEOUT)
        except Exception:  # MPI is used only where it has proved faster
            logging.getLogger(__name__).debug("no comparison", exc_info=True)
            gain = 0.0
        self._report(messages.TransportMeasured(gain))

    async def _stop_transport(self, timeout: float) -> bool:
        """Return whether all transfers have ended."""
        from mpidask import _transport

        return bool(await to_daemon_thread(_transport.disable, timeout))

    # -- End. ------------------------------------------------------------------------

    async def _stop(self, status: int) -> messages.Done:
        """Stop everything, and return what could not be stopped."""
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
        transfers_ended = not self._uses_mpi or await self._stop_transport(max(1, deadline.left))
        tasks = () if self._worker is None else self._worker.running_tasks()
        return messages.Done(
            tasks, transfers_stuck=not transfers_ended, gangs_stuck=not gangs_ended
        )

    async def _end_of(self, duty: str, ending: Coroutine[Any, Any, None], end: Deadline) -> None:
        try:
            await asyncio.wait_for(ending, max(1, end.left))
        except Exception:  # what still runs is reported in `Done`
            logging.getLogger(__name__).debug("the end of the %s", duty, exc_info=True)
