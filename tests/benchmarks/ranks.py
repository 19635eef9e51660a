"""Jobs of many ranks: what the leader does with all others simulated, and a job of real ones.

    python tests/benchmarks/ranks.py leader [--ranks N ...]
    python tests/benchmarks/ranks.py job [--ranks N] [--rounds N]

`leader` starts and ends jobs whose other ranks are a few lines here, which answer at once. It
writes the table of the leader's CPU time, and of all messages, to docs/benchmarks. `job` starts
real ranks with mpidask and dask-mpi in turn, which run 10,000 tasks and end, and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import statistics
import subprocess
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import distributed  # noqa: F401 (not to be part of what is measured)
from compare import DOCS, machine, mpi_library, mpirun

from mpidask._dask.scheduler import make_security
from mpidask._lifecycle import leader as leaders
from mpidask._lifecycle import messages as m
from mpidask._lifecycle.roles import assign_roles
from mpidask._mpi.communicator import TO_LEADER, pack, unpack
from mpidask._mpi.deadline import Deadline
from mpidask._options import Options
from mpidask._placement.node import Node

RANKS_PER_NODE = 64
TRANSPORTS = ["auto", "mpi", "socket"]

#: The work of a real job: every worker has some, and none of it takes long.
TASKS = 10_000
PROGRAM = f"""
import time
from pathlib import Path
started = time.monotonic()
{{start}}
    assert client.submit(sum, range(10)).result() == 45
    first = time.monotonic()
    assert sum(client.gather(client.map(abs, range({TASKS})))) == sum(range({TASKS}))
    Path("result").write_text(f"{{{{first}}}} {{{{time.monotonic()}}}}")
"""
PROGRAMS = {
    "mpidask": PROGRAM.format(start="from mpidask import mpi_dask\nwith mpi_dask() as client:"),
    "dask-mpi": PROGRAM.format(
        start="from dask_mpi import initialize\ninitialize(nanny=False)\n"
        "from distributed import Client\nwith Client() as client:"
    ),
}
MEASURES = ["first result", "tasks", "shutdown", "wall time", "CPU time"]


class SimulatedRanks:
    """The communicator of the leader: all other ranks answer at once, in messages made before.

    Messages are packed and unpacked on the leader's side as with MPI, which itself is left out.
    """

    rank = 1

    def __init__(self, size: int, cluster: m.Cluster) -> None:
        self.size = size
        self.bytes: Counter[str] = Counter()
        self._last: tuple[object, bytes] | None = None
        self._cluster = pack(cluster)
        self._measured, self._done = pack(m.TransportMeasured(2.0)), pack(m.Done())
        self._up = [
            pack(m.WorkerStarted(1, 2**31, f"mpi://10.0.{rank // 256}.{rank % 256}:40000"))
            for rank in range(size)
        ]
        self._inbox: deque[tuple[int, bytes]] = deque()
        for rank in range(size):
            self._answer(rank, pack(m.RankReady(node_of(rank))))

    def _answer(self, rank: int, data: bytes) -> None:
        self.bytes["to the leader"] += len(data)
        self._inbox.append((rank, data))

    def send(self, rank: int, tag: int, message: object) -> None:
        if self._last is None or self._last[0] is not message:
            self._last = message, pack(message)
        self.bytes[type(message).__name__] += len(self._last[1])
        match message:
            case m.StartScheduler():
                self._answer(rank, self._cluster)
            case m.StartWorker():
                self._answer(rank, self._up[rank])
            case m.MeasureTransport():
                self._answer(rank, self._measured)
            case m.End():
                self._answer(rank, self._done)

    async def receive(self, tag: int, *, longest: float = 0) -> tuple[int, Any]:
        assert tag == TO_LEADER
        while not self._inbox:
            await asyncio.sleep(0.001)
        rank, data = self._inbox.popleft()
        return rank, unpack(data)

    def wake(self) -> None:
        pass


class NoWatch:
    """In place of the connection to a scheduler that there is not."""

    def __init__(self, *args: object) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wake(self) -> None:
        pass


def node_of(rank: int) -> Node:
    """Describe a node whose ranks may all use all of its CPUs."""
    number = rank // RANKS_PER_NODE
    addresses = (
        f"10.0.{number // 256}.{number % 256}/16",
        f"10.1.{number // 256}.{number % 256}/16",
    )
    cpus = frozenset(range(RANKS_PER_NODE))
    return Node(f"node{number:04}", cpus, RANKS_PER_NODE, addresses, "net:[4026531840]")


async def lead(ranks: int, transport: str) -> tuple[float, float, Counter[str]]:
    """Start and end a job; give the CPU seconds of both, and the bytes of all messages."""
    address = "10.0.0.1"
    cluster = m.Cluster(
        f"tls://{address}:40000",
        make_security(True),
        f"http://{address}:8787/status",
        f"ssh -N -L 8787:{address}:8787 user@login",
    )
    comm = SimulatedRanks(ranks, cluster)
    options = Options.resolve({"transport": transport})
    leader = leaders.Leader(comm, assign_roles(ranks), options, print)
    before = time.process_time()
    await leader.start(Deadline(300))
    started = time.process_time()
    await leader.end(m.End(0, leave=True))
    return started - before, time.process_time() - started, comm.bytes


def measure_leader(numbers: list[int]) -> str:
    """Write the table of the leader's work."""
    leaders.SchedulerWatch = NoWatch  # type: ignore[misc]
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
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    first, last = map(float, (directory / "result").read_text().split())
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    seconds = [first - started, last - first, ended - last, ended - started, cpu]
    return dict(zip(MEASURES, seconds, strict=True))


def measure_job(ranks: int, rounds: int) -> str:
    """Write the table of a job of real ranks."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(rounds):
            for name in PROGRAMS:
                runs[name].append(run_job(name, ranks, Path(directory)))
                print(name, runs[name][-1], flush=True)
    lines = ["| | mpidask | dask-mpi | mpidask : dask-mpi |", "| --- | ---: | ---: | ---: |"]
    for measure in MEASURES:
        ours, theirs = ([run[measure] for run in runs[name]] for name in PROGRAMS)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        medians = f"{statistics.median(ours):.1f} | {statistics.median(theirs):.1f}"
        lines.append(f"| {measure}, s | {medians} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


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
        (ranks,) = options.ranks or [128]
        name, text = "ranks-job", measure_job(ranks, options.rounds)
    text += f"\n*{machine(mpi_library(), options.rounds)}*\n"
    (DOCS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
