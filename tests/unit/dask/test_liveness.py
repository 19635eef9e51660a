"""The connection by which ranks see each other die, and wake each other."""

from __future__ import annotations

import asyncio
import contextlib

import dask
import pytest
from distributed import Scheduler, Security

from mpidask._dask import liveness
from mpidask._dask.connection_info import ConnectionInfo


@contextlib.asynccontextmanager
async def watched_scheduler(secured, on_wake, on_disconnect):
    security = Security.temporary() if secured else None
    arguments = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with Scheduler(host="127.0.0.1", security=security, **arguments) as scheduler:
        watched = liveness.WatchedScheduler(scheduler, on_wake, on_disconnect)
        yield watched, ConnectionInfo(scheduler.address, security)


async def start_watching(watched, cluster, on_wake=lambda: None):
    before = len(watched._watchers)
    watch = liveness.SchedulerWatch(cluster, on_wake)
    running = asyncio.create_task(watch.run())
    while len(watched._watchers) == before:
        await asyncio.sleep(0.01)
    return watch, running


def run(scene):
    asyncio.run(asyncio.wait_for(scene(), 60))


@pytest.mark.parametrize("secured", [True, False])
def test_either_end_notices_the_other(secured):
    async def scene():
        broken = asyncio.Event()
        async with watched_scheduler(secured, int, broken.set) as (watched, cluster):
            _, first = await start_watching(watched, cluster)
            assert not broken.is_set()
            first.cancel()  # as if the client's process had died
            await asyncio.wait_for(broken.wait(), 20)
            _, second = await start_watching(watched, cluster)
            assert not second.done()
        await asyncio.wait_for(second, 20)  # the scheduler is gone

    run(scene)


@pytest.mark.parametrize("secured", [True, False])
def test_ranks_wake_each_other(secured):
    async def scene():
        scheduler_rank, leader_rank = asyncio.Event(), asyncio.Event()
        async with watched_scheduler(secured, scheduler_rank.set, int) as (watched, cluster):
            watch, _ = await start_watching(watched, cluster, leader_rank.set)
            await watch.wake()  # the leader
            await scheduler_rank.wait()
            assert not leader_rank.is_set()
            scheduler_rank.clear()
            await liveness.wake_leader(cluster)  # any other rank
            await scheduler_rank.wait()
            await leader_rank.wait()

    run(scene)


def test_waking_a_dead_scheduler_is_no_error():
    async def scene():
        async with watched_scheduler(False, int, int) as (watched, cluster):
            watch, running = await start_watching(watched, cluster)
        await running
        await watch.wake()

    run(scene)


def test_a_scheduler_that_refuses_at_first_is_watched(monkeypatch):
    connect, refusals = ConnectionInfo.connect, [OSError("deliberate"), asyncio.TimeoutError()]

    async def connect_at_last(cluster, role):
        if refusals:
            raise refusals.pop()
        return await connect(cluster, role)

    monkeypatch.setattr(ConnectionInfo, "connect", connect_at_last)
    monkeypatch.setattr(liveness, "_PAUSE", 0)

    async def scene():
        async with watched_scheduler(False, int, int) as (watched, cluster):
            _, running = await start_watching(watched, cluster)
            assert not running.done()
        await running

    run(scene)
    assert not refusals


def test_a_scheduler_that_is_never_reached_is_gone(monkeypatch, caplog):
    async def connect(cluster, role):
        raise OSError("deliberate")

    monkeypatch.setattr(ConnectionInfo, "connect", connect)
    monkeypatch.setattr(liveness, "_TIMEOUT", -1)
    watch = liveness.SchedulerWatch(ConnectionInfo("tcp://127.0.0.1:1"), int)
    run(watch.run)
    assert "no connection to the scheduler" in caplog.text
    assert "deliberate" in caplog.text


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_nobody_waits_for_a_scheduler_that_says_nothing(scheme, listen, monkeypatch, caplog):
    """A process that was stopped still has its connections accepted, by the system."""
    monkeypatch.setattr(liveness, "_TIMEOUT", -1)
    silent = listen(lambda connection: None)
    security = Security.temporary() if scheme == "tls" else None
    cluster = ConnectionInfo(f"{scheme}://{silent}", security)

    async def scene():
        with dask.config.set({"distributed.comm.timeouts.connect": "200 ms"}):
            await liveness.wake_leader(cluster)
            await liveness.SchedulerWatch(cluster, int).run()

    run(scene)
    assert "no connection to the scheduler" in caplog.text


def test_a_rank_that_comes_while_others_are_woken():
    async def scene():
        class Comm:
            async def write(self, message):
                watched._watchers.add(Comm())

        async with watched_scheduler(False, int, int) as (watched, _):
            watched._watchers.add(Comm())
            await watched.wake_all()
            assert len(watched._watchers) == 2

    run(scene)
