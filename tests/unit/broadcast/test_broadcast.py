"""What the scheduler knows of broadcasts, in clusters of one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from distributed import Client, Scheduler, Worker

from mpidask import Broadcast, broadcast
from mpidask._broadcast.copies import Copy
from mpidask._broadcast.protocol import PLUGIN
from mpidask._broadcast.scheduler_plugin import Entry
from mpidask._broadcast.shared_file import SharedFile

np = pytest.importorskip("numpy")

LIMIT = 60


@contextlib.asynccontextmanager
async def cluster(workers):
    given = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with contextlib.AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(Scheduler(host="127.0.0.1", **given))
        servers = [
            await stack.enter_async_context(
                Worker(scheduler.address, nthreads=1, name=str(n), **given)
            )
            for n in range(workers)
        ]
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
        yield scheduler, servers, client


def run(test):
    async def limited():
        return await asyncio.wait_for(test(), LIMIT)

    return asyncio.run(limited())


def test_the_scheduler_forgets_what_was_freed():
    async def test():
        async with cluster(2) as (scheduler, _, _):
            handles = [await broadcast(np.arange(n)) for n in (10, 20)]
            plugin = scheduler.plugins[PLUGIN]
            assert len(plugin.entries) == 2
            assert plugin.nbytes == sum(handle._nbytes for handle in handles)
            await handles[0].free()
            assert len(plugin.entries) == 1
            assert plugin.nbytes == handles[1]._nbytes
        assert not plugin.entries

    run(test)


def test_a_client_that_ends_frees_what_it_made():
    async def test():
        async with cluster(1) as (scheduler, _, _):
            async with Client(scheduler.address, asynchronous=True) as other:
                handle = await broadcast(np.arange(10), client=other)
                assert len(scheduler.plugins[PLUGIN].entries) == 1
            while scheduler.plugins[PLUGIN].entries:
                await asyncio.sleep(0.01)
            del handle

    run(test)


def test_two_broadcasts_at_once_are_the_first():
    async def test():
        async with cluster(2) as (scheduler, _, _):
            handles = await asyncio.gather(*(broadcast(np.arange(n)) for n in range(5)))
            assert len(scheduler.plugins[PLUGIN].entries) == 5
            return [len(handle.value) for handle in handles]

    assert run(test) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("by", ["free", "the end of its handle"])
def test_nothing_is_left_of_values_that_were_freed(by):
    kinds = (Broadcast, Copy, Entry, SharedFile)

    def left():
        gc.collect()
        return [type(one).__name__ for one in gc.get_objects() if isinstance(one, kinds)]

    async def test():
        async with cluster(2) as (scheduler, _, _):
            for n in range(20):
                handle = await broadcast(np.arange(n))
                assert len(handle.value) == n
                if by == "free":
                    await handle.free()
                del handle
            while left():
                await asyncio.sleep(0.05)
            assert not scheduler.plugins[PLUGIN].entries

    run(test)
