"""Thousands of gangs of random ranks, from three clients, among ordinary tasks.

    mpirun -n 6 python tests/programs/soak_gangs.py --gangs 2000 --tasks 20000

Checks all results. Prints the memory of all ranks, and how many communicators are in use on
those of the workers, at the start, in the middle and at the end: neither may grow, but for
the communicators of gangs that failed, which are kept (`mpidask._gang.execution`). With
``--failing 0`` there are none. (pytest does not collect this file.)
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from distributed import Client
from mpi4py import MPI

from mpidask import MPITaskError, PerRank, mpi_dask_main, submit_mpi

CLIENTS = 3
#: Gangs of one client that are on their way at once.
WINDOW = 12
#: Of gangs: how many split their communicator.
SPLITTING = 0.1


def member(comm, number, own, splits):
    """Talk to all others, as solvers do, and tell who they are."""
    ranks = comm.allgather((MPI.COMM_WORLD.Get_rank(), own))
    if splits:
        half = comm.Split(comm.Get_rank() % 2)
        assert half.allreduce(1) == (comm.Get_size() + 1 - comm.Get_rank() % 2) // 2
        half.Free()
    right = (comm.Get_rank() + 1) % comm.Get_size()
    comm.sendrecv(number, right, source=(comm.Get_rank() - 1) % comm.Get_size())
    return number, comm.Get_rank(), ranks


def fail(comm, number):
    comm.Barrier()
    raise LookupError(number)


def square(x):
    return x * x


def submit(client, number, dice, workers, failing):
    """Submit a gang, and give what tells whether it is right."""
    ranks = dice.sample(workers, dice.randint(1, len(workers)))
    wanted = dice.choice([ranks, len(ranks)])
    if dice.random() < failing:
        return number, None, submit_mpi(fail, number, ranks=wanted, client=client)
    own = client.map(square, [number + n for n in range(len(ranks))], pure=False)
    splits = dice.random() < SPLITTING
    futures = submit_mpi(member, number, PerRank(own), splits, ranks=wanted, client=client)
    return number, wanted, futures


def check(client, number, wanted, futures):
    """Raise unless the gang ran on its ranks, with its own arguments."""
    if wanted is None:
        for future in futures:
            error = future.exception(timeout=300)
            assert isinstance(error, MPITaskError), error
            assert isinstance(error.__cause__, LookupError), error
            assert error.__cause__.args == (number,), error
        return
    for n, (known, rank, all_ranks) in enumerate(client.gather(futures)):
        assert (known, rank) == (number, n), (known, rank, number, n)
        there, own = zip(*all_ranks, strict=True)
        assert own == tuple(square(number + m) for m in range(len(futures))), own
        assert list(there) == wanted or len(set(there)) == wanted, (there, wanted)


def work(client, seed, gangs, tasks, workers, failing):
    """Run a part of all gangs and tasks by one client, and tell how many gangs failed."""
    dice, waiting, ordinary, failed = random.Random(seed), [], [], 0
    for number in range(gangs):
        ordinary.append(client.map(square, range(tasks // gangs), pure=False))
        waiting.append(submit(client, 1000 * seed + number, dice, workers, failing))
        failed += waiting[-1][1] is None
        while len(waiting) > (WINDOW if number < gangs - 1 else 0):
            check(client, *waiting.pop(dice.randrange(len(waiting))))
            assert client.gather(ordinary.pop(0)) == [square(x) for x in range(tasks // gangs)]
    return failed


def in_use():
    """Give the memory of this rank, in MiB, and how many communicators are in use."""
    gc.collect()
    probe = MPI.COMM_SELF.Dup()
    number = probe.py2f() & 0xFFFF  # both MPIs give the next free number
    probe.Free()
    return psutil.Process().memory_info().rss >> 20, number


def report(client, when):
    """Print what is in use on the ranks, and give the communicators."""
    on_workers = client.run(in_use).values()
    scheduler = client.run_on_scheduler(in_use)[0]
    here, others = in_use()[0], [memory for memory, _ in on_workers]
    communicators = [number for _, number in on_workers]
    print(
        f"{time.strftime('%H:%M:%S')} {when}: MiB of workers {others}, scheduler {scheduler}, "
        f"client {here}; communicators of workers {communicators}",
        flush=True,
    )
    return communicators


@mpi_dask_main(dashboard=False)
def main(client):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gangs", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--failing", type=float, default=0.03, help="share of all gangs")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    workers = list(range(2, MPI.COMM_WORLD.Get_size()))
    clients = [client, *(Client() for _ in range(CLIENTS - 1))]
    parts = [options.gangs // 10, options.gangs * 45 // 100, options.gangs * 45 // 100]
    started, uses, failed = time.monotonic(), [], 0
    with ThreadPoolExecutor(CLIENTS) as threads:
        for part, when in zip(parts, ("start", "middle", "end"), strict=True):
            tasks = options.tasks * part // options.gangs // CLIENTS
            seeds = [options.seed + CLIENTS * len(uses) + n for n in range(CLIENTS)]
            running = [
                threads.submit(work, one, seed, part // CLIENTS, tasks, workers, options.failing)
                for one, seed in zip(clients, seeds, strict=True)
            ]
            failed += sum(each.result() for each in running)
            uses.append(report(client, when))
    for other in clients[1:]:
        other.close()
    gangs = sum(part // CLIENTS * CLIENTS for part in parts)
    print(
        f"{gangs} gangs, of which {failed} failed as they should, and {options.tasks} "
        f"tasks: {time.monotonic() - started:.0f} s"
    )
    # A gang that failed keeps its communicator and mpi4py's copy of it. MPICH has one more
    # inside each that has several ranks of a node.
    if max(uses[-1]) > max(uses[0]) + 4 * failed + 4:
        sys.exit("communicators are left")


main()
