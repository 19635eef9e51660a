"""Data from worker to worker: mpidask, dask-mpi and raw MPI.

    tox -e bench            # MPICH, after compare.py
    tox -e bench-openmpi    # Open MPI

The programs run in turn, so that what else the machine does hits all of them alike. Each
number is a median over the rounds, and each ratio the median of the ratios of the rounds.
The table goes to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from compare import DOCS, machine, mpi_library, mpirun

#: How each cluster comes up; what follows has its client.
WAYS = {
    "dask-mpi": """
from dask_mpi import initialize
initialize(nanny=False, local_directory=None)
from distributed import Client
with Client() as client:
    main(client)
""",
    "socket": """
from mpidask import mpi_dask
with mpi_dask(transport="socket") as client:
    main(client)
""",
    "socket, security=False": """
from mpidask import mpi_dask
with mpi_dask(transport="socket", security=False) as client:
    main(client)
""",
    "default": """
from mpidask import mpi_dask
with mpi_dask() as client:
    main(client)
""",
}

RAW = """
import json, statistics, sys, time
from pathlib import Path
import numpy as np
from mpi4py import MPI

sizes, repeats = json.loads(sys.argv[1])
world, rates = MPI.COMM_WORLD, {}
for mib in sizes:
    data, word, seconds = np.ones(mib * 2**20, "u1"), np.zeros(1), []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        if world.rank == 2:
            world.Send(data, 3)
            world.Recv(word, 3)
        elif world.rank == 3:
            world.Recv(data, 2)
            world.Send(word, 2)
        seconds.append(time.perf_counter() - started)
    rates[f"{mib} MiB"] = mib * 2**20 / 1e9 / statistics.median(seconds[1:])
if world.rank == 2:
    Path("result").write_text(json.dumps(rates))
"""

TRANSFERS = """
import json, statistics, sys, time
from pathlib import Path
import numpy as np
from distributed import wait

def main(client):
    sizes, repeats = json.loads(sys.argv[1])
    client.wait_for_workers(2)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    one, *others = workers
    other = next((w for w in others if workers[w]["host"] != workers[one]["host"]), others[0])
    rates, with_task = {}, {}

    def of_transfers():  # as the worker logs them: from its request to the data
        logs = client.run(lambda dask_worker: list(dask_worker.transfer_incoming_log))
        return [entry["duration"] for entry in logs[other]][-repeats:]

    for mib in sizes:
        seconds = []
        for _ in range(repeats + 1):
            data = client.submit(np.ones, mib * 2**20, "u1", workers=[one], pure=False)
            wait(data)
            started = time.perf_counter()
            got = client.submit(lambda data: data.nbytes, data, workers=[other], pure=False)
            assert got.result() == mib * 2**20
            seconds.append(time.perf_counter() - started)
        gigabytes = mib * 2**20 / 1e9
        rates[f"{mib} MiB"] = gigabytes / statistics.median(of_transfers())
        with_task[f"{mib} MiB, with its task"] = gigabytes / statistics.median(seconds[1:])
    Path("result").write_text(json.dumps(rates | with_task))
"""

#: What is measured of one program, by name: GB/s by size, say.
Run = dict[str, float]


def run(
    program: str,
    ranks: int,
    directory: Path,
    *args: object,
    command: Callable[[int, str, Path], list[str]] = mpirun,
) -> Run:
    """Run a program, and give what it has measured."""
    whole = [*command(ranks, program, directory), *map(json.dumps, args)]
    done = subprocess.run(whole, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"status {done.returncode}:\n{program}\n{done.stderr}")
    found: Run = json.loads((directory / "result").read_text())
    return found


def measure(options: argparse.Namespace, directory: Path) -> dict[str, list[Run]]:
    """Give the runs by each way, made in turn."""
    transfers: dict[str, list[Run]] = {"raw MPI": [], **{way: [] for way in WAYS}}
    sizes = [options.sizes, options.repeats]
    for n in range(options.rounds):
        transfers["raw MPI"].append(run(RAW, 4, directory, sizes))
        for way, start in WAYS.items():
            transfers[way].append(run(TRANSFERS + start, 4, directory, sizes))
        print(f"round {n + 1}:", {way: runs[-1] for way, runs in transfers.items()}, flush=True)
    return transfers


def table(results: dict[str, list[Run]], title: str, against: str = "dask-mpi") -> str:
    """Write a table: a row for each measure, a column for each way."""
    lines = [
        f"| {title} | {' | '.join(results)} | default : {against} |",
        f"| --- | {'---: | ' * (len(results) + 1)}".rstrip(),
    ]
    for measure in results["default"][0]:
        medians = [
            f"{statistics.median(run[measure] for run in runs):.3g}" if measure in runs[0] else ""
            for runs in results.values()
        ]
        ratio = statistics.median(
            ours[measure] / theirs[measure]
            for ours, theirs in zip(results["default"], results[against], strict=True)
        )
        lines.append(f"| {measure} | {' | '.join(medians)} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 128, 512], help="MiB")
    parser.add_argument("--repeats", type=int, default=5, help="of each, after a first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=DOCS, help="directory")
    options = parser.parse_args()
    library = mpi_library()
    with tempfile.TemporaryDirectory() as directory:
        transfers = measure(options, Path(directory))
    options.output.mkdir(exist_ok=True)
    path = options.output / f"transport-{library.rsplit(' ', 1)[0].replace(' ', '').lower()}"
    text = f"{table(transfers, 'GB/s')}\n\n*{machine(library, options.rounds)}*\n"
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
