"""How much distributed logs, on ranks whose logs are rarely read."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterable, Iterator

from mpidask._compat.distributed import (
    LISTENERS_HANDLER,
    NOT_RESTARTED,
    REPORTED_ELSEWHERE,
    ROUTINE,
)
from mpidask._compat.python import all_loggers

#: The levels that were asked for, by several threads perhaps. The latest holds.
_levels: dict[object, int] = {}
#: The loggers, with their levels before the first of these.
_before: dict[logging.Logger, int] = {}
_lock = threading.RLock()


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
    shorten = functools.partial(_without_traceback)  # a handler takes the same filter only once
    with _at_level(level, loggers):
        for handler in handlers:
            handler.addFilter(shorten)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(shorten)


@contextlib.contextmanager
def _at_level(level: int, loggers: Iterable[logging.Logger]) -> Iterator[None]:
    """Set the level of loggers; requests may end in any order."""
    request = object()
    with _lock:
        for log in loggers:
            _before.setdefault(log, log.level)
        _levels[request] = level
        _apply_latest()
    try:
        yield
    finally:
        with _lock:
            del _levels[request]
            _apply_latest()
            if not _levels:
                _before.clear()


def _apply_latest() -> None:
    for log, before in _before.items():
        log.setLevel(next(reversed(_levels.values()), before))


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.name == "tornado.application":
        # A listener's: about a peer that does not speak Dask, such as a port scanner.
        return LISTENERS_HANDLER not in record.getMessage()
    if not record.name.startswith("distributed"):
        return True
    record.exc_info = record.exc_text = None
    message = str(record.msg)
    return not message.startswith(REPORTED_ELSEWHERE + ROUTINE) and not NOT_RESTARTED.match(message)
