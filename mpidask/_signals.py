"""Signals that end programs, handled for the time of one cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

FATAL = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handled(handler: Callable[[int], None], *, defer_to_user: bool) -> Iterator[None]:
    """Call `handler` with the number of each SIGINT or SIGTERM; restore at the end.

    Parameters
    ----------
    handler : callable
        Called in the main thread.
    defer_to_user : bool
        Leave signals alone for which the program has a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows handlers in the main thread only
        return
    before: dict[int, Any] = {}
    process = os.getpid()

    def handle(signum: int, frame: object) -> None:
        if os.getpid() == process:
            handler(signum)
        else:  # in a child that was forked: as if we had never been here
            signal.signal(signum, before[signum])
            signal.raise_signal(signum)

    signum: int
    for signum in FATAL:
        current = signal.getsignal(signum)
        if defer_to_user and not _is_pythons_own(current):
            continue
        before[signum] = current
        signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


def _is_pythons_own(handler: Any) -> bool:
    # asyncio.run has one for SIGINT, a partial of a private method: there is no public
    # way to tell it from a handler of the program's.
    function = getattr(handler, "func", None)
    from_asyncio = getattr(function, "__module__", "") == "asyncio.runners"
    return from_asyncio or handler in (signal.SIG_DFL, signal.default_int_handler)


def raise_in_main_thread(signum: int) -> None:
    """Send a signal to the main thread, so that it also wakes from a blocking call."""
    ident = threading.main_thread().ident
    if ident is not None:
        signal.pthread_kill(ident, signum)


class Interrupt:
    """What the first signal does; those that follow do nothing.

    Attributes
    ----------
    signum : int or None
        The signal that was acted on.
    abandon_start : callable
        Ends a start that is under way.
    """

    def __init__(self) -> None:
        self._action: Callable[[int], object] = lambda signum: None
        self.signum: int | None = None
        self._armed = True
        self.abandon_start: Callable[[], object] = lambda: None

    def __call__(self, signum: int) -> None:
        if self.signum is None and self._armed:
            self.signum = signum
            self._action(signum)

    def act(self, action: Callable[[int], object]) -> None:
        """Change what a signal does, also for one that came a moment ago."""
        self._action = action
        if self.signum is not None:
            action(self.signum)

    def disarm(self) -> None:
        """Let signals do nothing from now on: the end is under way."""
        self._armed = False


def raise_as_python_would(signum: int) -> None:
    """Raise what lets `finally` blocks run: KeyboardInterrupt, or SystemExit for SIGTERM."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
