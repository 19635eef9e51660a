"""Schedulers and workers, and what mpidask relies on inside distributed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import warnings
from multiprocessing import spawn
from types import SimpleNamespace

import dask
import pytest

from mpidask import _servers
from mpidask._agreement import Cluster, StartWorker, WorkerStarted
from mpidask._log import hushed
from mpidask._options import Options

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
    scheduler = await _servers.start_scheduler(given, "127.0.0.1", None)
    workers = []

    async def start_worker(name="w", attempt=0, nthreads=1):
        cluster = _servers.describe_cluster(given, scheduler, None)
        order = StartWorker(cluster, nthreads=nthreads, sharers=2, name=name)
        worker = _servers.make_worker(given, order, cluster, attempt)
        workers.append(worker)
        await worker
        return worker

    try:
        yield scheduler, start_worker
    finally:
        for worker in workers:
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


# -- What we rely on inside distributed and Python. ----------------------------------


def test_preparation_data_name_the_main_module():
    """`hide_script_from_nannies` drops these; both names are Python's own."""
    assert list(inspect.signature(spawn.get_preparation_data).parameters) == ["name"]
    source = inspect.getsource(spawn)
    assert "'init_main_from_path'" in source or '"init_main_from_path"' in source
    assert "'init_main_from_name'" in source or '"init_main_from_name"' in source


def test_nannies_hide_the_script(monkeypatch):
    def original(name):
        return {"name": name, "init_main_from_path": "script.py", "init_main_from_name": "m"}

    monkeypatch.setattr(spawn, "get_preparation_data", original)
    _servers.hide_script_from_nannies()
    patched = spawn.get_preparation_data
    _servers.hide_script_from_nannies()
    assert spawn.get_preparation_data is patched  # once is enough
    name = "Dask Worker process (from Nanny)"
    assert patched(name) == {"name": name}
    assert patched("Process-1") == original("Process-1")


def test_nannies_name_their_processes_so(monkeypatch):
    """The name by which `hide_script_from_nannies` knows a nanny's process."""
    from distributed import nanny

    class Stopped(Exception):  # noqa: N818
        pass

    names = []

    def process(*args, name, **kwargs):
        names.append(name)
        raise Stopped

    monkeypatch.setattr(nanny, "AsyncProcess", process)

    async def test():
        supervised = nanny.WorkerProcess(
            worker_kwargs={},
            silence_logs=False,
            on_exit=None,
            worker=nanny.Worker,
            env={},
            pre_spawn_env={},
            config={},
        )
        with pytest.raises(Stopped):
            await supervised.start()

    run(test)
    assert len(names) == 1
    assert names[0].startswith("Dask Worker process")


def fail():
    raise ValueError("deliberate")


@pytest.fixture
def worker_log():
    """Collect what distributed.worker logs, where distributed shows it."""
    log = logging.getLogger("distributed")
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    log.addHandler(handler)
    level = log.level
    yield records
    log.removeHandler(handler)
    log.setLevel(level)


def fail_a_task():
    """Let a task fail on a cluster; its worker logs that before the client knows."""
    from distributed import Client

    async def test():
        async with started(options()) as (scheduler, start_worker):
            await start_worker()
            async with Client(scheduler.address, asynchronous=True) as client:
                with pytest.raises(ValueError, match="deliberate"):
                    await client.submit(fail)

    run(test)


def test_workers_still_log_failed_tasks_so(worker_log):
    """If this fails, the filter of `hushed` no longer finds what it drops."""
    logging.getLogger("distributed.worker").setLevel(logging.ERROR)
    fail_a_task()
    failed = [r for r in worker_log if str(r.msg).startswith("Compute Failed")]
    assert len(failed) == 1
    assert failed[0].levelno == logging.ERROR


def test_failed_tasks_are_the_client_s_to_show(worker_log):
    log = logging.getLogger("distributed.worker")
    with hushed(logging.WARNING):
        fail_a_task()
        log.error("something else")
        try:
            raise OSError
        except OSError:
            log.exception("an exception")
    assert [r.getMessage() for r in worker_log] == ["something else", "an exception"]
    assert worker_log[-1].exc_info is None
    log.error("Compute Failed again")
    assert worker_log[-1].getMessage() == "Compute Failed again"


def test_failed_tasks_are_logged_for_those_who_want_to_know(worker_log):
    with hushed(logging.INFO):
        fail_a_task()
    assert any("Compute Failed" in r.getMessage() for r in worker_log)


def test_hushed_restores_levels():
    import distributed  # noqa: F401

    log, child = logging.getLogger("distributed"), logging.getLogger("distributed.client")
    before = log.level, child.level
    child.setLevel(logging.DEBUG)
    try:
        with pytest.raises(LookupError), hushed(logging.ERROR):  # noqa: PT012
            assert (log.level, child.level) == (logging.ERROR, logging.ERROR)
            raise LookupError
        assert (log.level, child.level) == (before[0], logging.DEBUG)
    finally:
        child.setLevel(before[1])


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
    assert _servers.stays_away(worker, joined=False) is stays_away


def test_joined_workers_wait_for_the_next_cluster():
    assert not _servers.stays_away(worker_that(reason="scheduler-close"), joined=True)
    assert _servers.stays_away(worker_that(reason="scheduler-close-worker"), joined=True)
    assert _servers.stays_away(worker_that(retired=True), joined=True)


@pytest.mark.parametrize(
    ("way", "stays_away"),
    [
        ("the cluster ends", True),
        ("retired", True),
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
                elif way == "closed by the scheduler":
                    scheduler.close_worker(worker.address)
                elif way == "restarted":
                    await client.restart(wait_for_workers=False)
                elif way == "closed by itself":
                    await worker.close()
                else:
                    worker.batched_stream.comm.abort()
                await asyncio.wait_for(worker.finished(), 10)
        return _servers.stays_away(worker, joined=False)

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

    from mpidask._node import memory_limit

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
            order = StartWorker(Cluster(""), nthreads=9, sharers=1, name="w")
            return _servers.describe_worker(worker, order)

    assert run(test) == WorkerStarted(nthreads=1, memory_limit=expected)


def test_foreign_workers_are_described_as_ordered():
    order = StartWorker(Cluster(""), nthreads=4, sharers=1, name="w")
    assert _servers.describe_worker(object(), order) == WorkerStarted(4, None)
    nanny = SimpleNamespace(nthreads=2, memory_manager=SimpleNamespace(memory_limit=5))
    assert _servers.describe_worker(nanny, order) == WorkerStarted(2, 5)


def test_worker_class():
    from distributed import Worker

    from mpidask._quiet import QuietNanny

    class Mine(Worker):
        pass

    assert _servers.worker_class(options()) is Worker
    assert _servers.worker_class(options(nanny=True)) is QuietNanny
    assert _servers.worker_class(options(worker_class="distributed.Nanny")) is QuietNanny
    assert _servers.worker_class(options(worker_class="distributed.nanny.Nanny")) is QuietNanny
    assert _servers.worker_class(options(worker_class=Mine)) is Mine
    with pytest.raises(TypeError, match=r"'distributed\.wait' is not a class"):
        _servers.worker_class(options(worker_class="distributed.wait"))
    for unknown in ("distributed.Wroker", "no_such_package.Worker"):
        with pytest.raises((ImportError, AttributeError)):
            _servers.worker_class(options(worker_class=unknown))


def test_security():
    from distributed import Security

    assert _servers.make_security(False) is None
    mine = Security()
    assert _servers.make_security(mine) is mine
    made = _servers.make_security(True)
    assert made.require_encryption
    assert "PRIVATE KEY" in made.tls_worker_key
    assert _servers.make_security(True).tls_worker_key != made.tls_worker_key


def test_scheduler_options_come_last():
    async def test():
        given = options(scheduler_options={"idle_timeout": "1h"}, scheduler_port=0)
        async with started(given) as (scheduler, _):
            return scheduler.idle_timeout, _servers.describe_cluster(given, scheduler, None)

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
                    link = _servers.describe_cluster(given, scheduler, None).dashboard
            return port, link, [str(w.message) for w in caught if "already in use" in str(w)]

    port, link, caught = run(test)
    assert link is not None and f":{port}/" not in link
    assert caught == []


def test_running_tasks():
    assert _servers.running_tasks(object()) == ()
    busy = SimpleNamespace(active_threads={1: "a-1", 2: ("b", 2)})
    assert _servers.running_tasks(busy) == ("a-1", "('b', 2)")


def test_launcher_is_hidden_for_a_while(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = dict(os.environ)
    with _servers.hidden_launcher():
        assert "PMI_RANK" not in os.environ
        assert "OMPI_COMM_WORLD_SIZE" not in os.environ
        assert os.environ["SLURM_JOB_ID"] == "7"  # the job is no secret, the launcher is
    assert dict(os.environ) == before
