"""The scheduler's dashboard: how to get to it."""

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


def choose_prefix(options: Options) -> str:
    """Choose what the paths of all web pages begin with; it has no slash at its end."""
    if _is_secret(options):
        return "/" + secrets.token_urlsafe(16)
    path = str(options.scheduler_options.get("http_prefix") or "").strip("/")
    return f"/{path}" if path else ""


def _is_secret(options: Options) -> bool:
    """Tell whether only those find the pages who were given their link.

    A scheduler that lets everybody in can be asked for all that its pages show.
    """
    given = "http_prefix" in options.scheduler_options
    return options.security is not False and options.dashboard_token and not given


def open_to(options: Options, scheduler: Scheduler) -> str | None:
    """Say who can look at a dashboard, unless that takes its link."""
    if _is_secret(options):
        return None
    bound = ipaddress.ip_address(scheduler.services["dashboard"].address)
    return "everyone on its node" if bound.is_loopback else "everyone who can reach it"


@contextlib.contextmanager
def linked_below(prefix: str) -> Iterator[None]:
    """Let distributed write links to a dashboard whose pages are below a path.

    `Client.dashboard_link` knows the port, and the template in Dask's configuration.
    """
    import dask

    name = "distributed.dashboard.link"
    with dask.config.set({name: _template_below(prefix, dask.config.get(name))}):
        yield


def _template_below(prefix: str, template: str) -> str:
    """Add a path to a template of links, which may be the user's, for a proxy say.

    Examples
    --------
    >>> _template_below("/abc", "{scheme}://{host}:{port}/status")
    '{scheme}://{host}:{port}/abc/status'
    """
    if not prefix or prefix in template:
        return template
    return template.replace("{port}", "{port}" + prefix, 1)


def ways_in(scheduler: Scheduler, prefix: str) -> tuple[str | None, str | None]:
    """Give the link of a dashboard and, in a batch job, the ssh command that leads to it.

    The link is another one there: the command is followed by it.
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
    if f"//{host}:" not in link:  # the user's template has a way of its own
        return link, None
    tunnel = ssh_tunnel(host, server.port, os.environ)
    outside = link.replace(f"//{host}:", "//localhost:", 1)
    return link, tunnel and f"{tunnel}, then {outside}"


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
