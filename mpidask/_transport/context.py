"""What a process needs to use MPI for its comms: the policy, the buffers, the progress thread."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from mpidask._transport.buffer_pool import BufferPool

if TYPE_CHECKING:
    from mpidask._transport.progress_thread import ProgressThread

#: Bytes below which a frame always goes with the request to send.
_SMALL_FRAME = 2**16

_current: Context | None = None


class Context:
    """MPI as the comms of this rank use it.

    Parameters
    ----------
    progress : ProgressThread
        Sends and receives.
    job, peers, threshold, pool
        As in `mpidask._transport.enable`.
    """

    def __init__(
        self,
        progress: ProgressThread,
        *,
        job: str,
        peers: Container[int],
        threshold: int,
        pool: int,
    ) -> None:
        self.progress = progress
        self._job = job
        self.peers = peers
        self.threshold = threshold
        self.pool = BufferPool(pool)

    @property
    def identity(self) -> dict[str, Any]:
        """What a comm tells its peer about this rank in the handshake."""
        return {"job": self._job, "rank": self.progress.rank}

    def rank_of(self, identity: object) -> int | None:
        """Return the rank behind a peer's identity if it is another rank of this job."""
        match identity:
            case {"job": self._job, "rank": int(rank)} if 0 <= rank < self.progress.size:
                return rank if rank != self.progress.rank else None  # MPI to self is slow
            case _:
                return None

    def reaches(self, rank: int) -> bool:
        """Whether this rank may send to another one by MPI."""
        return self.progress.usable and rank in self.peers

    def bulk_frames(self, sizes: Sequence[int]) -> list[int]:
        """Return the indices of the frames of a message that should go by MPI."""
        if sum(sizes) < self.threshold:
            return []
        least = min(_SMALL_FRAME, max(1, self.threshold))
        chosen = [index for index, size in enumerate(sizes) if size >= least]
        return chosen if sum(sizes[index] for index in chosen) >= self.threshold else []

    def allocate(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return buffers of the pool for frames of these sizes."""
        return [self.pool.take(size) for size in sizes]


def current() -> Context | None:
    """Return the context of this process, if it uses MPI now."""
    return _current


def replace(context: Context | None) -> Context | None:
    """Make it the context of all new comms of this process; return the previous one."""
    global _current
    previous, _current = _current, context
    return previous
