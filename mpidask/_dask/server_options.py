"""The options of mpidask as arguments of distributed's scheduler, workers and LocalCluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._placement.limits import granted_memory
from mpidask._placement.node import LOOPBACK
from mpidask._placement.resources import WorkerSettings

if TYPE_CHECKING:
    from mpidask._options import Options


def scheduler_arguments(
    options: Options, host: str | None, security: Any, http_prefix: str
) -> dict[str, Any]:
    """Return the arguments of `distributed.Scheduler`.

    Parameters
    ----------
    options : Options
    host : str or None
        The address to listen on unless the options name one.
    security : distributed.Security or None
    http_prefix : str
        What the paths of all web pages begin with.
    """
    return {
        "host": options.host or (None if options.interface else host),
        "interface": options.interface,
        "protocol": options.protocol,
        "port": options.scheduler_port,
        "security": security,
        "dashboard_address": options.dashboard_address if options.dashboard else f"{LOOPBACK}:0",
        **_scheduler_kwargs(options, http_prefix),
    }


def _scheduler_kwargs(options: Options, http_prefix: str) -> dict[str, Any]:
    # Without bokeh, distributed serves a page that says what to install.
    shows_advice = options.dashboard and not dashboard.installed()
    return {
        "dashboard": shows_advice,
        "http_prefix": http_prefix or "/",
        **options.scheduler_options,
    }


def worker_arguments(
    cls: type,
    options: Options,
    settings: WorkerSettings,
    cluster: ConnectionInfo,
    attempt: int,
    worker_options: Mapping[str, Any],
    *,
    by_mpi: bool,
) -> dict[str, Any]:
    """Return the arguments of a rank's worker, or its nanny.

    Parameters
    ----------
    cls : type
        See `worker_class`.
    options : Options
    settings : WorkerSettings
        This rank's share of its node.
    cluster : ConnectionInfo
    attempt : int
        How many workers this rank has had.
    worker_options : mapping
        Further arguments for the worker class, from the user and from gangs.
    by_mpi : bool
        Whether other ranks may send data to the worker by MPI.
    """
    memory = options.memory_limit
    protocol = "mpi" if by_mpi else options.protocol
    pages = options.dashboard and not (_is_inside(cluster) or dashboard.on_loopback(options))
    arguments = {
        # "auto": the leader has divided each node's CPUs; a number is this rank's own choice.
        "nthreads": settings.nthreads if options.nthreads == "auto" else options.nthreads,
        "memory_limit": memory_limit() // settings.ranks_on_node if memory == "auto" else memory,
        "local_directory": options.local_directory,
        "interface": options.interface,
        "host": _worker_host(options, cluster, protocol),
        "protocol": protocol,
        "security": cluster.security,
        # The scheduler may not have forgotten this rank's previous worker yet: another name.
        "name": settings.name + (f"-{attempt}" if attempt else ""),
        "dashboard": False,
        "dashboard_address": ":0" if pages else f"{LOOPBACK}:0",
    }
    http_prefix = worker_http_prefix(options, cluster)
    return arguments | _worker_kwargs(cls, options.log_level, worker_options, http_prefix)


def local_cluster_arguments(options: Options, security: Any, http_prefix: str) -> dict[str, Any]:
    """Return the arguments of `distributed.LocalCluster`, for the options that apply to it."""
    from distributed import Nanny, Worker

    from mpidask._dask.nanny import QuietNanny, with_child

    # By default, workers run in processes of their own, as users of LocalCluster expect.
    cls = worker_class(options)
    cls = QuietNanny if cls is Worker else cls
    arguments = _worker_kwargs(cls, options.log_level, options.worker_options, http_prefix)
    if issubclass(cls, Nanny) and "worker_class" in arguments:
        # As under MPI it is meant for the nanny, while LocalCluster has an argument of this name.
        cls = with_child(cls, arguments.pop("worker_class"))
    given = {
        "host": options.host,
        "interface": options.interface,
        "protocol": options.protocol,
        "local_directory": options.local_directory,
        "threads_per_worker": None if options.nthreads == "auto" else options.nthreads,
    }
    return {
        "scheduler_port": options.scheduler_port,
        "worker_class": cls,
        "silence_logs": options.log_level,
        "dashboard_address": options.dashboard_address if options.dashboard else None,
        "memory_limit": options.memory_limit,
        "security": security,
        "scheduler_kwargs": _scheduler_kwargs(options, http_prefix),
        **{name: value for name, value in given.items() if value is not None},
        **arguments,
    }


def _worker_kwargs(
    cls: type, log_level: int, given: Mapping[str, Any], http_prefix: str
) -> dict[str, Any]:
    """Return what depends on the class of the workers, and what the user adds."""
    from mpidask._dask.nanny import QuietNanny
    from mpidask._dask.web_pages import arguments_of_worker

    return {
        **({"log_level": log_level} if issubclass(cls, QuietNanny) else {}),
        **given,
        **arguments_of_worker(http_prefix, given),
    }


def worker_class(options: Options) -> type:
    """Return the class of the workers, or of their nannies."""
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


def uses_nanny(options: Options) -> bool:
    """Whether workers run in child processes, as far as the options show."""
    from distributed import Worker

    return options.nanny or options.worker_class not in ("distributed.Worker", Worker)


def has_workers_in_ranks(options: Options) -> bool:
    """Whether workers run in the processes of ranks, and not in children of theirs."""
    from distributed import Worker

    try:
        return issubclass(worker_class(options), Worker)
    except Exception:  # no such class: the ranks of workers report that
        return False


def memory_limit() -> int:
    """Return the bytes that the ranks of this machine may use together.

    This is `distributed.system.MEMORY_LIMIT`, or less: that looks at the outermost cgroup only.
    """
    from distributed.system import MEMORY_LIMIT

    return min([MEMORY_LIMIT, *granted_memory()])


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


def _worker_host(options: Options, cluster: ConnectionInfo, protocol: str | None) -> str | None:
    """Return the address that a worker listens on, or None for distributed's choice."""
    from distributed.comm.addressing import get_address_host
    from distributed.utils import get_ip

    if options.interface is not None:
        return None
    if _is_inside(cluster):
        return LOOPBACK
    # The address that faces the scheduler, as distributed chooses for tcp and tls only.
    return get_ip(get_address_host(cluster.address)) if protocol == "mpi" else None
