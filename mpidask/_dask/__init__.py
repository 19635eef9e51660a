"""Servers and client of a Dask cluster, its scheduler file and dashboard. Never imports mpi4py."""
