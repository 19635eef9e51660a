"""The web pages of schedulers and workers, kept below a path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin
from tornado import web
from tornado.routing import PathMatches, Rule

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.http.routing import RoutingApplication


def serve_nothing_else(application: RoutingApplication, prefix: str) -> None:
    """Let a server of distributed's have no pages but those below a path.

    It has some of its own: a list of all paths, and a redirect to the dashboard.
    """
    if prefix:
        others = PathMatches(rf"(?!{re.escape(prefix)}(/|$)).*")
        # Before all others: tornado takes the first that matches.
        application.default_router.rules.insert(0, Rule(others, _NotFound))


class _NotFound(web.RequestHandler):
    """Answers 404, which distributed does not take for the word to look further."""

    def prepare(self) -> None:
        raise web.HTTPError(404)


class _OnWorker(WorkerPlugin):
    """Calls `serve_nothing_else` for a worker, also in the child process of a nanny."""

    name = "mpidask-web-pages"

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def setup(self, worker: Worker) -> None:
        serve_nothing_else(worker.http_application, self._prefix)


def arguments_of_worker(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give arguments for `distributed.Worker`, with those of the user in them."""
    if not prefix or "http_prefix" in given:
        return {}
    return {
        "http_prefix": prefix,
        "plugins": [*given.get("plugins", ()), _OnWorker(prefix)],
    }
