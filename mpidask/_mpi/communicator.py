"""The communicator as mpidask sees it: messages between ranks, polled, never spinning.

MPI's blocking calls spin: a rank that waits in one burns a core, which the rank it
waits for may need. Here every wait is a non-blocking call that is tested again and
again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpidask._mpi.polling import Waker, poll

if TYPE_CHECKING:
    from mpi4py import MPI

#: Tags on the private communicator: what the leader reads, and what every rank reads.
TO_LEADER, TO_MEMBER = 0, 1


class Communicator:
    """The ranks of one cluster, talking on a private communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The private communicator.
    number : int
        How many clusters have used it before: ranks that are done early may send
        messages of the next cluster while others still wait for those of this one.
    """

    def __init__(self, comm: MPI.Intracomm, number: int) -> None:
        self._comm = comm
        self._first_tag = number % 10_000 * 2  # MPI guarantees tags up to 32767
        self._unsent: list[MPI.Request] = []
        self._waker = Waker()
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    @property
    def mpi(self) -> MPI.Intracomm:
        """The private communicator; messages of others than this class have tags from 20002 on."""
        return self._comm

    def send(self, rank: int, tag: int, message: object) -> None:
        """Send a message; delivery goes on while this rank polls, which it does often now."""
        self._all_sent()
        self._unsent.append(self._comm.isend(message, rank, self._first_tag + tag))
        self.wake()

    async def flush(self) -> None:
        """Wait until everything sent is on its way, but no longer than a second."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(self._all_sent), 1)

    def _all_sent(self) -> bool:
        self._unsent = [request for request in self._unsent if not request.Test()]
        return not self._unsent

    async def maximum(self, values: Sequence[int]) -> list[int]:
        """Give the largest of what all ranks have, for each place, once all have asked."""
        from mpi4py import MPI

        own, largest = array("q", values), array("q", values)
        request = self._comm.Iallreduce([own, MPI.INT64_T], [largest, MPI.INT64_T], MPI.MAX)
        await poll(request.Test)
        return list(largest)

    def wake(self) -> None:
        """Look for messages at once, and often for a while: one is told to be there."""
        self._waker.wake()

    async def receive(self, tag: int, *, longest: float = 0.02) -> tuple[int, Any]:
        """Wait for the next message, with pauses of at most `longest` seconds."""
        from mpi4py import MPI

        status = MPI.Status()
        matched = await poll(lambda: self._probe(tag, status), longest=longest, waker=self._waker)
        # A large message is on its way only while its sender polls.
        request = matched.irecv()
        _, message = await poll(lambda: _completed(request))
        return status.Get_source(), message

    def _probe(self, tag: int, status: MPI.Status) -> MPI.Message | None:
        self._all_sent()
        return self._comm.improbe(tag=self._first_tag + tag, status=status)


def _completed(request: MPI.Request) -> tuple[bool, Any] | None:
    done, message = request.test()
    return (done, message) if done else None
