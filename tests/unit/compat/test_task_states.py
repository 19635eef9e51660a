"""Contracts with distributed's scheduler and worker, as gangs use them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading

import dask
import pytest
from distributed import CancelledError, Client, Scheduler, Worker, wait

from mpidask._compat import task_states

#: The host that waiting tasks are restricted to.
NOWHERE = "no-such-host"
#: No test waits longer than this.
LIMIT = 20


def on_cluster(test):
    """Run a coroutine on a scheduler, with a worker and a client."""

    @functools.wraps(test)
    def run():
        asyncio.run(asyncio.wait_for(with_cluster(test), 60))

    del run.__wrapped__  # whose parameters pytest would take for fixtures
    return run


async def with_cluster(test):
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "1 h"}):
        async with (
            Scheduler(dashboard_address=":0") as scheduler,
            Worker(scheduler.address, nthreads=2, resources={"GPU": 2}) as worker,
            Client(scheduler.address, asynchronous=True) as client,
        ):
            await test(scheduler, worker, client)


async def until(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), LIMIT)


def increase(x):
    return x + 1


_may_end = threading.Event()


def stay_if_zero(n):
    return n or _may_end.wait(LIMIT)


@contextlib.contextmanager
def staying():
    """Let `stay_if_zero` stay within the block."""
    _may_end.clear()
    try:
        yield
    finally:
        _may_end.set()


async def waiting(scheduler, client, count=2, function=increase, **options):
    """Submit tasks that wait for a host that does not exist."""
    futures = client.map(function, range(count), workers=[NOWHERE], pure=False, **options)
    keys = [future.key for future in futures]
    await until(lambda: states(scheduler, keys) == {"no-worker"})
    return futures, keys


def states(scheduler, keys):
    return {task_states.state_of(scheduler, key) for key in keys}


@on_cluster
async def test_tasks_that_no_host_fits_are_in_no_worker(scheduler, worker, client):
    _futures, keys = await waiting(scheduler, client)
    assert states(scheduler, keys) == {task_states.NO_WORKER}
    assert task_states.state_of(scheduler, "unknown") == ""


@on_cluster
async def test_assign_sends_tasks_and_restricts_them_again(scheduler, worker, client):
    futures, keys = await waiting(scheduler, client)
    task_states.assign(scheduler, dict.fromkeys(keys, worker.address), NOWHERE)
    assert states(scheduler, keys) == {"processing"}
    assert await client.gather(futures) == [1, 2]
    task_states.reset(scheduler, keys)
    assert states(scheduler, keys) == {"no-worker"}


@on_cluster
async def test_reset_from_any_state(scheduler, worker, client):
    _futures, keys = await waiting(scheduler, client, function=stay_if_zero)
    with staying():
        task_states.assign(scheduler, dict.fromkeys(keys, worker.address), NOWHERE)
        await until(lambda: task_states.state_of(scheduler, keys[1]) == "memory")
        assert task_states.state_of(scheduler, keys[0]) == "processing"
        task_states.reset(scheduler, keys)
    assert states(scheduler, keys) == {"no-worker"}
    task_states.fail(scheduler, keys, error=RuntimeError("failed"))
    for state in "erred", "released":
        assert states(scheduler, keys) == {state}
        task_states.reset(scheduler, keys)
    assert states(scheduler, keys) == {"no-worker"}


@on_cluster
async def test_fail_with_an_exception_or_like_another_task(scheduler, worker, client):
    futures, keys = await waiting(scheduler, client, 3)
    task_states.fail(scheduler, keys[:1], error=LookupError("the first"))
    task_states.fail(scheduler, keys[1:], like=keys[0])
    for future in futures:
        with pytest.raises(LookupError, match="the first"):
            await future


@on_cluster
async def test_interest_keeps_tasks(scheduler, worker, client):
    futures, keys = await waiting(scheduler, client)
    task_states.add_interest(scheduler, [*keys, "unknown"], "ours")
    assert all(task_states.is_wanted(scheduler, key, except_by="ours") for key in keys)
    assert not task_states.is_wanted(scheduler, "unknown", except_by="ours")
    dependent = client.submit(increase, futures[0], key="dependent")
    await until(lambda: "dependent" in scheduler.tasks)
    del futures, dependent
    await until(lambda: not task_states.is_wanted(scheduler, keys[0], except_by="ours"))
    assert states(scheduler, keys) == {"no-worker"}
    task_states.drop_interest(scheduler, [*keys, "unknown"], "ours")
    assert states(scheduler, keys) == {""}


@on_cluster
async def test_cancel_for_all_clients(scheduler, worker, client):
    futures, keys = await waiting(scheduler, client)
    task_states.add_interest(scheduler, keys, "another")
    task_states.cancel(scheduler, [*keys, "unknown"], "why")
    assert states(scheduler, keys) == {""}
    await until(lambda: {future.status for future in futures} == {"cancelled"})
    with pytest.raises(CancelledError, match="why"):
        await futures[0]


@on_cluster
async def test_call_before_release(scheduler, worker, client):
    heard = []
    task_states.call_before_release(
        scheduler, lambda keys: heard.extend((key, key in scheduler.tasks) for key in keys)
    )
    async with Client(scheduler.address, asynchronous=True) as other:
        future = other.submit(increase, 1, key="one")
        assert await future == 2
        del future
        await until(lambda: "one" not in scheduler.tasks)
    assert heard == [("one", True)]


@on_cluster
async def test_call_before_retry(scheduler, worker, client):
    futures, keys = await waiting(scheduler, client)
    task_states.add_interest(scheduler, keys, "another")
    task_states.fail(scheduler, keys, error=RuntimeError("failed"))
    await wait(futures)
    task_states.call_before_retry(scheduler, lambda chosen: keys)
    await futures[0].retry()
    assert states(scheduler, keys) == {"no-worker"}
    await until(lambda: {future.status for future in futures} == {"pending"})


@on_cluster
async def test_share_retries(scheduler, worker, client):
    _futures, keys = await waiting(scheduler, client, retries=3)
    scheduler.tasks[keys[1]].retries -= 1
    task_states.share_retries(scheduler, keys)
    assert [scheduler.tasks[key].retries for key in keys] == [2, 2]


@on_cluster
async def test_ranks_with_data(scheduler, worker, client):
    async with Worker(scheduler.address) as other:
        ranks = {worker.address: 4, other.address: 5}
        there = [
            await client.scatter(bytes(size), workers=[at.address], hash=False)
            for at, size in [(worker, 10), (other, 1000), (other, 5)]
        ]
        futures = client.map(lambda *args: None, there[:2], there[1:], workers=[NOWHERE])
        keys = [future.key for future in futures]
        await until(lambda: states(scheduler, keys) == {"no-worker"})
        # What both need does not count.
        assert task_states.ranks_with_data(scheduler, keys, ranks) == {0: 4, 1: 5}
        assert task_states.ranks_with_data(scheduler, keys[:1], ranks) == {0: 5}
        assert task_states.ranks_with_data(scheduler, keys, {}) == {}


@on_cluster
async def test_resources(scheduler, worker, client):
    _modest, (plain, _) = await waiting(scheduler, client)
    _greedy, (greedy, _) = await waiting(scheduler, client, resources={"GPU": 3})
    assert task_states.resources_of(scheduler, plain) == {}
    assert task_states.resources_of(scheduler, greedy) == {"GPU": 3}
    assert task_states.offers(scheduler, worker.address, {"GPU": 2})
    assert not task_states.offers(scheduler, worker.address, {"GPU": 3})
    assert not task_states.offers(scheduler, worker.address, {"FPGA": 1})


@on_cluster
async def test_postpone_no_workers_timeout(scheduler, worker, client):
    _futures, keys = await waiting(scheduler, client, 3)
    assert scheduler.no_workers_timeout == 3600
    for task in scheduler.unrunnable:
        scheduler.unrunnable[task] -= 7200
    task_states.postpone_no_workers_timeout(scheduler, [*keys[:2], "unknown"])
    scheduler._check_no_workers()
    assert [task_states.state_of(scheduler, key) for key in keys] == [
        "no-worker",
        "no-worker",
        "erred",
    ]


@on_cluster
async def test_a_message_is_not_held_back(scheduler, worker, client):
    heard: asyncio.Queue[int] = asyncio.Queue()
    worker.stream_handlers["hear"] = heard.put_nowait
    stream = scheduler.stream_comms[worker.address]
    stream.interval = 3600
    for number in range(2):
        message = {"op": "hear", "item": number}
        task_states.send_at_once(scheduler, worker.address, message)
        assert await asyncio.wait_for(heard.get(), 20) == number
    assert stream.next_deadline is not None  # what comes now is held back


@on_cluster
async def test_is_executing(scheduler, worker, client):
    with staying():
        future = client.submit(stay_if_zero, 0, key="long")
        await until(lambda: worker.state.executing)
        assert task_states.is_executing(worker, "long")
        assert not task_states.is_executing(worker, "another")
    await future
    await until(lambda: not task_states.is_executing(worker, "long"))
