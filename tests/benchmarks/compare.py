"""Hello world and an idle cluster: mpidask, dask-mpi and the bare imports.

    tox -e bench            # MPICH
    tox -e bench-openmpi    # Open MPI

The programs run in turn, so that what else the machine does hits all of them alike. Each
number is a median over the rounds, and each ratio the median of the ratios of the rounds.
The table goes to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psutil

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"

#: `then` is what comes after the first result: nothing, or waiting.
PROGRAMS = {
    "import": "from mpi4py import MPI; import distributed",
    "mpidask": """
import time
from pathlib import Path
from mpidask import mpi_dask_main

@mpi_dask_main
def main(client):
    assert client.submit(sum, range(10)).result() == 45
    Path("result").write_text(str(time.monotonic()))
    {then}

main()
""",
    "dask-mpi": """
import time
from pathlib import Path
from dask_mpi import initialize
initialize(nanny=False)

from distributed import Client
with Client() as client:
    assert client.submit(sum, range(10)).result() == 45
    Path("result").write_text(str(time.monotonic()))
    {then}
""",
}

MEASURES = {
    "first result": "s",
    "wall time": "s",
    "CPU time": "s",
    "shutdown": "s",
    "idle CPU per rank": "%",
    "memory per rank": "MiB",
}

#: Seconds from the first result to when a cluster is idle.
SETTLE = 5
#: Seconds for which an idle cluster is watched.
WATCH = 30

#: The measures of one run.
Run = dict[str, float]


def mpirun(ranks: int, program: str, directory: Path) -> list[str]:
    """Write a program, and give the command that runs it."""
    path = directory / "program.py"
    path.write_text(program)
    (directory / "result").unlink(missing_ok=True)
    return [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), sys.executable, path]


def hello(name: str, ranks: int, directory: Path) -> Run:
    """Measure a hello world, from `mpirun` to the prompt."""
    command = mpirun(ranks, PROGRAMS[name].format(then="pass"), directory)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{name} failed with status {done.returncode}:\n{done.stderr}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    run = {"wall time": ended - started, "CPU time": cpu}
    if name != "import":
        result = float((directory / "result").read_text())
        run |= {"first result": result - started, "shutdown": ended - result}
    return run


def idle(name: str, ranks: int, directory: Path) -> Run:
    """Measure CPU time and memory of ranks whose cluster has nothing to do."""
    end = directory / "end"
    if not end.exists():
        os.mkfifo(end)
    # Reading a FIFO waits for its writer, and takes no CPU time.
    command = mpirun(ranks, PROGRAMS[name].format(then="open('end').read()"), directory)
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL) as job:
        while not (directory / "result").exists():
            if job.poll() is not None:
                sys.exit(f"{name} failed with status {job.returncode}")
            time.sleep(0.1)
        time.sleep(SETTLE)
        processes = processes_of(job, ranks)
        started, before = time.monotonic(), cpu_time(processes)
        time.sleep(WATCH)
        used, seconds = cpu_time(processes) - before, time.monotonic() - started
        # What a process shares with others counts in part.
        memory = sum(process.memory_full_info().pss for process in processes)
        end.write_text("")
    return {
        "idle CPU per rank": 100 * used / seconds / ranks,
        "memory per rank": memory / 2**20 / ranks,
    }


def processes_of(job: subprocess.Popen[bytes], ranks: int) -> list[psutil.Process]:
    """Find the processes of the ranks."""
    processes = [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if process.cmdline()[:1] == [sys.executable]
    ]
    assert len(processes) == ranks, processes
    return processes


def cpu_time(processes: list[psutil.Process]) -> float:
    """Add up the CPU seconds that processes have used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(ranks: int, rounds: int, directory: Path) -> dict[str, list[Run]]:
    """Give the runs of each program, made in turn."""
    runs: dict[str, list[Run]] = {name: [] for name in PROGRAMS}
    kinds: list[Callable[[str, int, Path], Run]] = [hello, idle]
    for n in range(rounds):
        for name in PROGRAMS:
            run: Run = {}
            for kind in kinds if name != "import" else [hello]:
                run |= kind(name, ranks, directory)
            runs[name].append(run)
            print(f"{ranks} ranks, round {n + 1}, {name}: {run}", flush=True)
    return runs


def values_of(runs: list[Run], measure: str) -> list[float]:
    """Give a measure of each run, if the runs have it."""
    return [run[measure] for run in runs if measure in run]


def table(results: dict[int, dict[str, list[Run]]]) -> str:
    """Write the table: a row for each measure and number of ranks."""
    lines = [
        "| | ranks | import | mpidask | dask-mpi | mpidask : dask-mpi |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for measure, unit in MEASURES.items():
        for ranks, runs in results.items():
            cells = [f"{measure}, {unit}", str(ranks)]
            for name in PROGRAMS:
                values = values_of(runs[name], measure)
                cells.append(f"{statistics.median(values):.1f}" if values else "")
            ratios = [
                ours[measure] / theirs[measure]
                for ours, theirs in zip(runs["mpidask"], runs["dask-mpi"], strict=True)
            ]
            cells.append(f"{statistics.median(ratios):.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(library: str, rounds: int) -> str:
    """Describe what the numbers were measured on, and with."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in info if line.startswith("model name")), "unknown")
    kernel = platform.release().split("-")[0]
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("mpidask", "dask-mpi", "distributed", "mpi4py")
    ]
    return (
        f"{date.today()}: {os.cpu_count()} CPUs ({cpu}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Linux {kernel}, "
        f"Python {platform.python_version()}, {library}, {', '.join(versions)}. "
        f"Medians of {rounds} rounds."
    )


def mpi_library() -> str:
    """Name the MPI, and its version."""
    for name, title in {"mpich": "MPICH", "openmpi": "Open MPI"}.items():
        try:
            return f"{title} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    sys.exit("no MPI: install the extra mpich or openmpi")


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    library = mpi_library()
    with tempfile.TemporaryDirectory() as directory:
        results = {
            ranks: measure(ranks, options.rounds, Path(directory)) for ranks in options.ranks
        }
    DOCS.mkdir(exist_ok=True)
    name = library.rsplit(" ", 1)[0].replace(" ", "").lower()
    text = f"{table(results)}\n\n*{machine(library, options.rounds)}*\n"
    (DOCS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
