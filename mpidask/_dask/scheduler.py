"""The only place that makes a Scheduler, and the credentials of its cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard
from mpidask._dask.cluster import Cluster
from mpidask._log import logger
from mpidask._placement.node import LOOPBACK
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._dask.monitor import Monitor
    from mpidask._options import Options


#: Open files of a scheduler: each worker's stream and heartbeats, and what it is asked; and all
#: else, such as libraries, clients and the dashboard.
_FILES_PER_WORKER, _FILES_FOR_ALL_ELSE = 3, 200


def make_security(option: Any) -> Any:
    """Give the `distributed.Security` that an option asks for, or None."""
    from distributed import Security

    return Security.temporary() if option is True else option or None


async def start_scheduler(
    options: Options, host: str | None, security: Any, http_prefix: str
) -> Scheduler:
    """Start the scheduler, its dashboard left for later (see `lazy_dashboard`)."""
    from distributed import Scheduler

    arguments = {
        "host": options.host or (None if options.interface else host),
        "interface": options.interface,
        "protocol": options.protocol,
        "port": options.scheduler_port,
        "security": security,
        "dashboard_address": options.dashboard_address if options.dashboard else f"{LOOPBACK}:0",
        **page_arguments(options, http_prefix),
        **options.scheduler_options,
    }
    with warnings.catch_warnings():
        # A taken port of the dashboard: the one line of output names the port in use.
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        # No network but loopback: that line names the address in use, too.
        warnings.filterwarnings("ignore", message="Couldn't detect a suitable IP address")
        scheduler = Scheduler(**arguments)
        arrange_pages(options, scheduler, http_prefix)
        await scheduler
    return scheduler


def page_arguments(options: Options, http_prefix: str) -> dict[str, Any]:
    """Give the arguments of `distributed.Scheduler` for its web pages."""
    # Without bokeh, distributed serves a page instead that says what to install.
    distributed_does = options.dashboard and not dashboard.installed()
    return {"dashboard": distributed_does, "http_prefix": http_prefix or "/"}


def arrange_pages(options: Options, scheduler: Scheduler, http_prefix: str) -> None:
    """Keep a scheduler's pages below a path, and let those of the dashboard load late."""
    from mpidask._dask import lazy_dashboard, web_pages

    web_pages.serve_nothing_else(scheduler.http_application, http_prefix)
    if options.dashboard and dashboard.installed() and "dashboard" not in options.scheduler_options:
        lazy_dashboard.install(scheduler, http_prefix)


@contextlib.contextmanager
def enough_files(workers: int) -> Iterator[None]:
    """Let a scheduler of this process open as many files as it may, as `dask scheduler` does.

    It says so if that is not enough for the connections of so many workers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES_FOR_ALL_ELSE + _FILES_PER_WORKER * workers
    unlimited = hard == resource.RLIM_INFINITY
    if not unlimited and hard < needed:
        logger.warning(
            "the scheduler may open %d files (ulimit -Hn), but the connections of %d workers take "
            "up to %d: the last ones may not get in. Ask for a higher limit, or start fewer ranks "
            "with more threads each (nthreads)",
            hard,
            workers,
            needed,
        )
    if soft != resource.RLIM_INFINITY:
        allowed = max(soft, needed) if unlimited else hard
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower limit still
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def call_before_close(scheduler: Scheduler, callback: Callable[[], object]) -> None:
    """Call something when a scheduler begins to close, whoever asks it to."""
    from distributed import SchedulerPlugin

    class BeforeClose(SchedulerPlugin):
        async def before_close(self) -> None:
            callback()

    scheduler.add_plugin(BeforeClose())


def ended_idle(scheduler: Scheduler) -> bool:
    """Tell whether a scheduler has closed because it had nothing to do for long enough."""
    since, timeout = scheduler.idle_since, scheduler.idle_timeout
    return bool(timeout and since and time.time() > since + timeout)


async def start_monitor(
    options: Options, scheduler: Scheduler, places: Mapping[str, str]
) -> Monitor | None:
    """Watch over the work in the scheduler's event loop: over failures, and as options ask.

    Parameters
    ----------
    options : Options
    scheduler : distributed.Scheduler
    places : mapping of str to str
        Where the ranks are, by the names of their workers.

    Raises
    ------
    MPIDaskError
        If the summary can't be written.
    """
    from mpidask._dask import summary
    from mpidask._dask.failures import Failures
    from mpidask._dask.monitor import Monitor
    from mpidask._dask.tally import Places

    if options.summary is not None:
        await to_daemon_thread(summary.file(options.summary).check)
    failures = Failures(scheduler, Places(places))
    scheduler.add_plugin(failures)
    if options.progress is None and options.summary is None:
        return None
    return Monitor(options, scheduler, Places(places), failures)


def describe_cluster(
    options: Options, scheduler: Scheduler, security: Any, http_prefix: str
) -> Cluster:
    """Say how to reach a scheduler that runs."""
    cluster = Cluster(scheduler.address, security, http_prefix=http_prefix)
    if options.dashboard and "dashboard" in scheduler.services:
        link, tunnel = dashboard.ways_in(scheduler, http_prefix)
        cluster = dataclasses.replace(
            cluster,
            dashboard=link,
            dashboard_open_to=dashboard.open_to(options, scheduler),
            tunnel=tunnel,
        )
    return cluster
