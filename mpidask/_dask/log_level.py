"""How much distributed logs, on ranks whose logs are rarely read."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import ClassVar

from mpidask._compat.distributed import (
    LISTENERS_HANDLER,
    NOT_RESTARTED,
    REPORTED_ELSEWHERE,
    ROUTINE,
)
from mpidask._compat.python import all_loggers


@contextlib.contextmanager
def at_log_level(level: int) -> Iterator[None]:
    """Set the level of the loggers of distributed, tornado and asyncio, and restore it.

    Above INFO, what remains is shown without tracebacks.
    """
    import distributed  # noqa: F401  (sets the levels from dask's configuration)

    top = logging.getLogger("distributed")
    # The last two log exceptions of distributed's tasks that are never awaited.
    loggers = [top, logging.getLogger("tornado.application"), logging.getLogger("asyncio")]
    loggers += [
        log for name, log in all_loggers().items() if log.level and name.startswith("distributed.")
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
    """A request for a level. Of several, also of several threads, the latest holds.

    They may be withdrawn in any order. After the last one, the levels are as before the first.
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


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.name == "tornado.application":
        # A listener's: about a peer that does not speak Dask, such as a port scanner.
        return LISTENERS_HANDLER not in record.getMessage()
    if not record.name.startswith("distributed"):
        return True
    record.exc_info = record.exc_text = None
    message = str(record.msg)
    return not message.startswith(REPORTED_ELSEWHERE + ROUTINE) and not NOT_RESTARTED.match(message)
