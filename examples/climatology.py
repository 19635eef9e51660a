"""A climatology with xarray: the usual temperature of the sea, month by month, and El Niño.

    pip install "dask[array]" xarray h5netcdf h5py matplotlib iris-sample-data
    mpirun -n 8 python examples/climatology.py --plot climatology.png
    python examples/climatology.py

The mean of all Januaries, of all Februaries and so on is what is usual: the climatology. What
differs from it is the anomaly; that of the central Pacific tells El Niño from La Niña. The data
are monthly means of the temperature at the surface of the sea, near the equator, which come from
satellites and buoys (OSTIA). Each task reads and averages some longitudes; only the results,
which are small, come back to main().
"""

from mpidask import mpi_dask_main

# Longitudes of the central Pacific, in degrees east. The data end 5 degrees from the equator.
PACIFIC = slice(190, 240)


def data_file():
    from importlib.metadata import distribution

    name = "iris_sample_data/sample_data/ostia_monthly.nc"
    return str(distribution("iris-sample-data").locate_file(name))


def plot(usual, index, path):
    import matplotlib

    matplotlib.use("Agg")  # compute nodes have no display
    from matplotlib import pyplot

    pyplot.rcParams["date.converter"] = "concise"
    figure, (left, right) = pyplot.subplots(ncols=2, figsize=(11, 4), layout="constrained")
    image = left.pcolormesh(usual.longitude, usual.month, usual, cmap="inferno")
    left.set(title="What is usual", xlabel="degrees east", ylabel="month")
    figure.colorbar(image, ax=left, label="°C")
    times, values = index.time.to_numpy(), index.to_numpy()
    right.fill_between(times, values, where=values > 0, color="tab:red", interpolate=True)
    right.fill_between(times, values, where=values < 0, color="tab:blue", interpolate=True)
    right.set(title="What is not: the central Pacific", ylabel="°C warmer than usual")
    figure.savefig(path, dpi=120)


@mpi_dask_main
def main(client):
    import argparse

    import dask
    import numpy as np
    import xarray as xr

    parser = argparse.ArgumentParser(description="The usual temperature of the sea, and El Niño.")
    parser.add_argument(
        "--plot", metavar="PATH", default="climatology.png", help="where to save it"
    )
    arguments = parser.parse_args()

    data = xr.open_dataset(data_file(), engine="h5netcdf", chunks={}).chunk(longitude=54)
    temperature = data.surface_temperature - 273.15
    months = temperature.groupby("time.month")
    climatology = months.mean("time")
    pacific = (months - climatology).sel(longitude=PACIFIC)
    area = np.cos(np.deg2rad(pacific.latitude))
    usual, index = dask.compute(
        climatology.mean("latitude"), pacific.weighted(area).mean(["latitude", "longitude"])
    )

    print(f"{temperature.sizes['time']} months, {temperature[0].size} points")
    print(f"usual temperatures from {usual.min():.1f} to {usual.max():.1f} °C")
    for winter in index[index.time.dt.month == 12]:
        kind = "El Niño" if winter > 0.5 else "La Niña" if winter < -0.5 else "neither"
        print(f"December {winter.time.dt.year.item()}: {winter:+.1f} °C, {kind}")
    plot(usual, index, arguments.plot)
    print("plot in", arguments.plot)


main()
