"""The leader's view of the cluster: what it has heard so far, and what to order next.

Rules without waiting and without MPI: `Leader` feeds them the messages and sends the orders.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mpidask._dask.worker_class import has_workers_in_ranks
from mpidask._errors import StartupError
from mpidask._lifecycle import messages
from mpidask._lifecycle.roles import Roles
from mpidask._options import Options
from mpidask._placement.node import Node, scheduler_host
from mpidask._placement.worker_settings import worker_name, worker_settings
from mpidask._text import count, list_ranks, name_rank

#: Between nodes, MPI is used if it is this many times as fast as sockets.
_WORTHWHILE = 1.3


@dataclass
class Startup:
    """How far the start has come, and what follows from each message; keys are ranks."""

    roles: Roles
    options: Options
    size: int  # ranks in the job
    nodes: dict[int, Node] = field(default_factory=dict)  # of ranks that have reported
    cluster: messages.ConnectionInfo | None = None  # once the scheduler runs
    workers: dict[int, messages.WorkerStarted] = field(default_factory=dict)
    failures: list[tuple[int, messages.Failed]] = field(default_factory=list)
    failed_duties: Counter[str] = field(default_factory=Counter)
    transport: TransportPlan | None = None  # None: all data goes by sockets
    _interned: dict[Node, Node] = field(default_factory=dict)

    def hear(self, rank: int, message: object) -> None:
        """Record a message to the leader."""
        match message:
            case messages.RankReady(node):
                # Unbound ranks of one host report equal nodes of hundreds of CPUs: keep one.
                self.nodes[rank] = self._interned.setdefault(node, node)
            case messages.ConnectionInfo():
                self.cluster = message
            case messages.WorkerStarted():
                self.workers[rank] = message
            case messages.Failed(duty="scheduler" | "worker", final=True):
                self.failures.append((rank, message))
                self.failed_duties[message.duty] += 1

    # -- What to order. --------------------------------------------------------------

    def orders(self, rank: int, message: object) -> Iterator[tuple[int, object]]:
        """Yield (rank, order) pairs that answer a message.

        Once all ranks are ready the scheduler starts; once it runs, the transport and the
        workers do; the transport is measured when the first two workers are up.
        """
        if isinstance(message, messages.ConnectionInfo):
            self.transport = TransportPlan.of(self.options, self.nodes, self.roles)
        if self.transport is not None:
            yield from self.transport.orders(rank, message, self.workers)
        match message:
            case messages.RankReady() if self.everyone_is_ready and self.roles.scheduler is None:
                yield from self._worker_orders()  # the scheduler runs elsewhere
            case messages.RankReady() if self.everyone_is_ready:
                yield self._scheduler_order()
            case messages.ConnectionInfo():
                # A separate message: it has the credentials, and is pickled once for all ranks.
                yield from ((worker, message) for worker in self.roles.workers)
                yield from self._worker_orders()

    def _scheduler_order(self) -> tuple[int, messages.StartScheduler]:
        rank = self.roles.scheduler
        assert rank is not None
        # Clients connect from outside if the job has none, or a scheduler file invites them.
        outside = self.roles.client is None or self.options.scheduler_file is not None
        host = scheduler_host(self.nodes, rank, outside=outside)
        places = {worker_name(self.options.name, n): self.place(n) for n in self.roles.workers}
        return rank, messages.StartScheduler(host, places)

    def _worker_orders(self) -> Iterator[tuple[int, messages.StartWorker]]:
        workers, name = self.roles.workers, self.options.name
        if self.cluster is None:
            name += f"-{uuid.uuid4().hex[:8]}"  # other jobs may join the same cluster
        nthreads = self.options.nthreads
        settings = worker_settings(self.nodes, workers, name=name, nthreads=nthreads)
        for rank in workers:
            yield rank, messages.StartWorker(settings[rank], announces=rank == workers[0])

    # -- Whether it is over. ---------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many workers the start waits for."""
        wait = self.options.wait_for_workers
        if self.roles.scheduler is None:
            return 0  # the cluster runs without them
        return len(self.roles.workers) if wait is True else int(wait)

    @property
    def everyone_is_ready(self) -> bool:
        return len(self.nodes) == self.size

    @property
    def complete(self) -> bool:
        if self.roles.scheduler is None:
            return self.everyone_is_ready
        if self._measuring is not None:
            return False
        return self.cluster is not None and len(self.workers) >= self.wanted

    @property
    def _measuring(self) -> int | None:
        return None if self.transport is None else self.transport.measuring

    @property
    def missing(self) -> list[int]:
        """The ranks that the start waits for."""
        if not self.everyone_is_ready:
            return [rank for rank in range(self.size) if rank not in self.nodes]
        if self.cluster is None and self.roles.scheduler is not None:
            return [self.roles.scheduler]
        if len(self.workers) >= self.wanted and self._measuring is not None:
            return [self._measuring]
        answered = self.workers.keys() | {rank for rank, _ in self.failures}
        return [rank for rank in self.roles.workers if rank not in answered]

    def raise_if_hopeless(self) -> None:
        """Raise `StartupError` if too many ranks have failed for the start to complete."""
        left = len(self.roles.workers) - self.failed_duties["worker"]
        if self.failed_duties["scheduler"] or left < self.wanted:
            raise self._failed()

    def _failed(self) -> StartupError:
        # A failed scheduler explains all other failures.
        rank, failed = min(self.failures, key=lambda item: item[1].duty != "scheduler")
        others = len(self.failures) - 1
        return StartupError(
            f"the {failed.duty} on {self.place(rank)} did not start: {failed.cause}"
            + (f" (and likewise on {count(others, 'more rank')})" if others else ""),
            rank=rank,
            host=self.host(rank),
        )

    def timed_out(self, timeout: float) -> StartupError:
        """Return the error that names the missing ranks."""
        missing = self.missing
        return StartupError(
            f"the cluster did not start within {timeout:g} s (startup_timeout): {self.progress()}",
            rank=missing[0] if missing else None,
            host=self.host(missing[0]) if missing else None,
        )

    # -- What to say. ----------------------------------------------------------------

    def progress(self) -> str:
        """Describe in a few words how far the start has come, and name the ranks it waits for."""
        named = list_ranks(self.missing, lambda rank: f"{self.place(rank)} ({self.roles.of(rank)})")
        return f"{self._stage()}; no answer from {named}"

    def _stage(self) -> str:
        if not self.everyone_is_ready:
            return f"{len(self.nodes)} of {self.size} ranks are here"
        if self.cluster is None and self.roles.scheduler is not None:
            return "the scheduler is not up"
        up = f"{len(self.workers)} of {len(self.roles.workers)} workers are up"
        if len(self.workers) >= self.wanted and self._measuring is not None:
            return f"{up} and compare MPI with sockets"
        return up

    def host(self, rank: int) -> str | None:
        return self.nodes[rank].host if rank in self.nodes else None

    def place(self, rank: int) -> str:
        """Name a rank and, if known, its host."""
        return name_rank(rank, self.host(rank))


def possible_transport(options: Options, roles: Roles) -> str:
    """Return the option `transport`, or "socket" where the job can use nothing else."""
    only_sockets = roles.scheduler is None or options.nanny or options.protocol is not None
    return "socket" if only_sockets else options.transport


@dataclass
class TransportPlan:
    """Which ranks exchange data by MPI.

    Ranks of one node always do: shared memory beats any socket, and a comparison short enough
    for the start could not tell reliably. Between nodes it depends on the network, so two
    workers measure it; sockets are used until then.
    """

    nodes: Mapping[int, Node]  # of each rank
    everywhere: bool = False  # ranks of different nodes use MPI, too
    unmeasured: bool = False  # the first two workers on different nodes are to measure
    measuring: int | None = None  # the rank that measures now
    _first: int | None = None  # the first worker that was up

    @classmethod
    def of(cls, options: Options, nodes: Mapping[int, Node], roles: Roles) -> TransportPlan | None:
        """Return the plan of a job, or None if all its data goes by sockets."""
        transport = possible_transport(options, roles)
        if transport == "socket" or not has_workers_in_ranks(options):
            return None
        return cls(nodes, everywhere=transport == "mpi", unmeasured=transport == "auto")

    def orders(
        self, rank: int, message: object, workers: Mapping[int, messages.WorkerStarted]
    ) -> Iterator[tuple[int, object]]:
        """Yield (rank, order) pairs that answer a message."""
        match message:
            case messages.ConnectionInfo():
                yield from self._start()
            case messages.WorkerStarted() if self.unmeasured:
                yield from self._measure(rank, workers)
            case messages.Failed(duty="transport"):
                self.measuring = None
            case messages.TransportMeasured(gain):
                self.measuring = None
                if gain >= _WORTHWHILE:
                    self.everywhere = True
                    order = messages.SendByMPI()
                    yield from ((one, order) for one in self.nodes)

    def _start(self) -> Iterator[tuple[int, messages.StartTransport]]:
        # One order a node, so that no rank is sent the list of all ranks.
        job = uuid.uuid4().hex  # a secret of this job
        groups: Sequence[Collection[int]] = self._groups()
        if self.everywhere or len(groups) == 1:
            groups = [range(len(self.nodes))]
        for ranks in groups:
            order = messages.StartTransport(job, ranks)
            yield from ((rank, order) for rank in ranks)

    def _measure(
        self, rank: int, workers: Mapping[int, messages.WorkerStarted]
    ) -> Iterator[tuple[int, messages.MeasureTransport]]:
        if self._first is None:
            self._first = rank
        elif self._node_of(rank) != self._node_of(self._first):
            self.unmeasured, self.measuring = False, self._first
            yield self._first, messages.MeasureTransport(rank, workers[rank].address)

    def _node_of(self, rank: int) -> tuple[str, str]:
        return self.nodes[rank].host, self.nodes[rank].network

    def _groups(self) -> list[frozenset[int]]:
        """Return the ranks of each node."""
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for rank in self.nodes:
            groups[self._node_of(rank)].append(rank)
        return [frozenset(ranks) for ranks in groups.values()]

    def summary(self) -> str:
        groups = self._groups()
        if self.everywhere or (len(groups) == 1 and len(self.nodes) > 1):
            return "data by MPI"
        within = any(len(ranks) > 1 for ranks in groups)
        return "data by MPI within nodes" if within else "data by sockets"
