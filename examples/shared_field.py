"""Arrays to Dask and back: an MPI program hands over its field, without a copy.

    pip install "dask[array]"
    mpirun -n 8 python examples/shared_field.py
    python examples/shared_field.py

Each rank has its part of a vibrating string, at many times. Which few shapes does it move in?
Those are the singular vectors of this tall matrix, and dask.array finds them where the parts
are. The shapes stay on the ranks, too, and the MPI program goes on with them. All ranks have
data here, so all host a worker (exclusive_workers=False).
"""

import numpy as np
from mpi4py import MPI

from mpidask import DistributedArray, mpi_dask

POINTS, TIMES, MODES = 100_000, 64, 3
TONES, LOUDNESS = np.array([1, 2, 5]), np.array([1.0, 0.5, 0.1])

comm = MPI.COMM_WORLD
x = np.array_split(np.linspace(0, 1, POINTS), comm.Get_size())[comm.Get_rank()]


def string(times):
    """Return the positions of this rank's part of the string: a row for each point."""
    shapes = np.sin(np.pi * x[:, np.newaxis] * TONES) * LOUDNESS
    return shapes @ np.cos(np.pi * TONES[:, np.newaxis] * times)


# MPI: all ranks make their parts, and the handles.
motion = DistributedArray(string(np.linspace(0, 2, TIMES)))
shapes = DistributedArray(None)

# Dask: the client rank has the whole as one array, whose chunks are those parts.
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        from dask.array.linalg import svd

        whole = motion.to_dask(client)
        vectors, values, _ = svd(whole)
        print(f"{whole.shape[0]} points at {whole.shape[1]} times")
        print("singular values:", *(f"{value:.1f}" for value in values[: MODES + 1].compute()))
        shapes.from_dask(client, vectors[:, :MODES])

# MPI again: how much of the string at another time is not in these shapes?
now = string(np.array([0.77]))
found = shapes.local.T @ now
comm.Allreduce(MPI.IN_PLACE, found)
rest = comm.allreduce(np.sum((now - shapes.local @ found) ** 2))
total = comm.allreduce(np.sum(now**2))
if comm.Get_rank() == 0:
    print(f"{MODES} shapes describe the string at another time: {np.sqrt(rest / total) < 1e-10}")
