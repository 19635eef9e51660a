"""Nodes, and how they are divided among ranks. Knows neither MPI nor Dask."""
