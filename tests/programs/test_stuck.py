"""Situations in which nothing would ever go on by itself: what ends them, and what is said."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest

#: Which rank this is, before MPI is up.
RANK = """
import os
rank = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")))
"""

LATE = (
    RANK
    + """
import time
from mpidask import mpi_dask_main

if rank in {late}:
    {does}
mpi_dask_main(startup_timeout={timeout})(print)()
"""
)


# -- Ranks that never reach MPI_Init --------------------------------------------------


@pytest.mark.parametrize("late", [(0,), (1,), (3,), (0, 1)])
def test_a_rank_that_never_reaches_mpi_ends_the_job(run, late):
    result = run(LATE.format(late=late, does="time.sleep(80)", timeout=14), limit=60)
    assert result.status != 0
    waits, ends = "waits for other ranks to reach mpidask (MPI_Init)", "within 14 s"
    if 0 not in late:
        assert result.said[0].startswith("mpidask: rank 0 on ") and waits in result.said[0]
    speaker = f"rank {next(rank for rank in range(3) if rank not in late)}"
    assert [speaker in line for line in result.said if ends in line] == [True], result.stderr
    assert "Traceback" not in result.stderr


def test_a_rank_that_dies_before_mpi_ends_the_job(run):
    result = run(LATE.format(late=(0,), does="raise LookupError('early')", timeout=5), limit=40)
    assert result.status != 0
    assert "LookupError: early" in result.stderr
    assert result.stderr.count("Traceback") == 1
    assert len(result.said) <= 2  # Open MPI's mpirun ends the job before, MPICH's not always


@pytest.mark.parametrize("target", ["mpirun", 1])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_mpi_waits_ends_the_job(start, signum, target):
    job = start(LATE.format(late=(3,), does="time.sleep(80)", timeout=70), limit=60)
    job.wait_for_message("rank 0 on")
    (job.process if target == "mpirun" else job.rank(target)).send_signal(signum)
    result = job.result()
    assert result.status != 0
    assert result.seconds < 50  # neither the sleep nor the time-out was over


def test_mpi_is_as_mpi4py_would_have_made_it(run):
    """Threads, error handler, and the end."""
    result = run(
        """
        import mpi4py
        from mpidask import mpi_dask_main
        rc = {name: getattr(mpi4py.rc, name) for name in ("initialize", "finalize")}
        mpi_dask_main(exit=False)(lambda: None)()
        from mpi4py import MPI
        assert rc == {"initialize": True, "finalize": None}
        assert rc == {name: getattr(mpi4py.rc, name) for name in rc}
        assert MPI.Is_thread_main() and MPI.Query_thread() == MPI.THREAD_MULTIPLE
        try:
            MPI.COMM_WORLD.send("nobody is there", dest=99)
        except MPI.Exception:
            print("an exception")
        """,
        ranks=3,
    )
    assert (result.status, result.stdout) == (0, "an exception\n" * 3), result.stderr


# -- Options that are wrong on some ranks -----------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize(
    "program",
    [
        "from mpidask import mpi_dask_main\nmpi_dask_main(print)()",
        "import mpidask\nmpidask.join_existing('missing.json')",
    ],
    ids=["main", "join"],
)
def test_an_option_that_is_wrong_on_one_rank_is_named(run, program, rank):
    wrong = f"if rank == {rank}: os.environ['DASK_MPIDASK__NTHREADS'] = 'abc'\n"
    result = run(RANK + wrong + program, limit=50)
    assert result.status == 1
    assert result.stderr.count("Traceback") == 1, result.stderr
    said = [line for line in result.stderr.splitlines() if "StartupError: " in line]
    assert len(said) == 1, result.stderr
    assert f"rank {rank} on " in said[0] and "option nthreads='abc'" in said[0]


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_decorator_that_is_wrong_on_one_rank_is_named(run, rank):
    program = f"""
import os
from mpidask import mpi_dask_main

@mpi_dask_main(nthreads="abc" if rank == {rank} else 2)
def main(client):
    print("ran")

main()
"""
    result = run(RANK + program, limit=50)
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert f"rank {rank} on " in result.stderr and "option nthreads='abc'" in result.stderr


def test_a_decorator_that_is_wrong_on_one_rank_says_so_while_others_are_late(start):
    program = """
import time
from mpidask import mpi_dask_main

mpi_dask_main(nthreads="abc" if rank == 3 else 2)
time.sleep(80)
"""
    job = start(RANK + program, limit=60)
    job.wait_for_message("rank 3 on ")
    job.kill()
    (said,) = (line for line in job.result().said if "rank 3 on " in line)
    assert "waits for other ranks to end the job: TypeError: option nthreads='abc'" in said


def test_ranks_that_disagree_on_their_options_are_an_error(run):
    program = """
    import dask
    from mpidask import mpi_dask_main
    dask.config.set({"mpidask.nanny": rank == 3})
    mpi_dask_main(client_rank=rank % 2)(print)()
    """
    result = run(RANK + "".join(line.strip() + "\n" for line in program.splitlines()), limit=50)
    assert result.status == 1
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert "StartupError: the ranks don't agree on client_rank, nanny: rank 0 on" in result.stderr
    assert "has client_rank=0, nanny=False; rank 1 on" in result.stderr


def test_a_program_that_is_refused_can_not_try_again(run):
    result = run(
        """
        from mpidask import mpi_dask_main
        try:
            mpi_dask_main(nthreads="many", exit=False)(print)()
        except TypeError:
            mpi_dask_main(exit=False)(print)()
        """,
        limit=50,
    )
    assert result.status == 1
    assert "MPIDaskError: the other ranks of this job have left" in result.stderr


# -- A main that does not come back to Python -------------------------------------------

IN_A_CALL = """
import ctypes, time
from mpi4py import MPI
from mpidask import mpi_dask_main

@mpi_dask_main(shutdown_timeout=3)
def main(client):
    try:
        print("running", flush=True)
        {call}
    finally:
        print("finally", flush=True)

main()
"""

#: The same, and "running" is told by another thread, once main is in the call for sure.
SEEN_IN_A_CALL = """
import sys, threading, time

def tell():
    seen = None
    while True:
        time.sleep(0.2)
        frame = sys._current_frames()[threading.main_thread().ident]
        if (frame.f_code.co_name, frame.f_lasti) == ("main", seen):
            return print("running", flush=True)
        seen = frame.f_lasti
""" + IN_A_CALL.replace(
    'print("running", flush=True)', "threading.Thread(target=tell, daemon=True).start()"
)

COLLECTIVE = "MPI.COMM_WORLD.Barrier()"
C_CODE = (
    "lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None); "
    "c.pthread_mutex_lock(lock), c.pthread_mutex_lock(lock)"
)
HOLDS_THE_GIL = C_CODE.replace("CDLL", "PyDLL")


@pytest.mark.parametrize("rank, call", [(1, COLLECTIVE), (1, C_CODE), (3, COLLECTIVE), (0, C_CODE)])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_main_that_does_not_react_is_shown_and_the_job_ends(start, signum, rank, call):
    job = start(SEEN_IN_A_CALL.format(call=call), limit=60)
    job.wait_for_output("running")
    for _ in range(2):
        job.rank(rank).send_signal(signum)
    result = job.result()
    assert result.status == 128 + signum, result.stderr
    assert result.stdout == "running\n"
    assert f"main() on rank 1 has not reacted to {signum.name} for 3 s" in result.stderr
    assert call in result.stderr
    assert "mpidask/_" not in result.stderr


IN_AN_EVENT_LOOP = """
import asyncio, ctypes, time
from mpidask import mpi_dask_main

@mpi_dask_main(shutdown_timeout=3)
async def main(client):
    print("running", flush=True)
    {call}
    print("done", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("rank, signum", [(1, signal.SIGINT), (3, signal.SIGTERM)])
def test_an_event_loop_that_does_not_react_is_shown_and_the_job_ends(start, rank, signum):
    job = start(IN_AN_EVENT_LOOP.format(call="time.sleep(80)"), limit=60)
    job.wait_for_output("running")
    job.rank(rank).send_signal(signum)
    result = job.result()
    assert (result.status, result.stdout) == (128 + signum, "running\n"), result.stderr
    assert f"main() on rank 1 has not reacted to {signum.name} for 3 s" in result.stderr
    assert "time.sleep(80)" in result.stderr


def test_a_signal_that_an_event_loop_never_comes_to_is_not_lost(start):
    job = start(IN_AN_EVENT_LOOP.format(call="ctypes.CDLL(None).sleep(80)"), limit=60)
    job.wait_for_output("running")
    job.rank(1).send_signal(signal.SIGTERM)  # it ends the call
    result = job.result()
    assert (result.status, result.stdout) == (143, "running\ndone\n"), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("rank", [1, 2])
def test_interrupted_while_ranks_wait_for_the_program_to_end(start, rank):
    """To Ctrl-C, all ranks are sent it; the function's rank has something to do still."""
    job = start(
        """
        import time
        from mpidask import mpi_dask_main
        from mpidask._mpi import job_exit

        job_exit._INTERRUPTED = 3
        mpi_dask_main(print)()
        print("after", flush=True)
        try:
            time.sleep(80)
        finally:
            print("finally", flush=True)
        """,
        limit=60,
    )
    job.wait_for_output("after")
    for number in {2, rank}:
        job.rank(number).send_signal(signal.SIGINT)
    result = job.result()
    assert result.status != 0
    assert ("finally\n" in result.stdout) == (rank == 1)
    assert result.stderr.count("Traceback") <= (rank == 1), result.stderr


def test_a_main_that_holds_the_gil_does_not_hold_the_job(start):
    job = start(IN_A_CALL.format(call=HOLDS_THE_GIL), limit=60)
    job.wait_for_output("running")
    job.rank(3).send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == 143, result.stderr
    assert "no answer from rank 1" in result.stderr


def test_a_task_that_blocks_the_event_loop_of_the_leader_is_shown_and_the_job_ends(run):
    result = run(
        """
        import os, time
        from distributed import fire_and_forget
        from mpidask import mpi_dask_main

        async def block():
            open("blocked", "w").close()
            time.sleep(300)

        @mpi_dask_main(exclusive_workers=False, shutdown_timeout=1)
        def main(client):
            fire_and_forget(client.submit(block, workers=["mpidask-1"]))
            while not os.path.exists("blocked"):
                time.sleep(0.05)
            print("value", flush=True)

        main()
        """,
        ranks=3,
        limit=90,
    )
    assert (result.status, result.stdout) == (0, "value\n")
    assert "the event loop of rank 1 is blocked, in block() (" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_main_that_has_reacted_has_its_time(start, tmp_path):
    job = start(
        """
        import time
        from pathlib import Path
        from mpidask import mpi_dask_main

        @mpi_dask_main(shutdown_timeout=1)
        def main(client):
            try:
                print("running", flush=True)
                time.sleep(80)
            finally:
                open("cleaning", "x").close()
                time.sleep(6)
                print("cleaned", flush=True)

        main()
        """,
        limit=60,
    )
    job.wait_for_output("running")
    job.rank(1).send_signal(signal.SIGTERM)
    result = job.result()
    assert (result.status, result.stdout) == (143, "running\ncleaned\n"), result.stderr
    assert "has not reacted" not in result.stderr


def test_a_signal_to_a_forked_child_is_none_to_main(run):
    result = run(
        """
        import os, signal, time
        from mpidask import mpi_dask_main

        @mpi_dask_main(shutdown_timeout=1)
        def main(client):
            child = os.fork()
            if not child:
                time.sleep(80)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            time.sleep(4)
            return os.WTERMSIG(status) == signal.SIGTERM

        print(main())
        """,
        ranks=3,
        limit=60,
    )
    assert (result.status, result.stdout) == (0, "True\n"), result.stderr
    assert len(result.messages) == 1


# -- Children that main forks --------------------------------------------------------------


@pytest.mark.parametrize("ranks", [3, None])
def test_forked_children_leave_at_once_and_alone(run, ranks):
    result = run(
        """
        import os, sys, time
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            for way in ("return", "status", "word", "error"):
                child = os.fork()
                if not child:
                    if way == "return":
                        return
                    if way == "error":
                        raise LookupError("in the child")
                    sys.exit(3 if way == "status" else "a word of the child")
                start = time.monotonic()
                _, status = os.waitpid(child, 0)
                print(way, os.waitstatus_to_exitcode(status), time.monotonic() - start < 20)
                print(client.submit(sum, [1, 2], pure=False).result())
            return "the end"

        if __name__ == "__main__":
            print(main())
        """,
        ranks=ranks,
        limit=120,
    )
    assert result.status == 0, result.stderr
    assert result.stdout.splitlines() == [
        *("return 0 True", "3"),
        *("status 3 True", "3"),
        *("word 1 True", "3"),
        *("error 1 True", "3"),
        "the end",
    ]
    assert result.stderr.count("a word of the child") == 1
    assert result.stderr.count("\nLookupError: in the child") == 1
    assert result.stderr.count("Traceback") == 1, result.stderr


# -- Handlers that C code installed before Python -------------------------------------------

HANDLER_IN_C = """
#include <signal.h>
static void handle(int signum) { (void)signum; }
__attribute__((constructor)) static void install(void) { signal(SIGTERM, handle); }
"""


def test_a_handler_of_c_code_is_left_alone(run, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "handler.c", tmp_path / "handler.so"
    source.write_text(HANDLER_IN_C)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    result = run(
        """
        import signal
        from mpidask import mpi_dask_main
        assert signal.getsignal(signal.SIGTERM) is None
        main = mpi_dask_main(exit=False)(lambda client: print(client.submit(sum, [1, 2]).result()))
        main()
        main()
        assert signal.getsignal(signal.SIGTERM) is None
        """,
        ranks=3,
        env={"LD_PRELOAD": str(library)},
        limit=60,
    )
    assert (result.status, result.stdout) == (0, "3\n3\n"), result.stderr
    assert "Traceback" not in result.stderr


# -- MPI that is taken away ------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, rank, how",
    [
        ("MPI.Finalize()", 1, "called MPI.Finalize()"),
        ("client.submit(MPI.Finalize).result()", 2, "called MPI.Finalize()"),
    ],
)
def test_finalizing_mpi_under_the_cluster_is_an_error(run, body, rank, how):
    result = run(
        f"""
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            {body}
            print("went on")

        main()
        """,
        ranks=3,
        limit=50,
    )
    assert (result.status, result.stdout) == (1, ""), result.stderr
    assert f"the program {how} on rank {rank} while its cluster is running" in result.stderr


def test_a_block_that_is_never_left_is_an_error(run):
    result = run(
        """
        from mpidask import mpi_dask
        block = mpi_dask()
        block.__enter__()
        """,
        ranks=3,
        limit=50,
    )
    assert result.status == 1
    assert "the program ended on rank 1 while its cluster is running, " in result.stderr
    assert "which needs it and MPI\n" in result.stderr  # and no stack: its last line has run


def test_aborting_is_the_programs_right(run):
    program = """
    from mpi4py import MPI
    from mpidask import mpi_dask_main
    mpi_dask_main(lambda: MPI.COMM_WORLD.Abort(7))()
    """
    assert run(program, ranks=3, limit=50).status == 7


@pytest.mark.parametrize("second", ["main()", "mpidask.mpi_dask_main(comm=comm)(print)()"])
def test_a_freed_communicator_is_an_error(run, second):
    result = run(
        f"""
        import mpidask
        from mpi4py import MPI
        comm = MPI.COMM_WORLD.Dup()
        main = mpidask.mpi_dask_main(comm=comm, exit=False)(lambda: print("ran"))
        main()
        comm.Free()
        {second}
        """,
        ranks=3,
        limit=50,
    )
    assert (result.status, result.stdout) == (1, "ran\n"), result.stderr
    assert result.stderr.count("Traceback") == 1
    assert "ValueError: option comm was freed" in result.stderr


def test_a_first_rank_without_communicator_says_so(run):
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main
        mpi_dask_main(comm=MPI.COMM_NULL)(lambda: None)()
        """,
        ranks=3,
        limit=50,
    )
    assert result.status == 0
    assert [line.startswith("mpidask: rank 0 takes no part") for line in result.said] == [True]
