"""One stage of an MPI program: it is irregular, and Dask balances it.

    mpirun -n 8 python examples/mpi_program.py
    python examples/mpi_program.py

The integral of a function with sharp peaks. Sampling the interval is even work, right for
MPI. Refining it around the peaks is not: which pieces to split is known only when they have
been looked at. So this stage is a tree of Dask tasks, on the same ranks. With exit=False
they come back to MPI, and share out the pieces found.
"""

from itertools import pairwise

import numpy as np
from mpi4py import MPI

from mpidask import mpi_dask_main

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
CLIENT = min(1, size - 1)  # the rank that runs refine(): 1, or 0 if it is alone

PEAKS = np.array([0.1234, 0.5, 0.77])
WIDTHS = np.array([1e-3, 1e-5, 1e-4])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def function(x):
    return (WIDTHS / ((x[:, np.newaxis] - PEAKS) ** 2 + WIDTHS**2)).sum(axis=1)


def integrate(start, stop):
    """Integrate over one piece, with Gauss's rule of eight points."""
    half = (stop - start) / 2
    return half * WEIGHTS @ function(start + half * (1 + NODES))


def examine(piece, tolerance):
    """Give the two halves of a piece that needs splitting, or nothing."""
    start, stop = piece
    middle = (start + stop) / 2
    error = integrate(start, stop) - integrate(start, middle) - integrate(middle, stop)
    return [] if abs(error) < tolerance else [(start, middle), (middle, stop)]


@mpi_dask_main(exit=False)
def refine(pieces, tolerance, client):
    """Split pieces until each is good enough: every task may lead to two more."""
    from distributed import as_completed

    def submit(pieces):
        futures = [client.submit(examine, piece, tolerance) for piece in pieces]
        piece_of.update(zip(futures, pieces))
        return futures

    piece_of, good = {}, []
    tasks = as_completed(submit(pieces), with_results=True)
    for future, halves in tasks:
        piece = piece_of.pop(future)
        if halves:
            tasks.update(submit(halves))
        else:
            good.append(piece)
    return sorted(good)


# MPI: every rank samples its own pieces of an even mesh.
edges = np.linspace(0, 1, 65)
mesh = list(pairwise(edges))
coarse = comm.allreduce(sum(integrate(*piece) for piece in mesh[rank::size]))

# Dask: the client rank gets the refined mesh, the others None, at the end of the cluster.
mesh = refine(mesh, tolerance=1e-13)

# MPI again: all ranks get the mesh and integrate their share of it.
mesh = comm.bcast(mesh, root=CLIENT)
fine = comm.allreduce(sum(integrate(*piece) for piece in mesh[rank::size]))

if rank == 0:
    exact = (np.arctan((1 - PEAKS) / WIDTHS) + np.arctan(PEAKS / WIDTHS)).sum()
    print(f"even mesh:    {len(edges) - 1:4} pieces, error {abs(coarse - exact):.1e}")
    print(f"refined mesh: {len(mesh):4} pieces, error {abs(fine - exact):.1e}")
