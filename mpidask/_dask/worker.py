"""The worker of a rank, or its nanny: how it is made, retired and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import (
    CLOSED_BY_SCHEDULER,
    CLUSTER_ENDS,
    RESTARTED,
    is_starting,
)
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.rank_worker import TASK_EXIT, RankServer, RankWorker, status_of
from mpidask._dask.server_options import worker_arguments, worker_class
from mpidask._placement.resources import WorkerSettings

if TYPE_CHECKING:
    from distributed import Nanny, Worker

    from mpidask._options import Options


def make_worker(
    options: Options,
    settings: WorkerSettings,
    cluster: ConnectionInfo,
    attempt: int,
    worker_options: Mapping[str, Any],
    *,
    by_mpi: bool,
) -> Worker | Nanny:
    """Make a worker or its nanny, not started yet; see `worker_arguments`."""
    base = worker_class(options)
    arguments = worker_arguments(
        base, options, settings, cluster, attempt, worker_options, by_mpi=by_mpi
    )
    cls = _of_rank(base, options.shutdown_timeout)
    worker: Worker | Nanny = cls(cluster.address, **arguments)
    return worker


def _of_rank(base: type, shutdown_timeout: float) -> type:
    """Derive the class of a rank's worker, with the name that the dashboard shows."""
    from distributed import Nanny, Worker

    from mpidask._dask.nanny import RankNanny

    mixin: type = RankServer  # of a class that is neither, such as CUDAWorker
    if issubclass(base, Worker):
        mixin = RankWorker
    elif issubclass(base, Nanny):
        mixin = RankNanny
    return type(base.__name__, (mixin, base), {"shutdown_timeout": shutdown_timeout})


async def retire(worker: Any, timeout: float) -> None:
    """Move the results of a worker, or of a nanny's, to others of its cluster."""
    from distributed import Nanny
    from distributed.core import Status

    from mpidask._dask.nanny import retire_child

    up = status_of(worker) in (Status.running, Status.paused, Status.closing_gracefully)
    if isinstance(worker, Nanny):
        if up or is_starting(worker):
            # It needs time to end its child, too.
            await asyncio.wait_for(retire_child(worker), timeout / 3)
    elif up and hasattr(worker, "close_gracefully"):
        await asyncio.wait_for(worker.close_gracefully(), timeout)


def threads_and_memory(worker: Any, settings: WorkerSettings) -> tuple[int, int | None]:
    """Return the threads and the memory limit of a worker, if its class has them."""
    manager = getattr(worker, "memory_manager", None)
    holder = getattr(worker, "state", worker)  # a Worker's state, or a Nanny
    nthreads = getattr(holder, "nthreads", settings.nthreads)
    return nthreads, getattr(manager, "memory_limit", None)


def is_up(worker: Any) -> bool:
    """Whether the scheduler can close a worker, or that of a nanny."""
    from distributed.core import Status

    return status_of(worker) == Status.running and not is_starting(worker)


def is_closed_for_good(worker: Any, *, joined: bool) -> bool:
    """Whether a worker that has finished must not be replaced.

    It must not if it was retired on purpose, nor at the end of the cluster; but one that joined
    the cluster of another job waits for the next. It is replaced if `Client.restart` closed it,
    if it lost its connection, or closed itself.
    """
    if worker.retired and not getattr(worker, "lifetime_restart", False):
        return True
    final = {CLOSED_BY_SCHEDULER} if joined else {CLOSED_BY_SCHEDULER, CLUSTER_ENDS}
    return worker.close_reason in final


def was_restarted(worker: Any) -> bool:
    """Whether `Client.restart` closed a worker, with which nothing is wrong."""
    return getattr(worker, "close_reason", None) == RESTARTED


def running_tasks(worker: Any) -> tuple[str, ...]:
    """Return the keys of the tasks that a worker's threads run."""
    if getattr(worker, "close_reason", None) == TASK_EXIT:
        return ()  # distributed still lists the task that raised SystemExit
    return tuple(str(key) for key in getattr(worker, "active_threads", {}).values())
