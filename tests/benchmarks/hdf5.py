"""Write an array from four ranks: to_hdf5, plain h5py on MPI, to_zarr, and dask's own to_hdf5.

    tox -e py-libraries --notest
    .tox/py-libraries/bin/pip install dask-mpi zarr
    .tox/py-libraries/bin/python tests/benchmarks/hdf5.py

The programs run in turn, with the blocks in memory; dask's own has all of them in one process. The
times are from the call to the closed file, which the system may not have written to its disk yet.
The table goes to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import DOCS, machine

RANKS = 4
#: Of a block: 32 MiB.
ROWS, COLUMNS = 1024, 4096

HEAD = f"""
import json, sys, time
from pathlib import Path
import h5py
import numpy as np

BLOCKS, ROWS, COLUMNS = int(sys.argv[1]), {ROWS}, {COLUMNS}

def block(number):
    return np.random.default_rng(number).random((ROWS, COLUMNS))

def timed(way, write):
    started = time.perf_counter()
    write()
    Path(way).write_text(json.dumps(time.perf_counter() - started))

def array():
    import dask.array as da

    chunks = (ROWS,) * BLOCKS, (COLUMNS,)
    return da.map_blocks(lambda block_id=None: block(block_id[0]), chunks=chunks, dtype=float)
"""

ON_CLUSTER = """
from distributed import wait
from mpidask import mpi_dask_main, to_hdf5

@mpi_dask_main(nthreads=1, dashboard=False)
def main(client):
    x = array().persist()
    wait(x)
    timed("to_hdf5", lambda: to_hdf5("ours.h5", {"/x": x}))
    timed("to_zarr", lambda: x.to_zarr("x.zarr", compressors=None))

main()
"""
ON_RANKS = """
from mpi4py import MPI

comm = MPI.COMM_WORLD
mine = {number: block(number) for number in np.array_split(range(BLOCKS), comm.size)[comm.rank]}

def write():
    with h5py.File("plain.h5", "w", driver="mpio", comm=comm) as file:
        shape = BLOCKS * ROWS, COLUMNS
        x = file.create_dataset("x", shape, float, chunks=(ROWS, COLUMNS))
        for number, values in mine.items():
            x[number * ROWS : (number + 1) * ROWS] = values
    comm.Barrier()

comm.Barrier()
timed("plain" if comm.rank == 0 else f"rank {comm.rank}", write)
"""
ALONE = """
import dask
import dask.array as da

with dask.config.set(scheduler="threads"):
    x = array().persist()
    timed("dask", lambda: da.to_hdf5("dask.h5", "/x", x))
"""
WAYS = {
    "plain": "h5py on MPI, without Dask",
    "to_hdf5": "`mpidask.to_hdf5`",
    "to_zarr": "`Array.to_zarr`, without compression, a file for each block",
    "dask": "`dask.array.to_hdf5`, one process that has all blocks",
}


def run(blocks: int, directory: Path) -> dict[str, float]:
    """Run each program once, and give the seconds of each way."""
    launcher = os.environ.get("MPIDASK_TEST_LAUNCHER", "mpirun.openmpi")
    for program, ranks in (ON_RANKS, RANKS), (ON_CLUSTER, RANKS + 2), (ALONE, 1):
        path = directory / "program.py"
        path.write_text(HEAD + program)
        command = [launcher, "-n", str(ranks), sys.executable, path, str(blocks)]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"status {done.returncode}: {command}\n{done.stderr}")
        if "takes longer" in done.stderr:
            sys.exit("h5py is built without parallel HDF5")
        os.sync()  # not beside the next one
    return {way: json.loads((directory / way).read_text()) for way in WAYS}


def table(rounds: list[dict[str, float]], blocks: int) -> str:
    """Write the table: the medians of the speeds, and of their ratios in each round."""
    size = 8 * ROWS * COLUMNS * blocks
    lines = ["| way | GB/s | : h5py on MPI |", "| --- | ---: | ---: |"]
    for way, name in WAYS.items():
        speed = statistics.median(size / 1e9 / seconds[way] for seconds in rounds)
        ratio = statistics.median(seconds["plain"] / seconds[way] for seconds in rounds)
        lines.append(f"| {name} | {speed:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=4, help="GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--output", type=Path, default=DOCS, help="directory")
    options = parser.parse_args()
    blocks = max(RANKS, round(options.size * 1e9 / (8 * ROWS * COLUMNS)))
    rounds = []
    for _ in range(options.rounds):
        directory = Path(tempfile.mkdtemp(dir=options.directory))
        try:
            rounds.append(run(blocks, directory))
        finally:
            shutil.rmtree(directory)
        print(rounds[-1], flush=True)
    note = f"{options.size:g} GB from {RANKS} ranks. {machine('Open MPI 4.1.4', options.rounds)}"
    text = f"{table(rounds, blocks)}\n\n*{note}*\n"
    (options.output / "hdf5.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
