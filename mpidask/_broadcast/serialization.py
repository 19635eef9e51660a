"""Pickled values in one block of bytes, and back without a copy of their buffers.

The block holds the buffers, then the pickle, then the sizes of all these as 64-bit integers, and
at last how many sizes there are.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
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
        self._parts: list[Any] = []
        pickled = _dumps(value, lambda buffer: self._parts.append(buffer.raw()))
        self._parts.append(pickled)
        sizes = [memoryview(part).nbytes for part in self._parts]
        self._offsets = list(_offsets(sizes))
        self._parts.append(struct.pack(f"<{len(sizes) + 1}Q", *sizes, len(sizes)))
        self.nbytes = self._offsets[-1] + len(self._parts[-1])

    def write_by(self, write: Callable[[int, Any], object]) -> None:
        """Call `write` with offset and bytes of each part."""
        for offset, part in zip(self._offsets, self._parts, strict=True):
            write(offset, part)


def _dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], object]) -> bytes:
    from cloudpickle import Pickler

    class TimesOutOfBand(Pickler):  # type: ignore[misc]
        """NumPy gives out no buffers of times, of which tables may have many."""

        def reducer_override(self, value: Any) -> Any:
            numpy = sys.modules.get("numpy")
            if numpy and type(value) is numpy.ndarray and value.dtype.kind in "mM":
                return _times, (value.view("i8"), value.dtype)
            return super().reducer_override(value)

    file = io.BytesIO()
    TimesOutOfBand(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def _times(numbers: Any, dtype: Any) -> Any:
    return numbers.view(dtype)


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
