"""What mpidask says to its users."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger("mpidask")

#: As `_waiting.NOTICE_INTERVAL`, for the gangs.
WORD_INTERVAL = 60


def flush_output() -> None:
    """Write out what the program has printed, before a process ends without Python's own end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()


@contextlib.contextmanager
def printing_line_by_line(*, restore: bool) -> Iterator[None]:
    """Let each line that the program prints leave the process at once.

    Standard output is no terminal to a rank: what it prints would come in blocks, at the end of
    most programs, and be lost if the rank is killed.
    """
    stream = sys.stdout
    ours = isinstance(stream, io.TextIOWrapper) and not (
        stream.line_buffering or stream.write_through or stream.closed  # the program's choice
    )
    if ours and isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True)
    try:
        yield
    finally:
        if ours and restore and isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(line_buffering=False)


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
        if logger.level == logging.INFO:  # else the program has set it
            logger.setLevel(level)
        if handler is not None:
            logger.removeHandler(handler)
