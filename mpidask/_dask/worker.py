"""The only place that makes a Worker or a Nanny, and what is asked of one."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard
from mpidask._dask.cluster import Cluster
from mpidask._dask.rank_worker import (
    CLUSTER_ENDS,
    RESTARTED,
    TASK_EXIT,
    rank_worker,
    status_of,
)
from mpidask._dask.system import memory_limit
from mpidask._placement.node import LOOPBACK
from mpidask._placement.resources import WorkerSettings

if TYPE_CHECKING:
    from distributed import Nanny, Worker

    from mpidask._options import Options


#: How the warning begins that a worker gives whose `local_directory` is slow.
SLOW_FILES = "Creating scratch directories is taking a surprisingly long time"


def make_worker(
    options: Options,
    settings: WorkerSettings,
    cluster: Cluster,
    attempt: int,
    *,
    worker_options: Mapping[str, Any] | None = None,
    by_mpi: bool = False,
) -> Worker | Nanny:
    """Make a worker, or the nanny of one, not started yet.

    Parameters
    ----------
    options : Options
    settings : WorkerSettings
    cluster : Cluster
    attempt : int
        How many workers this rank has had before.
    worker_options : mapping, optional
        Arguments for the worker class, instead of the option `worker_options`.
    by_mpi : bool
        Whether the worker can be sent data by MPI.
    """
    from mpidask._dask import web_pages
    from mpidask._dask.nanny import QuietNanny

    memory = options.memory_limit
    inside = _is_inside(cluster)
    pages = options.dashboard and not inside and not dashboard.on_loopback(options)
    arguments = {
        # The leader has divided each node's CPUs; a number is this rank's own choice.
        "nthreads": settings.nthreads if options.nthreads == "auto" else options.nthreads,
        "memory_limit": memory_limit() // settings.ranks_on_node if memory == "auto" else memory,
        "local_directory": options.local_directory,
        "interface": options.interface,
        "host": _host(options, cluster, by_mpi),
        "protocol": "mpi" if by_mpi else options.protocol,
        "security": cluster.security,
        # The former worker of this rank may not be forgotten yet: another name.
        "name": settings.name + (f"-{attempt}" if attempt else ""),
        "dashboard": False,
        "dashboard_address": ":0" if pages else f"{LOOPBACK}:0",
    }
    base = worker_class(options)
    if issubclass(base, QuietNanny):
        arguments["log_level"] = options.log_level
    cls = rank_worker(base, options.shutdown_timeout)
    arguments |= options.worker_options if worker_options is None else worker_options
    arguments |= web_pages.arguments_of_worker(_http_prefix(options, cluster), arguments)
    worker: Worker | Nanny = cls(cluster.address, **arguments)
    return worker


def _http_prefix(options: Options, cluster: Cluster) -> str:
    """Give what the paths of a worker's web pages begin with: the same as the scheduler's.

    If that is not known, a secret that nobody is told closes them.
    """
    if cluster.http_prefix is not None:
        return cluster.http_prefix
    return dashboard.choose_prefix(dataclasses.replace(options, security=cluster.security or False))


def _is_inside(cluster: Cluster) -> bool:
    """Tell whether nobody outside this machine is expected: the scheduler keeps to loopback."""
    from distributed.comm.addressing import get_address_host

    return bool(get_address_host(cluster.address) == LOOPBACK)


def _host(options: Options, cluster: Cluster, by_mpi: bool) -> str | None:
    """Give the address that a worker listens on, or None for distributed's choice."""
    from distributed.comm.addressing import get_address_host
    from distributed.utils import get_ip

    if options.interface is not None:
        return None
    if _is_inside(cluster):
        return LOOPBACK
    # The address that faces the scheduler, which distributed takes for tcp and tls alone.
    return get_ip(get_address_host(cluster.address)) if by_mpi else None


def threads_and_memory(worker: Any, settings: WorkerSettings) -> tuple[int, int | None]:
    """Give the threads and the memory limit of a worker, as far as its class tells."""
    manager = getattr(worker, "memory_manager", None)
    holder = getattr(worker, "state", worker)  # a Worker's state, or a Nanny
    nthreads = getattr(holder, "nthreads", settings.nthreads)
    return nthreads, getattr(manager, "memory_limit", None)


def worker_class(options: Options) -> type:
    """Give the class of the workers."""
    from distributed import Nanny, Worker
    from distributed.utils import import_term

    from mpidask._dask.nanny import QuietNanny, with_child

    cls = options.worker_class
    if isinstance(cls, str):
        cls = import_term(cls)
    if not isinstance(cls, type):
        raise TypeError(f"worker_class {options.worker_class!r} is not a class")
    if options.nanny and issubclass(cls, Worker):
        return with_child(QuietNanny, cls)
    return QuietNanny if cls is Nanny else cls


def has_workers_in_ranks(options: Options) -> bool:
    """Tell whether workers run in the processes of ranks, and not in children of theirs."""
    from distributed import Worker

    try:
        return issubclass(worker_class(options), Worker)
    except Exception:  # there is no such class: their ranks say so
        return False


def is_up(worker: Any) -> bool:
    """Tell whether a worker, or that of a nanny, can be told to close by its scheduler."""
    from distributed.core import Status

    from mpidask._dask.nanny import child_starts

    return status_of(worker) == Status.running and not child_starts(worker)


async def retire(worker: Any, timeout: float) -> None:
    """Move the results of a worker, or of that of a nanny, to others of its cluster."""
    from distributed import Nanny
    from distributed.core import Status

    from mpidask._dask.nanny import child_starts, retire_child

    up = status_of(worker) in (Status.running, Status.paused, Status.closing_gracefully)
    if isinstance(worker, Nanny):
        if up or child_starts(worker):
            # It needs time to end its child, too.
            await asyncio.wait_for(retire_child(worker), timeout / 3)
    elif up and hasattr(worker, "close_gracefully"):
        await asyncio.wait_for(worker.close_gracefully(), timeout)


def stays_away(worker: Any, *, joined: bool) -> bool:
    """Tell whether a worker that has finished shall not be replaced.

    It shall if `Client.restart` closed it, it lost its connection, or closed itself. It
    shall not if it was retired on purpose, nor at the end of the cluster; but one that
    joined the cluster of another job waits for the next.
    """
    if worker.retired and not getattr(worker, "lifetime_restart", False):
        return True
    final = {"scheduler-close-worker"} if joined else {"scheduler-close-worker", CLUSTER_ENDS}
    return worker.close_reason in final


def was_restarted(worker: Any) -> bool:
    """Tell whether a worker was closed by `Client.restart`, with which nothing is wrong."""
    return getattr(worker, "close_reason", None) == RESTARTED


def running_tasks(worker: Any) -> tuple[str, ...]:
    """Name the tasks that a worker's threads are busy with."""
    if getattr(worker, "close_reason", None) == TASK_EXIT:
        return ()  # distributed still lists the task that raised SystemExit
    return tuple(str(key) for key in getattr(worker, "active_threads", {}).values())


def uses_nanny(options: Options) -> bool:
    """Tell whether workers run in child processes, as far as the options show."""
    from distributed import Worker

    return options.nanny or options.worker_class not in ("distributed.Worker", Worker)
