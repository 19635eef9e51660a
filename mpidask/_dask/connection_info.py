"""How to reach a cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConnectionInfo:
    """How to reach the scheduler of a cluster, and its dashboard.

    Attributes
    ----------
    address : str
        Where the scheduler listens.
    security : distributed.Security, optional
        The credentials that it asks for.
    dashboard : str, optional
        The link to its dashboard.
    tunnel : str, optional
        The ssh command that makes this link work outside of the batch job.
    dashboard_open_to : str, optional
        Who can look at the dashboard; None if its link has a secret.
    http_prefix : str, optional
        What the paths of all web pages begin with. It may be a secret; None if it is not known,
        as for the cluster of another job.
    """

    address: str
    security: Any = None
    dashboard: str | None = None
    tunnel: str | None = None
    dashboard_open_to: str | None = "everyone who can reach it"
    http_prefix: str | None = None

    def describe_dashboard(self) -> list[str]:
        """Return the parts of a message about the dashboard, if there is one."""
        if self.dashboard is None:
            return []
        tunnel = f" (from outside: {self.tunnel})" if self.tunnel else ""
        audience = [f"open to {self.dashboard_open_to}"] if self.dashboard_open_to else []
        return [f"dashboard {self.dashboard}{tunnel}", *audience]

    async def connect(self, role: str, timeout: float | None = None) -> Any:
        """Connect to the scheduler, with the credentials of a role.

        Parameters
        ----------
        role : str
            One of `distributed.Security`, such as ``"client"``.
        timeout : float, optional
            Seconds; default: as in Dask's configuration. `distributed.comm.connect` itself waits
            without a limit for the first message once TCP is connected.

        Raises
        ------
        asyncio.TimeoutError
            If the other end sends nothing.
        OSError, TypeError, ValueError, RuntimeError
            As `distributed.comm.connect` does.
        """
        import dask
        from dask.utils import parse_timedelta
        from distributed import Security
        from distributed.comm.core import connect

        if timeout is None:
            timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
        arguments = (self.security or Security()).get_connection_args(role)
        connecting = connect(self.address, timeout=timeout, **arguments)
        return await asyncio.wait_for(connecting, timeout + 1)  # its own error comes first
