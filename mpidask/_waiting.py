"""Waiting: notices about waits that take long."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from mpidask._log import logger, logging_to_stderr

#: Seconds between notices about a long wait, and until the first one where it should come early.
NOTICE_INTERVAL, FIRST_NOTICE = 60, 10


class WaitNotice:
    """Log now and then what a long wait is for.

    A polling loop calls `check`; a coroutine waits inside ``async with``; a thread that has
    nothing else to do calls `repeat_until`.

    Parameters
    ----------
    message : callable
        Return the text, given the seconds waited so far.
    first, interval : float, optional
        Seconds until the first notice, and between notices; default: `NOTICE_INTERVAL`.
    level : int
    """

    def __init__(
        self,
        message: Callable[[int], str],
        *,
        first: float | None = None,
        interval: float | None = None,
        level: int = logging.INFO,
    ) -> None:
        self._message = message
        self._interval = NOTICE_INTERVAL if interval is None else interval
        self._level = level
        self._started = time.monotonic()
        self._due = NOTICE_INTERVAL if first is None else first
        self._task: asyncio.Task[None] | None = None

    @property
    def due_in(self) -> float:
        """Seconds until the next notice."""
        left = self._started + self._due - time.monotonic()
        return min(max(0.0, left), threading.TIMEOUT_MAX)

    def check(self) -> None:
        """Log if a notice is due."""
        waited = time.monotonic() - self._started
        if waited >= self._due:
            self._due = waited + self._interval
            with logging_to_stderr():
                logger.log(self._level, "%s", self._message(int(waited)))

    def repeat_until(self, done: threading.Event) -> None:
        """Block, and log whenever a notice is due, until an event is set."""
        while not done.wait(self.due_in):
            self.check()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._repeat())

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self.due_in)
            self.check()
