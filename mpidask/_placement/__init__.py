"""Facts about nodes, and the rules by which they are divided. Knows neither MPI nor Dask."""
