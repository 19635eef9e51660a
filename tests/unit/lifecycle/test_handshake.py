"""What the ranks report if some, or all, can't start."""

from __future__ import annotations

import asyncio
import itertools
import socket
from array import array
from collections import defaultdict

import distributed
import pytest

from mpidask import StartupError
from mpidask._lifecycle.handshake import SHARED_OPTIONS, Handshake, _described
from mpidask._lifecycle.roles import assign_joining_roles, assign_roles
from mpidask._options import Options
from mpidask._waiting import poll

ROLES = assign_roles(4, Options.resolve({}))
JOINING = assign_joining_roles(4, Options.resolve({"address": "tls://10.0.0.1:8786"}))


class FakeMembers:
    """Ranks that are tasks of one event loop."""

    def __init__(self, rank, size, rounds, inboxes):
        self.rank, self.size, self._rounds, self._inboxes = rank, size, rounds, inboxes
        self._round = itertools.count()

    async def maximum(self, values):
        said = self._rounds[next(self._round)]
        said[self.rank] = array("q", values)
        await poll(lambda: len(said) == self.size)
        return [max(column) for column in zip(*said.values(), strict=True)]

    def send(self, rank, tag, message):
        self._inboxes[rank].put_nowait((self.rank, message))

    async def flush(self):
        pass

    async def receive(self, tag):
        return await self._inboxes[self.rank].get()


def agree(*objections, roles=(ROLES,) * 4, reporters=(1,) * 4, error_status=1, given=({},) * 4):
    """Give what each rank comes to: an exception, or a status."""

    async def all_ranks():
        rounds, inboxes = defaultdict(dict), defaultdict(asyncio.Queue)
        return await asyncio.gather(
            *(
                Handshake(
                    None,
                    None,
                    None,
                    reporter,
                    its_roles,
                    Options.resolve(its_options),
                    objection,
                    error_status,
                )._agree(FakeMembers(rank, len(objections), rounds, inboxes))
                for rank, (objection, its_roles, reporter, its_options) in enumerate(
                    zip(objections, roles, reporters, given, strict=True)
                )
            ),
            return_exceptions=True,
        )

    return asyncio.run(all_ranks())


def test_nobody_objects():
    assert agree(None, None, None, None) == [0, 0, 0, 0]


@pytest.mark.parametrize("status", [1, 2])
def test_all_object_and_one_says_it(status):
    errors = [TypeError(f"of rank {rank}") for rank in range(4)]
    found = agree(*errors, roles=(None,) * 4, error_status=status)
    assert found == [status, errors[1], status, status]


def test_ranks_that_can_not_read_their_options_agree_who_speaks():
    errors = [TypeError(f"of rank {rank}") for rank in range(4)]
    assert agree(*errors, reporters=(2, 3, 1, 2)) == [1, errors[1], 1, 1]


@pytest.mark.parametrize("objecting", [[0], [3], [0, 2], [1, 2, 3]], ids=str)
def test_some_object_and_the_first_says_it(objecting):
    objections = [ValueError("no such file") if r in objecting else None for r in range(4)]
    found = agree(*objections, error_status=2)
    first = objecting[0]
    error = found.pop(first)
    assert isinstance(error, StartupError) and error.rank == first
    assert f"rank {first} on " in str(error) and "ValueError: no such file" in str(error)
    assert found == [1, 1, 1]


class MyWorker(distributed.Worker):
    """Of the user's."""


DIFFERENT = {
    "exit": False,
    "scheduler_rank": 2,
    "client_rank": 2,
    "exclusive_workers": False,
    "protocol": "wss",
    "security": False,
    "transport": "socket",
    "worker_class": MyWorker,
    "nanny": True,
    "startup_timeout": 7,
    "shutdown_timeout": 7,
    "mpi_task_grace": 7,
}


@pytest.mark.parametrize("name", SHARED_OPTIONS)
def test_an_option_differs(name):
    usual, other = {}, {name: DIFFERENT[name]}
    found = agree(*[None] * 4, given=(usual, usual, usual, other))
    assert [found[0], *found[2:]] == [1, 1, 1]
    host = socket.gethostname()
    default, value = (_described(getattr(Options.resolve(given), name)) for given in (usual, other))
    assert isinstance(found[1], StartupError)
    assert f"don't agree on {name}: " in str(found[1])
    assert f": rank 0 on {host} has {name}={default};" in str(found[1])
    assert f"; rank 3 on {host} has {name}={value}." in str(found[1])
    assert f"DASK_MPIDASK__{name.upper()}" in str(found[1])


def test_several_options_differ():
    usual, other = {"worker_class": "my.Worker"}, {"nanny": True, "worker_class": "your.Worker"}
    found = agree(*[None] * 4, given=(usual, other, usual, other))
    assert "don't agree on worker_class, nanny: rank 0 on " in str(found[1])
    assert "has worker_class='my.Worker', nanny=False; rank 1 on " in str(found[1])


def test_what_each_rank_may_choose():
    given = [
        {"memory_limit": rank, "local_directory": f"/tmp/{rank}", "interface": f"ib{rank}"}
        for rank in range(4)
    ]
    assert agree(*[None] * 4, given=given) == [0, 0, 0, 0]


def test_credentials_are_compared_by_kind_and_not_shown():
    security = [distributed.Security(tls_ca_file=f"secret{rank}") for rank in range(4)]
    given = [{"security": one} for one in security]
    assert agree(*[None] * 4, given=given) == [0, 0, 0, 0]
    found = agree(*[None] * 4, given=(*given[:3], {"security": True}))
    assert "has security=Security;" in str(found[1]) and "secret" not in str(found[1])


def test_values_without_end_are_cut():
    given = [{"worker_class": f"{rank}" * 10_000} for rank in range(4)]
    found = agree(*[None] * 4, given=given)
    assert len(str(found[1])) < 2000


def test_ranks_call_different_things():
    found = agree(*[None] * 4, roles=(ROLES, ROLES, ROLES, JOINING))
    assert [isinstance(one, StartupError) for one in found] == [False, True, False, False]
    assert "call=mpi_dask; rank 3 on " in str(found[1])
    assert str(found[1]).endswith("has call=join_existing")


def test_objections_come_before_what_differs():
    found = agree(None, None, None, ValueError("no"), given=({}, {}, {"nanny": True}, {}))
    assert found[:3] == [1, 1, 1] and "ValueError: no" in str(found[3])
