"""Schedulers and workers, made and described."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import warnings
from types import SimpleNamespace

import dask
import psutil
import pytest

from mpidask._dask import scheduler as schedulers
from mpidask._dask import worker as workers
from mpidask._dask.security import make_security
from mpidask._options import Options
from mpidask._placement.worker_settings import WorkerSettings

LIMIT = 30


def options(**given):
    return Options.resolve({"security": False, "dashboard": False} | given)


def run(test):
    async def limited():
        return await asyncio.wait_for(test(), LIMIT)

    return asyncio.run(limited())


@contextlib.asynccontextmanager
async def started(given):
    """Run a scheduler; gives it, and a function that starts a worker of it."""
    scheduler = await schedulers.start_scheduler(given, "127.0.0.1", None, "")
    made = []

    async def start_worker(name="w", attempt=0, nthreads=1):
        cluster = schedulers.connection_info(given, scheduler, None, "")
        settings = WorkerSettings(name, nthreads, ranks_on_node=2)
        worker = workers.make_worker(
            given, settings, cluster, attempt, given.worker_options, by_mpi=False
        )
        made.append(worker)
        await worker
        return worker

    try:
        yield scheduler, start_worker
    finally:
        for worker in made:
            await worker.close()
        await scheduler.close()


@pytest.fixture(autouse=True)
def quiet(tmp_path):
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield
    log.setLevel(level)


# -- Which workers are replaced. -----------------------------------------------------


def worker_that(*, reason="", retired=False, **attributes):
    return SimpleNamespace(close_reason=reason, retired=retired, **attributes)


@pytest.mark.parametrize(
    ("worker", "stays_away"),
    [
        (worker_that(), False),
        (worker_that(reason=None), False),
        (worker_that(reason="scheduler-restart"), False),
        (worker_that(reason="worker-lost-connection"), False),
        (worker_that(reason="scheduler-close"), True),
        (worker_that(reason="scheduler-close-worker"), True),
        (worker_that(retired=True), True),
        (worker_that(retired=True, lifetime_restart=False), True),
        (worker_that(retired=True, lifetime_restart=True), False),
        (worker_that(retired=True, lifetime_restart=True, reason="scheduler-close"), True),
        (worker_that(lifetime_restart=False), False),
    ],
)
def test_who_stays_away(worker, stays_away):
    assert workers.is_closed_for_good(worker, joined=False) is stays_away


def test_joined_workers_wait_for_the_next_cluster():
    assert not workers.is_closed_for_good(worker_that(reason="scheduler-close"), joined=True)
    assert workers.is_closed_for_good(worker_that(reason="scheduler-close-worker"), joined=True)
    assert workers.is_closed_for_good(worker_that(retired=True), joined=True)


@pytest.mark.parametrize(
    ("way", "stays_away"),
    [
        ("the cluster ends", True),
        ("retired", True),
        ("retired, as a heartbeat tells first", True),
        ("closed by the scheduler", True),
        ("restarted", False),
        ("closed by itself", False),
        ("connection lost", False),
    ],
)
def test_workers_know_why_they_were_closed(way, stays_away):
    """The same with real ones: distributed still gives the reasons we go by."""
    from distributed import Client

    async def test():
        async with started(options()) as (scheduler, start_worker):
            worker = await start_worker()
            async with Client(scheduler.address, asynchronous=True) as client:
                if way == "the cluster ends":
                    await scheduler.close()
                elif way == "retired":
                    await client.retire_workers([worker.address])
                elif way == "retired, as a heartbeat tells first":
                    worker.stream_handlers["close"] = lambda **_: None
                    await client.retire_workers([worker.address])
                elif way == "closed by the scheduler":
                    scheduler.close_worker(worker.address)
                elif way == "restarted":
                    await client.restart(wait_for_workers=False)
                elif way == "closed by itself":
                    await worker.close()
                else:
                    worker.batched_stream.comm.abort()
                await asyncio.wait_for(worker.finished(), 10)
        return workers.is_closed_for_good(worker, joined=False)

    assert run(test) is stays_away


# -- How servers are made. -----------------------------------------------------------


def test_workers_are_made_to_order():
    async def test():
        given = options(worker_options={"resources": {"GPU": 1}}, nthreads=3)
        async with started(given) as (scheduler, start_worker):
            first = await start_worker("job-2", nthreads=3)
            again = await start_worker("job-2", attempt=1)
            return (
                (first.name, first.state.nthreads, dict(first.state.total_resources)),
                first.memory_manager.memory_limit,
                again.name,
                type(first).__name__,
                len(scheduler.workers),
            )

    from mpidask._dask.memory import memory_limit

    first, memory, again, name, count = run(test)
    assert first == ("job-2", 3, {"GPU": 1})
    assert memory == memory_limit() // 2  # shared with one rank more
    assert again == "job-2-1"
    assert name == "Worker"
    assert count == 2


@pytest.mark.parametrize(
    ("limit", "expected"), [("1 GiB", 2**30), (10**9, 10**9), (0, None), (None, None)]
)
def test_memory_limit_is_per_worker_if_given(limit, expected):
    async def test():
        async with started(options(memory_limit=limit)) as (_, start_worker):
            worker = await start_worker()
            settings = WorkerSettings("w", nthreads=9, ranks_on_node=1)
            return workers.threads_and_memory(worker, settings)

    assert run(test) == (1, expected)


def test_foreign_workers_are_described_as_ordered():
    settings = WorkerSettings("w", nthreads=4, ranks_on_node=1)
    assert workers.threads_and_memory(object(), settings) == (4, None)
    nanny = SimpleNamespace(nthreads=2, memory_manager=SimpleNamespace(memory_limit=5))
    assert workers.threads_and_memory(nanny, settings) == (2, 5)


def test_worker_class():
    from distributed import Worker

    from mpidask._dask.nanny import QuietNanny

    class Mine(Worker):
        pass

    assert workers.worker_class(options()) is Worker
    assert issubclass(workers.worker_class(options(nanny=True)), QuietNanny)
    assert issubclass(workers.worker_class(options(nanny=True, worker_class=Mine)), QuietNanny)
    assert workers.worker_class(options(worker_class="distributed.Nanny")) is QuietNanny
    assert workers.worker_class(options(worker_class="distributed.nanny.Nanny")) is QuietNanny
    assert workers.worker_class(options(worker_class=Mine)) is Mine
    with pytest.raises(TypeError, match=r"'distributed\.wait' is not a class"):
        workers.worker_class(options(worker_class="distributed.wait"))
    for unknown in ("distributed.Wroker", "no_such_package.Worker"):
        with pytest.raises((ImportError, AttributeError)):
            workers.worker_class(options(worker_class=unknown))


def test_security():
    from distributed import Security

    assert make_security(False) is None
    mine = Security()
    assert make_security(mine) is mine
    made = make_security(True)
    assert made.require_encryption
    assert "PRIVATE KEY" in made.tls_worker_key
    assert make_security(True).tls_worker_key != made.tls_worker_key


def test_scheduler_options_come_last():
    async def test():
        given = options(scheduler_options={"idle_timeout": "1h"}, scheduler_port=0)
        async with started(given) as (scheduler, _):
            return scheduler.idle_timeout, schedulers.connection_info(given, scheduler, None, "")

    idle_timeout, cluster = run(test)
    assert idle_timeout == 3600
    assert cluster.address.startswith("tcp://127.0.0.1:")
    assert cluster.dashboard is None


def test_taken_port_of_the_dashboard_is_no_matter():
    """Another port, no warning, and the link names it."""

    async def test():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            given = options(dashboard=True, dashboard_address=f"127.0.0.1:{port}")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                async with started(given) as (scheduler, _):
                    link = schedulers.connection_info(given, scheduler, None, "").dashboard
            return port, link, [str(w.message) for w in caught if "already in use" in str(w)]

    port, link, caught = run(test)
    assert link is not None and f":{port}/" not in link
    assert caught == []


def test_running_tasks():
    assert workers.running_tasks(object()) == ()
    busy = SimpleNamespace(active_threads={1: "a-1", 2: ("b", 2)})
    assert workers.running_tasks(busy) == ("a-1", "('b', 2)")


# -- Open files. -----------------------------------------------------------------------


@pytest.fixture
def file_limit():
    """Lower the limit of open files that is in force, and give the one that may be set."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_scheduler_may_open_as_many_files_as_the_system_allows(file_limit, caplog):
    with schedulers.enough_files(10):
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (file_limit, file_limit)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (file_limit // 2, file_limit)
    assert not caplog.records


def test_too_few_files_for_the_workers_are_told(file_limit, caplog):
    workers = file_limit // 3
    with schedulers.enough_files(workers):
        pass
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mpidask", logging.WARNING)
    assert record.args == (file_limit, workers, 3 * workers + 200)
    assert f"may open {file_limit} files (ulimit -Hn)" in record.getMessage()


def test_connections_that_a_worker_takes():
    """As many files as `enough_files` counts on, and not far fewer."""

    async def test():
        async with started(options()) as (scheduler, start_worker):
            for number in range(4):
                worker = await start_worker(f"w{number}")
                await worker.heartbeat()
            await scheduler.broadcast(msg={"op": "identity"})
            sockets = psutil.Process().net_connections("tcp")
            port = scheduler.port
            accepted = sum(
                one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in sockets
            )
            return accepted + scheduler.rpc.open

    assert run(test) == 4 * schedulers._FILES_PER_WORKER


@pytest.mark.parametrize("own, threads", [("auto", 2), (3, 3)])
def test_threads_are_the_leaders_to_divide_and_the_ranks_to_choose(own, threads):
    async def test():
        async with started(options(nthreads=own)) as (_, start_worker):
            return (await start_worker(nthreads=2)).state.nthreads

    assert run(test) == threads
