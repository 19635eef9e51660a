"""What mpidask makes of MPI: ranks that meet, talk and leave. Knows nothing of Dask."""
