"""What the scheduler knows of the work: counts of tasks, and what its workers do and use."""

from __future__ import annotations

import time
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
    """Counts tasks as they change their state.

    Attributes
    ----------
    done, erred : int
        Tasks that have ended: with a result, or because they or their dependencies raised.
    retried : int
        How often a task was sent to a worker again.
    pending : int
        Tasks that wait or run.
    dropped : int
        Tasks that were forgotten before they had ended, as no client wanted them any more.
    first_ended : float or None
        When the first task ended, by `time.monotonic`.
    busy_seconds : float
        How long the tasks that have ended ran, all together.
    """

    name = "mpidask-task-counts"

    def __init__(self, scheduler: Scheduler) -> None:
        self._tasks = scheduler.tasks
        self.done = self.erred = self.retried = self.pending = self.dropped = 0
        self._released: dict[Any, str] = {}  # by key, from which state; most for a moment only
        self._again: set[Any] = set()  # keys of tasks that wait to be sent again
        self.first_ended: float | None = None
        self.busy_seconds = 0.0

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


@dataclass
class Usage:
    """How busy the workers are, and the memory they use, in bytes; a limit of 0 is none.

    Of the memory, `broadcast` is that of values that nodes hold for all of their ranks.
    """

    workers: int = 0
    busy: int = 0
    memory: int = 0
    memory_limit: int = 0
    spilled: int = 0
    broadcast: int = 0


def usage(scheduler: Scheduler) -> Usage:
    """Add up what the workers reported in their last heartbeats."""
    workers, shared = len(scheduler.workers), broadcast_bytes(scheduler)
    total, unlimited = Usage(workers=workers, broadcast=shared), False
    for worker in scheduler.workers.values():
        metrics = worker.metrics
        total.busy += bool(worker.processing)
        total.memory += metrics.get("memory", 0)
        total.spilled += spilled_bytes(metrics)
        total.memory_limit += worker.memory_limit or 0
        unlimited |= not worker.memory_limit
    if unlimited:
        total.memory_limit = 0
    return total


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


class Places:
    """Maps a worker to its rank and host, if it is one of this job's.

    Parameters
    ----------
    ranks : mapping of str to str
        The places by the names of their first workers.
    """

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks

    def __call__(self, worker: Any) -> str:
        """Return the place of a worker, given its state in the scheduler."""
        name = str(worker.name)
        first = name.rpartition("-")[0]  # a worker that replaced another has one more number
        known = self._ranks.get(name) or self._ranks.get(first)
        return str(known) if known else f"worker {name} on {worker.host}"
