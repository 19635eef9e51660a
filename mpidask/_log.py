"""What mpidask says to its users."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger("mpidask")

#: Seconds between words of a wait that takes long.
WORD_INTERVAL = 60


def flush_output() -> None:
    """Write out what the program has printed, before a process ends without Python's own end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
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
