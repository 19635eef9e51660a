"""The connection by which ranks see each other die, and wake each other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import dask
import pytest
from distributed import Scheduler, Security

from mpidask._dask.connection_info import ConnectionInfo
from mpidask._lifecycle import liveness, silence
from mpidask._lifecycle.messages import LeaderSought
from mpidask._lifecycle.roles import assign_roles
from mpidask._mpi import job_exit
from mpidask._mpi.communicator import TO_LEADER
from mpidask._options import Options


@contextlib.asynccontextmanager
async def watched_scheduler(secured, on_wake, on_disconnect):
    security = Security.temporary() if secured else None
    arguments = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with Scheduler(host="127.0.0.1", security=security, **arguments) as scheduler:
        watched = liveness.LivenessServer(scheduler, on_wake, on_disconnect)
        yield watched, ConnectionInfo(scheduler.address, security)


async def start_watching(watched, cluster, on_wake=lambda: None):
    before = len(watched._watchers)
    watch = liveness.LivenessClient(cluster, on_wake)
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


def test_a_sign_of_life_wakes_nobody(monkeypatch):
    heard = asyncio.Event()
    monkeypatch.setattr(silence, "INTERVAL", 0)
    monkeypatch.setattr(silence.SilenceWatch, "hear", lambda watch: heard.set())

    async def scene():
        woken = asyncio.Event()
        async with watched_scheduler(False, woken.set, int) as (watched, cluster):
            await start_watching(watched, cluster)
            await heard.wait()
            assert not woken.is_set()

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
    watch = liveness.LivenessClient(ConnectionInfo("tcp://127.0.0.1:1"), int)
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
            await liveness.LivenessClient(cluster, int).run()

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


class LostWorker:
    """A rank whose worker has no scheduler, with what it asks the leader, and who answers."""

    rank = 2

    def __init__(self, leader_answers=False):
        self.guard = liveness.LivenessGuard(self, assign_roles(4, Options.resolve({})))
        self.asked = asyncio.Event()
        self._leader_answers = leader_answers

    def wake(self):
        pass

    def send(self, rank, tag, message):
        assert (rank, tag, message) == (1, TO_LEADER, LeaderSought())
        self.asked.set()
        if self._leader_answers:
            self.guard.hear_of_leader()

    async def watch(self, cluster, has_scheduler=lambda: False):
        assert self.guard.watch(cluster) is None  # the leader does, over a connection
        await self.guard.watch_leader(has_scheduler, timeout=0.1)


@pytest.fixture
def ends(monkeypatch):
    """The reasons for which the job was ended."""
    ends = []
    monkeypatch.setattr(job_exit, "end_job", lambda reason, status: ends.append(reason))
    monkeypatch.setattr(job_exit, "STAGGER", 0)
    monkeypatch.setattr(liveness, "_INTERVAL", 0.01)
    monkeypatch.setattr(liveness, "_can_connect", can_connect := Answers())
    return ends, can_connect


class Answers:
    """Whether the scheduler accepts a connection, and how often it was asked."""

    def __init__(self):
        self.accepts, self.calls = False, asyncio.Queue()

    async def __call__(self, cluster):
        await self.calls.put(cluster)
        return self.accepts


@pytest.mark.parametrize("closed", [False, True])
def test_a_worker_without_scheduler_and_leader_ends_the_job(ends, closed):
    reasons, scheduler = ends

    async def scene():
        lost = LostWorker()
        if closed:  # not dead
            lost.guard.expect_no_scheduler()
        watching = asyncio.create_task(lost.watch(ConnectionInfo("tcp://127.0.0.1:1")))
        if not closed:
            for _ in range(2):  # the first one has returned
                await scheduler.calls.get()
            watching.cancel()
        await asyncio.wait([watching])

    run(scene)
    if closed:
        assert not reasons
    else:
        named = "no answer from rank 0 (scheduler) and rank 1 (client) for 0.1 s (startup_timeout)"
        assert reasons[0] == named


@pytest.mark.parametrize("who", ["leader", "scheduler", "worker"])
def test_a_job_goes_on_while_one_answers(ends, who):
    reasons, scheduler = ends

    async def scene():
        lost = LostWorker(leader_answers=who == "leader")
        scheduler.accepts = who == "scheduler"
        looks = itertools.count()
        # "worker": it finds the scheduler while the leader is asked.
        has_scheduler = (lambda: next(looks) % 2 == 1) if who == "worker" else (lambda: False)
        watching = asyncio.create_task(
            lost.watch(ConnectionInfo("tcp://127.0.0.1:1"), has_scheduler)
        )
        for _ in range(3):
            lost.asked.clear()
            await lost.asked.wait()
            if who == "scheduler":
                await scheduler.calls.get()
        watching.cancel()

    run(scene)
    assert not reasons


def test_whether_a_scheduler_accepts_connections():
    async def scene():
        async with watched_scheduler(True, int, int) as (_, cluster):
            assert await liveness._can_connect(cluster)
        with dask.config.set({"distributed.comm.timeouts.connect": 1}):
            assert not await liveness._can_connect(cluster)

    run(scene)
