"""The scheduler's dashboard: how to get to it, and loading it late."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpidask._dask.daemon_thread import in_daemon_thread
from mpidask._placement.network import LOOPBACK

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._options import Options

#: How long the user's function has the scheduler for itself before the dashboard,
#: whose import takes more than a second of CPU, is loaded.
DELAY = 1.0

#: The variables in which Slurm, PBS, LSF and Grid Engine name the host a job was
#: submitted from: the one its user can reach by ssh.
_SUBMIT_HOST_VARIABLES = ("SLURM_SUBMIT_HOST", "PBS_O_HOST", "LSB_SUB_HOST", "SGE_O_HOST")


def on_loopback(options: Options) -> bool:
    """Tell whether the dashboard is for the scheduler's node alone."""
    host = options.dashboard_address.rpartition(":")[0]
    return host == "localhost" or host.startswith("127.") or host in ("::1", "[::1]")


def installed() -> bool:
    """Tell whether bokeh is there, which distributed makes its dashboard with."""
    return importlib.util.find_spec("bokeh") is not None


def open_to(scheduler: Scheduler) -> str:
    """Say who can look at a dashboard."""
    bound = ipaddress.ip_address(scheduler.services["dashboard"].address)
    return "everyone on its node" if bound.is_loopback else "everyone who can reach it"


def ways_in(scheduler: Scheduler) -> tuple[str | None, str | None]:
    """Give the link of a dashboard and, in a batch job, the ssh command that leads to it."""
    from distributed.comm.addressing import get_address_host
    from distributed.utils import format_dashboard_link

    server = scheduler.services["dashboard"]
    bound = ipaddress.ip_address(server.address)
    host = LOOPBACK if bound.is_loopback else server.address
    if bound.is_unspecified:  # it listens on all interfaces, also if the scheduler does not
        host = get_address_host(scheduler.address)
        host = socket.gethostname() if host == LOOPBACK else host
    try:
        link = format_dashboard_link(host, server.port)
    except KeyError:  # the user's template names an unset variable
        return None, None
    if f"//{host}:" not in link:  # the user's template has a way of its own
        return link, None
    return link, ssh_tunnel(host, server.port, os.environ)


def ssh_tunnel(host: str, port: int, environ: Mapping[str, str]) -> str | None:
    """Write the command that brings a port of this job to the machine of its user.

    Returns
    -------
    str or None
        None if this is no batch job: then nothing tells how its user came here.

    Examples
    --------
    >>> ssh_tunnel("10.0.0.7", 8787, {"SLURM_SUBMIT_HOST": "login1", "USER": "ana"})
    'ssh -N -L 8787:10.0.0.7:8787 ana@login1'
    """
    login = next((environ[name] for name in _SUBMIT_HOST_VARIABLES if environ.get(name)), None)
    if login is None:
        return None
    user = f"{environ['USER']}@" if environ.get("USER") else ""
    way = f"{user}{login}"
    if host == LOOPBACK:  # only this node itself can reach it
        way = f"-J {way} {user}{socket.gethostname()}"
    return f"ssh -N -L {port}:{host}:{port} {way}"


async def load(options: Options, scheduler: Scheduler) -> None:
    """Add the dashboard to a scheduler that runs.

    Bokeh is imported in a thread that nobody waits for, so neither the first results
    nor the end of a short job are later for it.
    """
    if not options.dashboard or not installed():
        return
    await asyncio.sleep(DELAY)
    with contextlib.suppress(ImportError):
        importing = in_daemon_thread(importlib.import_module, "distributed.dashboard.scheduler")
        await asyncio.wrap_future(importing)
    _connect(scheduler, options.scheduler_options.get("http_prefix", "/"))


def _connect(scheduler: Scheduler, prefix: str) -> None:
    # What Scheduler.__init__ does for dashboard=True; distributed has no public way to
    # do it later.
    with contextlib.suppress(ImportError):  # a bokeh too old for distributed
        import distributed.dashboard.scheduler as dashboard

        dashboard.connect(
            scheduler.http_application, scheduler.http_server, scheduler, prefix=prefix
        )
