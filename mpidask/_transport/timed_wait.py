"""A wait in MPI that ends: MPI itself knows no time-out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI


class TimedWait:
    """Waits in MPI, which is the fast way to move data, for a time or until it is woken.

    A thread completes a generalized request that is waited for beside the others. To cancel
    a receive, or to send a message to oneself, would be calls of MPI that move something.
    """

    def __init__(self) -> None:
        self._request = MPI.REQUEST_NULL
        self._pending = False  # whether the request is still to be completed
        self._due = self._sleeps_until = math.inf
        self._running = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mpidask-alarm", daemon=True)
        self._thread.start()

    def wait(
        self, requests: Sequence[MPI.Request], seconds: float, unless: Callable[[], bool]
    ) -> None:
        """Wait until a request is done, at most so many seconds.

        `unless` is asked once `wake` has an effect, so that no call of it is lost.
        """
        with self._changed:
            if not self._request:  # the last one was completed, and has ended a wait
                self._request = MPI.Grequest.Start(None, None, None)
                self._pending = True
            self._end_at(time.monotonic() + seconds)
        try:
            if not unless():
                MPI.Request.Waitsome([self._request, *requests])
        finally:
            self._due = math.inf

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

    def _complete(self) -> None:
        self._pending = False
        self._request.Complete()  # type: ignore[attr-defined]

    def _run(self) -> None:
        with self._changed:
            while self._running:
                self._sleeps_until = self._due
                seconds = self._due - time.monotonic()
                self._changed.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX))
                if self._due <= time.monotonic():
                    self._due = math.inf
                    if self._pending:
                        self._complete()
