"""Singular values: the leading ones of a matrix that no rank holds as a whole.

    pip install "dask[array]"
    mpirun -n 8 python examples/array_svd.py
    python examples/array_svd.py

The matrix is made on the workers in square chunks, as a simulation would store it, then cut
anew into slices of rows for a randomised singular value decomposition. It is a sum of
products of cosines, whose singular values are known, and a little noise.
"""

from mpidask import mpi_dask_main

ROWS, COLUMNS, CHUNK = 16_000, 1_000, 500
KNOWN = [1000.0, 500.0, 250.0, 125.0, 62.5]
NOISE = 1e-3


@mpi_dask_main
def main(client):
    import dask.array as da
    import numpy as np

    def cosines(length):
        """Give the first orthonormal vectors of the discrete cosine transform, as columns."""
        points = da.arange(length, chunks=CHUNK)[:, np.newaxis] + 0.5
        frequencies = np.arange(1, len(KNOWN) + 1)
        return np.sqrt(2 / length) * da.cos(np.pi / length * points * frequencies)

    noise = da.random.default_rng(1).normal(scale=NOISE, size=(ROWS, COLUMNS), chunks=CHUNK)
    matrix = (cosines(ROWS) * np.array(KNOWN)) @ cosines(COLUMNS).T + noise
    print(f"{ROWS} x {COLUMNS} matrix of {matrix.nbytes / 2**20:.0f} MiB")

    # Several passes go over the slices: persist() keeps them in the memory of the workers.
    slices = matrix.rechunk({0: 4 * CHUNK, 1: -1}).persist()
    print(f"{matrix.npartitions} square chunks, cut into {slices.npartitions} slices of rows")

    _, values, _ = da.linalg.svd_compressed(slices, len(KNOWN), n_power_iter=2, seed=1)
    values = values.compute()
    for value, known in zip(values, KNOWN):
        print(f"singular value {value:9.4f}, known {known:9.4f}")

    # Weyl: noise moves no singular value by more than its own norm.
    bound = NOISE * (ROWS**0.5 + COLUMNS**0.5)
    print("within the noise:", np.allclose(values, KNOWN, rtol=0, atol=bound))


main()
