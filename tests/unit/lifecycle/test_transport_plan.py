"""Between which ranks data goes by MPI."""

from __future__ import annotations

import pytest

from mpidask._lifecycle.messages import (
    ConnectionInfo,
    Failed,
    MeasureTransport,
    SendByMPI,
    StartTransport,
    StartWorker,
    TransportMeasured,
    WorkerStarted,
)
from mpidask._lifecycle.roles import assign_joining_roles, assign_roles
from mpidask._lifecycle.start_line import start_line
from mpidask._lifecycle.startup import Startup, possible_transport
from mpidask._options import Options
from mpidask._placement.node import Node

CLUSTER = ConnectionInfo("tls://10.0.0.1:4000", object())


class Start:
    """The start of a job whose ranks are on these hosts."""

    def __init__(self, *hosts, **options):
        self.options = Options.resolve(options)
        nodes = {
            rank: Node(host.partition(":")[0], network=host) for rank, host in enumerate(hosts)
        }
        self.startup = Startup(
            assign_roles(len(hosts), self.options), self.options, len(hosts), nodes
        )

    def hear(self, rank, message):
        """Give the orders about the transport that answer a message, by rank."""
        self.startup.hear(rank, message)
        orders = list(self.startup.orders(rank, message))
        self.kinds = [type(order) for _, order in orders]
        self.sent = orders
        others = (ConnectionInfo, StartWorker)
        return {rank: order for rank, order in orders if not isinstance(order, others)}

    def up(self, *ranks):
        """Let the workers of some ranks start, and give the orders that follow."""
        orders = {}
        for rank in ranks:
            orders |= self.hear(rank, WorkerStarted(1, None, address=f"mpi://{rank}"))
        return orders

    def way(self):
        """Give what the one line of output says."""
        return next(part for part in start_line(self.startup).split(", ") if "data" in part)


def peers(orders):
    return {rank: set(order.peers) - {rank} for rank, order in orders.items()}


def test_all_ranks_take_part_before_the_workers_start():
    start = Start("a", "a", "a", "b", transport="mpi")
    orders = start.hear(0, CLUSTER)
    assert peers(orders) == {0: {1, 2, 3}, 1: {0, 2, 3}, 2: {0, 1, 3}, 3: {0, 1, 2}}
    assert start.kinds == [StartTransport] * 4 + [ConnectionInfo] * 2 + [StartWorker] * 2
    assert len({order.job for order in orders.values()}) == 1
    assert start.hear(0, CLUSTER)[0].job != orders[0].job
    assert not start.up(2, 3)
    assert start.startup.complete
    assert start.way() == "data by MPI"


def test_one_node_uses_mpi_unmeasured():
    start = Start("a", "a", "a", "a", "a")
    assert peers(start.hear(0, CLUSTER))[4] == {0, 1, 2, 3}
    assert not start.up(2, 3, 4)
    assert start.startup.complete
    assert start.way() == "data by MPI"


def test_nodes_are_measured_by_the_first_two_workers():
    start = Start("a", "a", "a", "a", "b", "b")
    assert peers(start.hear(0, CLUSTER))[2] == {0, 1, 3}
    assert not start.up(3, 2)
    assert start.up(4) == {3: MeasureTransport(4, "mpi://4")}
    assert not start.up(5)
    assert not start.startup.complete
    assert start.hear(3, TransportMeasured(1.31)) == dict.fromkeys(range(6), SendByMPI())
    assert start.startup.complete
    assert start.way() == "data by MPI"


def test_a_worker_that_never_comes_is_not_waited_for():
    start = Start("a", "a", "a", "b", "b")
    start.hear(0, CLUSTER)
    start.hear(3, Failed("worker", "no memory"))
    assert start.up(2, 4) == {2: MeasureTransport(4, "mpi://4")}


def measuring():
    """Give the start of a job on two nodes, between which rank 2 measures."""
    start = Start("a", "a", "a", "b")
    start.hear(0, CLUSTER)
    start.up(2, 3)
    return start


def test_a_network_that_does_not_serve_mpi():
    start = measuring()
    assert not start.hear(2, TransportMeasured(1.29))
    assert start.startup.complete
    assert start.way() == "data by MPI within nodes"


def test_a_measurement_that_fails_leaves_sockets():
    start = measuring()
    assert start.startup.missing == [2]
    assert start.startup.progress() == (
        "2 of 2 workers are up and compare MPI with sockets; no answer from rank 2 on a (worker)"
    )
    assert not start.hear(2, Failed("transport", "ImportError: no module named mpidask"))
    assert start.startup.complete
    assert start.way() == "data by MPI within nodes"


def test_a_rank_that_never_ends_its_measurement_is_named():
    start = measuring()
    error = start.startup.timed_out(300)
    assert str(error).endswith(
        "2 of 2 workers are up and compare MPI with sockets; no answer from rank 2 on a (worker)"
    )
    assert (error.rank, error.host) == (2, "a")


def test_every_rank_on_a_node_of_its_own():
    start = Start("a", "b", "c", "d")
    start.hear(0, CLUSTER)
    start.up(2, 3)
    start.hear(2, TransportMeasured(0.0))
    assert start.way() == "data by sockets"


def test_containers_of_one_host_are_nodes():
    start = Start("a:1", "a:1", "a:1", "a:2")
    assert peers(start.hear(0, CLUSTER)) == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: set()}


def test_one_worker_has_nobody_to_measure_with():
    start = Start("a", "a", "b")
    start.hear(0, CLUSTER)
    assert not start.up(2)
    assert start.startup.complete
    assert start.way() == "data by MPI within nodes"


@pytest.mark.parametrize(
    "options",
    [
        {"transport": "socket"},
        {"worker_class": "distributed.Nanny"},
        {"worker_class": "nonesuch.Worker"},
    ],
    ids=str,
)
def test_sockets_take_no_orders(options):
    start = Start("a", "a", "a", "a", **options)
    assert not start.hear(0, CLUSTER)
    assert not start.up(2, 3)
    assert start.way() == "data by sockets"


# -- Where MPI is possible. -------------------------------------------------------------


def test_ranks_of_the_job_use_what_is_asked_for():
    for transport in "auto", "mpi", "socket":
        options = Options.resolve({"transport": transport})
        assert possible_transport(options, assign_roles(4, options)) == transport


def test_nannies_and_protocols_and_joined_workers_use_sockets():
    for given in {"nanny": True}, {"protocol": "wss"}:
        options = Options.resolve(given)
        assert possible_transport(options, assign_roles(4, options)) == "socket"
    options = Options.resolve({"address": "tls://10.0.0.1:8786"})
    assert possible_transport(options, assign_joining_roles(4, options)) == "socket"
