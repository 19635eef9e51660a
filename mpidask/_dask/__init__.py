"""What mpidask makes of Dask: scheduler, workers, client. Knows nothing of MPI."""
