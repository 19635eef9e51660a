"""What the scheduler knows of the work: counts of tasks, and what its workers do and use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from mpidask._broadcast.protocol import PLUGIN as BROADCAST
from mpidask._compat.distributed import compute_seconds, spilled_bytes, was_sent_to_worker

if TYPE_CHECKING:
    from distributed import Scheduler

#: The states of tasks that have not ended.
_PENDING = frozenset({"waiting", "no-worker", "queued", "processing"})


class TaskCounts(SchedulerPlugin):
    """Counts tasks as they change their state."""

    name = "mpidask-task-counts"

    def __init__(self, scheduler: Scheduler) -> None:
        self._tasks = scheduler.tasks
        #: Tasks that have ended: with a result, or because they or their dependencies raised.
        self.done = self.erred = 0
        #: How often a task was sent to a worker again.
        self.retried = 0
        #: Tasks that wait or run.
        self.pending = 0
        #: Tasks that were forgotten before they had ended, as no client wanted them any more.
        self.dropped = 0
        #: When the first task ended, by `time.monotonic`.
        self.first_ended: float | None = None
        #: How long the tasks that have ended ran, all together.
        self.busy_seconds = 0.0
        self._released: dict[Any, str] = {}  # by key, from which state; most for a moment only
        self._again: set[Any] = set()  # keys of tasks that wait to be sent again

    @property
    def ended(self) -> int:
        return self.done + self.erred

    @property
    def total(self) -> int:
        return self.ended + self.pending

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Count a transition. Called several times for each task, so it is short."""
        self.pending += (finish in _PENDING) - (start in _PENDING)
        if start == "processing" and finish == "memory":
            self.done += 1
        elif finish == "erred":
            self.erred += 1
        else:
            self._note_detour(key, start, finish)
            return
        self._released.pop(key, None)
        self.busy_seconds += compute_seconds(kwargs)
        if self.first_ended is None:
            self.first_ended = time.monotonic()

    def _note_detour(self, key: Any, start: str, finish: str) -> None:
        if finish == "released":
            self._released[key] = start
        elif start == "released" and finish == "waiting":
            self._note_new_attempt(key, self._released.pop(key, ""))
        elif finish == "processing" and key in self._again:
            self._again.discard(key)
            self.retried += 1
        elif finish == "forgotten":
            self._again.discard(key)
            self.dropped += self._released.pop(key, "") in _PENDING

    def _note_new_attempt(self, key: Any, left: str) -> None:
        self.done -= left == "memory"
        self.erred -= left == "erred"
        if was_sent_to_worker(self._tasks[key]):
            self._again.add(key)


@dataclass(frozen=True)
class Usage:
    """How busy the workers are, and the memory they use, in bytes; a limit of 0 is none.

    Of the memory, `broadcast` is that of values that nodes hold for all of their ranks.
    """

    workers: int
    busy: int
    memory: int
    memory_limit: int
    spilled: int
    broadcast: int


def usage(scheduler: Scheduler) -> Usage:
    """Add up what the workers reported in their last heartbeats."""
    workers = scheduler.workers.values()
    limits = [worker.memory_limit or 0 for worker in workers]
    return Usage(
        workers=len(workers),
        busy=sum(bool(worker.processing) for worker in workers),
        memory=sum(worker.metrics.get("memory", 0) for worker in workers),
        memory_limit=sum(limits) if all(limits) else 0,
        spilled=sum(spilled_bytes(worker.metrics) for worker in workers),
        broadcast=broadcast_bytes(scheduler),
    )


def broadcast_bytes(scheduler: Scheduler) -> int:
    """Return the memory of broadcast values, once for each node that holds one."""
    plugin: Any = scheduler.plugins.get(BROADCAST)
    return 0 if plugin is None else int(plugin.nbytes)


@dataclass(frozen=True)
class Running:
    """A task that runs: its key, its worker, and for how many seconds (None: unknown)."""

    key: Any
    worker: Any
    seconds: float | None


def running(scheduler: Scheduler) -> list[Running]:
    """Return the tasks that run, the longest first.

    Workers report them in their heartbeats. Of a worker that does not, perhaps because a task
    blocks its event loop, one task is taken to run.
    """
    found = []
    for worker in scheduler.workers.values():
        reported: list[tuple[Any, float | None]]
        reported = [(ts, s) for ts, s in worker.executing.items() if ts in worker.processing]
        if not reported and worker.processing:
            reported = [(next(iter(worker.processing)), None)]
        found += [Running(ts.key, worker, seconds) for ts, seconds in reported]
    return sorted(found, key=lambda task: -(task.seconds or 0))


def place_of(worker: Any, places: Mapping[str, str]) -> str:
    """Return the rank and host of a worker, given the places of ranks by their first workers."""
    name = str(worker.name)
    first = name.rpartition("-")[0]  # a worker that replaced another has one more number
    return places.get(name) or places.get(first) or f"worker {name} on {worker.host}"
