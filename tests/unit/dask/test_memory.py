"""Workers that run short of memory give back what they only keep for speed."""

from __future__ import annotations

import asyncio
import ctypes
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
from distributed import Nanny, Scheduler, Worker

from mpidask._dask import memory as memory_module
from mpidask._dask.memory import METRICS, MemoryWatch, watch_memory

LIMIT = 60


class Pool:
    """Takes note of what it is told."""

    free = 2**20
    keeps: bool | None = None

    def keep(self, wanted):
        self.keeps = wanted


def worker(memory, limit, target=0.6, spill=0.7, pause=0.8):
    """Make what a watch needs of a worker."""
    manager = SimpleNamespace(
        memory_limit=limit,
        memory_target_fraction=target,
        memory_spill_fraction=spill,
        memory_pause_fraction=pause,
    )
    monitor = SimpleNamespace(get_process_memory=lambda: memory)
    return SimpleNamespace(memory_manager=manager, monitor=monitor)


def run(test):
    async def limited():
        return await asyncio.wait_for(test(), LIMIT)

    return asyncio.run(limited())


@pytest.mark.parametrize(
    ("memory", "settings", "keeps"),
    [
        (590, {}, True),
        (610, {}, False),
        (690, {"target": False}, True),
        (710, {"target": False, "pause": False}, False),
        (810, {"target": False, "spill": False}, False),
        (990, {"target": False, "spill": False, "pause": False}, True),
    ],
)
def test_the_pool_keeps_nothing_from_where_dask_begins_to_spill(memory, settings, keeps):
    pool = Pool()
    asyncio.run(MemoryWatch(worker(memory, 1000, **settings), pool).look())
    assert pool.keeps is keeps


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_memory_that_malloc_holds_back_is_given_back():
    size = psutil.Process().memory_info
    blocks = [bytearray(2**16) for _ in range(3200)]
    del blocks[:-1]  # the last one is at the top of the heap, so that `free` gives nothing back
    held = size().rss
    asyncio.run(MemoryWatch(worker(held, held), None).look())
    assert size().rss < held - 100 * 2**20


def test_a_trim_that_waits_for_a_cpu_does_not_delay_the_next(monkeypatch):
    now, trims = {"monotonic": 0.0, "thread_time": 0.0}, []

    def trim(pad):
        now["monotonic"] += 5
        now["thread_time"] += 0.01
        trims.append(pad)

    clock = SimpleNamespace(**{name: partial(now.get, name) for name in now})
    monkeypatch.setattr(memory_module, "time", clock)
    monkeypatch.setattr(
        memory_module, "ctypes", SimpleNamespace(CDLL=lambda _: SimpleNamespace(malloc_trim=trim))
    )

    async def test():
        watch = MemoryWatch(worker(900, 1000), None)
        await watch.look()
        now["monotonic"] += 1
        await watch.look()

    run(test)
    assert len(trims) == 2


def test_a_worker_watches_its_memory_and_tells_the_scheduler():
    async def test():
        pool = Pool()
        async with Scheduler(host="127.0.0.1", dashboard_address=":0") as scheduler:
            worker = Worker(scheduler.address, memory_limit="1 GB", dashboard_address=":0")
            watch_memory(worker, pool)
            async with worker:
                while pool.keeps is None:
                    await asyncio.sleep(0.01)
                said = scheduler.workers[worker.address].metrics[METRICS]
                assert said == {"pool": pool.free, "pause": 0.8}

    run(test)


@pytest.mark.parametrize("make", [Worker, Nanny])
def test_what_has_no_memory_limit_or_no_results_watches_nothing(make):
    async def test():
        async with Scheduler(host="127.0.0.1", dashboard_address=":0") as scheduler:
            limit = 0 if make is Worker else "1 GB"
            server = make(scheduler.address, memory_limit=limit, dashboard_address=":0")
            watch_memory(server)
            assert METRICS not in server.periodic_callbacks
            await server.close()

    run(test)
