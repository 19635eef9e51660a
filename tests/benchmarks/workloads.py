"""Workloads that move much data: mpidask and dask-mpi, in time and in CPU time.

    tox -e bench            # MPICH, with the other benchmarks
    tox -e bench-openmpi    # Open MPI

Each workload runs right after the start of a cluster of its own, and then some more times. The
programs run in turn, so that what else the machine does hits all of them alike. Each number is
a median over the rounds, and each ratio the median of the ratios of the rounds. The table goes to
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from compare import DOCS, machine, mpi_library
from transport import WAYS, Run, run, table

PROGRAM = """
import itertools, json, statistics, sys, time
from pathlib import Path
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import psutil
from distributed import wait

name, scale, repeats, ranks = json.loads(sys.argv[1])
side = int(10_000 * scale**0.5) // 16 * 16
rows = int(833_333 * scale)

def part(seed, rows):
    numbers = np.random.default_rng(seed)
    return pd.DataFrame(
        {"key": numbers.integers(0, 10**6, rows), "a": numbers.random(rows), "b": np.ones(rows)}
    )

def array(client):  # a row of pieces on each worker, so that as much has to move each time
    workers = itertools.cycle(client.scheduler_info(n_workers=-1)["workers"])
    piece = side // 4, side // 4
    pieces = [[client.submit(np.full, piece, n, workers=[w], pure=False) for n in range(4)]
              for w in itertools.islice(workers, 4)]
    wait(pieces)
    return da.block([[da.from_delayed(one, piece, float) for one in row] for row in pieces])

def frame(client):
    data = dd.from_map(part, range(24), rows=rows).persist()
    wait(data)
    return data

def merge(data):
    other = dd.from_map(part, range(100, 102), rows=rows // 100)
    return data.merge(other, on="key", how="left", shuffle_method="p2p", broadcast=False)

WORKLOADS = {
    "transpose": (array, lambda x: (x + x.T).sum()),
    "rechunk": (array, lambda x: x.rechunk((side, side // 16)).map_blocks(np.copy).sum()),
    "P2P shuffle": (frame, lambda data: data.shuffle("key").map_partitions(len).sum()),
    "P2P merge": (frame, lambda data: merge(data).map_partitions(len).sum()),
}

def used():
    return sum(psutil.Process().cpu_times()[:2])

def main(client):
    client.wait_for_workers(ranks - 2)
    make, work = WORKLOADS[name]
    times, workers, scheduler = [], [], []
    kept = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    for _ in range(repeats + 1):
        data = make(client)  # anew: pieces stay where the last time has moved them
        before, before_there = sum(client.run(used).values()), client.run_on_scheduler(used)
        started = time.perf_counter()
        work(data).compute()
        times.append(time.perf_counter() - started)
        workers.append(sum(client.run(used).values()) - before)
        scheduler.append(client.run_on_scheduler(used) - before_there)
        del data
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) > kept:
            time.sleep(0.01)
    measured = {"s": times, "CPU s of the workers": workers, "CPU s of the scheduler": scheduler}
    found = {}
    for what, values in measured.items():
        found[f"{name}, first, {what}"] = values[0]
        found[f"{name}, later, {what}"] = statistics.median(values[1:])
    Path("result").write_text(json.dumps(found))
"""

WORKLOADS = ("transpose", "rechunk", "P2P shuffle", "P2P merge")


def measure(options: argparse.Namespace, directory: Path) -> dict[str, list[Run]]:
    """Give the measures of each way, round by round, made in turn."""
    results: dict[str, list[Run]] = {way: [] for way in options.ways}
    for n in range(options.rounds):
        for runs in results.values():
            runs.append({})
        for workload in WORKLOADS:
            for way, runs in results.items():
                arguments = [workload, options.scale, options.repeats, options.ranks]
                runs[-1] |= run(PROGRAM + WAYS[way], options.ranks, directory, arguments)
        print(f"round {n + 1}:", {way: runs[-1] for way, runs in results.items()}, flush=True)
    return results


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="of each, after a first time")
    parser.add_argument("--scale", type=float, default=1.0, help="of the data: 800 and 480 MB")
    parser.add_argument("--ranks", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["dask-mpi", "default"], choices=WAYS)
    options = parser.parse_args()
    library = mpi_library()
    with tempfile.TemporaryDirectory() as directory:
        results = measure(options, Path(directory))
    text = f"{table(results, '')}\n\n*{machine(library, options.rounds)}*\n"
    name = f"workloads-{library.rsplit(' ', 1)[0].replace(' ', '').lower()}.md"
    DOCS.joinpath(name).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
