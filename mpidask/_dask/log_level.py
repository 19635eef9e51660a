"""How much distributed may say on ranks nobody watches."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from typing import ClassVar


@contextlib.contextmanager
def at_log_level(level: int) -> Iterator[None]:
    """Set the level of loggers of distributed, tornado and asyncio, and restore it at the end.

    Above INFO, what remains is shown without tracebacks.
    """
    import distributed  # noqa: F401  (sets the levels from dask's configuration)

    top = logging.getLogger("distributed")
    # What goes wrong in a task of distributed's that nobody waits for is told by these.
    loggers = [top, logging.getLogger("tornado.application"), logging.getLogger("asyncio")]
    loggers += [
        log
        for name, log in logging.root.manager.loggerDict.copy().items()  # others add to it
        if isinstance(log, logging.Logger) and log.level and name.startswith("distributed.")
    ]
    handlers = [*top.handlers, *logging.root.handlers] if level > logging.INFO else []
    request = _Request(level)
    request.make(loggers)
    shorten = functools.partial(_without_traceback)  # a handler takes the same filter only once
    for handler in handlers:
        handler.addFilter(shorten)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shorten)
        request.withdraw()


class _Request:
    """A level asked for. Of several, also of several threads, the last one holds.

    They may end in any order; with the last to end, the levels are as before the first.
    """

    _all: ClassVar[list[_Request]] = []
    _before: ClassVar[dict[logging.Logger, int]] = {}
    _lock = threading.RLock()

    def __init__(self, level: int) -> None:
        self._level = level

    def make(self, loggers: Iterable[logging.Logger]) -> None:
        with self._lock:
            for log in loggers:
                self._before.setdefault(log, log.level)
            self._all.append(self)
            self._apply()

    def withdraw(self) -> None:
        with self._lock:
            self._all.remove(self)
            self._apply()
            if not self._all:
                self._before.clear()

    def _apply(self) -> None:
        for log, before in self._before.items():
            log.setLevel(self._all[-1]._level if self._all else before)


#: What a worker logs and people learn in another way: the error of a task goes to the
#: client; a worker that lost its scheduler closes, and its rank starts another; tasks
#: that the end cuts off, or that raised SystemExit, are named; who is refused a connection,
#: or gives one up, knows, also where it was to carry data. The last is said by the child of a
#: nanny at its end.
_TOLD_ELSEWHERE = (
    "Compute Failed",
    "Failed to communicate with scheduler during heartbeat",
    "failed during get data with",
    "Async instruction for",
    "Unhandled exception in async instruction for",
    "Listener on %r: TLS handshake failed",
    "Worker process died unexpectedly",
)
#: What the scheduler logs as warnings whenever data is shuffled, and all is well.
_ROUTINE = (
    "Shuffle %s initialized by task",
    "Shuffle %s deactivated due to stimulus",
)
#: What the scheduler says of `Client.restart`, and what is false here: ranks do restart them.
_NOT_SO = re.compile("Workers .* do not use a nanny and will be terminated without restarting")


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.name == "tornado.application":
        # Of a listener: who connects and is no part of Dask, a port scanner say, knows.
        return "_handle_stream" not in record.getMessage()
    if not record.name.startswith("distributed"):
        return True
    record.exc_info = record.exc_text = None
    message = str(record.msg)
    return not message.startswith(_TOLD_ELSEWHERE + _ROUTINE) and not _NOT_SO.match(message)
