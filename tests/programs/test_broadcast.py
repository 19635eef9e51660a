"""Values that are broadcast: where they are, who shares them, and what becomes of them."""

from __future__ import annotations

import re
import textwrap

import pytest

pytest.importorskip("numpy")

PRELUDE = """
import asyncio, gc, os, pickle, sys, time
import numpy as np
from distributed import Client, get_worker
from mpidask import Broadcast, MPIDaskError, broadcast, mpi_dask, mpi_dask_main
from mpidask._broadcast import copies, shared_file
from mpidask._transport import traffic

MIB = 2**20

def put_on_nodes(node_of_rank):
    "Let ranks of this machine take themselves for ranks of several nodes."
    from mpi4py import MPI
    shared_file.node_id = lambda: str(node_of_rank(MPI.COMM_WORLD.rank))

def rank():
    from mpi4py import MPI
    return MPI.COMM_WORLD.rank

def total(handle):
    return float(handle.value.sum())

def inode(handle):
    "Return which file this process has mapped for a value."
    address = handle.value.__array_interface__["data"][0]
    for line in open("/proc/self/maps"):
        span, _, _, device, number, *_ = line.split()
        start, end = (int(one, 16) for one in span.split("-"))
        if start <= address < end:
            return device, number

def imported_by(handle):
    before = set(sys.modules)
    handle.value
    return tuple(set(sys.modules) - before)

def raised(function, *args):
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def until(test):
    deadline = time.monotonic() + 60
    while not test():
        assert time.monotonic() < deadline
        time.sleep(0.02)

def descriptors():
    "Return how many shared files without a name this process has open or mapped."
    names = [os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")
             if os.path.islink(f"/proc/self/fd/{one}")]
    return sum(name.startswith("/dev/shm/#") for name in names)
"""


@pytest.fixture
def through(run):
    """Run a program that must succeed, and return what it printed."""

    def through(program, **kwargs):
        result = run(PRELUDE + textwrap.dedent(program), **kwargs)
        assert result.status == 0, result.stderr
        return result.stdout

    return through


@pytest.mark.essential
def test_processes_of_a_node_share_one_copy(through):
    output = through(
        """
        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.arange(5 * MIB, dtype=float))
            print(handle, isinstance(handle, Broadcast), len(pickle.dumps(handle)) < 200)
            print(set(client.run(imported_by, handle).values()))
            mapped = client.run(inode, handle).values()
            print(len(mapped), set(mapped) == {inode(handle)} and None not in mapped)
            print(set(client.run(total, handle).values()) == {total(handle)})
            assert not [name for name in os.listdir("/dev/shm") if name.startswith("tmp")]

        main()
        """,
        ranks=5,
    )
    assert output == "<Broadcast: 40.00 MiB on 1 node> True True\n{()}\n3 True\nTrue\n"


def test_each_node_gets_a_value_once(through):
    output = through(
        """
        put_on_nodes(lambda rank: rank // 2)

        def received():
            return traffic()["received"] // MIB

        @mpi_dask_main(dashboard=False, transport="mpi")
        def main(client):
            handle = broadcast(np.arange(5 * MIB, dtype=float))
            print(handle)
            print(len(set(client.run(inode, handle).values())))
            print(set(client.run(total, handle).values()) == {total(handle)})
            print(sum(client.run(received).values()))

        main()
        """,
        ranks=8,
    )
    # The node of the client has no worker: it sends the value to a first one.
    assert output == "<Broadcast: 40.00 MiB on 4 nodes>\n3\nTrue\n120\n"


@pytest.mark.parametrize("transport", ["auto", "socket"])
def test_a_worker_passes_on_what_the_clients_node_has(through, transport):
    output = through(
        f"""
        put_on_nodes(lambda rank: max(0, rank - 2))

        @mpi_dask_main(dashboard=False, transport="{transport}")
        def main(client):
            handle = broadcast(np.arange(5 * MIB, dtype=float))
            print(handle)
            print(set(client.run(total, handle).values()) == {{total(handle)}})

        main()
        """,
        ranks=7,
    )
    assert output == "<Broadcast: 40.00 MiB on 5 nodes>\nTrue\n"


def test_a_worker_that_does_not_pass_it_on(through):
    output = through(
        """
        put_on_nodes(lambda rank: max(1, rank))
        read = copies.Copies.read

        async def lost(self, name, nbytes, number):
            if number:
                raise OSError("lost")
            return await read(self, name, nbytes, number)

        if rank() == 2:
            copies.Copies.read = lost

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.arange(5 * MIB, dtype=float))
            print(handle, set(client.run(total, handle).values()) == {total(handle)})

        main()
        """,
        ranks=7,
    )
    assert output == "<Broadcast: 40.00 MiB on 6 nodes> True\n"


def test_a_child_of_a_nanny_that_is_killed(through):
    output = through(
        """
        import signal

        @mpi_dask_main(dashboard=False, nanny=True)
        def main(client):
            handle = broadcast(np.ones(MIB))
            pids = set(client.run(os.getpid).values())
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            until(lambda: len(found := set(client.run(os.getpid, on_error="ignore").values())) == 2
                  and not found & pids)
            print({client.submit(total, handle, pure=False).result() for _ in range(4)})

        main()
        """
    )
    assert output == f"{{{2.0**20}}}\n"


def test_all_ways_to_use_a_handle(run):
    result = run(
        PRELUDE
        + textwrap.dedent(
            """
        import dask
        import dask.array as da

        def made(n):
            return broadcast(np.full(n, 2.0))

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast({"x": np.ones(10), "text": "word", "list": [1, 2]})
            print(handle.value["text"], handle.value["list"], handle.value is handle.value)
            print(client.submit(lambda h: h.value["x"].sum(), handle).result())
            print(client.submit(lambda: handle.value["x"].sum()).result())
            print(dask.delayed(lambda h: h.value["text"])(handle).compute())
            x = da.zeros(4, chunks=2)
            print(x.map_blocks(lambda block, h: block + h.value["x"][0], handle).compute())
            print(client.submit(lambda deep: deep["h"][0].value["text"], {"h": [handle]}).result())
            of_future = broadcast(client.submit(np.arange, 100.0))
            print(of_future, total(of_future), client.submit(total, of_future).result())
            in_task = client.submit(made, 1000).result()
            print(in_task, total(in_task), client.submit(total, in_task).result())
            print(client.submit(total, broadcast(np.ones(7))).result())
            print(raised(client.submit(lambda h: h.value["x"].__setitem__(0, 1), handle).result))
            print(broadcast(None).value, broadcast(b"bytes").value, broadcast(np.array(())).value)

        main()
        """
        )
    )
    assert result.status == 0, result.stderr
    assert result.stderr.count("handle.value.copy()") == 1
    output = result.stdout
    lines = output.splitlines()
    assert re.fullmatch(r"<Broadcast: \S+ kiB on 1 node> 4950.0 4950.0", lines.pop(6)), output
    assert re.fullmatch(r"<Broadcast: \S+ kiB> 2000.0 2000.0", lines.pop(6)), output
    assert lines == [
        "word [1, 2] True",
        "10.0",
        "10.0",
        "word",
        "[1. 1. 1. 1.]",
        "word",
        "7.0",
        "ValueError: assignment destination is read-only",
        "None b'bytes' []",
    ]


def test_a_freed_value(through):
    output = through(
        """
        def is_held(name):
            return copies.held(name) is not None

        def keep(handle, dask_worker):
            dask_worker.kept = handle.value

        def kept(dask_worker):
            return float(dask_worker.kept.sum())

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.ones(MIB))
            name = handle._name
            client.run(keep, handle)
            handle.free()
            until(lambda: not any(client.run(is_held, name).values()))
            print(set(client.run(kept).values()))
            print(raised(lambda: handle.value))
            print(raised(client.submit(total, handle).result))
            handle = broadcast(np.ones(MIB))
            name = handle._name
            client.run(total, handle)
            del handle
            gc.collect()
            until(lambda: not any(client.run(is_held, name).values()))
            until(lambda: not is_held(name))
            print("gone")

        main()
        """
    )
    freed = "MPIDaskError: this Broadcast was freed: by free()"
    lines = output.splitlines()
    assert lines[0] == f"{{{2.0**20}}}" and lines[3] == "gone", output
    assert lines[1].startswith(freed) and lines[2].startswith(freed), output


def test_a_value_outlives_the_tasks_that_were_submitted_with_it(through):
    output = through(
        """
        def late(handle, seconds):
            time.sleep(seconds)
            return total(handle)

        @mpi_dask_main(dashboard=False)
        def main(client):
            futures = client.map(late, [broadcast(np.ones(MIB))] * 8, [0.3] * 8, pure=False)
            gc.collect()
            print(set(client.gather(futures)))

        main()
        """
    )
    assert output == f"{{{2.0**20}}}\n"


def test_a_value_outlives_tasks_of_fire_and_forget(through):
    output = through(
        """
        from distributed import fire_and_forget

        def late(handle, path):
            time.sleep(0.5)
            with open(path, "w") as file:
                print(total(handle), file=file)

        def is_held(name):
            return copies.held(name) is not None

        def is_written(path):
            return os.path.exists(path) and os.path.getsize(path)

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.ones(MIB))
            name = handle._name
            fire_and_forget([client.submit(late, handle, f"{n}.txt") for n in range(4)])
            del handle
            gc.collect()
            until(lambda: all(is_written(f"{n}.txt") for n in range(4)))
            print({open(f"{n}.txt").read().strip() for n in range(4)})
            until(lambda: not any(client.run(is_held, name).values()) and not is_held(name))

        main()
        """
    )
    assert output == f"{{'{2.0**20}'}}\n"


def test_a_task_frees_what_the_client_holds(through):
    output = through(
        """
        def is_held(name):
            return copies.held(name) is not None

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.ones(MIB))
            print(is_held(handle._name))
            client.submit(lambda handle: handle.free(), handle).result()
            until(lambda: not is_held(handle._name))

        main()
        """
    )
    assert output == "True\n"


def test_a_joined_worker_and_a_client_outside(start, through):
    """They are on this node: they map what the job's ranks have."""
    job = start(
        PRELUDE
        + textwrap.dedent(
            """
            @mpi_dask_main(dashboard=False, scheduler_file="cluster.json")
            def main(client):
                handle = broadcast(np.ones(MIB))
                print("up", flush=True)
                until(lambda: len(client.scheduler_info()["workers"]) == 2)
                until(lambda: os.path.exists("done"))
                print(set(client.run(inode, handle).values()) == {inode(handle)})

            main()
            """
        ),
        ranks=3,
    )
    job.wait_for_output("up")
    joined = start(
        """
        from mpidask import join_existing

        join_existing("cluster.json", dashboard=False, reconnect=False)
        """,
        ranks=1,
    )
    output = through(
        """
        import mpidask

        with Client(**mpidask.connection("cluster.json")) as client:
            client.wait_for_workers(2)
            handle = broadcast(np.arange(MIB))
            print(set(client.run(inode, handle).values()) == {inode(handle)})
        open("done", "w").close()
        """,
        ranks=None,
    )
    assert output == "True\n"
    result = job.result()
    assert (result.status, result.stdout) == (0, "up\nTrue\n"), result.stderr
    assert joined.result().status == 0


def test_many_values_one_after_the_other(through):
    output = through(
        """
        def look():
            return descriptors(), len(copies._held)

        @mpi_dask_main(dashboard=False)
        def main(client):
            for n in range(100):
                handle = broadcast(np.full(MIB // 8, float(n)))
                assert client.submit(total, handle, pure=False).result() == n * MIB // 8
                handle.free()
            deadline = time.monotonic() + 20
            while (found := {*client.run(look).values(), look()}) != {(0, 0)}:
                assert time.monotonic() < deadline, found
            print("flat")

        main()
        """
    )
    assert output == "flat\n"


def test_no_room_for_a_value(through):
    output = through(
        """
        put_on_nodes(lambda rank: rank)
        room = {}

        def limited(directory, nbytes):
            free = room.get(directory, 0)
            return f"{directory} has {free} bytes" if free < nbytes else ""

        def on_disk(handle):
            return handle.value.sum(), shared_file._MEMORY

        @mpi_dask_main(dashboard=False)
        def main(client):
            from mpi4py import MPI
            def refuse():
                if MPI.COMM_WORLD.rank == 3:
                    shared_file._lack_of_room = limited
            client.run(refuse)
            print(raised(broadcast, np.ones(MIB)))
            shared_file._lack_of_room = limited
            print(raised(broadcast, np.ones(MIB)))
            until(lambda: set(client.run(lambda: len(copies._held)).values()) == {0})
            import tempfile
            room[tempfile.gettempdir()] = 2**40
            def restore():
                shared_file._lack_of_room = lambda directory, nbytes: (
                    "full" if directory == "/dev/shm" else ""
                )
            client.run(restore)
            handle = broadcast(np.ones(MIB))
            print(handle, set(client.run(total, handle).values()))

        main()
        """,
        ranks=4,
    )
    lines = output.splitlines()
    refused = (
        r"MPIDaskError: broadcast: no room for 8.00 MiB on \S+: /dev/shm has 0 bytes, \S+ has 0"
    )
    assert re.match(refused, lines[0]) and re.match(refused, lines[1]), output
    assert lines[2] == f"<Broadcast: 8.00 MiB on 3 nodes> {{{2.0**20}}}", output


def test_workers_that_start_anew(through):
    output = through(
        """
        put_on_nodes(lambda rank: max(1, rank))

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.ones(MIB))
            client.restart()
            workers = list(client.scheduler_info()["workers"])
            print({client.submit(total, handle, workers=[one], pure=False).result()
                   for one in workers}, len(workers), total(handle))
            again = broadcast(np.ones(MIB))
            print(set(client.run(total, again).values()))

        main()
        """
    )
    assert output == f"{{{2.0**20}}} 2 {2.0**20}\n{{{2.0**20}}}\n"


@pytest.mark.parametrize("ranks, options", [(4, "nanny=True"), (None, ""), (1, "")])
def test_children_of_nannies_and_a_local_cluster(through, ranks, options):
    output = through(
        f"""
        @mpi_dask_main(dashboard=False, {options})
        def main(client):
            handle = broadcast(np.ones(5 * MIB))
            print(set(client.run(total, handle).values()), total(handle))
            print(set(client.run(inode, handle).values()) == {{inode(handle)}})

        if __name__ == "__main__":
            main()
        """,
        ranks=ranks,
    )
    assert output == f"{{{5 * 2.0**20}}} {5 * 2.0**20}\nTrue\n"


def test_an_asynchronous_client(through):
    output = through(
        """
        async def total_in_loop(handle):
            return float(handle.value.sum())

        async def main():
            async with mpi_dask(dashboard=False) as client:
                handle = await broadcast(np.ones(MIB))
                print(total(handle), handle)
                print(await client.submit(total_in_loop, handle))
                await handle.free()
                print(raised(lambda: handle.value))
                print(await asyncio.to_thread(raised, lambda: handle.value))

        asyncio.run(main())
        """
    )
    first, second, third, fourth = output.splitlines()
    assert (first, second) == (f"{2.0**20} <Broadcast: 8.00 MiB on 1 node>", str(2.0**20))
    assert third.startswith("MPIDaskError: Broadcast.value is not in this process")
    assert fourth.startswith("MPIDaskError: this Broadcast was freed")


def test_shared_memory_counts_once(through):
    output = through(
        """
        def measured(handle, dask_worker):
            before = dask_worker.monitor.get_process_memory()
            handle.value.sum()  # which touches all pages
            return (dask_worker.monitor.get_process_memory() - before) / MIB

        @mpi_dask_main(dashboard=False)
        def main(client):
            handle = broadcast(np.ones(20 * MIB))
            grown = client.run(measured, handle).values()
            print(len(grown), max(grown) < 80, 100 < sum(grown) < 220, grown)

        main()
        """,
        ranks=5,
    )
    assert output.startswith("3 True True"), output


def test_clusters_one_after_the_other(through):
    output = through(
        """
        for n in range(2):
            with mpi_dask(dashboard=False, exit=False) as client:
                if client is not None:
                    handle = broadcast(np.full(MIB, float(n)))
                    print(set(client.run(total, handle).values()))
            if n and client is not None:
                print(raised(lambda: handle.value))
            assert not copies._held, copies._held
            assert descriptors() == 0, descriptors()
        """
    )
    first, second, third = output.splitlines()
    assert (first, second) == ("{0.0}", f"{{{2.0**20}}}")
    assert third.startswith("MPIDaskError: this Broadcast was freed")
