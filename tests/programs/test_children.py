"""Processes that the function or its tasks start are no ranks: they work as in any program."""

from __future__ import annotations

import json
import os

import pytest

#: What launchers leave to children: what tunes MPI, or says where it is installed.
HARMLESS = (
    *("OMPI_ALLOW_", "OMPI_LIBDIR_LOC", "OMPI_MCA_PREFIXES", "OMPI_MCA_cpu_type", "OMPI_MCA_btl_"),
    *("OMPI_MCA_hwloc_", "OMPI_MCA_rmaps_", "OMPI_MCA_orte_tmpdir_base", "OMPI_TOOL_NAME"),
    *("OMPI_VERSION", "OPAL_PREFIX", "OPAL_USER_PARAMS_GIVEN", "PMIX_MCA_", "PMIX_P", "PRTE_MCA_"),
    *(
        "PRTE_SHARED_FS",
        "HFI_",
        "IPATH_",
        "PSM2_DEVICES",
        "PWD",
        "GFORTRAN_",
        "LD_LIBRARY_PATH",
        "I_MPI_",
        "FI_",
    ),
)
#: What the tests and Dask's nannies set.
OURS = (
    "MPIDASK_TEST",
    "TMPDIR",
    "__DASK_",
    "DASK_PARENT",
    "MALLOC_TRIM_THRESHOLD_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "PYTHON",
)

PROGRAM = """
import json, os, subprocess, sys
from mpi4py import MPI
from mpidask import mpi_dask

ALONE = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
NAMES = "import json, os; print(json.dumps(sorted(os.environ)))"

def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout

def children():
    several = output(sys.argv[1], "-n", "2", sys.executable, "-c", ALONE)
    return output(sys.executable, "-c", NAMES), output(sys.executable, "-c", ALONE), several

before = dict(os.environ)
with mpi_dask(exit=False, nanny="nanny" in sys.argv, dashboard=False) as client:
    if client is not None:
        in_main, in_task = children(), client.submit(children, retries=0).result()
        print(json.dumps([in_main, in_task]))
assert before.keys() <= os.environ.keys()  # Dask changes values of its own for nannies
assert MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).allreduce(1) == 3
"""


@pytest.mark.essential
@pytest.mark.parametrize("worker", ["rank", "nanny"])
def test_they_see_no_launcher_and_may_use_one(run, mpirun, worker):
    """Python alone, MPI alone, and MPI under mpirun; and ranks find all as it was at the end."""
    own = {"OMPI_MCA_btl_base_verbose": "0"}  # as users do
    result = run(PROGRAM, mpirun, worker, ranks=3, env=own)
    assert result.status == 0, result.stderr
    assert len(result.messages) == 1
    known = (*HARMLESS, *OURS)
    for names, alone, several in json.loads(result.stdout):
        seen = set(json.loads(names))
        assert [name for name in seen - os.environ.keys() if not name.startswith(known)] == []
        assert own.keys() <= seen
        assert (alone, several.replace("\n", "")) == ("1\n", "22")  # MPICH may join lines


@pytest.mark.parametrize("guard", ["", "if __name__ == '__main__': "])
def test_multiprocessing_imports_no_cluster(run, guard):
    """With a guard, children work; without one, there is an error each, in `main` and in tasks."""
    result = run(
        f"""
        import multiprocessing
        from mpidask import MPIDaskError, mpi_dask_main

        def double(x):
            return 2 * x

        def pooled(function):
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                return pool.map(function, [-1, -2])

        @mpi_dask_main(dashboard=False)
        def main(client):
            for ask in lambda: pooled(double), client.submit(pooled, abs).result:
                try:
                    print(ask())
                except MPIDaskError as error:
                    print(str(error).partition(" import ")[0])

        {guard}main()
        """,
        ranks=3,
    )
    refused = "multiprocessing's spawn and forkserver\n"
    assert result.stdout == ("[-2, -4]\n[1, 2]\n" if guard else 2 * refused), result.stderr
    assert (result.status, len(result.messages)) == (0, 1), result.stderr
