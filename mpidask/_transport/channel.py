"""Messages between two processes as frames: small ones on a stream, large ones by MPI."""

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

from mpidask._waiting import Changes

if TYPE_CHECKING:
    from mpidask._transport.context import Context
    from mpidask._transport.progress_thread import Transfer

#: Seconds for transfers to complete after the stream has broken.
_GRACE = 5

#: Returns the rank of the peer, if it is one of this job. Only bulk data needs it.
Peer = Callable[[], "int | None"]


class _PendingSend(NamedTuple):
    """Frames that go to a rank by MPI once it is clear to send."""

    rank: int
    frames: list[memoryview]


class Channel:
    """A stream of distributed, with a rendezvous protocol for large frames.

    Messages on the stream are plain, or `Serialized`, so that the stream neither copies nor
    inspects the frames. A header with ``rts`` (request to send) lists index and size of the frames
    that will come by MPI; one with ``cts`` (clear to send) has the tag for the oldest of them.

    Where nothing goes by MPI, `receive` itself reads the stream. Else a task does, `_listen`: a
    CTS must be handled whether or not anybody receives. It queues messages for `receive`, which
    takes one at a time. So a receiver is sent no more bulk data than it asks for, as with a stream.
    """

    def __init__(self, stream: TCP, context: Context | None) -> None:
        self._stream = stream
        stream.deserialize = False
        # So that a write does not suspend midway, and messages of several tasks don't interleave.
        stream.allow_offload = False
        self._context = context
        self._closed = self._aborted = False
        # A factory: a stored exception and its traceback would form a cycle that keeps buffers.
        self._lost: Callable[[], CommClosedError] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._receiving = self._reading = False
        self._changes = Changes()  # something `receive` or `close` may wait for
        self._received: deque[object] = deque()
        self._pending: deque[_PendingSend] = deque()
        self._transfers: set[Transfer] = set()

    def closed(self) -> bool:
        """Whether the channel can no longer be used."""
        return self._closed or self._stream.closed()

    def check_open(self) -> None:
        """Raise CommClosedError if the channel is closed or the stream is broken."""
        if self._closed:
            raise CommClosedError(f"{self._stream!r} is closed")
        if self._lost:
            raise self._lost()

    async def send(self, frames: list[Any], sizes: Sequence[int], peer: Peer) -> None:
        """Send frames of these sizes, or request to send some of them to a rank; never wait."""
        self.check_open()
        bulk = self._context.bulk_frames(sizes) if self._context else []
        rank = peer() if bulk else None
        if self._context is None or rank is None or not self._context.reaches(rank):
            await self._write(Serialized({}, frames))
            return
        self._pending.append(
            _PendingSend(rank, [ensure_memoryview(frames[index]) for index in bulk])
        )
        for index in reversed(bulk):
            del frames[index]
        header = {"rts": [(index, sizes[index]) for index in bulk]}
        await self._write(Serialized(header, frames))
        self._listen()

    async def send_plain(self, message: object) -> int:
        """Send a message as the stream itself does; return its size in bytes."""
        self.check_open()
        return await self._write(message)

    async def receive(self, peer: Peer) -> object:
        """Return the next message: a plain one, or all its frames as `Serialized`.

        Cancelling it aborts the channel.
        """
        try:
            message = await self._next()
            if isinstance(message, Serialized) and (bulk := _validated_bulk(message.header)):
                return await self._completed(message, bulk, peer())
            return message
        except CommClosedError:
            if not self._closed:  # else `close` may still be flushing
                self.abort()
            raise
        except BaseException:
            self.abort()
            raise

    async def close(self) -> None:
        """Close it once pending sends are done, or the peer no longer answers."""
        self._closed = True
        self._changes.notify()
        if self._moving:
            timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.tcp"))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._flushed(), timeout)
        if not self._aborted:
            await self._stream.close()

    def abort(self) -> None:
        """Close it at once for its users, and for the peer when MPI is done."""
        self._closed = self._aborted = True
        self._pending.clear()
        self._changes.notify()
        if self._reading or not self._transfers:
            self._stream.abort()  # which ends the reading, too

    async def _write(self, message: object) -> int:
        try:
            return int(await self._stream.write(message))
        except CommClosedError as error:
            self._break(error)
            raise

    async def _next(self) -> object:
        self._receiving = True
        try:
            while self._closed or not self._received:
                self.check_open()
                if self._moving or self._listening:
                    self._listen()
                    await self._changes.wait()
                else:
                    await self._read_here()
        finally:
            self._receiving = False
        return self._received.popleft()

    async def _completed(
        self, message: Serialized, bulk: list[tuple[int, int]], peer: int | None
    ) -> Serialized:
        """Receive the missing frames of a message by MPI."""
        if self._context is None or peer is None:
            raise CommClosedError(
                f"{self._stream!r} requests to send by MPI, but is not another rank of this job"
            )
        frames = list(message.frames)
        buffers = self._context.allocate([size for _, size in bulk])
        transfer = self._context.progress.receive(peer, buffers)
        arrival = self._track(transfer)
        try:
            await self._clear_to_send(transfer, arrival)
            for (index, _), buffer in zip(bulk, buffers, strict=True):
                frames.insert(index, buffer)
        finally:
            del buffers  # a traceback is a cycle, too: see ProgressThread._end
        return Serialized({}, frames)

    async def _clear_to_send(self, transfer: Transfer, arrival: asyncio.Future[None]) -> None:
        """Let the peer send, and wait until the transfer has ended."""
        assert self._context is not None
        try:
            await self._write(Serialized({"cts": transfer.tag}, []))
        except CommClosedError:
            self._context.progress.give_up(transfer)
            raise
        await asyncio.shield(arrival)

    @property
    def _moving(self) -> bool:
        """Whether transfers are pending or under way."""
        return bool(self._pending or self._transfers)

    @property
    def _listening(self) -> bool:
        return self._listener is not None and not self._listener.done()

    def _listen(self) -> None:
        """Start to read the stream, if nothing reads it."""
        if not self._reading and not self._listening:
            self._listener = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        while self._lost is None and (self._moving or (self._receiving and not self._received)):
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
            self._dispatch(await self._stream.read())
        except BaseException as error:  # CommClosedError, or MemoryError for a frame
            self._break(error)
            if not isinstance(error, Exception):
                raise

    def _dispatch(self, message: object) -> None:
        match message:
            case Serialized(header={"cts": int(tag)}):
                if self._pending and self._context:  # not aborted
                    rank, frames = self._pending.popleft()
                    self._track(self._context.progress.send(rank, tag, frames))
            case _:
                self._received.append(message)
                self._changes.notify()

    def _track(self, transfer: Transfer) -> asyncio.Future[None]:
        """Keep the stream open, and read from it, until a transfer ends."""

        def ended(future: asyncio.Future[None]) -> None:
            self._transfers.discard(transfer)
            self._changes.notify()
            if error := future.exception():
                self._break(error)
            if self._aborted and not self._transfers:
                self._stream.abort()

        self._transfers.add(transfer)
        self._listen()
        future = asyncio.wrap_future(transfer)
        future.add_done_callback(ended)
        return future

    def _break(self, error: BaseException) -> None:
        """Fail everything that depends on the stream, which has ended."""
        if self._lost is not None:
            return
        if isinstance(error, CommClosedError):
            self._lost = partial(type(error), str(error))
        else:
            self._lost = partial(CommClosedError, repr(error))
        self._pending.clear()
        self._stream.abort()
        self._changes.notify()
        for transfer in self._transfers:  # in a thread, as the loop may end
            assert self._context is not None
            timer = threading.Timer(_GRACE, self._context.progress.give_up, [transfer])
            timer.daemon = True
            timer.start()

    async def _flushed(self) -> None:
        await self._changes.until(lambda: not self._moving or self._lost is not None)


def _validated_bulk(header: dict[str, Any]) -> list[tuple[int, int]]:
    """Return index and size of the frames that a request to send lists."""
    bulk = header.get("rts", ())
    for entry in bulk:
        match entry:
            case (int(index), int(size)) if index >= 0 and size > 0:
                continue
            case _:
                raise CommClosedError(f"an invalid request to send by MPI: {entry!r}")
    return list(bulk)
