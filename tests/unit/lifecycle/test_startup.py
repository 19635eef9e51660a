"""What the leader knows while the cluster starts, and what it says."""

from __future__ import annotations

import pytest

from mpidask import StartupError
from mpidask._lifecycle.messages import (
    ConnectionInfo,
    Done,
    Failed,
    RankReady,
    Signalled,
    WorkerStarted,
)
from mpidask._lifecycle.roles import assign_roles
from mpidask._lifecycle.start_line import start_line
from mpidask._lifecycle.startup import Startup
from mpidask._options import Options
from mpidask._placement.node import Node

GIB = 2**30
CLUSTER = ConnectionInfo("tls://10.0.0.1:4000")
WORKER = WorkerStarted(nthreads=2, memory_limit=GIB)


def starting(size=5, *, wanted=None, **options):
    """Make the start of a job whose ranks sit two by two on host0, host1, ..."""
    wait = True if wanted is None else wanted
    resolved = Options.resolve({"wait_for_workers": wait, **options})
    return Startup(assign_roles(size, resolved), resolved, size)


def gather(startup, ranks=None):
    for rank in range(startup.size) if ranks is None else ranks:
        startup.hear(rank, RankReady(Node(f"host{rank // 2}")))


def up_to_scheduler(startup, cluster=CLUSTER):
    gather(startup)
    startup.hear(startup.roles.scheduler, cluster)


def up(startup, cluster=CLUSTER, worker=WORKER):
    up_to_scheduler(startup, cluster)
    for rank in startup.roles.workers:
        startup.hear(rank, worker)


def test_a_worker_that_is_tried_again_has_not_failed():
    startup = starting(5)
    up(startup)
    startup.hear(2, Failed("worker", "a task raised SystemExit", final=False))
    assert not startup.failures


def test_a_rank_that_fails_at_more_than_one_thing():
    startup = starting(5, exclusive_workers=False)
    gather(startup)
    startup.hear(0, Failed("scheduler", "no port"))
    startup.hear(0, Failed("worker", "no disk"))
    startup.hear(0, Failed("scheduler watch", "no connection"))
    with pytest.raises(StartupError, match="the scheduler on rank 0 on host0 did not start: no po"):
        startup.raise_if_hopeless()


def test_phases_of_a_start():
    startup = starting(5)
    assert startup.missing == [0, 1, 2, 3, 4]
    assert startup.progress().startswith("0 of 5 ranks are here; no answer from rank 0 (scheduler)")
    gather(startup, [1, 3])
    assert startup.progress() == (
        "2 of 5 ranks are here; no answer from rank 0 (scheduler), rank 2 (worker), rank 4 (worker)"
    )
    assert not startup.everyone_is_ready
    gather(startup)
    assert startup.everyone_is_ready
    assert startup.progress() == (
        "the scheduler is not up; no answer from rank 0 on host0 (scheduler)"
    )
    startup.hear(0, CLUSTER)
    assert startup.missing == [2, 3, 4]
    assert startup.progress().startswith("0 of 3 workers are up; no answer from rank 2 on host1")
    startup.hear(3, WORKER)
    assert startup.progress() == (
        "1 of 3 workers are up; no answer from rank 2 on host1 (worker), rank 4 on host2 (worker)"
    )
    assert not startup.complete
    startup.hear(2, WORKER)
    startup.hear(4, WORKER)
    assert startup.complete
    assert startup.missing == []


def test_a_rank_counts_once():
    startup = starting(3)
    for _ in range(3):
        gather(startup, [0])
    assert startup.progress().startswith("1 of 3 ranks are here; ")
    startup = starting(4, wanted=2)
    up_to_scheduler(startup)
    startup.hear(2, WORKER)
    startup.hear(2, WORKER)
    assert not startup.complete


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_complete_with_as_many_as_wanted(wanted):
    startup = starting(5, wanted=wanted)
    assert not startup.complete
    up_to_scheduler(startup)
    for count, rank in enumerate(startup.roles.workers):
        assert startup.complete == (count >= wanted)
        startup.hear(rank, WORKER)
    assert startup.complete


@pytest.mark.parametrize("message", [Signalled(15), Done(), "nonsense"])
def test_other_messages_change_nothing(message):
    startup, untouched = starting(3), starting(3)
    startup.hear(2, message)
    assert startup == untouched


# -- Giving up early. ----------------------------------------------------------------


def test_no_failure_is_not_hopeless():
    startup = starting(4)
    startup.raise_if_hopeless()
    gather(startup)
    startup.raise_if_hopeless()
    startup.hear(0, CLUSTER)
    startup.raise_if_hopeless()
    startup.hear(2, WORKER)
    startup.raise_if_hopeless()


def test_a_failed_worker_of_all():
    startup = starting(5)
    up_to_scheduler(startup)
    startup.hear(3, Failed("worker", "OSError: no such interface"))
    with pytest.raises(StartupError) as caught:
        startup.raise_if_hopeless()
    assert str(caught.value) == (
        "the worker on rank 3 on host1 did not start: OSError: no such interface"
    )
    assert (caught.value.rank, caught.value.host) == (3, "host1")


@pytest.mark.parametrize("wanted", [0, 1, 2, 3, 4])
def test_failed_workers_that_nobody_waits_for(wanted):
    """Of four workers, the start goes on while `wanted` may still come."""
    startup = starting(6, wanted=wanted)
    up_to_scheduler(startup)
    for lost, rank in enumerate(startup.roles.workers, start=1):
        startup.hear(rank, Failed("worker", "cause"))
        if 4 - lost >= wanted:
            startup.raise_if_hopeless()
        else:
            with pytest.raises(StartupError):
                startup.raise_if_hopeless()


@pytest.mark.parametrize(
    ("lost", "rest"),
    [(1, ""), (2, " (and likewise on 1 more rank)"), (3, " (and likewise on 2 more ranks)")],
)
def test_the_first_failure_is_told_and_the_others_counted(lost, rest):
    startup = starting(5)
    up_to_scheduler(startup)
    for rank in (4, 2, 3)[:lost]:
        startup.hear(rank, Failed("worker", f"Error: {rank}"))
    with pytest.raises(StartupError) as caught:
        startup.raise_if_hopeless()
    assert str(caught.value) == f"the worker on rank 4 on host2 did not start: Error: 4{rest}"
    assert caught.value.rank == 4


@pytest.mark.parametrize("wanted", [0, 1, None])
def test_nothing_goes_without_a_scheduler(wanted):
    startup = starting(4, wanted=wanted)
    gather(startup)
    startup.hear(0, Failed("scheduler", "OSError: port in use"))
    with pytest.raises(StartupError, match="the scheduler on rank 0 on host0 did not start: OSE"):
        startup.raise_if_hopeless()


def test_failure_of_a_rank_whose_host_is_unknown():
    startup = starting(3)
    startup.hear(2, Failed("worker", "cause"))
    with pytest.raises(StartupError, match="the worker on rank 2 did not start") as caught:
        startup.raise_if_hopeless()
    assert (caught.value.rank, caught.value.host) == (2, None)


# -- Giving up late. -----------------------------------------------------------------


def test_time_out_names_ranks_that_never_came():
    startup = starting(4)
    gather(startup, [0, 1])
    error = startup.timed_out(300)
    assert isinstance(error, StartupError)
    assert str(error) == (
        "the cluster did not start within 300 s (startup_timeout): 2 of 4 ranks are here; "
        "no answer from rank 2 (worker), rank 3 (worker)"
    )
    assert (error.rank, error.host) == (2, None)


def test_time_out_names_the_scheduler():
    startup = starting(6, scheduler_rank=4)
    gather(startup)
    error = startup.timed_out(2.5)
    assert "within 2.5 s" in str(error)
    assert str(error).endswith("not up; no answer from rank 4 on host2 (scheduler)")
    assert (error.rank, error.host) == (4, "host2")


def test_time_out_names_workers_and_their_hosts():
    startup = starting(6, exclusive_workers=False)
    up_to_scheduler(startup)
    for rank in (0, 2, 3):
        startup.hear(rank, WORKER)
    error = startup.timed_out(60)
    assert "3 of 6 workers are up; no answer from rank 1 on host0 (client and worker)" in str(error)
    assert "rank 4 on host2 (worker), rank 5 on host2 (worker)" in str(error)
    assert (error.rank, error.host) == (1, "host0")


def test_time_out_of_a_large_job_stays_readable():
    startup = starting(102)
    up_to_scheduler(startup)
    message = str(startup.timed_out(300))
    assert "rank 21 on host10 (worker) and 80 more" in message
    assert "rank 22" not in message
    startup.hear(2, WORKER)
    assert str(startup.timed_out(300)).endswith("and 79 more")


# -- The one line of output. ---------------------------------------------------------


def test_summary():
    startup = starting(8)
    up(startup, ConnectionInfo("tls://10.0.0.1:4000", object(), "http://10.0.0.1:8787/status"))
    assert start_line(startup) == (
        "6 workers on 3 nodes, 12 threads, 6.00 GiB memory, data by sockets, "
        "scheduler tls://10.0.0.1:4000, "
        "dashboard http://10.0.0.1:8787/status, open to everyone who can reach it"
    )


def test_summary_with_a_secret_link():
    startup = starting(8)
    link = "http://10.0.0.1:8787/secret/status"
    up(startup, ConnectionInfo("tls://10.0.0.1:4000", object(), link, dashboard_open_to=None))
    assert start_line(startup).endswith(f", dashboard {link}")


def test_summary_has_the_tunnel_to_the_dashboard():
    startup = starting(8)
    link, tunnel = "http://10.0.0.1:8787/status", "ssh -N -L 8787:10.0.0.1:8787 ana@login1"
    up(startup, ConnectionInfo("tls://10.0.0.1:4000", object(), link, tunnel))
    assert start_line(startup).endswith(
        f", dashboard {link} (from outside: {tunnel}), open to everyone who can reach it"
    )


def test_summary_of_one():
    startup = starting(3)
    up(startup, worker=WorkerStarted(nthreads=1, memory_limit=GIB // 2))
    assert start_line(startup) == (
        "1 worker on 1 node, 1 thread, 512.00 MiB memory, data by sockets, "
        "scheduler tls://10.0.0.1:4000, "
        "open to everyone who can reach it"
    )


@pytest.mark.parametrize("limit", [None, 0])
def test_summary_without_memory_limit(limit):
    startup = starting(4)
    up(startup)
    startup.hear(3, WorkerStarted(nthreads=2, memory_limit=limit))
    assert "memory not limited" in start_line(startup)
    assert "GiB" not in start_line(startup)


def test_summary_counts_what_is_up():
    startup = starting(5, wanted=1)
    up_to_scheduler(startup)
    startup.hear(3, WORKER)
    assert start_line(startup).startswith("1 of 3 workers on 1 node")
    assert "2 threads, 1.00 GiB memory" in start_line(startup)
