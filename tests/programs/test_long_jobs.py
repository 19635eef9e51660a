"""Jobs that nobody watches: what their logs say, and what is left of those that are killed."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpidask._watch.performance_report import PerformanceReport

PAGE = Path(__file__).parents[2] / "docs" / "long-jobs.md"
WORK = """
import sys, time
from mpidask import mpi_dask_main

def work(number):
    time.sleep(0.2)
    return number

@mpi_dask_main(progress="1 s", summary="job.json")
def main(client):
    client.gather(client.map(work, range(20)))
    {end}

main()
"""


def read(tmp_path):
    return json.loads((tmp_path / "job.json").read_text())


def done(tmp_path):
    """Give the number of tasks that the summary knows of."""
    return read(tmp_path)["tasks"]["done"] if (tmp_path / "job.json").exists() else 0


def check_log(said):
    start, *lines, summary, advice = said
    assert "2 workers" in start
    assert any(re.match(r"mpidask: \d+ of 20 tasks done; \d+", line) for line in lines)
    assert re.match(r"mpidask: summary: 20 tasks done in \d+ s; threads busy \d+% of", summary)
    assert re.match(r"mpidask: next time: ask for \d+\.\d GiB a rank", advice)


@pytest.mark.parametrize(
    "end, status",
    [("return", 0), ("sys.exit(3)", 3), ("raise ValueError('deliberate')", 1)],
)
def test_the_summary_knows_how_the_job_ended(run, tmp_path, end, status):
    result = run(WORK.format(end=end))
    assert result.status == status, result.stderr
    check_log(result.said)
    assert ("Traceback" in result.stderr) == (status == 1)
    summary = read(tmp_path)
    assert (summary["finished"], summary["status"]) == (True, status)
    assert {name: n for name, n in summary["tasks"].items() if n} == {"done": 20}
    assert {worker["place"].split(" on ")[0] for worker in summary["workers"]} == {
        "rank 2",
        "rank 3",
    }


@pytest.mark.parametrize("ranks", [4, None])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_summary_of_a_job_that_is_told_to_stop(start, tmp_path, ranks, rank):
    if ranks is None and rank:
        return  # there is one process to tell
    job = start(WORK.format(end="time.sleep(60)"), ranks=ranks)
    job.wait_for(lambda: done(tmp_path) >= 20, "to do its tasks")
    (job.rank(rank) if ranks else job.process).send_signal(signal.SIGTERM)
    assert job.result().status == 143
    summary = read(tmp_path)
    assert (summary["finished"], summary["status"]) == (True, 143)
    assert summary["tasks"]["done"] == 20


@pytest.mark.parametrize("ranks", [4, None])
def test_a_job_that_is_killed_has_said_how_far_it_came(start, tmp_path, ranks):
    job = start(WORK.format(end="time.sleep(60)"), ranks=ranks)
    job.wait_for((tmp_path / "job.json").exists, "to begin a summary")
    assert read(tmp_path)["finished"] is False
    job.wait_for(lambda: done(tmp_path) >= 4, "to do some tasks")
    job.kill()
    job.result()
    summary = read(tmp_path)
    assert (summary["finished"], summary["status"]) == (False, None)
    assert summary["tasks"]["done"] >= 4
    assert len(summary["workers"]) == 2
    assert [name for name in os.listdir(tmp_path) if name.endswith("-job.json")] == []


def test_an_unmodified_script_and_a_stall(start, tmp_path):
    (tmp_path / "script.py").write_text(
        "import time\n"
        "from distributed import Client\n"
        "def relax():\n"
        "    time.sleep(60)\n"
        "client = Client()\n"
        "client.submit(relax, key='long').result()\n"
    )
    job = start.launch(
        [
            sys.executable,
            "-m",
            "mpidask",
            "--progress",
            "1 s",
            "--summary",
            "job.json",
            "--shutdown-timeout",
            "2 s",
            "script.py",
        ],
        4,
    )
    job.wait_for_message("no task has ended for 3 s")
    job.rank(0).send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == 143
    (stall,) = (line for line in result.said if "no task has ended" in line)
    assert re.search(r"Still running: long on rank [23] on \S+ for \d+ s, in relax \(", stall)
    assert {name: n for name, n in read(tmp_path)["tasks"].items() if n} == {"dropped": 1}


def test_the_command(start, run, tmp_path):
    command = [sys.executable, "-m", "mpidask.cli", "--scheduler-file", "scheduler.json"]
    job = start.launch([*command, "--progress", "1 s", "--summary", "job.json"], 3)
    job.wait_for_message("mpidask: 2 workers")
    result = run(
        """
        from distributed import Client
        with Client(scheduler_file="scheduler.json") as client:
            client.gather(client.map(abs, range(20)))
            client.shutdown()
        """,
        ranks=None,
    )
    assert result.status == 0, result.stderr
    result = job.result()
    assert result.status == 0, result.stderr
    assert any("summary: 20 tasks done" in line for line in result.said)
    assert (read(tmp_path)["finished"], read(tmp_path)["status"]) == (True, 0)


def test_without_mpi(run, tmp_path):
    result = run(WORK.format(end="return"), ranks=None, env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.status == 0, result.stderr
    assert result.said[-2].startswith("mpidask: summary: 20 tasks done")
    assert any(re.match(r"mpidask: \d+ of 20 tasks done; ", line) for line in result.said)
    assert read(tmp_path)["finished"] is True


def test_on_a_terminal_one_line_lives(tmp_path):
    """Only where the scheduler's process has the terminal: without mpirun."""
    program = tmp_path / "program.py"
    program.write_text(WORK.format(end="return"))
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(program)], cwd=tmp_path, stderr=its_end, stdin=subprocess.DEVNULL
    )
    os.close(its_end)
    seen = b""
    while True:
        try:
            read_now = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not read_now:
            break
        seen += read_now
    os.close(terminal)
    assert process.wait(60) == 0, seen
    lines = seen.decode().split("\n")
    live = [part for line in lines for part in line.split("\r") if "of 20 tasks" in part]
    assert live, seen
    assert all(part.startswith("\x1b[K") for part in live)  # no line of the log
    assert sum("of 20 tasks" in line for line in lines) == 1


def test_a_summary_that_cannot_be_written_is_known_at_once(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(
        """
        from mpidask import mpi_dask_main

        @mpi_dask_main(summary="file/job.json")
        def main(client):
            print("hours of work")

        main()
        """
    )
    assert (result.status, result.stdout) == (1, "")
    assert "StartupError: the scheduler on rank 0" in result.stderr
    assert "the summary can't be written" in result.stderr


@pytest.mark.parametrize("option", ["summary", "performance_report"])
def test_data_is_not_replaced(run, tmp_path, option):
    data = tmp_path / "data.csv"
    data.write_text("a,b\n1,2\n")
    result = run(
        f"""
        from mpidask import mpi_dask_main

        @mpi_dask_main({option}="data.csv")
        def main(client):
            print("hours of work")

        main()
        """
    )
    assert (result.status, result.stdout) == (1, "")
    assert "data.csv: the file there is not a" in result.stderr
    assert data.read_text() == "a,b\n1,2\n"


def test_the_performance_report_of_a_job_that_is_killed(start, tmp_path):
    pytest.importorskip("bokeh")
    job = start(
        """
        import time
        from mpidask import mpi_dask_main
        from mpidask._watch import performance_report

        performance_report.FIRST = 2

        @mpi_dask_main(performance_report="report.html")
        def main(client):
            client.gather(client.map(abs, range(20)))
            time.sleep(80)

        main()
        """,
        # By default, Dask passes over all code in files whose path has "pytest" in it.
        env={"DASK_DISTRIBUTED__DIAGNOSTICS__COMPUTATIONS__IGNORE_FILES": "['runpy']"},
    )
    report = tmp_path / "report.html"
    job.wait_for(report.exists, "to write a report")
    job.kill()
    job.result()
    text = report.read_text()
    assert text.rstrip().endswith("</html>")
    PerformanceReport(str(report), 1)  # may replace it
    assert "number of tasks: 20" in text
    assert "performance_report.FIRST = 2" in text.split("Calling Code", 1)[1]  # the program


def test_a_log_for_each_rank(launch, mpirun, tmp_path, open_mpi):
    """By the flags that the page names."""
    launcher = "Open MPI 5" if open_mpi else "MPICH, Intel MPI"
    (flags,) = re.findall(rf"^\| {launcher} \| `mpirun (.*?)`", PAGE.read_text(), re.MULTILINE)
    program = tmp_path / "program.py"
    program.write_text(WORK.format(end="print('the end')"))
    command = [mpirun, *flags.split(), "-n", "4", sys.executable, str(program)]
    result = launch(command, None).result()
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    names = ("log.*.{}.out", "log.*.{}.err") if open_mpi else ("out.{}", "err.{}")
    logs = [
        ["".join(p.read_text() for p in tmp_path.glob(name.format(rank))) for name in names]
        for rank in range(4)
    ]
    assert [out for out, _ in logs] == ["", "the end\n", "", ""]
    assert "mpidask: summary: 20 tasks done" in logs[0][1]
    assert logs[1][1].startswith("mpidask: 2 workers on 1 node")
    assert (logs[2][1], logs[3][1]) == ("", "")


def test_the_page_names_all_of_the_summary(run, tmp_path):
    assert run(WORK.format(end="return")).status == 0
    table = PAGE.read_text().split("| name | meaning |", 1)[1].split("\n\n", 1)[0]
    names = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([a-z_.]+)`", table))))
    summary = read(tmp_path)
    shown = json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    for part, like in (
        (summary, shown),
        (summary["advice"], shown["advice"]),
        (summary["workers"][0], shown["workers"][0]),
        (summary["tasks"], shown["tasks"]),
    ):
        assert part.keys() == like.keys()
        assert names >= part.keys()


@pytest.mark.parametrize("ranks", [3, None])
def test_a_failed_task_that_nobody_waits_for_is_told(run, ranks):
    result = run(
        """
        import time
        from distributed import fire_and_forget
        from mpidask import mpi_dask

        def save(path):
            raise OSError(f"no room for {path}")

        with mpi_dask(dashboard=False) as client:
            fire_and_forget(client.submit(save, "it"))
            deadline = time.monotonic() + 60
            while not client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.erred_tasks):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert isinstance(client.submit(save, "more").exception(), OSError)
        """,
        ranks=ranks,
    )
    assert result.status == 0, result.stderr
    _, line = result.messages
    place = "rank 2 on" if ranks else "worker "
    assert line.startswith("mpidask: task save-") and f" failed on {place}" in line
    assert line.endswith(": OSError('no room for it')")
