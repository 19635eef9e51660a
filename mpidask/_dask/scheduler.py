"""The only place that makes a Scheduler, and the credentials of its cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard
from mpidask._dask.cluster import Cluster
from mpidask._placement.network import LOOPBACK

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._dask.monitor import Monitor
    from mpidask._options import Options


def make_security(option: Any) -> Any:
    """Give the `distributed.Security` that an option asks for, or None."""
    from distributed import Security

    return Security.temporary() if option is True else option or None


async def start_scheduler(options: Options, host: str | None, security: Any) -> Scheduler:
    """Start the scheduler, its dashboard left for later (see `dashboard.load`)."""
    from distributed import Scheduler

    arguments = {
        "host": options.host or (None if options.interface else host),
        "interface": options.interface,
        "protocol": options.protocol,
        "port": options.scheduler_port,
        "security": security,
        # Without bokeh, distributed serves a page instead that says what to install.
        "dashboard": options.dashboard and not dashboard.installed(),
        "dashboard_address": options.dashboard_address if options.dashboard else f"{LOOPBACK}:0",
    }
    with warnings.catch_warnings():
        # A taken port of the dashboard: the one line of output names the port in use.
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        # No network but loopback: that line names the address in use, too.
        warnings.filterwarnings("ignore", message="Couldn't detect a suitable IP address")
        scheduler: Scheduler = await Scheduler(**{**arguments, **options.scheduler_options})
    return scheduler


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
        await asyncio.to_thread(summary.file(options.summary).check)
    failures = Failures(scheduler, Places(places))
    scheduler.add_plugin(failures)
    if options.progress is None and options.summary is None:
        return None
    return Monitor(options, scheduler, Places(places), failures)


def describe_cluster(options: Options, scheduler: Scheduler, security: Any) -> Cluster:
    """Say how to reach a scheduler that runs."""
    cluster = Cluster(scheduler.address, security)
    if options.dashboard and "dashboard" in scheduler.services:
        link, tunnel = dashboard.ways_in(scheduler)
        cluster = dataclasses.replace(
            cluster,
            dashboard=link,
            dashboard_open_to=dashboard.open_to(scheduler),
            tunnel=tunnel,
        )
    return cluster
