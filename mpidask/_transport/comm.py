"""A comm whose large messages go by MPI."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_timedelta
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.tcp import TCP
from distributed.comm.utils import from_frames, to_frames
from distributed.protocol.serialize import Serialized
from distributed.utils import ensure_memoryview, nbytes

from mpidask._transport import fabric as fabrics

if TYPE_CHECKING:
    from mpidask._transport.mover import Transfer

#: Seconds for what was sent to arrive after the stream has ended.
_GRACE = 5
#: Larger than any frame: one that goes by MPI needs no shards, nor a copy to join them.
_UNSPLIT = 2**62


class MPIComm(Comm):
    """A stream of distributed's own that announces large messages, and MPI that moves them.

    Messages on the stream are `Serialized`, so the stream neither copies nor looks into the
    frames. The header of one that announces has the numbers and sizes of the frames that
    come by MPI as ``bulk``; one that clears the oldest announcement has the tag as ``clear``.

    Who reads the stream? `_listen`, a task, as long as `read` waits for a message or MPI has
    something to move: the word that clears a message arrives whether anybody reads or not.
    It puts messages aside for `read`, which takes one after the other. So a receiver is sent
    no more bulk than it asks for, as with a stream.
    """

    def __init__(self, stream: TCP, deserialize: bool = True) -> None:
        super().__init__(deserialize)
        self._stream = stream
        stream.deserialize = False
        # Nothing within a write suspends it: messages of several tasks stay whole.
        stream.allow_offload = False
        # distributed.comm.connect() looks for these names.
        self._local_addr, self._peer_addr = stream.local_address, stream.peer_address
        self._fabric = fabrics.current()
        self._closed = self._aborted = False
        self._lost: Exception | None = None
        self._listener: asyncio.Task[None] | None = None
        self._reading = False
        self._news = asyncio.Event()  # set by whatever `read` or `close` may wait for
        self._arrived: deque[Serialized] = deque()
        self._announced: deque[list[memoryview]] = deque()
        self._transfers: set[Transfer] = set()

    @property
    def local_address(self) -> str:
        """The address of this end."""
        return self._local_addr

    @property
    def peer_address(self) -> str:
        """The address of the other end."""
        return self._peer_addr

    @property
    def extra_info(self) -> dict[str, Any]:
        """What the stream knows of the other end, such as its certificate."""
        info: dict[str, Any] = self._stream.extra_info
        return info

    def closed(self) -> bool:
        """Tell whether the comm is of no more use."""
        return self._closed or self._stream.closed()

    def handshake_info(self) -> dict[str, Any]:
        """Tell the other end who this is."""
        info: dict[str, Any] = super().handshake_info()
        return info | ({"mpi": self._fabric.identity} if self._fabric else {})

    @property
    def _peer(self) -> int | None:
        """The rank of the other end."""
        return self._fabric.rank_of(self.remote_info.get("mpi")) if self._fabric else None

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        """Send a message, or announce it; wait for nothing."""
        self._check_open()
        context = {
            "sender": self.local_info,
            "recipient": self.remote_info,
            **self.handshake_options,
        }
        compressed = self.handshake_options.get("compression")
        frames = await to_frames(
            msg,
            allow_offload=self.allow_offload,
            serializers=serializers,
            on_error=on_error,
            context=context,
            frame_split_size=self._stream.max_shard_size if compressed else _UNSPLIT,
        )
        self._check_open()
        sizes = [nbytes(frame) for frame in frames]
        bulk = self._fabric.bulk(self._peer, sizes) if self._fabric else []
        if bulk:
            self._announced.append([ensure_memoryview(frames[number]) for number in bulk])
            for number in reversed(bulk):
                del frames[number]
            await self._tell({"bulk": [(number, sizes[number]) for number in bulk]}, frames)
            self._listen()
        else:
            await self._tell({}, frames)
        return sum(sizes)

    async def read(self, deserializers: Any = None) -> Any:
        """Give the next message; if it is cancelled, the comm is lost, as a stream is."""
        try:
            message = await self._next()
            frames = await self._frames(message)
        except BaseException:
            self.abort()
            raise
        try:
            return await from_frames(
                frames,
                deserialize=self.deserialize,
                deserializers=deserializers,
                allow_offload=self.allow_offload,
            )
        except EOFError:
            self.abort()
            raise CommClosedError("aborted stream on truncated data") from None

    async def close(self) -> None:
        """Close it when what was announced is sent, or the other end no longer answers."""
        self._closed = True
        self._news.set()
        if self._announced or self._transfers:
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
        if not self._transfers:
            self._stream.abort()

    def _check_open(self) -> None:
        if self._closed:
            raise CommClosedError(f"{self!r} is closed")
        if self._lost:
            raise self._lost

    async def _tell(self, header: dict[str, Any], frames: list[Any]) -> None:
        try:
            await self._stream.write(Serialized(header, frames))
        except CommClosedError as error:
            self._lose(error)
            raise

    async def _next(self) -> Serialized:
        self._reading = True
        try:
            while self._closed or not self._arrived:
                self._check_open()
                self._listen()
                await self._any_news()
        finally:
            self._reading = False
        return self._arrived.popleft()

    async def _frames(self, message: Serialized) -> list[Any]:
        """Complete a message by what comes by MPI."""
        frames = list(message.frames)
        bulk = _checked_bulk(message.header)
        if bulk:
            if self._fabric is None or self._peer is None:
                raise CommClosedError(f"{self!r} announces MPI, but is no other rank of this job")
            buffers = self._fabric.buffers([size for _, size in bulk])
            transfer = self._fabric.receive(self._peer, buffers)
            arrival = self._follow(transfer)
            try:
                await self._arriving(transfer, arrival)
                for (number, _), buffer in zip(bulk, buffers, strict=True):
                    frames.insert(number, buffer)
            finally:
                del buffers  # a traceback is a cycle too: see Mover._end
        return frames

    async def _arriving(self, transfer: Transfer, arrival: asyncio.Future[None]) -> None:
        """Clear a transfer, and wait until it has ended."""
        assert self._fabric is not None
        try:
            await self._tell({"clear": transfer.tag}, [])
        except CommClosedError:
            self._fabric.give_up(transfer)
            raise
        await asyncio.shield(arrival)

    def _listen(self) -> None:
        """Have the stream read, if it is not."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listening())

    async def _listening(self) -> None:
        try:
            while self._reading or self._announced or self._transfers:
                self._take(await self._stream.read())
        except Exception as error:  # CommClosedError, or no memory for a frame
            self._lose(error)

    def _take(self, message: object) -> None:
        match message:
            case Serialized(header={"clear": int(tag)}):
                if self._announced and self._fabric and self._peer is not None:  # not aborted
                    self._follow(self._fabric.send(self._peer, tag, self._announced.popleft()))
            case Serialized():
                self._arrived.append(message)
                self._news.set()
            case _:
                raise CommClosedError(f"{self!r} speaks another protocol")

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
        self._lost = error if isinstance(error, CommClosedError) else CommClosedError(repr(error))
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
        while (self._announced or self._transfers) and self._lost is None:
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
