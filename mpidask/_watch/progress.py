"""Log lines about the progress of the work, and about stalls."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from mpidask._log import logger
from mpidask._placement.limits import end_of_allocation
from mpidask._text import and_more, duration, printable, rate
from mpidask._watch.task_counts import (
    Running,
    TaskCounts,
    place_of,
    running,
    usage,
)

if TYPE_CHECKING:
    from distributed import Scheduler

#: Intervals without the end of a task that make a stall, and that a rate is taken over.
_INTERVALS = 3
#: Tasks that the line about a stall names, and how many of the innermost calls of each.
_NAMED = 4
_CALLS = 3
#: Seconds that a worker has to report its call stacks.
_STACK_TIMEOUT = 5
#: Frames of what runs every task, to be left out.
_MACHINERY = (
    r'-packages/(?:distributed|dask)/\w+\.py"'
    r'|/mpidask/_gang/\w+\.py"'
    r'|threading\.py", line \d+, in (?:_bootstrap|_bootstrap_inner|run)\b'
)
#: Seconds without a heartbeat after which a worker is not asked.
_SILENCE = 60


class Progress:
    """Logs the progress of the work at an interval, in seconds."""

    def __init__(
        self,
        scheduler: Scheduler,
        counts: TaskCounts,
        interval: float,
        places: Mapping[str, str],
    ) -> None:
        self._scheduler = scheduler
        self._counts = counts
        self._interval = interval
        self._places = places
        self._end = end_of_allocation()
        self._stalled_at: tuple[int, int] | None = None
        # Time, tasks ended, and tasks pending, at the last lines.
        self._past: deque[tuple[float, int, int]] = deque(maxlen=_INTERVALS + 1)
        self._remember()

    def _remember(self) -> None:
        if self._past and not self._past[-1][2]:
            self._past.clear()  # a rate leaves out the time in which there was no work
        self._past.append((time.monotonic(), self._counts.ended, self._counts.pending))

    async def run(self) -> None:
        """Log lines until cancelled; on a terminal, rewrite one line each second."""
        live = asyncio.create_task(self._live()) if sys.stderr.isatty() else None
        try:
            while True:
                await asyncio.sleep(self._interval)
                if live is None and self._works():
                    logger.info(self.line())
                self._remember()
                if self._stalls():
                    logger.warning(await self._describe_stall())
        finally:
            if live is not None:
                live.cancel()
                self._write_over("")

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self._works():
                self._write_over(self.line())

    def _write_over(self, line: str) -> None:
        """Rewrite the live line; the next output of others overwrites it."""
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\x1b[K{line[:width]}\r")
        sys.stderr.flush()

    def _works(self) -> bool:
        return self._counts.pending > 0 or self._counts.ended > self._past[-1][1]

    def line(self) -> str:
        """Return a line about the progress."""
        parts = [f"{self._counts.done} of {self._counts.total} tasks done"]
        if self._counts.erred:
            parts[0] += f", {self._counts.erred} erred"
        return "; ".join([*parts, *self._time_left(), *self._workers()])

    def _time_left(self) -> list[str]:
        since, ended, _ = self._past[0]
        speed = max(0, self._counts.ended - ended) / max(time.monotonic() - since, 1e-3)
        left = self._counts.pending / speed if speed else None
        parts = [f"{rate(speed)}" + (f", {duration(left)} left" if left else "")]
        if self._end is not None:
            rest = self._end - time.time()
            short = ", too soon" if left is not None and left > rest else ""
            parts.append(f"the allocation ends in {duration(rest)}{short}")
        return parts

    def _workers(self) -> list[str]:
        now = usage(self._scheduler)
        memory = f"memory {format_bytes(now.memory)}"
        if now.memory_limit:
            memory += f" of {format_bytes(now.memory_limit)}"
        if now.broadcast:
            memory += f", {format_bytes(now.broadcast)} of it broadcast"
        if now.spilled:
            memory += f", {format_bytes(now.spilled)} spilled"
        return [f"{now.busy} of {now.workers} workers busy", memory]

    # -- When no task ends. ------------------------------------------------------------

    def _stalls(self) -> bool:
        """Whether a stall has begun: no task has ended for some intervals, and some run."""
        ended = self._counts.ended
        quiet = len(self._past) > _INTERVALS and all(
            then == ended and pending for _, then, pending in self._past
        )
        now = ended, self._counts.dropped
        if not quiet or self._stalled_at == now:
            return False
        if not any(worker.processing for worker in self._scheduler.workers.values()):
            return False
        self._stalled_at = now
        return True

    async def _describe_stall(self) -> str:
        tasks = running(self._scheduler)
        described = await asyncio.gather(*(self._describe(task) for task in tasks[:_NAMED]))
        listed = and_more(described, len(tasks), "; ")
        quiet = duration(_INTERVALS * self._interval)
        return f"no task has ended for {quiet}. Still running: {listed}"

    async def _describe(self, task: Running) -> str:
        text = f"{printable(str(task.key))[:60]} on {place_of(task.worker, self._places)}"
        silence = time.time() - task.worker.last_seen
        stack = "" if silence > _SILENCE else await self._stack(task)
        if not stack and (silence > _SILENCE or task.seconds is None):
            return f"{text}, which has sent nothing for {duration(silence)}"
        if task.seconds is not None:
            text += f" for {duration(task.seconds)}"
        return f"{text}, in {stack}" if stack else text

    async def _stack(self, task: Running) -> str:
        """Return the innermost calls that a task is in, if its worker reports them."""
        stacks: dict[str, dict[object, list[str]]] = {}
        with contextlib.suppress(Exception):  # it has ended meanwhile, or its worker is stuck
            asking = self._scheduler.get_call_stack(keys=[task.key])
            stacks = await asyncio.wait_for(asking, _STACK_TIMEOUT)
        calls = stacks.get(task.worker.address, {}).get(task.key, ())
        calls = [_call(text) for text in calls if not re.search(_MACHINERY, text)]
        return ", called by ".join(reversed(calls[-_CALLS:]))


def _call(text: str) -> str:
    """Shorten a line of a traceback."""
    found = re.search(r'File "(?:.*/)?([^"]*)", line (\d+), in (\S+)', text)
    return f"{found[3]} ({found[1]}:{found[2]})" if found else " ".join(text.split())[:80]
