"""What the scheduler knows of the work: tasks counted as they end, and the state of the workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

if TYPE_CHECKING:
    from distributed import Scheduler

#: The states of tasks that have not ended.
_PENDING = frozenset({"waiting", "no-worker", "queued", "processing"})


class Tally(SchedulerPlugin):
    """Counts tasks.

    Attributes
    ----------
    done, erred : int
        Tasks that have ended: well, or because they or what they depend on raised.
    retried : int
        How often a task went to a worker once more.
    pending : int
        Tasks that wait or run.
    dropped : int
        Tasks that were given up before they had ended: nobody wants their results any more.
    first_ended : float or None
        When the first task ended, by `time.monotonic`.
    busy_seconds : float
        How long the tasks that have ended ran.
    """

    name = "mpidask-tally"

    def __init__(self, scheduler: Scheduler) -> None:
        self._tasks = scheduler.tasks
        self.done = self.erred = self.retried = self.pending = self.dropped = 0
        self._released: dict[Any, str] = {}  # from which state; most for a moment only
        self._again: set[Any] = set()  # have been with a worker, and wait
        self.first_ended: float | None = None
        self.busy_seconds = 0.0

    @property
    def ended(self) -> int:
        return self.done + self.erred

    @property
    def total(self) -> int:
        return self.ended + self.pending

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Count one step of a task. Called several times for each, so it is short."""
        self.pending += (finish in _PENDING) - (start in _PENDING)
        if start == "processing" and finish == "memory":
            self.done += 1
        elif finish == "erred":
            self.erred += 1
        else:
            self._note_detour(key, start, finish)
            return
        self._released.pop(key, None)
        self.busy_seconds += _compute_seconds(kwargs)
        if self.first_ended is None:
            self.first_ended = time.monotonic()

    def _note_detour(self, key: Any, start: str, finish: str) -> None:
        if finish == "released":
            self._released[key] = start
        elif start == "released" and finish == "waiting":
            self._put_up_again(key, self._released.pop(key, ""))
        elif finish == "processing" and key in self._again:
            self._again.discard(key)
            self.retried += 1
        elif finish == "forgotten":
            self._again.discard(key)
            self.dropped += self._released.pop(key, "") in _PENDING

    def _put_up_again(self, key: Any, left: str) -> None:
        self.done -= left == "memory"
        self.erred -= left == "erred"
        if _ran(self._tasks[key]):
            self._again.add(key)


def _compute_seconds(told: Mapping[str, Any]) -> float:
    """Add up for how long a task ran, as its worker told when it had ended.

    That comes with the transition, which is not documented.
    """
    parts = told.get("startstops") or ()
    return sum(float(one["stop"] - one["start"]) for one in parts if one["action"] == "compute")


def _ran(task: Any) -> bool:
    # Not documented: the scheduler numbers the times that tasks are sent to workers.
    return task.run_id is not None


@dataclass
class Usage:
    """What the workers do, and the memory they use, in bytes; a limit of 0 is none."""

    workers: int = 0
    busy: int = 0
    memory: int = 0
    memory_limit: int = 0
    spilled: int = 0


def usage(scheduler: Scheduler) -> Usage:
    """Add up what the workers told in their last heartbeats."""
    total, unlimited = Usage(workers=len(scheduler.workers)), False
    for worker in scheduler.workers.values():
        metrics = worker.metrics
        total.busy += bool(worker.processing)
        total.memory += metrics.get("memory", 0)
        total.spilled += metrics.get("spilled_bytes", {}).get("disk", 0)
        total.memory_limit += worker.memory_limit or 0
        unlimited |= not worker.memory_limit
    if unlimited:
        total.memory_limit = 0
    return total


@dataclass(frozen=True)
class Running:
    """A task that runs: its key, its worker, and for how many seconds (None: unknown)."""

    key: Any
    worker: Any
    seconds: float | None


def running(scheduler: Scheduler) -> list[Running]:
    """Find what runs; what has run longest comes first.

    Workers tell it in their heartbeats. One that does not, such as one whose task does not
    let its event loop run, has a task all the same.
    """
    found = []
    for worker in scheduler.workers.values():
        told: list[tuple[Any, float | None]]
        told = [(ts, s) for ts, s in worker.executing.items() if ts in worker.processing]
        if not told and worker.processing:
            told = [(next(iter(worker.processing)), None)]
        found += [Running(ts.key, worker, seconds) for ts, seconds in told]
    return sorted(found, key=lambda task: -(task.seconds or 0))


class Places:
    """Says where a worker is: the rank and the host, if it is one of this job's.

    Parameters
    ----------
    ranks : mapping of str to str
        The places by the names of their first workers.
    """

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks

    def __call__(self, worker: Any) -> str:
        """Name the place of a worker, given its state in the scheduler."""
        name = str(worker.name)
        first = name.rpartition("-")[0]  # a worker that replaced another has one more number
        known = self._ranks.get(name) or self._ranks.get(first)
        return str(known) if known else f"worker {name} on {worker.host}"
