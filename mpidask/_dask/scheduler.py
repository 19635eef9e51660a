"""The scheduler of a cluster: its arguments, and how it is made and described."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mpidask._compat.check import check_private_api
from mpidask._compat.distributed import (
    ONLY_LOOPBACK,
    PORT_IN_USE,
    before_nanny_plugin,
    without_warnings,
)
from mpidask._dask import dashboard
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._log import logger
from mpidask._placement.node import LOOPBACK

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._options import Options


#: Open files of a scheduler: for each worker, its stream, heartbeats and requests; and for
#: everything else, such as libraries, clients and the dashboard.
_FILES_PER_WORKER, _FILES_FOR_ALL_ELSE = 3, 200


async def start_scheduler(
    options: Options, host: str | None, security: Any, http_prefix: str
) -> Scheduler:
    """Start the scheduler, which listens on a host unless the options name one.

    The paths of all web pages begin with `http_prefix`. The dashboard is loaded later.
    """
    from distributed import Scheduler

    check_private_api()
    arguments = {
        "host": options.host or (None if options.interface else host),
        "interface": options.interface,
        "protocol": options.protocol,
        "port": options.scheduler_port,
        "security": security,
        "dashboard_address": options.dashboard_address if options.dashboard else f"{LOOPBACK}:0",
        **_page_arguments(options, http_prefix),
    }
    # The one line of output has the dashboard's port and the scheduler's address.
    with without_warnings(PORT_IN_USE, ONLY_LOOPBACK):
        scheduler = Scheduler(**arguments)
        arrange_pages(options, scheduler, http_prefix)
        await scheduler
    return scheduler


def local_arguments(options: Options, security: Any, http_prefix: str) -> dict[str, Any]:
    """Return the arguments of `distributed.LocalCluster` for its scheduler, and for all servers."""
    given = {
        "host": options.host,
        "interface": options.interface,
        "protocol": options.protocol,
    }
    return {
        "scheduler_port": options.scheduler_port,
        "silence_logs": options.log_level,
        "dashboard_address": options.dashboard_address if options.dashboard else None,
        "security": security,
        "scheduler_kwargs": _page_arguments(options, http_prefix),
        **{name: value for name, value in given.items() if value is not None},
    }


def _page_arguments(options: Options, http_prefix: str) -> dict[str, Any]:
    """Return the arguments for web pages, and those that the user adds."""
    return {
        # Without bokeh, distributed serves a page that says what to install.
        "dashboard": options.dashboard and not dashboard.installed(),
        "http_prefix": http_prefix or "/",
        **options.scheduler_options,
    }


def arrange_pages(options: Options, scheduler: Scheduler, http_prefix: str) -> None:
    """Keep a scheduler's pages below a path, and load those of the dashboard late."""
    from mpidask._dask.web_pages import load_dashboard_late, serve_only_below

    serve_only_below(http_prefix, scheduler.http_application)
    if options.dashboard and dashboard.installed() and "dashboard" not in options.scheduler_options:
        load_dashboard_late(scheduler, http_prefix)


@contextlib.contextmanager
def enough_files(workers: int) -> Iterator[None]:
    """Let this process open as many files as it may, as `dask scheduler` does.

    Warn if that is not enough for the connections of so many workers.
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
    """Call a function when a scheduler begins to close, for whatever reason."""
    from distributed import SchedulerPlugin

    class BeforeClose(SchedulerPlugin):
        async def before_close(self) -> None:
            callback()

    scheduler.add_plugin(BeforeClose())


def warn_of_nanny_plugins(scheduler: Scheduler) -> None:
    """Warn when a plugin such as `Environ` or `UploadDirectory` reaches no nanny.

    Dask accepts it silently: a nanny might come later.
    """

    def warn(name: str | None) -> None:
        if not any(worker.nanny for worker in scheduler.workers.values()):
            logger.warning(
                "the plugin %s has no effect: it is for nannies, and workers run without them "
                "unless you give nanny=True",
                name,
            )

    before_nanny_plugin(scheduler, warn)


def ended_idle(scheduler: Scheduler) -> bool:
    """Whether a scheduler has closed because it had nothing to do for ``idle-timeout``."""
    since, timeout = scheduler.idle_since, scheduler.idle_timeout
    return bool(timeout and since and time.time() > since + timeout)


def connection_info(
    options: Options, scheduler: Scheduler, security: Any, http_prefix: str
) -> ConnectionInfo:
    """Return how to reach a scheduler that runs."""
    info = ConnectionInfo(scheduler.address, security, http_prefix=http_prefix)
    if not (options.dashboard and "dashboard" in scheduler.services):
        return info
    link, tunnel = dashboard.link_and_tunnel(scheduler, http_prefix)
    audience = dashboard.open_to(options, scheduler)
    return dataclasses.replace(info, dashboard=link, tunnel=tunnel, dashboard_open_to=audience)
