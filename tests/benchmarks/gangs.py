"""From submission to results: an MPI function on some ranks, as many tasks, and mpi4py.futures.

    tox -e bench            # MPICH, after transport.py
    tox -e bench-openmpi    # Open MPI

The programs run in turn, and gangs and tasks in turn within one program, so that what else
the machine does hits all of them alike. Each number is a median over the launches of all
rounds, and each ratio the median of the ratios of the rounds. The table goes to
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import DOCS, machine, mpi_library, mpirun

DASK = """
import json, sys, time
from pathlib import Path
from mpidask import mpi_dask_main, submit_mpi

def member(comm):
    return comm.Get_rank()

def task(number):
    return number

@mpi_dask_main(nthreads=1)
def main(client):
    ranks, repeats = json.loads(sys.argv[1])
    launches = {
        "tasks": lambda: client.map(task, range(ranks), pure=False),
        "gang": lambda: submit_mpi(member),
    }
    seconds = {name: [] for name in launches}
    for _ in range(repeats + 5):
        for name, launch in launches.items():
            started = time.perf_counter()
            assert client.gather(launch()) == list(range(ranks))
            seconds[name].append(time.perf_counter() - started)
    Path("result").write_text(json.dumps({name: times[5:] for name, times in seconds.items()}))

main()
"""

FUTURES = """
import json, sys, time
from pathlib import Path
from mpi4py.futures import MPIPoolExecutor

def task(number):
    return number

if __name__ == "__main__":
    ranks, repeats = json.loads(sys.argv[1])
    seconds = []
    with MPIPoolExecutor(ranks) as executor:
        for _ in range(repeats + 5):
            started = time.perf_counter()
            assert list(executor.map(task, range(ranks))) == list(range(ranks))
            seconds.append(time.perf_counter() - started)
    Path("result").write_text(json.dumps({"mpi4py.futures": seconds[5:]}))
"""

WAYS = ("gang", "tasks", "mpi4py.futures")

#: What is measured of one round: seconds of each launch, by way.
Run = dict[str, list[float]]


def run(command: list[str], ranks: int, repeats: int, directory: Path) -> Run:
    """Run a program, and give what it has measured."""
    command = [*command, json.dumps([ranks, repeats])]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"status {done.returncode}: {command}\n{done.stderr}")
    found: Run = json.loads((directory / "result").read_text())
    return found


def measure(options: argparse.Namespace, directory: Path) -> dict[int, list[Run]]:
    """Give the rounds for each number of ranks."""
    results: dict[int, list[Run]] = {ranks: [] for ranks in options.ranks}
    for n in range(options.rounds):
        for ranks, rounds in results.items():
            found = run(mpirun(ranks + 2, DASK, directory), ranks, options.repeats, directory)
            *launcher, program = mpirun(ranks + 1, FUTURES, directory)
            command = [*launcher, "-m", "mpi4py.futures", program]
            rounds.append(found | run(command, ranks, options.repeats, directory))
            print(f"{ranks} ranks, round {n + 1}: {medians(rounds[-1:])}", flush=True)
    return results


def medians(rounds: list[Run]) -> dict[str, float]:
    """Give the median of all launches of each way, in ms."""
    return {
        way: 1000 * statistics.median(time for run in rounds for time in run[way]) for way in WAYS
    }


def table(results: dict[int, list[Run]]) -> str:
    """Write a row for each number of ranks."""
    lines = [
        "| ms | gang | as many tasks | mpi4py.futures | gang : tasks | gang : mpi4py.futures |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for ranks, rounds in results.items():
        cells = [f"{value:.1f}" for value in medians(rounds).values()]
        of_rounds = [medians([run]) for run in rounds]
        cells += [
            f"{statistics.median(run['gang'] / run[way] for run in of_rounds):.2f}"
            for way in WAYS[1:]
        ]
        lines.append(f"| {ranks} ranks | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--repeats", type=int, default=50, help="launches in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=DOCS, help="directory")
    options = parser.parse_args()
    library = mpi_library()
    with tempfile.TemporaryDirectory() as directory:
        results = measure(options, Path(directory))
    options.output.mkdir(exist_ok=True)
    path = options.output / f"gangs-{library.rsplit(' ', 1)[0].replace(' ', '').lower()}"
    text = f"{table(results)}\n\n*{machine(library, options.rounds)}*\n"
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
