"""The pool of receive buffers, which several threads use at once: event loops and finalizers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from mpidask._transport.buffer_pool import BufferPool

MIB = 2**20


@pytest.fixture
def _threads_alternate_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_alternate_often")
def test_no_memory_is_lent_twice():
    pool, lent_twice, together = BufferPool(4 * MIB), [], threading.Barrier(6)

    def use(mark: int) -> None:
        together.wait()
        for _ in range(200):
            buffer = pool.take(MIB)
            buffer[0] = buffer[-1] = mark
            time.sleep(0)  # to another thread
            if {buffer[0], buffer[-1]} != {mark}:
                lent_twice.append(mark)
            del buffer

    threads = [threading.Thread(target=use, args=[mark]) for mark in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lent_twice
    assert 0 < pool.free <= 4 * MIB


def test_memory_comes_back_once():
    pool = BufferPool(4 * MIB)
    buffers = [pool.take(MIB) for _ in range(3)]
    assert pool.free == 0
    views = [buffer[1:] for buffer in buffers]
    del buffers
    assert pool.free == 0  # the views are in use
    del views
    assert pool.free == 3 * MIB
    pool.keep(False)
    assert pool.free == 0
