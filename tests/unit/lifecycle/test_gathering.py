"""What ranks make of it when some, or all, have something against a start."""

from __future__ import annotations

import asyncio

import pytest

from mpidask import StartupError
from mpidask._lifecycle.gathering import Gathering
from mpidask._lifecycle.roles import assign_roles
from mpidask._mpi.polling import poll

ROLES = assign_roles(4)


class FakeMembers:
    """Ranks that are tasks of one event loop."""

    def __init__(self, rank, size, said):
        self.rank, self.size, self._said = rank, size, said

    async def maximum(self, values):
        self._said[self.rank] = values
        await poll(lambda: len(self._said) == self.size)
        return [max(column) for column in zip(*self._said.values(), strict=True)]


def agree(*objections, roles=(ROLES,) * 4, reporters=(1,) * 4, error_status=1):
    """Give what each rank comes to: an exception, or a status."""

    async def all_ranks():
        said = {}
        return await asyncio.gather(
            *(
                Gathering(None, None, None, reporter, its_roles, objection, error_status)._agree(
                    FakeMembers(rank, len(objections), said)
                )
                for rank, (objection, its_roles, reporter) in enumerate(
                    zip(objections, roles, reporters, strict=True)
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


def test_roles_differ():
    other = assign_roles(4, client_rank=2)
    found = agree(None, None, None, None, roles=(ROLES, ROLES, ROLES, other))
    assert [isinstance(one, StartupError) for one in found] == [False, True, False, False]
    assert "client_rank" in str(found[1])
