"""Signals that end programs, handled for the time of one cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

Result = TypeVar("Result")

FATAL = (signal.SIGINT, signal.SIGTERM)

#: The handlers that each `handled` has replaced, for the time of its block.
_replaced: list[dict[int, Any]] = []
#: What signals are written to for `noticed_at_once`, or -1.
_wakeup_fd = -1


@contextlib.contextmanager
def handled(handler: Callable[[int], None], *, defer_to_user: bool) -> Iterator[None]:
    """Call `handler` with the number of each SIGINT or SIGTERM; restore at the end.

    Handlers that the program has installed meanwhile stay.

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

    def handle(signum: int, frame: object) -> None:
        handler(signum)

    signum: int
    for signum in FATAL:
        current = signal.getsignal(signum)
        if current is None or (defer_to_user and not _is_pythons_own(current)):
            continue  # None: C code has a handler, which Python could not restore
        before[signum] = current
        signal.signal(signum, handle)
    _replaced.append(before)
    try:
        yield
    finally:
        if before in _replaced:  # else this is a child that was forked
            _replaced.remove(before)
        for signum, previous in before.items():
            if signal.getsignal(signum) is handle:
                signal.signal(signum, previous)


def _is_pythons_own(handler: Any) -> bool:
    # asyncio.run has one for SIGINT, a partial of a private method: there is no public
    # way to tell it from a handler of the program's.
    function = getattr(handler, "func", None)
    from_asyncio = getattr(function, "__module__", "") == "asyncio.runners"
    return from_asyncio or handler in (signal.SIG_DFL, signal.default_int_handler)


@contextlib.contextmanager
def fatal_at_once(interrupt: Interrupt) -> Iterator[None]:
    """Let a signal end this process at once, while a call keeps Python from handling it.

    Handlers of the program's own stay.
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [signum for signum in FATAL if _is_ours(signal.getsignal(signum))]
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in ours}
    try:
        if before and interrupt.signum is not None:  # it came just before
            signal.raise_signal(interrupt.signum)
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


def _is_ours(handler: Any) -> bool:
    return getattr(handler, "__module__", "") == __name__


@contextlib.contextmanager
def noticed_at_once(interrupt: Interrupt) -> Iterator[None]:
    """Let threads know of signals at once, while Python's handlers wait for the main thread.

    Where the program listens in the same way, that stays.
    """
    global _wakeup_fd
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        for end in reader, writer:
            end.setblocking(False)
        ours = _wakeup_fd = writer.fileno()
        theirs = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if theirs == -1:
            interrupt.wakeup = reader
        else:
            signal.set_wakeup_fd(theirs)
        try:
            yield
        finally:
            interrupt.wakeup, _wakeup_fd = None, -1
            theirs = signal.set_wakeup_fd(-1)
            if theirs != ours:
                signal.set_wakeup_fd(theirs)


# A forked child has the handlers that there were without us: so a signal ends it at once, also
# where a handler of Python's would wait. It has the same socket, and what it is sent is no signal
# to this process. It may be sent one before it comes to do anything: Python would drop it then.
# So it waits.

_forking = threading.local()


def _hold_signals() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, FATAL)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _be_a_child() -> None:
    global _wakeup_fd
    if _wakeup_fd != -1 and (theirs := signal.set_wakeup_fd(-1)) != _wakeup_fd:
        signal.set_wakeup_fd(theirs)
    _wakeup_fd = -1
    while _replaced:
        for signum, previous in _replaced.pop().items():
            if _is_ours(signal.getsignal(signum)):
                signal.signal(signum, previous)
    _release_signals()


os.register_at_fork(
    before=_hold_signals, after_in_parent=_release_signals, after_in_child=_be_a_child
)


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
    pending : bool
        Whether the event loop of the program has still to act on it.
    abandon_start : callable
        Ends a start that is under way.
    wakeup : socket or None
        Gives the number of each signal, one a byte, as soon as it comes.
    """

    def __init__(self) -> None:
        self._action: Callable[[int], object] = lambda signum: None
        self.signum: int | None = None
        self.pending = False
        self._armed = True
        self.abandon_start: Callable[[], object] = lambda: None
        self.wakeup: socket.socket | None = None

    def __call__(self, signum: int) -> None:
        if self.signum is None and self._armed:
            self.signum = signum
            self._action(signum)

    def act(self, action: Callable[[int], object]) -> None:
        """Change what a signal does, also for one that came a moment ago."""
        self._action = action
        if self.signum is not None:
            action(self.signum)

    def awaits(self, signum: int) -> bool:
        """Tell whether a signal that was sent has not reached the main thread yet."""
        if self.signum is not None:
            return self.pending
        return self._armed and _is_ours(signal.getsignal(signum))

    def take_pending(self) -> bool:
        """Tell whether the event loop has to act on a signal; it does so once."""
        pending, self.pending = self.pending, False
        return pending

    def disarm(self) -> None:
        """Let signals do nothing from now on: the end is under way."""
        self._armed = False


def result_of(future: Future[Result], interrupt: Interrupt) -> Result:
    """Wait for what a signal may cancel; leave with its status then."""
    try:
        return future.result()
    except CancelledError:
        if interrupt.signum:
            raise SystemExit(128 + interrupt.signum) from None
        raise


def raise_as_python_would(signum: int) -> None:
    """Raise what lets `finally` blocks run: KeyboardInterrupt, or SystemExit for SIGTERM."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
