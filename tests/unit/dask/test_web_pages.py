"""The web pages of schedulers and workers: who finds them."""

from __future__ import annotations

import asyncio

import pytest
from tornado.httpclient import AsyncHTTPClient

from mpidask._dask.dashboard import choose_prefix
from mpidask._dask.scheduler import connection_info, start_scheduler
from mpidask._dask.worker import make_worker
from mpidask._options import Options
from mpidask._placement.worker_settings import WorkerSettings

#: Paths of pages that distributed serves, or once served, outside of a prefix, and others.
OUTSIDE = (
    "",
    "/",
    "/status",
    "/sitemap.json",
    "/health",
    "/metrics",
    "/info/main/workers.html",
    "/json/identity.json",
    "/individual-plots.json",
    "/statics/css/base.css",
    "/favicon.ico",
    "/secrets",
    "//secret/health",
)


def options(**given):
    return Options.resolve(
        {"security": False, "dashboard_address": "127.0.0.1:0", "log_level": "critical"} | given
    )


def pages_of(server, paths):
    async def code(path):
        url = f"http://127.0.0.1:{server}{path}"
        response = await AsyncHTTPClient().fetch(
            url, raise_error=False, follow_redirects=False, request_timeout=60
        )
        return response.code

    return asyncio.gather(*(code(path) for path in paths))


def codes(given, prefix, paths):
    """Give the status of pages of a scheduler, with the dashboard loaded, and of a worker."""

    async def test():
        scheduler = await start_scheduler(given, "127.0.0.1", None, prefix)
        cluster = connection_info(given, scheduler, None, prefix)
        worker = make_worker(
            given, WorkerSettings("w", 1, 1), cluster, 0, given.worker_options, by_mpi=False
        )
        try:
            await worker
            port = scheduler.services["dashboard"].port
            await pages_of(port, [f"{prefix}/status"])
            (one,) = scheduler.workers.values()
            return await pages_of(port, paths), await pages_of(one.services["dashboard"], paths)
        finally:
            await worker.close()
            await scheduler.close()

    return asyncio.run(asyncio.wait_for(test(), 90))


@pytest.mark.parametrize("nanny", [False, True])
def test_nothing_is_told_outside_of_the_secret_path(nanny):
    pytest.importorskip("bokeh")
    scheduler, worker = codes(options(nanny=nanny), "/secret", OUTSIDE)
    assert scheduler == worker == [404] * len(OUTSIDE)


def test_all_is_there_below_the_secret_path():
    pytest.importorskip("bokeh")
    paths = ["/secret/health", "/secret/metrics", "/secret/statics/css/base.css", "/secret/status"]
    scheduler, worker = codes(options(), "/secret", paths)
    assert scheduler == [200] * len(paths)
    assert worker == [200, 200, 200, 404]


def test_all_is_there_without_a_secret():
    paths = ["/health", "/metrics"]
    scheduler, worker = codes(options(), "", paths)
    assert scheduler == worker == [200] * len(paths)


def test_plugins_and_paths_of_ones_own_stay():
    from mpidask._dask.web_pages import arguments_of_worker

    mine = object()
    assert mine in arguments_of_worker("/secret", {"plugins": [mine]})["plugins"]
    assert arguments_of_worker("/secret", {"http_prefix": "/mine"}) == {}


def test_workers_of_another_job_s_cluster_close_their_pages():
    """The secret of that cluster is not known."""
    from distributed import Security

    from mpidask._dask.connection_info import ConnectionInfo
    from mpidask._dask.worker import worker_http_prefix

    secured = ConnectionInfo("tls://127.0.0.1:1", Security())
    assert len(worker_http_prefix(options(), secured)) > 20
    assert worker_http_prefix(options(dashboard_token=False), secured) == ""
    assert worker_http_prefix(options(security=True), ConnectionInfo("tcp://127.0.0.1:1")) == ""


def test_prefix():
    assert choose_prefix(options()) == ""
    assert choose_prefix(options(dashboard_token=False, security=True)) == ""
    assert choose_prefix(options(scheduler_options={"http_prefix": "a/b/"})) == "/a/b"
    assert choose_prefix(options(scheduler_options={"http_prefix": "/"}, security=True)) == ""
