"""Wall time and CPU time of hello world: mpidask, dask-mpi and the bare imports.

    python tests/benchmarks/hello.py --ranks 8 --rounds 5

The programs run in turn, so that what else the machine does hits all of them alike, and
the ratios are those of the medians. dask-mpi must be installed in the same environment.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = {
    "import": "from mpi4py import MPI; import distributed\n",
    "mpidask": """
from mpidask import mpi_dask_main

@mpi_dask_main
def main(client):
    assert client.submit(sum, range(10)).result() == 45

main()
""",
    "dask-mpi": """
from dask_mpi import initialize
initialize(nanny=False)

from distributed import Client
with Client() as client:
    assert client.submit(sum, range(10)).result() == 45
""",
}


def measure(mpirun: str, ranks: int, path: Path) -> tuple[float, float]:
    """Give the seconds of wall time and of CPU time, children included, of one run."""
    cpu_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [mpirun, "-n", str(ranks), sys.executable, str(path)], capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{path} failed with status {done.returncode}:\n{done.stderr}")
    user, system = cpu.ru_utime - cpu_before.ru_utime, cpu.ru_stime - cpu_before.ru_stime
    return wall, user + system


def main() -> None:
    """Run the programs in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        sys.exit("no mpirun: install the extra mpich or openmpi")
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as directory:
        for name, text in PROGRAMS.items():
            Path(directory, f"run-{name}.py").write_text(text)
        for _ in range(options.rounds):
            for name, runs in results.items():
                runs.append(measure(mpirun, options.ranks, Path(directory, f"run-{name}.py")))
    medians = {
        name: tuple(statistics.median(column) for column in zip(*runs, strict=True))
        for name, runs in results.items()
    }
    print(f"{options.ranks} ranks, {options.rounds} rounds, {os.cpu_count()} CPUs, {mpirun}\n")
    print("| program | wall s | of import | of dask-mpi | CPU s | of import | of dask-mpi |")
    print("|---|---|---|---|---|---|---|")
    for name, values in medians.items():
        cells = []
        for n, value in enumerate(values):
            cells += [f"{value:.1f}"]
            cells += [f"{value / medians[other][n]:.2f}" for other in ("import", "dask-mpi")]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
