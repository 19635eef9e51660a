"""How clients of the program are let in, and only to its own cluster."""

from __future__ import annotations

import logging

import dask
import pytest
from distributed import Client, LocalCluster, Security
from distributed.utils import import_term

from mpidask._dask.client import connected, found_by_clients
from mpidask._dask.connection_info import ConnectionInfo

ADDRESS = "tls://127.0.0.1:1"


def loaded(address):
    loader = dask.config.get("distributed.client.security-loader")
    return import_term(loader)({"address": address})


def test_credentials_are_for_their_own_cluster():
    security = Security.temporary()
    with found_by_clients(ConnectionInfo(ADDRESS, security)):
        assert dask.config.get("scheduler-address") == ADDRESS
        assert loaded(ADDRESS) is security
        assert loaded("tls://127.0.0.1:2") is None
        assert "PRIVATE" not in str(dask.config.config)


def test_all_is_as_found():
    before = (
        dask.config.get("scheduler-address", None),
        list(logging.getLogger("distributed.client").filters),
    )
    with pytest.raises(LookupError), found_by_clients(ConnectionInfo(ADDRESS, Security())):
        raise LookupError
    assert dask.config.get("distributed.client.security-loader") is None
    after = (
        dask.config.get("scheduler-address", None),
        list(logging.getLogger("distributed.client").filters),
    )
    assert after == before


def test_without_security_clients_are_let_in_by_what_is_configured():
    with found_by_clients(ConnectionInfo("tcp://127.0.0.1:1")):
        assert dask.config.get("distributed.client.security-loader") is None


@pytest.mark.parametrize("own, expected", [(None, True), (False, False)])
def test_clients_go_to_workers_directly_unless_configured_otherwise(own, expected):
    key = "distributed.client.direct-to-workers"
    with dask.config.set({key: own}):
        with found_by_clients(ConnectionInfo("tcp://127.0.0.1:1"), direct=True):
            assert dask.config.get(key) is expected
        with found_by_clients(ConnectionInfo("tcp://127.0.0.1:1")):
            assert dask.config.get(key) is own


@pytest.mark.parametrize("default", [True, False])
def test_clients_that_the_program_forgot_are_closed(default):
    arguments = {"processes": False, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with LocalCluster(1, protocol="tcp", **arguments) as cluster:
        with connected(ConnectionInfo(cluster.scheduler_address), direct=False):
            forgotten = Client(cluster.scheduler_address, set_as_default=default)
        assert forgotten.status == "closed"
