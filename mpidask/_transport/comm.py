"""A comm of distributed whose large messages go by MPI."""

from __future__ import annotations

from typing import Any

from distributed.comm.core import Comm, CommClosedError
from distributed.comm.tcp import TCP
from distributed.comm.utils import from_frames, to_frames
from distributed.protocol.serialize import Serialized
from distributed.utils import nbytes

from mpidask._compat.distributed import set_addresses
from mpidask._transport import context as contexts
from mpidask._transport.channel import Channel

#: Larger than any frame: those that go by MPI need no shards, nor a copy that joins them.
_UNSPLIT = 2**62
#: Most bytes of a short message, and the bytes that each of its items counts besides its text.
_SHORT, _ITEM = 2**14, 2**4


class MPIComm(Comm):
    """Distributed's comm interface on top of a channel for the frames of its messages.

    Parameters
    ----------
    stream : distributed.comm.tcp.TCP
    deserialize : bool
    asks : bool
        Whether this end has connected, and so sends requests and reads responses.
    """

    def __init__(self, stream: TCP, deserialize: bool = True, *, asks: bool = False) -> None:
        super().__init__(deserialize)
        context = contexts.current()
        self._context = context if context is not None and context.progress.usable else None
        self._asks = asks
        self._stream = stream
        self._channel = Channel(stream, self._context)
        self._plain_if_short = self._context is None or self._context.threshold > _SHORT
        set_addresses(self, stream.local_address, stream.peer_address)

    @property
    def local_address(self) -> str:
        """The address of this end."""
        return str(self._stream.local_address)

    @property
    def peer_address(self) -> str:
        """The address of the peer."""
        return str(self._stream.peer_address)

    @property
    def extra_info(self) -> dict[str, Any]:
        """What the stream knows of the peer, such as its certificate."""
        info: dict[str, Any] = self._stream.extra_info
        return info

    def closed(self) -> bool:
        """Whether the comm can no longer be used."""
        return self._channel.closed()

    def handshake_info(self) -> dict[str, Any]:
        """Identify this end to the peer."""
        info: dict[str, Any] = super().handshake_info()
        return info | ({"mpi": self._context.identity} if self._context else {})

    def _rank_of_peer(self) -> int | None:
        return self._context.rank_of(self.remote_info.get("mpi")) if self._context else None

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        """Send a message, or request to; never wait for the peer."""
        self._channel.check_open()
        if self._plain_if_short and _is_short(msg):
            return await self._channel.send_plain(msg)
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
        sizes = [nbytes(frame) for frame in frames]
        await self._channel.send(frames, sizes, self._rank_of_peer)
        return sum(sizes)

    async def read(self, deserializers: Any = None) -> Any:
        """Return the next message. Cancelling it aborts the comm, as with a stream."""
        message = await self._channel.receive(self._rank_of_peer)
        if not isinstance(message, Serialized):
            return message
        try:
            return await from_frames(
                message.frames,
                deserialize=self.deserialize,
                deserializers=deserializers,
                allow_offload=self.allow_offload,
            )
        except EOFError:
            self.abort()
            raise CommClosedError("aborted stream on truncated data") from None
        except Exception:
            if self._asks:
                # A worker that has sent data waits for an acknowledgement, and would take the
                # next request on this comm for it.
                self.abort()
            raise

    async def close(self) -> None:
        """Close it once pending sends are done, or the peer no longer answers."""
        await self._channel.close()

    def abort(self) -> None:
        """Close it at once for its users, and for the peer when MPI is done."""
        self._channel.abort()


def _is_short(message: object) -> bool:
    """Whether a message has no large frames for sure, without serializing it.

    Most requests and acknowledgements don't. Wrapping their frames would double their cost.
    """
    left, items = _SHORT, [message]
    while items and left > 0:
        item = items.pop()
        left -= _ITEM
        if isinstance(item, (str, bytes)):
            left -= len(item)
        elif isinstance(item, (dict, list, tuple, set)):
            if len(item) * _ITEM > left:
                return False
            items += item
            if isinstance(item, dict):
                items += item.values()
        elif not (item is None or isinstance(item, (int, float))):
            return False
    return left > 0
