"""Which gangs may start."""

from __future__ import annotations

import random

from mpidask._gang.schedule import Request, shortage, startable

ALL = range(4)


def listed(name, *ranks):
    return Request(name, len(ranks), ranks)


def started(*requests, up=ALL, busy=()):
    return dict(startable(requests, up, busy))


def test_on_the_ranks_asked_for_in_their_order():
    assert started(listed("a", 3, 1)) == {"a": (3, 1)}


def test_side_by_side_where_they_do_not_overlap():
    assert started(listed("a", 0, 1), listed("b", 3, 2)) == {"a": (0, 1), "b": (3, 2)}


def test_one_gang_a_rank():
    assert started(listed("a", 0, 1), listed("b", 1, 2)) == {"a": (0, 1)}
    assert started(listed("a", 0, 1), busy=[1]) == {}


def test_one_that_waits_reserves_its_ranks():
    assert started(listed("a", 0, 1), listed("b", 1, 2), listed("c", 3), busy=[0]) == {"c": (3,)}


def test_nothing_starts_on_ranks_without_a_worker():
    assert started(listed("a", 0, 1), listed("b", 2), up=[0, 2, 3]) == {"b": (2,)}
    assert started(Request("a", 4), up=[0, 1, 2]) == {}


def test_a_number_takes_what_is_free():
    assert started(Request("a", 2)) == {"a": (0, 1)}
    assert started(Request("a", 2), busy=[0, 2]) == {"a": (1, 3)}
    assert started(Request("a", 2), Request("b", 2)) == {"a": (0, 1), "b": (2, 3)}


def test_a_number_that_waits_reserves_what_is_free():
    assert started(Request("a", 3), listed("b", 3), busy=[0, 1]) == {}
    assert started(Request("a", 3), Request("b", 1), busy=[0, 1]) == {}


def test_pieces_decide():
    assert started(Request("a", 2, preferred={0: 3, 1: 1})) == {"a": (3, 1)}
    assert started(Request("a", 3, preferred={1: 3})) == {"a": (0, 3, 1)}
    assert started(Request("a", 2, preferred={0: 2, 1: 2})) == {"a": (2, 0)}


def test_pieces_are_waited_for():
    assert started(Request("a", 2, preferred={0: 3}), listed("b", 0), busy=[3]) == {}


def test_pieces_on_ranks_that_are_gone_do_not_count():
    assert started(Request("a", 2, preferred={0: 3}), up=[0, 1]) == {"a": (0, 1)}


def test_nothing_starts_on_ranks_that_are_unfit():
    assert started(Request("a", 2, unfit={0, 2})) == {"a": (1, 3)}
    assert started(Request("a", 1, preferred={0: 3}, unfit={3})) == {"a": (0,)}
    assert started(Request("a", 2, (0, 1), unfit={1})) == {}
    assert started(Request("a", 3, unfit={0, 1}), listed("b", 0)) == {"b": (0,)}


def test_all_start_in_the_end_and_none_is_overtaken_for_ever():
    """Random gangs; each ends after a while. Whoever waits is overtaken by few."""
    chance = random.Random(0)
    for _ in range(50):
        waiting = {
            str(n): Request(
                str(n),
                len(ranks),
                ranks if chance.random() < 0.5 else None,
            )
            for n, ranks in enumerate(
                tuple(chance.sample(ALL, chance.randint(1, 4))) for _ in range(40)
            )
        }
        running = {}
        while waiting or running:
            busy = {rank for ranks in running.values() for rank in ranks}
            for name, ranks in list(startable(list(waiting.values()), ALL, busy)):
                assert not busy.intersection(ranks)
                assert len(set(ranks)) == waiting[name].size
                # All before it that still wait want none of its ranks.
                before = [r for r in waiting.values() if int(r.gang) < int(name)]
                assert not any(set(r.ranks or ()).intersection(ranks) for r in before)
                busy.update(ranks)
                running[name] = ranks
                del waiting[name]
            assert running, "nothing goes on"
            del running[chance.choice(sorted(running))]


def test_ranks_that_a_gang_will_never_have():
    assert shortage(2, {0, 1, 2}, lost={0}, unfit=set()) == (set(), set())
    assert shortage(3, {0, 1, 2}, lost={0, 9}, unfit=set()) == ({0}, set())
    assert shortage(2, {0, 1, 2}, lost={0}, unfit={2, 9}) == ({0}, {2})
