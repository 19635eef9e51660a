"""Progress, stalls and the summary, on a cluster in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
from types import SimpleNamespace

import dask
import pytest
from distributed import Client, Scheduler, Worker, fire_and_forget, wait

from mpidask._dask.atomic_file import AtomicFile
from mpidask._errors import MPIDaskError
from mpidask._options import Options
from mpidask._watch import task_counts
from mpidask._watch.failures import Failures
from mpidask._watch.monitor import Monitor, start_monitor
from mpidask._watch.progress import Progress
from mpidask._watch.summary import Summary
from mpidask._watch.task_counts import TaskCounts, place_of, usage

LIMIT = 60


@contextlib.asynccontextmanager
async def cluster(workers=1, **arguments):
    """Run a scheduler with a tally, workers named as those of ranks, and a client."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            Scheduler(host="127.0.0.1", dashboard=False, dashboard_address="127.0.0.1:0")
        )
        tally = TaskCounts(server)
        server.add_plugin(tally)
        for rank in range(2, 2 + workers):
            worker = Worker(
                server.address,
                name=f"mpidask-{rank}",
                dashboard=False,
                dashboard_address="127.0.0.1:0",
                **{"nthreads": 1, "memory_limit": "1 GiB"} | arguments,
            )
            await stack.enter_async_context(worker)
        client = await stack.enter_async_context(Client(server.address, asynchronous=True))
        yield server, tally, client


def watched(server, places=None):
    failures = Failures(server, places or {})
    server.add_plugin(failures)
    return failures


def run(test):
    async def limited():
        return await asyncio.wait_for(test(), LIMIT)

    return asyncio.run(limited())


def counts(tally):
    return tally.done, tally.erred, tally.retried, tally.pending


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="mpidask")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "mpidask"]


# -- The tally. ------------------------------------------------------------------------


def fail():
    raise ValueError("deliberate")


ONCE = set()


def once_wrong(_):
    if not ONCE:
        ONCE.add("wrong")
        fail()


def nap_and_fail(seconds):
    time.sleep(seconds)
    fail()


def test_tasks_are_counted_as_they_end():
    async def test():
        async with cluster() as (_, tally, client):
            assert tally.first_ended is None
            await client.gather(client.map(abs, range(5)))
            assert counts(tally) == (5, 0, 0, 0)
            assert tally.first_ended is not None
            wrong = client.submit(fail)
            await wait([client.submit(abs, wrong)])
            assert counts(tally) == (5, 2, 0, 0)  # itself, and what depends on it
            await client.scatter([1, 2])
            assert counts(tally) == (5, 2, 0, 0)  # data are no tasks

    run(test)


def test_retries_and_lost_results_are_counted():
    async def test():
        async with cluster() as (_, tally, client):
            await wait([client.submit(fail, retries=2)])
            assert counts(tally) == (0, 1, 2, 0)
            await client.restart(
                wait_for_workers=False
            )  # its worker has no nanny, and does not come back
            assert counts(tally) == (0, 1, 2, 0)

        async with cluster(workers=2) as (server, tally, client):
            kept = client.submit(abs, -1)
            await kept
            (holder,) = (await client.who_has(kept))[kept.key]
            await server.remove_worker(holder, stimulus_id="lost")
            assert await kept == 1
            assert counts(tally) == (1, 0, 1, 0)

    run(test)


def test_a_failure_that_is_tried_again_later_is_none():
    async def test():
        async with cluster() as (_, tally, client):
            future = client.submit(once_wrong, set(), pure=False)
            ONCE.clear()
            await wait([future])
            assert counts(tally) == (0, 1, 0, 0)
            await future.retry()
            await future
            assert counts(tally) == (1, 0, 1, 0)

    run(test)


def test_tasks_put_up_again_that_never_run_again_are_no_retries():
    async def test():
        async with cluster() as (server, tally, client):
            held = client.submit(hold, "put up", key="put-up")
            await until(lambda: tally.pending and server.tasks["put-up"].state == "processing")
            (worker,) = server.workers
            await server.remove_worker(worker, stimulus_id="lost")
            await until(lambda: server.tasks["put-up"].state in ("no-worker", "queued"))
            assert counts(tally) == (0, 0, 0, 1)
            await held.cancel()
            RELEASED.add("put up")
            await until(lambda: tally.dropped == 1)
            assert counts(tally) == (0, 0, 0, 0)
            assert not tally._again

    run(test)


def test_tasks_that_wait_or_run_are_pending_until_they_are_cancelled():
    async def test():
        async with cluster() as (_, tally, client):
            held = client.submit(hold, "pending")
            after = client.map(lambda _, n: n, [held] * 3, range(3))
            await until(lambda: tally.pending == 4)
            assert tally.total == 4
            await client.cancel([held, *after])
            RELEASED.add("pending")
            await until(lambda: tally.dropped == 4)
            assert counts(tally) == (0, 0, 0, 0)
            assert not tally._released

    run(test)


# -- Progress. ---------------------------------------------------------------------------


RELEASED = set()


def hold(name):
    while name not in RELEASED:
        nap(0.01)


def nap(seconds):
    time.sleep(seconds)


def test_lines_at_an_interval_while_there_is_work(said):
    async def test():
        async with cluster() as (server, tally, client):
            progress = Progress(server, tally, 0.2, {})
            telling = asyncio.create_task(progress.run())
            await asyncio.sleep(1)
            assert said() == []  # nothing to do, nothing to say
            await client.gather(client.map(abs, range(3)))
            held = client.submit(hold, "progress")
            await until(lambda: any("3 of 4 tasks done" in line for line in said()))
            RELEASED.add("progress")
            await held
            await until(lambda: any("4 of 4 tasks done" in line for line in said()))
            before = len(said())
            await asyncio.sleep(1)
            assert len(said()) == before
            telling.cancel()
            for line in said():
                if "tasks done" in line:
                    assert re.fullmatch(
                        r"[0-4] of [1-4] tasks done; \d+(\.\d)?/(s|min|h)(, \d+ s left)?; "
                        r"[01] of 1 workers busy; memory [\d.]+ .iB of 1\.00 GiB",
                        line,
                    ), line

    run(test)


@pytest.mark.parametrize(
    "rest, said_of_it", [(30, "ends in 30 s, too soon"), (7200, "ends in 2 h;")]
)
def test_the_time_left_is_compared_with_the_allocation(monkeypatch, rest, said_of_it):
    monkeypatch.setenv("MPIDASK_JOB_END_TIME", str(round(time.time() + rest)))
    scheduler = SimpleNamespace(workers={}, tasks={}, plugins={})
    tally = TaskCounts(scheduler)
    progress = Progress(scheduler, tally, 10, {})
    progress._past[0] = (time.monotonic() - 10, 0, 0)
    tally.done, tally.pending = 25, 1500
    line = progress.line()
    assert line.startswith("25 of 1525 tasks done; 2.5/s, 10 min left; the allocation ends in ")
    # A second may pass, or be rounded.
    assert said_of_it in re.sub(r"29 s|31 s", "30 s", line.replace("1 h 59 min", "2 h"))


def test_a_stall_is_told_once_with_rank_and_stack(said):
    async def test():
        places = {"mpidask-2": "rank 2 on node1"}
        async with cluster() as (server, tally, client):
            telling = asyncio.create_task(Progress(server, tally, 0.2, places).run())
            stalls = lambda: [line for line in said() if "no task has ended" in line]  # noqa: E731
            held = client.submit(hold, "first", key="long-task")
            await until(stalls)
            await asyncio.sleep(2)
            assert len(stalls()) == 1
            RELEASED.add("first")
            await held
            again = client.submit(hold, "second", key="longer-task")
            await until(lambda: len(stalls()) == 2)
            RELEASED.add("second")
            await again
            telling.cancel()
            return stalls()

    first, second = run(test)
    assert re.match(
        r"no task has ended for 1 s\. Still running: long-task on rank 2 on node1", first
    )
    assert ", in " in first and "hold (test_monitor.py:" in first
    assert "longer-task on rank 2 on node1" in second


def test_a_stall_after_one_that_was_cancelled_is_told(said):
    async def test():
        async with cluster(nthreads=2) as (server, tally, client):
            telling = asyncio.create_task(Progress(server, tally, 0.2, {}).run())
            stalls = lambda: [line for line in said() if "no task has ended" in line]  # noqa: E731
            first = client.submit(hold, "cancelled", key="first")
            await until(stalls)
            await first.cancel()
            again = client.submit(hold, "cancelled", key="a\nb\x1b[31m")
            await until(lambda: len(stalls()) == 2)
            RELEASED.add("cancelled")
            await again
            telling.cancel()
            return stalls()[1]

    assert "Still running: a b [31m on worker" in run(test)


def test_workers_still_tell_what_they_execute():
    """If this fails, `running` no longer knows for how long tasks run."""

    async def test():
        async with cluster() as (server, _, client):
            held = client.submit(hold, "running", key="held")
            (worker,) = server.workers.values()
            await until(lambda: worker.executing)
            (task,) = task_counts.running(server)
            assert (task.key, task.worker) == ("held", worker)
            assert 0 <= task.seconds < LIMIT
            worker.executing = {}  # as of one whose event loop is blocked
            (task,) = task_counts.running(server)
            assert (task.key, task.seconds) == ("held", None)
            RELEASED.add("running")
            await held

    run(test)


def test_places():
    places = {"mpidask-2": "rank 2 on node1"}
    worker = SimpleNamespace(name="mpidask-2", host="10.0.0.1")
    assert place_of(worker, places) == "rank 2 on node1"
    worker.name = "mpidask-2-1"  # it replaced the first
    assert place_of(worker, places) == "rank 2 on node1"
    worker.name = "mpidask-0ab1-2"
    assert place_of(worker, places) == "worker mpidask-0ab1-2 on 10.0.0.1"
    worker.name = 0
    assert place_of(worker, places) == "worker 0 on 10.0.0.1"


def test_usage_adds_up():
    async def test():
        async with cluster(workers=2) as (server, _, client):
            held = client.submit(hold, "usage", workers=["mpidask-2"])
            await until(lambda: usage(server).busy == 1)
            now = usage(server)
            assert (now.workers, now.memory_limit, now.spilled) == (2, 2 * 2**30, 0)
            assert now.memory > 2**20
            RELEASED.add("usage")
            await held
        async with cluster(memory_limit=0) as (server, *_):
            assert usage(server).memory_limit == 0

    run(test)


# -- The summary. --------------------------------------------------------------------------


def test_the_summary_adds_up():
    async def test():
        places = {"mpidask-2": "rank 2 on node1", "mpidask-3": "rank 3 on node2"}
        async with cluster(workers=2) as (server, tally, client):
            began = time.monotonic()
            summary = Summary(server, tally, places, watched(server, places))
            big = client.submit(bytes, 10**6, workers=["mpidask-2"])
            await client.submit(len, big, workers=["mpidask-3"])
            for _ in range(10):
                await client.submit(nap, 0.1, pure=False, workers=["mpidask-2"])
                summary.sample()
            await wait([client.submit(nap_and_fail, 1, retries=1)])
            sent = ("get-data", "memory-read", "bytes")
            await until(lambda: server.cumulative_worker_metrics.get(sent, 0) >= 10**6)
            summary.sample()
            return summary.content(3), summary.lines(), time.monotonic() - began

    content, lines, seconds = run(test)
    assert (content["schema"], content["finished"], content["status"]) == (1, True, 3)
    assert content["tasks"] == {"done": 12, "erred": 1, "retried": 1, "pending": 0, "dropped": 0}
    rounding = 0.0005
    assert 0 < content["seconds_to_first_task"] < content["seconds"] <= seconds + rounding
    assert 2 <= content["busy_thread_seconds"] < 2 * seconds
    assert content["thread_seconds"] == pytest.approx(2 * seconds, abs=1)
    assert 10**6 <= content["bytes_moved"] < 10**7
    assert content["bytes_spilled"] == 0
    assert content["allocation_ends"] is None
    by_place = {worker["place"]: worker for worker in content["workers"]}
    assert set(by_place) == {"rank 2 on node1", "rank 3 on node2"}
    for worker in by_place.values():
        assert (worker["threads"], worker["memory_limit"]) == (1, 2**30)
        assert 2**20 < worker["memory_peak"] < 2**30
        assert 0 <= worker["idle_seconds"] <= worker["seconds"]
    assert content["advice"]["idle_workers"] in (1, 2)
    peak = max(worker["memory_peak"] for worker in by_place.values())
    assert content["advice"]["memory_per_rank"] == pytest.approx(1.2 * peak, abs=2)
    assert len(lines) == 2
    assert lines[0].startswith("summary: 12 tasks done, 1 erred, 1 retried in ")
    assert re.search(r"; most memory [\d.]+ MiB of 1\.00 GiB on rank [23] on node", lines[0])
    assert re.match(r"next time: ask for \d\.\d GiB a rank; [12] of 2 workers w", lines[1])


def test_bytes_moved_are_not_known_without_a_memory_limit():
    async def test():
        async with cluster(memory_limit=0) as (server, tally, _):
            summary = Summary(server, tally, {}, watched(server))
            summary.sample()
            return summary

    summary = run(test)
    assert summary.content()["bytes_moved"] is None
    assert "moved" not in summary.lines()[0]


def test_a_few_looks_tell_nothing_of_idle_workers():
    async def test():
        async with cluster() as (server, tally, _):
            summary = Summary(server, tally, {}, watched(server))
            for number in range(20):
                summary.sample()
                idle = summary.content()["advice"]["idle_workers"]
                assert idle == (number >= 9)

    run(test)


def test_spilled_bytes_are_counted(tmp_path):
    async def test():
        arguments = {"memory_limit": "1 TiB", "local_directory": str(tmp_path)}
        async with cluster(**arguments) as (server, tally, client):
            summary = Summary(server, tally, {}, watched(server))
            kept = client.map(lambda n: bytes(100_000) + bytes([n]), range(5))
            await wait(kept)
            await until(lambda: summary.content()["bytes_spilled"] > 0)
            await until(lambda: usage(server).spilled > 0)
            summary.sample()
            return summary.lines()

    with dask.config.set({"distributed.worker.memory.target": 1e-7}):
        lines = run(test)
    assert "iB spilled" in lines[0]
    assert "ask for more than" in lines[1]


# -- Failures. -----------------------------------------------------------------------------


def raise_(n, *, error=ValueError):
    raise error(n)


async def forgotten(client, tally, function, *args, **kwargs):
    """Run a task that nobody waits for to its end."""
    ended, future = tally.ended, client.submit(function, *args, pure=False, **kwargs)
    fire_and_forget(future)
    future.release()
    await until(lambda: tally.ended > ended)
    return future.key


def test_failures_that_nobody_would_hear_of_are_told(said):
    """One line for the first of each kind, the others counted; by those that raised."""

    async def test():
        places = {"mpidask-2": "rank 2 on node1"}
        async with cluster() as (server, tally, client):
            failures = watched(server, places)
            told = [await forgotten(client, tally, raise_, 1)]
            await forgotten(client, tally, raise_, 2)
            told.append(await forgotten(client, tally, raise_, 3, error=LookupError))
            cause = client.submit(raise_, 4, error=OSError)
            result = client.submit(str, cause)
            told.append(cause.key)
            fire_and_forget(result)
            cause.release()
            result.release()
            await until(lambda: tally.ended == 5)
            await forgotten(client, tally, str, 5)
            await server.close()
            return told, failures.kinds

    told, kinds = run(test)
    expected = zip(told, ["ValueError(1)", "LookupError(3)", "OSError(4)"], strict=True)
    lines = [f"task {key} failed on rank 2 on node1: {error}" for key, error in expected]
    assert said() == [*lines, "more tasks failed whose results nobody waits for: 1"]
    assert [(one.task, one.exception_type, one.count) for one in kinds] == [
        ("raise_", "ValueError", 2),
        ("raise_", "LookupError", 1),
        ("raise_", "OSError", 1),
    ]


def test_a_task_that_failed_before_it_was_to_be_forgotten(said):
    async def test():
        async with cluster() as (server, _, client):
            watched(server)
            future = client.submit(raise_, 1)
            await wait(future)
            fire_and_forget(future)
            await until(said)

    run(test)
    (line,) = said()
    assert line.endswith("ValueError(1)")


def test_failures_that_a_client_hears_of_are_for_the_summary(said):
    async def test():
        async with cluster() as (server, tally, client):
            summary = Summary(server, tally, {}, watched(server))
            tasks = client.map(raise_, range(3)) + [client.submit(str, client.submit(raise_, 9))]
            await wait(tasks)
            await server.close()
            return summary.content()["failures"], summary.lines()

    (failure,), lines = run(test)
    assert said() == []
    assert (failure["task"], failure["exception_type"], failure["count"]) == (
        "raise_",
        "ValueError",
        4,
    )
    assert failure["exception"] in [f"ValueError({n})" for n in (0, 1, 2, 9)]
    assert failure["key"].startswith("raise_-") and "mpidask-2" in failure["place"]
    assert "; failed: ValueError in raise_ (4 times); " in lines[0]


def test_there_are_bounds_to_what_is_told_of_failures(said):
    async def test():
        async with cluster() as (server, tally, client):
            watched(server)
            kinds = [type(f"Error{n}", (Exception,), {}) for n in range(7)]
            for kind in kinds:
                await forgotten(client, tally, raise_, "x\n" * 1000, error=kind)
            await server.close()

    run(test)
    assert [line.count("Error") for line in said()] == [1] * 5 + [0]
    assert said()[-1].endswith(": 2")
    assert max(map(len, said())) < 400


def test_a_summary_of_nothing():
    scheduler = SimpleNamespace(
        plugins={},
        workers={},
        tasks={},
        task_prefixes={},
        cumulative_worker_metrics={},
        stream_handlers={"client-desires-keys": None},
    )
    summary = Summary(scheduler, TaskCounts(scheduler), {}, Failures(scheduler, {}))
    summary.sample()
    content = json.loads(summary.text())
    assert (content["finished"], content["status"]) == (False, None)
    assert (content["advice"], content["workers"]) == (None, [])
    (line,) = summary.lines()
    assert line == "summary: 0 tasks done in 0 s; 0 B moved"


# -- The monitor. ----------------------------------------------------------------------------


def test_the_summary_is_there_from_the_start_and_finished_at_the_end(tmp_path, said):
    path = tmp_path / "new" / "job.json"

    async def test():
        async with cluster() as (server, _, client):
            server.remove_plugin(TaskCounts.name)  # it has its own
            monitor = await start_monitor(Options.resolve({"summary": path}), server, {})
            await until(path.exists)
            assert json.loads(path.read_text())["finished"] is False
            await client.submit(abs, -1)
            await until(lambda: json.loads(path.read_text())["tasks"]["done"] == 1)
            await monitor.finish(143)

    run(test)
    content = json.loads(path.read_text())
    assert (content["finished"], content["status"]) == (True, 143)
    assert [line.split(":")[0] for line in said()] == ["summary", "next time"]
    assert [file.name for file in path.parent.iterdir()] == ["job.json"]


def test_a_file_system_that_hangs_does_not_hold_the_scheduler(tmp_path, said, monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(AtomicFile, "write", lambda self, content: hang.wait())

    async def test():
        async with cluster() as (server, *_):
            server.remove_plugin(TaskCounts.name)
            options = Options.resolve({"summary": tmp_path / "job.json", "shutdown_timeout": 1})
            await Monitor(options, server, {}, watched(server)).finish(0)

    run(test)
    hang.set()
    assert said()[0] == "the summary is not written within 0.5 s: the last version is missing"
    assert said()[1].startswith("summary: 0 tasks done")


def test_what_becomes_of_tasks_while_the_scheduler_closes_is_no_work(tmp_path):
    path = tmp_path / "job.json"

    async def test():
        async with cluster() as (server, _, client):
            server.remove_plugin(TaskCounts.name)
            monitor = await start_monitor(Options.resolve({"summary": path}), server, {})
            kept = client.map(abs, range(5))
            await wait(kept)
            await client.shutdown()
            await server.finished()
            await monitor.finish(0)

    run(test)
    content = json.loads(path.read_text())
    assert content["tasks"] == {"done": 5, "erred": 0, "retried": 0, "pending": 0, "dropped": 0}
    assert len(content["workers"]) == 1


def test_a_summary_that_will_never_be_written(tmp_path):
    options = Options.resolve({"summary": tmp_path})
    with pytest.raises(MPIDaskError, match=r"the summary can't be written: .*: it is a directory"):
        asyncio.run(start_monitor(options, None, {}))


def test_a_summary_that_cannot_be_written(tmp_path, said):
    async def test():
        async with cluster() as (server, *_):
            path = tmp_path / "folder" / "job.json"
            server.remove_plugin(TaskCounts.name)
            monitor = await start_monitor(Options.resolve({"summary": path}), server, {})
            await until(path.exists)
            path.unlink()
            path.parent.rmdir()  # as if the disk were full
            await monitor.finish(0)

    run(test)
    assert said()[0].startswith("the summary can't be written: ")
    assert said()[1].startswith("summary: 0 tasks done")


def test_broadcast_values_are_part_of_the_memory():
    scheduler = SimpleNamespace(workers={}, tasks={}, plugins={})
    assert task_counts.usage(scheduler).broadcast == 0
    scheduler.plugins["mpidask-broadcast"] = SimpleNamespace(nbytes=2**30)
    assert task_counts.usage(scheduler).broadcast == 2**30
