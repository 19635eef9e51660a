"""Workers that stay paused for lack of memory: the job slows down or stalls, silently."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mpidask._dask.memory import METRICS
from mpidask._log import logger
from mpidask._text import and_more

if TYPE_CHECKING:
    from distributed import Scheduler

#: Seconds between two looks.
INTERVAL = 5.0
#: Looks in a row at which a worker must be paused to be named: few if all workers are, for then
#: nothing runs; more for some, which may be writing results to disk.
_LOOKS_IF_ALL, _LOOKS = 2, 6
#: How many workers are named.
_NAMED = 10
#: The setting for when workers pause.
_PAUSE = "distributed.worker.memory.pause"
#: Below this fraction of its limit, a worker is paused because of the setting.
_MUCH = 0.5


async def report_paused(scheduler: Scheduler) -> None:
    """Log which workers stay paused, each once a pause."""
    watch = PauseWatch(scheduler)
    while True:
        await asyncio.sleep(INTERVAL)
        if report := watch.look():
            logger.warning(report)


class PauseWatch:
    """Knows which workers are paused, since when, and which of them were named."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._looks: dict[str, int] = {}
        self._named: set[str] = set()

    def look(self) -> str | None:
        """Note the workers that are paused, and describe those that newly stay so."""
        from distributed.core import Status

        workers = self._scheduler.workers
        paused = [address for address, one in workers.items() if one.status == Status.paused]
        self._looks = {address: self._looks.get(address, 0) + 1 for address in paused}
        self._named.intersection_update(paused)
        everywhere = len(paused) == len(workers)
        all_stay = everywhere and min(self._looks.values(), default=0) >= _LOOKS_IF_ALL
        stay = [one for one in paused if all_stay or self._looks[one] >= _LOOKS]
        news = [one for one in stay if one not in self._named]
        self._named.update(news)
        return _description([workers[one] for one in news], everywhere) if news else None


def _description(workers: list[Any], everywhere: bool) -> str:
    if everywhere:
        who = "all workers are paused, and start no task before they use less memory"
    else:
        who = (
            f"{len(workers)} of the workers stay paused for {INTERVAL * (_LOOKS - 1):g} s and "
            "more, and start no task before they use less memory"
        )
    named = workers[:_NAMED]
    contents = and_more([_contents(worker) for worker in named], len(workers))
    advice = ". ".join(dict.fromkeys(map(_advice, named)))
    return f"{who}: {contents}. {advice}"


def _contents(worker: Any) -> str:
    """Describe what the memory of a worker consists of."""
    from dask.utils import format_bytes

    memory, pool = worker.memory, _reported(worker).get("pool", 0)
    parts = [f"{format_bytes(memory.managed)} are results"]
    if memory.spilled:
        parts.append(f"{format_bytes(memory.spilled)} more on disk")
    if pool:
        parts.append(f"{format_bytes(pool)} free buffers of the transport")
    other, recent = max(0, memory.unmanaged - pool), format_bytes(memory.unmanaged_recent)
    parts.append(f"{format_bytes(other)} of tasks and libraries, {recent} of them recent")
    limit = format_bytes(worker.memory_limit)
    return f"{worker.name} uses {format_bytes(memory.process)} of {limit} ({', '.join(parts)})"


def _advice(worker: Any) -> str:
    """Return advice about the largest part of a worker's memory."""
    memory, pause = worker.memory, _reported(worker).get("pause")
    if pause is not None and memory.process < _MUCH * worker.memory_limit:
        return (
            f"Memory is not short: Dask's configuration there has {_PAUSE}: {pause}, the part of "
            "memory_limit from which a worker pauses (0.8 by default; false: never)"
        )
    if memory.managed > memory.unmanaged:
        return (
            "It helps to release results, to let workers write them to disk "
            "(distributed.worker.memory.target, .spill and .max-spill, and a disk with room at "
            "local_directory), or to give a worker more: fewer ranks on a node, or memory_limit"
        )
    return (
        "It helps to make smaller pieces, to have fewer threads in a worker (nthreads), or to "
        "give a worker more: fewer ranks on a node, or memory_limit"
    )


def _reported(worker: Any) -> dict[str, Any]:
    """Return what `MemoryWatch` adds to a worker's metrics, if it has one."""
    reported: dict[str, Any] = worker.metrics.get(METRICS, {})
    return reported
