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
    """Set the level of distributed's loggers, and restore it at the end."""
    import distributed  # noqa: F401  (sets the levels from dask's configuration)

    loggers = [logging.getLogger("distributed")]
    loggers += [
        log
        for name, log in list(logging.root.manager.loggerDict.items())
        if isinstance(log, logging.Logger) and log.level and name.startswith("distributed.")
    ]
    before = [log.level for log in loggers]
    worker = logging.getLogger("distributed.worker")
    for log in loggers:
        log.setLevel(level)
    if level > logging.INFO:
        worker.addFilter(_is_news)
    try:
        yield
    finally:
        worker.removeFilter(_is_news)
        for log, old in zip(loggers, before, strict=True):
            log.setLevel(old)


#: What a worker logs, with a traceback, of which people learn in another way: the error
#: of a task goes to the client; a worker that lost its scheduler closes, and its rank
#: starts another.
_TOLD_ELSEWHERE = ("Compute Failed", "Failed to communicate with scheduler during heartbeat")


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_TOLD_ELSEWHERE)
