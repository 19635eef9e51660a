"""Receive buffers that are reused once the object deserialized from them is gone."""

from __future__ import annotations

import ctypes
import weakref

from distributed.protocol.utils import host_array

#: Bytes below which memory is cheap to allocate.
_SMALL = 2**20


class BufferPool:
    """Buffers that return to the pool by themselves.

    Fresh memory costs a page fault for each page, about as long as the transfer itself. A
    buffer becomes the memory of the array that arrives, so no code could hand it back: the
    finalizer of its owner does.

    Parameters
    ----------
    limit : int
        Most bytes of free memory to keep.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._keeps = True
        # Finalizers run in any thread, even within `take`, where a lock would deadlock. So each
        # operation on this dict is atomic, also without a GIL. Listing keys is atomic; listing
        # items is not, since it may trigger a garbage collection.
        self._free: dict[int, memoryview] = {}

    def take(self, nbytes: int) -> memoryview:
        """Return a writable buffer of exactly this size."""
        if nbytes < _SMALL:
            return host_array(nbytes)
        memory = self._reused(nbytes) or host_array(nbytes)
        # All views of the buffer keep this owner alive, and it supports weak references.
        owner = (ctypes.c_ubyte * nbytes).from_buffer(memory)
        weakref.finalize(owner, self._give_back, memory).atexit = False
        return memoryview(owner).cast("B")

    def keep(self, wanted: bool) -> None:
        """Keep free memory from now on, or release all of it and keep none."""
        self._keeps = wanted
        if not wanted:
            self._shrink()

    @property
    def free(self) -> int:
        """Bytes of free memory in the pool."""
        return sum(size for size, _ in self._sizes())

    def _sizes(self) -> list[tuple[int, int]]:
        memories = [(self._free.get(key), key) for key in list(self._free)]
        return [(memory.nbytes, key) for memory, key in memories if memory is not None]

    def _reused(self, nbytes: int) -> memoryview | None:
        for size, key in sorted(self._sizes()):
            if nbytes <= size <= nbytes + nbytes // 4 and (memory := self._free.pop(key, None)):
                return memory
        return None

    def _give_back(self, memory: memoryview) -> None:
        self._free[id(memory)] = memory
        self._shrink()

    def _shrink(self) -> None:
        limit = self.limit if self._keeps else 0
        for key in list(self._free):  # the oldest first
            if self.free <= limit:
                break
            self._free.pop(key, None)
