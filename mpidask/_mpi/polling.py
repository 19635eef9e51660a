"""Polling with growing pauses: how mpidask waits for MPI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from mpidask._waiting import WaitNotice

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")


def pauses(longest: float, *, growth: float = 2, shortest: float = 0.001) -> Iterator[float]:
    """Yield the pauses between polls, in seconds, growing from `shortest` to `longest`.

    A pause is about ``growth - 1`` of the time that has been waited already.
    """
    pause = shortest
    while True:
        yield min(pause, longest)
        pause = min(pause * growth, longest)


def wait(
    request: MPI.Request,
    said: str | Callable[[], str] | None,
    pauses: Iterator[float],
    *,
    unless: Callable[[], bool] = lambda: False,
) -> bool:
    """Block until a request completes, without spinning; tell whether it has.

    It has not if the wait was ended because of `unless`. Where it takes long, say so now and
    then, if there is something to be `said`.
    """
    notice = WaitNotice(
        lambda waited: f"{said if isinstance(said, str) else said and said()}, for {waited} s now"
    )
    while not request.Test():
        if unless():
            return False
        if said:
            notice.check()
        time.sleep(next(pauses))
    return True


class Waker:
    """Ends the pauses of those who poll, because there may be something to find now."""

    def __init__(self) -> None:
        self._woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let polls go on at once, and with short pauses first."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def pause(self, seconds: float) -> bool:
        """Pause, and tell whether the pause was ended early."""
        if self._woken is None or self._woken.done():
            self._woken = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._woken], timeout=seconds)
        return bool(done)


async def poll(
    test: Callable[[], Result | None], *, longest: float = 0.02, waker: Waker | None = None
) -> Result:
    """Repeat a test until it gives something true, and return that."""
    waker = waker or Waker()
    while True:
        for pause in pauses(longest):
            if result := test():
                return result
            if await waker.pause(pause):
                break  # start again with short pauses
