"""One time-out for several waits in a row."""

from __future__ import annotations

import time


class Deadline:
    """A time-out.

    Parameters
    ----------
    timeout : float
        Seconds.
    since : float, optional
        The time of `time.monotonic` that they count from; default: now.
    """

    def __init__(self, timeout: float, since: float | None = None) -> None:
        self.timeout = timeout
        self._end = (time.monotonic() if since is None else since) + timeout

    @property
    def left(self) -> float:
        """Seconds that are left, 0 or more."""
        return max(0.0, self._end - time.monotonic())
