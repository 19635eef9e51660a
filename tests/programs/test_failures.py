"""Ranks that fail to start, never come, are killed, are sent signals, or get stuck."""

from __future__ import annotations

import re
import signal
import socket
import sys

import pytest

SLOW = """
import time
from mpidask import mpi_dask_main

@mpi_dask_main(shutdown_timeout=2)
def main(client):
    try:
        print("running", flush=True)
        {body}
    finally:
        print("finally", flush=True)
        print("finally", file=open("finally.txt", "a"))

main()
print("never")
"""

SLEEP = "time.sleep(80)"
WAIT = "client.submit(time.sleep, 80).result()"
BUSY = "while True: time.monotonic()"


# -- Bad input: one error, non-zero, soon ---------------------------------------------


@pytest.mark.parametrize(
    "options, ranks, error, text",
    [
        ("nthread=4", 3, "TypeError", "did you mean 'nthreads'"),
        ("nthreads='many'", 3, "TypeError", "nthreads='many'"),
        ("nthreads=0", 3, "ValueError", "nthreads=0"),
        ("scheduler_port=70000", 3, "ValueError", "0 to 65535"),
        ("startup_timeout='soon'", 3, "ValueError", "startup_timeout='soon'"),
        ("wait_for_workers=5", 3, "ValueError", "1 workers"),
        ("protocol='tcp'", 3, "ValueError", "security=False"),
        ("worker_options={'name': 'x'}", 3, "ValueError", "name"),
        ("client_rank=9", 3, "NotEnoughRanksError", "needs 10"),
        ("", 2, "NotEnoughRanksError", "needs 3 or more"),
        ("interface='nonesuch0'", 3, "StartupError", "scheduler on rank 0 on"),
        ("worker_class='no.such.Class'", 3, "StartupError", "worker on rank 2 on"),
        ("worker_options={'nonesuch': 1}", 3, "StartupError", "worker on rank 2 on"),
        ("worker_options={'plugins': 1}", 3, "StartupError", "worker on rank 2 on"),
        ("scheduler_options={'nonesuch': 1}", 3, "StartupError", "scheduler on rank 0 on"),
        ("host='192.0.2.1'", 3, "StartupError", "scheduler on rank 0 on"),
        ("local_directory='/proc/nonesuch'", 3, "StartupError", "worker on rank 2 on"),
        ("scheduler_port=1, host='127.0.0.1:x'", 3, "StartupError", "scheduler on rank 0 on"),
    ],
)
def test_bad_input_is_one_clear_error(run, options, ranks, error, text):
    result = run(
        f"""
        from mpidask import mpi_dask_main

        @mpi_dask_main({options})
        def main(client):
            print("ran")

        main()
        """,
        ranks=ranks,
        limit=40,
    )
    assert result.status == 1
    assert "ran" not in result.stdout
    assert result.stderr.count("Traceback") == 1, result.stderr
    said = [line for line in result.stderr.splitlines() if f"{error}: " in line]
    assert len(said) == 1, result.stderr
    assert text in said[0]


def test_a_worker_class_that_fails_without_mpi_is_shown_where_it_does(run):
    result = run(
        """
        from distributed import Worker
        from mpidask import mpi_dask

        def helper():
            raise ValueError("deliberate")

        class Mine(Worker):
            def __init__(self, *args, **kwargs):
                helper()

        with mpi_dask(worker_class=Mine):
            pass
        """,
        ranks=None,
    )
    assert result.status == 1
    assert result.stderr.count("Traceback") == 1
    assert result.stderr.endswith(
        """, in helper
    raise ValueError("deliberate")
ValueError: deliberate
"""
    )
    assert "_api.py" not in result.stderr


@pytest.mark.essential
def test_bad_configuration_is_one_clear_error(run):
    program = "from mpidask import mpi_dask_main\nmpi_dask_main(print)()\n"
    result = run(program, env={"DASK_MPIDASK__NTHREAD": "4"}, limit=40)
    assert result.status == 1
    assert result.stderr.count("Traceback") == 1
    assert "Dask's configuration" in result.stderr


def test_configuration_from_the_environment(run):
    program = """
    from mpidask import mpi_dask_main

    @mpi_dask_main
    def main(client):
        print(list(client.nthreads().values()))

    main()
    """
    result = run(program, ranks=3, env={"DASK_MPIDASK__NTHREADS": "5"})
    assert (result.status, result.stdout) == (0, "[5]\n"), result.stderr


def test_taken_ports(run):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = """
        from mpidask import mpi_dask_main
        mpi_dask_main({})(lambda client: print(client.dashboard_link))()
        """
        result = run(program.format(f"scheduler_port={port}"), limit=40)
        assert result.status == 1
        assert result.stderr.count("Traceback") == 1
        assert "scheduler on rank 0" in result.stderr
        result = run(program.format(f"dashboard_address='127.0.0.1:{port}'"), limit=40)
        assert result.status == 0, result.stderr
        assert len(result.messages) == 1, result.stderr
        assert f":{port}/" not in result.stderr


@pytest.mark.parametrize(
    "variables",
    [{"PMI_SIZE": "4", "PMI_RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}],
)
def test_a_launcher_of_another_mpi_is_an_error(run, variables):
    # As mpirun of another MPI does it: this process is alone, its variables say it isn't.
    program = (
        f"import os; from mpi4py import MPI; os.environ.update({variables})\n"
        "from mpidask import mpi_dask_main\nmpi_dask_main(print)()\n"
    )
    result = run(program, ranks=None, limit=40)
    assert result.status == 1
    assert "the launcher started 4 processes" in result.stderr
    assert result.stderr.count("Traceback") == 1


@pytest.mark.parametrize("level", ["funneled", "serialized"])
def test_mpi_without_threads_is_an_error(run, level):
    """The event loop may call MPI at any time, so also beside a call of the program's."""
    result = run(
        f"""
        import mpi4py
        mpi4py.rc.thread_level = "{level}"
        from mpidask import mpi_dask_main
        mpi_dask_main(print)()
        """,
        limit=40,
    )
    assert result.status == 1
    assert "MPIDaskError: MPI was not initialised for several threads" in result.stderr
    assert result.stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    "use",
    ["mpidask.join_existing('scheduler.json', nthread=4)", "asyncio.run(block(nthread=4))"],
)
def test_an_unknown_option_is_one_clear_error_everywhere(run, use):
    result = run(
        f"""
        import asyncio
        import mpidask

        async def block(**options):
            async with mpidask.mpi_dask(**options):
                print("ran")

        {use}
        """,
        ranks=3,
        limit=40,
    )
    assert result.status == 1
    assert "ran" not in result.stdout
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert result.stderr.count("TypeError: ") == 1, result.stderr
    assert "did you mean 'nthreads'" in result.stderr


# -- Ranks that never come, or come late ----------------------------------------------


def test_a_rank_that_does_not_reach_the_cluster_is_named(run):
    result = run(
        """
        import time
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        if MPI.COMM_WORLD.rank == 3:
            time.sleep(80)
        mpi_dask_main(startup_timeout=3)(print)()
        """,
        ranks=5,
        limit=40,
    )
    assert result.status == 1
    said = [line for line in result.stderr.splitlines() if "StartupError: " in line]
    assert len(said) == 1, result.stderr
    assert "rank 3 did not reach mpidask within 3 s" in said[0]
    assert result.stderr.count("Traceback") == 1


def test_a_client_rank_that_does_not_come_is_named_by_another(run):
    result = run(
        """
        import time
        from mpi4py import MPI
        from mpidask import mpi_dask_main
        from mpidask._lifecycle import handshake

        handshake.FIRST_NOTICE = 1
        if MPI.COMM_WORLD.rank == 1:
            time.sleep(80)
        mpi_dask_main(startup_timeout=3)(print)()
        """,
        limit=40,
    )
    assert result.status == 1
    assert "not all of the 4 ranks are here" in result.stderr
    assert "rank 1 did not reach mpidask" in result.stderr
    assert result.stderr.count("Traceback") == 1


def test_a_rank_that_does_not_reach_a_later_cluster_is_named(run):
    result = run(
        """
        import time
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        work = mpi_dask_main(exit=False, startup_timeout=20)(lambda: "done")
        work()
        if MPI.COMM_WORLD.rank == 1:
            time.sleep(80)
        mpi_dask_main(exit=False, startup_timeout=3)(print)()
        """,
        limit=60,
    )
    assert result.status == 1
    assert "rank 1 did not reach mpidask within 3 s" in result.stderr
    assert result.stderr.count("Traceback") == 1


PRELOAD = """
from mpi4py import MPI

async def dask_setup(worker):
    import asyncio
    if MPI.COMM_WORLD.rank == 3:
        {body}
"""


@pytest.mark.essential
def test_a_worker_that_does_not_start_is_named(run, tmp_path):
    (tmp_path / "slow.py").write_text(PRELOAD.format(body="await asyncio.sleep(70)"))
    program = """
    from mpidask import mpi_dask_main
    mpi_dask_main(worker_options=dict(preload=["slow.py"]), startup_timeout=20)(print)()
    """
    result = run(program, limit=50)
    assert result.status == 1
    assert "starting for 10 s: 1 of 2 workers are up; no answer from rank 3 on " in result.stderr
    said = [line for line in result.stderr.splitlines() if "StartupError: " in line]
    assert len(said) == 1, result.stderr
    assert "no answer from rank 3 on " in said[0] and "(worker)" in said[0]


@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_worker_that_leaves_the_program_at_its_start_is_named(run, tmp_path, leave):
    (tmp_path / "leaves.py").write_text(PRELOAD.format(body=f"import sys; {leave}"))
    program = """
    from mpidask import mpi_dask_main
    mpi_dask_main(worker_options=dict(preload=["leaves.py"]))(print)()
    """
    result = run(program, limit=50)
    assert result.status == 1
    said = [line for line in result.stderr.splitlines() if "StartupError: " in line]
    assert len(said) == 1, result.stderr
    assert "worker on rank " in said[0]
    assert ("SystemExit: 3" if "exit" in leave else "KeyboardInterrupt") in said[0]


@pytest.mark.parametrize("wanted", ["False", "1"])
def test_not_waiting_for_a_slow_worker(run, tmp_path, wanted):
    (tmp_path / "slow.py").write_text(PRELOAD.format(body="await asyncio.sleep(70)"))
    program = f"""
    from mpidask import mpi_dask_main

    @mpi_dask_main(
        worker_options=dict(preload=["slow.py"]), wait_for_workers={wanted}, shutdown_timeout=5
    )
    def main(client):
        print(client.submit(sum, range(10)).result())

    main()
    """
    result = run(program, limit=50)
    assert (result.status, result.stdout) == (0, "45\n"), result.stderr
    assert "Traceback" not in result.stderr


# -- Signals ---------------------------------------------------------------------------


@pytest.mark.parametrize("rank, body", [(0, WAIT), (1, WAIT), (1, SLEEP), (1, BUSY), (3, WAIT)])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_any_rank_ends_the_job(start, rank, body, signum):
    job = start(SLOW.format(body=body), limit=60)
    job.wait_for_output("running")
    job.rank(rank).send_signal(signum)
    result = job.result()
    assert result.status == 128 + signum, result.stderr
    assert result.stdout == "running\nfinally\n"
    assert "Traceback" not in result.stderr
    assert f"ended by {signum.name}" in result.stderr


#: The system gives a signal to any thread, such as one that starts another at that moment.
TAKES_SIGNAL = """
import signal, threading

def take_signal(signum):
    signal.pthread_kill(threading.get_ident(), signum)
"""


@pytest.mark.parametrize(
    "body",
    [
        "client.submit(take_signal, {signum:d}, workers='mpidask-3').result(); time.sleep(80)",
        "threading.Timer(1, take_signal, [{signum:d}]).start(); time.sleep(80)",
    ],
    ids=["worker", "main"],
)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_another_thread_takes_ends_the_job(run, body, signum):
    result = run(TAKES_SIGNAL + SLOW.format(body=body.format(signum=signum)), limit=60)
    assert result.status == 128 + signum, result.stderr
    assert result.stdout == "running\nfinally\n"
    assert "Traceback" not in result.stderr
    assert f"ended by {signum.name}" in result.stderr


@pytest.mark.parametrize("targets", [[0, 1, 2, 3], [0], [1], [3]], ids=str)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_repeated_signals_interrupt_once(start, tmp_path, targets, signum):
    # As Slurm does it: every rank, and again; three in a row, and one more while `main`
    # cleans up, which must not be cut short.
    job = start(
        """
        import os, time
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            try:
                print("running", flush=True)
                time.sleep(80)
            finally:
                open("cleaning", "x").close()
                while not os.path.exists("signalled"):
                    time.sleep(0.05)
                print("finally", flush=True)

        main()
        print("never")
        """,
        limit=60,
    )
    job.wait_for_output("running")
    ranks = [job.rank(n) for n in targets]

    def signal_all():
        for process in ranks:
            process.send_signal(signum)

    for _ in range(3):
        signal_all()
    job.wait_for((tmp_path / "cleaning").exists, "to clean up")
    signal_all()
    (tmp_path / "signalled").touch()
    result = job.result()
    assert result.status == 128 + signum, result.stderr
    assert result.stdout == "running\nfinally\n"
    assert "Traceback" not in result.stderr


@pytest.mark.essential
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_mpirun_ends_the_job(start, tmp_path, signum, times, open_mpi):
    job = start(SLOW.format(body=WAIT), limit=60)
    job.wait_for_output("running")
    for _ in range(times):
        job.process.send_signal(signum)
    result = job.result()
    assert "never" not in result.stdout
    if not open_mpi and signum == signal.SIGINT and times > 1:
        return  # MPICH's mpirun kills all ranks at the second one, and has a status of its own
    assert result.status != 0
    cleaned = tmp_path / "finally.txt"
    if not open_mpi:
        assert cleaned.read_text() == "finally\n"
        assert result.status == 128 + signum
    elif cleaned.exists():
        # Open MPI's mpirun leaves with status 1, passes nothing on any more that its ranks
        # print, and kills them so soon that they may not come to it on a busy machine.
        assert "finally\n".startswith(cleaned.read_text())


def test_a_signal_during_the_start(start, tmp_path):
    (tmp_path / "slow.py").write_text(PRELOAD.format(body="await asyncio.sleep(70)"))
    job = start(
        """
        from mpidask import mpi_dask_main
        mpi_dask_main(worker_options=dict(preload=["slow.py"]), shutdown_timeout=5)(print)()
        """,
        limit=50,
    )
    job.wait_for(lambda: "starting for 10 s" in job.stderr.read_text(), "to wait for workers")
    job.rank(2).send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == 143, result.stderr
    assert "Traceback" not in result.stderr


def test_a_signal_in_an_async_program(start):
    job = start(
        """
        import asyncio
        from mpidask import mpi_dask

        async def main():
            async with mpi_dask() as client:
                try:
                    print("running", flush=True)
                    await asyncio.sleep(80)
                finally:
                    print("finally", flush=True)

        asyncio.run(main())
        """,
        limit=50,
    )
    job.wait_for_output("running")
    job.rank(2).send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == 143, result.stderr
    assert result.stdout == "running\nfinally\n"
    assert "Traceback" not in result.stderr


def test_the_programs_own_handler_is_respected(start):
    job = start(
        """
        import signal
        from distributed import Event
        from mpidask import mpi_dask_main

        class Checkpoint(Exception):
            pass

        def save(signum, frame):
            raise Checkpoint

        signal.signal(signal.SIGTERM, save)

        @mpi_dask_main
        def main(client):
            try:
                print("running", flush=True)
                Event("never").wait()
            except Checkpoint:
                return "saved"

        print(main())
        """,
        limit=60,
    )
    job.wait_for_output("running")
    job.rank(3).send_signal(signal.SIGTERM)
    result = job.result()
    assert (result.status, result.stdout) == (0, "running\nsaved\n"), result.stderr


# -- Killed ranks -----------------------------------------------------------------------


@pytest.mark.essential
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_killed_rank_ends_the_job(start, rank):
    job = start(SLOW.format(body=WAIT), limit=60)
    job.wait_for_output("running")
    job.rank(rank).send_signal(signal.SIGKILL)
    result = job.result()
    assert result.status != 0
    assert "never" not in result.stdout


def test_a_task_that_kills_its_process_ends_the_job(run):
    result = run(SLOW.format(body="import os; client.submit(os._exit, 3).result()"), limit=60)
    assert result.status != 0
    assert "never" not in result.stdout


# -- Killed ranks under a launcher that lets the others live ------------------------------

#: Slurm's srun does not end a job when a rank dies. An mpirun does not either, where what
#: it has started itself lives on. It ends all of it when a rank calls MPI_Abort, as srun.
OUTLIVED = ["sh", "-c", '"$@"; sleep 300', "sh"]


@pytest.mark.parametrize(
    "end, status", [("return 'value'", 0), ("sys.exit(5)", 5), ("raise RuntimeError('mine')", 1)]
)
def test_the_cluster_outlives_a_worker(start, end, status):
    job = start(
        f"""
        import sys, time
        from distributed import wait
        from mpidask import mpi_dask_main

        @mpi_dask_main(shutdown_timeout=2)
        def main(client):
            squares = client.map(lambda n: n * n, range(10))
            wait(squares)
            print("running", flush=True)
            while len(client.scheduler_info(-1)["workers"]) > 1:
                time.sleep(0.1)
            print("sum", sum(client.gather(squares)), flush=True)
            {end}

        main()
        """,
        limit=60,
        through=OUTLIVED,
    )
    job.wait_for_output("running")
    job.rank(3).send_signal(signal.SIGKILL)
    job.wait_for_output("sum")
    begin = job.seconds
    result = job.result()
    assert result.status == status, result.stderr
    assert result.stdout == "running\nsum 285\n"
    assert [line for line in result.said if "no answer from" in line] == [
        line for line in result.said if "no answer from rank 3 on" in line
    ]
    assert "within 2 s (shutdown_timeout): dead" in result.stderr
    assert result.stderr.count("Traceback") == ("raise" in end)
    # That it was not the default of 30 s which ended the wait, nothing but a clock shows.
    assert result.seconds - begin < 20


@pytest.mark.parametrize(
    "body, status, text",
    [
        (SLEEP, 1, "mpidask: the scheduler on rank 0 on"),
        (BUSY, 1, "mpidask: the scheduler on rank 0 on"),
        # Here Dask is faster: the program gets an error, and ends as after any other.
        (WAIT, 1, "Client lost the connection to the scheduler"),
    ],
)
def test_no_rank_outlives_the_scheduler(start, body, status, text):
    job = start(SLOW.format(body=body), limit=60, through=OUTLIVED)
    job.wait_for_output("running")
    job.rank(0).send_signal(signal.SIGKILL)
    result = job.result()
    assert result.status == status, result.stderr
    assert result.stdout == "running\nfinally\n"
    assert text in result.stderr
    assert "no answer from rank 0 on" in result.stderr
    assert "SIGTERM" not in result.stderr
    assert result.stderr.count("Traceback") == (body == WAIT)


def test_a_scheduler_that_dies_while_others_connect(start, reset_connections):
    job = start(SLOW.format(body=SLEEP), limit=60, through=OUTLIVED)
    job.wait_for_output("running")
    port = int(re.search(r"scheduler tls://127.0.0.1:(\d+)", job.stderr.read_text())[1])
    job.rank(0).send_signal(signal.SIGKILL)
    reset_connections(port)  # as its system does with those that it had not accepted
    result = job.result()
    assert result.status == 1, result.stderr
    assert "the scheduler on rank 0 on" in result.stderr
    assert "could not" not in result.stderr
    assert "ValueError" not in result.stderr
    assert result.stderr.count("Traceback") == 0, result.stderr


def test_no_rank_outlives_the_leader_of_the_command(launch):
    cluster = launch([*OUTLIVED, sys.executable, "-m", "mpidask.cli"], 3)
    cluster.wait_for_message("mpidask: 2 workers")
    cluster.rank(0).send_signal(signal.SIGKILL)
    result = cluster.result()
    assert result.status != 0
    assert "ending the job with exit status 1: the scheduler on rank 0 is gone" in result.stderr


def test_a_signal_ends_joined_workers_whose_leader_is_dead(launch):
    command = [sys.executable, "-m", "mpidask.cli", "--scheduler-file", "scheduler.json"]
    cluster = launch(command, 2)
    cluster.wait_for_message("mpidask: 1 worker")
    joined = launch([*OUTLIVED, *command, "--no-scheduler", "--shutdown-timeout", "1"], 2)
    joined.wait_for_message("mpidask: joined with 2 workers")
    joined.rank(0).send_signal(signal.SIGKILL)
    joined.rank(1).send_signal(signal.SIGTERM)
    result = joined.result()
    assert result.status != 0
    assert "no answer from rank 0 (" in result.stderr
    cluster.rank(0).send_signal(signal.SIGTERM)
    assert cluster.result().status == 143


@pytest.mark.parametrize("body", [SLEEP, WAIT])
def test_no_rank_outlives_the_client(start, body):
    job = start(SLOW.format(body=body), limit=60, through=OUTLIVED)
    job.wait_for_output("running")
    job.rank(1).send_signal(signal.SIGKILL)
    result = job.result()
    assert result.status != 0
    assert result.stdout == "running\n"
    assert "the client on rank 1 is gone" in result.stderr
    assert "Traceback" not in result.stderr


#: Ranks of workers look soon whether they have a scheduler.
SOON = "from mpidask._lifecycle import liveness; liveness._INTERVAL = 1\n"


@pytest.mark.essential
@pytest.mark.parametrize("options", ["", "nanny=True, "], ids=["worker", "nanny"])
def test_no_rank_outlives_scheduler_and_client(start, options):
    program = SLOW.replace("shutdown_timeout", f"startup_timeout=15, {options}shutdown_timeout")
    job = start(SOON + program.format(body=WAIT), limit=80, through=OUTLIVED)
    job.wait_for_output("running")
    for process in [job.rank(1), job.rank(0)]:  # found first, so that neither notices
        process.kill()
    result = job.result()
    assert result.status != 0
    assert result.stdout == "running\n"
    assert "no answer from rank 0 (scheduler) and rank 1 (client) for 1" in result.stderr
    assert "s (startup_timeout)" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_rank_outlives_scheduler_and_its_watcher(start):
    program = "from mpidask.cli import main\nmain(['--startup-timeout', '15'])\n"
    job = start(SOON + program, limit=80, through=OUTLIVED)
    job.wait_for_message("mpidask: 3 workers")
    for process in [job.rank(1), job.rank(0)]:
        process.kill()
    result = job.result()
    assert result.status != 0
    assert "no answer from rank 0 (scheduler) for 1" in result.stderr
    assert "Traceback" not in result.stderr


# -- A client rank whose Python does not run ---------------------------------------------

#: It is missed sooner, but not on a busy machine.
MISSED_SOON = "from mpidask._lifecycle import silence; silence.INTERVAL = 1\n"
SILENT = "no sign of life from rank 1 on {host} (client) for "
BACK = "rank 1 on {host} (client) answers again, after "


@pytest.mark.essential
def test_a_client_that_is_stopped_is_named(start):
    job = start(MISSED_SOON + SLOW.format(body=WAIT), limit=60)
    job.wait_for_output("running")
    client, host = job.rank(1), socket.gethostname()
    client.send_signal(signal.SIGSTOP)
    job.wait_for_message(SILENT.format(host=host))
    client.send_signal(signal.SIGCONT)
    job.wait_for_message(BACK.format(host=host))
    client.send_signal(signal.SIGTERM)
    result = job.result()
    assert (result.status, result.stdout) == (143, "running\nfinally\n"), result.stderr
    assert result.stderr.count("no sign of life") == 1


@pytest.mark.essential
def test_a_client_that_holds_the_gil_is_named(run):
    result = run(
        MISSED_SOON
        + """
import ctypes
from mpidask import mpi_dask_main

@mpi_dask_main
def main(client):
    ctypes.PyDLL(None).sleep(12)
    return client.submit(sum, [1, 2]).result()

print(main())
""",
        limit=60,
    )
    assert (result.status, result.stdout) == (0, "3\n"), result.stderr
    _, silent, back = result.said
    host = socket.gethostname()
    assert SILENT.format(host=host) in silent and "GIL" in silent
    assert BACK.format(host=host) in back


# -- Tasks that don't stop --------------------------------------------------------------


def test_a_task_that_never_returns_is_left_behind(run):
    result = run(
        """
        import time
        from distributed import Event, fire_and_forget
        from mpidask import mpi_dask_main

        def forever():
            Event("started").set()
            while True:
                time.sleep(0.1)

        @mpi_dask_main(shutdown_timeout=2)
        def main(client):
            fire_and_forget(client.submit(forever))
            Event("started").wait()
            return "value"

        print(main())
        """,
        limit=50,
    )
    assert (result.status, result.stdout) == (0, "value\n"), result.stderr
    _, left = result.said
    assert "left behind on rank" in left and "forever" in left
    assert "Traceback" not in result.stderr


def test_a_task_that_holds_the_gil_does_not_hold_the_job(run):
    result = run(
        """
        import ctypes, os, sys, time
        from distributed import fire_and_forget
        from mpidask import mpi_dask_main

        def hold():
            libc = ctypes.PyDLL(None)  # its calls keep the GIL
            libc.creat(b"held", 0o600)
            libc.sleep(75)

        @mpi_dask_main(shutdown_timeout=2)
        def main(client):
            fire_and_forget(client.submit(hold))
            while not os.path.exists("held"):
                time.sleep(0.05)
            print("value", flush=True)
            sys.exit(5)

        main()
        """,
        limit=50,
    )
    assert (result.status, result.stdout) == (5, "value\n"), result.stderr
    assert "no answer from rank" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_scheduler_that_does_not_answer_holds_no_report(run):
    pytest.importorskip("bokeh")
    result = run(
        """
        import ctypes, os, time
        from distributed import fire_and_forget
        from mpidask import mpi_dask_main

        def hold():
            libc = ctypes.PyDLL(None)  # its calls keep the GIL
            libc.creat(b"held", 0o600)
            libc.sleep(200)

        options = {"shutdown_timeout": 2, "performance_report": "report.html"}

        @mpi_dask_main(exclusive_workers=False, **options)
        def main(client):
            fire_and_forget(client.submit(hold, workers=["mpidask-0"]))
            while not os.path.exists("held"):
                time.sleep(0.05)
            print("value", flush=True)

        main()
        """,
        ranks=3,
        limit=150,
    )
    assert result.stdout == "value\n", result.stderr
    assert "could not write the performance report: TimeoutError: no answer" in result.stderr
    assert "no answer from rank 0" in result.stderr
    assert "Traceback" not in result.stderr


# -- Workers that come back ---------------------------------------------------------------


@pytest.mark.essential
def test_restart_retire_and_workers_that_close(run):
    result = run(
        """
        import os, time
        from distributed import get_worker
        from mpidask import mpi_dask_main

        def addresses(client):
            return set(client.scheduler_info(-1)["workers"])

        def close_soon(dask_worker):
            dask_worker.loop.call_later(0.2, dask_worker.close)

        def lose_connection_soon(dask_worker):
            dask_worker.loop.call_later(0.2, dask_worker.batched_stream.comm.abort)

        def until(condition):
            deadline = time.monotonic() + 30
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.1)

        @mpi_dask_main
        def main(client):
            first = addresses(client)
            client.restart()
            second = addresses(client)
            print("restarted", len(second), not first & second, client.submit(abs, -1).result())

            client.run(close_soon)
            until(lambda: len(now := addresses(client)) == 3 and not now & second)
            print("closed and back", client.submit(abs, -2, pure=False).result())

            third = addresses(client)
            client.run(lose_connection_soon)
            until(lambda: len(now := addresses(client)) == 3 and not now & third)
            print("lost and back", client.submit(abs, -3, pure=False).result())

            # All three have closed as often, so their ranks take as long to replace them:
            # when one that closes later is back, one that was retired would be back, too.
            gone, other, _ = sorted(addresses(client))
            client.retire_workers([gone])
            until(lambda: len(addresses(client)) == 2)
            client.run(close_soon, workers=[other])
            until(lambda: len(left := addresses(client)) >= 2 and other not in left)
            print("retired", len(addresses(client)))

        main()
        """,
        ranks=5,
        limit=120,
    )
    assert result.status == 0, result.stderr
    assert result.stdout.splitlines() == [
        "restarted 3 True 1",
        "closed and back 2",
        "lost and back 3",
        "retired 2",
    ]
    assert "Traceback" not in result.stderr


def test_restarts_in_a_loop_are_not_slowed_down(run):
    """The pauses that a failing worker has would come to more than the limit."""
    result = run(
        """
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            for number in range(12):
                client.restart()
            print(client.submit(abs, -1).result(), len(client.scheduler_info(-1)["workers"]))

        main()
        """,
        ranks=4,
        limit=55,
    )
    assert (result.status, result.stdout) == (0, "1 2\n"), result.stderr
    assert len(result.messages) == 1, result.stderr


def test_workers_that_are_all_paused_are_named_once(run):
    result = run(
        """
        import threading, time
        from distributed import TimeoutError
        from mpidask import mpi_dask_main
        from mpidask._watch import paused

        paused.INTERVAL = 0.5

        @mpi_dask_main(memory_limit="50 MB")  # less than Python and Dask need
        def main(client):
            while {w["status"] for w in client.scheduler_info()["workers"].values()} != {"paused"}:
                time.sleep(0.1)
            try:
                print(client.submit(abs, -1).result(timeout=10))
            except TimeoutError:
                print("stands still")

        main()
        """,
        ranks=4,
    )
    assert (result.status, result.stdout) == (0, "stands still\n"), result.stderr
    (line,) = [line for line in result.said if "all workers are paused" in line]
    for name in "mpidask-2", "mpidask-3":
        assert re.search(rf"{name} uses \d+\.\d+ MiB of 47.68 MiB \(0 B are results, ", line)
    assert "memory_limit" in line


@pytest.mark.parametrize("whose", ["the client given", "one of its own"])
def test_a_scheduler_that_ends_when_idle_says_so(run, whose):
    """The clients would try to reconnect for longer than the limit."""
    result = run(
        f"""
        import time
        from distributed import Client
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            if {whose == "one of its own"}:
                client = Client()
            while client.status == "running":
                time.sleep(0.1)
            print("lost", flush=True)
            try:
                client.submit(abs, -1).result()
            except Exception as error:
                print(type(error).__name__)

        main()
        """,
        ranks=3,
        limit=60,
        env={
            "DASK_DISTRIBUTED__SCHEDULER__IDLE_TIMEOUT": "2s",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "300s",
        },
    )
    assert result.status == 0, result.stderr
    assert re.fullmatch("lost\n(ClosedClient|FutureCancelled)Error\n", result.stdout)
    assert result.stderr.count("the scheduler has ended by itself: nothing to do for 2 s") == 1
    assert len(result.messages) == 2, result.stderr


def test_a_machine_without_a_network_is_no_reason_to_warn(run):
    result = run(
        """
        import socket
        import psutil

        psutil.net_if_addrs = dict
        connect = socket.socket.connect

        def connect_here(self, address):
            if self.type == socket.SOCK_DGRAM and address[0] != "127.0.0.1":
                raise OSError(101, "Network is unreachable")
            return connect(self, address)

        socket.socket.connect = connect_here

        from mpidask import mpi_dask_main

        @mpi_dask_main(scheduler_file="scheduler.json")
        def main(client):
            print(client.submit(abs, -1).result())

        main()
        """,
        ranks=3,
    )
    assert (result.status, result.stdout) == (0, "1\n"), result.stderr
    assert len(result.messages) == 1, result.stderr


# -- Who may connect ----------------------------------------------------------------------


def test_only_the_jobs_own_credentials_are_let_in(run):
    result = run(
        """
        import asyncio
        from distributed import Client, Security
        from distributed.core import rpc
        from mpidask import mpi_dask_main

        async def knock(address, security):
            try:
                args = security.get_connection_args("client")
                async with rpc(address, connection_args=args, timeout=5) as server:
                    return await asyncio.wait_for(server.identity(), 5)
            except Exception as error:
                return None

        @mpi_dask_main(transport="auto")
        def main(client):
            worker = next(iter(client.scheduler_info()["workers"]))
            for name, address in ("scheduler", client.scheduler.address), ("worker", worker):
                scheme, place = address.split("://")
                assert scheme == ("tls" if name == "scheduler" else "mpi")
                plain = f"tcp://{place}"
                open = Security(require_encryption=False)
                inside = asyncio.run(knock(address, client.security))
                print(
                    name,
                    inside["type"].lower(),
                    asyncio.run(knock(plain, open)),
                    asyncio.run(knock(address, Security.temporary())),
                )

        main()
        """
    )
    assert result.status == 0, result.stderr
    assert result.stdout == "scheduler scheduler None None\nworker worker None None\n"


# -- Idle ranks ---------------------------------------------------------------------------


#: The share of a core that an idle rank may use: Dask's own heartbeats take up to 4 % where
#: 5 % is promised, and more on a slower machine; a rank that spins takes all it can get.
IDLE = 0.10


def test_idle_ranks_do_not_spin(start, tmp_path):
    job = start(
        """
        import os, time
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        def wait(phase):
            print(phase, flush=True)
            while not os.path.exists(phase):
                time.sleep(0.2)

        if MPI.COMM_WORLD.rank == 3:
            wait("before")

        @mpi_dask_main(dashboard=False)
        def main(client):
            wait("inside")

        main()
        wait("after")
        """,
        limit=120,
    )
    for phase in "before", "inside", "after":
        job.wait_for_output(phase)
        # What spins, spins all the time. So each rank's quietest time counts, and neither
        # what is left of the step before, nor what a busy machine adds now and then. CPU
        # time, not load.
        restless = set(range(4))
        while restless:
            before = {rank: cpu_seconds(job, rank) for rank in restless}
            start_of_window = job.seconds
            job.let_pass(4)
            seconds = job.seconds - start_of_window
            used = {rank: (cpu_seconds(job, rank) - before[rank]) / seconds for rank in restless}
            print(phase, used)  # shown where this never ends, which is a failure
            restless = {rank for rank in restless if used[rank] >= IDLE}
        (tmp_path / phase).touch()
    assert job.result().status == 0


def cpu_seconds(job, rank):
    return sum(job.rank(rank).cpu_times()[:2])


def test_worker_whose_replacement_fails_comes_back_later(run):
    result = run(
        """
        import time
        from mpidask import mpi_dask_main

        def lose(dask_worker):
            from mpidask._dask import worker
            make_worker = worker.make_worker
            def fail(*args, **kwargs):
                worker.make_worker = make_worker
                raise OSError("the network is down")
            worker.make_worker = fail
            dask_worker.loop.call_later(0.2, dask_worker.close)

        @mpi_dask_main
        def main(client):
            (before,) = client.scheduler_info()["workers"]
            client.run(lose)
            while list(client.scheduler_info()["workers"]) in ([], [before]):
                time.sleep(0.1)
            print(client.submit(sum, [1, 2]).result())

        main()
        """,
        ranks=3,
    )
    assert (result.status, result.stdout) == (0, "3\n"), result.stderr
    assert "the worker on rank 2" in result.stderr and "the network is down" in result.stderr


RUNNING_AT_THE_END = """
import sys, time
from pathlib import Path
from distributed import fire_and_forget
from mpidask import mpi_dask_main

def task(seconds):
    Path("begun").touch()
    time.sleep(seconds)
    Path("done").touch()

@mpi_dask_main(nanny=True, shutdown_timeout=sys.argv[1])
def main(client):
    fire_and_forget(client.submit(task, float(sys.argv[2])))
    while not Path("begun").exists():
        time.sleep(0.1)

main()
"""


@pytest.mark.parametrize(
    "timeout, seconds, done", [("60 s", 5, True), ("4 s", 600, False)], ids=["ends", "stuck"]
)
def test_task_of_a_nanny_that_runs_at_the_end(run, tmp_path, timeout, seconds, done):
    result = run(RUNNING_AT_THE_END, timeout, str(seconds), ranks=3)
    assert result.status == 0, result.stderr
    assert (tmp_path / "done").exists() == done
    assert len(result.messages) == 1, result.stderr
