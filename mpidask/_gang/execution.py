"""One member in its thread: told to go, or to stop, by others."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mpidask._gang import communicators

if TYPE_CHECKING:
    from mpi4py import MPI


class Stopped(BaseException):
    """Raised in the thread of a member whose gang can't go on."""


class Execution:
    """One member that a worker's thread has taken up.

    Attributes
    ----------
    token : str
        Tells this one from earlier and later ones of the same task.
    how : str
        How it has ended: "returned", "failed" or "stopped".
    why : str
        What failed, here or elsewhere.
    """

    def __init__(self, token: str, key: Any) -> None:
        self.token = token
        self.key = key
        self.how = ""
        self.why = ""
        self._answer: Future[tuple[tuple[int, ...], int] | None] = Future()
        self._stopped = threading.Event()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._comm: MPI.Intracomm | None = None
        self._interruptible = False

    # -- By others, from the event loop. ---------------------------------------------------

    def go(self, ranks: tuple[int, ...], tag: int) -> None:
        """Let it start, with these ranks: all members are there."""
        if not self._answer.done():
            self._answer.set_result((ranks, tag))

    def stop(self, why: str) -> None:
        """Let it end as soon as it can."""
        self.why = self.why or why
        self._stopped.set()
        if not self._answer.done():
            self._answer.set_result(None)
        self.interrupt(revoke=True)

    def interrupt(self, *, revoke: bool = False) -> None:
        """Raise `Stopped` in its thread, if it is in the user's function."""
        with self._lock:
            if self._interruptible:
                _raise_in_thread(self._thread, Stopped)
                if revoke and communicators.can_be_revoked():
                    assert self._comm is not None
                    self._comm.Revoke()

    @property
    def is_running(self) -> bool:
        """Whether it has started and not ended."""
        return self._answer.done() and self._answer.result() is not None and not self.how

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    # -- In its thread. ------------------------------------------------------------------

    def wait_for_start(self) -> tuple[tuple[int, ...], int] | None:
        """Wait for the answer, and give the ranks and the tag; None if it must not start."""
        return self._answer.result()

    def wait_for_stop(self, timeout: float) -> bool:
        """Tell whether it is stopped, within so many seconds."""
        return self._stopped.wait(timeout)

    def expose(self, comm: MPI.Intracomm) -> None:
        """Let others end what comes now."""
        with self._lock:
            self._comm = comm
            self._interruptible = True
        if self.is_stopped:
            raise Stopped

    def shield(self) -> None:
        """Let nobody end what comes now."""
        while self._interruptible or self._comm is not None:
            # It may be raised at any moment until this is through.
            with contextlib.suppress(Stopped), self._lock:
                self._interruptible = False
                _raise_in_thread(self._thread, None)
                self._comm = None


def _raise_in_thread(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread when it runs Python next; None takes it back."""
    exception = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
