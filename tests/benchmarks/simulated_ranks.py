"""A leader whose other ranks are simulated: they answer at once, in messages made before."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import Any
from unittest import mock

from mpidask._dask.security import make_security
from mpidask._lifecycle import leader as leaders
from mpidask._lifecycle import messages as m
from mpidask._lifecycle.roles import assign_roles
from mpidask._mpi.communicator import TO_LEADER, pack, unpack
from mpidask._options import Options
from mpidask._placement.node import Node
from mpidask._waiting import Deadline

RANKS_PER_NODE = 64


class SimulatedRanks:
    """The communicator of the leader: all other ranks answer at once, in messages made before.

    Messages are packed and unpacked on the leader's side as with MPI, which itself is left out.
    """

    rank = 1

    def __init__(self, size: int, cluster: m.ConnectionInfo) -> None:
        self.size = size
        self.bytes: Counter[str] = Counter()
        self._last: tuple[object, bytes] | None = None
        self._cluster = pack(cluster)
        self._measured, self._done = pack(m.TransportMeasured(2.0)), pack(m.Done())
        self._up = [
            pack(m.WorkerStarted(1, 2**31, f"mpi://10.0.{rank // 256}.{rank % 256}:40000"))
            for rank in range(size)
        ]
        self._inbox: deque[tuple[int, bytes]] = deque()
        for rank in range(size):
            self._answer(rank, pack(m.RankReady(node_of(rank))))

    def _answer(self, rank: int, data: bytes) -> None:
        self.bytes["to the leader"] += len(data)
        self._inbox.append((rank, data))

    def send(self, rank: int, tag: int, message: object) -> None:
        if self._last is None or self._last[0] is not message:
            self._last = message, pack(message)
        self.bytes[type(message).__name__] += len(self._last[1])
        match message:
            case m.StartScheduler():
                self._answer(rank, self._cluster)
            case m.StartWorker():
                self._answer(rank, self._up[rank])
            case m.MeasureTransport():
                self._answer(rank, self._measured)
            case m.End():
                self._answer(rank, self._done)

    async def receive(self, tag: int, *, longest: float = 0) -> tuple[int, Any]:
        assert tag == TO_LEADER
        while not self._inbox:
            await asyncio.sleep(0.001)
        rank, data = self._inbox.popleft()
        return rank, unpack(data)

    def wake(self) -> None:
        pass


class NoWatch:
    """In place of the connection to a scheduler that there is not."""

    def __init__(self, *args: object) -> None:
        pass

    async def wait_for_death(self, closed: object) -> bool:
        await asyncio.Event().wait()
        return True

    async def wake(self) -> None:
        pass


def node_of(rank: int) -> Node:
    """Describe a node whose ranks may all use all of its CPUs."""
    number = rank // RANKS_PER_NODE
    addresses = (
        f"10.0.{number // 256}.{number % 256}/16",
        f"10.1.{number // 256}.{number % 256}/16",
    )
    cpus = frozenset(range(RANKS_PER_NODE))
    return Node(f"node{number:04}", cpus, RANKS_PER_NODE, addresses, "net:[4026531840]")


async def lead(ranks: int, transport: str) -> tuple[float, float, Counter[str]]:
    """Start and end a job; give the CPU seconds of both, and the bytes of all messages."""
    address = "10.0.0.1"
    cluster = m.ConnectionInfo(
        f"tls://{address}:40000",
        make_security(True),
        f"http://{address}:8787/status",
        f"ssh -N -L 8787:{address}:8787 user@login",
    )
    comm = SimulatedRanks(ranks, cluster)
    options = Options.resolve({"transport": transport})
    leader = leaders.Leader(comm, assign_roles(ranks, options), options, print)
    with mock.patch.object(leaders, "LivenessClient", NoWatch):
        before = time.process_time()
        await leader.start(Deadline(300))
        started = time.process_time()
        await leader.end(m.End(0, leave=True))
    return started - before, time.process_time() - started, comm.bytes
