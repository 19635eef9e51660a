"""A worker that comes back, as long as the cluster lives.

`Client.restart` closes workers and counts on their deployment system to start them again;
a worker that loses its connection closes, too. Here the deployment system is its rank.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

from mpidask._compat.distributed import CLUSTER_ENDS
from mpidask._dask import worker as workers
from mpidask._dask.client import close_clients_of_tasks, found_by_clients
from mpidask._dask.memory import watch_memory
from mpidask._dask.rank_worker import TASK_EXIT, status_of
from mpidask._dask.scheduler_file import find_cluster
from mpidask._errors import SchedulerFileError
from mpidask._lifecycle.messages import ConnectionInfo, Failed, StartWorker, WorkerStarted
from mpidask._log import WORD_INTERVAL, logger
from mpidask._mpi.deadline import Deadline
from mpidask._options import Options

#: A worker that fails within so many seconds is replaced with growing pauses.
_SHORT_LIFE = 10.0
#: Seconds between looks for the scheduler of a cluster to join.
_JOIN_INTERVAL = 1
#: Seconds that a scheduler which answers may take to register a worker.
_REGISTER_TIMEOUT = 30
#: Seconds a worker waits for the scheduler to close it before it closes itself.
_SCHEDULER_GRACE = 3


class WorkerSupervisor:
    """Starts the worker of one rank, replaces it when it closes, and stops it.

    Parameters
    ----------
    options : Options
    order : StartWorker
    cluster : ConnectionInfo or None
        The cluster of the worker; None: the one that the options name.
    report : callable
        Called with each message for the leader.
    on_cluster_end : callable
        Called when the scheduler closes the worker, since the cluster ends.
    found_by_tasks : contextlib.ExitStack, optional
        Holds what lets a `Client()` of a task find the cluster; whoever gives it closes it at
        the end. None on the client rank, whose block sees to that, and to the clients.
    """

    def __init__(
        self,
        options: Options,
        order: StartWorker,
        cluster: ConnectionInfo | None,
        report: Callable[[object], None],
        on_cluster_end: Callable[[], object],
        found_by_tasks: contextlib.ExitStack | None = None,
    ) -> None:
        self._options = options
        self._order = order
        self._cluster = cluster
        self._report = report
        self._on_cluster_end = on_cluster_end
        self._found_by_tasks = found_by_tasks
        self._joins = cluster is None
        self._worker: Any = None
        self._address = ""  # of the scheduler whose clients are those of tasks
        self._closing: set[asyncio.Task[Any]] = set()
        self._stopping = False

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
                if attempt == 0:
                    self._report_start()
                await self._worker.finished()
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
        """Close a worker whose process should end, as a task of its wants, for a fresh one."""
        if self._worker is not None and not self._stopping:
            cause = "a task raised SystemExit or KeyboardInterrupt"
            self._report(Failed("worker", cause, final=False))
            closing = asyncio.create_task(self._worker.close(reason=TASK_EXIT))
            self._closing.add(closing)  # else it may be collected before it ends
            closing.add_done_callback(self._closing.discard)

    def expect_end(self) -> None:
        """Start no other worker from now on."""
        self._stopping = True

    async def stop(self) -> None:
        """Stop the worker, with `shutdown_timeout` for its running tasks."""
        self.expect_end()
        if self._worker is not None:
            await self._stop()

    def running_tasks(self) -> tuple[str, ...]:
        """Name the tasks that the worker's threads are busy with."""
        return () if self._worker is None else workers.running_tasks(self._worker)

    def _report_start(self) -> None:
        found = workers.threads_and_memory(self._worker, self._order.settings)
        self._report(WorkerStarted(*found, address=getattr(self._worker, "address", "")))

    async def _start(self, attempt: int) -> None:
        self._worker = None  # how the former one ended is no matter, should this one not be made
        try:
            if self._cluster is None:
                await self._join(attempt)
            else:
                self._worker = self._make(self._cluster, attempt)
                self._worker.on_cluster_end = self._on_cluster_end  # the order to end comes later
                await self._worker
        except (SystemExit, KeyboardInterrupt) as error:  # of what it runs at its start
            raise RuntimeError("the worker has left the program") from error

    def _make(self, cluster: Any, attempt: int) -> Any:
        if self._found_by_tasks is not None and self._address != cluster.address:
            self._found_by_tasks.close()  # of a cluster that this rank had joined before
            self._found_by_tasks.enter_context(found_by_clients(cluster))
            self._address = cluster.address
        with warnings.catch_warnings():
            if not self._order.announces:
                warnings.filterwarnings("ignore", message=workers.SLOW_FILES)
            worker = workers.make_worker(self._options, self._order.settings, cluster, attempt)
        if self._options.protocol == "mpi":
            from mpidask._transport import answer_probes, buffer_pool

            answer_probes(worker)
            watch_memory(worker, buffer_pool())
        else:
            watch_memory(worker)
        return worker

    async def _join(self, attempt: int) -> None:
        """Start a worker of a cluster that runs elsewhere, as soon as there is one."""
        deadline = Deadline(self._options.death_timeout or math.inf)
        said = -math.inf
        while problem := await self._try_to_join(attempt, max(deadline.left, _JOIN_INTERVAL)):
            if self._order.announces and time.monotonic() - said > WORD_INTERVAL:
                logger.info("waiting for a scheduler: %s", problem)
                said = time.monotonic()
            await asyncio.sleep(_JOIN_INTERVAL)
            if not deadline.left:
                raise TimeoutError(
                    f"no scheduler for {deadline.timeout:g} s (death_timeout): {problem}"
                )
        if self._order.announces and attempt:
            logger.info("joined a scheduler again")

    async def _try_to_join(self, attempt: int, timeout: float) -> Exception | None:
        """Start a worker, or return what is wrong with the scheduler now, and may pass.

        Parameters
        ----------
        attempt : int
        timeout : float
            Seconds that the scheduler may take to answer.
        """
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
            with contextlib.suppress(Exception):  # a nanny objects while its child starts
                await self._worker.close(reason=CLUSTER_ENDS)
            return error
        except OSError as error:
            return error
        except RuntimeError as error:  # distributed's, for whatever came up at the start
            if not _comes_of_connections(error):
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
        """Let the results held here move to other workers of the cluster, which goes on."""
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


def _comes_of_connections(error: BaseException | None) -> bool:
    """Tell whether a worker did not start because of its scheduler, which may be back later."""
    from distributed.comm.core import CommClosedError

    kinds = (CommClosedError, ConnectionError, asyncio.TimeoutError)
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error is not None


def root_cause(error: BaseException) -> str:
    """Name the exception that an exception comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
