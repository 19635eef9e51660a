"""The dashboard: the ways to it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket

import dask
import pytest

from mpidask._dask import dashboard
from mpidask._dask.client import found_by_clients
from mpidask._dask.scheduler import connection_info, start_scheduler
from mpidask._options import Options

HERE = socket.gethostname()


def options(**given):
    return Options.resolve({"security": False, "dashboard_address": "127.0.0.1:0"} | given)


@contextlib.asynccontextmanager
async def scheduler(given, prefix=""):
    server = await start_scheduler(given, "127.0.0.1", None, prefix)
    try:
        yield server
    finally:
        await server.close()


def cluster_of(**given):
    async def describe():
        prefix = dashboard.choose_prefix(options(**given))
        async with scheduler(options(**given), prefix) as server:
            port = server.services["dashboard"].port
            return connection_info(options(**given), server, None, prefix), port

    return asyncio.run(describe())


@pytest.fixture(autouse=True)
def no_batch_job(monkeypatch):
    for name in dashboard._SUBMIT_HOST_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "ana")


# -- The link. -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, host",
    [
        (":0", HERE),
        ("0.0.0.0:0", HERE),
        ("127.0.0.1:0", "127.0.0.1"),
        ("localhost:0", "127.0.0.1"),
    ],
)
def test_link_names_a_host_the_dashboard_listens_on(address, host):
    cluster, port = cluster_of(dashboard_address=address)
    assert cluster.dashboard == f"http://{host}:{port}/status"
    assert cluster.tunnel is None


def client_link(cluster, port):
    from distributed.utils import format_dashboard_link

    with found_by_clients(cluster):
        return format_dashboard_link("host", port)


def test_secured_clusters_have_a_secret_in_the_link():
    one, port = cluster_of(security=True)
    other, _ = cluster_of(security=True)
    assert re.fullmatch("/[A-Za-z0-9_-]{22}", one.http_prefix)
    assert one.http_prefix != other.http_prefix
    assert one.dashboard == f"http://127.0.0.1:{port}{one.http_prefix}/status"
    assert client_link(one, port) == f"http://host:{port}{one.http_prefix}/status"
    assert one.dashboard_open_to is None


@pytest.mark.parametrize("given", [{"security": True, "dashboard_token": False}, {}])
def test_link_without_a_secret(given):
    cluster, port = cluster_of(**given)
    assert cluster.dashboard == f"http://127.0.0.1:{port}/status"
    assert client_link(cluster, port) == f"http://host:{port}/status"
    assert cluster.dashboard_open_to == "everyone on its node"


def test_path_of_ones_own():
    given = {"security": True, "scheduler_options": {"http_prefix": "my/dask/"}}
    cluster, port = cluster_of(**given)
    assert cluster.dashboard == f"http://127.0.0.1:{port}/my/dask/status"
    assert cluster.dashboard_open_to == "everyone on its node"


def test_no_dashboard_no_link(monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    cluster, _ = cluster_of(dashboard=False)
    assert (cluster.dashboard, cluster.tunnel) == (None, None)


def test_link_of_ones_own(monkeypatch):
    """As for a proxy: then the proxy is the way in."""
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    with dask.config.set({"distributed.dashboard.link": "https://hub/{USER}/proxy/{port}/status"}):
        cluster, port = cluster_of()
    assert cluster.dashboard == f"https://hub/ana/proxy/{port}/status"
    assert cluster.tunnel is None
    with dask.config.set({"distributed.dashboard.link": "https://hub/{USER}/proxy/{port}/status"}):
        cluster, port = cluster_of(security=True)
        path = f"/proxy/{port}{cluster.http_prefix}/status"
        assert cluster.dashboard == f"https://hub/ana{path}"
        assert client_link(cluster, port) == f"https://hub/ana{path}"
    with dask.config.set({"distributed.dashboard.link": "https://hub/{NO_SUCH_VARIABLE}"}):
        cluster, _ = cluster_of()
    assert (cluster.dashboard, cluster.tunnel) == (None, None)


@pytest.mark.parametrize(
    "address, audience",
    [
        (":0", "everyone who can reach it"),
        ("127.0.0.1:0", "everyone on its node"),
        ("localhost:0", "everyone on its node"),
    ],
)
def test_who_can_look_at_it(address, audience):
    cluster, _ = cluster_of(dashboard_address=address)
    assert cluster.dashboard_open_to == audience
    assert dashboard.on_loopback(options(dashboard_address=address)) == ("node" in audience)


# -- The tunnel. ---------------------------------------------------------------------


def test_tunnel_of_a_batch_job(monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    cluster, port = cluster_of(dashboard_address=":0")
    outside = f"http://localhost:{port}/status"
    assert cluster.tunnel == f"ssh -N -L {port}:{HERE}:{port} ana@login1, then {outside}"


def test_tunnel_of_a_secured_cluster(monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    cluster, port = cluster_of(dashboard_address=":0", security=True)
    assert cluster.tunnel.endswith(f", then http://localhost:{port}{cluster.http_prefix}/status")


def test_tunnel_to_loopback_ends_on_the_node_itself(monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    cluster, port = cluster_of(dashboard_address="127.0.0.1:0")
    tunnel, _, _ = cluster.tunnel.partition(", then ")
    assert tunnel == f"ssh -N -L {port}:127.0.0.1:{port} -J ana@login1 ana@{HERE}"


@pytest.mark.parametrize("name", dashboard._SUBMIT_HOST_VARIABLES)
def test_batch_systems_name_the_host_of_submission(name):
    tunnel = dashboard.ssh_tunnel("10.0.0.7", 8787, {name: "login1"})
    assert tunnel == "ssh -N -L 8787:10.0.0.7:8787 login1"


def test_no_tunnel_outside_of_a_batch_job():
    assert dashboard.ssh_tunnel("10.0.0.7", 8787, {"USER": "ana"}) is None
