"""What distributed logs on ranks nobody watches."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re

import dask
import pytest

from mpidask._dask.log_level import at_log_level


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
    from distributed import Client, Scheduler, Worker

    async def test():
        async with (
            Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler,
            Worker(scheduler.address, dashboard_address="127.0.0.1:0"),
            Client(scheduler.address, asynchronous=True) as client,
        ):
            with pytest.raises(ValueError, match="deliberate"):
                await client.submit(fail)

    asyncio.run(asyncio.wait_for(test(), 30))


def test_workers_still_log_failed_tasks_so(worker_log):
    """If this fails, the filter of `at_log_level` no longer finds what it drops."""
    logging.getLogger("distributed.worker").setLevel(logging.ERROR)
    fail_a_task()
    failed = [r for r in worker_log if str(r.msg).startswith("Compute Failed")]
    assert len(failed) == 1
    assert failed[0].levelno == logging.ERROR


def test_failed_tasks_are_the_client_s_to_show(worker_log):
    log = logging.getLogger("distributed.worker")
    with at_log_level(logging.WARNING):
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


def test_what_is_left_out_stays_so_after_a_block_inside(worker_log):
    log = logging.getLogger("distributed.worker")
    with at_log_level(logging.WARNING):
        with at_log_level(logging.CRITICAL):
            log.error("nothing to anybody")
        log.error("Compute Failed")
    log.error("Compute Failed again")
    assert [r.getMessage() for r in worker_log] == ["Compute Failed again"]


def test_restarted_workers_are_not_said_to_be_lost(worker_log):
    """Also: if this fails, distributed says so in other words, and the filter lets it through."""
    from distributed import Scheduler

    said = inspect.getsource(Scheduler.restart_workers)
    text = re.search(r'f"(Workers {no_nanny_workers} .*)"\s+"(.*)"', said)
    message = "".join(text.groups()).replace("{no_nanny_workers}", "['tls://127.0.0.1:1']")
    log = logging.getLogger("distributed.scheduler")
    with at_log_level(logging.WARNING):
        log.warning(message)
        log.warning("Workers ['tls://127.0.0.1:1'] are tired")
    assert [r.getMessage() for r in worker_log] == ["Workers ['tls://127.0.0.1:1'] are tired"]


def shuffle():
    """Rechunk an array by P2P, with workers that stay."""
    from distributed import Client, Scheduler, Worker

    da = pytest.importorskip("dask.array")

    async def test():
        async with (
            Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler,
            Worker(scheduler.address, dashboard_address="127.0.0.1:0"),
            Client(scheduler.address, asynchronous=True) as client,
        ):
            with dask.config.set({"array.rechunk.method": "p2p"}):
                array = da.ones((8, 8), chunks=(1, 8)).rechunk((8, 1))
            assert await client.compute(array.sum()) == 64
            shuffles = scheduler.plugins["shuffle"]
            while shuffles.active_shuffles:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(test(), 30))


@pytest.mark.parametrize(("level", "count"), [(logging.WARNING, 0), (logging.INFO, 2)])
def test_a_shuffle_is_routine(worker_log, level, count):
    """Also: both levels show that distributed still says it in these words."""
    with at_log_level(level):
        shuffle()
    said = [r.getMessage() for r in worker_log if r.levelno > logging.INFO]
    assert len(said) == count, said
    assert all(text.startswith("Shuffle ") for text in said)


def test_a_shuffle_that_starts_again_is_news(worker_log):
    with at_log_level(logging.WARNING):
        log = logging.getLogger("distributed.shuffle._scheduler_plugin")
        log.warning("Shuffle %s restarted due to stimulus '%s", 1, "worker-lost")
    assert len(worker_log) == 1


def test_failed_tasks_are_logged_for_those_who_want_to_know(worker_log):
    with at_log_level(logging.INFO):
        fail_a_task()
    assert any("Compute Failed" in r.getMessage() for r in worker_log)


def test_at_log_level_restores_levels():
    import distributed  # noqa: F401

    log, child = logging.getLogger("distributed"), logging.getLogger("distributed.client")
    before = log.level, child.level
    child.setLevel(logging.DEBUG)
    try:
        with pytest.raises(LookupError), at_log_level(logging.ERROR):  # noqa: PT012
            assert (log.level, child.level) == (logging.ERROR, logging.ERROR)
            raise LookupError
        assert (log.level, child.level) == (before[0], logging.DEBUG)
    finally:
        child.setLevel(before[1])


def test_blocks_that_end_in_another_order_than_they_began():
    """As the blocks of two threads do."""
    log = logging.getLogger("distributed")
    before = log.level
    first, second = at_log_level(logging.ERROR), at_log_level(logging.CRITICAL)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert log.level == logging.CRITICAL
    second.__exit__(None, None, None)
    assert log.level == before
