"""What a rank can tell about the machine it runs on."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Interface


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


def this_node(cpu_quota: int | None = None) -> Node:
    """Look at the machine this process runs on; its cgroup may be given `cpu_quota` CPUs."""
    if hasattr(os, "sched_getaffinity"):
        cpus = frozenset(os.sched_getaffinity(0))
    else:  # macOS
        cpus = frozenset(range(os.cpu_count() or 1))
    return Node(
        host=socket.gethostname(),
        cpus=cpus,
        cpu_quota=cpu_quota,
        addresses=tuple(str(address) for _, address in interfaces()),
        network=_network_namespace(),
    )


def interfaces() -> list[tuple[str, IPv4Interface]]:
    """Give the network interfaces with their addresses, that of the default route first."""
    from ipaddress import IPv4Interface

    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        (name, IPv4Interface(f"{entry.address}/{entry.netmask or 32}"))
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == socket.AF_INET
    ]
    usual = _default_route_address()
    found.sort(key=lambda one: str(one[1].ip) != usual)
    return [(name, address) for name, address in found if not address.is_loopback]


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
