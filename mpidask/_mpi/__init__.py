"""MPI: ranks that start, communicate and exit. Does not know Dask."""
