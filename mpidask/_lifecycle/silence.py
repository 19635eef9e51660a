"""Notices about a rank whose Python does not run: it is stopped, or C code holds the GIL."""

from __future__ import annotations

import asyncio
import time

from mpidask._log import logger
from mpidask._text import duration
from mpidask._threads import start_task

#: Seconds between two signs of life, and between two looks whether one has come.
INTERVAL = 5.0
#: Looks in a row without a sign of life after which the rank is named.
_LOOKS = 5


class SilenceWatch:
    """While it is entered: says that a rank has fallen silent, and that it is heard again.

    It counts its own looks, not seconds: while the watching rank does not run either, as where
    the whole job is suspended, nobody is silent.

    Parameters
    ----------
    who : str, optional
        The rank, as messages name it. None: nobody is watched.
    """

    def __init__(self, who: str | None) -> None:
        self._who = who
        self._looks = 0
        self._heard = time.monotonic()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SilenceWatch:
        if self._who is not None:
            self._watching = start_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def hear(self) -> None:
        """Take note of a sign of life."""
        if self._looks >= _LOOKS:
            logger.warning("%s answers again, after %s", self._who, self._silence)
        self._looks = 0
        self._heard = time.monotonic()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self._looks += 1
            if self._looks == _LOOKS:
                logger.warning(
                    "no sign of life from %s for %s: its process is stopped, or C code in it "
                    "holds Python's global lock (GIL). The cluster waits for it",
                    self._who,
                    self._silence,
                )

    @property
    def _silence(self) -> str:
        return duration(time.monotonic() - self._heard)
