"""Programs that do what users do, and what mpidask must not stumble over."""

from __future__ import annotations

import signal
import sys
import textwrap

import pytest

from mpidask import mpi_dask_main


def test_a_stdout_that_is_closed_at_the_end(run):
    result = run(
        """
        import sys
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            with open("log", "w") as sys.stdout:
                print(client.submit(sum, [1, 2]).result())

        main()
        """
    )
    assert result.status == 0
    assert len(result.messages) == 1, result.stderr


@pytest.mark.essential
@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_task_that_ends_its_process_costs_a_worker(run, leave):
    """As with a nanny, where it does end a process."""
    result = run(
        f"""
        import sys
        import dask
        from distributed import KilledWorker
        from mpidask import mpi_dask_main

        def task():
            {leave}

        dask.config.set({{"distributed.scheduler.allowed-failures": 1}})

        @mpi_dask_main
        def main(client):
            try:
                client.submit(task).result()
            except KilledWorker as error:
                print(type(error).__name__)
            print(client.submit(sum, [1, 2]).result())

        main()
        """,
        ranks=4,
    )
    assert (result.status, result.stdout) == (0, "KilledWorker\n3\n"), result.stderr
    assert "failed: a task raised SystemExit or KeyboardInterrupt" in result.stderr
    assert "Traceback" not in result.stderr


CHILDREN = """
import asyncio, multiprocessing, sys, time
from mpidask import mpi_dask_main

fork = multiprocessing.get_context("fork")

def child(up):
    up.set()
    time.sleep(600)

def end_a_child():
    up = fork.Event()
    process = fork.Process(target=child, args=(up,))
    process.start()
    up.wait()
    process.terminate()
    process.join()
    return process.exitcode

@mpi_dask_main
def main(client):
    print(end_a_child(), client.submit(end_a_child).result())

@mpi_dask_main
async def async_main(client):
    print(end_a_child(), await client.submit(end_a_child))

main() if sys.argv[1] == "function" else asyncio.run(async_main())
"""


@pytest.mark.parametrize("kind", ["function", "async function"])
def test_children_can_be_ended(run, kind):
    result = run(CHILDREN, kind)
    assert (result.status, result.stdout) == (0, "-15 -15\n"), result.stderr


def test_sigint_in_an_async_function(run):
    result = run(
        """
        import asyncio, os, signal
        from mpidask import mpi_dask_main

        @mpi_dask_main
        async def main(client):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(60)
            finally:
                print("finally")

        asyncio.run(main())
        """
    )
    assert (result.status, result.stdout) == (130, "finally\n"), result.stderr
    assert "ended by SIGINT" in result.stderr
    assert "Traceback" not in result.stderr


CANCELLED_AT_THE_END = """
import asyncio, os, signal
from mpidask import _api, mpi_dask

outcome = _api._outcome

async def cancel(task):
    for again in range(2):
        task.cancel()
        for step in range(3):
            await asyncio.sleep(0)

async def cancelled_at_the_end(body, **options):
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancelled(call, *args):
        if call.__name__ == "__exit__":
            asyncio.run_coroutine_threadsafe(cancel(task), loop).result()
        return outcome(call, *args)

    _api._outcome = cancelled
    async with mpi_dask(**options) as client:
        if client is not None:
            await body()
"""


@pytest.mark.parametrize("ranks", [3, None])
def test_an_end_that_is_cancelled_is_waited_for(run, ranks):
    result = run(
        CANCELLED_AT_THE_END
        + """
async def idle():
    pass

async def main():
    try:
        await cancelled_at_the_end(idle, exit=False)
    except asyncio.CancelledError:
        print("cancelled")
    _api._outcome = outcome
    async with mpi_dask(exit=False) as client:
        if client is not None:
            print(await client.submit(abs, -1))

asyncio.run(main())
""",
        ranks=ranks,
    )
    assert result.status == 0, result.stderr
    assert sorted(result.stdout.split()) == ["1"] + ["cancelled"] * (ranks or 1)
    assert len(result.messages) == 2, result.stderr


def test_an_end_that_is_cancelled_keeps_its_status(run):
    result = run(
        CANCELLED_AT_THE_END
        + """
async def body():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(80)

asyncio.run(cancelled_at_the_end(body))
"""
    )
    assert result.status == 128 + signal.SIGTERM, result.stderr
    assert "Traceback" not in result.stderr


def test_a_rank_that_is_cancelled_while_it_serves_leaves_with_the_others(run):
    result = run(
        """
        import asyncio, sys
        from pathlib import Path
        from mpi4py import MPI
        from mpidask import mpi_dask

        async def until(*names):
            while not all(Path(name).exists() for name in names):
                await asyncio.sleep(0.05)

        async def cancel(task):
            await until("inside")
            task.cancel()
            for step in range(3):
                await asyncio.sleep(0)
            Path(f"cancelled-{MPI.COMM_WORLD.rank}").touch()

        async def main():
            if MPI.COMM_WORLD.rank != 1:
                cancelling = asyncio.create_task(cancel(asyncio.current_task()))
            async with mpi_dask() as client:
                Path("inside").touch()
                await until("cancelled-0", "cancelled-2")
                sys.exit(3)

        asyncio.run(main())
        """,
        ranks=3,
    )
    assert result.status == 3, result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_that_is_raised_from_ours_ends_the_job(run):
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask

        try:
            with mpi_dask(exit=False) as client:
                if client is not None:
                    raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error
        MPI.COMM_WORLD.Barrier()
        """
    )
    assert result.status != 0
    assert "RuntimeError: second" in result.stderr


def test_ranks_that_the_communicator_leaves_out(run):
    """They get None, as from mpi4py's MPICommExecutor."""
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        world = MPI.COMM_WORLD
        some = world.Split(0 if world.rank > 0 else MPI.UNDEFINED)

        @mpi_dask_main(comm=some, exit=False)
        def main(client):
            return client.submit(sum, [1, 2]).result()

        values = world.gather(main())
        if world.rank == 0:
            print(values)
        """,
        ranks=5,
    )
    assert (result.status, result.stdout) == (0, "[None, None, 3, None, None]\n"), result.stderr


def test_a_thread_cannot_end_ranks(run):
    result = run(
        """
        import threading
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            print("main")

        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
        """
    )
    assert "main thread only" in result.stderr
    assert result.stdout == ""


def test_a_generator_is_no_function():
    def generator(client):
        yield client

    async def async_generator(client):
        yield client

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="generator"):
            mpi_dask_main(function)


def test_an_object_with_an_async_call(run):
    result = run(
        """
        import asyncio
        from mpidask import mpi_dask_main

        class Main:
            async def __call__(self, client):
                return await client.submit(sum, [1, 2])

        print(asyncio.run(mpi_dask_main(Main())()))
        """
    )
    assert (result.status, result.stdout) == (0, "3\n"), result.stderr


def test_a_second_local_cluster_warns_of_what_an_mpi_job_does(run):
    result = run(
        """
        from mpidask import mpi_dask

        for _ in range(2):
            with mpi_dask() as client:
                print(client.submit(sum, [1, 2]).result())
        """,
        ranks=None,
    )
    assert (result.status, result.stdout) == (0, "3\n3\n"), result.stderr
    assert result.stderr.count("in an MPI job, this second cluster fails") == 1


def test_a_local_cluster_takes_the_options_of_workers(run):
    result = run(
        """
        from distributed import Worker
        from mpidask import mpi_dask

        options = {"memory_limit": "1 GiB", "resources": {"GPU": 1}}
        with mpi_dask(worker_class=Worker, worker_options=options) as client:
            workers = client.scheduler_info()["workers"].values()
            print({worker["memory_limit"] for worker in workers})
        """,
        ranks=None,
    )
    assert (result.status, result.stdout) == (0, "{1073741824}\n"), result.stderr


@pytest.mark.parametrize("where", ["/proc/no/report.html", "file/report.html"])
def test_a_report_that_cannot_be_written_is_known_at_once(run, tmp_path, where):
    pytest.importorskip("bokeh")
    (tmp_path / "file").write_text("")
    result = run(
        f"""
        from mpidask import mpi_dask_main

        @mpi_dask_main(performance_report={where!r})
        def main(client):
            print("hours of work")

        main()
        """
    )
    assert (result.status, result.stdout) == (1, "")
    assert "the performance report can't be written" in result.stderr


def test_ranks_that_are_late_are_waited_for_in_the_open(run):
    result = run(
        """
        import time
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        if MPI.COMM_WORLD.rank == 2:
            time.sleep(12)

        @mpi_dask_main
        def main(client):
            print(client.submit(sum, [1, 2]).result())

        main()
        """,
        ranks=3,
    )
    assert (result.status, result.stdout) == (0, "3\n"), result.stderr
    assert "starting for 10 s: not all of the 3 ranks are here" in result.stderr


def test_a_worker_that_is_made_of_several(run):
    """As dask_cuda.CUDAWorker, which needs GPUs."""
    result = run(
        """
        import asyncio
        from distributed import Nanny
        from distributed.core import Server
        from mpidask import mpi_dask_main

        class Workers(Server):
            def __init__(self, scheduler, name, **options):
                names = [f"{name}-{n}" for n in range(2)]
                self.nannies = [Nanny(scheduler, name=name, **options) for name in names]

            def __await__(self):
                return asyncio.gather(*self.nannies).__await__()

            async def finished(self):
                await asyncio.gather(*(nanny.finished() for nanny in self.nannies))

            async def close(self, timeout=5):
                await asyncio.gather(*(nanny.close(timeout=timeout) for nanny in self.nannies))

        @mpi_dask_main(worker_class=Workers)
        def main(client):
            print(len(client.scheduler_info(-1)["workers"]), client.submit(sum, [1, 2]).result())

        main()
        """,
        ranks=3,
    )
    # Its nannies are not mpidask's, and not as quiet.
    assert (result.status, result.stdout) == (0, "2 3\n"), result.stderr
    assert "stray" not in result.stderr


# -- What a program leaves with ------------------------------------------------------------


@pytest.mark.essential
@pytest.mark.parametrize("status", [0, 5])
def test_the_status_is_that_of_a_program_that_catches_the_error(run, status):
    result = run(
        f"""
        import sys
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            raise LookupError("mine")

        try:
            main()
        except LookupError:
            print("caught")
        except SystemExit as error:
            print("served", error.code)
            raise
        sys.exit({status})
        """,
        ranks=3,
    )
    assert result.status == status, result.stderr
    assert sorted(result.stdout.splitlines()) == ["caught", "served 1", "served 1"]
    assert "Traceback" not in result.stderr


def test_the_status_is_that_of_the_program_under_mpi4py_too(launch, tmp_path):
    program = """
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            raise LookupError("mine")

        try:
            main()
        except LookupError:
            print("caught")
        """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    result = launch([sys.executable, "-m", "mpi4py", "program.py"], 3).result()
    assert (result.status, result.stdout) == (0, "caught\n"), result.stderr
    assert len(result.messages) == 1


@pytest.mark.parametrize("failing", ["client.submit", "rank == 2 and 1 / 0"])
def test_an_error_on_some_ranks_ends_the_job_that_waits_for_them(run, failing):
    result = run(
        f"""
        from mpi4py import MPI
        from mpidask import mpi_dask
        rank = MPI.COMM_WORLD.rank
        with mpi_dask(exit=False, shutdown_timeout=2) as client:
            {failing}
        MPI.COMM_WORLD.allreduce(1)
        """,
        ranks=3,
        limit=60,
    )
    assert result.status != 0
    some = "AttributeError" in result.stderr
    assert result.stderr.count("Traceback") == (2 if some else 1)
    # One of the ranks that have failed says it; the first, unless the machine is very busy.
    said = [line for line in result.said if "exit status 1" in line]
    assert said and " has ended with " in said[0] and "within 2 s" in said[0], result.stderr
    if some:
        assert "rank 1 on " in said[0] or "other ranks may" in said[0]


def test_a_collective_with_ranks_that_have_left_ends_the_job(run):
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main
        from mpidask._mpi import job_exit

        job_exit._ANNOUNCEMENT = 1
        mpi_dask_main(print)()
        comm = MPI.COMM_WORLD
        comm.Barrier()
        """,
        ranks=3,
        limit=60,
    )
    assert result.status != 0
    (said,) = (line for line in result.said if "have left the program" in line)
    assert "rank 1 on " in said and "waits in comm.Barrier() (" in said and "exit=False" in said


@pytest.mark.essential
def test_a_collective_with_ranks_that_have_left_and_holds_the_gil_is_told(start):
    """In its first reduction of objects on a communicator, mpi4py duplicates that."""
    job = start(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main
        from mpidask._mpi import job_exit

        job_exit._ANNOUNCEMENT = job_exit._RECEPTION = 1
        mpi_dask_main(print)()
        MPI.COMM_WORLD.allreduce(1)
        """,
        ranks=3,
        limit=80,
    )
    job.wait_for_message("is in a call that lets no Python run")
    job.process.send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status != 0
    (said,) = (line for line in result.said if "lets no Python run" in line)
    assert said.startswith("mpidask: rank 1 on ") and "give exit=False" in said


LEFT_BY_TASKS = """
import multiprocessing, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from mpidask import mpi_dask_main

def endless():
    time.sleep(300)

def by_pool():
    try:
        ThreadPoolExecutor(1).submit(endless).result(timeout=0.1)
    except TimeoutError:
        pass

def by_thread():
    threading.Thread(target=endless, daemon=False).start()

def by_process():
    subprocess.Popen(["sleep", "301"])

def by_multiprocessing():
    multiprocessing.get_context("fork").Process(target=endless, daemon=False).start()

@mpi_dask_main(shutdown_timeout=2)
def main(client):
    for what in sys.argv[1:]:
        client.submit(globals()[what]).result()

import atexit
atexit.register(print, "at exit")
main()
print("after")
"""


@pytest.mark.essential
@pytest.mark.parametrize(
    "left, named",
    [
        (["by_pool", "by_process"], ["thread ThreadPoolExecutor-", "endless()", "(sleep 301)"]),
        (["by_thread", "by_multiprocessing"], ["thread Thread-", "endless()", "process "]),
    ],
    ids=["pool", "thread"],
)
def test_what_tasks_leave_is_named_and_left_behind(run, left, named):
    result = run(LEFT_BY_TASKS, *left, ranks=3, limit=60)
    assert result.status == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["after"] + 3 * ["at exit"]
    (said,) = (line for line in result.said if "left behind" in line)
    assert "on rank 2 on " in said and "after 2 s (shutdown_timeout)" in said
    assert [text for text in named if text not in said] == [], said
    assert len(result.messages) == 2, result.stderr


def test_threads_of_the_program_are_waited_for_in_the_open(run):
    result = run(
        """
        import threading, time
        from mpidask import mpi_dask_main
        from mpidask._mpi import exit_blockers

        exit_blockers.FIRST_NOTICE = 1

        @mpi_dask_main
        def main(client):
            threading.Thread(target=own, name="saving").start()

        def own():
            told = threading.Event()
            exit_blockers.logger.addFilter(lambda record: told.set() or True)
            threading.main_thread().join()
            told.wait()
            print("saved")

        main()
        """,
        ranks=3,
    )
    assert (result.status, result.stdout) == (0, "saved\n"), result.stderr
    assert "rank 1 on " in result.said[1] and "thread saving, in " in result.said[1]


@pytest.mark.parametrize("exit", [True, False])
def test_lines_are_printed_at_once(start, tmp_path, exit):
    job = start(
        f"""
        import sys, time
        from pathlib import Path
        sys.stdout.reconfigure(line_buffering=False)
        from mpidask import mpi_dask_main

        def task():
            print("of a task")
            while not Path("seen").exists():
                time.sleep(0.1)

        @mpi_dask_main(exit={exit})
        def main(client):
            print("of main")
            client.submit(task).result()

        main()
        print(sys.stdout.line_buffering)
        """,
        ranks=3,
    )
    job.wait_for_output("of main\n")
    job.wait_for_output("of a task\n")
    (tmp_path / "seen").touch()
    result = job.result()
    assert result.status == 0, result.stderr
    assert result.stdout.count(str(exit)) == (1 if exit else 3)


@pytest.mark.essential
def test_tasks_have_no_standard_input(run):
    """MPICH's mpirun leaves that of most ranks open and empty for ever."""
    result = run(
        """
        import sys
        from mpidask import mpi_dask_main

        def ask():
            try:
                return input()
            except EOFError:
                return "nobody is there"

        before = sys.stdin
        task = mpi_dask_main(exit=False)(lambda client: client.submit(ask).result())()
        print(task, sys.stdin is before)
        """,
        ranks=3,
        limit=60,
    )
    assert result.status == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == 2 * ["None True"] + ["nobody is there True"]


# -- python -m mpidask ------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, argv",
    [
        (["-m", "beside", "--name", "x", "-m", "y"], ["--name", "x", "-m", "y"]),
        (["-mbeside", "--foo"], ["--foo"]),
        (["--name", "-m", "beside.py", "--foo"], ["--foo"]),
        (["--nthreads", "1", "-c", "import sys; print(sys.argv[1:])", "-n"], ["-n"]),
    ],
)
def test_the_words_after_a_program_are_its_own(launch, tmp_path, words, argv):
    (tmp_path / "beside.py").write_text("import sys; print(sys.argv[1:])")
    result = launch([sys.executable, "-m", "mpidask", *words], 3).result()
    assert (result.status, result.stdout) == (0, f"{argv}\n"), result.stderr


def test_no_other_rank_runs_the_script_whatever_is_configured(launch):
    command = [sys.executable, "-m", "mpidask", "-c", "print('script')"]
    result = launch(command, 4, env={"DASK_MPIDASK__EXIT": "False"}).result()
    assert (result.status, result.stdout) == (0, "script\n"), result.stderr


def test_a_directory_as_a_program(launch, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "beside.py").write_text("def seven(): return 7")
    (tmp_path / "app" / "__main__.py").write_text(
        "import beside\n"
        "from distributed import Client\n"
        "print(Client().submit(beside.seven).result())\n"
    )
    result = launch([sys.executable, "-m", "mpidask", "app"], 3).result()
    assert (result.status, result.stdout) == (0, "7\n"), result.stderr


# -- Dask's configuration -----------------------------------------------------------------


def test_a_configuration_that_is_none(run):
    program = "from mpidask import mpi_dask\nwith mpi_dask(): pass\n"
    result = run(program, env={"DASK_MPIDASK": "4"})
    assert result.status == 1
    assert result.stderr.count("TypeError: Dask's configuration has mpidask: 4") == 1


def test_a_configured_cluster_is_joined(launch):
    command = [sys.executable, "-m", "mpidask.cli", "--scheduler-file", "scheduler.json"]
    cluster = launch(command, 2)
    cluster.wait_for_message("mpidask: 1 worker")
    configured = {"DASK_MPIDASK__SCHEDULER_FILE": "scheduler.json"}
    join = [sys.executable, "-m", "mpidask.cli", "--no-scheduler", "--no-reconnect"]
    joined = launch([*join, "--protocol", "tcp"], 2, env=configured)
    joined.wait_for_message("mpidask: joined with 2 workers")
    in_python = "import mpidask\nmpidask.join_existing(reconnect=False)\n"
    joined_in_python = launch([sys.executable, "-c", in_python], 2, env=configured)
    joined_in_python.wait_for_message("mpidask: joined with 2 workers")
    cluster.rank(0).send_signal(signal.SIGTERM)
    assert cluster.result().status == 143
    assert joined.result().status == 0
    assert joined_in_python.result().status == 0


def test_an_error_on_some_ranks_is_said_to_leave_the_others_waiting(run):
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        world = MPI.COMM_WORLD
        some = world.Split(0 if world.rank < 2 else MPI.UNDEFINED)
        if some != MPI.COMM_NULL:
            mpi_dask_main(comm=some)(print)()
        """,
        ranks=3,
    )
    assert result.status == 1
    assert result.stderr.count("NotEnoughRanksError: this job has 2 ranks") == 1
    (warning,) = result.said
    assert "has ended with NotEnoughRanksError. Ranks outside its communicator go on" in warning
