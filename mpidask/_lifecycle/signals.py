"""SIGINT and SIGTERM, handled for the lifetime of one cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from mpidask._compat.python import is_asyncios_handler

Result = TypeVar("Result")

FATAL = (signal.SIGINT, signal.SIGTERM)

#: The handlers that each `handled` block has replaced.
_replaced: list[dict[int, Any]] = []
#: Where `noticed_at_once` has signal numbers written to, or -1.
_wakeup_fd = -1


@contextlib.contextmanager
def handled(handler: Callable[[int], None], *, defer_to_user: bool) -> Iterator[None]:
    """Call `handler`, in the main thread, with the number of each SIGINT or SIGTERM.

    With `defer_to_user`, handlers that the program has installed are not replaced. Those that it
    installs meanwhile are kept at the end.
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
            continue  # None: a handler of C code, which Python could not restore
        before[signum] = current
        signal.signal(signum, handle)
    _replaced.append(before)
    try:
        yield
    finally:
        if before in _replaced:  # else this is a forked child
            _replaced.remove(before)
        for signum, previous in before.items():
            if signal.getsignal(signum) is handle:
                signal.signal(signum, previous)


def _is_pythons_own(handler: Any) -> bool:
    own = (signal.SIG_DFL, signal.default_int_handler)
    return handler in own or is_asyncios_handler(handler)


@contextlib.contextmanager
def fatal_at_once(interrupt: Interrupt) -> Iterator[None]:
    """Have a signal kill this process, while a call keeps Python from handling it.

    Handlers of the program are kept.
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
    """Notify other threads of signals at once: Python's handlers wait for the main thread.

    A wakeup file descriptor of the program is kept, without notification.
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


# A forked child gets back the handlers that mpidask has replaced, so a signal kills it even where a
# Python handler would wait; and it must not write to the socket that it shares with its parent. A
# signal that arrives before that is done would be lost, so signals are blocked during the fork.

_forking = threading.local()


def _block_signals() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, FATAL)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _restore_in_child() -> None:
    global _wakeup_fd
    if _wakeup_fd != -1 and (theirs := signal.set_wakeup_fd(-1)) != _wakeup_fd:
        signal.set_wakeup_fd(theirs)
    _wakeup_fd = -1
    while _replaced:
        for signum, previous in _replaced.pop().items():
            if _is_ours(signal.getsignal(signum)):
                signal.signal(signum, previous)
    _unblock_signals()


os.register_at_fork(
    before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_restore_in_child
)


class Interrupt:
    """Acts on the first signal, and ignores those that follow."""

    def __init__(self) -> None:
        self._action: Callable[[int], object] = lambda signum: None
        self._armed = True
        self.signum: int | None = None  # the one that was acted on
        self.pending = False  # the program's event loop has yet to act on it
        self.abandon_start: Callable[[], object] = lambda: None  # cancels a start under way
        self.wakeup: socket.socket | None = None  # receives each signal's number as a byte

    def __call__(self, signum: int) -> None:
        if self.signum is None and self._armed:
            self.signum = signum
            self._action(signum)

    def act(self, action: Callable[[int], object]) -> None:
        """Set what a signal does, and do it for one that has come before."""
        self._action = action
        if self.signum is not None:
            action(self.signum)

    def awaits(self, signum: int) -> bool:
        """Whether a signal that was sent has yet to reach the main thread."""
        if self.signum is not None:
            return self.pending
        return self._armed and _is_ours(signal.getsignal(signum))

    def take_pending(self) -> bool:
        """Return whether the event loop has to act on a signal, and reset that."""
        pending, self.pending = self.pending, False
        return pending

    def disarm(self) -> None:
        """Ignore signals from here on: the end is under way."""
        self._armed = False


def result_of(future: Future[Result], interrupt: Interrupt) -> Result:
    """Wait for a future; raise `SystemExit` if a signal cancels it."""
    try:
        return future.result()
    except CancelledError:
        if interrupt.signum:
            raise SystemExit(128 + interrupt.signum) from None
        raise


def raise_as_python_would(signum: int) -> None:
    """Raise KeyboardInterrupt, or SystemExit for SIGTERM, so that `finally` blocks run."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
