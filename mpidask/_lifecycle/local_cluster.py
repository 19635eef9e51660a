"""The cluster without an MPI job: a LocalCluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from mpidask._compat.check import check_private_api
from mpidask._compat.distributed import PORT_IN_USE, without_warnings
from mpidask._dask import dashboard, scheduler_file
from mpidask._dask import scheduler as schedulers
from mpidask._dask import worker as workers
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._dask.security import make_security
from mpidask._dask.spawn import shield_children
from mpidask._gang import protocol
from mpidask._lifecycle import single_use
from mpidask._lifecycle.signals import Interrupt, raise_as_python_would
from mpidask._lifecycle.start_line import local_start_line
from mpidask._log import logger
from mpidask._mpi.job_exit import exit_status
from mpidask._options import Options

if TYPE_CHECKING:
    from distributed import LocalCluster, Scheduler

    from mpidask._watch.monitor import Monitor


@contextlib.contextmanager
def local_cluster(options: Options, interrupt: Interrupt) -> Iterator[ConnectionInfo]:
    """Start a `distributed.LocalCluster` with the options that apply to one machine."""
    single_use.entered()
    single_use.warn_if_only_local()
    interrupt.act(raise_as_python_would)
    try:
        if options.scheduler_file is not None:
            scheduler_file.check(options.scheduler_file)
        check_private_api()
        shield_children()
        security = make_security(options.security)
        prefix = dashboard.choose_prefix(options)
        arguments = schedulers.local_arguments(options, security, prefix)
        arguments |= workers.local_arguments(options, prefix)
        with at_log_level(options.log_level), _started(arguments) as cluster:
            assert cluster.scheduler is not None
            cluster.sync(_arrange_pages, options, cluster.scheduler, prefix)
            found = _describe(options, cluster, prefix)
            logger.info(local_start_line(found, len(cluster.workers)))
            protocol.remember(found.address, protocol.NO_MPI_JOB)
            file = scheduler_file.written(options.scheduler_file, cluster.scheduler, found)
            with _in_loop(cluster, file), _monitored(options, cluster):
                yield found
    finally:
        single_use.ended_locally(would_leave=options.exit)


@contextlib.contextmanager
def _started(arguments: dict[str, Any]) -> Iterator[LocalCluster]:
    import dask
    from distributed import LocalCluster
    from distributed.core import Status

    with without_warnings(PORT_IN_USE):
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
    schedulers.arrange_pages(options, scheduler, prefix)


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


@contextlib.contextmanager
def _in_loop(cluster: LocalCluster, block: AbstractAsyncContextManager[None]) -> Iterator[None]:
    """Enter and leave a block in the event loop of a cluster."""
    cluster.sync(block.__aenter__)
    try:
        yield
    finally:
        cluster.sync(block.__aexit__, None, None, None)


@contextlib.contextmanager
def _monitored(options: Options, cluster: LocalCluster) -> Iterator[None]:
    """Watch over the work, in the thread of the scheduler."""
    from mpidask._watch.monitor import start_monitor

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
