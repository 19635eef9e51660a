"""Nannies whose children are killed, start, or are sent what their terminal sends."""

from __future__ import annotations

import signal

import psutil
import pytest

# Seconds between looks for the word of a child that it is up, which shall come too late.
KILLED_AS_IT_CAME_UP = "WorkerProcess._init_msg_interval = 0.5"


@pytest.mark.parametrize("setup, failures", [("", 0), (KILLED_AS_IT_CAME_UP, 3)])
def test_the_end_does_not_wait_for_a_child_that_starts(run, setup, failures):
    """As it does when tasks have killed one child after the other; see the limit."""
    result = run(
        f"""
        import os
        from distributed import KilledWorker
        from distributed.nanny import WorkerProcess
        from mpidask import mpi_dask_main

        {setup}

        @mpi_dask_main(nanny=True, shutdown_timeout="5 min")
        def main(client):
            try:
                client.submit(os._exit, 3).result()
            except KilledWorker as error:
                print(type(error).__name__)

        main()
        """,
        ranks=4,
        limit=60,
        env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(failures)},
    )
    assert (result.status, result.stdout) == (0, "KilledWorker\n"), result.stderr
    assert "Traceback" not in result.stderr
    assert "destroyed" not in result.stderr


def interrupt(process):
    try:
        if "python" in process.name() and "resource_tracker" not in str(process.cmdline()):
            process.send_signal(signal.SIGINT)
    except psutil.Error:
        pass


@pytest.mark.parametrize("ranks", [4, None])
@pytest.mark.parametrize("children", ["start", "run"])
def test_ctrl_c_reaches_children_too(start, ranks, children):
    job = start(
        f"""
        import time
        from mpidask import mpi_dask_main

        OPTIONS = dict(wait_for_workers=False, shutdown_timeout="5 min", dashboard=False)

        @mpi_dask_main(nanny=True, **OPTIONS)
        def main(client):
            if {children == "run"}:
                client.submit(abs, -1).result()
            print("up", flush=True)
            time.sleep(1000)

        try:
            main()
        except KeyboardInterrupt:  # without MPI, Python's own
            raise SystemExit(130) from None
        """,
        ranks=ranks,
        limit=60,
    )
    job.wait_for_output("up")
    job.wait_for(
        lambda: any("spawn_main" in str(process.cmdline()) for process in job.processes()),
        "to have children",
    )
    for process in job.processes():
        interrupt(process)
    result = job.result()
    assert result.status == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert "KeyboardInterrupt" not in result.stderr


def test_programs_that_tasks_start_can_be_interrupted(run):
    result = run(
        """
        import subprocess, sys
        from mpidask import mpi_dask_main

        ASK = (
            "import signal;"
            "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler,"
            " signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
        )

        def ask(asked):
            return subprocess.run([sys.executable, "-c", asked], capture_output=True).stdout

        @mpi_dask_main(nanny=True)
        def main(client):
            print(client.submit(ask, ASK).result().decode(), end="")

        main()
        """,
        ranks=3,
    )
    assert (result.status, result.stdout) == (0, "True False\n"), result.stderr


@pytest.mark.parametrize("ranks", [3, None])
@pytest.mark.parametrize(
    "options",
    [
        "nanny=True, worker_class=Mine",
        "worker_class='distributed.Nanny', worker_options={'worker_class': Mine}",
        "worker_class=MyNanny, worker_options={'worker_class': Theirs}",
    ],
)
def test_workers_of_a_class_of_ones_own(run, tmp_path, ranks, options):
    """In child processes, also where the class is one of the script; a nanny may be as well."""
    (tmp_path / "beside.py").write_text(
        "from distributed import Worker\nclass Theirs(Worker):\n    greeting = 'hello'\n"
    )
    result = run(
        f"""
        import os
        from beside import Theirs
        from distributed import Nanny, get_worker
        from mpidask import mpi_dask_main

        class Mine(Theirs):
            pass

        class MyNanny(Nanny):
            pass

        def look():
            worker = get_worker()
            return os.getppid(), type(worker).__name__, worker.greeting

        @mpi_dask_main({options})
        def main(client):
            nannies = client.run(os.getpid, nanny=True)
            parent, name, greeting = client.submit(look).result()
            print(parent in nannies.values(), name, greeting)

        main()
        """,
        ranks=ranks,
    )
    name = "Theirs" if "Theirs" in options else "Mine"
    assert (result.status, result.stdout) == (0, f"True {name} hello\n"), result.stderr
    assert "MyNanny" in options or "INFO" not in result.stderr
