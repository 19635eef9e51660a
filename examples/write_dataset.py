"""A dataset of xarray: one NetCDF file, whose arrays all worker ranks write at once.

    pip install "dask[array]" xarray h5netcdf
    mpirun -n 8 python examples/write_dataset.py
    python examples/write_dataset.py

A NetCDF-4 file is an HDF5 file. xarray makes it, with all but the data of Dask arrays, and
to_hdf5 adds these.
"""

from mpidask import mpi_dask_main, to_hdf5


@mpi_dask_main
def main(client):
    import dask.array as da
    import numpy as np
    import xarray

    days, latitudes, longitudes = np.arange(120), np.linspace(-80, 80, 45), np.arange(0, 360, 4)
    warmth = da.cos(da.deg2rad(da.from_array(latitudes, chunks=15)))
    seasons = da.sin(2 * np.pi * da.from_array(days, chunks=30) / 365)
    kelvin = 250 + 50 * warmth[:, None] + 5 * seasons[:, None, None] + 0 * longitudes
    climate = xarray.Dataset(
        {"temperature": (("day", "latitude", "longitude"), kelvin, {"units": "K"})},
        coords={"day": days, "latitude": latitudes, "longitude": longitudes},
        attrs={"title": "a warm spring"},
    )

    climate.to_netcdf("climate.nc", engine="h5netcdf", compute=False)
    arrays = {name: each.data for name, each in climate.variables.items() if each.chunks}
    to_hdf5("climate.nc", arrays, mode="a")

    with xarray.open_dataset("climate.nc", engine="h5netcdf", chunks={}) as again:
        print(again.title, dict(again.sizes), again.temperature.units)
        print("the same when it is read again:", again.identical(climate))
        print("mean:", round(float(again.temperature.mean()), 3))


main()
