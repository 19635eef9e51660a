"""TLS connections to a process that is just ending.

If the other end closes between the handshakes of TCP and of TLS, tornado raises a ValueError
(https://github.com/tornadoweb/tornado/issues/2546). distributed lets it through, though all its
callers expect an OSError: a client stops reconnecting, with a long traceback, and a worker fails
the task whose input it was about to fetch.
"""

from __future__ import annotations

from typing import Any

from distributed.comm import registry
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.tcp import TLSBackend, TLSConnector


class Connector(TLSConnector):
    """Raises `CommClosedError` instead."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        """Connect, as distributed does."""
        connect: Any = super().connect
        try:
            comm: Comm = await connect(address, deserialize, **connection_args)
        except ValueError as error:
            if "not idle" not in str(error):  # an invalid address, for example
                raise
            raise CommClosedError(f"{address} closed the connection: {error}") from error
        return comm


class _Backend(TLSBackend):
    _connector_class = Connector


def raise_oserror_for_closed_tls() -> None:
    """Use `Connector` for all of this process's TLS connections, Dask's own included.

    distributed loads back ends from entry points only for schemes that it does not have itself:
    there is no public way to replace one of its own.
    """
    if type(registry.backends["tls"]) is TLSBackend:
        registry.backends["tls"] = _Backend()
