"""Threads and ranks per node: what the ranks of one node claim adds up to the node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from mpidask._node import Node


def ranks_per_host(nodes: Mapping[int, Node]) -> Counter[str]:
    """Count the ranks on every host; all of them use its memory."""
    return Counter(node.host for node in nodes.values())


def threads_per_worker(nodes: Mapping[int, Node], workers: Collection[int]) -> dict[int, int]:
    """Divide the CPUs of every node among its workers.

    A CPU that k workers may use counts 1/k for each. The shares are rounded so that the
    threads of a node are as many as its CPUs (largest remainder method), but every
    worker gets at least one.

    Parameters
    ----------
    nodes : mapping of rank to Node
        What every rank reported.
    workers : collection of int
        The ranks that host a worker.

    Returns
    -------
    dict of int to int
        Threads for each of `workers`.
    """
    by_host: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(workers):
        by_host[nodes[rank].host].append(rank)
    threads: dict[int, int] = {}
    for ranks in by_host.values():
        threads.update(_divide({rank: nodes[rank] for rank in ranks}))
    return threads


def _divide(nodes: Mapping[int, Node]) -> dict[int, int]:
    users = Counter(cpu for node in nodes.values() for cpu in node.cpus)
    shares = {rank: sum(1 / users[cpu] for cpu in node.cpus) for rank, node in nodes.items()}
    # A cgroup may let its processes keep fewer CPUs busy than they may run on.
    available = min([len(users), *(node.cpu_quota for node in nodes.values() if node.cpu_quota)])
    shares = {rank: share * available / len(users) for rank, share in shares.items()}
    threads = dict.fromkeys(shares, 1)
    for _ in range(available - len(threads)):
        neediest = max(shares, key=lambda rank: shares[rank] - threads[rank])
        threads[neediest] += 1
    return threads
