"""Messages between ranks: non-blocking calls, polled with back-off (see `_waiting`)."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import zlib
from array import array
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mpidask._waiting import Changes, poll

if TYPE_CHECKING:
    from mpi4py import MPI

#: Tags on the private communicator: for the leader, and for every rank.
TO_LEADER, TO_MEMBER = 0, 1
#: How many unsent messages are tested whenever one is sent or received.
_TESTED = 4
#: Seconds between polls, at most, while a message is arriving.
_ARRIVING = 0.02
#: Bytes from which a message is compressed.
_LARGE = 1024


class _Arriving(NamedTuple):
    """A message whose receive has been posted, maybe complete."""

    source: int
    buffer: bytearray
    request: MPI.Request


class Communicator:
    """The private communicator of one cluster, which `number` clusters have used before.

    Ranks that are done early may send messages of the next cluster while others still wait for
    those of this one, so tags differ.
    """

    def __init__(self, comm: MPI.Intracomm, number: int) -> None:
        self._comm = comm
        self._first_tag = number % 10_000 * 2  # MPI guarantees tags up to 32767
        self._unsent: deque[MPI.Request] = deque()
        self._inboxes: dict[int, list[_Arriving]] = defaultdict(list)
        self._last: tuple[object, bytes] | None = None
        self._changes = Changes()
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    @property
    def mpi(self) -> MPI.Intracomm:
        """The communicator of mpi4py; messages sent outside this class use tags from 20002 on."""
        return self._comm

    def send(self, rank: int, tag: int, message: object) -> None:
        """Begin to send a message; delivery needs polling, which is frequent from now on."""
        from mpi4py import MPI

        request = self._comm.Isend([self._packed(message), MPI.BYTE], rank, self._first_tag + tag)
        self._unsent.append(request)
        self._forget_sent(_TESTED)
        self.wake()

    def _packed(self, message: object) -> bytes:
        """Pack a message, but only once if it goes to many ranks in a row."""
        if self._last is None or self._last[0] is not message:
            self._last = message, pack(message)
        return self._last[1]

    def _forget_sent(self, number: int) -> bool:
        """Drop sent messages among the oldest `number`, and return whether all have been sent.

        Only a few are tested at a time, so that n messages cost O(n); and in turn, so that a
        message to a dead rank does not block the others.
        """
        for _ in range(min(number, len(self._unsent))):
            request = self._unsent.popleft()
            if not request.Test():
                self._unsent.append(request)
        return not self._unsent

    async def flush(self) -> None:
        """Wait until everything has been sent, for a second at most."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(self._all_sent), 1)

    def _all_sent(self) -> bool:
        return self._forget_sent(len(self._unsent))

    async def maximum(self, values: Sequence[int]) -> list[int]:
        """Return the elementwise maximum over all ranks (a collective call)."""
        from mpi4py import MPI

        own, largest = array("q", values), array("q", values)
        request = self._comm.Iallreduce([own, MPI.INT64_T], [largest, MPI.INT64_T], MPI.MAX)
        await poll(request.Test)
        return list(largest)

    def wake(self) -> None:
        """Poll at once, and often for a while: another rank has sent something."""
        self._changes.notify()

    async def receive(self, tag: int, *, longest: float = 0.02) -> tuple[int, Any]:
        """Return the sender and the next message, polling every `longest` seconds at least.

        If cancelled, messages that are arriving are kept for the next call.
        """
        while True:
            # A large message makes progress only while both sides poll.
            pause = min(longest, _ARRIVING) if self._inboxes[tag] else longest
            found = await poll(lambda: self._look(tag), longest=pause, changes=self._changes)
            if isinstance(found, tuple):
                return found

    def _look(self, tag: int) -> tuple[int, Any] | bool:
        """Return a complete message, or whether a further one has begun to arrive."""
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
    """Remove and return a complete message, in the order of each sender."""
    waiting = set()
    for number, (source, buffer, request) in enumerate(inbox):
        if source not in waiting and request.Test():
            del inbox[number]
            return source, unpack(buffer)
        waiting.add(source)  # a dead or busy sender does not delay others
    return None


def pack(message: object) -> bytes:
    """Pickle a message, compressed if it is large, such as credentials."""
    data = pickle.dumps(message)
    return zlib.compress(data) if len(data) > _LARGE else data


def unpack(data: bytes | bytearray) -> Any:
    """Undo `pack`."""
    return pickle.loads(data if data.startswith(pickle.PROTO) else zlib.decompress(data))
