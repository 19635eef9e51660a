"""How to reach a cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConnectionInfo:
    """How to reach the scheduler of a cluster, and its dashboard."""

    #: Where the scheduler listens.
    address: str
    #: The credentials that it asks for, a `distributed.Security`, or None.
    security: Any = None
    #: The link to its dashboard.
    dashboard: str | None = None
    #: The ssh command that makes this link work outside of the batch job.
    tunnel: str | None = None
    #: Who can look at the dashboard; None if its link has a secret.
    dashboard_open_to: str | None = "everyone who can reach it"
    #: What the paths of all web pages begin with. It may be a secret; None if it is not known, as
    #: for the cluster of another job.
    http_prefix: str | None = None

    def describe_dashboard(self) -> list[str]:
        """Return the parts of a message about the dashboard, if there is one."""
        if self.dashboard is None:
            return []
        tunnel = f" (from outside: {self.tunnel})" if self.tunnel else ""
        audience = [f"open to {self.dashboard_open_to}"] if self.dashboard_open_to else []
        return [f"dashboard {self.dashboard}{tunnel}", *audience]

    async def connect(self, role: str, timeout: float | None = None) -> Any:
        """Connect to the scheduler, with the credentials of a role, such as ``"client"``.

        Raise `asyncio.TimeoutError` if the other end sends nothing for so many seconds (default: as
        in Dask's configuration): `distributed.comm.connect` itself would wait without a limit for
        its first message.
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
