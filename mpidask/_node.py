"""What a rank can tell about the machine it runs on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """The machine of one rank, as that rank sees it.

    Attributes
    ----------
    host : str
        Host name; ranks with the same one share a machine.
    cpus : frozenset of int
        The CPUs this rank may run on (its affinity mask).
    cpu_quota : int, optional
        How many CPUs its cgroup may keep busy, if that is limited.
    addresses : tuple of str
        IPv4 addresses with prefix length (``"10.0.0.7/24"``), loopback left out; the
        one of the default route, if there is one, comes first.
    network : str
        Names the network namespace: ranks with the same host and network share loopback.
    """

    host: str
    cpus: frozenset[int] = frozenset({0})
    cpu_quota: int | None = None
    addresses: tuple[str, ...] = field(default=())
    network: str = ""


def this_node() -> Node:
    """Look at the machine this process runs on."""
    if hasattr(os, "sched_getaffinity"):
        cpus = frozenset(os.sched_getaffinity(0))
    else:  # macOS
        cpus = frozenset(range(os.cpu_count() or 1))
    return Node(
        host=socket.gethostname(),
        cpus=cpus,
        cpu_quota=_cpu_quota(),
        addresses=_addresses(),
        network=_network_namespace(),
    )


def _cpu_quota() -> int | None:
    # dask.system.CPU_COUNT, which is public, mixes the cgroup's quota with the affinity
    # mask; for ranks bound to CPUs of their own the quota alone is what they share.
    from dask import system

    extract = getattr(system, "_try_extract_cgroup_cpu_quota", lambda: (None, None))
    quota, period = extract()
    return max(1, quota // period) if quota and period and quota > 0 else None


def memory_limit(
    environ: Mapping[str, str] = os.environ,
    groups: Path = Path("/proc/self/cgroup"),
    mounted: Path = Path("/sys/fs/cgroup"),
) -> int:
    """Give the bytes that the ranks of this machine may use together.

    What `distributed.system.MEMORY_LIMIT` says, or less: that looks at the outermost
    cgroup alone, and a batch system limits a job by one further in, or only says what it
    has granted (``SLURM_MEM_PER_NODE`` and ``SLURM_MEM_PER_CPU``, in MiB).
    """
    from distributed.system import MEMORY_LIMIT

    return min([MEMORY_LIMIT, *_cgroup_limits(groups, mounted), *_slurm_limits(environ)])


def _cgroup_limits(groups: Path, mounted: Path) -> Iterator[int]:
    """Read the limits of all cgroups this process is in (see cgroups(7))."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        innermost = root / path.lstrip("/")
        for group in (innermost, *innermost.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit: "max"
                yield int((group / name).read_text())
            if group == root:
                break


def _slurm_limits(environ: Mapping[str, str]) -> Iterator[int]:
    def number(name: str) -> int:
        text = environ.get(name, "")
        return int(text) if text.isdecimal() else 0

    per_node, per_cpu = number("SLURM_MEM_PER_NODE"), number("SLURM_MEM_PER_CPU")
    for megabytes in (per_node, per_cpu * number("SLURM_CPUS_ON_NODE")):
        if megabytes:  # 0 is no limit
            yield megabytes * 2**20


def _addresses() -> tuple[str, ...]:
    from ipaddress import IPv4Interface

    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        IPv4Interface(f"{entry.address}/{entry.netmask or 32}")
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == socket.AF_INET
    ]
    usual = _default_route_address()
    found.sort(key=lambda address: str(address.ip) != usual)
    return tuple(str(address) for address in found if not address.is_loopback)


def _default_route_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # a route is looked up, nothing is sent
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _network_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""
