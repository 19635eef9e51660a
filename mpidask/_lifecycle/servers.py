"""The servers of one rank: the scheduler, and a worker that is replaced when it closes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import CLUSTER_ENDS, SLOW_FILES, without_warnings
from mpidask._dask import dashboard, scheduler_file
from mpidask._dask import worker as workers
from mpidask._dask.client import close_clients_of_tasks, found_by_clients
from mpidask._dask.memory import watch_memory
from mpidask._dask.scheduler import (
    call_before_close,
    connection_info,
    ended_idle,
    enough_files,
    start_scheduler,
    warn_of_nanny_plugins,
)
from mpidask._dask.scheduler_file import find_cluster
from mpidask._dask.security import make_security
from mpidask._dask.worker_class import TASK_EXIT, status_of
from mpidask._errors import SchedulerFileError
from mpidask._lifecycle.messages import (
    ConnectionInfo,
    Failed,
    StartScheduler,
    StartWorker,
    WorkerStarted,
)
from mpidask._log import logger
from mpidask._options import Options
from mpidask._text import describe
from mpidask._threads import start_task, to_daemon_thread
from mpidask._waiting import Deadline, WaitNotice

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._watch.monitor import Monitor

#: A worker that lived for less than this many seconds is replaced after growing pauses.
_SHORT_LIFE = 10.0
#: Seconds between attempts to find the scheduler of a cluster to join.
_JOIN_INTERVAL = 1
#: Seconds within which a scheduler that answers must have registered a worker.
_REGISTER_TIMEOUT = 30
#: Seconds a worker waits for the scheduler to close it before it closes itself.
_SCHEDULER_GRACE = 3


class SchedulerRunner:
    """Run the scheduler, with its file and its monitor.

    Parameters
    ----------
    options : Options
    order : StartScheduler
    report : callable
        Called with each message for the leader.
    """

    def __init__(
        self, options: Options, order: StartScheduler, report: Callable[[object], None]
    ) -> None:
        self._options = options
        self._order = order
        self._report = report
        self._scheduler: Scheduler | None = None
        self._monitor: Monitor | None = None
        self._stopping = False
        self._running: asyncio.Task[None] | None = None

    async def run(
        self, on_start: Callable[[Scheduler], object], before_close: Callable[[], object]
    ) -> None:
        """Run the scheduler until it ends."""
        with enough_files(len(self._order.places)):
            await self._run(on_start, before_close)

    async def _run(
        self, on_start: Callable[[Scheduler], object], before_close: Callable[[], object]
    ) -> None:
        from mpidask._watch.monitor import start_monitor

        path = self._options.scheduler_file
        if path is not None:
            await to_daemon_thread(scheduler_file.check, path)
        security = make_security(self._options.security)
        prefix = dashboard.choose_prefix(self._options)
        scheduler = await start_scheduler(self._options, self._order.host, security, prefix)
        self._scheduler = scheduler
        call_before_close(scheduler, before_close)
        warn_of_nanny_plugins(scheduler)
        self._monitor = await start_monitor(self._options, scheduler, self._order.places)
        on_start(scheduler)
        cluster = connection_info(self._options, scheduler, security, prefix)
        self._running = asyncio.current_task()
        async with scheduler_file.written(path, scheduler, cluster):
            self._report(cluster)
            await scheduler.finished()
        if ended_idle(scheduler) and not self._stopping:
            logger.warning(
                "the scheduler has ended by itself: nothing to do for %g s "
                "(distributed.scheduler.idle-timeout in Dask's configuration)",
                scheduler.idle_timeout,
            )

    def later_duties(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield (name, coroutine) of what starts together with the user's function."""
        from mpidask._watch.paused import report_paused

        if self._scheduler is not None:
            yield "memory watch", report_paused(self._scheduler)

    async def stop(self, status: int) -> None:
        """Stop the scheduler of a job that ends with this exit status."""
        self._stopping = True
        try:
            if self._monitor is not None:
                await self._monitor.finish(status)
        except Exception as error:
            logger.warning("no summary: %s", describe(error))
        if self._scheduler is not None:
            await self._scheduler.close(reason="mpidask-end")
        if self._running is not None:
            await asyncio.wait([self._running])  # removing its file may take time


class WorkerSupervisor:
    """Keep a worker on one rank for as long as the cluster lives.

    `Client.restart` closes workers and relies on their deployment system to start new ones; a
    worker that loses its connection closes, too. Here the rank is the deployment system.

    Parameters
    ----------
    options : Options
    order : StartWorker
    cluster : ConnectionInfo or None
        The cluster of the worker; None: the one that the options name.
    report : callable
        Called with each message for the leader.
    on_cluster_end : callable
        Called when the scheduler closes the worker because the cluster ends.
    worker_options : mapping
        Further arguments for the worker class, from the user and from gangs.
    found_by_tasks : contextlib.ExitStack, optional
        Holds the settings by which a `Client()` in a task finds the cluster; the caller closes
        it. None on the client rank, where the block of the user's function does the same.

    Attributes
    ----------
    has_scheduler : bool
        Whether the worker is in the cluster, as opposed to being started or replaced.
    """

    def __init__(
        self,
        options: Options,
        order: StartWorker,
        cluster: ConnectionInfo | None,
        report: Callable[[object], None],
        on_cluster_end: Callable[[], object],
        worker_options: Mapping[str, Any],
        found_by_tasks: contextlib.ExitStack | None = None,
    ) -> None:
        self._options = options
        self._worker_options = worker_options
        self._order = order
        self._cluster = cluster
        self._report = report
        self._on_cluster_end = on_cluster_end
        self._found_by_tasks = found_by_tasks
        self._joins = cluster is None
        self._worker: Any = None
        self._address = ""  # of the scheduler that a `Client()` in a task connects to
        self._stopping = False
        self.has_scheduler = False

    async def run(self) -> None:
        """Keep a worker running until it is closed for good."""
        pause = 0.0
        for attempt in itertools.count():
            started = time.monotonic()
            try:
                await self._start(attempt)
            except Exception as error:
                if self._joins or attempt == 0:
                    raise
                self._report(Failed("worker", root_cause(error), final=False))
            else:
                self.has_scheduler = True
                if attempt == 0:
                    self._report_start()
                await self._worker.finished()
                self.has_scheduler = False
                if workers.is_closed_for_good(self._worker, joined=self._joins):
                    return
            if self._stopping or (self._joins and not self._options.reconnect):
                return
            lived = time.monotonic() - started
            if lived > _SHORT_LIFE or workers.was_restarted(self._worker):
                pause = 0.0
            elif attempt:
                pause = min(max(2 * pause, 0.1), _SHORT_LIFE)
            await asyncio.sleep(pause)

    def replace(self) -> None:
        """Replace a worker, one of whose tasks has tried to end the process."""
        if self._worker is not None and not self._stopping:
            cause = "a task raised SystemExit or KeyboardInterrupt"
            self._report(Failed("worker", cause, final=False))
            start_task(self._worker.close(reason=TASK_EXIT))

    def expect_end(self) -> None:
        """Start no further worker."""
        self._stopping = True

    async def stop(self) -> None:
        """Stop the worker; its running tasks have `shutdown_timeout` to end."""
        self.expect_end()
        if self._worker is not None:
            await self._stop()

    def running_tasks(self) -> tuple[str, ...]:
        """Return the keys of the tasks that still run in the worker's threads."""
        return () if self._worker is None else workers.running_tasks(self._worker)

    def _report_start(self) -> None:
        found = workers.threads_and_memory(self._worker, self._order.settings)
        self._report(WorkerStarted(*found, address=getattr(self._worker, "address", "")))

    async def _start(self, attempt: int) -> None:
        self._worker = None  # else a failed start would reuse the old worker's close reason
        try:
            if self._cluster is None:
                await self._join(attempt)
            else:
                self._worker = self._make(self._cluster, attempt)
                self._worker.on_cluster_end = self._on_cluster_end
                await self._worker
        except (SystemExit, KeyboardInterrupt) as error:  # from a preload or plugin, say
            raise RuntimeError("the worker has left the program") from error

    def _make(self, cluster: Any, attempt: int) -> Any:
        from mpidask._transport import answer_probes, current_pool

        if self._found_by_tasks is not None and self._address != cluster.address:
            self._found_by_tasks.close()  # of the cluster that this rank had joined before
            self._found_by_tasks.enter_context(found_by_clients(cluster))
            self._address = cluster.address
        pool = current_pool()  # None if this rank's data goes by sockets
        with without_warnings(*(() if self._order.announces else (SLOW_FILES,))):
            worker = workers.make_worker(
                self._options,
                self._order.settings,
                cluster,
                attempt,
                self._worker_options,
                by_mpi=pool is not None,
            )
        if pool is not None:
            answer_probes(worker)
        watch_memory(worker, pool)
        return worker

    async def _join(self, attempt: int) -> None:
        """Start a worker in the cluster of another job, waiting for that if necessary."""
        deadline = Deadline(self._options.death_timeout or math.inf)
        problem: Exception | None = None
        notice = WaitNotice(lambda waited: f"waiting for a scheduler: {problem}", first=0)
        while problem := await self._try_to_join(attempt, max(deadline.left, _JOIN_INTERVAL)):
            if self._order.announces:
                notice.check()
            await asyncio.sleep(_JOIN_INTERVAL)
            if not deadline.left:
                raise TimeoutError(
                    f"no scheduler for {deadline.timeout:g} s (death_timeout): {problem}"
                )
        if self._order.announces and attempt:
            logger.info("joined a scheduler again")

    async def _try_to_join(self, attempt: int, timeout: float) -> Exception | None:
        """Start a worker, or return a problem of the scheduler's that may be temporary."""
        try:
            cluster = await find_cluster(self._options, timeout)
        except SchedulerFileError as error:
            if not error.may_pass:
                raise
            return error
        except OSError as error:
            return error
        self._worker = self._make(cluster, attempt)
        try:
            await asyncio.wait_for(self._worker, _REGISTER_TIMEOUT)
        except asyncio.TimeoutError as error:
            with contextlib.suppress(Exception):  # a nanny raises while its child starts
                await self._worker.close(reason=CLUSTER_ENDS)
            return error
        except OSError as error:
            return error
        except RuntimeError as error:  # distributed wraps any failed start in one
            if not _is_connection_error(error):
                raise
            return error
        return None

    async def _stop(self) -> None:
        from distributed.core import Status

        await close_clients_of_tasks(self._address)
        if self._joins:
            await self._retire()
        elif workers.is_up(self._worker):
            grace = min(_SCHEDULER_GRACE, self._options.shutdown_timeout / 4)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._worker.finished(), grace)
        if status_of(self._worker) not in (Status.closed, Status.failed):
            await self._worker.close(reason=CLUSTER_ENDS)

    async def _retire(self) -> None:
        """Move the results held here to other workers of the cluster, which goes on."""
        why = ""
        try:
            await workers.retire(self._worker, self._options.shutdown_timeout)
        except asyncio.TimeoutError:
            why = "there was no time (shutdown_timeout)"
        except Exception as error:
            why = root_cause(error)
        if why:
            cause = f"results did not move to other workers: {why}"
            self._report(Failed("worker", cause, final=False))


def _is_connection_error(error: BaseException | None) -> bool:
    from distributed.comm.core import CommClosedError

    kinds = (CommClosedError, ConnectionError, asyncio.TimeoutError)
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error is not None


def root_cause(error: BaseException) -> str:
    """Describe the exception at the root of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return describe(error)
