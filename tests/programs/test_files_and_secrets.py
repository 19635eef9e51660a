"""Scheduler files that are something else, or another's; and who gets to see secrets."""

from __future__ import annotations

import json
import os
import re
import signal
import sys

import pytest

pytestmark = pytest.mark.any_mpi

HELLO = """
from mpidask import mpi_dask_main

@mpi_dask_main(scheduler_file="scheduler.json")
def main(client):
    print("never")

main()
"""
JOIN = """
import mpidask
mpidask.join_existing("scheduler.json", {})
"""


def write_scheduler_file(path, address="tcp://127.0.0.1:1"):
    identity = {"type": "Scheduler", "id": "Scheduler-1", "address": address, "workers": {}}
    path.write_text(json.dumps(identity))
    path.chmod(0o600)


def give_away(path):
    write_scheduler_file(path)
    os.chown(path, 12345, -1)


def let_others_write(path):
    write_scheduler_file(path)
    path.chmod(0o666)


# -- What is asked to be written. -----------------------------------------------------


@pytest.mark.parametrize(
    "make, reason",
    [
        (
            lambda path: path.write_text("x,y\n1,2\n"),
            "is not a scheduler file, and is left as it is",
        ),
        (lambda path: path.symlink_to("elsewhere"), "it is a symbolic link"),
        (os.mkfifo, "it is a named pipe"),
    ],
    ids=["data", "link", "fifo"],
)
@pytest.mark.parametrize("ranks", [3, None])
def test_what_is_no_scheduler_file_is_not_replaced(run, tmp_path, make, reason, ranks):
    path = tmp_path / "scheduler.json"
    make(path)
    before = path.lstat()
    result = run(HELLO, ranks=ranks, limit=40)
    assert (result.status, result.stdout) == (1, ""), result.stderr
    assert result.stderr.count(f"{path} can't be written: ") == 1, result.stderr
    assert result.stderr.count(reason) == 1
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_command_replaces_no_data(launch, tmp_path):
    (tmp_path / "results").write_text("42")
    command = [sys.executable, "-m", "mpidask.cli", "--scheduler-file", "results"]
    result = launch(command, 3, limit=40).result()
    assert result.status == 1, result.stderr
    assert result.stderr.count("the file there is not a scheduler file, and is left as it is") == 1
    assert (tmp_path / "results").read_text() == "42"


@pytest.mark.parametrize("ranks", [3, None])
def test_a_missing_folder_is_named(run, tmp_path, ranks):
    result = run(HELLO.replace("scheduler.json", "nonesuch/scheduler.json"), ranks=ranks, limit=40)
    assert (result.status, result.stdout) == (1, ""), result.stderr
    assert result.stderr.count(f"there is no folder {tmp_path}/nonesuch") == 1, result.stderr


def test_what_replaces_the_file_meanwhile_is_kept(run, tmp_path):
    program = HELLO.replace(
        'print("never")', "os.unlink('scheduler.json'); os.mkfifo('scheduler.json')"
    )
    result = run("import os\n" + program.replace("\n\n", "\n", 1), ranks=3, limit=60)
    assert result.status == 0, result.stderr
    assert (tmp_path / "scheduler.json").is_fifo()


# -- What is joined. ------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, reason",
    [
        (os.mkfifo, "is a named pipe, not a scheduler file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, not a scheduler file"),
        (let_others_write, "chmod go-w"),
        pytest.param(
            give_away,
            "belongs to user 12345",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
    ids=["fifo", "device", "others may write", "another's"],
)
def test_what_others_can_write_is_not_joined(run, tmp_path, make, reason):
    make(tmp_path / "scheduler.json")
    result = run(JOIN.format(""), ranks=2, limit=40)
    assert result.status == 1, result.stderr
    assert result.stderr.count(reason) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_what_others_can_write_is_joined_if_they_are_trusted(run, launch, tmp_path):
    cluster = launch([sys.executable, "-m", "mpidask.cli", "--scheduler-file", "scheduler.json"], 2)
    cluster.wait_for_message("mpidask: 1 worker")
    (tmp_path / "scheduler.json").chmod(0o666)
    joining = ["--no-scheduler", "--scheduler-file", "scheduler.json", "--trust-scheduler-file"]
    joined = launch([sys.executable, "-m", "mpidask.cli", "--no-reconnect", *joining], 2)
    session = """
    import mpidask
    from distributed import Client

    try:
        mpidask.connection("scheduler.json")
    except mpidask.SchedulerFileError as error:
        print(error)
    arguments = mpidask.connection("scheduler.json", trust_scheduler_file=True)
    with Client(**arguments) as client:
        client.wait_for_workers(3, timeout=60)
        client.shutdown()
    """
    result = run(session, ranks=None)
    assert result.status == 0, result.stderr
    assert "others may write" in result.stdout
    assert cluster.result().status == 0
    assert joined.result().status == 0


HANGING = """
import time
from mpidask._dask import atomic_file, scheduler_file

atomic_file.ANSWER_TIMEOUT = 0.5
scheduler_file.read = lambda path, trust: time.sleep(1000)
"""


@pytest.mark.parametrize("end", ["death_timeout", "SIGTERM"])
def test_a_file_system_that_hangs_holds_nothing_up(start, end):
    options = "death_timeout=2" if end == "death_timeout" else ""
    job = start(HANGING + JOIN.format(options), ranks=2, limit=60)
    job.wait_for_message("waiting for a scheduler: the file system of")
    if end == "SIGTERM":
        job.rank(1).send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == (1 if end == "death_timeout" else 143), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("where", ["check", "_draft"])
def test_a_file_system_that_hangs_is_named_by_who_would_write(run, where):
    result = run(
        f"""
        import time
        from mpidask import mpi_dask_main
        from mpidask._dask import atomic_file

        atomic_file.ANSWER_TIMEOUT = 0.5
        atomic_file.AtomicFile.{where} = lambda *args: time.sleep(1000)
        mpi_dask_main(scheduler_file="file.json")(print)()
        """,
        limit=60,
    )
    assert result.status == 1
    assert "file.json does not answer within 0.5 s" in result.stderr
    assert result.stderr.count("Traceback") == 1


# -- Secrets. -------------------------------------------------------------------------


@pytest.mark.parametrize("nanny", [False, True])
def test_no_private_key_is_dumped_logged_or_shown(run, tmp_path, nanny):
    pytest.importorskip("bokeh")
    result = run(
        f"""
        import time
        import urllib.request
        import dask
        from distributed import Client, get_client, worker_client
        from mpidask import mpi_dask_main

        KEY = "PRIVATE" + " KEY"  # this program is shown, too
        OPTIONS = dict(
            exclusive_workers=False, log_level="debug", performance_report="report", nanny={nanny}
        )

        def config():
            return dask.config.config

        def of_a_worker(x):
            with worker_client() as client:
                return client.submit(abs, x).result() + get_client().submit(abs, x).result()

        def page(url):
            deadline = time.monotonic() + 30
            while True:
                try:
                    return urllib.request.urlopen(url, timeout=10).read().decode()
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)

        @mpi_dask_main(**OPTIONS)
        def main(client):
            with Client() as another:  # let in all the same
                print(another.submit(of_a_worker, -1).result())
            for where in True, False:
                client.dump_cluster_state("state-%s" % where, where, format="yaml")
            told = [config(), client.run(config), client.run_on_scheduler(config)]
            told += [client.get_worker_logs(), client.get_scheduler_logs()]
            told += [client.get_versions(), client.scheduler_info(-1)]
            link = client.dashboard_link.removesuffix("status") + "info/main/"
            told += [page(link + "workers.html"), page(link + "logs.html")]
            print(sum(KEY in str(one) for one in told))

        main()
        """,
        ranks=2,
    )
    assert (result.status, result.stdout) == (0, "2\n0\n"), result.stderr
    shown = [tmp_path / "state-True.yaml", tmp_path / "state-False.yaml", tmp_path / "report"]
    for text in result.stderr, *(path.read_text() for path in shown):
        assert len(text) > 1000
        assert "PRIVATE KEY" not in text
    secret = re.search(r"dashboard http://[^/]+/([\w-]{22})/status", result.stderr)[1]
    assert result.stderr.count(secret) == 1
    assert secret not in (tmp_path / "report").read_text()
