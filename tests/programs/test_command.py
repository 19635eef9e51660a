"""The command, unmodified scripts, and jobs that join a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from mpidask import __version__

MPIDASK = [sys.executable, "-m", "mpidask.cli"]
SCRIPT = [sys.executable, "-m", "mpidask"]

#: A session as a notebook would have it: connects from outside.
SESSION = """
import sys, time
import mpidask
from distributed import Client

def connection():
    deadline = time.monotonic() + 60
    while True:
        try:
            return mpidask.connection("scheduler.json")
        except mpidask.SchedulerFileError as error:
            if not error.may_pass or time.monotonic() > deadline:
                raise
            time.sleep(0.1)

workers, then = int(sys.argv[1]), sys.argv[2]
with Client(**connection()) as client:
    deadline = time.monotonic() + 60
    while len(client.scheduler_info(-1)["workers"]) != workers:
        assert time.monotonic() < deadline, client.scheduler_info(-1)
        time.sleep(0.1)
    names = [worker["name"] for worker in client.scheduler_info(-1)["workers"].values()]
    assert len(set(names)) == workers, names
    print("sum", sum(client.run(abs, -1).values()))
    if then == "shutdown":
        client.shutdown()
"""


@pytest.fixture
def session(run):
    """Connect from outside, wait for so many workers, and use them."""

    def session(workers, then="leave"):
        result = run(SESSION, str(workers), then, ranks=None)
        assert (result.status, result.stdout) == (0, f"sum {workers}\n"), result.stderr

    return session


# -- The command ----------------------------------------------------------------------


@pytest.mark.essential
@pytest.mark.parametrize("security", [[], ["--security"]])
def test_a_session_uses_and_ends_a_cluster(launch, session, tmp_path, security):
    command = [*MPIDASK, "--no-nanny", "--scheduler-file", "scheduler.json", *security]
    job = launch(command, 4)
    job.wait_for_message("mpidask: 3 workers")
    content = json.loads((tmp_path / "scheduler.json").read_text())
    assert ("security" in content) == bool(security)
    assert (tmp_path / "scheduler.json").stat().st_mode & 0o777 == 0o600
    session(3)
    session(3, "shutdown")
    result = job.result()
    assert result.status == 0, result.stderr
    assert not list(tmp_path.glob("*.json"))
    assert len(result.messages) == 1
    scheduler, _, dashboard = result.stderr.partition(", dashboard ")
    assert ("open to everyone" in scheduler) == (not security)
    assert not dashboard or ("open to everyone" in dashboard) == (not security)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command(launch, tmp_path, rank, signum):
    job = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 3)
    job.wait_for_message("mpidask: 2 workers")
    job.rank(rank).send_signal(signum)
    result = job.result()
    assert result.status == 128 + signum, result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "scheduler.json").exists()


def test_one_rank_is_enough_for_inclusive_workers(launch, session):
    job = launch([*MPIDASK, "--inclusive-workers", "--scheduler-file", "scheduler.json"], 1)
    session(1, "shutdown")
    assert job.result().status == 0


def test_home_directory_in_the_file_name(launch, tmp_path):
    command = [*MPIDASK, "--scheduler-file", "~/cluster.json"]
    job = launch(command, 2, env={"HOME": str(tmp_path)})
    job.wait_for_message("mpidask: 1 worker")
    assert (tmp_path / "cluster.json").exists()
    job.rank(0).send_signal(signal.SIGTERM)
    assert job.result().status == 143


@pytest.mark.parametrize("joining", ["a program", "the command"])
def test_home_directory_in_the_file_name_to_join(start, launch, run, tmp_path, joining):
    home = {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    cluster = launch([*MPIDASK, "--scheduler-file", "~/cluster.json"], 2, env=home)
    if joining == "a program":
        join = "import mpidask; mpidask.join_existing('~/cluster.json', reconnect=False)"
        joined = start(join, ranks=2, env=home)
    else:
        command = ["--no-scheduler", "--no-reconnect", "--scheduler-file", "~/cluster.json"]
        joined = launch([*MPIDASK, *command], 2, env=home)
    cluster.wait_for_message("mpidask: 1 worker")
    session = """
    import mpidask
    from distributed import Client

    with Client(**mpidask.connection("~/cluster.json")) as client:
        client.wait_for_workers(3, timeout=60)
        client.shutdown()
    """
    for result in run(session, ranks=None, env=home), cluster.result(), joined.result():
        assert result.status == 0, result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--nonesuch"], "No such option"),
        (["--nthreads", "x"], "nthreads='x'"),
        (["--worker-options", "{"], "not JSON"),
        (["--no-scheduler"], "which cluster to join"),
        (["--scheduler-rank", "7"], "needs 8 or more"),
        (["--protocol", "tcp", "--security"], "security"),
        (["script.py"], "To run a script: python -m mpidask script.py"),
    ],
)
def test_wrong_usage_is_said_once(launch, arguments, text):
    result = launch([*MPIDASK, *arguments], 3, limit=40).result()
    assert result.status == 2, result.stderr
    assert result.stderr.count("Error: ") == 1, result.stderr
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_help_and_version_come_once(launch):
    result = launch([*MPIDASK, "--version"], 3, limit=40).result()
    assert (result.status, result.stdout) == (0, f"mpidask {__version__}\n")
    result = launch([*MPIDASK, "--help"], 3, limit=40).result()
    assert result.status == 0
    assert result.stdout.count("--nthreads") == 1
    assert "Network and security:" in result.stdout
    for text in ("SCHEDULER_ADDRESS  ", "--nthreads INT|auto", "--startup-timeout TIME"):
        assert text in result.stdout
    assert "--memory-limit BYTES|auto" in result.stdout


def test_completion_in_the_shell():
    environment = {"_MPIDASK_COMPLETE": "bash_complete", "COMP_WORDS": "mpidask --nth"}
    done = subprocess.run(
        [sys.executable, "-c", "from mpidask.cli import main; main(prog_name='mpidask')"],
        env=os.environ | environment | {"COMP_CWORD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "plain,--nthreads\n", done.stderr


def test_dask_mpi_is_the_same_command(launch, tmp_path):
    dask = [sys.executable, "-c", "from dask.__main__ import main; main()", "mpi"]
    job = launch([*dask, "--scheduler-file", "scheduler.json"], 2)
    job.wait_for_message("mpidask: 1 worker")
    job.rank(1).send_signal(signal.SIGINT)
    assert job.result().status == 130


# -- Unmodified scripts ---------------------------------------------------------------

UNMODIFIED = """
import sys
from distributed import Client
import beside

class Point:
    def __init__(self, x):
        self.x = x

def shifted(point):
    return Point(beside.shift(point.x))

if __name__ == "__main__":
    print("argv", sys.argv)
    client = Client()
    print("shifted", client.submit(shifted, Point(1)).result().x)
    {end}
"""


@pytest.mark.essential
@pytest.mark.parametrize("ranks", [4, None])
def test_unmodified_script(launch, tmp_path, ranks):
    directory = tmp_path / "scripts"
    directory.mkdir()
    (directory / "beside.py").write_text("def shift(x):\n    return x + 1\n")
    (directory / "script.py").write_text(UNMODIFIED.format(end=""))
    command = [*SCRIPT, "--nthreads", "2", "scripts/script.py", "--nthreads", "x"]
    result = launch(command, ranks).result()
    assert result.status == 0, result.stderr
    assert result.stdout == "argv ['scripts/script.py', '--nthreads', 'x']\nshifted 2\n"
    assert len(result.messages) == 1, result.stderr


@pytest.mark.parametrize(
    "end, status, text",
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('text')", 1, "text"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise BaseException('rare')", 1, "BaseException: rare"),
        ("client.shutdown()", 0, ""),
    ],
)
def test_how_an_unmodified_script_ends(launch, tmp_path, end, status, text):
    (tmp_path / "beside.py").write_text("def shift(x):\n    return x + 1\n")
    (tmp_path / "script.py").write_text(UNMODIFIED.format(end=end))
    result = launch([*SCRIPT, "script.py"], 3).result()
    assert result.status == status, result.stderr
    assert result.stdout.endswith("shifted 2\n")
    assert text in result.stderr
    assert result.stderr.count("Traceback") == (end in ("1 / 0", "raise BaseException('rare')"))
    assert "mpidask/" not in result.stderr  # no frame of ours


def test_module_and_code(launch, tmp_path):
    (tmp_path / "beside.py").write_text("def shift(x):\n    return x + 1\n")
    (tmp_path / "module.py").write_text(UNMODIFIED.format(end=""))
    result = launch([*SCRIPT, "-m", "module", "a"], 3).result()
    assert result.status == 0, result.stderr
    argv, shifted = result.stdout.splitlines()
    assert argv.endswith("module.py', 'a']")
    assert shifted == "shifted 2"
    code = (
        "f = lambda x: x + 1\nfrom distributed import Client\nprint(Client().submit(f, 1).result())"
    )
    result = launch([*SCRIPT, "-c", code], 3).result()
    assert (result.status, result.stdout) == (0, "2\n"), result.stderr


@pytest.mark.parametrize("arguments", [[], ["-m"], ["-c"], ["nonesuch.py"], ["--nonesuch", "x.py"]])
def test_wrong_usage_for_scripts(launch, arguments):
    result = launch([*SCRIPT, *arguments], 3, limit=40).result()
    assert result.status == 2
    assert result.stderr.count("Error: ") == 1, result.stderr


@pytest.mark.parametrize("call", ["initialize()", "execute(print)"])
def test_dask_mpi_in_an_unmodified_script_says_so(launch, tmp_path, call):
    pytest.importorskip("dask_mpi")
    name = call.split("(")[0]
    (tmp_path / "script.py").write_text(f"from dask_mpi import {name}\n{call}\nprint('never')\n")
    result = launch([*SCRIPT, "script.py"], 3, limit=40).result()
    assert (result.status, result.stdout) == (1, ""), result.stderr
    assert result.stderr.count("mpidask.MPIDaskError: dask-mpi's initialize()") == 1
    assert "mpidask/" not in result.stderr  # no frame of ours


def test_one_rank_is_scheduler_and_client(launch, tmp_path):
    (tmp_path / "script.py").write_text(
        "from distributed import Client\n"
        "with Client() as client:\n"
        "    print('sum', sum(client.run(abs, -1).values()))\n"
    )
    result = launch([*SCRIPT, "--client-rank", "0", "script.py"], 3).result()
    assert (result.status, result.stdout) == (0, "sum 2\n"), result.stderr


# -- Joining ----------------------------------------------------------------------------

JOIN = """
import sys
import mpidask
mpidask.join_existing("scheduler.json", {})
print("never")
"""


@pytest.mark.essential
def test_joining_before_and_after_and_coming_back(start, launch, session):
    """Workers wait for the file, join, survive their scheduler's death, join again."""
    early = start(JOIN.format(""), ranks=2, limit=150)
    early.wait_for_message("waiting for a scheduler: there is no scheduler file")
    cluster = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2, limit=150)
    late = launch([*MPIDASK, "--no-scheduler", "--scheduler-file", "scheduler.json"], 2, limit=150)
    session(5)

    late.rank(1).send_signal(signal.SIGKILL)  # the job crashes, the cluster goes on
    assert late.result().status != 0
    session(3)

    cluster.rank(0).send_signal(signal.SIGKILL)  # a stale file is left behind
    assert cluster.result().status != 0
    assert os.path.exists(cluster.stdout.with_name("scheduler.json"))
    again = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2, limit=150)
    again.wait_for_message("mpidask: 1 worker")
    session(3, "shutdown")
    assert again.result().status == 0

    early.wait_for_message("waiting for a scheduler")
    third = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2, limit=150)
    session(3)
    early.rank(1).send_signal(signal.SIGTERM)  # the end of a joined job ends nothing else
    ended = early.result()
    assert ended.status == 143, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "never" not in ended.stdout
    session(1, "shutdown")
    assert third.result().status == 0


RETIRE = """
import mpidask
from distributed import Client

with Client(**mpidask.connection("scheduler.json")) as client:
    workers = client.scheduler_info(-1)["workers"].items()
    client.retire_workers([at for at, worker in workers if worker["name"] != "mpidask-1"])
"""


@pytest.mark.parametrize("end", ["shutdown", "kill"])
def test_joined_nannies_come_back_and_leave_when_retired(start, launch, session, run, end):
    joined = start(JOIN.format("nanny=True"), ranks=2, limit=120)
    cluster = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2, limit=120)
    if end == "kill":
        session(3)
        cluster.rank(0).send_signal(signal.SIGKILL)
    else:
        session(3, "shutdown")
    assert (cluster.result().status == 0) == (end == "shutdown")
    again = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2, limit=120)
    again.wait_for_message("mpidask: 1 worker")
    session(3)
    joined.wait_for_message("joined a scheduler again")
    assert run(RETIRE, ranks=None).status == 0
    result = joined.result()
    assert result.status == 0, result.stderr
    assert "Traceback" not in result.stderr
    session(1, "shutdown")
    assert again.result().status == 0


HEEDS_HEARTBEATS_ALONE = """
from distributed import Worker

class Deaf(Worker):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stream_handlers["close"] = lambda **_: None
"""


@pytest.mark.parametrize("nanny", [True, False])
def test_retired_workers_leave_though_a_heartbeat_tells_first(start, launch, run, nanny):
    """The scheduler has forgotten them, and its order to close comes after that."""
    cluster = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2)
    cluster.wait_for_message("mpidask: 1 worker")
    joined = start(
        HEEDS_HEARTBEATS_ALONE + JOIN.format(f"nanny={nanny}, worker_class=Deaf"), ranks=2
    )
    joined.wait_for_message("joined with 2 workers")
    assert run(RETIRE, ranks=None).status == 0
    result = joined.result()
    assert result.status == 0, result.stderr
    assert "Traceback" not in result.stderr


#: Nannies hear late that their workers are up, and know their addresses only then.
HEARD_LATE = """
from distributed.nanny import WorkerProcess
WorkerProcess._init_msg_interval = 3
"""


@pytest.mark.parametrize(
    "before, options", [("", ""), ("", "nanny=True"), (HEARD_LATE, "nanny=True")]
)
def test_results_move_when_a_joined_job_ends(start, launch, before, options):
    cluster = launch([*MPIDASK, "--scheduler-file", "scheduler.json"], 2)
    cluster.wait_for_message("mpidask: 1 worker")
    joined = start(before + JOIN.format(options), ranks=1)
    session = start(
        """
        import time
        import mpidask
        from distributed import Client

        def workers(client):
            found = client.scheduler_info(-1)["workers"].items()
            return {at for at, worker in found if worker["name"] != "mpidask-1"}

        def until(condition):
            deadline = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.1)

        with Client(**mpidask.connection("scheduler.json")) as client:
            until(lambda: workers(client))
            future = client.scatter("kept", workers=workers(client))
            print("scattered", flush=True)
            until(lambda: not workers(client))
            print(future.result(timeout=30))
            client.shutdown()
        """,
        ranks=None,
    )
    session.wait_for_output("scattered")
    joined.rank(0).send_signal(signal.SIGTERM)
    ended, held = joined.result(), session.result()
    assert (held.status, held.stdout) == (0, "scattered\nkept\n"), held.stderr + ended.stderr
    assert ended.status == 143, ended.stderr
    assert "results did not move" not in ended.stderr
    assert cluster.result().status == 0


def test_joined_workers_replaced_for_their_tasks_stay(start, run):
    """A task that raises SystemExit costs a worker, and not the job it runs in."""
    cluster = start(
        """
        import sys, time
        from distributed import KilledWorker
        from mpidask import mpi_dask_main

        def names(client):
            workers = client.scheduler_info(-1)["workers"].values()
            return {worker["name"] for worker in workers}

        @mpi_dask_main(scheduler_file="scheduler.json")
        def main(client):
            client.wait_for_workers(2)
            joined = names(client) - {"mpidask-2"}
            error = client.submit(sys.exit, 3, workers=joined).exception()
            assert isinstance(error, KilledWorker), error
            client.wait_for_workers(2)
            assert client.submit(sum, [1, 2], workers=names(client) - {"mpidask-2"}).result() == 3
            print("good")

        main()
        """,
        ranks=3,
        env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
    )
    joined = start(JOIN.format(""), ranks=1)
    assert cluster.result().stdout == "good\n"
    joined.wait_for_message("waiting for a scheduler")
    joined.rank(0).send_signal(signal.SIGTERM)
    result = joined.result()
    assert result.status == 143, result.stderr
    assert "failed: a task raised SystemExit" in result.stderr


def test_joining_a_batch_job_with_credentials(start, session, tmp_path):
    batch = start(
        """
        import os, time
        from mpidask import mpi_dask_main

        @mpi_dask_main(scheduler_file="scheduler.json")
        def main(client):
            print("up", flush=True)
            client.wait_for_workers(4, timeout=60)
            while not os.path.exists("used"):
                time.sleep(0.1)

        main()
        """
    )
    batch.wait_for_output("up")
    joined = start(JOIN.format("reconnect=False, exit=False"), ranks=2)
    session(4)
    (tmp_path / "used").touch()
    assert batch.result().status == 0
    result = joined.result()
    assert result.status == 0, result.stderr
    assert result.stdout.count("never") == 2  # with exit=False, all ranks go on
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "scheduler.json").exists()


def test_readable_credentials_are_refused(start, tmp_path):
    credentials = {f"tls_{part}": "x" for part in ("ca_file", "client_cert", "client_key")}
    content = {"address": "tls://127.0.0.1:1", "security": credentials}
    (tmp_path / "scheduler.json").write_text(json.dumps(content))
    (tmp_path / "scheduler.json").chmod(0o644)
    result = start(JOIN.format(""), ranks=2, limit=40).result()
    assert result.status == 1
    assert result.stderr.count("chmod 600") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content, text",
    [
        (None, "there is no scheduler file"),
        ("", "is not a scheduler file"),
        ('{"address": "tcp://127', "is not a scheduler file"),
        ("[1, 2]", "is not a scheduler file"),
        ('{"address": "tcp://127.0.0.1:1"}', "no scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_files_that_lead_nowhere(start, tmp_path, content, text):
    if content is not None:
        (tmp_path / "scheduler.json").write_text(content)
    result = start(JOIN.format("death_timeout=3"), ranks=2, limit=60).result()
    assert result.status == 1
    assert text in result.stderr
    assert "death_timeout" in result.stderr
    assert "json" not in result.stderr.replace("scheduler.json", "")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words, text", [(b"", "does not answer"), (b"SSH-2.0-OpenSSH_9.2\r\n", "is not a scheduler")]
)
def test_the_address_has_become_another_program_s(start, tmp_path, listen, words, text):
    address = listen(lambda connection: connection.sendall(words))
    (tmp_path / "scheduler.json").write_text(f'{{"address": "tcp://{address}"}}')
    result = start(JOIN.format("death_timeout=3"), ranks=2, limit=60).result()
    assert result.status == 1
    # While it waits; and at the end, alike on all ranks.
    assert result.stderr.count(text) == 2
    assert "no scheduler for 3 s (death_timeout)" in result.stderr
    assert "Traceback" not in result.stderr


def test_strangers_that_knock_are_no_news(launch, session, tmp_path):
    cluster = launch([*MPIDASK, "--no-nanny", "--scheduler-file", "scheduler.json"], 3)
    cluster.wait_for_message("mpidask: 2 workers")
    address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"):
        with socket.create_connection((host, int(port)), timeout=30) as stranger:
            stranger.sendall(words)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(1 << 16):  # the scheduler greets, and closes
                    pass
    session(2, "shutdown")
    result = cluster.result()
    assert (result.status, len(result.messages)) == (0, 1), result.stderr


# -- Nannies ------------------------------------------------------------------------------


@pytest.mark.essential
def test_nannies_under_mpi(run):
    """No guard; tasks import mpi4py; a killed child is replaced and its work redone."""
    result = run(
        """
        import os, time
        from mpidask import mpi_dask_main

        print("script", flush=True)

        def mpi_size():
            from mpi4py import MPI
            return MPI.COMM_WORLD.Get_size()

        def once(path):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return "redone"
            os.kill(os.getpid(), 9)

        @mpi_dask_main(nanny=True)
        def main(client):
            print("size", client.submit(mpi_size).result())
            print("task", client.submit(once, os.path.abspath("flag")).result())
            client.wait_for_workers(2)
            client.restart()
            print("workers", len(client.scheduler_info(-1)["workers"]))

        main()
        """,
        limit=120,
    )
    assert result.status == 0, result.stderr
    rest = result.stdout.replace("script", "").split("\n")  # ranks print at the same time
    assert [line for line in rest if line] == ["size 1", "task redone", "workers 2"]
    assert result.stdout.count("script") == 4  # once on each rank, never in a child
    assert "Traceback" not in result.stderr


def test_no_child_is_left_when_its_nanny_is_killed(start):
    job = start(
        """
        import time
        from mpidask import mpi_dask_main

        @mpi_dask_main(nanny=True)
        def main(client):
            print("running", flush=True)
            client.submit(time.sleep, 80).result()

        main()
        """,
        ranks=3,
    )
    job.wait_for_output("running")
    ranks = {process.pid for process in map(job.rank, range(3))}
    nanny = next(p for p in job.processes() if p.pid in ranks and p.children())
    nanny.send_signal(signal.SIGKILL)
    assert job.result().status != 0


def test_a_worker_that_cannot_start_does_not_wait_for_a_scheduler(launch, tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "mpidask.cli", "--scheduler-file", "scheduler.json"]
    cluster = launch(command, 2)
    cluster.wait_for_message("mpidask: 1 worker")
    joined = launch([*command, "--no-scheduler", "--local-directory", "file/below"], 2)
    result = joined.result()
    assert result.status == 1
    assert "Not a directory" in result.stderr
    assert "Traceback" not in result.stderr
    cluster.rank(0).send_signal(signal.SIGTERM)
    assert cluster.result().status == 143


def test_a_script_for_one_machine(launch, tmp_path):
    """Its Client uses the job's workers all the same; what would do nothing is told."""
    (tmp_path / "script.py").write_text(
        """
from distributed import Client, Environ, LocalCluster

client = Client(n_workers=2, threads_per_worker=1)
print(len(client.scheduler_info()["workers"]))
client.register_plugin(Environ({"A": "1"}))
with LocalCluster(n_workers=1, processes=False, dashboard_address=None):
    pass
"""
    )
    result = launch([*SCRIPT, "--no-dashboard", "script.py"], 3).result()
    assert (result.status, result.stdout) == (0, "1\n"), result.stderr
    _, *said = sorted(result.said, key=lambda line: "worker on" not in line)
    assert len(said) == 3, result.stderr
    assert sum("Client(n_workers=..., threads_per_worker=...)" in line for line in said) == 1
    assert sum("the plugin Environ-" in line and "nanny=True" in line for line in said) == 1
    assert sum("LocalCluster() starts workers on this rank's" in line for line in said) == 1
