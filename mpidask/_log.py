"""What mpidask says, and how much distributed may say on ranks nobody watches."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger("mpidask")


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Let `logger` reach stderr at INFO, unless the program has set it up itself."""
    level = logger.level
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    handler = None
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("mpidask: %(message)s"))
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        if handler is not None:
            logger.removeHandler(handler)


@contextlib.contextmanager
def hushed(level: int) -> Iterator[None]:
    """Set the level of loggers of distributed, tornado and asyncio, and restore it at the end.

    Above INFO, what remains is shown without tracebacks.
    """
    import distributed  # noqa: F401  (sets the levels from dask's configuration)

    top = logging.getLogger("distributed")
    # What goes wrong in a task of distributed's that nobody waits for is told by these.
    loggers = [top, logging.getLogger("tornado.application"), logging.getLogger("asyncio")]
    loggers += [
        log
        for name, log in list(logging.root.manager.loggerDict.items())
        if isinstance(log, logging.Logger) and log.level and name.startswith("distributed.")
    ]
    levels = [log.level for log in loggers]
    handlers = [*top.handlers, *logging.root.handlers] if level > logging.INFO else []
    for log in loggers:
        log.setLevel(level)
    for handler in handlers:
        handler.addFilter(_in_brief)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_in_brief)
        for log, old in zip(loggers, levels, strict=True):
            log.setLevel(old)


#: What a worker logs and people learn in another way: the error of a task goes to the
#: client; a worker that lost its scheduler closes, and its rank starts another; tasks
#: that the end cuts off, or that raised SystemExit, are named; who is refused a connection,
#: or gives one up, knows. The last is said by the child of a nanny at its end.
_TOLD_ELSEWHERE = (
    "Compute Failed",
    "Failed to communicate with scheduler during heartbeat",
    "Async instruction for",
    "Unhandled exception in async instruction for",
    "Listener on %r: TLS handshake failed",
    "Worker process died unexpectedly",
)


def _in_brief(record: logging.LogRecord) -> bool:
    if not record.name.startswith("distributed"):
        return True
    record.exc_info = record.exc_text = None
    return not str(record.msg).startswith(_TOLD_ELSEWHERE)
