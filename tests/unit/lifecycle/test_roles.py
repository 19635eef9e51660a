"""Which rank does what, and how many ranks that takes."""

from __future__ import annotations

import pytest

from mpidask import NotEnoughRanksError
from mpidask._lifecycle import roles as rules
from mpidask._lifecycle.roles import Roles
from mpidask._options import Options


def assign_roles(size, **options):
    return rules.assign_roles(size, Options.resolve(options))


def assign_command_roles(size, **options):
    return rules.assign_command_roles(size, Options.resolve(options))


@pytest.mark.parametrize(
    ("size", "options", "scheduler", "client", "workers"),
    [
        (3, {}, 0, 1, (2,)),
        (6, {}, 0, 1, (2, 3, 4, 5)),
        (4, {"scheduler_rank": 1, "client_rank": 0}, 1, 0, (2, 3)),
        (4, {"scheduler_rank": 3, "client_rank": 2}, 3, 2, (0, 1)),
        (4, {"scheduler_rank": 3}, 3, 1, (0, 2)),
        (4, {"client_rank": 3}, 0, 3, (1, 2)),
        (2, {"exclusive_workers": False}, 0, 1, (0, 1)),
        (2, {"client_rank": 0}, 0, 0, (1,)),
        (4, {"scheduler_rank": 2, "client_rank": 2}, 2, 2, (0, 1, 3)),
        (2, {"client_rank": 0, "exclusive_workers": False}, 0, 0, (0, 1)),
        (4, {"exclusive_workers": False}, 0, 1, (0, 1, 2, 3)),
        (
            3,
            {"scheduler_rank": 2, "client_rank": 0, "exclusive_workers": False},
            2,
            0,
            (0, 1, 2),
        ),
    ],
)
def test_who_does_what(size, options, scheduler, client, workers):
    assert assign_roles(size, **options) == Roles(
        leader=client, workers=workers, scheduler=scheduler, client=client
    )


@pytest.mark.parametrize(
    ("needed", "options"),
    [
        (3, {}),
        (2, {"exclusive_workers": False}),
        (6, {"scheduler_rank": 5}),
        (6, {"client_rank": 5}),
        (6, {"client_rank": 5, "exclusive_workers": False}),
        (3, {"scheduler_rank": 2, "client_rank": 0, "exclusive_workers": False}),
        (3, {"scheduler_rank": 1, "client_rank": 2}),
        (2, {"client_rank": 0}),
        (4, {"scheduler_rank": 3, "client_rank": 3}),
    ],
)
def test_the_size_rule(needed, options):
    """`needed` ranks are enough; with one less it says so, and how to start enough."""
    assert assign_roles(needed, **options).workers
    with pytest.raises(NotEnoughRanksError) as caught:
        assign_roles(needed - 1, **options)
    message = str(caught.value)
    assert f"this job has {needed - 1} ranks, but needs {needed} or more" in message
    assert f"scheduler on rank {options.get('scheduler_rank', 0)}" in message
    assert f"client on rank {options.get('client_rank', 1)}" in message
    assert f"mpirun -n {needed} " in message


def test_two_ranks_may_share_the_work():
    """Where `exclusive_workers=False` would do, and only there, it is proposed."""
    with pytest.raises(NotEnoughRanksError, match="exclusive_workers=False"):
        assign_roles(2)
    for size, options in [
        (2, {"client_rank": 2}),
        (1, {}),
        (1, {"exclusive_workers": False}),
    ]:
        with pytest.raises(NotEnoughRanksError) as caught:
            assign_roles(size, **options)
        assert "exclusive_workers=False" not in str(caught.value)


def test_every_rank_has_a_role():
    for size in range(2, 7):
        for scheduler in range(size):
            for client in range(size):
                for exclusive in (True, False):
                    if exclusive and size == 2 and scheduler != client:
                        continue
                    roles = assign_roles(
                        size,
                        scheduler_rank=scheduler,
                        client_rank=client,
                        exclusive_workers=exclusive,
                    )
                    special = {scheduler, client}
                    assert special | set(roles.workers) == set(range(size))
                    assert len(set(roles.workers)) == len(roles.workers)
                    assert exclusive == (not special & set(roles.workers))


def test_duties_have_names():
    roles = assign_roles(3)
    assert [roles.of(rank) for rank in range(3)] == ["scheduler", "client", "worker"]
    roles = assign_roles(3, exclusive_workers=False)
    assert [roles.of(rank) for rank in range(3)] == [
        "scheduler and worker",
        "client and worker",
        "worker",
    ]
    roles = assign_roles(2, client_rank=0)
    assert [roles.of(rank) for rank in range(2)] == ["scheduler and client", "worker"]
    assert Roles(leader=0, workers=(1,), scheduler=None, client=None).of(0) == "idle"


# -- Clusters without a program of their own. ----------------------------------------


def test_command_roles():
    roles = assign_command_roles(4, scheduler_rank=0, exclusive_workers=True)
    assert roles == Roles(leader=0, workers=(1, 2, 3), scheduler=0, client=None)
    roles = assign_command_roles(3, scheduler_rank=2, exclusive_workers=False)
    assert roles == Roles(leader=2, workers=(0, 1, 2), scheduler=2, client=None)
    assert assign_command_roles(1, scheduler_rank=0, exclusive_workers=False).workers == (0,)


@pytest.mark.parametrize(("size", "rank", "exclusive"), [(1, 0, True), (3, 3, True), (2, 2, False)])
def test_command_needs_ranks(size, rank, exclusive):
    with pytest.raises(NotEnoughRanksError, match=f"this job has {size} rank"):
        assign_command_roles(size, scheduler_rank=rank, exclusive_workers=exclusive)


def test_joining_roles():
    options = Options.resolve({"address": "tcp://10.0.0.1:8786"})
    roles = rules.assign_joining_roles(3, options)
    assert roles == Roles(leader=0, workers=(0, 1, 2), scheduler=None, client=None)
