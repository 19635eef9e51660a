"""The pages of Dask's dashboard, loaded when somebody first asks for one.

Their import takes more than a second of CPU and 60 MiB, beside the work of the scheduler,
and most jobs end without a look at them.
"""

from __future__ import annotations

import asyncio
import html
import importlib
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from tornado import web
from tornado.routing import Matcher, PathMatches, Rule

from mpidask._log import logger
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Scheduler
    from tornado.httputil import HTTPServerRequest

#: Seconds that a request waits for the pages, if it is not a browser's.
_LONGEST_WAIT = 60
#: The pages have names of this kind, and things below them; `favicon.ico` is none.
_PAGE = "(/?|/[a-z-]+(/.*)?)"
_SKELETON = """<!DOCTYPE html>
<html><head><meta charset="utf-8">{head}<title>Dask dashboard</title></head>
<body style="font-family: sans-serif; margin: 3em"><p>{text}</p></body></html>
"""
_WAIT = _SKELETON.format(
    head='<meta http-equiv="refresh" content="1">',
    text="The dashboard is being loaded. This page shows it as soon as it is there.",
)


def install(scheduler: Scheduler, prefix: str) -> None:
    """Let the first request for a page below a path load the dashboard.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        One that was made with ``dashboard=False``.
    prefix : str
        The path, without a slash at its end.
    """
    pages = _LatePages(scheduler, prefix)
    _route(scheduler, prefix, pages)


class _LatePages:
    """The real pages, which are not there until they are asked for."""

    def __init__(self, scheduler: Scheduler, prefix: str) -> None:
        self._scheduler = scheduler
        self._prefix = prefix
        self._loading: asyncio.Task[str | None] | None = None
        self.there = False

    async def loaded(self, timeout: float) -> bool:
        """Load them, if nobody has; tell whether that has ended, well or not, in this time."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        await asyncio.wait({self._loading}, timeout=timeout)
        return self._loading.done()

    @property
    def problem(self) -> str | None:
        """Why they can't be loaded, once `loaded` was true."""
        return self._loading.result() if self._loading is not None else None

    async def _load(self) -> str | None:
        try:
            # The scheduler goes on meanwhile, and the job can end.
            await to_daemon_thread(importlib.import_module, "distributed.dashboard.scheduler")
            _connect(self._scheduler, self._prefix)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".strip()
            logger.warning("the dashboard can't be loaded: %s", problem)
            return problem
        self.there = True
        return None


class _WhileMissing(Matcher):
    """Matches the paths of a pattern as long as the real pages are not there."""

    def __init__(self, pages: _LatePages, pattern: str) -> None:
        self._pages = pages
        self._path = PathMatches(pattern)

    def match(self, request: HTTPServerRequest) -> dict[str, object] | None:
        found = None if self._pages.there else self._path.match(request)
        return None if found is None else {}


class _Waiting(web.RequestHandler):
    """Answers in place of the real pages."""

    def initialize(self, pages: _LatePages) -> None:
        self._pages = pages

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        # A browser shows what it waits for. What else asks, such as the extension of
        # JupyterLab, takes the first answer for the last, so it gets the real one.
        shows = "text/html" in self.request.headers.get("Accept", "")
        if not await self._pages.loaded(0 if shows else _LONGEST_WAIT):
            self.write(_WAIT)
        elif self._pages.problem is None:
            self.redirect(self._here)
        else:
            self.set_status(HTTPStatus.INTERNAL_SERVER_ERROR)
            text = f"The dashboard can't be loaded: {html.escape(self._pages.problem)}"
            self.write(_SKELETON.format(head="", text=text))

    @property
    def _here(self) -> str:
        """The link of the page itself, relative: a proxy may have paths of its own."""
        query = f"?{self.request.query}" if self.request.query else ""
        return "./" + self.request.path.rpartition("/")[2] + query


def _route(scheduler: Scheduler, prefix: str, pages: _LatePages) -> None:
    """Ask for the real pages where no other page of the scheduler's is meant.

    `RoutingApplication` of distributed takes the first application that has a handler.
    """

    def rule(pattern: str) -> Rule:
        matcher = _WhileMissing(pages, re.escape(prefix) + pattern)
        return Rule(matcher, _Waiting, {"pages": pages})

    application = scheduler.http_application
    application.add_application(web.Application([rule(_PAGE)]))
    # This one of distributed's lists the pages, and imports bokeh for it in the event loop.
    application.default_router.rules.insert(0, rule("/individual-plots.json"))


def _connect(scheduler: Scheduler, prefix: str) -> None:
    # What Scheduler.__init__ does for dashboard=True; distributed has no public way to
    # do it later.
    import distributed.dashboard.scheduler as dashboard

    application, server = scheduler.http_application, scheduler.http_server
    dashboard.connect(application, server, scheduler, prefix=prefix or "/")
