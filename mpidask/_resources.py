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

    A CPU that k workers may use counts 1/k for each. What is left after rounding down
    goes, one thread each, to the workers with the largest remainders, so that the
    threads of a node are as many as its CPUs (largest remainder method). Every worker
    gets at least one thread.

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
    shares = {
        # A cgroup quota (cpu_limit below the mask) scales what the mask promises.
        rank: sum(1 / users[cpu] for cpu in node.cpus) * node.cpu_limit / len(node.cpus)
        for rank, node in nodes.items()
    }
    threads = {rank: int(share + 1e-9) for rank, share in shares.items()}
    left = int(sum(shares.values()) + 1e-9) - sum(threads.values())
    for rank in sorted(shares, key=lambda r: threads[r] - shares[r])[:left]:
        threads[rank] += 1
    return {rank: max(1, count) for rank, count in threads.items()}
