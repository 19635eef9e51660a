"""The cluster without an MPI job: a LocalCluster."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard, scheduler_file
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._dask.scheduler import (
    arrange_pages,
    make_security,
    page_arguments,
    start_monitor,
)
from mpidask._dask.worker import worker_class
from mpidask._gang import protocol
from mpidask._lifecycle import single_use
from mpidask._lifecycle.signals import Interrupt, raise_as_python_would
from mpidask._log import logger
from mpidask._mpi.job_exit import exit_status
from mpidask._options import Options

if TYPE_CHECKING:
    from distributed import LocalCluster, Scheduler

    from mpidask._dask.monitor import Monitor


@contextlib.contextmanager
def local_cluster(options: Options, interrupt: Interrupt) -> Iterator[ConnectionInfo]:
    """Start a `distributed.LocalCluster` with the options that apply to one machine."""
    from mpidask._dask.spawn import shield_worker_processes

    single_use.entered()
    single_use.warn_if_only_local()
    interrupt.act(raise_as_python_would)
    try:
        if options.scheduler_file is not None:
            path = options.scheduler_file
            scheduler_file.call_in_time(scheduler_file.check_replaceable, path)
        shield_worker_processes()
        security = make_security(options.security)
        prefix = dashboard.choose_prefix(options)
        arguments = _arguments(options, security, prefix)
        with at_log_level(options.log_level), _started(arguments) as cluster:
            assert cluster.scheduler is not None
            cluster.sync(_arrange_pages, options, cluster.scheduler, prefix)
            found = _describe(options, cluster, prefix)
            logger.info(
                "no MPI job, %d workers on this machine, scheduler %s%s",
                len(cluster.workers),
                found.address,
                _dashboard_suffix(found),
            )
            protocol.remember(found.address, protocol.NO_MPI_JOB)
            with (
                scheduler_file.written(options.scheduler_file, cluster.scheduler, found),
                _monitored(options, cluster),
            ):
                yield found
    finally:
        single_use.ended_locally(would_leave=options.exit)


@contextlib.contextmanager
def _started(arguments: dict[str, Any]) -> Iterator[LocalCluster]:
    import dask
    from distributed import LocalCluster
    from distributed.core import Status

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        cluster = LocalCluster(**arguments)
    try:
        yield cluster
    finally:
        with contextlib.ExitStack() as stack:
            if cluster.scheduler is None or cluster.scheduler.status != Status.running:
                # Else it would try for half a minute to reach a scheduler that was shut down.
                stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": "1 s"}))
                stack.enter_context(at_log_level(logging.CRITICAL))
            cluster.close()


async def _arrange_pages(options: Options, scheduler: Scheduler, prefix: str) -> None:
    arrange_pages(options, scheduler, prefix)


def _describe(options: Options, cluster: LocalCluster, prefix: str) -> ConnectionInfo:
    with dashboard.linked_below(prefix):
        link = cluster.dashboard_link if options.dashboard else None
    assert cluster.scheduler is not None
    return ConnectionInfo(
        cluster.scheduler_address,
        cluster.security,
        link,
        dashboard_open_to=dashboard.open_to(options, cluster.scheduler),
        http_prefix=prefix,
    )


def _dashboard_suffix(cluster: ConnectionInfo) -> str:
    if cluster.dashboard is None:
        return ""
    audience = f", open to {cluster.dashboard_open_to}" if cluster.dashboard_open_to else ""
    return f", dashboard {cluster.dashboard}{audience}"


@contextlib.contextmanager
def _monitored(options: Options, cluster: LocalCluster) -> Iterator[None]:
    """Run the monitor in the scheduler's thread."""

    async def start() -> Monitor | None:
        assert cluster.scheduler is not None
        return await start_monitor(options, cluster.scheduler, {})

    monitor, status = cluster.sync(start), 0
    try:
        yield
    except BaseException as error:
        status = exit_status(error)
        raise
    finally:
        if monitor is not None:
            cluster.sync(monitor.finish, status)


def _arguments(options: Options, security: Any, prefix: str) -> dict[str, Any]:
    """Translate the options into those of `LocalCluster`."""
    from distributed import Nanny, Worker

    from mpidask._dask.nanny import QuietNanny, with_child
    from mpidask._dask.web_pages import arguments_of_worker

    # By default, workers run in processes of their own, as users of LocalCluster expect.
    cls = worker_class(options)
    cls = QuietNanny if cls is Worker else cls
    worker_options = dict(options.worker_options)
    if issubclass(cls, Nanny) and "worker_class" in worker_options:
        # As under MPI it is meant for the nanny, while LocalCluster has an argument of this name.
        cls = with_child(cls, worker_options.pop("worker_class"))
    given = {
        "host": options.host,
        "interface": options.interface,
        "protocol": options.protocol,
        "local_directory": options.local_directory,
        "threads_per_worker": None if options.nthreads == "auto" else options.nthreads,
        "log_level": options.log_level if issubclass(cls, QuietNanny) else None,
    }
    return {
        "scheduler_port": options.scheduler_port,
        "worker_class": cls,
        "silence_logs": options.log_level,
        "dashboard_address": options.dashboard_address if options.dashboard else None,
        "memory_limit": options.memory_limit,
        "security": security,
        "scheduler_kwargs": {**page_arguments(options, prefix), **options.scheduler_options},
        **{name: value for name, value in given.items() if value is not None},
        **worker_options,
        **arguments_of_worker(prefix, worker_options),
    }
