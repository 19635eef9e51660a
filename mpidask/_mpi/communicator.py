"""The communicator as mpidask sees it: messages between ranks, polled, never spinning.

MPI's blocking calls spin: a rank that waits in one burns a core, which the rank it
waits for may need. Here every wait is a non-blocking call that is tested again and
again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import zlib
from array import array
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mpidask._waiting import Waker, poll

if TYPE_CHECKING:
    from mpi4py import MPI

#: Tags on the private communicator: what the leader reads, and what every rank reads.
TO_LEADER, TO_MEMBER = 0, 1
#: Unsent messages that are looked at with each one that is sent or received.
_TESTED = 4
#: Seconds between looks, at most, at a message that has begun to arrive.
_ARRIVING = 0.02
#: Bytes from which a message is compressed.
_LARGE = 1024


class _Arriving(NamedTuple):
    """A message that is being received, maybe complete."""

    source: int
    buffer: bytearray
    request: MPI.Request


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
        self._unsent: deque[MPI.Request] = deque()
        self._inboxes: dict[int, list[_Arriving]] = defaultdict(list)
        self._last: tuple[object, bytes] | None = None
        self._waker = Waker()
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    @property
    def mpi(self) -> MPI.Intracomm:
        """The private communicator; messages of others than this class have tags from 20002 on."""
        return self._comm

    def send(self, rank: int, tag: int, message: object) -> None:
        """Send a message; delivery goes on while this rank polls, which it does often now."""
        from mpi4py import MPI

        request = self._comm.Isend([self._packed(message), MPI.BYTE], rank, self._first_tag + tag)
        self._unsent.append(request)
        self._forget_sent(_TESTED)
        self.wake()

    def _packed(self, message: object) -> bytes:
        """Pack a message; the same one that goes to many ranks, in a row, is packed once."""
        if self._last is None or self._last[0] is not message:
            self._last = message, pack(message)
        return self._last[1]

    def _forget_sent(self, number: int) -> bool:
        """Drop what has been sent among the oldest of the unsent; tell whether none is left.

        Few at a time, so that the work for n messages to n ranks grows with n; and in turn, so
        that a message to a dead rank does not keep all others.
        """
        for _ in range(min(number, len(self._unsent))):
            request = self._unsent.popleft()
            if not request.Test():
                self._unsent.append(request)
        return not self._unsent

    async def flush(self) -> None:
        """Wait until everything sent is on its way, but no longer than a second."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(self._all_sent), 1)

    def _all_sent(self) -> bool:
        return self._forget_sent(len(self._unsent))

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
        """Wait for the next message, with pauses of at most `longest` seconds.

        Nothing is lost if this is cancelled: what has begun to arrive is kept for the next call.
        """
        while True:
            # A large message is on its way only while its sender polls: look often.
            pause = min(longest, _ARRIVING) if self._inboxes[tag] else longest
            found = await poll(lambda: self._look(tag), longest=pause, waker=self._waker)
            if isinstance(found, tuple):
                return found

    def _look(self, tag: int) -> tuple[int, Any] | bool:
        """Give a message that has arrived, or else tell whether one more is on its way."""
        from mpi4py import MPI

        self._forget_sent(_TESTED)
        status, inbox = MPI.Status(), self._inboxes[tag]
        matched = self._comm.improbe(tag=self._first_tag + tag, status=status)
        if matched is not None:
            buffer = bytearray(status.Get_count(MPI.BYTE))
            request = matched.Irecv([buffer, MPI.BYTE])
            inbox.append(_Arriving(status.Get_source(), buffer, request))
        return _take_arrived(inbox) or matched is not None


def _take_arrived(inbox: list[_Arriving]) -> tuple[int, Any] | None:
    """Take a message that is complete, keeping the order of those of one sender."""
    waiting = set()
    for number, (source, buffer, request) in enumerate(inbox):
        if source not in waiting and request.Test():
            del inbox[number]
            return source, unpack(buffer)
        waiting.add(source)  # one that is dead, or busy, holds up no others
    return None


def pack(message: object) -> bytes:
    """Make bytes of a message; what is large, such as credentials, is compressed."""
    data = pickle.dumps(message)
    return zlib.compress(data) if len(data) > _LARGE else data


def unpack(data: bytes | bytearray) -> Any:
    """Make the message of bytes that `pack` has made."""
    return pickle.loads(data if data.startswith(pickle.PROTO) else zlib.decompress(data))
