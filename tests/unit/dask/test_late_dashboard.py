"""The dashboard's pages, which the first request for one loads."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import dask
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from mpidask._dask import web_pages
from mpidask._dask.dashboard import choose_prefix
from mpidask._dask.scheduler import connection_info, start_scheduler
from mpidask._options import Options

pytest.importorskip("bokeh")

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
REFRESH = 'http-equiv="refresh"'


@contextlib.asynccontextmanager
async def serving(**given):
    """Run a scheduler; gives the address below which its pages are, and how to get them."""
    options = Options.resolve({"security": False, "dashboard_address": "127.0.0.1:0"} | given)
    prefix = choose_prefix(options)
    scheduler = await start_scheduler(options, "127.0.0.1", None, prefix)
    link = connection_info(options, scheduler, None, prefix).dashboard or ""

    async def get(path, **headers):
        url = link.removesuffix("/status") + path
        # Bounded, since an import on a busy machine takes its time.
        return await AsyncHTTPClient().fetch(
            url, headers=headers, raise_error=False, request_timeout=60
        )

    try:
        yield link, get
    finally:
        await scheduler.close()


def run(test):
    return asyncio.run(asyncio.wait_for(test(), 90))


@pytest.fixture
def imports(monkeypatch):
    """Count the imports of the dashboard, and hold them up until told."""
    counted = []

    def held(name):
        counted.append(name)
        while counted[-1] != "go":
            time.sleep(0.01)
        return importlib.import_module(name)

    replace_import(monkeypatch, held)
    return counted


def replace_import(monkeypatch, function):
    monkeypatch.setattr(web_pages, "importlib", SimpleNamespace(import_module=function))


@pytest.mark.parametrize("given", [{}, {"scheduler_options": {"http_prefix": "/a/b/"}}])
def test_a_browser_is_told_to_wait_and_gets_the_page(imports, given):
    async def test():
        async with serving(**given) as (_, get):
            first, second = [await get("/status", **BROWSER) for _ in range(2)]
            imports.append("go")
            while REFRESH.encode() in (page := await get("/status", **BROWSER)).body:
                await asyncio.sleep(0.05)
            return first, second, page, await get("/workers"), await get("/nothing")

    first, second, page, workers, nothing = run(test)
    for waiting in first, second:
        assert waiting.code == 200
        assert REFRESH in waiting.body.decode()
        assert waiting.headers["Cache-Control"] == "no-store"
    assert imports == ["distributed.dashboard.scheduler", "go"]
    assert "bokeh" in page.body.decode().lower()
    assert (page.code, workers.code, nothing.code) == (200, 200, 404)


def test_other_programs_get_the_real_page_at_once():
    async def test():
        async with serving() as (link, get):
            plots = await get("/individual-plots.json")  # as JupyterLab's extension asks
            socket = await websocket_connect(
                link.replace("http:", "ws:") + "/ws", subprotocols=["bokeh", "no-token"]
            )
            socket.close()
            return plots, await get("/status")

    plots, page = run(test)
    assert (plots.code, page.code) == (200, 200)
    assert "/individual-progress" in json.loads(plots.body).values()
    assert "bokeh" in page.body.decode().lower()


def test_a_websocket_can_be_the_first_to_ask():
    async def test():
        async with serving() as (link, get):
            with pytest.raises(Exception, match="302"):
                await websocket_connect(link.replace("http:", "ws:") + "/ws")
            return await get("/status", **BROWSER)

    assert REFRESH not in run(test).body.decode()


def test_the_way_to_the_real_page_leads_through_a_proxy():
    """Which has other paths outside than the scheduler knows."""

    async def test():
        async with serving() as (link, _):
            return await AsyncHTTPClient().fetch(
                f"{link}?from=/a/b", raise_error=False, request_timeout=60, follow_redirects=False
            )

    answer = run(test)
    assert (answer.code, answer.headers["Location"]) == (302, "./status?from=/a/b")


def test_pages_that_need_no_bokeh_do_not_load_it(imports):
    paths = ["/health", "/info/main/workers.html", "/json/counts.json", "/metrics"]

    async def test():
        async with serving() as (_, get):
            others = [await get(path) for path in ("/favicon.ico", "//example.org", "/robots.txt")]
            return [await get(path) for path in paths], others

    pages, others = run(test)
    assert [page.code for page in pages] == [200] * len(paths)
    assert [page.code for page in others] == [404] * len(others)
    assert not imports


def test_a_dashboard_that_can_not_be_loaded_says_why(monkeypatch, caplog):
    def import_module(name):
        raise ImportError("needs <bokeh>!")

    replace_import(monkeypatch, import_module)

    async def test():
        async with serving() as (_, get):
            pages = [await get("/status"), await get("/workers"), await get("/status", **BROWSER)]
            return pages, await get("/individual-plots.json")

    with caplog.at_level("WARNING", "mpidask"):
        pages, plots = run(test)
    for page in pages:
        assert page.code == 500
        assert "ImportError: needs &lt;bokeh&gt;!" in page.body.decode()
        assert REFRESH not in page.body.decode()
    assert plots.code == 500
    assert caplog.messages == ["the dashboard can't be loaded: ImportError: needs <bokeh>!"]


def test_without_bokeh_a_page_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed.dashboard.scheduler", None)
    monkeypatch.setattr("mpidask._dask.dashboard.installed", lambda: False)

    async def test():
        async with serving() as (_, get):
            return await get("/status")

    routes = "distributed.scheduler.http.routes"
    with dask.config.set({routes: list(dask.config.get(routes))}):  # distributed adds to it
        assert "pip install" in run(test).body.decode()


def test_the_dashboard_of_distributed_can_be_had():
    """Also: a user's own False is respected."""

    async def test(dashboard):
        async with serving(scheduler_options={"dashboard": dashboard}) as (_, get):
            return (await get("/status", **BROWSER)).body.decode()

    assert REFRESH not in run(lambda: test(True))
    assert "404" in run(lambda: test(False))


def test_dashboard_can_be_connected_later():
    """What `_connect` calls, in distributed's private parts, is still so."""
    from distributed.dashboard.scheduler import connect

    parameters = inspect.signature(connect).parameters
    assert list(parameters) == ["application", "http_server", "scheduler", "prefix"]


def test_nothing_of_bokeh_is_imported_before():
    program = """
import asyncio, sys
from mpidask._dask.scheduler import start_scheduler
from mpidask._options import Options
async def main():
    scheduler = await start_scheduler(Options.resolve({}), "127.0.0.1", None, "/secret")
    await scheduler.close()
asyncio.run(main())
print([name for name in sys.modules if name.startswith("bokeh")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
