"""What the ranks of one node claim adds up to the node."""

from __future__ import annotations

import random

import pytest

from mpidask._placement.node import Node
from mpidask._placement.worker_settings import ranks_per_host, threads_per_worker


def node(cpus, *, host="a", limit=None):
    return Node(host=host, cpus=frozenset(cpus), cpu_quota=limit)


def divide(*nodes):
    """Give the threads of workers on these nodes, in their order."""
    threads = threads_per_worker(dict(enumerate(nodes)), range(len(nodes)))
    assert set(threads) == set(range(len(nodes)))
    return [threads[rank] for rank in range(len(nodes))]


def test_one_worker_takes_all():
    assert divide(node(range(8))) == [8]


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"),
    [
        (8, 2, [4, 4]),
        (8, 8, [1] * 8),
        (8, 3, [3, 3, 2]),
        (7, 3, [3, 2, 2]),
        (10, 4, [3, 3, 2, 2]),
        (100, 7, [15, 15, 14, 14, 14, 14, 14]),
    ],
)
def test_unbound_workers_share_the_node(cpus, workers, threads):
    assert sorted(divide(*[node(range(cpus))] * workers), reverse=True) == threads


def test_more_workers_than_cpus():
    assert divide(*[node(range(2))] * 5) == [1] * 5


def test_disjoint_masks_are_left_alone():
    assert divide(node({0, 1, 2}), node({3}), node({4, 5})) == [3, 1, 2]


def test_overlapping_masks():
    """Of CPUs 0-3 and 2-5, two are shared: half of each goes to either worker."""
    assert divide(node({0, 1, 2, 3}), node({2, 3, 4, 5})) == [3, 3]


def test_masks_of_different_sizes():
    """CPUs 0-5 belong to the first alone; 6 and 7 are shared."""
    assert divide(node(range(8)), node({6, 7})) == [7, 1]
    assert divide(node({6, 7}), node(range(8))) == [1, 7]


def test_largest_remainder_first():
    """Shares of 3 1/3 + 1/2, 1/3 + 1/2 + 1 and 1/3 + 2: 3.83, 1.83 and 2.33."""
    masks = {0, 1, 2, 3, 4}, {3, 4, 5}, {3, 6, 7}
    assert divide(*map(node, masks)) == [4, 2, 2]


def test_threads_follow_a_cgroup_quota():
    assert divide(node(range(64), limit=4)) == [4]
    assert divide(*[node(range(64), limit=4)] * 2) == [2, 2]
    assert sum(divide(*[node(range(64), limit=4)] * 3)) == 4
    assert divide(*[node(range(64), limit=1)] * 3) == [1, 1, 1]


def test_bound_ranks_share_one_quota():
    assert divide(node(range(4), limit=4), node(range(4, 8), limit=4)) == [2, 2]


def test_one_thread_each_comes_out_of_the_whole():
    assert divide(node(range(4)), node({0})) == [3, 1]
    assert divide(node(range(4)), node({0}), node({0})) == [2, 1, 1]


def test_hosts_do_not_mix():
    nodes = {
        0: node(range(4), host="a"),
        1: node(range(4), host="b"),
        2: node(range(4), host="a"),
        3: node(range(16), host="c"),
    }
    assert threads_per_worker(nodes, [0, 1, 2, 3]) == {0: 2, 1: 4, 2: 2, 3: 16}


def test_ranks_without_a_worker_take_no_threads():
    nodes = dict.fromkeys(range(4), node(range(8)))
    assert threads_per_worker(nodes, [2, 3]) == {2: 4, 3: 4}
    assert threads_per_worker(nodes, []) == {}


def test_all_ranks_share_the_memory():
    nodes = {0: node({0}), 1: node({0}), 2: node({0}, host="b")}
    assert ranks_per_host(nodes) == {"a": 2, "b": 1}


def shares(nodes):
    """Say, independently, how many CPUs each rank of a host may call its own."""
    found = []
    for mine in nodes:
        found.append(sum(1 / sum(cpu in other.cpus for other in nodes) for cpu in mine.cpus))
    return found


def test_random_masks_add_up():
    """Threads are as many as CPUs, or one each; where there is enough, each gets its due."""
    generator = random.Random(20240229)
    full = 0
    for _ in range(400):
        cpus = range(generator.randint(1, 40))
        nodes = [
            node(generator.sample(cpus, generator.randint(1, len(cpus))))
            for _ in range(generator.randint(1, 9))
        ]
        threads = divide(*nodes)
        fair = shares(nodes)
        assert min(threads) >= 1
        assert sum(threads) == max(len(nodes), len(frozenset().union(*(n.cpus for n in nodes))))
        for count, share in zip(threads, fair, strict=True):
            assert count <= max(1, share + 1)
        if min(fair) >= 1 - 1e-9:
            full += 1
            for count, share in zip(threads, fair, strict=True):
                assert int(share + 1e-9) <= count
    assert full > 50  # the assertion above is no dead letter


def test_random_quotas_are_kept():
    """Unbound ranks under one quota claim the quota together, or a thread each."""
    generator = random.Random(1066)
    for _ in range(400):
        cpus = generator.randint(1, 128)
        limit, workers = generator.randint(1, cpus), generator.randint(1, 20)
        threads = divide(*[node(range(cpus), limit=limit)] * workers)
        assert sum(threads) == max(limit, workers)
        assert max(threads) - min(threads) <= 1


def test_order_of_hosts_and_ranks_is_no_matter():
    generator = random.Random(7)
    nodes = {
        rank: node(
            generator.sample(range(12), generator.randint(4, 12)), host=generator.choice("abc")
        )
        for rank in range(12)
    }
    expected = threads_per_worker(nodes, range(12))
    shuffled = list(nodes)
    generator.shuffle(shuffled)
    assert threads_per_worker({rank: nodes[rank] for rank in shuffled}, shuffled) == expected
