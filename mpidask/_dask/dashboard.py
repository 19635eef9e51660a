"""The dashboard of the scheduler: its link, who can open it, and the way there.

If its port is taken, distributed listens on another one, which the link has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mpidask._placement.node import LOOPBACK

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._options import Options

#: The variables in which Slurm, PBS, LSF and Grid Engine name the host that a job was
#: submitted from, which its user can reach by ssh.
_SUBMIT_HOST_VARIABLES = ("SLURM_SUBMIT_HOST", "PBS_O_HOST", "LSB_SUB_HOST", "SGE_O_HOST")


def on_loopback(options: Options) -> bool:
    """Whether the dashboard is for the scheduler's node alone."""
    host = options.dashboard_address.rpartition(":")[0]
    return host == "localhost" or host.startswith("127.") or host in ("::1", "[::1]")


def installed() -> bool:
    """Whether bokeh is installed, which distributed makes its dashboard with."""
    return importlib.util.find_spec("bokeh") is not None


def choose_prefix(options: Options, *, secured: bool | None = None) -> str:
    """Return what the paths of all web pages begin with, without a slash at the end.

    By default, the cluster is secured if the options say so.
    """
    if _is_secret(options, secured):
        return "/" + secrets.token_urlsafe(16)
    path = str(options.scheduler_options.get("http_prefix") or "").strip("/")
    return f"/{path}" if path else ""


def _is_secret(options: Options, secured: bool | None = None) -> bool:
    """Whether the pages are found by their link only.

    Without security that is pointless: anyone can ask the scheduler for their content.
    """
    given = "http_prefix" in options.scheduler_options
    secured = options.security is not False if secured is None else secured
    return secured and options.dashboard_token and not given


def open_to(options: Options, scheduler: Scheduler) -> str | None:
    """Return who can open a dashboard; None if that takes its secret link."""
    if _is_secret(options):
        return None
    bound = ipaddress.ip_address(scheduler.services["dashboard"].address)
    return "everyone on its node" if bound.is_loopback else "everyone who can reach it"


@contextlib.contextmanager
def linked_below(prefix: str) -> Iterator[None]:
    """Make distributed's links to the dashboard include a path.

    `Client.dashboard_link` knows only the port, and the template in Dask's configuration.
    """
    import dask

    name = "distributed.dashboard.link"
    with dask.config.set({name: _template_below(prefix, dask.config.get(name))}):
        yield


def _template_below(prefix: str, template: str) -> str:
    """Add a path to a template of links, which may be the user's, for a proxy perhaps.

    Examples
    --------
    >>> _template_below("/abc", "{scheme}://{host}:{port}/status")
    '{scheme}://{host}:{port}/abc/status'
    """
    if not prefix or prefix in template:
        return template
    return template.replace("{port}", "{port}" + prefix, 1)


def link_and_tunnel(scheduler: Scheduler, prefix: str) -> tuple[str | None, str | None]:
    """Return the link of a dashboard and, in a batch job, the ssh command of a tunnel to it.

    With the command comes the link that works through the tunnel.
    """
    from distributed.comm.addressing import get_address_host
    from distributed.utils import format_dashboard_link

    server = scheduler.services["dashboard"]
    bound = ipaddress.ip_address(server.address)
    host = LOOPBACK if bound.is_loopback else server.address
    if bound.is_unspecified:  # it listens on all interfaces, also if the scheduler does not
        host = get_address_host(scheduler.address)
        host = socket.gethostname() if host == LOOPBACK else host
    try:
        with linked_below(prefix):
            link = format_dashboard_link(host, server.port)
    except KeyError:  # the user's template names an unset variable
        return None, None
    if f"//{host}:" not in link:  # the user's template leads elsewhere
        return link, None
    tunnel = ssh_tunnel(host, server.port, os.environ)
    outside = link.replace(f"//{host}:", "//localhost:", 1)
    return link, tunnel and f"{tunnel}, then {outside}"


def ssh_tunnel(host: str, port: int, environ: Mapping[str, str]) -> str | None:
    """Return the command that forwards a port of this job to its user's machine.

    Outside of batch jobs, the host to log in to is not known, and there is none.

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
