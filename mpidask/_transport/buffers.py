"""Memory for what arrives, used again when the object that was made of it is gone."""

from __future__ import annotations

import ctypes
import weakref

from distributed.protocol.utils import host_array

#: Bytes below which memory is cheap to get.
_SMALL = 2**20


class Pool:
    """Buffers whose memory comes back by itself.

    Fresh memory costs a page fault for each page, about as long as the transfer itself. A
    buffer becomes the memory of the array that arrives, so nobody could hand it back: the
    end of its life does.

    Parameters
    ----------
    limit : int
        Most bytes of free memory that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._keeps = True
        # Finalizers run in any thread, also within `take`, where a lock would deadlock. So each
        # step on it is atomic, without the GIL, too. Making a list of keys is, of items is not,
        # for it may collect garbage.
        self._free: dict[int, memoryview] = {}

    def take(self, nbytes: int) -> memoryview:
        """Give a writable buffer of exactly this size."""
        if nbytes < _SMALL:
            return host_array(nbytes)
        memory = self._reused(nbytes) or host_array(nbytes)
        # The owner of the buffer: all views of it keep it alive, and it can be watched.
        owner = (ctypes.c_ubyte * nbytes).from_buffer(memory)
        weakref.finalize(owner, self._give_back, memory).atexit = False
        return memoryview(owner).cast("B")

    def keep(self, wanted: bool) -> None:
        """Keep free memory from now on, or give all of it back and keep none."""
        self._keeps = wanted
        if not wanted:
            self._shrink()

    @property
    def free(self) -> int:
        """Bytes that are kept."""
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
