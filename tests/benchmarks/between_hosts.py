"""Data from worker to worker between two hosts: network namespaces, joined by a virtual cable.

    python tests/benchmarks/between_hosts.py

It needs Linux, its command `ip`, root, and Open MPI: MPICH's UCX finds no way between namespaces.
The table goes to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compare import DOCS, machine, mpi_library
from transport import RAW, TRANSFERS, WAYS, Run, run, table

#: On each of both hosts.
_RANKS = 3
_ADDRESSES = "10.77.0.1", "10.77.0.2"

#: Runs a command on a host: its number, then the command. MPI finds no memory to share there.
_ON_HOST = """#!/bin/sh
export host=$1; shift
exec ip netns exec mpidask-$host unshare --uts --ipc --pid --fork --kill-child --mount-proc \\
    sh -c 'mount -t tmpfs none /dev/shm; hostname host-$host; exec "$@"' - "$@"
"""

#: Stands for ssh: takes options, an address and a command.
_AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=${1##*.}; shift
exec "$(dirname "$0")/on-host" $host sh -c "$*"
"""

#: How each cluster comes up; dask-mpi finds no network where none leads outside.
WAYS_ON_HOSTS = {
    **WAYS,
    "dask-mpi": WAYS["dask-mpi"].replace("nanny=False", 'nanny=False, interface="cable"'),
    'transport="mpi"': """
from mpidask import mpi_dask
with mpi_dask(transport="mpi") as client:
    main(client)
""",
}


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def _limit(name: str, gigabits: int) -> None:
    shaper = f"tbf rate {gigabits}gbit burst 4mb latency 50ms"
    tc = f"tc -n {name} qdisc add dev cable root {shaper}"
    subprocess.run(tc.split(), check=True)


@contextlib.contextmanager
def hosts(gigabits: int = 0) -> Iterator[None]:
    """Have two hosts, with a cable of so many Gbit/s, or as fast as the CPUs are."""
    names = "mpidask-1", "mpidask-2"
    try:
        for name in names:
            _ip(f"netns add {name}")
        _ip("link add cable netns mpidask-1 type veth peer name cable netns mpidask-2")
        for name, address in zip(names, _ADDRESSES, strict=True):
            _ip(f"-n {name} address add {address}/24 dev cable")
            _ip(f"-n {name} link set cable up")
            _ip(f"-n {name} link set lo up")
            if gigabits:
                _limit(name, gigabits)
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name])


def mpirun_on_hosts(ranks: int, program: str, directory: Path) -> list[str]:
    """Write a program, and give the command that runs it on both hosts."""
    path, agent, on_host = (directory / name for name in ("program.py", "agent", "on-host"))
    path.write_text(program)
    for script, text in ((agent, _AGENT), (on_host, _ON_HOST)):
        script.write_text(text)
        script.chmod(0o755)
    (directory / "result").unlink(missing_ok=True)
    each = ranks // len(_ADDRESSES)
    places = ",".join(f"{address}:{each}" for address in _ADDRESSES)
    options = ["--prtemca", "plm_ssh_agent", str(agent), "--host", places, "-x", "PATH"]
    options += ["--map-by", f"ppr:{each}:node:OVERSUBSCRIBE", "--bind-to", "none"]
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), *options]
    return [str(on_host), "1", *mpirun, sys.executable, str(path)]


def measure(options: argparse.Namespace, directory: Path) -> dict[str, list[Run]]:
    """Give the runs by each way, made in turn."""
    ranks, sizes = 2 * _RANKS, [options.sizes, options.repeats]
    results: dict[str, list[Run]] = {"raw MPI": [], **{way: [] for way in WAYS_ON_HOSTS}}
    for n in range(options.rounds):
        results["raw MPI"].append(run(RAW, ranks, directory, sizes, command=mpirun_on_hosts))
        for way, start in WAYS_ON_HOSTS.items():
            program = TRANSFERS + start
            results[way].append(run(program, ranks, directory, sizes, command=mpirun_on_hosts))
        print(f"round {n + 1}:", {way: runs[-1] for way, runs in results.items()}, flush=True)
    return results


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 128], help="MiB")
    parser.add_argument("--repeats", type=int, default=5, help="of each transfer, after a first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=DOCS, help="directory")
    options = parser.parse_args()
    library = mpi_library()
    if "Open MPI" not in library:
        sys.exit("this needs Open MPI")
    with tempfile.TemporaryDirectory() as directory, hosts():
        results = measure(options, Path(directory))
    text = "\n\n".join(
        [table(results, "GB/s", against="socket"), f"*{machine(library, options.rounds)}*\n"]
    )
    (options.output / "between-hosts.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
