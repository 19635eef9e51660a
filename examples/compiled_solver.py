"""A compiled MPI solver: one in C, run for many parameters at once.

    mpirun -n 8 python examples/compiled_solver.py
    python examples/compiled_solver.py

How fast does a population spread? The solver, front.c, is an MPI program in the form of a
library: a function that takes a communicator. Each run of it is a gang of two ranks, and gangs
run side by side, as many as there are free ranks. In theory, a front with growth rate r and
diffusion D comes to run at 2 sqrt(r D), slowly, from below.

The library must be built by the mpicc of the MPI that mpi4py uses. The program looks for it beside
Python, then on the PATH; the variable MPICC names another.
"""

import ctypes
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mpi4py import MPI

from mpidask import mpi_dask_main, submit_mpi

SOURCE, LIBRARY = Path(__file__).with_name("front.c"), Path("libfront.so")
GROWTH, DIFFUSION = (0.5, 1.0, 2.0), (0.5, 1.0)


def build():
    """Build the solver in the working directory, which all nodes see; give its path."""
    beside = Path(sys.executable).with_name("mpicc")
    compiler = os.environ.get("MPICC") or (beside if beside.exists() else shutil.which("mpicc"))
    if compiler is None:
        sys.exit("there is no mpicc: load the module of your MPI, or set MPICC")
    command = [str(compiler), "-O2", "-shared", "-fPIC", "-o", str(LIBRARY), str(SOURCE)]
    subprocess.run(command, check=True)
    library = str(LIBRARY.resolve())
    check_library(library, compiler)
    return library


def check_library(library, compiler):
    """Refuse a library for another MPI, to which a communicator of ours means nothing."""
    version = ctypes.create_string_buffer(MPI.MAX_LIBRARY_VERSION_STRING)
    ctypes.CDLL(library).mpi_library(version)
    theirs, ours = version.value.decode(), MPI.Get_library_version().rstrip("\0")
    if theirs != ours:
        sys.exit(f"{compiler} builds for another MPI than mpi4py uses:\n{theirs}\n{ours}")


def speed(comm, library, growth, diffusion):
    """Run the solver on the ranks of a communicator; Python's other threads go on meanwhile."""
    solver = ctypes.CDLL(library).front_speed
    solver.argtypes = [ctypes.c_int, ctypes.c_double, ctypes.c_double]
    solver.restype = ctypes.c_double
    return solver(comm.py2f(), growth, diffusion)


@mpi_dask_main
def main(client):
    library = build()
    members = [(growth, diffusion) for growth in GROWTH for diffusion in DIFFUSION]
    # Without an MPI job, or with one worker, a gang has one rank.
    ranks = 2 if MPI.COMM_WORLD.Get_size() > 3 else 1
    runs = [submit_mpi(speed, library, *member, ranks=ranks) for member in members]
    for (growth, diffusion), run in zip(members, runs):
        found, theory = client.gather(run)[0], 2 * math.sqrt(growth * diffusion)
        print(f"growth {growth}, diffusion {diffusion}: speed {found:.2f}, in theory {theory:.2f}")


main()
