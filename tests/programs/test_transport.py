"""Data by MPI, in whole programs: it arrives, it went by MPI, and the job ends in peace."""

from __future__ import annotations

import pytest

#: What the programs share.
PRELUDE = """
import contextlib, os, sys, time
import numpy as np
import mpidask
from mpidask import _transport, mpi_dask, mpi_dask_main

MIB = 2**20

def array(nbytes, seed=0):
    return np.random.default_rng(seed).integers(0, 255, nbytes, dtype="u1")

def workers(client):
    return list(client.scheduler_info(n_workers=-1)["workers"])

def sent(client):
    "MiB that the workers have sent by MPI"
    return sum(traffic["sent"] for traffic in client.run(_transport.traffic).values()) // MIB

def received():
    "MiB that this rank has received by MPI"
    return _transport.traffic()["received"] // MIB

def move(client, nbytes=64 * MIB, seed=0):
    "Move an array from one worker to another, and see that it has arrived"
    one, other = workers(client)[:2]
    there = client.submit(array, nbytes, seed, workers=[one], pure=False)
    equal = lambda x: np.array_equal(x, array(nbytes, seed))
    assert client.submit(equal, there, workers=[other], pure=False).result()
"""

#: Every message goes by MPI.
ALL = {"MPIDASK_TRANSPORT_THRESHOLD": "0"}
LIMIT = 170


@pytest.fixture
def passes(run):
    """Run a program that must end well, and say nothing but the one line; give that."""

    def passes(program, *args, ranks=4, lines=1, **kwargs):
        result = run(indented(program), *args, ranks=ranks, limit=LIMIT, **kwargs)
        assert result.status == 0, result.stderr
        assert result.stdout.splitlines() == ["good"], result.stdout + result.stderr
        assert len(result.messages) == lines, result.stderr
        return "\n".join(result.messages)

    return passes


def indented(program):
    import textwrap

    return PRELUDE + textwrap.dedent(program)


@pytest.mark.parametrize("security", [True, False])
def test_from_worker_to_worker(passes, security):
    line = passes(
        f"""
        with mpi_dask(transport="mpi", security={security}) as client:
            assert all(address.startswith("mpi://") for address in workers(client))
            assert client.scheduler.address.startswith("{"tls" if security else "tcp"}://")
            move(client)
            assert sent(client) >= 64
            print("good")
        """
    )
    assert ", data by MPI, " in line


@pytest.mark.essential
def test_by_default(passes):
    line = passes(
        """
        with mpi_dask(transport="auto") as client:
            assert all(address.startswith("mpi://") for address in workers(client))
            move(client)
            assert sent(client) >= 64
            print("good")
        """
    )
    assert ", data by MPI, " in line


def test_free_buffers_leave_a_worker_its_memory(passes):
    passes(
        """
        def free_and_limit(dask_worker):
            from mpidask._transport import context as contexts
            return contexts.current().pool.free, dask_worker.memory_manager.memory_limit

        with mpi_dask(transport="mpi", memory_limit="800 MiB") as client:
            one, other = workers(client)
            data = client.map(lambda n: np.ones(2**25, "u1"), range(6), workers=[one], pure=False)
            got = client.map(len, data, workers=[other])
            assert client.gather(got) == [2**25] * 6
            del data, got
            deadline = time.monotonic() + 60
            while client.run(free_and_limit, workers=[other])[other][0] == 0:
                assert time.monotonic() < deadline
            for free, limit in client.run(free_and_limit).values():
                assert limit == 800 * 2**20 and free <= limit // 8, (free, limit)

            def run_short(dask_worker):  # all it uses is above its target
                dask_worker.memory_manager.memory_target_fraction = 0.01

            client.run(run_short, workers=[other])
            while client.run(free_and_limit, workers=[other])[other][0] > 0:
                assert time.monotonic() < deadline
            print("good")
        """
    )


#: The second half of the ranks say that they are on another host.
TWO_HOSTS = """
import socket
from mpi4py import MPI
if MPI.COMM_WORLD.rank > 2:
    socket.gethostname = lambda: "other"
"""


def test_between_nodes_it_is_measured(passes):
    """The way depends on how busy the machine is; the line and the data agree."""
    line = passes(
        TWO_HOSTS
        + """
with mpi_dask(transport="auto", host="127.0.0.1") as client:
    before = sent(client)
    assert before >= 12  # three messages of 4 MiB, to measure
    move(client)
    print("by MPI" if sent(client) - before >= 64 else "by MPI within nodes", file=sys.stderr)
    print("good")
""",
        lines=2,
    )
    outcome, way = line.splitlines()
    assert f", data {way}, " in outcome


def test_by_sockets(passes):
    line = passes(
        """
        with mpi_dask(transport="socket") as client:
            assert all(address.startswith("tls://") for address in workers(client))
            move(client)
            assert sent(client) == 0
            print("good")
        """
    )
    assert ", data by sockets, " in line


def test_workers_of_nannies_use_sockets(passes):
    line = passes(
        """
        if __name__ == "__main__":
            with mpi_dask(transport="mpi", nanny=True) as client:
                assert all(address.startswith("tls://") for address in workers(client))
                move(client)
                print("good")
        """
    )
    assert ", data by sockets, " in line


def test_a_protocol_of_ones_own(passes):
    line = passes(
        """
        with mpi_dask(transport="mpi", protocol="tcp", security=False) as client:
            assert all(address.startswith("tcp://") for address in workers(client))
            move(client)
            print("good")
        """
    )
    assert ", data by sockets, " in line


def test_a_value_that_cannot_be(run):
    result = run(indented("with mpi_dask(transport='tcp'): pass"))
    assert result.status == 1
    assert "transport='tcp' must be 'auto', 'mpi' or 'socket'" in result.stderr
    assert result.stderr.count("Error") == 1


def test_scatter_and_gather(passes):
    passes(
        """
        from distributed import Client

        @mpi_dask_main(transport="mpi")
        def main(client):
            for one in client, Client():
                here, there = received(), sent(client)
                data = [array(16 * MIB, n) for n in range(4)]
                for broadcast in False, True:
                    scattered = one.scatter(data, hash=False, broadcast=broadcast)
                    back = one.gather(scattered)
                    assert all(map(np.array_equal, data, back))
                assert received() - here >= 128
                assert sent(client) - there >= 128
            print("good")

        main()
        """
    )


@pytest.mark.parametrize("env", [{}, ALL], ids=["large", "all"])
def test_actors(passes, env):
    passes(
        """
        class Store:
            def __init__(self):
                self.arrays = []

            def put(self, array):
                self.arrays.append(array)

            def sum(self):
                return sum(self.arrays)

        with mpi_dask(transport="mpi") as client:
            store = client.submit(Store, actor=True, workers=workers(client)[0]).result()
            for n in range(4):
                store.put(array(8 * MIB, n)).result()
            assert (store.sum().result() == sum(array(8 * MIB, n) for n in range(4))).all()
            there = client.submit(lambda s: s.sum().result(), store, workers=workers(client)[1])
            assert (there.result() == store.sum().result()).all()
            print("good")
        """,
        env=env,
    )


def test_spilled_data(passes):
    passes(
        """
        from distributed import wait

        with mpi_dask(transport="mpi", memory_limit="2 GiB") as client:
            one, other = workers(client)
            many = client.map(array, [16 * MIB] * 8, range(8), workers=[one])
            wait(many)
            on_disk = client.run(lambda dask_worker: len(dask_worker.data.slow))
            assert on_disk[one] >= 4, on_disk
            total = client.submit(lambda xs: sum(x.sum() for x in xs), many, workers=[other])
            assert total.result() == sum(array(16 * MIB, n).sum() for n in range(8))
            assert sent(client) >= 128
            print("good")
        """,
        env={
            "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.02",
            "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "false",
            "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "false",
        },
    )


@pytest.mark.parametrize("env", [{}, ALL], ids=["large", "all"])
def test_restart(passes, env):
    passes(
        """
        with mpi_dask(transport="mpi", log_level="error") as client:
            move(client)
            client.restart()
            client.wait_for_workers(2)
            move(client)
            assert sent(client) >= 128
            print("good")
        """,
        env=env,
    )


def test_shuffle(passes):
    passes(
        """
        import dask.dataframe as dd
        import pandas as pd

        with mpi_dask(transport="mpi", log_level="error") as client:
            n = 200_000
            frame = pd.DataFrame({"a": np.arange(n)[::-1] % 97, "b": np.arange(n) * 1.5})
            shuffled = dd.from_pandas(frame, npartitions=8).shuffle("a")
            each = shuffled.map_partitions(lambda part: part.a.drop_duplicates().to_frame())
            assert sorted(each.compute().a) == list(range(97))
            assert shuffled.b.sum().compute() == frame.b.sum()
            assert sent(client) > 0
            print("good")
        """,
        env=ALL,
    )


def test_more_data_than_memory(run):
    """What the transport and malloc hold back must not keep a worker paused for ever."""
    result = run(
        """
        import dask.array as da
        from distributed import wait
        from mpidask import mpi_dask

        with mpi_dask(memory_limit="600 MiB", nthreads=1, dashboard=False) as client:
            x = da.random.default_rng(0).random((16000, 16000), chunks=1000)
            x = x.persist()  # 1.9 GiB, for 1.8 GiB of memory
            wait(x)
            mean = x.mean().compute()
            assert abs((x + x.T).mean().compute() - 2 * mean) < 1e-9
            print("good")
        """,
        ranks=5,
        limit=240,
    )
    assert (result.status, result.stdout) == (0, "good\n"), result.stderr


def test_clusters_in_a_row_beside_the_programs_own_mpi(passes):
    """Before, between and after, and in tasks while data moves."""
    passes(
        """
        from mpi4py import MPI

        world = MPI.COMM_WORLD.Dup()

        def talk(n):
            assert world.allreduce(n) == 4 * n
            assert world.bcast("hello" if world.rank == 2 else None, root=2) == "hello"

        def my_rank():
            from mpi4py import MPI

            return MPI.COMM_WORLD.rank

        def exchange(other, seed):
            "Two tasks send each other arrays by MPI."
            from mpi4py import MPI

            world = MPI.COMM_WORLD
            for n in range(20):
                theirs = np.empty(MIB, "u1")
                request = world.Isend(array(MIB, seed), other, n)
                world.Recv(theirs, other, n)
                request.Wait()
                assert (theirs == array(MIB, seed)).all()
            return True

        for n in range(3):
            talk(n)
            with mpi_dask(transport="mpi", exit=False) as client:
                if client is not None:
                    place = client.run(my_rank)
                    one, other = workers(client)[:2]
                    tasks = [
                        client.submit(exchange, place[b], n, workers=[a], pure=False)
                        for a, b in ((one, other), (other, one))
                    ]
                    move(client, seed=n)
                    assert client.gather(tasks) == [True, True]
                    assert sent(client) >= 64
        talk(7)
        if world.rank == 1:
            print("good")
        """,
        lines=3,
        env={"DASK_MPIDASK__NTHREADS": "2"},
    )


def test_two_clusters_side_by_side(run):
    result = run(
        indented(
            """
            from mpi4py import MPI

            world = MPI.COMM_WORLD
            half = world.Split(world.rank % 2)
            with mpi_dask(comm=half, transport="mpi", exit=False) as client:
                if client is not None:
                    for n in range(3):
                        move(client, 16 * MIB, n)
                    assert sent(client) >= 48
            assert world.allreduce(1) == 8
            print("good")
            """
        ),
        ranks=8,
        limit=LIMIT,
    )
    assert result.status == 0, result.stderr
    assert result.stdout == "good\n" * 8
    assert len(result.messages) == 2, result.stderr


def test_ranks_that_are_scheduler_and_client_and_worker(passes):
    passes(
        """
        with mpi_dask(transport="mpi", exclusive_workers=False, client_rank=0) as client:
            move(client)
            data = array(16 * MIB)
            assert (client.gather(client.scatter(data)) == data).all()
            print("good")
        """,
        ranks=2,
        env=ALL,
    )


def test_joined_workers_use_sockets(start):
    """A worker of another job gets data from one that uses MPI, and gives it back."""
    job = start(
        indented(
            """
            @mpi_dask_main(transport="mpi", scheduler_file="scheduler.json")
            def main(client):
                client.wait_for_workers(3, timeout=120)
                addresses = workers(client)
                joined = [address for address in addresses if address.startswith("tls://")]
                ours = [address for address in addresses if address.startswith("mpi://")]
                assert len(joined) == 1 and len(ours) == 2, addresses
                for a, b in (ours[0], joined[0]), (joined[0], ours[0]), ours:
                    x = client.submit(array, 16 * MIB, workers=[a], pure=False)
                    y = client.submit(lambda x: x + 1, x, workers=[b], pure=False)
                    assert (y.result() == array(16 * MIB) + 1).all()
                print("good")

            main()
            """
        ),
        limit=LIMIT,
    )
    joining = start(
        "import mpidask; mpidask.join_existing('scheduler.json', reconnect=False)",
        ranks=1,
        limit=LIMIT,
    )
    result = job.result()
    assert (result.status, result.stdout) == (0, "good\n"), result.stderr
    result = joining.result()
    assert result.status == 0, result.stderr


def test_dump_of_the_state(passes):
    passes(
        """
        with mpi_dask(transport="mpi") as client:
            move(client, 8 * MIB)
            client.dump_cluster_state("dump", format="yaml")
            assert "mpi://" in open("dump.yaml").read()
            print("good")
        """,
        env=ALL,
    )


def test_the_end_while_data_moves(passes):
    passes(
        """
        import time

        @mpi_dask_main(transport="mpi", shutdown_timeout=100)
        def main(client):
            one, other = workers(client)
            big = client.map(array, [128 * MIB] * 3, range(3), workers=[one])
            wait(big)
            there = client.map(lambda x: x.nbytes, big, workers=[other])
            while sent(client) < 128:
                time.sleep(0.01)
            print("good")

        from distributed import wait

        main()
        """
    )


def test_strangers_get_into_no_worker(passes):
    passes(
        """
        import asyncio
        from distributed import Security
        from distributed.core import rpc

        async def identity(address, arguments):
            with contextlib.suppress(Exception):
                async with rpc(address, connection_args=arguments, timeout=5) as server:
                    return (await asyncio.wait_for(server.identity(), 5))["type"]

        @mpi_dask_main(transport="mpi", log_level="critical")
        def main(client):
            worker = workers(client)[0]
            inside = client.security.get_connection_args("client")
            others = Security.temporary().get_connection_args("client")
            assert asyncio.run(identity(worker, inside)) == "Worker"
            assert asyncio.run(identity(worker, others)) is None
            for address in worker, worker.replace("mpi://", "tcp://"):
                assert asyncio.run(identity(address, {})) is None
            print("good")

        main()
        """
    )


def test_encryption_that_is_required_is_not_left_out(passes):
    passes(
        """
        import asyncio
        from distributed import Security
        from distributed.comm import connect, listen

        async def main():
            required = Security(require_encryption=True)
            for work in (
                connect("mpi://127.0.0.1:1", timeout=5, **required.get_connection_args("client")),
                start("mpi://127.0.0.1:0", **required.get_listen_args("worker")),
            ):
                try:
                    await work
                except RuntimeError as error:
                    assert "encryption required" in str(error)
                else:
                    raise AssertionError("not encrypted")

        async def start(address, **arguments):
            await listen(address, print, **arguments)

        asyncio.run(main())
        print("good")
        """,
        ranks=None,
        lines=0,
    )
