"""What the leader knows of the start: how far it has come, and who is missing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

from mpidask._errors import StartupError
from mpidask._lifecycle.messages import ConnectionInfo, Failed, RankReady, WorkerStarted
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.transport_plan import TransportPlan
from mpidask._log import logger
from mpidask._placement.node import Node

#: Seconds between messages while the start takes long.
_PROGRESS_INTERVAL = 10


@dataclass
class Startup:
    """How far the start has come.

    Attributes
    ----------
    roles : Roles
    wanted : int
        How many workers must be up.
    transport : TransportPlan, optional
        Between which ranks data goes by MPI.
    """

    roles: Roles
    size: int
    wanted: int
    nodes: dict[int, Node] = field(default_factory=dict)
    cluster: ConnectionInfo | None = None
    workers: dict[int, WorkerStarted] = field(default_factory=dict)
    failures: list[tuple[int, Failed]] = field(default_factory=list)
    failed_duties: Counter[str] = field(default_factory=Counter)
    transport: TransportPlan | None = None
    _alike: dict[Node, Node] = field(default_factory=dict)

    def hear(self, rank: int, message: object) -> None:
        """Take note of a message to the leader."""
        match message:
            case RankReady(node):
                # Unbound ranks of a host tell the same, with hundreds of CPUs: keep it once.
                self.nodes[rank] = self._alike.setdefault(node, node)
            case ConnectionInfo():
                self.cluster = message
            case WorkerStarted():
                self.workers[rank] = message
            case Failed(duty="scheduler" | "worker", final=True):
                self.failures.append((rank, message))
                self.failed_duties[message.duty] += 1

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
        """The ranks the start waits for."""
        if not self.everyone_is_ready:
            return [rank for rank in range(self.size) if rank not in self.nodes]
        if self.cluster is None and self.roles.scheduler is not None:
            return [self.roles.scheduler]
        if len(self.workers) >= self.wanted and self._measuring is not None:
            return [self._measuring]
        answered = self.workers.keys() | {rank for rank, _ in self.failures}
        return [rank for rank in self.roles.workers if rank not in answered]

    def raise_if_hopeless(self) -> None:
        """Raise `StartupError` if so many have failed that the start can't complete."""
        left = len(self.roles.workers) - self.failed_duties["worker"]
        if self.failed_duties["scheduler"] or left < self.wanted:
            raise self.failed()

    def failed(self) -> StartupError:
        """Make the error that says what failed."""
        # Without a scheduler nothing starts; else the first one has the say.
        rank, failed = min(self.failures, key=lambda item: item[1].duty != "scheduler")
        others = len(self.failures) - 1
        return StartupError(
            f"the {failed.duty} on {self.place(rank)} did not start: {failed.cause}"
            + (f" (and likewise on {others} more rank{'s' * (others > 1)})" if others else ""),
            rank=rank,
            host=self.host(rank),
        )

    def timed_out(self, timeout: float) -> StartupError:
        """Make the error that says who is missing."""
        missing = self.missing
        named = some_of(missing, lambda rank: f"{self.place(rank)} ({self.roles.of(rank)})")
        return StartupError(
            f"the cluster did not start within {timeout:g} s (startup_timeout): "
            f"{self.progress()}; no answer from {named}",
            rank=missing[0] if missing else None,
            host=self.host(missing[0]) if missing else None,
        )

    def progress(self) -> str:
        """Say how many of how many are there."""
        if not self.everyone_is_ready:
            return f"{len(self.nodes)} of {self.size} ranks are here"
        if self.cluster is None and self.roles.scheduler is not None:
            return "the scheduler is not up"
        up = f"{len(self.workers)} of {len(self.roles.workers)} workers are up"
        if len(self.workers) >= self.wanted and self._measuring is not None:
            return f"{up}, {self.place(self._measuring)} compares MPI with sockets"
        return up

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
        parts.append(self.transport.summary() if self.transport else "data by sockets")
        parts.append(f"scheduler {self.cluster.address}")
        if self.cluster.security is None:
            parts.append("open to everyone who can reach it")
        if self.cluster.dashboard:
            tunnel = f" (from outside: {self.cluster.tunnel})" if self.cluster.tunnel else ""
            parts.append(f"dashboard {self.cluster.dashboard}{tunnel}")
            if self.cluster.dashboard_open_to:
                parts.append(f"open to {self.cluster.dashboard_open_to}")
        return ", ".join(parts)


def some_of(ranks: Collection[int], name: Callable[[int], str]) -> str:
    """Name ranks in a message, the first 20 of many."""
    more = f" and {len(ranks) - 20} more" if len(ranks) > 20 else ""
    return ", ".join(map(name, sorted(ranks)[:20])) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.asynccontextmanager
async def reporting_progress(
    progress: Callable[[], str],
    *,
    what: str = "starting",
    first: float | None = None,
    interval: float | None = None,
) -> AsyncIterator[None]:
    """Say again and again how far a start, or an end, has come that takes long.

    Parameters
    ----------
    progress : callable
        Says how far.
    what : str
        What takes long.
    first, interval : float, optional
        Seconds until the first word, and between words; `first` is `interval` by default.
    """
    interval = interval or _PROGRESS_INTERVAL

    async def tell() -> None:
        pause = first or interval
        for waited in itertools.count(pause, interval):
            await asyncio.sleep(pause)
            logger.info("%s for %d s: %s", what, waited, progress())
            pause = interval

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
