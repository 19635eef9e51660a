"""A large value for all tasks: broadcast, `scatter(broadcast=True)`, MPI and a copy in memory.

    tox -e bench            # MPICH, with the other benchmarks
    tox -e bench-openmpi    # Open MPI

A value has arrived when the client's rank and all workers can read it. Copies are the memory of all
ranks (PSS: what processes share is divided among them) by then, over the size of the value. The
programs run in turn, so that what else the machine does hits all of them alike. Each number is a
median over the rounds, and each ratio the median of the ratios of the rounds. The tables go to
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from compare import DOCS, machine, mpi_library
from transport import WAYS, Run, run

COMMON = """
import ctypes, gc, json, statistics, sys, time
from pathlib import Path
import numpy as np
import psutil

arguments = [json.loads(argument) for argument in sys.argv[1:]]
SETTLE = 0.3  # seconds for all processes to have dropped a value
MIB = 2**20

def pss():
    ctypes.CDLL(None).malloc_trim(0)  # else the memory of what is gone may stay
    return psutil.Process().memory_full_info().pss

def seconds(function, *args):
    started = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - started, result
"""

#: Into new memory of each rank but the first one, where a cluster has its scheduler.
RAW = f"""{COMMON}
from mpi4py import MPI

sizes, repeats = arguments
comm, found = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.rank > 0), {{}}

def bcast(data):
    comm.Bcast(data, 0)
    comm.Barrier()

for mib in sizes if MPI.COMM_WORLD.rank > 0 else ():
    before, times = comm.allreduce(pss()), []
    for n in range(repeats):
        data = np.ones(mib * MIB, "u1") if comm.rank == 0 else np.empty(mib * MIB, "u1")
        comm.Barrier()
        times.append(seconds(bcast, data)[0])
    found[f"{{mib}} MiB, s"] = statistics.median(times)
    found[f"{{mib}} MiB, summed by each, s"] = seconds(lambda: (data.sum(), comm.Barrier()))[0]
    found[f"{{mib}} MiB, copies"] = (comm.allreduce(pss()) - before) / MIB / mib
    del data
if MPI.COMM_WORLD.rank == 1:
    Path("result").write_text(json.dumps(found))
"""

CLUSTER = f"""{COMMON}
def memory(client):
    return pss() + client.run_on_scheduler(pss) + sum(client.run(pss).values())
"""

#: What differs: how a value gets to the workers, and how they and the client's rank read it.
SCATTER = """
def send(client, data):
    return client.scatter(data, broadcast=True)

def sum_of_all(client, future):
    def total(key, dask_worker):
        return int(dask_worker.data[key].sum())
    return set(client.run(total, future.key).values())

def only_one(data, future):
    return data  # the client's rank has no other

def free(future):
    future.release()
"""
BROADCAST = """
def send(client, data):
    from mpidask import broadcast
    return broadcast(data)

def sum_of_all(client, handle):
    return set(client.run(lambda handle: int(handle.value.sum()), handle).values())

def only_one(data, handle):
    return handle.value  # instead of what was broadcast

def free(handle):
    handle.free()
"""

PROGRAM = """
def main(client):
    sizes, repeats, ranks = arguments
    client.wait_for_workers(ranks - 2)
    sent = send(client, np.ones(MIB, "u1"))
    assert sum_of_all(client, sent) == {MIB}
    free(sent)
    found = {}
    for mib in sizes:
        time.sleep(SETTLE)
        before, copies, times = memory(client), [], []
        data = np.ones(mib * MIB, "u1")
        for n in range(repeats):
            copies.append(seconds(data.copy)[0])
            taken, sent = seconds(send, client, data)
            times.append(taken)
            if n < repeats - 1:
                free(sent)
                time.sleep(SETTLE)
        found[f"{mib} MiB, s"] = statistics.median(times)
        found[f"{mib} MiB, s, copied"] = statistics.median(copies)
        taken, sums = seconds(sum_of_all, client, sent)
        found[f"{mib} MiB, summed by each, s"] = taken
        data = only_one(data, sent)
        assert sums == {int(data.sum())} == {mib * MIB}
        found[f"{mib} MiB, copies"] = (memory(client) - before) / MIB / mib
        del data
        free(sent)
    Path("result").write_text(json.dumps(found))
"""

#: Values that are not one large array.
SMALL = """
import pandas as pd

def table(rows):
    numbers = np.random.default_rng(0)
    kinds = [
        lambda: numbers.random(rows),
        lambda: numbers.integers(0, 1000, rows),
        lambda: numbers.random(rows) > 0.5,
        lambda: pd.array(numbers.integers(0, 1000, rows).astype(str), dtype="str"),
    ]
    return pd.DataFrame({f"column {n}": kinds[n % 4]() for n in range(100)}, copy=False)

def first_value(handle):
    return 1000 * seconds(lambda: handle.value)[0]

def first_values(client, frame):
    handle, workers = send(client, frame), client.scheduler_info(n_workers=-1)["workers"]
    found = [client.run(first_value, handle, workers=[one])[one] for one in workers]
    handle.free()
    return statistics.median(found)

def files(*, dask_worker=None):
    return psutil.Process().num_fds()

def files_of_all(client):
    return files() + client.run_on_scheduler(files) + sum(client.run(files).values())

def main(client):
    ranks, = arguments
    client.wait_for_workers(ranks - 2)
    frame, found = table(100_000), {}
    client.run(lambda: __import__("pandas"))
    found["first `.value` of a table of 100 columns, ms"] = first_values(client, frame)
    times = pd.date_range("2000", periods=len(frame), freq="min")
    frame = frame.assign(**{f"column {n}": times for n in range(0, 100, 5)})
    found["the same, where 20 of them have times, ms"] = first_values(client, frame)
    data = np.ones(MIB, "u1")

    def one():
        handle = send(client, data)
        handle.free()

    for _ in range(100):
        one()
    time.sleep(SETTLE)
    gc.collect()
    before, files_before = memory(client), files_of_all(client)
    taken, _ = seconds(lambda: [one() for _ in range(1000)])
    time.sleep(SETTLE)
    gc.collect()
    found["1,000 times 1 MiB, each freed: ms for one"] = taken
    found["1,000 times 1 MiB, each freed: MiB that all ranks have grown"] = (
        memory(client) - before
    ) / MIB
    found["1,000 times 1 MiB, each freed: files that more are open"] = (
        files_of_all(client) - files_before
    )
    Path("result").write_text(json.dumps(found))
"""

#: What values are sent by, and the program that does.
PROGRAMS = {
    "MPI.Bcast": RAW,
    "scatter, dask-mpi": CLUSTER + SCATTER + PROGRAM + WAYS["dask-mpi"],
    "scatter": CLUSTER + SCATTER + PROGRAM + WAYS["default"],
    "broadcast": CLUSTER + BROADCAST + PROGRAM + WAYS["default"],
}


def measure(options: argparse.Namespace, directory: Path) -> dict[int, dict[str, list[Run]]]:
    """Give the runs for each number of ranks and each way, made in turn."""
    results: dict[int, dict[str, list[Run]]] = {
        ranks: {way: [] for way in PROGRAMS} for ranks in options.ranks
    }
    for n in range(options.rounds):
        for ranks, ways in results.items():
            for way, runs in ways.items():
                arguments = [options.sizes, options.repeats, *[ranks][way == "MPI.Bcast" :]]
                runs.append(run(PROGRAMS[way], ranks, directory, *arguments))
                print(f"{ranks} ranks, round {n + 1}, {way}: {runs[-1]}", flush=True)
    return results


def table(results: dict[int, dict[str, list[Run]]]) -> str:
    """Write a row for each measure and number of ranks."""
    lines = [
        f"| | ranks | copy in memory | {' | '.join(PROGRAMS)} | broadcast : copy in memory "
        "| broadcast : scatter, dask-mpi |",
        f"| --- | {'---: | ' * (len(PROGRAMS) + 4)}".rstrip(),
    ]
    measures = next(iter(results.values()))["MPI.Bcast"][0]
    for measure in measures:
        for ranks, ways in results.items():
            columns = {way: [run[measure] for run in runs] for way, runs in ways.items()}
            runs = ways["broadcast"]
            copied = [run[key] for run in runs if (key := f"{measure}, copied") in run]
            cells = [measure, str(ranks), *map(_median, [copied, *columns.values()])]
            cells += [_ratio(columns["broadcast"], copied)]
            cells += [_ratio(columns["broadcast"], columns["scatter, dask-mpi"])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.2g}" if values else ""


def _ratio(ours: list[float], theirs: list[float]) -> str:
    if not theirs:
        return ""
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


def table_of_small(rounds: list[Run], ranks: int) -> str:
    """Write a row for each measure of values that are not one large array."""
    lines = [f"| `broadcast`, {ranks} ranks | |", "| --- | ---: |"]
    for measure in rounds[0]:
        lines.append(f"| {measure} | {_median([run[measure] for run in rounds])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[16, 512], help="MiB; 2048 takes 30 GiB of memory"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    library = mpi_library()
    small = CLUSTER + BROADCAST + SMALL + WAYS["default"]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        results = measure(options, directory)
        ranks = options.ranks[0]
        rounds = [run(small, ranks, directory, ranks) for _ in range(options.rounds)]
    parts = [table(results), table_of_small(rounds, ranks), f"*{machine(library, options.rounds)}*"]
    text = "\n\n".join(parts) + "\n"
    path = DOCS / f"broadcast-{library.rsplit(' ', 1)[0].replace(' ', '').lower()}.md"
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
