"""Libraries that take a communicator, as steps of Dask programs; in py-libraries."""

from __future__ import annotations

import textwrap

import pytest

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.skipif(not h5py.get_config().mpi, reason="h5py without parallel HDF5")

#: For each library a function of a gang, which is right only if all its ranks take part.
PRELUDE = """
import os, time
import numpy as np
from mpi4py import MPI
from mpidask import MPITaskError, mpi_dask, submit_mpi

def hdf5(comm, n):
    import h5py

    name = f"hdf5-{n}.h5"
    with h5py.File(name, "w", driver="mpio", comm=comm) as file:
        rows = file.create_dataset("rows", (comm.size, 1000), float)
        rows[comm.rank] = n + comm.rank
    comm.Barrier()
    with h5py.File(name) as file:
        return file["rows"][:, 0].tolist() == [n + rank for rank in range(comm.size)]

def fft(comm, n):
    from mpi4py_fft import PFFT, newDistArray

    transform = PFFT(comm, (16, 12, 10), dtype=float)
    try:
        u = newDistArray(transform, False)
        u[...] = np.random.default_rng([n, comm.rank]).random(u.shape)
        before = np.array(u)
        there = transform.forward(u, normalize=True)
        mean = comm.allreduce(before.sum()) / (16 * 12 * 10)
        first = comm.bcast(np.array(there).flat[0])  # of rank 0: the mean
        after = np.array(transform.backward(there))
        return bool(np.allclose(after, before) and np.isclose(first, mean))
    finally:
        transform.destroy()  # the communicators that it has made

def start_petsc():
    import petsc4py

    # COMM_WORLD would wait for ranks that don't call this, and PETSc's signal handlers end the job
    # when a connection is closed.
    petsc4py.init(["petsc", "-no_signal_handler"], comm=MPI.COMM_SELF)
    from petsc4py import PETSc

    return PETSc

def petsc(comm, n):
    PETSc = start_petsc()
    size = 50 + n % 7
    matrix = PETSc.Mat().createAIJ((size, size), nnz=3, comm=comm)
    first, last = matrix.getOwnershipRange()
    for row in range(first, last):
        for column, value in (row - 1, -1), (row, 2), (row + 1, -1):
            if 0 <= column < size:
                matrix[row, column] = value
    matrix.assemble()
    x, b = matrix.createVecs()
    b.set(1)
    solver = PETSc.KSP().create(comm)
    solver.setOperators(matrix)
    solver.setType("cg")
    solver.setTolerances(rtol=1e-10)
    solver.solve(b, x)
    rows = np.arange(first + 1, last + 1)
    right = np.allclose(x.array, rows * (size + 1 - rows) / 2)
    for each in solver, matrix, x, b:
        each.destroy()
    return bool(right)

LIBRARIES = [hdf5, fft, petsc]
"""


@pytest.fixture
def begin(start):
    return lambda program, **kwargs: start(
        PRELUDE + textwrap.dedent(program), limit=150, **{"ranks": 6, **kwargs}
    )


@pytest.fixture
def passes(begin):
    """Run a program that must succeed, and say nothing else."""

    def passes(program, **kwargs):
        result = begin(program, **kwargs).result()
        assert (result.status, result.stdout) == (0, "good\n"), result.stderr
        assert len(result.messages) == 1, result.stderr

    return passes


@pytest.mark.parametrize("library", ["hdf5", "fft", "petsc"])
def test_a_gang(passes, library):
    passes(f"""
        with mpi_dask() as client:
            for ranks in None, 2, [5], [4, 2, 3]:
                assert all(client.gather(submit_mpi({library}, 1, ranks=ranks)))
            print("good")
    """)


@pytest.mark.parametrize("nthreads", [1, 2])
def test_many_at_once_on_disjoint_and_overlapping_ranks(passes, nthreads):
    """More than libraries may keep communicators for, if they kept one for each gang."""
    passes(f"""
        with mpi_dask(nthreads={nthreads}) as client:
            places = [2, 3], [4, 5], [3, 4], [5, 2], None, 3, 1
            gangs = [
                submit_mpi(library, 1000 * number + n, ranks=ranks)
                for n, ranks in enumerate(places * 8)
                for number, library in enumerate(LIBRARIES)
            ]
            for gang in gangs:
                assert all(client.gather(gang))
            print("good")
    """)


def test_a_member_fails_is_cancelled_or_retried(passes):
    """Afterwards, the libraries work on the same ranks."""
    passes("""
        def fails(comm, library):
            library(comm, 1)
            if comm.rank == 1:
                raise ValueError("no such luck")
            while True:
                time.sleep(0.01)  # until it is interrupted

        def waits(comm, library, path):
            library(comm, 2)
            while not os.path.exists(path):
                time.sleep(0.01)
            return library(comm, 3)

        def fails_once(comm, library):
            good = library(comm, 4)
            first = not os.path.exists(library.__name__)
            comm.Barrier()
            open(library.__name__, "a").close()
            if first:
                raise ValueError("try again")
            return good

        with mpi_dask() as client:
            for library in LIBRARIES:
                error = submit_mpi(fails, library)[0].exception()
                assert type(error.__cause__) is ValueError, error
                assert all(client.gather(submit_mpi(library, 5)))

                go = f"go-{library.__name__}"
                client.cancel(submit_mpi(waits, library, go))
                after = submit_mpi(library, 6)
                open(go, "w").close()
                assert all(client.gather(after))

                assert all(client.gather(submit_mpi(fails_once, library, retries=1)))
            print("good")
    """)


def test_libraries_that_cache_communicators(passes):
    """PETSc keeps one for each communicator, as its attribute, and frees it with that."""
    passes("""
        def attributes(comm):
            kept = start_petsc().Vec().createMPI(10, comm=comm)  # and not destroyed
            kept.set(1)
            return kept.sum()

        with mpi_dask() as client:
            for _ in range(300):
                assert client.gather(submit_mpi(attributes)) == [10.0] * 4
            print("good")
    """)
