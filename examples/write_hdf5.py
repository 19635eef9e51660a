"""One HDF5 file: Dask arrays, which all worker ranks write at once.

    pip install "dask[array]" h5py
    mpirun -n 8 python examples/write_hdf5.py
    python examples/write_hdf5.py

Each rank writes the blocks that it holds, if h5py is built for the job's MPI. Else one process
writes them, and a line of the log says so.
"""

from mpidask import mpi_dask_main, to_hdf5


@mpi_dask_main
def main(client):
    import dask.array as da
    import h5py

    x = da.arange(2_000_000, chunks=250_000).reshape(2000, 1000).persist()
    waves = da.sin(x / 1e5)
    to_hdf5("waves.h5", {"/waves": waves, "/means/rows": waves.mean(axis=1)})
    # Another dataset in the same file: compressed, which all ranks have to write together.
    to_hdf5("waves.h5", {"/signs": waves > 0}, mode="a", compression="gzip")

    with h5py.File("waves.h5") as file:
        for name in "waves", "means/rows", "signs":
            print(f"{name}: {file[name].shape}, {file[name].dtype}, chunks {file[name].chunks}")
        again = da.from_array(file["waves"], chunks=file["waves"].chunks)
        print("the same when it is read again:", (again == waves).all().compute())


main()
