"""Messages between two processes, as frames: small ones on a stream, large ones by MPI."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
from dask.utils import parse_timedelta
from distributed.comm.core import CommClosedError
from distributed.comm.tcp import TCP
from distributed.protocol.serialize import Serialized
from distributed.utils import ensure_memoryview

if TYPE_CHECKING:
    from mpidask._transport.fabric import Fabric
    from mpidask._transport.mover import Transfer

#: Seconds for what was sent to arrive after the stream has ended.
_GRACE = 5

#: Finds the rank of the other end, if it is one of this job: only bulk needs it.
Peer = Callable[[], "int | None"]


class _Announced(NamedTuple):
    """Frames that go to a rank by MPI when it has cleared them."""

    rank: int
    frames: list[memoryview]


class Channel:
    """A stream of distributed's own that announces large frames, and MPI that moves them.

    Messages on the stream are plain, or `Serialized`, so that the stream neither copies nor looks
    into the frames. The header of one that announces has the numbers and sizes of the frames that
    come by MPI as ``bulk``; one that clears the oldest announcement has the tag as ``clear``.

    Who reads the stream? Where nothing goes by MPI, `receive` itself. Else `_listen`, a task: the
    word that clears a message arrives whether anybody receives or not. It puts messages aside for
    `receive`, which takes one after the other. So a receiver is sent no more bulk than it asks
    for, as with a stream.
    """

    def __init__(self, stream: TCP, fabric: Fabric | None) -> None:
        self._stream = stream
        stream.deserialize = False
        # Nothing within a write suspends it: messages of several tasks stay whole.
        stream.allow_offload = False
        self._fabric = fabric
        self._closed = self._aborted = False
        # Makes the error to raise: one that is kept, with its traceback, is a cycle with buffers.
        self._lost: Callable[[], CommClosedError] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._receiving = self._reading = False
        self._news = asyncio.Event()  # set by whatever `receive` or `close` may wait for
        self._arrived: deque[object] = deque()
        self._announced: deque[_Announced] = deque()
        self._transfers: set[Transfer] = set()

    def closed(self) -> bool:
        """Tell whether the channel is of no more use."""
        return self._closed or self._stream.closed()

    def check_open(self) -> None:
        """Raise CommClosedError if it is closed, or the stream has ended."""
        if self._closed:
            raise CommClosedError(f"{self._stream!r} is closed")
        if self._lost:
            raise self._lost()

    async def send(self, frames: list[Any], sizes: Sequence[int], peer: Peer) -> None:
        """Send frames of these sizes, or announce some to a rank; wait for nothing."""
        self.check_open()
        bulk = self._fabric.bulk(sizes) if self._fabric else []
        rank = peer() if bulk else None
        if self._fabric is None or rank is None or not self._fabric.reaches(rank):
            await self._tell(Serialized({}, frames))
            return
        self._announced.append(_Announced(rank, [ensure_memoryview(frames[n]) for n in bulk]))
        for number in reversed(bulk):
            del frames[number]
        header = {"bulk": [(number, sizes[number]) for number in bulk]}
        await self._tell(Serialized(header, frames))
        self._listen()

    async def send_plain(self, message: object) -> int:
        """Send a message as the stream itself does; give its size in bytes."""
        self.check_open()
        return await self._tell(message)

    async def receive(self, peer: Peer) -> object:
        """Give the next message: a plain one, or frames, some from a rank, as `Serialized`.

        If it is cancelled, the channel is lost.
        """
        try:
            message = await self._next()
            if isinstance(message, Serialized) and (bulk := _checked_bulk(message.header)):
                return await self._completed(message, bulk, peer())
            return message
        except CommClosedError:
            if not self._closed:  # else `close` may still wait for what was announced
                self.abort()
            raise
        except BaseException:
            self.abort()
            raise

    async def close(self) -> None:
        """Close it when what was announced is sent, or the other end no longer answers."""
        self._closed = True
        self._news.set()
        if self._moving:
            timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.tcp"))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._flushed(), timeout)
        if not self._aborted:
            await self._stream.close()

    def abort(self) -> None:
        """Close it at once for its users, and for the other end when MPI is done."""
        self._closed = self._aborted = True
        self._announced.clear()
        self._news.set()
        if self._reading or not self._transfers:
            self._stream.abort()  # which ends the reading, too

    async def _tell(self, message: object) -> int:
        try:
            return int(await self._stream.write(message))
        except CommClosedError as error:
            self._lose(error)
            raise

    async def _next(self) -> object:
        self._receiving = True
        try:
            while self._closed or not self._arrived:
                self.check_open()
                if self._moving or self._listening:
                    self._listen()
                    await self._any_news()
                else:
                    await self._read_here()
        finally:
            self._receiving = False
        return self._arrived.popleft()

    async def _completed(
        self, message: Serialized, bulk: list[tuple[int, int]], peer: int | None
    ) -> Serialized:
        """Complete a message by what comes by MPI."""
        if self._fabric is None or peer is None:
            raise CommClosedError(
                f"{self._stream!r} announces MPI, but is no other rank of this job"
            )
        frames = list(message.frames)
        buffers = self._fabric.buffers([size for _, size in bulk])
        transfer = self._fabric.receive(peer, buffers)
        arrival = self._follow(transfer)
        try:
            await self._arriving(transfer, arrival)
            for (number, _), buffer in zip(bulk, buffers, strict=True):
                frames.insert(number, buffer)
        finally:
            del buffers  # a traceback is a cycle too: see Mover._end
        return Serialized({}, frames)

    async def _arriving(self, transfer: Transfer, arrival: asyncio.Future[None]) -> None:
        """Clear a transfer, and wait until it has ended."""
        assert self._fabric is not None
        try:
            await self._tell(Serialized({"clear": transfer.tag}, []))
        except CommClosedError:
            self._fabric.give_up(transfer)
            raise
        await asyncio.shield(arrival)

    @property
    def _moving(self) -> bool:
        """Whether MPI has something to move, now or when it is cleared."""
        return bool(self._announced or self._transfers)

    @property
    def _listening(self) -> bool:
        return self._listener is not None and not self._listener.done()

    def _listen(self) -> None:
        """Have the stream read, if it is not."""
        if not self._reading and not self._listening:
            self._listener = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        while self._lost is None and (self._moving or (self._receiving and not self._arrived)):
            await self._read()

    async def _read_here(self) -> None:
        self._reading = True
        try:
            await self._read()
        finally:
            self._reading = False
            if self._moving and self._lost is None:
                self._listen()

    async def _read(self) -> None:
        try:
            self._take(await self._stream.read())
        except BaseException as error:  # CommClosedError, or no memory for a frame
            self._lose(error)
            if not isinstance(error, Exception):
                raise

    def _take(self, message: object) -> None:
        match message:
            case Serialized(header={"clear": int(tag)}):
                if self._announced and self._fabric:  # not aborted
                    rank, frames = self._announced.popleft()
                    self._follow(self._fabric.send(rank, tag, frames))
            case _:
                self._arrived.append(message)
                self._news.set()

    def _follow(self, transfer: Transfer) -> asyncio.Future[None]:
        """Keep the stream open, and listen to it, until a transfer ends."""

        def ended(future: asyncio.Future[None]) -> None:
            self._transfers.discard(transfer)
            self._news.set()
            if error := future.exception():
                self._lose(error)
            if self._aborted and not self._transfers:
                self._stream.abort()

        self._transfers.add(transfer)
        self._listen()
        future = asyncio.wrap_future(transfer)
        future.add_done_callback(ended)
        return future

    def _lose(self, error: BaseException) -> None:
        """Take note that the stream has ended."""
        if self._lost is not None:
            return
        if isinstance(error, CommClosedError):
            self._lost = partial(type(error), str(error))
        else:
            self._lost = partial(CommClosedError, repr(error))
        self._announced.clear()
        self._stream.abort()
        self._news.set()
        for transfer in self._transfers:  # in a thread, as the loop may end
            assert self._fabric is not None
            timer = threading.Timer(_GRACE, self._fabric.give_up, [transfer])
            timer.daemon = True
            timer.start()

    async def _any_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _flushed(self) -> None:
        while self._moving and self._lost is None:
            await self._any_news()


def _checked_bulk(header: dict[str, Any]) -> list[tuple[int, int]]:
    """Give number and size of the frames that come by MPI, as a header announces them."""
    bulk = header.get("bulk", ())
    for entry in bulk:
        match entry:
            case (int(number), int(size)) if number >= 0 and size > 0:
                continue
            case _:
                raise CommClosedError(f"a message announces what can't be: {entry!r}")
    return list(bulk)
