"""The lifecycle, with real schedulers and workers, on ranks that are tasks of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import pickle
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import dask
import distributed  # noqa: F401 (takes seconds, not to be part of a time-out)
import pytest

import mpidask
from mpidask import StartupError
from mpidask._dask import worker as workers
from mpidask._gang import protocol
from mpidask._lifecycle import (
    leader,
    liveness,
    servers,
)
from mpidask._lifecycle import member as members
from mpidask._lifecycle.leader import Leader
from mpidask._lifecycle.member import Member
from mpidask._lifecycle.messages import Done, End, Failed, Finished, RankReady
from mpidask._lifecycle.roles import assign_roles
from mpidask._mpi import job_exit, launcher
from mpidask._mpi.communicator import TO_LEADER
from mpidask._options import Options
from mpidask._waiting import Deadline, poll

#: No test takes longer than this; a hang is a failure.
LIMIT = 30


@pytest.fixture(autouse=True)
def no_mpi(monkeypatch):
    """Nothing that needs MPI itself is tried."""
    monkeypatch.setattr(protocol, "has_workers_in_ranks", lambda options: False)


class FakeCommunicator:
    """One rank of a job, with queues in place of MPI; `lost` names what it never sends."""

    def __init__(self, mailboxes, rank, size, lost=()):
        self.rank, self.size = rank, size
        self._mailboxes, self._lost = mailboxes, lost
        self.sent = []

    def send(self, rank, tag, message):
        self.sent.append(message)
        if not isinstance(message, self._lost):
            self._mailboxes[rank, tag].put_nowait((self.rank, pickle.dumps(message)))

    async def flush(self):
        pass

    def wake(self):
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
                "transport": "socket",  # MPI there is none
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
        self.comms = [
            FakeCommunicator(mailboxes, rank, size, (lost or {}).get(rank, ()))
            for rank in range(size)
        ]
        self.settings = contextlib.ExitStack()
        self.members = {
            rank: Member(self.comms[rank], self.roles, self.options, self.settings)
            for rank in range(size)
            if rank not in absent
        }
        self.serving = {
            rank: asyncio.create_task(member.serve()) for rank, member in self.members.items()
        }
        self.signals = []
        self.leader = Leader(
            self.comms[self.roles.leader], self.roles, self.options, self.signals.append
        )

    async def start(self):
        """Start the cluster, and give it."""
        return await self.leader.start(Deadline(self.options.startup_timeout))

    async def end(self, status=0, leave=True):
        """End the cluster, and give the orders with which the members left."""
        with self.settings:
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
    monkeypatch.setattr(members, "at_log_level", lambda level: contextlib.nullcontext())
    caplog.set_level(logging.CRITICAL, "distributed")
    caplog.set_level(logging.INFO, "mpidask")
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield


@pytest.fixture(autouse=True)
def aborts(monkeypatch):
    """Note how the job would be aborted, in place of aborting the tests."""
    aborts = []
    monkeypatch.setattr(
        job_exit, "abort_at_exit", lambda *args, **kwargs: aborts.append((args, kwargs))
    )
    return aborts


def said(caplog, level=logging.INFO):
    return [r.getMessage() for r in caplog.records if r.name == "mpidask" and r.levelno >= level]


# -- Jobs that go well. --------------------------------------------------------------


def test_start_work_end(caplog, aborts):
    async def test():
        job = Job(4)
        cluster = await job.start()
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
        "2 workers on 1 node, 2 threads, memory not limited, data by sockets, scheduler "
        f"{cluster.address}, open to everyone who can reach it"
    ]
    assert not aborts


def test_ranks_that_are_two_things(caplog, aborts):
    """Two ranks, roles swapped, both with a worker; the name and the threads as asked for."""

    async def test():
        job = Job(2, scheduler_rank=1, client_rank=0, exclusive_workers=False, name="w", nthreads=2)
        cluster = await job.start()
        async with client_of(cluster) as client:
            workers = await workers_of(client)
        await job.end()
        return workers

    assert run(test) == {"w-0": 2, "w-1": 2}
    assert len(said(caplog)) == 1
    assert not aborts


def test_threads_of_the_node_are_divided(monkeypatch):
    from mpidask._placement.node import Node

    monkeypatch.setattr(members, "this_node", lambda quota: Node("host", frozenset(range(5)), 5))

    async def test():
        job = Job(4, nthreads="auto")
        cluster = await job.start()
        async with client_of(cluster) as client:
            workers = await workers_of(client)
        await job.end()
        return sorted(workers.values())

    assert run(test) == [2, 3]


def test_restarted_workers_come_back(aborts):
    async def test():
        job = Job(4)
        async with client_of(await job.start()) as client:
            await client.restart(timeout=10)
            names = set(await workers_of(client))
            assert await client.submit(sum, [1, 2]) == 3
        await job.end()
        return names

    assert run(test) == {"mpidask-2-1", "mpidask-3-1"}
    assert not aborts


def test_a_client_may_shut_the_cluster_down_first(caplog, aborts, monkeypatch):
    # Whatever could wait at the end would wait for longer than a test may take.
    monkeypatch.setattr(servers, "_SCHEDULER_GRACE", 10 * LIMIT)

    async def test():
        job = Job(3, shutdown_timeout=10 * LIMIT)
        async with client_of(await job.start()) as client:
            await client.shutdown()
        return await job.end(3)

    assert run(test) == [End(3, leave=True)] * 3
    assert len(said(caplog)) == 1
    assert not aborts


@pytest.mark.parametrize("client_rank", [0, 1])
def test_a_scheduler_file_that_is_slow_to_go_is_no_death(
    client_rank, caplog, aborts, monkeypatch, tmp_path
):
    removing, may_go = threading.Event(), threading.Event()
    remove = servers.scheduler_file.remove

    def remove_slowly(*args):
        removing.set()
        may_go.wait(LIMIT)
        remove(*args)

    monkeypatch.setattr(servers.scheduler_file, "remove", remove_slowly)
    monkeypatch.setattr(liveness, "_GRACE", 0.5)
    monkeypatch.setattr(liveness, "_WORKER_GRACE", 0.5)
    path = tmp_path / "scheduler.json"

    async def test():
        job = Job(3, client_rank=client_rank, scheduler_file=path)
        cluster = await job.start()
        watching = [
            task for task in asyncio.all_tasks() if task.get_name() == "mpidask-scheduler watch"
        ]
        async with client_of(cluster) as client:
            await client.shutdown()
        await asyncio.gather(job.leader._watching, *watching)  # who watch draw a conclusion
        assert await job.leader.over == 0
        await poll(removing.is_set)
        assert path.exists()
        may_go.set()
        await job.end()
        sent = [m for comm in job.comms for m in comm.sent if m == Finished("scheduler")]
        return len(watching), job.signals, len(sent)

    assert run(test) == (1 - client_rank, [], 1)
    assert not path.exists()
    assert len(said(caplog)) == 1
    assert not aborts


def test_the_end_waits_until_the_scheduler_file_is_gone(aborts, monkeypatch, tmp_path):
    remove = servers.scheduler_file.remove

    def remove_slowly(*args):
        time.sleep(0.3)
        remove(*args)

    monkeypatch.setattr(servers.scheduler_file, "remove", remove_slowly)
    path = tmp_path / "scheduler.json"

    async def test():
        job = Job(3, scheduler_file=path)
        await job.start()
        assert path.exists()
        await job.end()
        return path.exists()

    assert not run(test)
    assert not aborts


def test_messages_come_in_any_order(aborts):
    """The leader's own rank may be the last to arrive."""

    async def test():
        job = Job(3, absent=[1])
        starting = asyncio.create_task(job.start())
        await asyncio.sleep(0.05)
        assert not starting.done()
        late = Member(job.comms[1], job.roles, job.options, job.settings)
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
            await job.start()
        orders = await job.end(1)
        assert orders == [End(1, leave=True)] * len(job.members)
        return caught.value

    return run(test)


def refuse(monkeypatch, *names):
    """Let workers of these names fail to start."""
    make_worker = workers.make_worker

    def make(options, order, cluster, attempt, **kwargs):
        if order.name in names:
            raise RuntimeError(f"no luck for {order.name}")
        return make_worker(options, order, cluster, attempt, **kwargs)

    monkeypatch.setattr(workers, "make_worker", make)


def test_scheduler_that_fails(monkeypatch, aborts):
    async def start_scheduler(*args):
        raise RuntimeError("failed") from OSError("port in use")

    monkeypatch.setattr(servers, "start_scheduler", start_scheduler)
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
        async with client_of(await job.start()) as client:
            total = await client.submit(sum, [1, 2])
        return total, await job.end()

    total, orders = run(test)
    assert total == 3
    assert orders == [End(0, leave=True)] * 4
    assert not aborts


def test_start_waits_for_no_worker(monkeypatch):
    async def test():
        released = asyncio.Event()

        async def run_worker(self):
            await released.wait()

        monkeypatch.setattr(servers.WorkerSupervisor, "run", run_worker)
        job = Job(3, wait_for_workers=False)
        async with client_of(await job.start()) as client:
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
            await job.start()
        for task in job.serving.values():
            task.cancel()
        return caught.value

    error = run(test)
    assert "did not start within 0.5 s (startup_timeout): 3 of 4 ranks are here" in str(error)
    assert str(error).endswith(f"no answer from rank {rank} ({duty})")
    assert (error.rank, error.host) == (rank, None)


def test_worker_that_is_never_up(monkeypatch, aborts):
    def start_up(self):
        return asyncio.sleep(LIMIT)

    monkeypatch.setattr(servers.WorkerSupervisor, "run", start_up)
    error = failing_start(3, startup_timeout=1)
    assert "0 of 1 workers are up; no answer from rank 2 on " in str(error)
    assert error.host is not None
    assert not aborts


def test_progress_is_told(monkeypatch, caplog):
    monkeypatch.setattr(leader, "FIRST_NOTICE", 0.1)

    async def test():
        job = Job(3, absent=[2], startup_timeout=0.8)
        with pytest.raises(StartupError):
            await job.start()
        told = len(said(caplog))
        await asyncio.sleep(0.2)
        assert len(said(caplog)) == told  # no more after the end of the start
        for task in job.serving.values():
            task.cancel()

    run(test)
    lines = said(caplog)
    assert 2 <= len(lines) <= 8  # one each 0.1 s for 0.8 s
    assert all(" s: 2 of 3 ranks are here; no answer from rank " in line for line in lines)


# -- What happens to a cluster that runs. --------------------------------------------


def test_failure_after_the_start_is_told(caplog):
    async def test():
        job = Job(3)
        await job.start()
        job.comms[2].send(1, TO_LEADER, Failed("worker", "OSError: disk full"))
        await poll(lambda: said(caplog, logging.WARNING))
        await job.end()

    run(test)
    (line,) = said(caplog, logging.WARNING)
    assert line.startswith("the worker on rank 2 on ")
    assert line.endswith(" failed: OSError: disk full")


def test_failure_at_the_last_moment_is_told(caplog):
    async def test():
        job = Job(3)
        await job.start()
        job.comms[2].send(1, TO_LEADER, Failed("worker", "OSError: disk full"))
        await job.end()

    run(test)
    (line,) = said(caplog, logging.WARNING)
    assert line.endswith(" failed: OSError: disk full")


def test_a_watch_that_fails_ends_the_job(monkeypatch, caplog):
    """Else the death of the scheduler would not be noticed any more."""

    async def fail(self):
        raise ValueError("deliberate")

    monkeypatch.setattr(leader.LivenessClient, "run", fail)

    async def test():
        job = Job(3)
        await job.start()
        await poll(lambda: job.signals)
        await job.end(1)
        return job.signals, job.leader.broken

    assert run(test) == ([signal.SIGTERM], True)
    assert said(caplog, logging.ERROR) == ["the leader failed, ending the job"]


def test_first_signal_counts(caplog):
    async def test():
        job = Job(3)
        await job.start()
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


def test_a_signal_of_open_mpi_may_have_been_another(caplog, monkeypatch):
    async def test():
        job = Job(3)
        await job.start()
        job.members[0].report_signal(signal.SIGTERM)
        await poll(lambda: job.signals)
        await job.end(143)

    monkeypatch.setattr(launcher, "BY_OPEN_MPI", True)
    run(test)
    (line,) = said(caplog, logging.WARNING)
    assert line.endswith("was sent SIGTERM (which Open MPI's mpirun also makes of Ctrl-C)")


def test_signal_during_the_start():
    async def test():
        job = Job(3, absent=[2])
        starting = asyncio.create_task(job.start())
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
        (5, True, ((5,), {"at_once": False})),
        (1, False, ((1,), {"at_once": False})),  # an exception is on its way, and shall be seen
        (0, False, ((1,), {"at_once": True})),
    ],
)
def test_rank_that_is_never_done(monkeypatch, caplog, aborts, status, leave, abort):
    monkeypatch.setattr(leader, "REPORT_GRACE", 0.2)

    async def test():
        job = Job(4, lost={3: (Done,)}, shutdown_timeout=2)
        await job.start()
        before = time.monotonic()
        await job.end(status, leave)
        return time.monotonic() - before

    # Not before, for others may need the time. And not never: `run` sees to that.
    assert run(test) > 2
    (line,) = said(caplog, logging.ERROR)
    assert line.startswith(
        f"ending the job with exit status {abort[0][0]}: no answer from rank 3 on "
    )
    assert "within 2 s (shutdown_timeout)" in line
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
        async with client_of(await job.start()) as client:
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
        rank, message = await job.comms[1].receive(TO_LEADER)
        await job.end()
        return rank, message

    rank, message = run(test)
    assert rank in range(3)
    assert isinstance(message, RankReady)


# -- Many ranks. ---------------------------------------------------------------------


@pytest.fixture
def lead():
    """Give the function that lets a leader start and end a job of simulated ranks."""
    path = Path(__file__).parents[2] / "benchmarks" / "simulated_ranks.py"
    spec = importlib.util.spec_from_file_location("simulated_ranks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lead


def lines_and_bytes(lead, ranks, transport):
    """Give the lines of mpidask that a leader runs, and the bytes of all messages, a rank."""
    lines, ours = 0, str(Path(mpidask.__file__).parent)

    def trace(frame, event, arg):
        nonlocal lines
        lines += event == "line"
        return trace if frame.f_code.co_filename.startswith(ours) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        *_, sent = asyncio.run(lead(ranks, transport))
    finally:
        sys.settrace(before)
    return lines / ranks, sum(sent.values()) / ranks


@pytest.mark.parametrize("transport", ["auto", "mpi", "socket"])
def test_start_and_end_cost_each_rank_the_same_in_a_larger_job(lead, transport):
    asyncio.run(lead(4, transport))  # imports
    few, many = (lines_and_bytes(lead, ranks, transport) for ranks in (128, 640))
    assert many[0] < 1.1 * few[0]
    assert many[1] < 1.1 * few[1]
    assert many[1] < 4000
