"""On which address the scheduler listens."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from mpidask._placement.node import LOOPBACK, Node, scheduler_host, this_node

BRIDGE = "172.17.0.1/16"  # of a container engine: on every node, the same


def nodes(*descriptions):
    """Make the nodes of ranks from host, addresses and, if it matters, network."""
    made = {}
    for rank, (host, addresses, *network) in enumerate(descriptions):
        made[rank] = Node(host, addresses=tuple(addresses), network="".join(network))
    return made


@pytest.mark.parametrize("scheduler", [0, 1, 2])
def test_one_machine_needs_no_network(scheduler):
    found = nodes(*[("a", ["10.0.0.1/24"])] * 3)
    assert scheduler_host(found, scheduler, outside=False) == LOOPBACK


def test_one_machine_without_addresses():
    found = nodes(("a", []), ("a", []))
    assert scheduler_host(found, 0, outside=False) == LOOPBACK
    assert scheduler_host(found, 0, outside=True) is None


def test_outside_means_no_loopback():
    """The address of the default route, which comes first."""
    found = nodes(*[("a", ["10.0.0.1/24", "192.168.0.1/24"])] * 2)
    assert scheduler_host(found, 0, outside=True) == "10.0.0.1"


@pytest.mark.parametrize("outside", [True, False])
def test_common_subnet(outside):
    found = nodes(
        ("a", ["192.0.2.5/24", "10.0.0.1/16"]),
        ("b", ["198.51.100.9/24", "10.0.3.2/16"]),
        ("c", ["10.0.0.3/16"]),
    )
    assert scheduler_host(found, 0, outside=outside) == "10.0.0.1"
    assert scheduler_host(found, 1, outside=outside) == "10.0.3.2"
    assert scheduler_host(found, 2, outside=outside) == "10.0.0.3"


def test_default_route_wins_where_it_will_do():
    found = nodes(
        ("a", ["10.0.0.1/24", "192.168.7.1/24"]),
        ("b", ["10.0.0.2/24", "192.168.7.2/24"]),
    )
    assert scheduler_host(found, 0, outside=False) == "10.0.0.1"


def test_every_node_must_be_near():
    """Ranks 0 and 1 share a network that rank 2 has no part in."""
    found = nodes(
        ("a", ["10.0.0.1/24", "192.168.7.1/24"]),
        ("b", ["10.0.0.2/24", "192.168.7.2/24"]),
        ("c", ["192.168.7.3/24"]),
    )
    assert scheduler_host(found, 0, outside=False) == "192.168.7.1"


@pytest.mark.parametrize("home", [[BRIDGE, "10.0.0.1/24"], ["10.0.0.1/24", BRIDGE]])
def test_container_bridge_leads_nowhere(home):
    found = nodes(("a", home), ("b", [BRIDGE, "10.0.0.2/24"]))
    assert scheduler_host(found, 0, outside=False) == "10.0.0.1"


def test_nothing_but_the_bridge():
    found = nodes(("a", [BRIDGE]), ("b", [BRIDGE]))
    assert scheduler_host(found, 0, outside=False) is None


@pytest.mark.parametrize("outside", [True, False])
def test_no_common_subnet(outside):
    """Only a router could help: distributed shall choose."""
    found = nodes(("a", ["10.0.0.1/24"]), ("b", ["10.0.1.1/24"]))
    assert scheduler_host(found, 0, outside=outside) is None


def test_point_to_point_addresses_have_no_neighbours():
    found = nodes(("a", ["10.0.0.1/32"]), ("b", ["10.0.0.2/32"]))
    assert scheduler_host(found, 0, outside=False) is None


def test_prefix_of_the_scheduler_decides():
    found = nodes(("a", ["10.0.0.1/16"]), ("b", ["10.0.9.1/16"]), ("c", ["10.0.9.2/24"]))
    assert scheduler_host(found, 0, outside=False) == "10.0.0.1"


def test_network_namespaces_with_one_host_name():
    """Containers may share a host name, but then not a loopback interface."""
    found = nodes(
        ("a", ["172.17.0.2/16"], "net:[1]"),
        ("a", ["172.17.0.3/16"], "net:[2]"),
    )
    assert scheduler_host(found, 0, outside=False) == "172.17.0.2"
    assert scheduler_host(found, 1, outside=False) == "172.17.0.3"


def test_same_namespace_number_on_two_hosts():
    found = nodes(("a", ["10.0.0.1/24"], "net:[1]"), ("b", ["10.0.0.2/24"], "net:[1]"))
    assert scheduler_host(found, 0, outside=False) == "10.0.0.1"


def test_ranks_beside_the_scheduler_do_not_count():
    """A rank on the scheduler's own machine has its very addresses."""
    found = nodes(("a", ["10.0.0.1/24"]), ("a", ["10.0.0.1/24"]), ("b", ["10.0.0.2/24"]))
    assert scheduler_host(found, 0, outside=False) == "10.0.0.1"


def test_what_a_node_reports():
    node = this_node()
    assert node.host == socket.gethostname()
    assert node.cpus
    assert node.cpu_quota is None or node.cpu_quota >= 1
    for text in node.addresses:
        assert not ipaddress.IPv4Interface(text).is_loopback


def test_dask_still_finds_the_quota_of_a_cgroup():
    """`_node` reads it with a private function of dask's; without it, there is no quota."""
    from dask import system

    quota, period = system._try_extract_cgroup_cpu_quota()
    assert (quota is None) == (period is None)
