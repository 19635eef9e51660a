"""Jobs of many ranks: what the leader does with all others simulated, and a job of real ones.

    python tests/benchmarks/ranks.py leader [--ranks N ...]
    python tests/benchmarks/ranks.py job [--ranks N ...] [--rounds N]

`leader` starts and ends jobs whose other ranks are a few lines here, which answer at once. It
writes the table of the leader's CPU time, and of all messages, to docs/benchmarks. `job` starts
real ranks with mpidask and dask-mpi in turn, which run 10,000 tasks and end, and writes another.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import distributed  # noqa: F401 (not to be part of what is measured)
from compare import DOCS, machine, mpi_library, mpirun
from simulated_ranks import RANKS_PER_NODE, lead

TRANSPORTS = ["auto", "mpi", "socket"]

#: The work of a real job: every worker has some, and none of it takes long.
TASKS = 10_000
PROGRAM = f"""
import time
from pathlib import Path
{{start}}
    assert client.submit(sum, range(10)).result() == 45
    used = client.run_on_scheduler(time.process_time)
    first = time.monotonic()
    assert sum(client.gather(client.map(abs, range({TASKS})))) == sum(range({TASKS}))
    last = time.monotonic()
    used = client.run_on_scheduler(time.process_time) - used
    Path("result").write_text(f"{{{{first}}}} {{{{last}}}} {{{{used}}}}")
"""
PROGRAMS = {
    "mpidask": PROGRAM.format(start="from mpidask import mpi_dask\nwith mpi_dask() as client:"),
    "dask-mpi": PROGRAM.format(
        start="from dask_mpi import initialize\ninitialize(nanny=False)\n"
        "from distributed import Client\nwith Client() as client:"
    ),
}
MEASURES = {
    "first result": "s",
    f"{TASKS:,} tasks": "s",
    "shutdown": "s",
    "wall time": "s",
    "CPU time": "s",
    "the scheduler's CPU time a task": "ms",
}


def measure_leader(numbers: list[int]) -> str:
    """Write the table of the leader's work."""
    lines = [
        "| ranks | nodes | transport | start, CPU s | end, CPU s | messages, MB | a rank, kB |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for ranks in numbers:
        nodes = -(-ranks // RANKS_PER_NODE)
        for transport in TRANSPORTS:
            start, end, sent = asyncio.run(lead(ranks, transport))
            total = sum(sent.values())
            print(ranks, transport, f"{start:.2f} {end:.2f}", dict(sent), flush=True)
            lines.append(
                f"| {ranks:,} | {nodes} | {transport} | {start:.2f} | {end:.2f} "
                f"| {total / 1e6:.1f} | {total / ranks / 1e3:.2f} |"
            )
    return "\n".join(lines) + "\n"


def run_job(name: str, ranks: int, directory: Path) -> dict[str, float]:
    """Run a job of real ranks, and give its seconds."""
    command = mpirun(ranks, PROGRAMS[name], directory)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    ended = time.monotonic()
    if done.returncode:
        sys.exit(f"{name} failed with status {done.returncode}:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    first, last, used = map(float, (directory / "result").read_text().split())
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    seconds = [first - started, last - first, ended - last, ended - started, cpu]
    return dict(zip(MEASURES, [*seconds, 1000 * used / TASKS], strict=True))


def measure_job(ranks: int, rounds: int) -> str:
    """Give the rows of the table that tell of a job of so many real ranks."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(rounds):
            for name in PROGRAMS:
                runs[name].append(run_job(name, ranks, Path(directory)))
                print(ranks, name, runs[name][-1], flush=True)
    lines = []
    for measure, unit in MEASURES.items():
        ours, theirs = ([run[measure] for run in runs[name]] for name in PROGRAMS)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        digits = 1 if unit == "s" else 2
        medians = " | ".join(f"{statistics.median(one):.{digits}f}" for one in (ours, theirs))
        lines.append(f"| {measure}, {unit} | {ranks} | {medians} | {ratio:.2f} |\n")
    return "".join(lines)


JOB_HEAD = """\
| | ranks | mpidask | dask-mpi | mpidask : dask-mpi |
| --- | ---: | ---: | ---: | ---: |
"""


def main() -> None:
    """Measure what the command line asks for."""
    logging.getLogger("mpidask").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", choices=["leader", "job"])
    parser.add_argument("--ranks", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.measure == "leader":
        name, text = "ranks", measure_leader(options.ranks or [1000, 2000, 5000, 10_000])
    else:
        rows = [measure_job(ranks, options.rounds) for ranks in options.ranks or [16, 128]]
        name, text = "ranks-job", JOB_HEAD + "".join(rows)
    text += f"\n*{machine(mpi_library(), options.rounds)}*\n"
    (DOCS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
