"""The smallest program: one function that uses a Dask cluster.

    mpirun -n 8 python examples/quickstart.py
    python examples/quickstart.py

Under mpirun, rank 0 is the scheduler, rank 1 runs main(), and the other ranks are the
workers. Without it, the same program runs on a cluster of local processes.
"""

from mpidask import mpi_dask_main


@mpi_dask_main
def main(client):
    squares = client.map(lambda number: number**2, range(100))
    print("The sum of the first 100 squares is", client.submit(sum, squares).result())


main()
