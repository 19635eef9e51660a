"""The web pages of schedulers and workers: kept below a path, and the dashboard loaded late.

The import of the dashboard takes more than a second of CPU and 60 MiB, beside the work of the
scheduler, and most jobs end before anyone opens it. So the first request for one of its pages
loads it.
"""

from __future__ import annotations

import asyncio
import html
import importlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin
from tornado import web
from tornado.routing import Matcher, PathMatches, Rule

from mpidask._compat.distributed import connect_dashboard, route_first
from mpidask._log import logger
from mpidask._text import describe
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Scheduler, Worker
    from distributed.http.routing import RoutingApplication
    from tornado.httputil import HTTPServerRequest

#: Seconds that a request waits for the dashboard, if it is not a browser's.
_LONGEST_WAIT = 60
#: The paths of the dashboard's pages, and of what is below them, but not `favicon.ico`.
_PAGE = "(/?|/[a-z-]+(/.*)?)"
_SKELETON = """<!DOCTYPE html>
<html><head><meta charset="utf-8">{head}<title>Dask dashboard</title></head>
<body style="font-family: sans-serif; margin: 3em"><p>{text}</p></body></html>
"""
_WAIT = _SKELETON.format(
    head='<meta http-equiv="refresh" content="1">',
    text="The dashboard is being loaded. This page shows it as soon as it is ready.",
)


# -- All pages below a path. -------------------------------------------------------------


def serve_only_below(prefix: str, application: RoutingApplication) -> None:
    """Answer 404 outside of a path, where distributed has pages: a list of all, a redirect."""
    if prefix:
        route_first(application, Rule(PathMatches(rf"(?!{re.escape(prefix)}(/|$)).*"), _NotFound))


class _NotFound(web.RequestHandler):
    """Answers 404, for which distributed does not try its other routes."""

    def prepare(self) -> None:
        raise web.HTTPError(404)


class _OnWorker(WorkerPlugin):
    """Calls `serve_only_below` for a worker, also in the child process of a nanny."""

    name = "mpidask-web-pages"

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def setup(self, worker: Worker) -> None:
        serve_only_below(self._prefix, worker.http_application)


def arguments_of_worker(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `distributed.Worker` for its pages, the user's plugins included."""
    if not prefix or "http_prefix" in given:
        return {}
    return {
        "http_prefix": prefix,
        "plugins": [*given.get("plugins", ()), _OnWorker(prefix)],
    }


# -- The dashboard, when it is first asked for. --------------------------------------------


def load_dashboard_late(scheduler: Scheduler, prefix: str) -> None:
    """Let the first request for a page below a path load the dashboard of a scheduler.

    It was made with ``dashboard=False``. The path has no slash at its end.
    """
    dashboard = _LateDashboard(scheduler, prefix)

    def rule(pattern: str) -> Rule:
        matcher = _WhileMissing(dashboard, re.escape(prefix) + pattern)
        return Rule(matcher, _Waiting, {"dashboard": dashboard})

    application = scheduler.http_application
    # Asked last: the first application that has a handler answers.
    application.add_application(web.Application([rule(_PAGE)]))
    # This page of distributed imports bokeh, in the event loop, to list the others.
    route_first(application, rule("/individual-plots.json"))


class _LateDashboard:
    """The dashboard of a scheduler, which is not there until it is asked for."""

    def __init__(self, scheduler: Scheduler, prefix: str) -> None:
        self._scheduler = scheduler
        self._prefix = prefix
        self._loading: asyncio.Task[str | None] | None = None
        self.there = False

    async def loaded(self, timeout: float) -> bool:
        """Load it, if need be; return whether that has succeeded or failed within the timeout."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        await asyncio.wait({self._loading}, timeout=timeout)
        return self._loading.done()

    @property
    def problem(self) -> str | None:
        """Why it can't be loaded, once `loaded` was true."""
        return self._loading.result() if self._loading is not None else None

    async def _load(self) -> str | None:
        try:
            # In a daemon thread: the scheduler goes on, and the job can end.
            await to_daemon_thread(importlib.import_module, "distributed.dashboard.scheduler")
            connect_dashboard(self._scheduler, self._prefix)
        except Exception as error:
            problem = describe(error).strip()
            logger.warning("the dashboard can't be loaded: %s", problem)
            return problem
        self.there = True
        return None


class _WhileMissing(Matcher):
    """Matches the paths of a pattern as long as the dashboard is not there."""

    def __init__(self, dashboard: _LateDashboard, pattern: str) -> None:
        self._dashboard = dashboard
        self._path = PathMatches(pattern)

    def match(self, request: HTTPServerRequest) -> dict[str, object] | None:
        found = None if self._dashboard.there else self._path.match(request)
        return None if found is None else {}


class _Waiting(web.RequestHandler):
    """Answers in place of the dashboard."""

    def initialize(self, dashboard: _LateDashboard) -> None:
        self._dashboard = dashboard

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        # A browser shows a page that asks again. What else asks, such as the extension of
        # JupyterLab, would take that for the answer, so it waits.
        browser = "text/html" in self.request.headers.get("Accept", "")
        if not await self._dashboard.loaded(0 if browser else _LONGEST_WAIT):
            self.write(_WAIT)
        elif self._dashboard.problem is None:
            self.redirect(self._here)
        else:
            self.set_status(HTTPStatus.INTERNAL_SERVER_ERROR)
            text = f"The dashboard can't be loaded: {html.escape(self._dashboard.problem)}"
            self.write(_SKELETON.format(head="", text=text))

    @property
    def _here(self) -> str:
        """The link of the page itself, relative: a proxy may have paths of its own."""
        query = f"?{self.request.query}" if self.request.query else ""
        return "./" + self.request.path.rpartition("/")[2] + query
