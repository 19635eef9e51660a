"""What each worker gets: its name, and its share of the CPUs and the memory of its node."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mpidask._placement.node import Node


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of one worker."""

    name: str
    nthreads: int
    ranks_on_node: int  # how many ranks share the memory of its node


def worker_name(prefix: str, rank: int) -> str:
    """Return the name of the worker of a rank."""
    return f"{prefix}-{rank}"


def worker_settings(
    nodes: Mapping[int, Node], workers: Collection[int], *, name: str, nthreads: int | str
) -> dict[int, WorkerSettings]:
    """Return the settings of each worker by its rank.

    `name` is the prefix of the workers' names; with ``nthreads="auto"``, the workers of a node
    divide its CPUs.
    """
    on_host = ranks_per_host(nodes)
    threads = threads_per_worker(nodes, workers)
    return {
        rank: WorkerSettings(
            name=worker_name(name, rank),
            nthreads=threads[rank] if isinstance(nthreads, str) else nthreads,
            ranks_on_node=on_host[nodes[rank].host],
        )
        for rank in workers
    }


def ranks_per_host(nodes: Mapping[int, Node]) -> Counter[str]:
    """Count the ranks of each host, which share its memory."""
    return Counter(node.host for node in nodes.values())


def threads_per_worker(nodes: Mapping[int, Node], workers: Collection[int]) -> dict[int, int]:
    """Divide the CPUs of each node among its workers, and return their threads by rank.

    A CPU that k workers may use counts 1/k for each. The shares are rounded such that the threads
    of a node are as many as its CPUs (largest remainder method), but each worker gets at least one.
    """
    by_host: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(workers):
        by_host[nodes[rank].host].append(rank)
    threads: dict[int, int] = {}
    for ranks in by_host.values():
        threads.update(_divide({rank: nodes[rank] for rank in ranks}))
    return threads


def _divide(nodes: Mapping[int, Node]) -> dict[int, int]:
    users: Counter[int] = Counter()
    masks = Counter(node.cpus for node in nodes.values())  # few, as most ranks share or split CPUs
    for cpus, ranks in masks.items():
        for cpu in cpus:
            users[cpu] += ranks
    share = {cpus: sum(1 / users[cpu] for cpu in cpus) for cpus in masks}
    # A cgroup may let its processes keep fewer CPUs busy than they may run on.
    available = min([len(users), *(node.cpu_quota for node in nodes.values() if node.cpu_quota)])
    shares = {rank: share[node.cpus] * available / len(users) for rank, node in nodes.items()}
    threads = dict.fromkeys(shares, 1)
    needs = [(1 - share, order, rank) for order, (rank, share) in enumerate(shares.items())]
    heapq.heapify(needs)
    for _ in range(available - len(threads)):
        _, order, neediest = needs[0]
        threads[neediest] += 1
        heapq.heapreplace(needs, (threads[neediest] - shares[neediest], order, neediest))
    return threads
