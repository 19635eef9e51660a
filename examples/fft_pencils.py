"""A Fourier transform by MPI: that of an image that no rank holds as a whole.

    pip install "dask[array]"
    mpirun -n 8 python examples/fft_pencils.py
    python examples/fft_pencils.py

Each rank transforms its rows, then all exchange what they have (Alltoall), so that each one
can transform whole columns: its pencils. Such an exchange, of everybody with everybody, is
what MPI is made for. Between the transform and its inverse, dask.array filters the spectrum.
PerRank gives each rank its own part, and the ranks that have the parts are chosen.
"""

from mpidask import PerRank, mpi_dask_main, submit_mpi

SIZE, WAVES = 900, 25


def shares(ranks):
    """Divide rows, or columns, among ranks."""
    import numpy as np

    return [len(part) for part in np.array_split(range(SIZE), ranks)]


def rows_of_image(comm):
    """Make this rank's rows of a noisy image."""
    import numpy as np

    lines = np.split(np.linspace(0, 1, SIZE), np.cumsum(shares(comm.Get_size())))
    y, x = lines[comm.Get_rank()][:, np.newaxis], np.linspace(0, 1, SIZE)
    noise = np.random.default_rng(comm.Get_rank()).normal(size=(len(y), SIZE))
    return np.cos(40 * np.hypot(x - 0.4, y - 0.6)) + noise


def transform(comm, strips, inverse=False):
    """Transform along both axes: rows become columns, transposed, and the other way round."""
    import numpy as np

    fft = np.fft.ifft if inverse else np.fft.fft
    strips = fft(strips, axis=1)
    there = shares(comm.Get_size())
    here = there[comm.Get_rank()]
    parts = np.split(strips, np.cumsum(there)[:-1], axis=1)
    sent = np.concatenate([part.T.ravel() for part in parts])
    got = np.empty(here * SIZE, complex)
    comm.Alltoallv([sent, [here * other for other in there]], [got, [here * n for n in there]])
    blocks = np.split(got, here * np.cumsum(there)[:-1])
    pencils = np.concatenate([block.reshape(here, -1) for block in blocks], axis=1)
    return fft(pencils, axis=1)


def whole(futures, dtype=complex):
    """Make one array of the strips that the ranks have returned."""
    import dask.array as da

    lines = shares(len(futures))
    strips = (da.from_delayed(f, (n, SIZE), dtype) for f, n in zip(futures, lines))
    return da.concatenate(list(strips))


@mpi_dask_main
def main(client):
    import dask.array as da
    import numpy as np
    from distributed import futures_of

    rows = submit_mpi(rows_of_image)
    spectrum = whole(submit_mpi(transform, PerRank(rows)))

    # Keep the long waves.
    frequency = np.fft.fftfreq(SIZE, 1 / SIZE)
    squared = da.from_array(frequency**2, chunks=spectrum.chunks[0])
    long = squared[:, np.newaxis] + frequency**2 <= WAVES**2
    filtered = da.where(long, spectrum, 0).persist()
    image = whole(submit_mpi(transform, PerRank(futures_of(filtered)), inverse=True)).real

    noisy, transposed, smooth = (x.compute() for x in (whole(rows, float), spectrum, image))
    known = np.fft.fft2(noisy)
    print(f"{SIZE} x {SIZE} points")
    print("the same as numpy.fft.fft2:", np.allclose(transposed.T, known))
    long = np.add.outer(frequency**2, frequency**2) <= WAVES**2
    print("and back:", np.allclose(smooth, np.fft.ifft2(np.where(long, known, 0)).real))
    print(f"noise before {noise(noisy):.2f}, after {noise(smooth):.2f}")


def noise(image):
    """Give the distance from the image without noise."""
    import numpy as np

    line = np.linspace(0, 1, SIZE)
    return (image - np.cos(40 * np.hypot(line - 0.4, line[:, np.newaxis] - 0.6))).std()


main()
