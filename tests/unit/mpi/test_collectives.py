"""Which ranks report those that never came, of thousands."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from types import SimpleNamespace

import pytest
from mpi4py import MPI

from mpidask import StartupError
from mpidask._mpi import collectives, job_exit


class World:
    """Ranks that are tasks of one event loop, some of which never come."""

    def __init__(self, size, present):
        self.size, self.present = size, present
        self.messages = 0
        self.mailboxes = defaultdict(deque)


class FakeMPI:
    """One rank's communicator."""

    def __init__(self, world, rank):
        self.world, self.rank = world, rank

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.world.size

    def Get_attr(self, key):
        return None

    def isend(self, message, rank, tag):
        self.world.messages += 1
        self.world.mailboxes[rank].append((self.rank, message))
        return SimpleNamespace(Test=lambda: True)

    def iprobe(self, tag, status):
        inbox = self.world.mailboxes[self.rank]
        source = inbox[0][0] if inbox else None
        status.Get_source = lambda: source
        return bool(inbox)

    def recv(self, source, tag):
        return self.world.mailboxes[self.rank].popleft()[1]


@pytest.fixture
def graces(monkeypatch):
    """Make waits short; give how long each rank leaves another one to abort the job."""
    graces = []
    monkeypatch.setattr(MPI, "Status", SimpleNamespace)
    monkeypatch.setattr(collectives, "_ANSWERING", 1)
    monkeypatch.setattr(job_exit, "abort_at_exit", lambda status, grace: graces.append(grace))
    return graces


def report(size, present, reporter=1):
    """Let the ranks that are there report; give what is said, by rank, and the messages."""
    world = World(size, present)

    async def all_ranks():
        reports = (
            collectives._report_missing_ranks(FakeMPI(world, rank), 5, reporter) for rank in present
        )
        return await asyncio.gather(*reports, return_exceptions=True)

    said = dict(zip(present, asyncio.run(all_ranks()), strict=True))
    assert all(error is None or isinstance(error, StartupError) for error in said.values())
    return {rank: str(error) for rank, error in said.items() if error}, world.messages


@pytest.mark.parametrize(
    ("missing", "speaker"),
    [
        ([3], 1),
        ([1], 0),
        ([0, 1], 2),
        (range(8), 8),  # the first node
        ([0, 1, 2, 4, 8, 16, 32, 39], 3),  # all that may speak
    ],
    ids=str,
)
def test_one_rank_names_the_missing_and_knows_all_that_are_here(missing, speaker, graces):
    present = [rank for rank in range(40) if rank not in missing]
    said, _ = report(40, present)
    assert list(said) == [speaker]
    named = collectives.name_ranks(missing)
    assert said[speaker].startswith(f"{named} did not reach mpidask within 5 s")
    assert collectives.name_ranks(present) in said[speaker]
    assert sorted(set(graces)) == [0, 15]
    assert graces.count(0) == 1


def test_messages_grow_with_the_ranks(graces):
    def messages(size):
        return report(size, [rank for rank in range(size) if rank != 3])[1]

    assert messages(400) < 1.3 * 4 * messages(100)
