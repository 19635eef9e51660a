"""More data than memory: mpidask and dask-mpi, with and without nannies.

    tox -e bench            # MPICH, after compare.py
    tox -e bench-openmpi    # Open MPI

Three workers of 600 MiB hold a collection that is as large as their memory together, or up to
three times as large, and work with it. The programs run in turn. Each checks its results. The
table goes to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import DOCS, machine, mpi_library, mpirun

#: How each cluster comes up; what follows has its client.
OURS = """
from mpidask import mpi_dask
with mpi_dask(memory_limit=LIMIT, nthreads=1, dashboard=False, {options}) as client:
    main(client)
"""
THEIRS = """
from dask_mpi import initialize
initialize(memory_limit=LIMIT, nthreads=1, dashboard=False, {options})
from distributed import Client
with Client() as client:
    main(client)
"""
WAYS = {
    "dask-mpi": THEIRS.format(options="nanny=False"),
    "default": OURS.format(options=""),
    "socket": OURS.format(options="transport='socket'"),
    # The option nanny of dask-mpi is one that it refuses.
    "dask-mpi, nanny": THEIRS.format(options="worker_class='distributed.Nanny'"),
    "nanny": OURS.format(options="nanny=True"),
}

PROGRAM = """
import json, sys, time
from pathlib import Path
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from distributed import wait

WORKERS, LIMIT = int(sys.argv[1]), int(sys.argv[2])
SIZE = int(WORKERS * LIMIT * float(sys.argv[3]))  # bytes of a collection
SIDE = int((SIZE / 8) ** 0.5) // 1024 * 1024  # of a square

def square(rows):
    at = lambda block_info: block_info[None]["array-location"]
    def piece(block_info=None):
        (a, b), (c, d) = at(block_info)
        return 3.0 * np.arange(a, b)[:, None] + np.arange(c, d)
    chunks = ((rows,) * (SIDE // rows), (2**20 // rows,) * (SIDE * rows // 2**20))
    return da.map_blocks(piece, chunks=chunks, dtype=float, meta=np.empty((0, 0)))

def transpose():
    x = square(1024).persist()
    wait(x)
    assert (x + x.T).sum().compute() == 4.0 * SIDE**2 * (SIDE - 1)

def rechunk():
    x = square(1024).persist()
    wait(x)
    sums = x.rechunk((SIDE, max(1, 2**20 // SIDE))).map_blocks(np.copy).sum(axis=0).compute()
    assert (sums == 1.5 * SIDE * (SIDE - 1) + SIDE * np.arange(SIDE, dtype=float)).all()

def shuffle():
    rows, parts = 2**18, SIZE // (24 * 2**18)
    def part(seed):
        keys = np.random.default_rng(seed).integers(0, 10**5, rows)
        return pd.DataFrame({"key": keys, "a": np.ones(rows), "b": np.ones(rows)})
    data = dd.from_map(part, range(parts)).persist()
    wait(data)
    found = data.shuffle("key").map_partitions(
        lambda df: pd.DataFrame({"rows": [len(df)], "keys": [df.key.nunique()]}),
        meta={"rows": int, "keys": int},
    ).sum().compute()
    assert found.to_dict() == {"rows": rows * parts, "keys": 10**5}

def tensordot():
    length, width = SIZE // 8 // 512 // 2**13 * 2**13, 512
    def piece(block_info=None):
        (a, b), (c, d) = block_info[None]["array-location"]
        return np.arange(a, b)[:, None] % 8 + np.arange(c, d) % 5.0
    chunks = ((2**13,) * (length // 2**13), (128,) * 4)
    x = da.map_blocks(piece, chunks=chunks, dtype=float, meta=np.empty((0, 0))).persist()
    wait(x)
    found = da.tensordot(x, x, axes=(0, 0)).compute()
    j = np.arange(width) % 5.0
    right = length * (17.5 + 3.5 * (j[:, None] + j) + j[:, None] * j)
    assert np.allclose(found, right)

def spilled(client):
    def by_worker(dask_worker):
        totals = dask_worker.digests_total.items()
        return sum(n for name, n in totals if name[-2:] == ("disk-write", "bytes"))
    return sum(client.run(by_worker).values())

def longest_pause(client):
    longest = 0
    for worker in client.scheduler_info(n_workers=-1)["workers"]:
        since = None
        for when, event in client.get_events(worker):
            if event.get("action") == "worker-status-change":
                since, before = (when if event["status"] == "paused" else None), since
                longest = max(longest, when - before if before else 0)
        longest = max(longest, time.time() - since if since else 0)
    return longest

def main(client):
    client.wait_for_workers(WORKERS)
    done = {}
    tasks = lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    for work in map(globals().get, sys.argv[4:]):
        before, started = spilled(client), time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        done[work.__name__] = seconds, spilled(client) - before, longest_pause(client)
        Path("result").write_text(json.dumps(done))
        while tasks():
            time.sleep(0.05)
"""

WORKLOADS = "transpose", "rechunk", "shuffle", "tensordot"
#: Seconds, bytes spilled, and the longest pause of a worker until then, by workload.
Run = dict[str, tuple[float, float, float]]


def run(way: str, factor: float, options: argparse.Namespace, directory: Path) -> Run:
    """Run the workloads in one way with so much data; those that did not end are missing."""
    command = mpirun(options.workers + 2, PROGRAM + WAYS[way], directory)
    command += [str(options.workers), str(options.limit * 2**20), str(factor), *options.workloads]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (directory / "log").open("w+") as log:
        job = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
        try:
            status = str(job.wait(options.timeout))
        except subprocess.TimeoutExpired:
            status = f"none after {options.timeout} s"
            end(job)
        log.seek(0)
        result = directory / "result"
        done: Run = json.loads(result.read_text()) if result.exists() else {}
        if len(done) < len(options.workloads):
            print(f"status {status}: {way}, {factor}\n{log.read()[-3000:]}", file=sys.stderr)
    return done


def end(job: subprocess.Popen[bytes]) -> None:
    """End a job that does not by itself."""
    job.terminate()
    try:
        job.wait(40)
    except subprocess.TimeoutExpired:
        job.kill()


def table(runs: dict[tuple[str, float], Run], workloads: list[str]) -> str:
    """Write the table: a row for each workload and amount of data, a column for each way."""
    ways = list(dict.fromkeys(way for way, _ in runs))
    lines = [
        f"| | data / memory | {' | '.join(ways)} | spilled by {ways[0]}, GB |",
        f"| --- | {'---: | ' * (len(ways) + 2)}".rstrip(),
    ]
    for work in workloads:
        for factor in dict.fromkeys(factor for _, factor in runs):
            found = [runs[way, factor].get(work) for way in ways]
            cells = [f"{run[0]:.1f}" if run else "not ended" for run in found]
            spilled = f"{found[0][1] / 1e9:.0f}" if found[0] else ""
            lines.append(f"| {work}, s | {factor:g} | {' | '.join(cells)} | {spilled} |")
    longest = max(run[2] for found in runs.values() for run in found.values())
    return "\n".join([*lines, "", f"The longest pause of a worker was {longest:.1f} s."])


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--limit", type=int, default=600, help="MiB of memory for each worker")
    parser.add_argument("--timeout", type=float, default=400, help="seconds for the workloads")
    parser.add_argument("--output", type=Path, default=DOCS, help="directory")
    options = parser.parse_args()
    library = mpi_library()
    runs: dict[tuple[str, float], Run] = {}
    for factor in options.factors:
        for way in options.ways:
            with tempfile.TemporaryDirectory() as directory:
                runs[way, factor] = run(way, factor, options, Path(directory))
            print(f"{factor:g}, {way}: {runs[way, factor]}", flush=True)
    options.output.mkdir(exist_ok=True)
    name = library.rsplit(" ", 1)[0].replace(" ", "").lower()
    text = f"{table(runs, options.workloads)}\n\n*{machine(library, 1)}*\n"
    (options.output / f"larger-than-memory-{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
