"""A large value for all tasks on two hosts: broadcast, `scatter(broadcast=True)` and MPI.

    python tests/benchmarks/broadcast_between_hosts.py

It needs what between_hosts.py needs, whose hosts these are. The bytes that arrive at the second
host are counted by the kernel, for its end of the cable. One cable has the speed of 10 Gigabit
Ethernet (the command `tc` limits it), and one is as fast as the CPUs, which do all its work. The
tables go to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from between_hosts import WAYS_ON_HOSTS as WAYS
from between_hosts import hosts, mpirun_on_hosts
from broadcast import BROADCAST, CLUSTER, COMMON, SCATTER
from compare import DOCS, machine, mpi_library
from transport import Run, run

CABLE = """
def arrived():
    return int(Path("/sys/class/net/cable/statistics/rx_bytes").read_text())
"""

#: From the rank that is the client's in a cluster, to new memory of the second host's first rank.
RAW = f"""{COMMON}{CABLE}
from mpi4py import MPI

sizes, repeats = arguments
world, found = MPI.COMM_WORLD, {{}}
comm = world.Split(0 if world.rank in (1, world.size // 2) else MPI.UNDEFINED)

def send(data):
    SEND
    comm.Barrier()

for mib in sizes if comm else ():
    before, times = comm.bcast(arrived(), 1), []
    for n in range(repeats):
        data = np.ones(mib * MIB, "u1") if comm.rank == 0 else np.empty(mib * MIB, "u1")
        comm.Barrier()
        times.append(seconds(send, data)[0])
        del data
    found[f"{{mib}} MiB, s"] = statistics.median(times)
    crossed = comm.bcast(arrived(), 1) - before
    found[f"{{mib}} MiB, times through the cable"] = crossed / repeats / mib / MIB
if world.rank == 1:
    Path("result").write_text(json.dumps(found))
"""

PROGRAM = f"""{CABLE}
def main(client):
    sizes, repeats, ranks = arguments
    client.wait_for_workers(ranks - 2)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    [here] = client.run_on_scheduler(lambda dask_scheduler: [dask_scheduler.ip])
    far = next(one for one in workers if workers[one]["host"] != here)

    def crossed():
        return client.run(arrived, workers=[far])[far]

    found = {{}}
    for mib in [1, *sizes]:
        data, times, before = np.ones(mib * MIB, "u1"), [], crossed()
        for n in range(repeats):
            taken, sent = seconds(send, client, data)
            times.append(taken)
            if n == repeats - 1:
                through = (crossed() - before) / repeats / mib / MIB
                assert sum_of_all(client, sent) == {{mib * MIB}}
            free(sent)
            time.sleep(SETTLE)
        found[f"{{mib}} MiB, s"] = statistics.median(times)
        found[f"{{mib}} MiB, times through the cable"] = through
    Path("result").write_text(json.dumps(found))
"""

_BROADCAST = CLUSTER + BROADCAST + PROGRAM
#: What values are sent by, and the program that does.
PROGRAMS = {
    "MPI.Bcast": RAW.replace("SEND", "comm.Bcast(data, 0)"),
    "MPI.Send": RAW.replace("SEND", "comm.Send(data, 1) if comm.rank == 0 else comm.Recv(data, 0)"),
    "scatter, dask-mpi": CLUSTER + SCATTER + PROGRAM + WAYS["dask-mpi"],
    "broadcast": _BROADCAST + WAYS["default"],
    'broadcast, transport="mpi"': _BROADCAST + WAYS['transport="mpi"'],
    'broadcast, transport="socket"': _BROADCAST + WAYS["socket"],
    'broadcast, transport="socket", security=False': _BROADCAST + WAYS["socket, security=False"],
}


def measure(options: argparse.Namespace, directory: Path) -> dict[str, list[Run]]:
    """Give the runs by each way, made in turn."""
    results: dict[str, list[Run]] = {way: [] for way in PROGRAMS}
    for n in range(options.rounds):
        for way, runs in results.items():
            sizes = [options.sizes, options.repeats, *[options.ranks][way.startswith("MPI.") :]]
            program = PROGRAMS[way]
            runs.append(run(program, options.ranks, directory, *sizes, command=mpirun_on_hosts))
            print(f"round {n + 1}, {way}: {runs[-1]}", flush=True)
    return results


def table(results: dict[str, list[Run]], gigabits: int) -> str:
    """Write a row for each measure."""
    cable = f"{gigabits} Gbit/s" if gigabits else "no limit"
    lines = [f"| {cable} | {' | '.join(results)} |", f"| --- | {'---: | ' * len(results)}".rstrip()]
    raw = results["MPI.Bcast"]
    for measure in raw[0]:
        medians = [statistics.median(one[measure] for one in runs) for runs in results.values()]
        lines.append(f"| {measure} | {' | '.join(f'{median:.2g}' for median in medians)} |")
    for measure in (one for one in raw[0] if one.endswith(" s")):
        ratios = [
            statistics.median(a[measure] / b[measure] for a, b in zip(raw, runs, strict=True))
            for runs in results.values()
        ]
        label = f"{measure.removesuffix(', s')}, speed : MPI.Bcast"
        lines.append(f"| {label} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 512], help="MiB")
    parser.add_argument("--gigabits", type=int, nargs="+", default=[10, 0], help="0: no limit")
    parser.add_argument("--ranks", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    library = mpi_library()
    if "Open MPI" not in library:
        sys.exit("this needs Open MPI")
    parts = []
    for gigabits in options.gigabits:
        with tempfile.TemporaryDirectory() as directory, hosts(gigabits):
            parts.append(table(measure(options, Path(directory)), gigabits))
    text = "\n\n".join([*parts, f"*{machine(library, options.rounds)}*"]) + "\n"
    (DOCS / "broadcast-between-hosts.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
