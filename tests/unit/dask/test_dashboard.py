"""The dashboard: the ways to it, and that it is loaded late."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket

import dask
import pytest

from mpidask._dask import dashboard
from mpidask._dask.scheduler import describe_cluster, start_scheduler
from mpidask._options import Options

HERE = socket.gethostname()


def options(**given):
    return Options.resolve({"security": False, "dashboard_address": "127.0.0.1:0"} | given)


@contextlib.asynccontextmanager
async def scheduler(given):
    server = await start_scheduler(given, "127.0.0.1", None)
    try:
        yield server
    finally:
        await server.close()


def cluster_of(**given):
    async def describe():
        async with scheduler(options(**given)) as server:
            port = server.services["dashboard"].port
            return describe_cluster(options(**given), server, None), port

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
    assert cluster.tunnel == f"ssh -N -L {port}:{HERE}:{port} ana@login1"


def test_tunnel_to_loopback_ends_on_the_node_itself(monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    cluster, port = cluster_of(dashboard_address="127.0.0.1:0")
    assert cluster.tunnel == f"ssh -N -L {port}:127.0.0.1:{port} -J ana@login1 ana@{HERE}"


@pytest.mark.parametrize("name", dashboard._SUBMIT_HOST_VARIABLES)
def test_batch_systems_name_the_host_of_submission(name):
    tunnel = dashboard.ssh_tunnel("10.0.0.7", 8787, {name: "login1"})
    assert tunnel == "ssh -N -L 8787:10.0.0.7:8787 login1"


def test_no_tunnel_outside_of_a_batch_job():
    assert dashboard.ssh_tunnel("10.0.0.7", 8787, {"USER": "ana"}) is None


# -- Loading it late. ----------------------------------------------------------------


def test_dashboard_can_be_connected_later():
    pytest.importorskip("bokeh")
    from distributed.dashboard.scheduler import connect

    parameters = inspect.signature(connect).parameters
    assert list(parameters) == ["application", "http_server", "scheduler", "prefix"]


def test_dashboard_loaded_later_serves_pages(monkeypatch):
    pytest.importorskip("bokeh")
    from tornado.httpclient import AsyncHTTPClient

    monkeypatch.setattr(dashboard, "DELAY", 0)

    async def status(url):
        return (await AsyncHTTPClient().fetch(url, raise_error=False)).code

    async def load():
        async with scheduler(options()) as server:
            url = describe_cluster(options(), server, None).dashboard
            before = await status(url)
            await dashboard.load(options(), server)
            return before, await status(url)

    assert asyncio.run(asyncio.wait_for(load(), 30)) == (404, 200)
