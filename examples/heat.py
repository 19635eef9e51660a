"""Heat in a square plate: an MPI solver as one step of a Dask program.

    pip install "dask[array]" matplotlib
    mpirun -n 8 python examples/heat.py --plot heat.png
    python examples/heat.py

Each rank has some rows of the plate. In each step it exchanges the rows at its edges with the
ranks next to it, so all of them have to run at the same time: submit_mpi sees to that. What
they return stays on the workers, where dask.array goes on with it.
"""

from mpi4py import MPI

from mpidask import mpi_dask_main, submit_mpi

SIZE, STEPS, EVERY, RATE = 120, 3000, 200, 0.2


def shares(ranks):
    """Divide the rows of the plate among ranks."""
    import numpy as np

    return np.array_split(np.arange(SIZE), ranks)


def solve(comm):
    """Give this rank's rows of the plate, at several times."""
    import numpy as np

    rank, ranks = comm.Get_rank(), comm.Get_size()
    above = rank - 1 if rank > 0 else MPI.PROC_NULL
    below = rank + 1 if rank < ranks - 1 else MPI.PROC_NULL
    rows = shares(ranks)[rank][:, np.newaxis]

    # With a frame around: the rows of the neighbours, and the cold edge of the plate.
    plate = np.zeros((len(rows) + 2, SIZE + 2))
    inner = plate[1:-1, 1:-1]
    inner[...] = (rows - SIZE / 3) ** 2 + (np.arange(SIZE) - SIZE / 2) ** 2 < (SIZE / 4) ** 2
    times = [inner.copy()]
    for step in range(1, STEPS + 1):
        comm.Sendrecv(plate[1], above, recvbuf=plate[-1], source=below)
        comm.Sendrecv(plate[-2], below, recvbuf=plate[0], source=above)
        around = plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]
        inner += RATE * (around - 4 * inner)
        if step % EVERY == 0:
            times.append(inner.copy())
    return np.stack(times)


def field(futures):
    """Make one array of what the ranks have returned: times, rows, columns."""
    import dask.array as da

    times = STEPS // EVERY + 1
    return da.concatenate(
        [
            da.from_delayed(future, (times, len(rows), SIZE), float)
            for future, rows in zip(futures, shares(len(futures)))
        ],
        axis=1,
    )


def plot(temperature, means, path):
    import matplotlib

    matplotlib.use("Agg")  # compute nodes have no display
    from matplotlib import pyplot

    shown = [0, len(means) // 4, len(means) - 1]
    figure, panels = pyplot.subplots(ncols=4, figsize=(13, 3.2), layout="constrained")
    for panel, n in zip(panels, shown):
        image = panel.imshow(temperature[n].compute(), vmin=0, vmax=1, cmap="inferno")
        panel.set(title=f"after {n * EVERY} steps", xticks=[], yticks=[])
    figure.colorbar(image, ax=panels[:3], label="temperature")
    panels[3].plot([n * EVERY for n in range(len(means))], means)
    panels[3].set(title="mean temperature", xlabel="steps", ylim=(0, 1.1 * means[0]))
    figure.savefig(path, dpi=120)


@mpi_dask_main
def main(client):
    import argparse

    import dask

    parser = argparse.ArgumentParser(description="Heat in a square plate.")
    parser.add_argument("--plot", metavar="PATH", default="heat.png", help="where to save it")
    arguments = parser.parse_args()

    # On all worker ranks, and on one: no message passes between ranks then.
    temperature = field(submit_mpi(solve))
    serial = field(submit_mpi(solve, ranks=1))

    print(f"{SIZE} x {SIZE} points, {STEPS} steps")
    means, hottest, same = dask.compute(
        temperature.mean(axis=(1, 2)), temperature.max(axis=(1, 2)), (temperature == serial).all()
    )
    for n in range(0, len(means), 5):
        print(f"after {n * EVERY:4} steps: mean {means[n]:.4f}, hottest {hottest[n]:.4f}")
    print("the same as on one rank:", same)
    plot(temperature, means, arguments.plot)
    print("plot in", arguments.plot)


main()
