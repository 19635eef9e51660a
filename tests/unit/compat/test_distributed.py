"""The private API of distributed behaves as each function of `_compat.distributed` expects."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import dask
import distributed
import numpy as np
import psutil
import pytest
from distributed import (
    Client,
    Nanny,
    NannyPlugin,
    Scheduler,
    SchedulerPlugin,
    Worker,
    fire_and_forget,
    wait,
)
from distributed.core import Status
from distributed.shuffle._comms import CommShardsBuffer
from distributed.shuffle._disk import DiskShardsBuffer
from distributed.shuffle._limiter import ResourceLimiter
from tornado import web
from tornado.httpclient import AsyncHTTPClient
from tornado.routing import PathMatches, Rule

from mpidask._compat import distributed as compat

LIMIT = 60


def run(test):
    async def limited():
        return await asyncio.wait_for(test(), LIMIT)

    return asyncio.run(limited())


@contextlib.asynccontextmanager
async def cluster(worker=Worker, **arguments):
    given = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with (
        Scheduler(host="127.0.0.1", **given) as scheduler,
        worker(scheduler.address, nthreads=1, **given, **arguments) as server,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        yield scheduler, server, client


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def test_all_clients():
    async def test():
        async with cluster() as (scheduler, _, client):
            other = await Client(scheduler.address, asynchronous=True, set_as_default=False)
            assert {client, other} <= set(compat.all_clients())
            await other.close()

    run(test)


def test_forget_client():
    async def test():
        async with Scheduler(host="127.0.0.1", dashboard_address="127.0.0.1:0") as scheduler:
            client = await Client(scheduler.address, asynchronous=True)
            assert Client.current() is client
            compat.forget_client(client)
            with pytest.raises(ValueError, match="client"):
                Client.current()
            client.status = "running"
            await client.close()

    run(test)


def test_wrapped_init():
    def noted(original):
        def init(self, *args, **kwargs):
            made.append(type(self))
            original(self, *args, **kwargs)

        return init

    async def test():
        async with Scheduler(host="127.0.0.1", dashboard_address="127.0.0.1:0") as scheduler:
            with compat.wrapped_init(Client, noted):
                await (await Client(scheduler.address, asynchronous=True)).close()
            await (await Client(scheduler.address, asynchronous=True)).close()

    made = []
    run(test)
    assert made == [Client]


def test_calling_code():
    async def test():
        async with cluster() as (_, _, client):
            return compat.calling_code(client)

    assert isinstance(run(test), str)


def test_set_addresses():
    """`connect` reads these attributes of a comm."""
    from distributed.comm import core

    source = inspect.getsource(core.connect)
    assert "comm._peer_addr" in source
    assert "comm._local_addr" in source


# -- Workers and nannies. ----------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    sorted({compat.RESTARTED, compat.CLOSED_BY_SCHEDULER, *compat.SCHEDULER_GONE}),
)
def test_reasons(reason):
    """`test_workers_know_why_they_were_closed` shows what each of them means."""
    from distributed import scheduler, worker

    assert f'"{reason}"' in inspect.getsource(scheduler) + inspect.getsource(worker)


def test_is_starting_and_addresses_of_worker():
    async def test():
        async with cluster(Nanny) as (scheduler, nanny, _):
            assert nanny.process.status == Status.running
            assert not compat.is_starting(nanny)
            assert await compat.addresses_of_worker(nanny) == list(scheduler.workers)
            nanny.process.status = Status.starting
            assert compat.is_starting(nanny)
            nanny.process.status = Status.running
        assert not compat.is_starting(nanny)
        assert not compat.is_starting(object())

    run(test)


# -- The scheduler. ------------------------------------------------------------------------


def test_on_client_desires():
    async def test():
        async with cluster() as (scheduler, _, client):
            heard = []
            compat.on_client_desires(scheduler, lambda keys, who: heard.append((list(keys), who)))
            future = client.submit(abs, -1)
            await future
            fire_and_forget(future)
            await until(lambda: ([future.key], compat.FIRE_AND_FORGET) in heard)

    run(test)


class Plugin(NannyPlugin):
    name = "mine"


def test_before_nanny_plugin():
    async def test():
        async with cluster() as (scheduler, _, client):
            heard = []
            compat.before_nanny_plugin(scheduler, heard.append)
            await client.register_plugin(Plugin())
            assert heard == ["mine"]
            assert "mine" in scheduler.nanny_plugins

    run(test)


class Transitions(SchedulerPlugin):
    def __init__(self):
        self.seconds = 0

    def transition(self, key, start, finish, *args, **kwargs):
        self.seconds += compat.compute_seconds(kwargs)


def nap():
    import time

    time.sleep(0.1)


def test_was_sent_to_worker_and_compute_seconds():
    async def test():
        async with cluster() as (scheduler, _, client):
            plugin = Transitions()
            scheduler.add_plugin(plugin)
            future = client.submit(nap)
            await wait([future])
            assert 0.1 <= plugin.seconds < LIMIT
            assert compat.was_sent_to_worker(scheduler.tasks[future.key])
            nowhere = client.submit(abs, 1, workers="10.255.255.1", allow_other_workers=False)
            await until(lambda: nowhere.key in scheduler.tasks)
            assert not compat.was_sent_to_worker(scheduler.tasks[nowhere.key])

    run(test)


def test_metered_and_spilled_bytes(tmp_path):
    async def test():
        given = {"memory_limit": "2 GiB", "local_directory": str(tmp_path)}
        async with cluster(**given) as (scheduler, _, client):
            data = client.map(os.urandom, [2**20 + n for n in range(4)])  # not compressible
            await wait(data)
            (worker,) = scheduler.workers.values()
            await until(lambda: compat.spilled_bytes(worker.metrics))
            await until(lambda: compat.metered_bytes(scheduler, activity="disk-write") >= 2**20)
            assert not compat.metered_bytes(scheduler, context="get-data")

    with dask.config.set({"distributed.worker.memory.target": 1e-3}):
        run(test)


# -- Web pages, logs and dask. -----------------------------------------------------------


class Page(web.RequestHandler):
    def get(self):
        self.write("mine")


def test_route_first():
    async def test():
        async with cluster() as (scheduler, *_):
            compat.route_first(scheduler.http_application, Rule(PathMatches("/health"), Page))
            port = scheduler.http_server.port
            answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/health")
            assert answer.body == b"mine"

    run(test)


def test_connect_dashboard():
    pytest.importorskip("bokeh")
    from distributed.dashboard.scheduler import connect

    assert [*inspect.signature(connect).parameters] == [
        *("application", "http_server", "scheduler", "prefix")
    ]


SOURCES = "\n".join(path.read_text() for path in Path(distributed.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    "text",
    [*compat.REPORTED_ELSEWHERE, *compat.ROUTINE, *compat.SCHEDULER_LOST, compat.LISTENERS_HANDLER],
)
def test_log_messages(text):
    """Texts of the same meaning may be split over lines."""
    joined = re.sub(r'"\s*\n?\s*f?"', "", SOURCES)
    assert text in joined


@pytest.mark.parametrize("text", [compat.PORT_IN_USE, compat.ONLY_LOOPBACK, compat.SLOW_FILES])
def test_warnings(text):
    assert text.replace(r"\s*", "").replace(r"\d+", "{expected}") in SOURCES
    with compat.without_warnings(text), warnings.catch_warnings(record=True) as caught:
        warnings.warn(text.replace(r"\s*", "\n").replace(r"\d+", "8787"), stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["another"]


def test_cpu_quota():
    from dask import system

    assert len(system._try_extract_cgroup_cpu_quota()) == 2
    assert compat.cpu_quota() is None or compat.cpu_quota() >= 1


# -- Memory that processes share. ----------------------------------------------------------


def test_adjust_process_memory():
    """By which a worker spills and pauses, and what it reports."""

    async def test():
        async with cluster(memory_limit="1 GiB") as (_, worker, _):
            compat.adjust_process_memory(worker, lambda nbytes: nbytes + 2**40)
            await until(lambda: worker.status == Status.paused)
            assert worker.monitor.update()["memory"] > 2**40

    run(test)


@pytest.mark.parametrize("shared", [True, False])
def test_count_shared_memory_once(monkeypatch, shared):
    """A nanny terminates its child by this callback, of this name."""
    terminated = []

    async def test():
        async with cluster(Nanny, memory_limit="1 GiB") as (_, nanny, _):
            manager = nanny.memory_manager
            monkeypatch.setattr(manager, "memory_monitor", terminated.append)
            compat.count_shared_memory_once(nanny)
            uses = psutil.Process(nanny.pid).memory_info().rss
            manager.memory_limit = uses // 4 if not shared else uses // 2
            monkeypatch.setattr(psutil.Process, "memory_full_info", full_info)
            nanny.periodic_callbacks["memory_monitor"].callback()

    def full_info(process):
        rss = process.memory_info().rss
        return SimpleNamespace(rss=rss, pss=rss // 3)

    run(test)
    assert bool(terminated) == (not shared)


def test_connections_of():
    async def test():
        async with cluster() as (_, worker, client):
            return await compat.connections_of(client)(worker.address).identity()

    assert "id" in run(test)


def test_a_child_that_is_gone_uses_nothing():
    assert not compat._uses_more(2**22 + 1, 0)


@pytest.mark.parametrize("by", ["comm", "disk"])
def test_what_a_shuffle_has_sent_is_freed(by, tmp_path):
    """Its buffers wait for more, and nothing else has the arrays."""

    async def send(address, shards):
        return {"status": "OK"}

    async def test():
        compat.free_sent_shards()
        limiter = ResourceLimiter(None)
        if by == "comm":
            buffer = CommShardsBuffer(send, limiter, max_message_size=1, concurrency_limit=2)
        else:
            buffer = DiskShardsBuffer(tmp_path / "shards", lambda path: (None, 0), limiter)
        array = np.ones(1000)
        freed = weakref.ref(array)
        async with buffer:
            data = (0, [((0,), array)]) if by == "comm" else [((0,), array)]
            await buffer.write({"tls://127.0.0.1:1" if by == "comm" else "0": data})
            del array, data
            await until(lambda: not buffer.bytes_memory)
            await until(lambda: freed() is None)

    run(test)


def test_what_a_shuffle_has_sent_within_the_process_is_kept():
    received = []

    async def send(address, shards):
        received.append(shards)
        return {"status": "OK"}

    async def test():
        compat.free_sent_shards()
        limiter = ResourceLimiter(None)
        async with CommShardsBuffer(
            send, limiter, max_message_size=1, concurrency_limit=1
        ) as buffer:
            await buffer.write({"inproc://127.0.0.1/1/2": (0, [((0,), np.ones(1000))])})
        [[(_, [(_, array)])]] = received
        assert array.sum() == 1000

    run(test)


def test_send_to_scheduler():
    async def test():
        async with cluster() as (scheduler, _, client):
            known = []

            def handler(client):
                known.append(future.key in scheduler.tasks)

            scheduler.stream_handlers["mpidask-test"] = handler
            future = client.submit(int, "1")
            compat.send_to_scheduler(client, {"op": "mpidask-test"})
            await until(lambda: known)
        compat.send_to_scheduler(client, {"op": "mpidask-test"})  # which is closed by now
        return known

    assert run(test) == [True]
