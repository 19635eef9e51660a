"""The text of a diagnosis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from mpidask._diagnosis.facts import Facts
from mpidask._placement.node import scheduler_host


def of_process(facts: Facts) -> str:
    """Write what one process knows by itself."""
    lines = [
        *facts.software.items(),
        ("launcher", facts.launched),
        ("environment", facts.tuning),
        ("this node", f"{facts.node.host}; {_machine([facts])}"),
    ]
    return "\n".join(f"{name:12} {value}" for name, value in lines)


def of_job(found: Mapping[int, Facts], size: int, library: str) -> str:
    """Write what the ranks of a job know.

    Parameters
    ----------
    found : mapping of rank to Facts
        Those that have answered, rank 0 among them.
    size : int
        How many ranks there are.
    library : str
        The MPI library.
    """
    by_host: dict[str, list[int]] = defaultdict(list)
    for rank, facts in sorted(found.items()):
        by_host[facts.node.host].append(rank)
    count = f"{size} on {len(by_host)} node" + "s" * (len(by_host) > 1)
    missing = sorted(set(range(size)) - found.keys())
    if missing:
        count += f"; no answer from ranks {_ranges(missing)}"
    lines = [("MPI", library), ("ranks", count)]
    for host, ranks in by_host.items():
        lines.append((host, f"ranks {_ranges(ranks)}; {_machine([found[r] for r in ranks])}"))
    lines.append(("scheduler", _listens_on(found)))
    lines += [("differs", f"rank {rank}: {what}") for rank, what in _differences(found)]
    lines += [("problem", what) for what in _problems(found)]
    return "\n".join(f"{name:12} {value}" for name, value in lines)


def _machine(facts: list[Facts]) -> str:
    """Describe one machine, as its ranks see it."""
    cpus = frozenset[int]().union(*(each.node.cpus for each in facts))
    bound = {len(each.node.cpus) for each in facts}
    per_rank = "-".join(map(str, sorted({min(bound), max(bound)})))
    quota = facts[0].node.cpu_quota
    limited = f" (of which a cgroup lets {quota} be busy)" if quota else ""
    networks = ", ".join(facts[0].networks) or "loopback alone"
    return (
        f"{len(cpus)} CPUs{limited}, {per_rank} for each rank; "
        f"memory {facts[0].memory / 2**30:.1f} GiB; {networks}"
    )


def _listens_on(found: Mapping[int, Facts]) -> str:
    nodes = {rank: facts.node for rank, facts in found.items()}
    address = scheduler_host(nodes, 0, outside=False)
    if address is None:
        return (
            "no address of rank 0's node is in a network that all nodes are in: "
            "Dask chooses one; better give interface or host"
        )
    return f"listens on {address}, unless interface or host are given"


def _differences(found: Mapping[int, Facts]) -> Iterable[tuple[int, str]]:
    """Find what is not on all ranks as it is on rank 0; on each node the first such rank tells."""
    told = set()
    for rank, facts in sorted(found.items()):
        for name, value in facts.software.items():
            different = value != found[0].software[name]
            if different and (facts.node.host, name, value) not in told:
                told.add((facts.node.host, name, value))
                yield rank, f"{name} {value}"


def _problems(found: Mapping[int, Facts]) -> Iterable[str]:
    """Tell what is wrong with the options; the first rank that has a problem tells."""
    told = set[str]()
    for rank, facts in sorted(found.items()):
        if facts.problem is not None and facts.problem not in told:
            told.add(facts.problem)
            yield f"rank {rank} on {facts.node.host}: {facts.problem}"


def _ranges(ranks: list[int]) -> str:
    """Write ranks in short.

    Examples
    --------
    >>> _ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][-1] + 1:
            spans[-1][1:] = [rank]
        else:
            spans.append([rank])
    return ", ".join("-".join(map(str, span)) for span in spans)
