"""The pauses between a rank's workers."""

from __future__ import annotations

import asyncio
import inspect

import distributed
import pytest
from distributed.core import Status
from distributed.utils import warn_on_duration

from mpidask._compat.distributed import CLUSTER_ENDS, RESTARTED, SLOW_FILES
from mpidask._dask import worker as workers
from mpidask._lifecycle import servers
from mpidask._lifecycle.messages import ConnectionInfo, Failed, StartWorker
from mpidask._lifecycle.servers import WorkerSupervisor
from mpidask._options import Options
from mpidask._placement.worker_settings import WorkerSettings

SLOW = SLOW_FILES
RETIRED = "scheduler-close-worker"
LOST = "worker-handle-scheduler-connection-broken"
FAILS = "fails to start"
UNMADE = "can't be made"


class FakeWorker:
    retired = False
    status = Status.running

    def __init__(self, fate):
        if fate == UNMADE:
            raise OSError("disk full")
        self.close_reason = None if fate == FAILS else fate

    def __await__(self):
        if self.close_reason is None:
            raise OSError("deliberate")
        yield from ()

    async def finished(self):
        pass

    async def close(self, reason):
        self.close_reason, self.status = reason, Status.closed


def supervise(cluster, said, **order):
    order = StartWorker(WorkerSettings("w", 1, 1), **order)
    return WorkerSupervisor(Options.resolve({}), order, cluster, said.append, lambda: None, {})


@pytest.mark.parametrize(
    "fates, pauses",
    [
        ([RESTARTED] * 9, [0] * 9),
        ([LOST] * 9, [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10]),
        ([LOST, FAILS, FAILS], [0, 0.1, 0.2]),
        ([RESTARTED, UNMADE, UNMADE], [0, 0.1, 0.2]),
        ([LOST, LOST, LOST, RESTARTED, LOST], [0, 0.1, 0.2, 0, 0.1]),
    ],
)
def test_only_failures_make_it_slower(monkeypatch, fates, pauses):
    made, slept, said = iter([*fates, RETIRED]), [], []
    monkeypatch.setattr(workers, "make_worker", lambda *args, **kwargs: FakeWorker(next(made)))
    monkeypatch.setattr(workers, "threads_and_memory", lambda *args: (1, 1))

    async def sleep(pause):
        slept.append(pytest.approx(pause))

    monkeypatch.setattr(servers.asyncio, "sleep", sleep)
    supervisor = supervise(ConnectionInfo("tcp://127.0.0.1:1"), said)
    asyncio.run(supervisor.run())
    assert slept == pauses
    failures = fates.count(FAILS) + fates.count(UNMADE)
    assert sum(isinstance(message, Failed) for message in said) == failures


@pytest.mark.parametrize("announces", [True, False])
def test_one_rank_tells_of_a_slow_file_system(monkeypatch, recwarn, announces):
    def make_worker(*args, **kwargs):
        with warn_on_duration("0 s", SLOW):
            return FakeWorker(RETIRED)

    monkeypatch.setattr(workers, "make_worker", make_worker)
    monkeypatch.setattr(workers, "threads_and_memory", lambda *args: (1, 1))
    supervisor = supervise(ConnectionInfo("tcp://127.0.0.1:1"), [], announces=announces)
    asyncio.run(supervisor.run())
    assert [str(one.message).startswith(SLOW) for one in recwarn] == [True] * announces


def test_distributed_warns_of_slow_files_in_these_words():
    assert SLOW in inspect.getsource(distributed.core)


@pytest.mark.parametrize(
    "error, why",
    [
        (RuntimeError("deliberate"), "RuntimeError: deliberate"),
        (asyncio.TimeoutError(), "there was no time (shutdown_timeout)"),
    ],
)
def test_results_that_do_not_move_are_told(monkeypatch, error, why):
    """A joined job ends with its worker closed, and says what was lost."""

    async def retire(worker, timeout):
        raise error

    monkeypatch.setattr(workers, "retire", retire)
    said = []
    supervisor = supervise(None, said)
    supervisor._worker = worker = FakeWorker(None)
    asyncio.run(supervisor.stop())
    assert worker.close_reason == CLUSTER_ENDS
    cause = f"results did not move to other workers: {why}"
    assert said == [Failed("worker", cause, final=False)]
