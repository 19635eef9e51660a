"""The logger, and the standard streams of the program."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator

logger = logging.getLogger("mpidask")


def flush_output() -> None:
    """Flush stdout and stderr, before a process ends without Python's normal exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()


@contextlib.contextmanager
def printing_line_by_line(*, restore: bool) -> Iterator[None]:
    """Make standard output line-buffered.

    A rank's standard output is not a terminal, so Python would write it in blocks, mostly at the
    end of the program, and the rest would be lost if the rank is killed.
    """
    stream = sys.stdout
    if (
        not isinstance(stream, io.TextIOWrapper)
        or stream.closed
        or stream.line_buffering
        or stream.write_through  # chosen by the program
    ):
        yield
        return
    stream.reconfigure(line_buffering=True)
    try:
        yield
    finally:
        if restore and not stream.closed:
            stream.reconfigure(line_buffering=False)


@contextlib.contextmanager
def empty_stdin() -> Iterator[None]:
    """Let `input()` raise EOFError at once, as in the children of multiprocessing.

    Launchers give standard input to one rank. That of the others may stay open for ever, and a
    thread that reads it makes Python abort the process when it exits.
    """
    before = sys.stdin
    with open(os.devnull) as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = before


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log to stderr at INFO, unless the program has configured `logger` itself."""
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
        if logger.level == logging.INFO:  # else set by the program
            logger.setLevel(level)
        if handler is not None:
            logger.removeHandler(handler)
