"""Polling with growing pauses: how mpidask waits for MPI."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def pauses(longest: float) -> Iterator[float]:
    """Yield the pauses between polls, in seconds: from 1 ms, doubled up to `longest`."""
    for n in itertools.count():
        yield min(0.001 * 2 ** min(n, 20), longest)


async def poll(test: Callable[[], Result | None], *, longest: float = 0.02) -> Result:
    """Repeat a test until it gives something true, and return that."""
    for pause in pauses(longest):
        if result := test():
            return result
        await asyncio.sleep(pause)
    raise AssertionError("pauses never end")
