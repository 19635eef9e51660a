"""The worker of a rank, or its nanny: its arguments, and how it is made, retired and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import (
    CLOSED_BY_SCHEDULER,
    CLUSTER_ENDS,
    RESTARTED,
    addresses_of_worker,
    is_starting,
)
from mpidask._dask import dashboard
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.memory import memory_limit
from mpidask._dask.worker_class import TASK_EXIT, status_of, with_mixin, worker_class
from mpidask._placement.node import LOOPBACK
from mpidask._placement.worker_settings import WorkerSettings

if TYPE_CHECKING:
    from distributed import Nanny, Worker

    from mpidask._options import Options


# -- Make it. ----------------------------------------------------------------------------


def make_worker(
    options: Options,
    settings: WorkerSettings,
    cluster: ConnectionInfo,
    attempt: int,
    worker_options: Mapping[str, Any],
    *,
    by_mpi: bool,
) -> Worker | Nanny:
    """Make a worker or its nanny, not started yet.

    `attempt` is the number of workers that this rank has had before. The worker options are further
    arguments for the class, from the user and from gangs. With `by_mpi`, other ranks may send data
    to the worker by MPI.
    """
    cls = worker_class(options)
    memory = options.memory_limit
    protocol = "mpi" if by_mpi else options.protocol
    pages = options.dashboard and not (_is_inside(cluster) or dashboard.on_loopback(options))
    arguments = {
        # "auto": the leader has divided each node's CPUs; a number is this rank's own choice.
        "nthreads": settings.nthreads if options.nthreads == "auto" else options.nthreads,
        "memory_limit": memory_limit() // settings.ranks_on_node if memory == "auto" else memory,
        "local_directory": options.local_directory,
        "interface": options.interface,
        "host": _host(options, cluster, protocol),
        "protocol": protocol,
        "security": cluster.security,
        # The scheduler may not have forgotten this rank's previous worker yet: another name.
        "name": settings.name + (f"-{attempt}" if attempt else ""),
        "dashboard": False,
        "dashboard_address": ":0" if pages else f"{LOOPBACK}:0",
        **_class_arguments(cls, options, worker_options, worker_http_prefix(options, cluster)),
    }
    worker: Worker | Nanny = with_mixin(cls, options.shutdown_timeout)(cluster.address, **arguments)
    return worker


def local_arguments(options: Options, http_prefix: str) -> dict[str, Any]:
    """Return the arguments of `distributed.LocalCluster` for its workers."""
    from distributed import Nanny, Worker

    from mpidask._dask.nanny import QuietNanny, with_child

    # By default, workers run in processes of their own, as users of LocalCluster expect.
    cls = worker_class(options)
    cls = QuietNanny if cls is Worker else cls
    arguments = _class_arguments(cls, options, options.worker_options, http_prefix)
    if issubclass(cls, Nanny) and "worker_class" in arguments:
        # As under MPI it is meant for the nanny, while LocalCluster has an argument of this name.
        cls = with_child(cls, arguments.pop("worker_class"))
    given = {
        "local_directory": options.local_directory,
        "threads_per_worker": None if options.nthreads == "auto" else options.nthreads,
    }
    return {
        "worker_class": cls,
        "memory_limit": options.memory_limit,
        **{name: value for name, value in given.items() if value is not None},
        **arguments,
    }


def _class_arguments(
    cls: type, options: Options, given: Mapping[str, Any], http_prefix: str
) -> dict[str, Any]:
    """Return the arguments that depend on the class, and those that the user adds."""
    from mpidask._dask.nanny import QuietNanny
    from mpidask._dask.web_pages import arguments_of_worker

    return {
        **({"log_level": options.log_level} if issubclass(cls, QuietNanny) else {}),
        **given,
        **arguments_of_worker(http_prefix, given),
    }


def worker_http_prefix(options: Options, cluster: ConnectionInfo) -> str:
    """Return what the paths of a worker's web pages begin with: the same as the scheduler's.

    If that is not known, it is a secret that is not published, which closes them.
    """
    if cluster.http_prefix is not None:
        return cluster.http_prefix
    return dashboard.choose_prefix(options, secured=bool(cluster.security))


def _is_inside(cluster: ConnectionInfo) -> bool:
    """Whether the scheduler listens on loopback, so that the cluster is on this machine only."""
    from distributed.comm.addressing import get_address_host

    return bool(get_address_host(cluster.address) == LOOPBACK)


def _host(options: Options, cluster: ConnectionInfo, protocol: str | None) -> str | None:
    """Return the address that a worker listens on, or None for distributed's choice."""
    from distributed.comm.addressing import get_address_host
    from distributed.utils import get_ip

    if options.interface is not None:
        return None
    if _is_inside(cluster):
        return LOOPBACK
    # The address that faces the scheduler, as distributed chooses for tcp and tls only.
    return get_ip(get_address_host(cluster.address)) if protocol == "mpi" else None


# -- Retire it. --------------------------------------------------------------------------


async def retire(worker: Any, timeout: float) -> None:
    """Move the results of a worker, or of a nanny's, to others of its cluster."""
    from distributed import Nanny
    from distributed.core import Status

    up = status_of(worker) in (Status.running, Status.paused, Status.closing_gracefully)
    if isinstance(worker, Nanny):
        if up or is_starting(worker):
            # It needs time to end its child, too.
            await asyncio.wait_for(_retire_child(worker), timeout / 3)
    elif up and hasattr(worker, "close_gracefully"):
        await asyncio.wait_for(worker.close_gracefully(), timeout)


async def _retire_child(nanny: Nanny) -> None:
    """Move the results of a nanny's worker elsewhere: `Nanny.close_gracefully` moves nothing.

    The scheduler knows of a worker, and may have given it results, before its nanny does.
    """
    addresses: list[str | None] = [nanny.worker_address]
    if is_starting(nanny):
        addresses = [*await addresses_of_worker(nanny)]
    await nanny.scheduler.retire_workers(workers=addresses, close_workers=False)


# -- Ask it. -----------------------------------------------------------------------------


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
