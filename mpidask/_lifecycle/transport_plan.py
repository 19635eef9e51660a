"""Between which ranks data goes by MPI: what the leader decides."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from mpidask._dask.worker import has_workers_in_ranks
from mpidask._lifecycle.messages import (
    Cluster,
    MeasureTransport,
    SendByMPI,
    StartTransport,
    TransportMeasured,
    WorkerStarted,
)
from mpidask._lifecycle.roles import Roles
from mpidask._options import Options
from mpidask._placement.node import Node

#: Kinds of pairs of ranks.
WITHIN, BETWEEN = "within nodes", "between nodes"
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
    by_mpi : set of str
        The kinds of pairs for which it does.
    unmeasured : bool
        Whether it is to be measured between nodes, by the first two workers that can.
    measuring : bool
        Whether they do now.
    """

    nodes: Mapping[int, Node]
    by_mpi: set[str]
    unmeasured: bool = False
    measuring: bool = False

    @classmethod
    def of(cls, options: Options, nodes: Mapping[int, Node], roles: Roles) -> TransportPlan | None:
        """Make the plan of a job; None if all its data goes by sockets."""
        if options.transport == "socket" or not has_workers_in_ranks(options):
            return None
        if options.transport == "mpi":
            return cls(nodes, {WITHIN, BETWEEN})
        return cls(nodes, {WITHIN}, unmeasured=True)

    def _kind(self, one: int, other: int) -> str:
        places = {(self.nodes[rank].host, self.nodes[rank].network) for rank in (one, other)}
        return WITHIN if len(places) == 1 else BETWEEN

    def _peers(self, rank: int) -> frozenset[int]:
        others = self.nodes.keys() - {rank}
        return frozenset(other for other in others if self._kind(rank, other) in self.by_mpi)

    def _pair_to_measure(self, workers: Iterable[int]) -> tuple[int, int] | None:
        one, *others = sorted(workers)
        return next(((one, other) for other in others if self._kind(one, other) == BETWEEN), None)

    def orders(
        self, message: object, workers: Mapping[int, WorkerStarted]
    ) -> Iterator[tuple[int, object]]:
        """Yield ranks and the orders to send them now, while the cluster starts or runs."""
        match message:
            case Cluster():
                job = uuid.uuid4().hex  # nobody outside knows it
                for rank in self.nodes:
                    yield rank, StartTransport(message, job, self._peers(rank))
            case WorkerStarted() if self.unmeasured and (pair := self._pair_to_measure(workers)):
                one, other = pair
                self.unmeasured, self.measuring = False, True
                yield one, MeasureTransport(other, workers[other].address)
            case TransportMeasured(gain):
                self.measuring = False
                if gain >= _WORTHWHILE:
                    self.by_mpi.add(BETWEEN)
                    for rank in self.nodes:
                        yield rank, SendByMPI(self._peers(rank))

    def summary(self) -> str:
        """Say by which way data goes."""
        kinds = {self._kind(*pair) for pair in combinations(self.nodes, 2)}
        chosen = kinds & self.by_mpi
        if not chosen:
            return "data by sockets"
        return "data by MPI" + ("" if chosen == kinds else f" {chosen.pop()}")
