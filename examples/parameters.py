"""A solver for ten parameters: ten gangs, several at once, and Dask goes on with the results.

    pip install "dask[array]"       # and petsc4py, if PETSc is there
    mpirun -n 8 python examples/parameters.py
    python examples/parameters.py

Heat is spread and lost in a square plate, -u'' + rate u = 1, with cold edges. Two ranks solve this
for one rate, by PETSc or else by the conjugate gradients below. While they do, other
ranks solve it for another rate.
"""

from mpi4py import MPI

from mpidask import mpi_dask_main, submit_mpi

SIZE = 48
RATES = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500]


def shares(ranks):
    """Divide the rows of the plate among ranks."""
    import numpy as np

    return np.array_split(np.arange(SIZE), ranks)


def solve(comm, rate):
    """Give this rank's rows of the plate."""
    try:
        import petsc4py
    except ImportError:
        return solve_by_hand(comm, rate)
    # PETSc's default, COMM_WORLD, would wait for the ranks that are not in this gang, and its
    # signal handlers would end the job when a connection of Dask's is closed.
    petsc4py.init(["petsc", "-no_signal_handler"], comm=MPI.COMM_SELF)
    return solve_by_petsc(comm, rate)


def solve_by_petsc(comm, rate):
    from petsc4py import PETSc

    mine = len(shares(comm.Get_size())[comm.Get_rank()]) * SIZE
    matrix = PETSc.Mat().createAIJ(((mine, None), (mine, None)), nnz=5, comm=comm)
    for point in range(*matrix.getOwnershipRange()):
        row, column = divmod(point, SIZE)
        matrix[point, point] = 4 * (SIZE + 1) ** 2 + rate
        for r, c in (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1):
            if 0 <= r < SIZE and 0 <= c < SIZE:
                matrix[point, r * SIZE + c] = -((SIZE + 1) ** 2)
    matrix.assemble()
    u, heat = matrix.createVecs()
    heat.set(1)
    solver = PETSc.KSP().create(comm)
    solver.setOperators(matrix)
    solver.setType("cg")
    solver.setTolerances(rtol=1e-10)
    solver.solve(heat, u)
    found = u.array.reshape(-1, SIZE).copy()
    for each in solver, matrix, u, heat:
        each.destroy()
    return found


def solve_by_hand(comm, rate):
    import numpy as np

    rank, ranks = comm.Get_rank(), comm.Get_size()
    above = rank - 1 if rank > 0 else MPI.PROC_NULL
    below = rank + 1 if rank < ranks - 1 else MPI.PROC_NULL
    framed = np.zeros((len(shares(ranks)[rank]) + 2, SIZE + 2))

    def apply(u):
        framed[1:-1, 1:-1] = u
        comm.Sendrecv(framed[1], above, recvbuf=framed[-1], source=below)
        comm.Sendrecv(framed[-2], below, recvbuf=framed[0], source=above)
        around = framed[:-2, 1:-1] + framed[2:, 1:-1] + framed[1:-1, :-2] + framed[1:-1, 2:]
        return (4 * u - around) * (SIZE + 1) ** 2 + rate * u

    def dot(a, b):
        return comm.allreduce((a * b).sum())

    residual = np.ones_like(framed[1:-1, 1:-1])
    direction, u = residual.copy(), np.zeros_like(residual)
    square = dot(residual, residual)
    while square > 1e-20 * SIZE**2:
        image = apply(direction)
        step = square / dot(direction, image)
        u += step * direction
        residual -= step * image
        square, before = dot(residual, residual), square
        direction = residual + square / before * direction
    return u


@mpi_dask_main
def main(client):
    import dask
    import dask.array as da

    ranks = 2 if MPI.COMM_WORLD.Get_size() > 3 else 1
    gangs = [submit_mpi(solve, rate, ranks=ranks) for rate in RATES]

    def field(futures):
        parts = zip(futures, shares(ranks))
        return da.concatenate([da.from_delayed(u, (len(rows), SIZE), float) for u, rows in parts])

    fields = da.stack([field(futures) for futures in gangs])
    means, hottest = dask.compute(fields.mean(axis=(1, 2)), fields.max(axis=(1, 2)))
    for rate, mean, most in zip(RATES, means, hottest):
        print(f"rate {rate:3}: mean {mean:.5f}, hottest {most:.5f}")


main()
