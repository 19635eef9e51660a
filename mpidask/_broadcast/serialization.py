"""Pickled values in one block of bytes, and back without a copy of their buffers.

The block holds the buffers, then the pickle, then the sizes of all these as 64-bit integers, and
at last how many sizes there are.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

#: Each buffer begins at a multiple of this: what vector instructions and cache lines like.
_ALIGNMENT = 64


class Pickled:
    """A value pickled by protocol 5, with its buffers out of band.

    Attributes
    ----------
    nbytes : int
        The size of the block.
    """

    def __init__(self, value: Any) -> None:
        from distributed.protocol.pickle import dumps

        self._parts: list[Any] = []
        pickled = dumps(value, buffer_callback=lambda buffer: self._parts.append(buffer.raw()))
        self._parts.append(pickled)
        sizes = [memoryview(part).nbytes for part in self._parts]
        self._offsets = list(_offsets(sizes))
        self._parts.append(struct.pack(f"<{len(sizes) + 1}Q", *sizes, len(sizes)))
        self.nbytes = self._offsets[-1] + len(self._parts[-1])

    def write_by(self, write: Callable[[int, Any], object]) -> None:
        """Call `write` with offset and bytes of each part."""
        for offset, part in zip(self._offsets, self._parts, strict=True):
            write(offset, part)


def load(memory: memoryview) -> Any:
    """Return the value in a block; its buffers are those of the block."""
    (count,) = struct.unpack("<Q", memory[-8:])
    sizes = struct.unpack(f"<{count}Q", memory[-8 * (count + 1) : -8])
    starts = list(_offsets(sizes))[:-1]
    parts = [memory[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return pickle.loads(parts.pop(), buffers=parts)


def _offsets(sizes: Any) -> Iterator[int]:
    """Yield where each part begins, and what comes after the last one."""
    offset = 0
    for size in sizes:
        yield offset
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    yield offset
