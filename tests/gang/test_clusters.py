"""Many gangs at once, and all kinds of clusters."""

from __future__ import annotations

import pytest

MANY = """
import random

def numbered(comm, n, seconds):
    "Right only if all ranks are in the same gang"
    time.sleep(seconds)
    assert comm.allreduce(n) == n * comm.size
    assert comm.alltoall(list(range(comm.size))) == [comm.rank] * comm.size
    return n, comm.rank, comm.size

def load(client, seed, count, errors):
    chance = random.Random(seed)
    workers = [2, 3, 4, 5]
    pending, tasks = [], []
    for n in range(count):
        ranks = chance.sample(workers, chance.randint(1, 4))
        if chance.random() < 0.4:
            ranks = len(ranks)
        x = client.submit(lambda x: x, n, pure=False)
        seconds = chance.random() / 200
        pending.append((n, submit_mpi(numbered, x, seconds, ranks=ranks, client=client)))
        tasks += client.map(lambda x: time.sleep(0.001) or x, range(5), pure=False)
    for n, futures in pending:
        expected = [(n, rank, len(futures)) for rank in range(len(futures))]
        if client.gather(futures) != expected:
            errors.append((n, futures))
    assert client.gather(tasks) == [*range(5)] * count

def loads(clients, count):
    "Gangs from several clients at once"
    errors = []
    threads = [
        threading.Thread(target=load, args=(client, seed, count, errors))
        for seed, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""


@pytest.mark.parametrize("nthreads", [1, 2])
def test_many_overlapping_gangs_of_several_clients(passes, nthreads):
    passes(
        MANY
        + f"""
with mpi_dask(nthreads={nthreads}) as client:
    with Client(set_as_default=False) as second, Client(set_as_default=False) as third:
        loads([client, second, third], 40)
    works(client)
    print("good")
""",
        ranks=6,
    )


def test_together_with_transport_by_mpi(passes):
    passes(
        MANY
        + """
def moves(comm, array):
    return comm.allreduce(float(array.sum()))

with mpi_dask(transport="mpi", nthreads=2) as client:
    loads([client], 20)
    for n in range(10):
        arrays = submit_mpi(lambda comm: np.full(200_000, comm.rank + 1.0))
        turned = submit_mpi(moves, PerRank(arrays[::-1]), ranks=[2, 3, 4, 5])
        assert client.gather(turned) == [2e6] * 4
        assert client.submit(lambda a: sum(x.sum() for x in a), arrays).result() == 2e6
    print("good")
""",
        ranks=6,
        env={"MPIDASK_TRANSPORT_THRESHOLD": "0"},
    )


@pytest.mark.essential
def test_two_clusters_in_a_row(passes):
    passes(
        """
        from mpi4py import MPI

        for n in range(3):
            with mpi_dask(exit=False) as client:
                if client is not None:
                    works(client)
                    assert client.gather(submit_mpi(where, ranks=[3, 2])) == [3, 2]
                    error_of(submit_mpi(lambda comm: 1 / 0)[0])
                    works(client)
            assert MPI.COMM_WORLD.allreduce(1) == 4
        if MPI.COMM_WORLD.rank == 1:
            print("good")
        """,
        lines=3,
    )


def test_another_cluster_where_that_of_the_job_was(passes):
    passes(
        """
        from distributed import LocalCluster

        with mpi_dask(exit=False, security=False) as client:
            if client is not None:
                works(client)
                address = client.scheduler.address
        if client is not None:
            port = int(address.rpartition(":")[2])
            options = dict(scheduler_port=port, processes=False, dashboard_address=":0")
            with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as alone:
                assert cluster.scheduler_address == address
                (future,) = submit_mpi(total, client=alone)
                assert future.result(timeout=60) == 1
            print("good")
        """
    )


def test_clusters_on_parts_of_the_job(begin):
    """Ranks are those of the cluster's communicator."""
    result = begin(
        """
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        half = world.Split(world.rank % 2, -world.rank)
        with mpi_dask(comm=half, exit=False) as client:
            if client is not None:
                works(client)
                n = world.rank % 2
                assert client.gather(submit_mpi(where, ranks=[2, 3])) == [n + 2, n]
        world.Barrier()
        print("good")
        """,
        ranks=8,
    ).result()
    assert result.status == 0, result.stderr
    assert result.stdout == "good\n" * 8


def test_ranks_that_are_scheduler_and_client_and_worker(passes):
    passes(
        """
        with mpi_dask(exclusive_workers=False, client_rank=0, nthreads=2) as client:
            works(client)
            assert client.gather(submit_mpi(where)) == [0, 1]
            error_of(submit_mpi(lambda comm: 1 / 0)[0])
            works(client)
            print("good")
        """,
        ranks=2,
    )


def test_ordinary_tasks_go_on_while_a_gang_waits(passes):
    passes(
        """
        with mpi_dask(nthreads=1) as client:
            first = submit_mpi(stays, "first", ranks=[2])
            until(exists("first-started"))
            gang = submit_mpi(total)
            # Also of other gangs, which want no rank of those that wait.
            assert client.gather(client.map(abs, range(100))) == [*range(100)]
            print_once("first")
            assert client.gather(gang) == [3] * 3
            print("good")
        """,
        ranks=5,
    )


def test_dasks_timeout_for_tasks_without_workers_is_not_for_gangs(passes):
    passes(
        """
        with mpi_dask(nthreads=1) as client:
            first = submit_mpi(stays, "first", ranks=[2])
            until(exists("first-started"))
            gang = submit_mpi(total)
            nowhere = client.submit(abs, 1, workers=["nowhere"])
            assert "NoValidWorker" in type(nowhere.exception(timeout=60)).__name__
            time.sleep(1)
            print_once("first")
            assert client.gather(gang) == [2, 2]
            print("good")
        """,
        env={
            "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "1s",
            "DASK_MPIDASK__LOG_LEVEL": "critical",
        },
    )


def test_workers_that_come_later(passes):
    passes(
        """
        with mpi_dask(wait_for_workers=False) as client:
            works(client)
            print("good")
        """,
        ranks=6,
    )
