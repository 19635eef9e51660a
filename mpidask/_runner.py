"""The lifecycle of a cluster: what every rank does, and what the leader decides.

::

    member (every rank)                leader (one rank, beside its own member)
    -------------------                ----------------------------------------
    Here               ------------->  when all are here:
    scheduler starts   <-------------  StartScheduler
    Cluster            ------------->
    workers start      <-------------  StartWorker
    WorkerStarted      ------------->  when enough are up:
    the start is over  <-------------  Running; the user's function runs
    everything stops   <-------------  End
    Done               ------------->  when all are done: leave

A member that fails says `Failed` instead, and one that is sent a signal `Signalled`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mpidask import _dashboard, _departure, _lifeline, _scheduler_file, _servers
from mpidask._agreement import (
    Cluster,
    Done,
    End,
    Failed,
    Finished,
    Here,
    Running,
    Signalled,
    StartScheduler,
    Startup,
    StartWorker,
    WorkerStarted,
)
from mpidask._errors import SchedulerFileError
from mpidask._log import hushed, logger
from mpidask._network import scheduler_host
from mpidask._node import this_node
from mpidask._options import Options
from mpidask._resources import ranks_per_host, threads_per_worker
from mpidask._roles import Roles
from mpidask._world import TO_LEADER, TO_MEMBER, World

if TYPE_CHECKING:
    from distributed import Scheduler

#: Seconds between polls while the cluster runs and nothing is expected soon.
_RELAXED = 0.05
#: Seconds between messages while the start takes long.
PROGRESS_INTERVAL = 10
#: A worker that closes within so many seconds is replaced with growing pauses.
_SHORT_LIFE = 10.0
#: Seconds between looks for the scheduler of a cluster to join.
_JOIN_INTERVAL = 1
#: Seconds that a scheduler which answers may take to register a worker.
_REGISTER_TIMEOUT = 30
#: Seconds a worker waits for the scheduler to close it before it closes itself.
_SCHEDULER_GRACE = 3
#: Seconds between the break of a lifeline and the conclusion that its other end is dead.
_LIFELINE_GRACE = 2
#: Seconds the leader grants its members beyond `shutdown_timeout` to report.
_REPORT_GRACE = 3


class Member:
    """One rank's part: it runs what the leader orders, and reports."""

    def __init__(self, world: World, roles: Roles, options: Options) -> None:
        self._world = world
        self._roles = roles
        self._options = options
        self._scheduler: Scheduler | None = None
        self._worker: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self._settings = contextlib.ExitStack()

    def report_signal(self, signum: int) -> None:
        """Tell the leader that this rank was sent a signal."""
        self._tell(Signalled(signum))
        if self._roles.client is None:
            # No function of the user's has to come to its end, so the order to end is near.
            patience = self._options.shutdown_timeout + _REPORT_GRACE
            asyncio.get_running_loop().call_later(patience, self._abort_if_alone, 128 + signum)

    def _abort_if_alone(self, status: int) -> None:
        if not self._ending:
            logger.error("no answer from rank %d: ending the job", self._roles.leader)
            _departure.abort_at_exit(status, at_once=True)

    def drop_worker(self) -> None:
        """Close a worker whose process should end, as a task of its wants, for a fresh one."""
        if self._worker is not None and not self._ending:
            self._tell(Failed("worker", "a task raised SystemExit or KeyboardInterrupt"))
            self._dropping = asyncio.create_task(self._worker.close(reason=_servers.DROPPED))

    async def serve(self) -> End:
        """Report, obey, and return the order that ended the cluster."""
        self._tell(Here(this_node()))
        patience = self._options.startup_timeout + self._options.shutdown_timeout + _REPORT_GRACE
        loop = asyncio.get_running_loop()
        self._starting = loop.call_later(patience, self._abort_if_alone, 1)
        with self._settings as stack:
            if self._hosts_server:
                stack.enter_context(hushed(self._options.log_level))
            if self._world.rank in self._roles.workers and _servers.uses_nanny(self._options):
                _servers.hide_script_from_nannies()
                stack.enter_context(_servers.hidden_launcher())
            order = await self._obey()
            if self._hosts_server:
                self._hush()
            self._tell(Done(await self._stop()))
            await self._world.flush()
        return order

    def _hush(self) -> None:
        # Connections break now, as they must. Nobody needs to read of it.
        self._settings.enter_context(hushed(logging.CRITICAL))

    @property
    def _hosts_server(self) -> bool:
        return self._world.rank in {self._roles.scheduler, *self._roles.workers}

    async def _obey(self) -> End:
        while True:
            _, order = await self._world.receive(TO_MEMBER, longest=self._patience)
            match order:
                case StartScheduler(host):
                    self._launch("scheduler", self._run_scheduler(host))
                case StartWorker():
                    self._launch("worker", self._run_worker(order))
                    if order.cluster is not None and self._watches_scheduler:
                        self._launch("lifeline", self._watch_scheduler(order.cluster))
                case Running():
                    self._starting.cancel()
                    if self._scheduler is not None:
                        dashboard = _dashboard.load(self._options, self._scheduler)
                        self._launch("dashboard", dashboard)
                case End():
                    self._ending = True
                    return order

    @property
    def _patience(self) -> float:
        # A rank that hosts no server waits for the end alone.
        return 0.02 if self._hosts_server and not self._tasks else _RELAXED

    def _tell(self, message: object) -> None:
        self._world.send(self._roles.leader, TO_LEADER, message)

    def _launch(self, duty: str, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
                self._tell(Finished(duty))
            except Exception as error:
                if not self._ending:
                    logging.getLogger(__name__).debug("%s failed", duty, exc_info=True)
                    self._tell(Failed(duty, _root_cause(error)))

        self._tasks.add(asyncio.create_task(guarded(), name=f"mpidask-{duty}"))

    async def _run_scheduler(self, host: str | None) -> None:
        security = _servers.make_security(self._options.security)
        self._scheduler = await _servers.start_scheduler(self._options, host, security)
        _lifeline.attach(self._scheduler, self._on_leader_lost)
        cluster = _servers.describe_cluster(self._options, self._scheduler, security)
        with _scheduler_file.written(self._options.scheduler_file, self._scheduler, cluster):
            self._tell(cluster)
            await self._scheduler.finished()

    def _on_leader_lost(self) -> None:
        apart = self._roles.leader != self._roles.scheduler
        if apart and not self._ending and self._scheduler_runs:
            asyncio.get_running_loop().call_later(_LIFELINE_GRACE, self._abort_if_leaderless)

    def _abort_if_leaderless(self) -> None:
        if not self._ending and self._scheduler_runs:
            logger.error("the client on rank %d is gone: ending the job", self._roles.leader)
            _departure.abort_at_exit(1, at_once=True)

    @property
    def _scheduler_runs(self) -> bool:
        from distributed.core import Status

        return self._scheduler is not None and self._scheduler.status == Status.running

    @property
    def _watches_scheduler(self) -> bool:
        """Whether this rank watches over one that is both scheduler and leader."""
        if self._roles.leader != self._roles.scheduler:
            return False
        others = (rank for rank in self._roles.workers if rank != self._roles.leader)
        return self._world.rank == next(others, None)

    async def _watch_scheduler(self, cluster: Cluster) -> None:
        await _lifeline.hold(cluster)
        await asyncio.sleep(_SCHEDULER_GRACE)  # one that was shut down says so
        if not self._ending:
            logger.error("the scheduler on rank %d is gone: ending the job", self._roles.leader)
            _departure.abort_at_exit(1, at_once=True)

    async def _run_worker(self, order: StartWorker) -> None:
        """Keep a worker running, as the deployment system that `Client.restart` counts on."""
        joining = order.cluster is None
        pause = 0.0
        for attempt in itertools.count():
            started = time.monotonic()
            try:
                await self._start_worker(order, attempt)
            except Exception as error:
                if joining or attempt == 0:
                    raise
                self._tell(Failed("worker", _root_cause(error)))
            else:
                if attempt == 0:
                    self._tell(_servers.describe_worker(self._worker, order))
                await self._worker.finished()
                if _servers.stays_away(self._worker, joined=joining):
                    return
            if self._ending or (joining and not self._options.reconnect):
                return
            lived = time.monotonic() - started
            pause = 0.0 if lived > _SHORT_LIFE else min(max(2 * pause, 0.1), _SHORT_LIFE)
            await asyncio.sleep(pause if attempt else 0)

    async def _start_worker(self, order: StartWorker, attempt: int) -> None:
        if order.cluster is None:
            await self._join(order, attempt)
        else:
            self._worker = _servers.make_worker(self._options, order, order.cluster, attempt)
            self._worker.on_cluster_end = self._hush  # the order to end may come later
            await self._worker

    async def _join(self, order: StartWorker, attempt: int) -> None:
        """Start a worker of a cluster that runs elsewhere, as soon as there is one."""
        patience = self._options.death_timeout or math.inf
        deadline = time.monotonic() + patience
        announced = False
        while problem := await self._try_to_join(order, attempt):
            if self._world.rank == self._roles.leader and not announced:
                logger.info("waiting for a scheduler: %s", problem)
                announced = True
            await asyncio.sleep(_JOIN_INTERVAL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"no scheduler for {patience:g} s (death_timeout): {problem}")

    async def _try_to_join(self, order: StartWorker, attempt: int) -> Exception | None:
        """Start a worker, or return what is wrong with the scheduler now, and may pass."""
        try:
            cluster = await _servers.find_cluster(self._options)
        except SchedulerFileError as error:
            if not error.may_pass:
                raise
            return error
        except OSError as error:
            return error
        self._worker = _servers.make_worker(self._options, order, cluster, attempt)
        try:
            await asyncio.wait_for(self._worker, _REGISTER_TIMEOUT)
        except asyncio.TimeoutError as error:
            await self._worker.close(reason=_servers.CLUSTER_ENDS)
            return error
        except OSError as error:
            return error
        return None

    async def _stop(self) -> tuple[str, ...]:
        """Stop everything, and return the tasks that don't."""
        worker, timeout = self._worker, self._options.shutdown_timeout
        with contextlib.suppress(Exception):
            if self._scheduler is not None:
                await self._scheduler.close(reason="mpidask-end")
            if worker is not None:
                await asyncio.wait_for(self._stop_worker(worker), timeout + 1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return () if worker is None else _servers.running_tasks(worker)

    async def _stop_worker(self, worker: Any) -> None:
        from distributed.core import Status

        if self._roles.scheduler is None and hasattr(worker, "close_gracefully"):
            # The cluster goes on: the results held here move to its other workers.
            with contextlib.suppress(Exception):
                await worker.close_gracefully()
        elif _servers.status_of(worker) == Status.running:
            grace = min(_SCHEDULER_GRACE, self._options.shutdown_timeout / 4)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(worker.finished(), grace)
        if _servers.status_of(worker) not in (Status.closed, Status.failed):
            await worker.close(reason=_servers.CLUSTER_ENDS)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


class Leader:
    """The rank that decides: the cluster is up, or isn't; and how it ends.

    Parameters
    ----------
    world : World
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
        self, world: World, roles: Roles, options: Options, on_signal: Callable[[int], None]
    ) -> None:
        self._world = world
        self._roles = roles
        self._options = options
        self._on_signal = on_signal
        self._signalled = False
        self.broken = False
        self._warned_of: set[str] = set()
        self._watching: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None
        wait = options.wait_for_workers
        wanted = len(roles.workers) if wait is True else int(wait)
        if roles.scheduler is None:
            wanted = 0  # the cluster runs without them
        self._startup = Startup(roles, world.size, wanted)
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> Cluster | None:
        """Bring the cluster up, then keep listening in the background.

        Raises
        ------
        StartupError
            If a rank fails, or does not answer in time.
        """
        timeout = self._options.startup_timeout
        progress = asyncio.create_task(self._tell_progress())
        try:
            await asyncio.wait_for(self._start(), timeout)
        except asyncio.TimeoutError:
            raise self._startup.timed_out(timeout) from None
        finally:
            progress.cancel()
        for rank in range(self._world.size):
            self._order(rank, Running())
        self._watching = asyncio.create_task(self._watch())
        self._watching.add_done_callback(self._give_up_if_failed)
        if self._startup.cluster is not None:
            logger.info(self._startup.summary())
            self._holding = asyncio.create_task(self._hold_lifeline(self._startup.cluster))
        return self._startup.cluster

    async def _hold_lifeline(self, cluster: Cluster) -> None:
        await _lifeline.hold(cluster)
        with contextlib.suppress(asyncio.TimeoutError):
            # A scheduler that was shut down says so.
            await asyncio.wait_for(asyncio.shield(self.over), _LIFELINE_GRACE)
        if not self.over.done():
            rank = self._roles.scheduler
            assert rank is not None
            logger.error("the scheduler on %s is gone: ending the job", self._startup.place(rank))
            self._break()

    async def _start(self) -> None:
        startup = self._startup
        while not startup.complete:
            rank, message = await self._hear()
            startup.raise_if_hopeless()
            match message:
                case Failed():
                    self._warn_of(rank, message)
                case Here() if startup.everyone_is_here:
                    self._start_scheduler()
                case Cluster():
                    self._start_workers(message)

    def _start_scheduler(self) -> None:
        rank = self._roles.scheduler
        if rank is None:  # it runs elsewhere
            self._start_workers(None)
            return
        # Clients come from outside where there is none inside, or a file invites them.
        outside = self._roles.client is None or self._options.scheduler_file is not None
        host = scheduler_host(self._startup.nodes, rank, outside=outside)
        self._order(rank, StartScheduler(host))

    def _start_workers(self, cluster: Cluster | None) -> None:
        nodes, workers = self._startup.nodes, self._roles.workers
        name = self._options.name
        if cluster is None:
            name += f"-{uuid.uuid4().hex[:8]}"  # other jobs may join the same cluster
        sharers = ranks_per_host(nodes)
        threads = threads_per_worker(nodes, workers)
        for rank in workers:
            given = self._options.nthreads
            order = StartWorker(
                cluster=cluster,
                nthreads=threads[rank] if isinstance(given, str) else given,
                sharers=sharers[nodes[rank].host],
                name=f"{name}-{rank}",
            )
            self._order(rank, order)

    async def _watch(self) -> None:
        startup, working = self._startup, set(self._roles.workers)
        joining = self._roles.scheduler is None
        while True:
            rank, message = await self._hear(longest=_RELAXED)
            match message:
                case Failed():
                    self._warn_of(rank, message)
                    working.discard(rank)
                case Finished("worker"):
                    working.discard(rank)
                case Finished("scheduler"):
                    self._is_over(0)
                case WorkerStarted() if joining and set(startup.workers) == working:
                    logger.info(startup.summary())
            if joining and not working:
                self._is_over(1 if startup.failures else 0)

    def _give_up_if_failed(self, watching: asyncio.Task[None]) -> None:
        """End the job rather than leave it to itself, should there be an error of ours."""
        if not watching.cancelled() and (error := watching.exception()) is not None:
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

    async def _hear(self, longest: float = 0.02) -> tuple[int, object]:
        rank, message = await self._world.receive(TO_LEADER, longest=longest)
        self._startup.hear(rank, message)
        if isinstance(message, Signalled) and not self._signalled:
            self._signalled = True
            name, place = signal.Signals(message.signum).name, self._startup.place(rank)
            logger.warning("%s was sent %s", place, name)
            self._on_signal(message.signum)
        return rank, message

    async def end(self, order: End) -> None:
        """Order every rank to stop, and wait until all have.

        Ranks that don't are named, and the job is aborted, with the status of `order`,
        when this rank leaves the program (or at once, if it would not leave).
        """
        for task in (self._watching, self._holding):
            if task is not None:
                task.cancel()
        for rank in range(self._world.size):
            self._order(rank, order)
        busy = set(range(self._world.size))
        timeout = self._options.shutdown_timeout
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._collect(busy), timeout + _REPORT_GRACE)
        if busy:
            places = ", ".join(f"{self._startup.place(r)}" for r in sorted(busy))
            logger.error(
                "no answer from %s within %g s (shutdown_timeout): dead, or in a call that "
                "does not let Python run. Ending the job with status %d",
                places,
                timeout,
                order.status if order.leave else 1,
            )
            if order.leave or order.status:  # there is an end, or an error, to come to
                _departure.abort_at_exit(order.status)
            else:  # what follows in the program is MPI, and would wait for the dead
                _departure.abort_at_exit(1, at_once=True)

    async def _collect(self, busy: set[int]) -> None:
        while busy:
            rank, message = await self._hear()
            if isinstance(message, Done):
                busy.discard(rank)
                if message.stuck:
                    logger.warning(
                        "left behind on %s after %g s (shutdown_timeout), still running: %s",
                        self._startup.place(rank),
                        self._options.shutdown_timeout,
                        ", ".join(message.stuck),
                    )

    async def _tell_progress(self) -> None:
        waited = 0
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            waited += PROGRESS_INTERVAL
            logger.info("starting for %d s: %s", waited, self._startup.progress())

    def _order(self, rank: int, order: object) -> None:
        self._world.send(rank, TO_MEMBER, order)
