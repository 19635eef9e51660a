"""What the scheduler knows of gangs: their tasks, their runs, and how each rank's part goes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mpidask._gang.execution import can_be_revoked
from mpidask._text import name_ranks


@dataclass
class Assignment:
    """A task that was assigned to the worker of a rank."""

    key: Any
    rank: int
    worker: str
    #: Identifies the execution there; empty until a thread has taken the task up.
    token: str = ""
    #: Whether the function has raised.
    failed: bool = False
    #: How the execution ended: "returned", "failed", "stopped", or "lost" with its worker.
    outcome: str = ""

    @property
    def is_executing(self) -> bool:
        return bool(self.token) and not self.outcome


@dataclass
class Run:
    """One attempt to run a gang."""

    #: For creating its communicator.
    tag: int
    #: In the order of the communicator.
    assignments: list[Assignment]
    #: Whether the ranks were told to start.
    started: bool = False
    #: Why it can't end well.
    broken: str = ""
    #: What the ranks were told: 0, nothing; 1, to stop; 2, to stop or abort the job.
    stop_level: int = 0
    #: Whether it continues although it was cancelled.
    cancelled: bool = False

    @property
    def can_start(self) -> bool:
        all_here = all(each.is_executing for each in self.assignments)
        return all_here and not (self.started or self.broken)

    @property
    def has_lost_ranks(self) -> bool:
        """Whether some ranks may wait in MPI for one that has failed or gone."""
        return self.started and any(
            each.failed or each.outcome not in ("", "returned") for each in self.assignments
        )

    @property
    def is_over(self) -> bool:
        """Whether no thread executes it, and none will."""
        if self.broken:
            return not self.executing
        return all(each.outcome for each in self.assignments)

    @property
    def executing(self) -> list[Assignment]:
        return [each for each in self.assignments if each.is_executing]

    def find_breakage(self, states: Mapping[Any, str]) -> str:
        """Return why it can't end well, given the states of its tasks; "" if it can."""
        unexpected = set(states.values()) - {"processing", "memory"}
        if not unexpected:
            return ""
        if lost := [each.rank for each in self.assignments if each.outcome == "lost"]:
            return f"the worker of {name_ranks(lost)} was lost"
        if "" in unexpected:
            return "" if self._ends_by_itself else "it was cancelled"
        return "one of its tasks failed" if "erred" in unexpected else "a worker was lost"

    @property
    def _ends_by_itself(self) -> bool:
        """Whether it may continue after it was cancelled, as plain tasks do.

        Interrupting some ranks would leave others in MPI forever, unless a revoked
        communicator wakes them.
        """
        return self.started and not self.has_lost_ranks and not can_be_revoked()


@dataclass(eq=False)
class Gang:
    """The tasks of one call of `submit_mpi`."""

    name: str
    #: Gangs start in this order.
    number: int
    #: Of its tasks, in the order of the communicator.
    keys: list[Any]
    #: Those asked for; None: any.
    ranks: tuple[int, ...] | None
    #: The current one.
    run: Run | None = None
    #: Whether a run has ended well.
    done: bool = False


class Gangs:
    """All gangs of the cluster."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.by_name: dict[str, Gang] = {}
        #: By the keys of their tasks.
        self.by_key: dict[Any, Gang] = {}
        #: Ordered sets: gangs that wait for ranks; that have a run; whose tasks are all kept while
        #: one is wanted.
        self.ready: dict[Gang, None] = {}
        self.running: dict[Gang, None] = {}
        self.held: dict[Gang, None] = {}
        #: The workers of executions that no run expects, by token.
        self.strays: dict[str, str] = {}

    def add(self, annotations: Iterable[Mapping[str, Any]]) -> Iterator[Gang]:
        """Add gangs from the annotations of their tasks, and yield the new ones."""
        for annotation in annotations:
            name, ranks = annotation["gang"], annotation["ranks"]
            if name not in self.by_name:
                keys = [(name, index) for index in range(annotation["size"])]
                listed = None if isinstance(ranks, int) else tuple(ranks)
                gang = Gang(name, next(self._numbers), keys, listed)
                self.by_name[name] = gang
                self.by_key.update(dict.fromkeys(keys, gang))
                yield gang

    def forget(self, gang: Gang) -> None:
        """Forget a gang without tasks."""
        if self.by_name.get(gang.name) is gang:
            del self.by_name[gang.name]
            for key in gang.keys:
                del self.by_key[key]

    def forget_all(self) -> None:
        """Forget all gangs, except that their ranks are busy until their runs are over."""
        for those in (self.by_name, self.by_key, self.ready, self.held):
            those.clear()

    def on_worker(self, worker: str) -> list[tuple[Gang, Run, Assignment]]:
        """Return the assignments to a worker."""
        return [
            (gang, gang.run, each)
            for gang in self.running
            if gang.run is not None
            for each in gang.run.assignments
            if each.worker == worker
        ]

    def busy(self, workers: Mapping[int, str]) -> set[int]:
        """Return the ranks that are in a gang, given the workers of all ranks."""
        strays = set(self.strays.values())
        busy = {rank for rank, worker in workers.items() if worker in strays}
        for gang in self.running:
            if (run := gang.run) is not None:
                busy |= {each.rank for each in (run.executing if run.broken else run.assignments)}
        return busy
