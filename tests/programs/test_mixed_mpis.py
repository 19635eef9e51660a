"""Started by the mpirun of another MPI than that of mpi4py: Debian's, where it is installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

PROGRAM = """
from mpidask import mpi_dask_main
mpi_dask_main(dashboard=False)(lambda client: print("runs"))()
"""


@pytest.fixture
def other_mpirun(open_mpi):
    found = shutil.which("mpirun.mpich" if open_mpi else "mpirun.openmpi")
    if found is None:
        pytest.skip("only one MPI is here: .ci/system-mpi installs others")
    return found


@pytest.mark.essential
@pytest.mark.parametrize("arguments", [["-c", PROGRAM], ["-m", "mpidask", "--diagnose"]])
def test_one_rank_says_which_two_they_are(launch, other_mpirun, open_mpi, arguments):
    """Before MPI_Init, which MPICH does not survive, and of which Open MPI warns on each rank."""
    command = [other_mpirun, "-n", "3", sys.executable, *arguments]
    result = launch(command, None).result()
    assert result.status != 0
    said = result.stdout + result.stderr
    assert said.count("the launcher started 3 processes (/") == 1, said
    if Path(sys.executable).with_name("impi_info").exists():  # each rank would be a job of its own
        assert said.count(", but MPI sees one: mpi4py uses Intel MPI ") == 1
    else:
        library = "Open MPI" if open_mpi else "MPICH"
        assert said.count(f", but mpi4py uses {library} ") == 1
        assert said.count(", which this launcher can't connect. Start the job with the") == 1
    assert said.count(" Start the job with the mpirun of") == 1
    assert said.count("Traceback") == ("-c" in arguments)
    for noise in "Warning", "Abort(", "Sorry", "PMI version", "runs\n":
        assert noise not in said
