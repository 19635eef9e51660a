"""Between which ranks data goes by MPI: what the leader decides."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpidask._dask.server_options import has_workers_in_ranks
from mpidask._lifecycle.messages import (
    ConnectionInfo,
    Failed,
    MeasureTransport,
    SendByMPI,
    StartTransport,
    TransportMeasured,
    WorkerStarted,
)
from mpidask._lifecycle.roles import Roles
from mpidask._options import Options
from mpidask._placement.node import Node

#: How many times as fast as sockets MPI must be.
_WORTHWHILE = 1.3


def possible_transport(options: Options, roles: Roles) -> str:
    """Give the option `transport`, or "socket" where nothing else is possible."""
    only_sockets = roles.scheduler is None or options.nanny or options.protocol is not None
    return "socket" if only_sockets else options.transport


@dataclass
class TransportPlan:
    """Between which ranks data goes by MPI.

    Within nodes it does: shared memory is faster than any socket, as a comparison too short to
    hold up the start can't tell for sure. Between nodes it is measured, for not every network
    serves MPI; until then, sockets are used.

    Attributes
    ----------
    nodes : mapping of int to Node
        Where each rank is.
    everywhere : bool
        Whether it does between nodes, too.
    unmeasured : bool
        Whether it is to be measured between nodes, by the first two workers that can.
    measuring : int or None
        The rank that does so now.
    """

    nodes: Mapping[int, Node]
    everywhere: bool = False
    unmeasured: bool = False
    measuring: int | None = None
    _first: int | None = None  # the first worker that was up

    @classmethod
    def of(cls, options: Options, nodes: Mapping[int, Node], roles: Roles) -> TransportPlan | None:
        """Make the plan of a job; None if all its data goes by sockets."""
        if options.transport == "socket" or not has_workers_in_ranks(options):
            return None
        if options.transport == "mpi":
            return cls(nodes, everywhere=True)
        return cls(nodes, unmeasured=True)

    def _place(self, rank: int) -> tuple[str, str]:
        return self.nodes[rank].host, self.nodes[rank].network

    def _groups(self) -> list[frozenset[int]]:
        """Give the ranks of each node: those that a rank may send to before it is measured."""
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for rank in self.nodes:
            groups[self._place(rank)].append(rank)
        return [frozenset(ranks) for ranks in groups.values()]

    def orders(
        self, rank: int, message: object, workers: Mapping[int, WorkerStarted]
    ) -> Iterator[tuple[int, object]]:
        """Yield ranks and the orders to send them now, while the cluster starts or runs."""
        match message:
            case ConnectionInfo():
                yield from self._start()
            case WorkerStarted() if self.unmeasured:
                yield from self._measure(rank, workers)
            case Failed(duty="transport"):
                self.measuring = None
            case TransportMeasured(gain):
                self.measuring = None
                if gain >= _WORTHWHILE:
                    self.everywhere = True
                    order = SendByMPI()
                    yield from ((one, order) for one in self.nodes)

    def _start(self) -> Iterator[tuple[int, StartTransport]]:
        """Let all take part. The ranks of a node get the same, so nobody gets a list of all."""
        job = uuid.uuid4().hex  # nobody outside knows it
        groups: Sequence[Collection[int]] = self._groups()
        if self.everywhere or len(groups) == 1:
            groups = [range(len(self.nodes))]
        for ranks in groups:
            order = StartTransport(job, ranks)
            yield from ((rank, order) for rank in ranks)

    def _measure(
        self, rank: int, workers: Mapping[int, WorkerStarted]
    ) -> Iterator[tuple[int, MeasureTransport]]:
        """Let the first worker measure the way to the first one on another node."""
        if self._first is None:
            self._first = rank
        elif self._place(rank) != self._place(self._first):
            self.unmeasured, self.measuring = False, self._first
            yield self._first, MeasureTransport(rank, workers[rank].address)

    def summary(self) -> str:
        """Say by which way data goes."""
        groups = self._groups()
        if self.everywhere or (len(groups) == 1 and len(self.nodes) > 1):
            return "data by MPI"
        within = any(len(ranks) > 1 for ranks in groups)
        return "data by MPI within nodes" if within else "data by sockets"
