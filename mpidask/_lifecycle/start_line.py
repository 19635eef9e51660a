"""The one line that is logged when a cluster has started."""

from __future__ import annotations

from mpidask._dask.connection_info import ConnectionInfo
from mpidask._lifecycle.startup import Startup
from mpidask._text import count


def start_line(startup: Startup) -> str:
    """Describe the cluster of an MPI job, or the job's part of another cluster."""
    parts = _resources(startup)
    if startup.cluster is None:
        return "joined with " + ", ".join(parts)
    parts.append(startup.transport.summary() if startup.transport else "data by sockets")
    parts.append(f"scheduler {startup.cluster.address}")
    if startup.cluster.security is None:
        parts.append("open to everyone who can reach it")
    return ", ".join([*parts, *startup.cluster.describe_dashboard()])


def _resources(startup: Startup) -> list[str]:
    from dask.utils import format_bytes

    up, all_workers = len(startup.workers), len(startup.roles.workers)
    workers = count(all_workers, "worker")
    hosts = {startup.nodes[rank].host for rank in startup.workers}
    limits = [worker.memory_limit for worker in startup.workers.values()]
    memory = sum(limit or 0 for limit in limits)
    return [
        f"{workers if up == all_workers else f'{up} of {workers}'} on {count(len(hosts), 'node')}",
        count(sum(worker.nthreads for worker in startup.workers.values()), "thread"),
        f"{format_bytes(memory)} memory" if all(limits) else "memory not limited",
    ]


def local_start_line(cluster: ConnectionInfo, workers: int) -> str:
    """Describe a cluster without an MPI job."""
    parts = ["no MPI job", f"{workers} workers on this machine", f"scheduler {cluster.address}"]
    return ", ".join([*parts, *cluster.describe_dashboard()])
