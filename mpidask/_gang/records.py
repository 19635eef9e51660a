"""What the scheduler knows of a gang: its tasks, and the run they are in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Member:
    """One member of a run.

    Attributes
    ----------
    address : str
        The worker it was sent to.
    token : str
        Names its execution there, when a thread has taken it up.
    failed : bool
        Whether the function has failed there.
    left : str
        How it has ended: "returned", "failed", "stopped", or "gone" with its worker.
    """

    address: str
    token: str = ""
    failed: bool = False
    left: str = ""

    @property
    def is_inside(self) -> bool:
        """Whether a thread is in it."""
        return bool(self.token) and not self.left


@dataclass
class Run:
    """One attempt to run a gang.

    Attributes
    ----------
    number : int
    ranks : tuple of int
    members : list of Member
    started : bool
        Whether its members were told to go.
    broken : str
        Why it can't end well.
    stopped : bool
        Whether its members were told to end,
    hurried : bool
        and by when.
    unwanted : bool
        Whether it goes on although it was cancelled.
    """

    number: int
    ranks: tuple[int, ...]
    members: list[Member]
    started: bool = False
    broken: str = ""
    stopped: bool = False
    hurried: bool = False
    unwanted: bool = False

    @property
    def can_start(self) -> bool:
        all_here = all(member.token and not member.left for member in self.members)
        return all_here and not (self.started or self.broken)

    @property
    def has_lost_members(self) -> bool:
        """Whether the others may wait in MPI for one that never comes."""
        return self.started and any(
            member.failed or member.left not in ("", "returned") for member in self.members
        )

    @property
    def lost(self) -> list[int]:
        """The ranks whose workers are gone."""
        return [rank for rank, member in self.placed() if member.left == "gone"]

    @property
    def is_over(self) -> bool:
        """Whether no thread is in it, and none will be."""
        if self.broken:
            return not any(member.is_inside for member in self.members)
        return all(member.left for member in self.members)

    def inside(self) -> Iterator[tuple[int, Member]]:
        """Yield the members that a thread is in, and their ranks."""
        return ((rank, member) for rank, member in self.placed() if member.is_inside)

    def placed(self) -> Iterator[tuple[int, Member]]:
        """Yield all members, and their ranks."""
        return zip(self.ranks, self.members, strict=True)

    def member_at(self, address: str) -> Member | None:
        """Give the member that was sent to a worker."""
        return next((member for member in self.members if member.address == address), None)


@dataclass(eq=False)
class Gang:
    """The tasks of one call of `submit_mpi`.

    Attributes
    ----------
    name : str
    number : int
        Gangs start in the order of their numbers.
    keys : list
        The keys of its tasks, in the order of the members.
    ranks : tuple of int, optional
        Those asked for; None: any.
    run : Run, optional
        The one that goes on.
    done : bool
        Whether a run has ended well.
    """

    name: str
    number: int
    keys: list[Any]
    ranks: tuple[int, ...] | None
    run: Run | None = None
    done: bool = False


class Registry:
    """All gangs there are.

    Attributes
    ----------
    ready, running : dict of Gang to None
        Those that may start, and those that do; in order.
    held : dict of Gang to None
        Those whose tasks are kept, though not all are wanted.
    strays : dict of str to str
        Members that nobody waits for: the workers they are on, by their tokens.
    """

    def __init__(self) -> None:
        self._gangs: dict[str, Gang] = {}
        self._of: dict[Any, Gang] = {}
        self._numbers = itertools.count()
        self.ready: dict[Gang, None] = {}
        self.running: dict[Gang, None] = {}
        self.held: dict[Gang, None] = {}
        self.strays: dict[str, str] = {}

    def add(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[Gang]:
        """Take note of gangs, each of which may be named several times; yield the new ones."""
        for request in requests:
            name, ranks = request["gang"], request["ranks"]
            if name not in self._gangs:
                keys = [(name, number) for number in range(request["size"])]
                listed = None if isinstance(ranks, int) else tuple(ranks)
                gang = Gang(name, next(self._numbers), keys, listed)
                self._gangs[name] = gang
                self._of.update(dict.fromkeys(keys, gang))
                yield gang

    def forget(self, gang: Gang) -> None:
        """Forget a gang of which no task is left."""
        if self._gangs.get(gang.name) is gang:
            del self._gangs[gang.name]
            for key in gang.keys:
                del self._of[key]

    def clear(self) -> None:
        """Forget all gangs, but for those that threads are in."""
        for those in (self._gangs, self._of, self.ready, self.held):
            those.clear()

    def of(self, key: Any) -> Gang | None:
        """Give the gang of a task, if it is in one."""
        return self._of.get(key)

    def named(self, name: str) -> Gang:
        return self._gangs[name]

    def __iter__(self) -> Iterator[Gang]:
        return iter(list(self._gangs.values()))

    def members_on(self, worker: str) -> Iterator[tuple[Gang, Run, Member]]:
        """Yield the members that run on a worker."""
        for gang in list(self.running):
            if gang.run is not None and (member := gang.run.member_at(worker)) is not None:
                yield gang, gang.run, member

    def busy(self, ranks: Mapping[int, str]) -> set[int]:
        """Give the ranks, of these with their workers, that are in a gang."""
        busy = {rank for rank, worker in ranks.items() if worker in self.strays.values()}
        for gang in self.running:
            assert gang.run is not None
            goes_on = not gang.run.broken
            busy |= {rank for rank, member in gang.run.placed() if member.is_inside or goes_on}
        return busy
