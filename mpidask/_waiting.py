"""How mpidask waits: deadlines, polling with back-off, and notices about long waits.

MPI's blocking calls spin: a rank that waits in one burns a core that the rank it waits for may
need. So mpidask tests a non-blocking request again and again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from mpidask._log import logger, logging_to_stderr
from mpidask._threads import start_daemon_thread

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")

#: Seconds between notices about a long wait, and until the first one where it should come early.
NOTICE_INTERVAL, FIRST_NOTICE = 60, 10


class Deadline:
    """A timeout in seconds, shared by several waits in a row.

    It starts now, or at a value of `time.monotonic`.
    """

    def __init__(self, timeout: float, since: float | None = None) -> None:
        self.timeout = timeout
        self._end = (time.monotonic() if since is None else since) + timeout

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())


def backoff(longest: float, *, growth: float = 2, shortest: float = 0.001) -> Iterator[float]:
    """Yield pauses between polls, in seconds, growing from `shortest` to `longest`.

    Each pause is about ``growth - 1`` times the total so far.
    """
    pause = shortest
    while True:
        yield min(pause, longest)
        pause = min(pause * growth, longest)


def wait(
    request: MPI.Request,
    notice: str | Callable[[], str] | None,
    pauses: Iterator[float],
    *,
    unless: Callable[[], bool] = lambda: False,
) -> bool:
    """Block until a request completes, without spinning, and return whether it has.

    A long wait logs `notice`, or what it returns. `unless` is called between polls, and ends the
    wait by returning True.
    """

    def message(waited: int) -> str:
        return f"{notice() if callable(notice) else notice}, for {waited} s now"

    notices = WaitNotice(message, first=None if notice else math.inf)
    while not request.Test():
        if unless():
            return False
        notices.check()
        time.sleep(next(pauses))
    return True


async def poll(
    test: Callable[[], Result | None], *, longest: float = 0.02, changes: Changes | None = None
) -> Result:
    """Call `test` until it returns something true, and return that.

    After `changes.notify` it polls at once, then with short pauses again.
    """
    changes = changes or Changes()
    while True:
        for pause in backoff(longest):
            if result := test():
                return result
            if await changes.wait(pause):
                break


class Changes:
    """Wakes coroutines that wait until something has changed: `asyncio.Condition` without a lock.

    `notify` is not a coroutine, so callbacks can call it.
    """

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Wake all coroutines that wait now."""
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the next `notify`, and return whether it came within `timeout` seconds."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._next], timeout=timeout)
        return bool(done)

    async def until(self, test: Callable[[], object]) -> None:
        """Wait until `test` returns something true."""
        while not test():
            await self.wait()


class WaitNotice:
    """Log now and then what a long wait is for.

    A polling loop calls `check`, and a thread with nothing else to do `repeat_until`. Around other
    waits, ``with`` logs from a thread, and ``async with`` from a task.
    """

    def __init__(
        self,
        message: Callable[[int], str],  # is given the seconds waited so far
        *,
        first: float | None = None,  # seconds until the first notice
        interval: float | None = None,  # seconds between notices; both default: NOTICE_INTERVAL
        level: int = logging.INFO,
    ) -> None:
        self._message = message
        self._interval = NOTICE_INTERVAL if interval is None else interval
        self._level = level
        self._started = time.monotonic()
        self._due = NOTICE_INTERVAL if first is None else first
        self._done = threading.Event()
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

    def __enter__(self) -> None:
        start_daemon_thread(self.repeat_until, self._done)

    def __exit__(self, *error: object) -> None:
        self._done.set()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._repeat())

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self.due_in)
            self.check()
