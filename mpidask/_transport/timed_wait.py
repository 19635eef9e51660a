"""A wait in MPI that ends: MPI itself knows no time-out.

Why not the polled wait of `_waiting`: messages between ranks may be some milliseconds late, but MPI
moves large data only while it is called, so each pause between two polls stops the transfer. Data
moves at full speed only while a thread stays in ``MPI_Waitany``, which has no time-out and would
delay new transfers. And to spin in it from the start takes the CPU from the other end where ranks
share cores: pieces of 12 MB then cost 0.2 s of user time more on two cores. Hence 2 ms of polling
without pauses, then a wait in MPI that a generalized request ends.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

#: Seconds in which a wait asks MPI again and again, and lets others have the CPU in between:
#: MPI itself spins, and the other end may need this very CPU to move the data.
_POLLING = 0.002
#: A function of C that does nothing to speak of, takes no arguments, and returns 0: success.
_NOTHING = ctypes.CDLL(None).sched_yield
#: What a request is to C: a number, or a pointer.
_HANDLE = ctypes.c_int if MPI._sizeof(MPI.Request) == 4 else ctypes.c_void_p


def _library() -> ctypes.CDLL | None:
    """Give MPI's functions, or None where it is linked in a way that hides them."""
    try:
        library = ctypes.CDLL(MPI.__file__)  # the libraries it is linked with are searched, too
        return library if library.MPI_Grequest_start and library.MPI_Grequest_complete else None
    except (OSError, AttributeError):
        return None


def _check(code: int) -> None:
    if code != MPI.SUCCESS:
        raise MPI.Exception(code)


class TimedWait:
    """Waits in MPI, which is the fast way to move data, for a time or until it is woken.

    A thread completes a generalized request that is waited for beside the others. To cancel
    a receive, or to send a message to oneself, would be calls of MPI that move something.
    """

    def __init__(self) -> None:
        self._mpi = _library()
        self._request = MPI.Request()
        self._pending = False  # whether the request is still to be completed
        self._due = self._sleeps_until = math.inf
        self._running = True
        self._failure: MPI.Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mpidask-alarm", daemon=True)
        self._thread.start()

    def wait(
        self, requests: Sequence[MPI.Request], seconds: float, unless: Callable[[], bool]
    ) -> None:
        """Wait until a request is done, at most so many seconds.

        `unless` is asked also once `wake` has an effect, so that no call of it is lost.
        """
        if self._poll(requests, unless):
            return
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if not self._request:  # the last one was completed, and has ended a wait
                self._start()
            self._end_at(time.monotonic() + seconds)
        try:
            if not unless():
                MPI.Request.Waitsome([self._request, *requests])
        finally:
            self._due = math.inf

    def _poll(self, requests: Sequence[MPI.Request], unless: Callable[[], bool]) -> bool:
        end = time.monotonic() + _POLLING
        while time.monotonic() < end:
            if unless() or MPI.Request.Testsome(requests):
                return True
            os.sched_yield()
        return False

    def wake(self) -> None:
        """End the wait that is on, if one is."""
        with self._changed:
            if self._due < math.inf:
                self._end_at(0.0)

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._running = False
            self._changed.notify()
        self._thread.join()
        if self._pending:
            self._complete()
        self._request.Wait()

    def _end_at(self, due: float) -> None:
        self._due = due
        if due < self._sleeps_until:  # else it looks again in time, unasked
            self._changed.notify()

    def _start(self) -> None:
        """Start the request.

        `mpi4py.MPI.Grequest` has callbacks that take the GIL, in the midst of MPI. Another
        thread may hold it while it waits for MPI: mpi4py does so when an object is reduced
        for the first time on a communicator. So here C calls C, which does nothing.
        """
        self._pending = True
        if self._mpi is None:
            self._request = MPI.Grequest.Start(None, None, None)
            return
        address = ctypes.c_void_p(MPI._addressof(self._request))
        _check(self._mpi.MPI_Grequest_start(_NOTHING, _NOTHING, _NOTHING, None, address))

    def _complete(self) -> None:
        self._pending = False
        if self._mpi is None:
            self._request.Complete()  # type: ignore[attr-defined]
            return
        handle = _HANDLE.from_address(MPI._addressof(self._request))
        _check(self._mpi.MPI_Grequest_complete(handle))

    def _run(self) -> None:
        with self._changed:
            while self._running:
                self._sleeps_until = self._due
                seconds = self._due - time.monotonic()
                self._changed.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX))
                if self._due <= time.monotonic():
                    self._due = math.inf
                    self._end_wait()

    def _end_wait(self) -> None:
        try:
            if self._pending:
                self._complete()
        except MPI.Exception as error:  # the next wait, which could not be ended, raises it
            self._failure = error
