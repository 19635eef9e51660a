"""The machine of each rank, and the address at which all ranks reach the scheduler."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Node:
    """The machine of one rank, as that rank sees it."""

    host: str  # ranks with the same host name share a machine
    cpus: frozenset[int] = frozenset({0})  # those this rank may run on (its affinity mask)
    cpu_quota: int | None = None  # how many CPUs its cgroup may keep busy, if limited
    #: IPv4 with prefix length ("10.0.0.7/24"), no loopback; that of the default route comes first.
    addresses: tuple[str, ...] = ()
    network: str = ""  # namespace: ranks with the same host and network share loopback


def this_node(cpu_quota: int | None = None) -> Node:
    """Describe the machine of this process, whose cgroup is limited to `cpu_quota` CPUs."""
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
    """Return the network interfaces with their addresses, that of the default route first."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        (name, IPv4Interface(f"{entry.address}/{entry.netmask or 32}"))
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == socket.AF_INET
    ]
    default = _default_route_address()
    found.sort(key=lambda one: str(one[1].ip) != default)
    return [(name, address) for name, address in found if not address.is_loopback]


def _default_route_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # looks up a route, sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _network_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""


def scheduler_host(nodes: Mapping[int, Node], scheduler: int, *, outside: bool) -> str | None:
    """Choose the address that the scheduler listens on; None: distributed's choice is as good.

    Distributed would take the interface of the default route, or what the host's own name resolves
    to. On a cluster that is often wrong: compute nodes may have no route to the outside, and Debian
    resolves a host's own name to 127.0.1.1. An address is right if every other node has one in the
    same network. With `outside`, processes outside this job must be able to connect, too.
    """
    home = nodes[scheduler]
    others = {
        (node.host, node.network): node
        for node in nodes.values()
        if (node.host, node.network) != (home.host, home.network)
    }
    if not others and not outside:
        return LOOPBACK
    for address in map(IPv4Interface, home.addresses):
        if all(_is_neighbour(address, node) for node in others.values()):
            return str(address.ip)
    return None


def _is_neighbour(address: IPv4Interface, node: Node) -> bool:
    """Whether a node can reach an address without a router.

    The bridge of a container engine has the same address on every node, and leads nowhere: so a
    node that has the address itself is not a neighbour.
    """
    theirs = [IPv4Interface(text).ip for text in node.addresses]
    return address.ip not in theirs and any(ip in address.network for ip in theirs)
