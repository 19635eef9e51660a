"""Connections by TLS to a process that ends at this moment.

When the other end closes between the handshakes of TCP and of TLS, tornado raises a
ValueError (https://github.com/tornadoweb/tornado/issues/2546), and distributed lets it
through, though all who connect expect an OSError: a client no longer reconnects and says
so at length, and a worker takes the task for failed whose input it was about to fetch.
"""

from __future__ import annotations

from typing import Any

from distributed.comm import registry
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.tcp import TLSBackend, TLSConnector


class Connector(TLSConnector):
    """Raises an OSError then, too."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        """Connect, as distributed does."""
        connect: Any = super().connect
        try:
            comm: Comm = await connect(address, deserialize, **connection_args)
        except ValueError as error:
            if "not idle" not in str(error):  # but no address, for example
                raise
            raise CommClosedError(f"{address} closed the connection: {error}") from error
        return comm


class _Backend(TLSBackend):
    _connector_class = Connector


def expect_ends_of_processes() -> None:
    """Let all of this process's connections by TLS, Dask's own too, be made by `Connector`.

    distributed takes back ends of others from packages' entry points for schemes that it does
    not know itself: there is no public way to mend one of its own.
    """
    if type(registry.backends["tls"]) is TLSBackend:
        registry.backends["tls"] = _Backend()
