"""The lifecycle, with real schedulers and workers, on ranks that are tasks of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import signal
import threading
import time
from collections import defaultdict

import dask
import distributed  # noqa: F401 (takes seconds, not to be part of a time-out)
import pytest

from mpidask import StartupError, _departure, _runner, _servers, _signals
from mpidask._agreement import Done, End, Failed, Here
from mpidask._options import Options
from mpidask._polling import pauses, poll
from mpidask._roles import assign_roles
from mpidask._runner import Leader, Member
from mpidask._world import TO_LEADER

#: No test takes longer than this; a hang is a failure.
LIMIT = 30


class FakeWorld:
    """One rank of a job, with queues in place of MPI; `lost` names what it never sends."""

    def __init__(self, mailboxes, rank, size, lost=()):
        self.rank, self.size = rank, size
        self._mailboxes, self._lost = mailboxes, lost

    def send(self, rank, tag, message):
        if not isinstance(message, self._lost):
            self._mailboxes[rank, tag].put_nowait((self.rank, pickle.dumps(message)))

    async def flush(self):
        pass

    async def receive(self, tag, *, longest=0.03):
        rank, message = await self._mailboxes[self.rank, tag].get()
        return rank, pickle.loads(message)


class Job:
    """All ranks of a job.

    Parameters
    ----------
    size : int
        Number of ranks.
    absent : iterable of int
        Ranks that never say anything.
    lost : dict of int to tuple of class
        Messages that a rank never sends.
    **options
        Options of mpidask.
    """

    def __init__(self, size, *, absent=(), lost=None, **options):
        self.options = Options.resolve(
            {
                "security": False,
                "dashboard": False,
                "nthreads": 1,
                "memory_limit": 0,
                "startup_timeout": 20,
                "shutdown_timeout": 10,
            }
            | options
        )
        self.roles = assign_roles(
            size,
            scheduler_rank=self.options.scheduler_rank,
            client_rank=self.options.client_rank,
            exclusive_workers=self.options.exclusive_workers,
        )
        mailboxes = defaultdict(asyncio.Queue)
        self.worlds = [
            FakeWorld(mailboxes, rank, size, (lost or {}).get(rank, ())) for rank in range(size)
        ]
        self.members = {
            rank: Member(self.worlds[rank], self.roles, self.options)
            for rank in range(size)
            if rank not in absent
        }
        self.serving = {
            rank: asyncio.create_task(member.serve()) for rank, member in self.members.items()
        }
        self.signals = []
        self.leader = Leader(
            self.worlds[self.roles.leader], self.roles, self.options, self.signals.append
        )

    async def end(self, status=0, leave=True):
        """End the cluster, and give the orders with which the members left."""
        await self.leader.end(End(status, leave))
        return await asyncio.gather(*self.serving.values())


@contextlib.asynccontextmanager
async def client_of(cluster):
    from distributed import Client

    async with Client(cluster.address, asynchronous=True) as client:
        yield client


async def workers_of(client):
    """Give the threads of each worker the scheduler has now, by name."""
    identity = await client.scheduler.identity(n_workers=-1)
    return {worker["name"]: worker["nthreads"] for worker in identity["workers"].values()}


def run(test):
    """Run a coroutine to its end, which must come in time."""

    async def limited():
        return await asyncio.wait_for(test(), LIMIT)

    return asyncio.run(limited())


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, caplog, tmp_path):
    """Keep what ranks do to their process, of which there is one here, to the test."""
    monkeypatch.setattr(_runner, "hushed", lambda level: contextlib.nullcontext())
    caplog.set_level(logging.CRITICAL, "distributed")
    caplog.set_level(logging.INFO, "mpidask")
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield


@pytest.fixture(autouse=True)
def aborts(monkeypatch):
    """Note how the job would be aborted, in place of aborting the tests."""
    aborts = []
    monkeypatch.setattr(
        _departure, "abort_at_exit", lambda *args, **kwargs: aborts.append((args, kwargs))
    )
    return aborts


def said(caplog, level=logging.INFO):
    return [r.getMessage() for r in caplog.records if r.name == "mpidask" and r.levelno >= level]


# -- Jobs that go well. --------------------------------------------------------------


def test_start_work_end(caplog, aborts):
    async def test():
        job = Job(4)
        cluster = await job.leader.start()
        async with client_of(cluster) as client:
            names = set(await workers_of(client))
            total = await client.submit(sum, [1, 2, 3])
        return cluster, names, total, await job.end(7, leave=False)

    cluster, names, total, orders = run(test)
    assert cluster.address.startswith("tcp://127.0.0.1:")
    assert (cluster.security, cluster.dashboard) == (None, None)
    assert names == {"mpidask-2", "mpidask-3"}
    assert total == 6
    assert orders == [End(7, leave=False)] * 4
    assert said(caplog) == [
        "2 workers on 1 node, 2 threads, memory not limited, scheduler "
        f"{cluster.address}, open to everyone who can reach it"
    ]
    assert not aborts


def test_ranks_that_are_two_things(caplog, aborts):
    """Two ranks, roles swapped, both with a worker; the name and the threads as asked for."""

    async def test():
        job = Job(2, scheduler_rank=1, client_rank=0, exclusive_workers=False, name="w", nthreads=2)
        cluster = await job.leader.start()
        async with client_of(cluster) as client:
            workers = await workers_of(client)
        await job.end()
        return workers

    assert run(test) == {"w-0": 2, "w-1": 2}
    assert len(said(caplog)) == 1
    assert not aborts


def test_threads_of_the_node_are_divided(monkeypatch):
    from mpidask._node import Node

    monkeypatch.setattr(_runner, "this_node", lambda: Node("host", frozenset(range(5)), 5))

    async def test():
        job = Job(4, nthreads="auto")
        cluster = await job.leader.start()
        async with client_of(cluster) as client:
            workers = await workers_of(client)
        await job.end()
        return sorted(workers.values())

    assert run(test) == [2, 3]


def test_restarted_workers_come_back(aborts):
    async def test():
        job = Job(4)
        async with client_of(await job.leader.start()) as client:
            await client.restart(timeout=10)
            names = set(await workers_of(client))
            assert await client.submit(sum, [1, 2]) == 3
        await job.end()
        return names

    assert run(test) == {"mpidask-2-1", "mpidask-3-1"}
    assert not aborts


def test_a_client_may_shut_the_cluster_down_first(caplog, aborts, monkeypatch):
    # Whatever could wait at the end would wait for longer than a test may take.
    monkeypatch.setattr(_runner, "_SCHEDULER_GRACE", 10 * LIMIT)

    async def test():
        job = Job(3, shutdown_timeout=10 * LIMIT)
        async with client_of(await job.leader.start()) as client:
            await client.shutdown()
        return await job.end(3)

    assert run(test) == [End(3, leave=True)] * 3
    assert len(said(caplog)) == 1
    assert not aborts


def test_messages_come_in_any_order(aborts):
    """The leader's own rank may be the last to arrive."""

    async def test():
        job = Job(3, absent=[1])
        starting = asyncio.create_task(job.leader.start())
        await asyncio.sleep(0.05)
        assert not starting.done()
        late = Member(job.worlds[1], job.roles, job.options)
        job.serving[1] = asyncio.create_task(late.serve())
        await starting
        return await job.end()

    assert run(test) == [End(0, leave=True)] * 3
    assert not aborts


# -- Starts that fail. ---------------------------------------------------------------


def failing_start(size, **options):
    """Start a job that can't, end it as the client rank would, and give the error."""

    async def test():
        job = Job(size, **options)
        with pytest.raises(StartupError) as caught:
            await job.leader.start()
        orders = await job.end(1)
        assert orders == [End(1, leave=True)] * len(job.members)
        return caught.value

    return run(test)


def refuse(monkeypatch, *names):
    """Let workers of these names fail to start."""
    make_worker = _servers.make_worker

    def make(options, order, cluster, attempt):
        if order.name in names:
            raise RuntimeError(f"no luck for {order.name}")
        return make_worker(options, order, cluster, attempt)

    monkeypatch.setattr(_servers, "make_worker", make)


def test_scheduler_that_fails(monkeypatch, aborts):
    async def start_scheduler(*args):
        raise RuntimeError("failed") from OSError("port in use")

    monkeypatch.setattr(_servers, "start_scheduler", start_scheduler)
    error = failing_start(3)
    assert "the scheduler on rank 0 on " in str(error)
    assert str(error).endswith("did not start: OSError: port in use")
    assert error.rank == 0
    assert not aborts


def test_worker_that_fails(monkeypatch, aborts):
    refuse(monkeypatch, "mpidask-3")
    error = failing_start(4)
    assert "the worker on rank 3 on " in str(error)
    assert str(error).endswith("did not start: RuntimeError: no luck for mpidask-3")
    assert error.rank == 3
    assert not aborts


def test_worker_options_that_distributed_does_not_know(aborts):
    error = failing_start(3, worker_options={"thread_count": 4})
    assert "the worker on rank 2 on " in str(error)
    assert "thread_count" in str(error)
    assert not aborts


def test_worker_class_that_does_not_exist(aborts):
    error = failing_start(3, worker_class="distributed.Wroker")
    assert "the worker on rank 2 on " in str(error)
    assert "Wroker" in str(error)
    assert not aborts


def test_start_goes_on_without_a_worker_that_nobody_waits_for(monkeypatch, caplog, aborts):
    refuse(monkeypatch, "mpidask-3")

    async def test():
        job = Job(4, wait_for_workers=1)
        async with client_of(await job.leader.start()) as client:
            total = await client.submit(sum, [1, 2])
        return total, await job.end()

    total, orders = run(test)
    assert total == 3
    assert orders == [End(0, leave=True)] * 4
    assert not aborts


def test_start_waits_for_no_worker(monkeypatch):
    async def test():
        released = asyncio.Event()

        async def run_worker(self, order):
            await released.wait()

        monkeypatch.setattr(Member, "_run_worker", run_worker)
        job = Job(3, wait_for_workers=False)
        async with client_of(await job.leader.start()) as client:
            workers = await workers_of(client)
        await job.end()
        return workers

    assert run(test) == {}


@pytest.mark.parametrize(
    ("rank", "duty"), [(0, "scheduler"), (2, "worker"), (3, "worker")], ids=str
)
def test_rank_that_never_comes(rank, duty, aborts):
    async def test():
        job = Job(4, absent=[rank], startup_timeout=0.5)
        with pytest.raises(StartupError) as caught:
            await job.leader.start()
        for task in job.serving.values():
            task.cancel()
        return caught.value

    error = run(test)
    assert "did not start within 0.5 s (startup_timeout): 3 of 4 ranks are here" in str(error)
    assert str(error).endswith(f"no answer from rank {rank} ({duty})")
    assert (error.rank, error.host) == (rank, None)


def test_worker_that_is_never_up(monkeypatch, aborts):
    def start_up(self, order):
        return asyncio.sleep(LIMIT)

    monkeypatch.setattr(Member, "_run_worker", start_up)
    error = failing_start(3, startup_timeout=1)
    assert "0 of 1 workers are up; no answer from rank 2 on " in str(error)
    assert error.host is not None
    assert not aborts


def test_progress_is_told(monkeypatch, caplog):
    monkeypatch.setattr(_runner, "PROGRESS_INTERVAL", 0.1)

    async def test():
        job = Job(3, absent=[2], startup_timeout=0.8)
        with pytest.raises(StartupError):
            await job.leader.start()
        told = len(said(caplog))
        await asyncio.sleep(0.2)
        assert len(said(caplog)) == told  # no more after the end of the start
        for task in job.serving.values():
            task.cancel()

    run(test)
    lines = said(caplog)
    assert 2 <= len(lines) <= 7
    assert all(line.endswith(" s: 2 of 3 ranks are here") for line in lines)


# -- What happens to a cluster that runs. --------------------------------------------


def test_failure_after_the_start_is_told(caplog):
    async def test():
        job = Job(3)
        await job.leader.start()
        job.worlds[2].send(1, TO_LEADER, Failed("worker", "OSError: disk full"))
        await poll(lambda: said(caplog, logging.WARNING))
        await job.end()

    run(test)
    (line,) = said(caplog, logging.WARNING)
    assert line.startswith("the worker on rank 2 on ")
    assert line.endswith(" failed: OSError: disk full")


def test_first_signal_counts(caplog):
    async def test():
        job = Job(3)
        await job.leader.start()
        job.members[2].report_signal(signal.SIGTERM)
        job.members[0].report_signal(signal.SIGINT)
        job.members[2].report_signal(signal.SIGTERM)
        await poll(lambda: job.signals)
        await job.end(143)
        return job.signals

    assert run(test) == [signal.SIGTERM]
    (line,) = said(caplog, logging.WARNING)
    assert line.startswith("rank 2 on ")
    assert line.endswith("was sent SIGTERM")


def test_signal_during_the_start():
    async def test():
        job = Job(3, absent=[2])
        starting = asyncio.create_task(job.leader.start())
        job.members[0].report_signal(signal.SIGINT)
        await poll(lambda: job.signals)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        for task in job.serving.values():
            task.cancel()
        return job.signals

    assert run(test) == [signal.SIGINT]


# -- Ends that don't go well. --------------------------------------------------------


@pytest.mark.parametrize(
    "status, leave, abort",
    [
        (5, True, ((5,), {})),
        (1, False, ((1,), {})),  # an exception is on its way, and shall be seen
        (0, False, ((1,), {"at_once": True})),
    ],
)
def test_rank_that_is_never_done(monkeypatch, caplog, aborts, status, leave, abort):
    monkeypatch.setattr(_runner, "_REPORT_GRACE", 0.2)

    async def test():
        job = Job(4, lost={3: (Done,)}, shutdown_timeout=2)
        await job.leader.start()
        before = time.monotonic()
        await job.end(status, leave)
        return time.monotonic() - before

    # Not before, for others may need the time. And not never: `run` sees to that.
    assert run(test) > 2
    (line,) = said(caplog, logging.ERROR)
    assert line.startswith("no answer from rank 3 on ")
    assert "within 2 s (shutdown_timeout)" in line
    assert line.endswith(f"with status {abort[0][0]}")
    assert not any(f"rank {rank}" in line for rank in (0, 1, 2))
    assert aborts == [abort]


started, released = threading.Event(), threading.Event()


def hold():
    """Be a task that ends when the test lets it."""
    started.set()
    released.wait(LIMIT)


def test_task_that_does_not_end(caplog, aborts):
    started.clear()
    released.clear()

    async def test():
        job = Job(3, shutdown_timeout=0.5)
        async with client_of(await job.leader.start()) as client:
            future = client.submit(hold, key="stuck-task")
            await poll(started.is_set)
            orders = await job.end(4)
            released.set()
            future.release()
        return orders

    try:
        assert run(test) == [End(4, leave=True)] * 3
    finally:
        released.set()
    (line,) = said(caplog, logging.WARNING)
    assert line.startswith("left behind on rank 2 on ")
    assert line.endswith("after 0.5 s (shutdown_timeout), still running: stuck-task")
    assert not aborts


def test_end_of_a_job_that_never_started(aborts):
    async def test():
        job = Job(4)
        return await job.end(9)

    assert run(test) == [End(9, leave=True)] * 4
    assert not aborts


def test_members_report_before_anything_else():
    async def test():
        job = Job(3)
        rank, message = await job.worlds[1].receive(TO_LEADER)
        await job.end()
        return rank, message

    rank, message = run(test)
    assert rank in range(3)
    assert isinstance(message, Here)


# -- Polling and signals, on which all of it stands. ---------------------------------


def test_pauses_double_up_to_the_longest():
    found = list(itertools.islice(pauses(0.03), 8))
    assert found == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.03, 0.03])


def test_pauses_never_end_and_never_overflow():
    assert next(itertools.islice(pauses(0.1), 5000, None)) == 0.1
    assert next(iter(pauses(0.0001))) == 0.0001


def test_poll_gives_the_first_true_result():
    results = iter([None, 0, "", "here", "late"])
    assert asyncio.run(poll(lambda: next(results))) == "here"
    assert next(results) == "late"


def test_poll_leaves_the_loop_to_others():
    async def test():
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, event.set)
        return await asyncio.wait_for(poll(event.is_set), 5)

    assert asyncio.run(test()) is True


def test_only_the_first_signal_acts():
    interrupt, acted = _signals.Interrupt(), []
    interrupt.act(acted.append)
    interrupt(signal.SIGTERM)
    interrupt(signal.SIGINT)
    interrupt(signal.SIGTERM)
    assert acted == [signal.SIGTERM]
    assert interrupt.signum == signal.SIGTERM


def test_signal_counts_as_sent_while_its_action_runs():
    interrupt, seen = _signals.Interrupt(), []

    def action(signum):
        seen.append(interrupt.signum)
        interrupt(signum)

    interrupt.act(action)
    interrupt(signal.SIGINT)
    assert seen == [signal.SIGINT]


def test_signal_that_comes_too_early_is_not_lost():
    interrupt, acted = _signals.Interrupt(), []
    interrupt(signal.SIGTERM)
    interrupt.act(acted.append)
    assert acted == [signal.SIGTERM]


def test_disarmed_signals_do_nothing():
    interrupt, acted = _signals.Interrupt(), []
    interrupt.act(acted.append)
    interrupt.disarm()
    interrupt(signal.SIGTERM)
    assert acted == []
    assert interrupt.signum is None


@pytest.fixture
def handlers():
    """Give the program the handlers Python starts with, and restore the tests' own."""
    before = {signum: signal.getsignal(signum) for signum in _signals.FATAL}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def current():
    return [signal.getsignal(signum) for signum in _signals.FATAL]


@pytest.mark.parametrize("defer", [True, False])
def test_signals_are_handled_and_handlers_restored(handlers, defer):
    before, received = current(), []
    with _signals.handled(received.append, defer_to_user=defer):
        for signum in (*_signals.FATAL, signal.SIGTERM):
            signal.raise_signal(signum)
    assert received == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert current() == before


def test_handlers_are_restored_after_an_error(handlers):
    before = current()
    handled = _signals.handled(_signals.raise_as_python_would, defer_to_user=True)
    with pytest.raises(KeyboardInterrupt), handled:
        signal.raise_signal(signal.SIGINT)
    assert current() == before


@pytest.mark.parametrize("defer", [True, False])
def test_handler_of_the_program_comes_first_on_its_rank(handlers, defer):
    own, ours = [], []

    def handler(signum, frame):
        own.append(signum)

    signal.signal(signal.SIGTERM, handler)
    with _signals.handled(ours.append, defer_to_user=defer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    if defer:
        assert (own, ours) == ([signal.SIGTERM], [signal.SIGINT])
    else:
        assert (own, ours) == ([], [signal.SIGINT, signal.SIGTERM])
    assert current() == [signal.default_int_handler, handler]


def test_ignored_signals_stay_ignored(handlers):
    """As in a program started with nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    received = []
    with _signals.handled(received.append, defer_to_user=True):
        signal.raise_signal(signal.SIGINT)
    assert received == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_handlers_alone(handlers):
    before, inside = current(), []

    def program():
        with _signals.handled(lambda signum: None, defer_to_user=False):
            inside.extend(current())

    thread = threading.Thread(target=program)
    thread.start()
    thread.join()
    assert inside == before


def test_signal_is_raised_in_the_main_thread(handlers):
    """Also from another thread, and it ends a blocking call."""
    reader, writer = os.pipe()
    sender = threading.Timer(0.1, _signals.raise_in_main_thread, [signal.SIGTERM])
    late = threading.Timer(LIMIT, os.write, [writer, b"too late"])

    def block():
        sender.start()
        late.start()
        os.read(reader, 1)

    handled = _signals.handled(_signals.raise_as_python_would, defer_to_user=False)
    with pytest.raises(SystemExit) as caught, handled:
        block()
    late.cancel()
    late.join()
    assert caught.value.code == 143
    os.close(writer)
    assert os.read(reader, 1) == b""  # the call was ended by nothing else
    os.close(reader)


def test_signals_are_raised_as_python_would():
    with pytest.raises(KeyboardInterrupt):
        _signals.raise_as_python_would(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        _signals.raise_as_python_would(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
