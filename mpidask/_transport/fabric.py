"""What a rank needs to use MPI: whom it may send to, by what, and from which size."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from distributed.comm.core import CommClosedError

from mpidask._transport.buffers import Pool

if TYPE_CHECKING:
    from mpidask._transport.mover import Mover, Transfer

#: Bytes below which a frame always goes with the announcement.
_SMALL_FRAME = 2**16

_current: Fabric | None = None


class Fabric:
    """The MPI of a rank, as its comms use it.

    Parameters
    ----------
    mover : Mover
        Sends and receives.
    job, peers, threshold, pool
        As in `mpidask._transport.enable`.
    """

    def __init__(
        self, mover: Mover, *, job: str, peers: Container[int], threshold: int, pool: int
    ) -> None:
        self._mover = mover
        self._job = job
        self.peers = peers
        self.threshold = threshold
        self.pool = Pool(pool)
        self._open = True
        self.traffic = {"sent": 0, "received": 0}
        self._counting = threading.Lock()  # a rank may have several event loops

    @property
    def works(self) -> bool:
        """Whether this rank can use MPI now."""
        return self._open and self._mover.works

    @property
    def identity(self) -> dict[str, Any]:
        """What a comm tells its other end of this rank."""
        return {"job": self._job, "rank": self._mover.rank}

    def rank_of(self, identity: object) -> int | None:
        """Give the rank that the other end of a comm is, if it is another one of this job."""
        match identity:
            case {"job": self._job, "rank": int(rank)} if 0 <= rank < self._mover.size:
                return rank if rank != self._mover.rank else None  # MPI to oneself is slow
            case _:
                return None

    def bulk(self, sizes: Sequence[int]) -> list[int]:
        """Choose the frames of a message that should go by MPI, by their numbers."""
        if sum(sizes) < self.threshold:
            return []
        least = min(_SMALL_FRAME, max(1, self.threshold))
        chosen = [number for number, size in enumerate(sizes) if size >= least]
        return chosen if sum(sizes[number] for number in chosen) >= self.threshold else []

    def reaches(self, rank: int) -> bool:
        """Tell whether this rank sends to another one by MPI."""
        return self.works and rank in self.peers

    def send(self, rank: int, tag: int, frames: Sequence[memoryview]) -> Transfer:
        """Send frames that a rank waits for."""
        self._check()
        self._count("sent", frames)
        return self._mover.send(rank, tag, frames)

    def buffers(self, sizes: Sequence[int]) -> list[memoryview]:
        """Give memory for frames of these sizes."""
        return [self.pool.take(size) for size in sizes]

    def receive(self, rank: int, buffers: Sequence[memoryview]) -> Transfer:
        """Receive frames from a rank."""
        self._check()
        self._count("received", buffers)
        return self._mover.receive(rank, buffers)

    def give_up(self, transfer: Transfer) -> None:
        """Wait no longer for a rank to send."""
        self._mover.give_up(transfer)

    def stop(self, timeout: float) -> bool:
        """End it, as `mpidask._transport.disable` does."""
        self._open = False
        return self._mover.stop(timeout)

    def _count(self, what: str, buffers: Sequence[memoryview]) -> None:
        with self._counting:
            self.traffic[what] += sum(buffer.nbytes for buffer in buffers)

    def _check(self) -> None:
        if not self.works:
            raise CommClosedError("this rank no longer uses MPI")


def current() -> Fabric | None:
    """Give the fabric of this process, if it has one now."""
    return _current


def replace(fabric: Fabric | None) -> Fabric | None:
    """Make it the fabric of new comms of this process, and give the one before."""
    global _current
    before, _current = _current, fabric
    return before
