"""Wait in MPI with a time-out, which MPI itself does not have.

The polled wait of `_waiting` serves messages, which may be milliseconds late; bulk data moves only
while MPI is called. `MPI_Waitsome` moves it fastest, but can't be interrupted. `MPI_Testsome` with
sleeps in between is as fast only where one call moves a whole message (CMA), and unusably slow
where data moves through a pipeline of cells. Polling for long without sleeping loses up to 60 % of
the rate if both ranks share a CPU. So a wait polls briefly, then enters MPI until a request or the
time-out completes. `tests/benchmarks/transport.py` measures the rates.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

from mpidask._compat.mpi4py import handle_of
from mpidask._threads import start_daemon_thread

#: Seconds of polling that yields the CPU, before waiting in MPI, which spins: the peer may need
#: this very CPU to move the data.
_POLLING = 0.002
#: A no-op in C that returns 0, which is MPI_SUCCESS.
_NOTHING = ctypes.CDLL(None).sched_yield


def _library() -> ctypes.CDLL | None:
    """Return the MPI library, or None if it is linked in a way that hides its symbols."""
    try:
        library = ctypes.CDLL(MPI.__file__)  # also searches the libraries it is linked with
        return library if library.MPI_Grequest_start and library.MPI_Grequest_complete else None
    except (OSError, AttributeError):
        return None


def _check(code: int) -> None:
    if code != MPI.SUCCESS:
        raise MPI.Exception(code)


class TimedWait:
    """Waits in MPI for a limited time, or until `wake` is called.

    A thread completes a generalized request that is waited for beside the others. Cancelling
    a receive, or sending a message to self, would be MPI calls that make progress themselves.
    """

    def __init__(self) -> None:
        self._mpi = _library()
        self._request = MPI.Request()
        self._handle = handle_of(self._request)
        self._pending = False  # whether the request is incomplete
        self._due = self._sleeps_until = math.inf
        self._running = True
        self._failure: MPI.Exception | None = None
        self._changed = threading.Condition()
        self._thread = start_daemon_thread(self._run, name="mpidask-alarm")

    def wait(
        self, requests: Sequence[MPI.Request], seconds: float, unless: Callable[[], bool]
    ) -> None:
        """Wait until a request completes, for at most so many seconds.

        `unless` is checked again once `wake` has an effect, so that no wake-up is lost.
        """
        if self._poll(requests, unless):
            return
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if not self._request:  # the previous one has ended a wait
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
        """End the current wait, if there is one."""
        with self._changed:
            if self._due < math.inf:
                self._end_at(0.0)

    def stop(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._running = False
            self._changed.notify()
        self._thread.join()
        if self._pending:
            self._complete()
        self._request.Wait()

    def _end_at(self, due: float) -> None:
        self._due = due
        if due < self._sleeps_until:  # else it wakes up in time by itself
            self._changed.notify()

    def _start(self) -> None:
        """Start the request.

        The callbacks of `mpi4py.MPI.Grequest` take the GIL within MPI, while another thread may
        hold it and wait for MPI: mpi4py does so when an object is reduced for the first time on
        a communicator. So the callbacks are a no-op in C here.
        """
        self._pending = True
        if self._mpi is None:
            self._request = MPI.Grequest.Start(None, None, None)
            return
        handle = ctypes.byref(self._handle)
        _check(self._mpi.MPI_Grequest_start(_NOTHING, _NOTHING, _NOTHING, None, handle))

    def _complete(self) -> None:
        self._pending = False
        if self._mpi is None:
            self._request.Complete()  # type: ignore[attr-defined]
            return
        _check(self._mpi.MPI_Grequest_complete(self._handle))

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
        except MPI.Exception as error:  # raised by the next wait, which could not be ended
            self._failure = error
