"""The text to paste into a report: whole under a launcher and alone, and never a hang."""

from __future__ import annotations

import re
import sys

import pytest

COMMANDS = [["-m", "mpidask.cli"], ["-m", "mpidask"]]


def diagnose(*arguments, command=COMMANDS[0]):
    return [sys.executable, *command, *arguments, "--diagnose"]


def names(result):
    return [line.split()[0] for line in result.stdout.splitlines() if line.strip()]


@pytest.mark.essential
@pytest.mark.parametrize("command", COMMANDS, ids=["command", "module"])
@pytest.mark.parametrize("ranks", [None, 1, 4])
def test_one_rank_prints_what_all_know(launch, ranks, command, monkeypatch):
    monkeypatch.delenv("DASK_MPIDASK__TRANSPORT", raising=False)  # of a run of all tests with it
    result = launch(diagnose("--nthreads", "2", command=command), ranks, 60).result()
    assert (result.status, result.stderr) == (0, "")
    found = names(result)
    for name in ("versions", "launcher", "options", "MPI", "ranks", "scheduler"):
        assert found.count(name) == 1, result.stdout
    assert "problem" not in found
    assert "options      nthreads=2\n" in result.stdout
    (launched,) = re.findall("^launcher .*", result.stdout, re.MULTILINE)
    assert re.search("; started by /.*(mpirun|mpiexec|orterun|prterun)", launched) or ranks is None
    (tuning,) = re.findall("^environment  (.*)", result.stdout, re.MULTILINE)
    # Users', and no launcher's: one of Open MPI 4's is a key.
    assert not re.search("_orte_|_ess|_pmix|PMIX_|_shmem_|_initial|_num_|PREFIXES|HOSTNAME", tuning)
    assert f"ranks        {ranks or 1} on 1 node\n" in result.stdout
    assert ("0-3; " if ranks == 4 else "ranks 0; ") in result.stdout


@pytest.mark.parametrize("ranks", [None, 3])
def test_wrong_options_are_told_beside_the_rest(launch, ranks):
    result = launch(diagnose("--interface", "ib0", "--host", "node1"), ranks, 60).result()
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert names(result).count("MPI") == 1
    assert result.stdout.count("problem ") == 1
    assert ": ValueError: give interface or host, not both\n" in result.stdout


def test_another_mpi_than_the_launchers(launch):
    result = launch(diagnose(), None, 60, {"SLURM_STEP_NUM_TASKS": "4"}).result()
    assert result.status == 1
    assert result.stderr == ""
    assert names(result)[0] == "versions"
    assert "problem      the launcher started 4 processes" in result.stdout


def test_a_rank_that_never_comes(launch):
    missing = [":", "-n", "1", sys.executable, "-c", "import time; time.sleep(600)"]
    result = launch([*diagnose("--startup-timeout", "3 s"), *missing], 2, 60).result()
    assert result.status != 0
    assert names(result).count("versions") == 1
    assert "other ranks did not reach mpidask (MPI_Init) within 3 s" in result.stderr


def test_a_rank_that_comes_to_mpi_and_not_to_mpidask(launch):
    program = "import mpi4py.MPI, time; time.sleep(600)"
    missing = [":", "-n", "1", sys.executable, "-c", program]
    result = launch([*diagnose("--startup-timeout", "4 s"), *missing], 2, 60).result()
    assert result.status != 0
    assert "problem      rank 2 did not reach mpidask within 4 s" in result.stdout
