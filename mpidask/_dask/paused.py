"""Workers that are all paused for memory: then a job stands still, and nothing says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mpidask._log import logger

if TYPE_CHECKING:
    from distributed import Scheduler

#: Seconds between two looks; most pauses are short.
INTERVAL = 5.0
#: So many workers are named.
_NAMED = 10


async def report_all_paused(scheduler: Scheduler) -> None:
    """Say once that no worker takes tasks, when it has been so at two looks in a row."""
    looks = 0
    while looks < 2:
        await asyncio.sleep(INTERVAL)
        looks = looks + 1 if _all_paused(scheduler) else 0
    logger.warning(_description(scheduler))


def _all_paused(scheduler: Scheduler) -> bool:
    from distributed.core import Status

    workers = scheduler.workers.values()
    return bool(workers) and all(worker.status == Status.paused for worker in workers)


def _description(scheduler: Scheduler) -> str:
    workers = list(scheduler.workers.values())
    more = f" and {len(workers) - _NAMED} more" if len(workers) > _NAMED else ""
    return (
        "all workers are paused, their memory is full, and no task starts before some of it is "
        f"free: {', '.join(map(_held_by, workers[:_NAMED]))}{more}. It helps to release "
        "results, to make smaller pieces, or to give a worker more: fewer ranks on a node, "
        "or memory_limit"
    )


def _held_by(worker: Any) -> str:
    from dask.utils import format_bytes

    memory = worker.memory
    return (
        f"{worker.name} uses {format_bytes(memory.process)} of "
        f"{format_bytes(worker.memory_limit)} ({format_bytes(memory.managed)} are results)"
    )
