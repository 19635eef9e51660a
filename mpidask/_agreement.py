"""What ranks tell each other, and what the leader makes of it.

Every rank reports to one, the leader (the client rank, where there is one). The leader
decides: did the cluster start, and with which status does everybody leave?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mpidask._errors import StartupError
from mpidask._node import Node
from mpidask._roles import Roles

# -- To the leader -------------------------------------------------------------------


@dataclass(frozen=True)
class Here:
    """A rank has arrived."""

    node: Node


@dataclass(frozen=True)
class Cluster:
    """The scheduler runs: how to reach it, and its dashboard."""

    address: str
    security: Any = None
    dashboard: str | None = None
    tunnel: str | None = None


@dataclass(frozen=True)
class WorkerStarted:
    """A worker has registered with the scheduler."""

    nthreads: int
    memory_limit: int | None


@dataclass(frozen=True)
class Finished:
    """A rank's scheduler was shut down, or its worker retired for good."""

    duty: str


@dataclass(frozen=True)
class Failed:
    """A rank could not start, or go on with, its part."""

    duty: str
    cause: str


@dataclass(frozen=True)
class Signalled:
    """A rank was sent a signal that ends programs."""

    signum: int


@dataclass(frozen=True)
class Done:
    """A rank has stopped all it ran, but for the tasks named."""

    stuck: tuple[str, ...] = ()


# -- To the members ------------------------------------------------------------------


@dataclass(frozen=True)
class StartScheduler:
    """Start the scheduler on this address (None: distributed chooses)."""

    host: str | None


@dataclass(frozen=True)
class StartWorker:
    """Start a worker; `sharers` ranks share the memory of its node.

    Without a cluster, the worker joins the one that the options name.
    """

    cluster: Cluster | None
    nthreads: int
    sharers: int
    name: str


@dataclass(frozen=True)
class Running:
    """The cluster is up, the user's function starts."""


@dataclass(frozen=True)
class End:
    """Stop everything. Then leave the program with `status`, or go on with it."""

    status: int
    leave: bool


# -- What the leader knows -----------------------------------------------------------


@dataclass
class Startup:
    """How far the start has come.

    Attributes
    ----------
    roles : Roles
    wanted : int
        How many workers must be up.
    """

    roles: Roles
    size: int
    wanted: int
    nodes: dict[int, Node] = field(default_factory=dict)
    cluster: Cluster | None = None
    workers: dict[int, WorkerStarted] = field(default_factory=dict)
    failures: dict[int, Failed] = field(default_factory=dict)

    def hear(self, rank: int, message: object) -> None:
        """Take note of a message to the leader."""
        match message:
            case Here(node):
                self.nodes[rank] = node
            case Cluster():
                self.cluster = message
            case WorkerStarted():
                self.workers[rank] = message
            case Failed():
                self.failures[rank] = message

    @property
    def everyone_is_here(self) -> bool:
        return len(self.nodes) == self.size

    @property
    def complete(self) -> bool:
        if self.roles.scheduler is None:
            return self.everyone_is_here
        return self.cluster is not None and len(self.workers) >= self.wanted

    @property
    def missing(self) -> list[int]:
        """The ranks the start waits for."""
        if not self.everyone_is_here:
            return [rank for rank in range(self.size) if rank not in self.nodes]
        if self.cluster is None and self.roles.scheduler is not None:
            return [self.roles.scheduler]
        answered = self.workers.keys() | self.failures.keys()
        return [rank for rank in self.roles.workers if rank not in answered]

    def raise_if_hopeless(self) -> None:
        """Raise `StartupError` if so many have failed that the start can't complete."""
        lost = [rank for rank, failed in self.failures.items() if failed.duty == "worker"]
        scheduler_lost = any(failed.duty == "scheduler" for failed in self.failures.values())
        if scheduler_lost or len(self.roles.workers) - len(lost) < self.wanted:
            raise self.failed()

    def failed(self) -> StartupError:
        """Make the error that says what failed."""
        # Without a scheduler nothing starts; else the first one has the say.
        rank, failed = min(self.failures.items(), key=lambda item: item[1].duty != "scheduler")
        others = len(self.failures) - 1
        return StartupError(
            f"the {failed.duty} on {self.place(rank)} did not start: {failed.cause}"
            + (f" (and so on {others} more rank{'s' * (others > 1)})" if others else ""),
            rank=rank,
            host=self.host(rank),
        )

    def timed_out(self, timeout: float) -> StartupError:
        """Make the error that says who is missing."""
        missing = self.missing
        duties = ", ".join(f"{self.place(rank)} ({self.roles.of(rank)})" for rank in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        return StartupError(
            f"the cluster did not start within {timeout:g} s (startup_timeout): "
            f"{self.progress()}; no answer from {duties}{more}",
            rank=missing[0] if missing else None,
            host=self.host(missing[0]) if missing else None,
        )

    def progress(self) -> str:
        """Say how many of how many are there."""
        if not self.everyone_is_here:
            return f"{len(self.nodes)} of {self.size} ranks are here"
        if self.cluster is None and self.roles.scheduler is not None:
            return "the scheduler is not up"
        return f"{len(self.workers)} of {len(self.roles.workers)} workers are up"

    def host(self, rank: int) -> str | None:
        return self.nodes[rank].host if rank in self.nodes else None

    def place(self, rank: int) -> str:
        """Name a rank and its host."""
        host = self.host(rank)
        return f"rank {rank}" + (f" on {host}" if host else "")

    def summary(self) -> str:
        """Describe the cluster, or this job's part of it, in one line."""
        from dask.utils import format_bytes

        up, all_workers = len(self.workers), len(self.roles.workers)
        workers = _count(all_workers, "worker")
        hosts = {self.nodes[rank].host for rank in self.workers}
        limits = [worker.memory_limit for worker in self.workers.values()]
        memory = sum(limit or 0 for limit in limits)
        parts = [
            f"{workers if up == all_workers else f'{up} of {workers}'}"
            f" on {_count(len(hosts), 'node')}",
            _count(sum(worker.nthreads for worker in self.workers.values()), "thread"),
            f"{format_bytes(memory)} memory" if all(limits) else "memory not limited",
        ]
        if self.cluster is None:
            return "joined with " + ", ".join(parts)
        parts.append(f"scheduler {self.cluster.address}")
        if self.cluster.security is None:
            parts.append("open to everyone who can reach it")
        if self.cluster.dashboard:
            tunnel = f" (from outside: {self.cluster.tunnel})" if self.cluster.tunnel else ""
            parts.append(f"dashboard {self.cluster.dashboard}{tunnel}")
        return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
