"""Connections by TLS to a process that ends at this moment."""

from __future__ import annotations

import asyncio
import select
import threading

import pytest
from distributed import Security
from distributed.comm import registry
from distributed.comm.tcp import TLSBackend, TLSConnector
from tornado.iostream import IOStream

from mpidask._compat.tls import raise_oserror_for_closed_tls


@pytest.fixture(scope="module")
def arguments():
    return Security.temporary().get_connection_args("client")


@pytest.fixture
def address(monkeypatch, reset_connections):
    """Listen where a reset is seen when TCP has connected, and before TLS begins.

    By itself it falls there now and then, and may be minutes in coming.
    """
    connected = threading.Event()
    start_tls = IOStream.start_tls

    def start(stream, *args, **kwargs):
        connected.set()
        assert select.select([stream.socket], [], [], 30)[0]
        stream.read_bytes(1).exception()
        return start_tls(stream, *args, **kwargs)

    monkeypatch.setattr(IOStream, "start_tls", start)
    return reset_connections(after=connected)


def the_error(connector, address, arguments):
    """Connect, and give the error."""
    with pytest.raises(Exception, match="IOStream is not idle") as caught:
        asyncio.run(asyncio.wait_for(connector.connect(address, **arguments), 30))
    return caught.value


def test_distributed_does_not_expect_it(address, arguments):
    """When this fails, distributed or tornado has been mended: `_compat.tls` may go."""
    error = the_error(TLSConnector(), address, arguments)
    assert type(error) is ValueError


@pytest.mark.parametrize("scheme", ["tls", "mpi"])
def test_it_is_an_oserror(monkeypatch, address, arguments, scheme):
    monkeypatch.setitem(registry.backends, "tls", TLSBackend())
    raise_oserror_for_closed_tls()
    connector = registry.get_backend(scheme).get_connector()
    assert isinstance(the_error(connector, address, arguments), OSError)


def test_other_errors_stay(arguments):
    raise_oserror_for_closed_tls()
    connector = registry.get_backend("tls").get_connector()
    with pytest.raises(ValueError, match="address"):
        asyncio.run(connector.connect("tls://[nonsense", **arguments))


def test_a_backend_of_others_stays(monkeypatch):
    other = object()
    monkeypatch.setitem(registry.backends, "tls", other)
    raise_oserror_for_closed_tls()
    assert registry.backends["tls"] is other
