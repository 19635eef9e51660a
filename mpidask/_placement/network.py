"""On which address the scheduler is reached by every rank of the job."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Interface

from mpidask._placement.node import Node

LOOPBACK = "127.0.0.1"


def scheduler_host(nodes: Mapping[int, Node], scheduler: int, *, outside: bool) -> str | None:
    """Choose the address that the scheduler listens on.

    Distributed would take the interface of the default route, or what the host's own
    name resolves to. On a cluster that is often wrong: compute nodes may have no route
    to the outside, and Debian resolves a host's own name to 127.0.1.1. The ranks know
    better: an address is right if every other node has one in the same network.

    Parameters
    ----------
    nodes : mapping of rank to Node
        What every rank reported.
    scheduler : int
        The scheduler's rank.
    outside : bool
        Whether processes from outside this job shall be able to connect.

    Returns
    -------
    str or None
        An IP address, or None where distributed's own choice is as good.
    """
    home = nodes[scheduler]
    others = {
        (node.host, node.network): node
        for node in nodes.values()
        if (node.host, node.network) != (home.host, home.network)
    }
    if not others and not outside:
        return LOOPBACK  # all in one machine: nobody else needs to reach the port
    for address in map(IPv4Interface, home.addresses):
        if all(_is_neighbour(address, node) for node in others.values()):
            return str(address.ip)
    return None


def _is_neighbour(address: IPv4Interface, node: Node) -> bool:
    """Tell whether a node can reach an address without a router.

    The bridge of a container engine has the same address on every node: sharing
    the address itself means that it leads nowhere.
    """
    theirs = [IPv4Interface(text).ip for text in node.addresses]
    return address.ip not in theirs and any(ip in address.network for ip in theirs)
