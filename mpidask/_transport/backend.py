"""Connectors and listeners of ``mpi://``: distributed's own for TLS and TCP, with wrapped comms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from distributed.comm.core import Comm, Connector, Listener
from distributed.comm.tcp import (
    TCP,
    TLS,
    TCPBackend,
    TCPConnector,
    TCPListener,
    TLSListener,
)

from mpidask._compat import tls
from mpidask._transport.comm import MPIComm


def _over(kind: type[TCP], *, asks: bool = False) -> Any:
    def comm(stream: Any, local_addr: str, peer_addr: str, deserialize: bool = True) -> MPIComm:
        return MPIComm(kind(stream, local_addr, peer_addr), deserialize, asks=asks)

    return staticmethod(comm)


class _TCPConnector(TCPConnector):
    prefix = "mpi://"
    comm_class = _over(TCP, asks=True)


class _TLSConnector(tls.Connector):
    prefix = "mpi://"
    comm_class = _over(TLS, asks=True)


class _TCPListener(TCPListener):
    prefix = "mpi://"
    comm_class = _over(TCP)


class _TLSListener(TLSListener):
    prefix = "mpi://"
    comm_class = _over(TLS)


class _Connector(Connector):
    """Connects by TLS if there are credentials, else by TCP."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        secured = connection_args.get("ssl_context") is not None
        connector: Any = _TLSConnector() if secured else _TCPConnector()
        comm: Comm = await connector.connect(address, deserialize, **connection_args)
        return comm


class Backend(TCPBackend):
    """The back end of ``mpi://``, whose addresses have the form of TCP's."""

    def get_connector(self) -> Connector:
        """Return a connector by TLS if there are credentials, else by TCP."""
        return _Connector()

    def get_listener(
        self,
        loc: str,
        handle_comm: Callable[[Comm], Awaitable[None]],
        deserialize: bool,
        **connection_args: Any,
    ) -> Listener:
        """Return a listener by TLS if there are credentials, else by TCP."""
        secured = connection_args.get("ssl_context") is not None
        kind: Any = _TLSListener if secured else _TCPListener
        listener: Listener = kind(loc, handle_comm, deserialize, **connection_args)
        return listener
