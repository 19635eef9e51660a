"""Connections by TLS to a process that ends at this moment."""

from __future__ import annotations

import asyncio
import time

import pytest
from distributed import Security
from distributed.comm import registry
from distributed.comm.tcp import TLSBackend, TLSConnector

from mpidask._tls import expect_ends_of_processes


@pytest.fixture(scope="module")
def arguments():
    return Security.temporary().get_connection_args("client")


def the_error(connector, address, arguments):
    """Connect until that error comes: the reset must fall between the two handshakes."""

    async def connect() -> Exception | None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:  # some attempts never end
                await asyncio.wait_for(connector.connect(address, **arguments), 1)
            except Exception as error:
                if "IOStream is not idle" in str(error):
                    return error
        return None

    return asyncio.run(connect())


def test_distributed_does_not_expect_it(reset_connections, arguments):
    """When this fails, distributed or tornado has been mended: `_tls` may go."""
    error = the_error(TLSConnector(), reset_connections(), arguments)
    assert type(error) is ValueError


@pytest.mark.parametrize("scheme", ["tls", "mpi"])
def test_it_is_an_oserror(monkeypatch, reset_connections, arguments, scheme):
    monkeypatch.setitem(registry.backends, "tls", TLSBackend())
    expect_ends_of_processes()
    connector = registry.get_backend(scheme).get_connector()
    assert isinstance(the_error(connector, reset_connections(), arguments), OSError)


def test_other_errors_stay(arguments):
    expect_ends_of_processes()
    connector = registry.get_backend("tls").get_connector()
    with pytest.raises(ValueError, match="address"):
        asyncio.run(connector.connect("tls://[nonsense", **arguments))


def test_a_backend_of_others_stays(monkeypatch):
    other = object()
    monkeypatch.setitem(registry.backends, "tls", other)
    expect_ends_of_processes()
    assert registry.backends["tls"] is other
