"""Functions on several ranks: what they get, where they run, what comes back."""

from __future__ import annotations

import pytest


@pytest.mark.essential
def test_all_ranks_or_some(passes):
    passes(
        """
        @mpi_dask_main
        def main(client):
            assert client.gather(submit_mpi(total, 5)) == [15] * 3
            assert client.gather(submit_mpi(total, x=5, ranks=2)) == [10] * 2
            assert client.gather(submit_mpi(total, np.float64(0.5), ranks=np.int64(1))) == [0.5]
            # The order of the ranks is that of the communicator and of the futures.
            assert client.gather(submit_mpi(where, ranks=[4, 2])) == [4, 2]
            assert client.gather(submit_mpi(where, ranks=range(2, 5))) == [2, 3, 4]
            assert client.gather(submit_mpi(lambda comm: comm.rank)) == [0, 1, 2]
            # A key names one gang of a size, as it names one task.
            named, again = submit_mpi(where, key="step"), submit_mpi(where, key="step")
            assert [future.key for future in named] == [future.key for future in again]
            assert all("step" in future.key[0] for future in named)
            assert client.gather(submit_mpi(where, key="step", ranks=[3])) == [3]
            assert client.gather(named) == [2, 3, 4]
            print("good")

        main()
        """,
        ranks=5,
    )


def test_arguments(passes):
    """Futures arrive as results, collections as collections, as from Client.submit."""
    passes(
        """
        import dask, dask.array as da

        def takes(comm, one, many, *, array, piece, named):
            assert isinstance(array, da.Array) and named == {"n": 3}
            return one, many, piece, comm.allreduce(piece), array.sum().compute(scheduler="sync")

        with mpi_dask() as client:
            one, two, three = client.map(abs, [-1, -2, -3])
            futures = submit_mpi(
                takes,
                one,
                [one, (two, 7)],
                array=da.ones(4, chunks=2),
                piece=PerRank([two, 40]),
                named={"n": three},
            )
            many = [1, (2, 7)]
            assert client.gather(futures) == [(1, many, 2, 42, 4.0), (1, many, 40, 42, 4.0)]

            # The results of gangs go into tasks, those into gangs, and so on.
            sums = client.map(len, futures)
            futures = submit_mpi(total, PerRank(sums))
            more = client.submit(lambda xs: sum(xs), futures)
            assert client.gather(submit_mpi(total, more)) == [40, 40]
            lazy = dask.delayed(sum)(futures)
            assert client.compute(lazy).result() == 20
            big = np.ones(200_000)
            assert client.gather(submit_mpi(lambda comm, x, y: x.sum() + y.sum(), big, y=big)) == [
                400_000
            ] * 2
            print("good")
        """
    )


def test_results_stay_where_they_are(passes):
    passes(
        """
        def holds(client, future):
            (address,) = client.who_has([future])[future.key]
            return client.scheduler_info(n_workers=-1)["workers"][address]["mpidask-rank"]

        with mpi_dask() as client:
            futures = submit_mpi(where, ranks=[4, 3])
            wait(futures)
            assert [holds(client, future) for future in futures] == [4, 3]
            # Where the choice is open, they go to the ranks that hold the pieces.
            for ranks in ([4, 3], [3, 2], [2, 4]):
                pieces = submit_mpi(where, ranks=ranks)
                again = submit_mpi(lambda comm, piece: (piece, where(comm)), PerRank(pieces))
                assert client.gather(again) == [(rank, rank) for rank in ranks]
                one = PerRank([pieces[1], 0])
                there = submit_mpi(lambda comm, piece: where(comm), one, ranks=2)
                assert client.gather(there)[0] == ranks[1]
            # All of one gang have one name on the dashboard.
            def names(dask_scheduler):
                groups = dask_scheduler.task_groups.items()
                return {name: group.prefix.name for name, group in groups}

            assert client.run_on_scheduler(names)[futures[0].key[0]] == "mpi-where"
            print("good")
        """,
        ranks=5,
    )


def test_wrong_arguments(passes):
    passes(
        """
        def refused(kind, *words, **kwargs):
            try:
                submit_mpi(kwargs.pop("func", total), **kwargs)
            except kind as error:
                assert all(word in str(error) for word in words), error
            else:
                raise AssertionError(kwargs)

        async def coroutine(comm): ...

        with mpi_dask() as client:
            refused(mpidask.NotEnoughRanksError, "3 ranks", "workers on 2 ranks", ranks=3)
            refused(mpidask.NotEnoughRanksError, x=PerRank("abc"))
            refused(ValueError, "[0, 9]", "(2, 3)", ranks=[0, 2, 9])
            refused(ValueError, "twice", ranks=[2, 2])
            refused(ValueError, ranks=0)
            refused(ValueError, ranks=[])
            refused(ValueError, ranks=-1)
            refused(TypeError, ranks=True)
            refused(TypeError, ranks=1.5)
            refused(TypeError, ranks="23")
            refused(ValueError, "1 pieces for 2 ranks", x=PerRank("a"), ranks=2)
            refused(ValueError, "different", x=PerRank("a"), y=PerRank("ab"))
            refused(TypeError, "async", func=coroutine)
            refused(TypeError, func=7)
            works(client)
            print("good")
        """
    )


def test_asynchronous_client(passes):
    passes(
        """
        import asyncio

        async def main():
            async with mpi_dask() as client:
                futures = submit_mpi(total, PerRank([1, 2]))
                assert await client.gather(futures) == [3, 3]
                assert await client.gather(submit_mpi(total)) == [2, 2]
                async with Client(asynchronous=True) as other:
                    assert await submit_mpi(total, client=other)[0] == 2
                print("good")

        asyncio.run(main())
        """
    )


def test_from_inside_a_task(passes):
    passes(
        """
        from distributed import rejoin, secede, worker_client

        def outer(n):
            with worker_client() as client:
                return client.gather(submit_mpi(total, n, client=client))

        def other(n):
            client = get_client()
            futures = submit_mpi(total, n)
            secede()
            results = client.gather(futures)
            rejoin()
            return results

        async def third(n):
            async with Client(get_client().scheduler.address, asynchronous=True,
                              security=get_client().security) as client:
                return await client.gather(submit_mpi(total, n, client=client))

        with mpi_dask(nthreads=2) as client:
            for task in outer, other:
                futures = client.map(task, range(6))
                assert client.gather(futures) == [[2 * n] * 2 for n in range(6)]
            assert client.submit(third, 4).result() == [8, 8]
            print("good")
        """
    )


def test_libraries_split_the_communicator(passes):
    passes(
        """
        from mpi4py import MPI

        def library(comm):
            half = comm.Split(comm.rank % 2, -comm.rank)
            mine = comm.Dup()
            grid = comm.Create_cart([2, 2])
            sums = half.allreduce(comm.rank), mine.allreduce(1), grid.allreduce(1)
            for made in half, mine, grid:
                made.Free()
            return sums

        with mpi_dask() as client:
            for _ in range(20):
                assert client.gather(submit_mpi(library)) == [(2, 4, 4), (4, 4, 4)] * 2
            futures = submit_mpi(lambda comm: comm.Get_attr(MPI.TAG_UB) > 0)
            assert client.gather(futures) == [True] * 4
            print("good")
        """,
        ranks=6,
    )


def test_messages_that_are_left_reach_nobody(passes):
    passes("""
        def leave(comm):
            comm.Isend(np.full(5, 7.0), (comm.rank + 1) % comm.size).Wait()

        def find(comm):
            comm.Barrier()
            return comm.iprobe()

        with mpi_dask() as client:
            for _ in range(3):
                client.gather(submit_mpi(leave))
                assert client.gather(submit_mpi(find)) == [False, False]
            print("good")
    """)


def test_without_mpi(passes):
    """One rank, on any worker; more is an error."""
    passes(
        """
        import asyncio

        if __name__ == "__main__":
            with mpi_dask() as client:
                assert client.gather(submit_mpi(total, 5)) == [5]
                future, = submit_mpi(lambda comm, x: (comm.size, x), PerRank([7]), ranks=[0])
                assert future.result() == (1, 7)
                try:
                    submit_mpi(total, ranks=2)
                except mpidask.NotEnoughRanksError as error:
                    assert "is not an MPI job" in str(error), error
            with Client(n_workers=1, dashboard_address=':0') as client:
                assert client.gather(submit_mpi(total, 5)) == [5]
            print("good")
        """,
        ranks=None,
    )


def test_nannies_are_refused(passes):
    passes(
        """
        if __name__ == "__main__":
            with mpi_dask(nanny=True) as client:
                try:
                    submit_mpi(total)
                except mpidask.MPIDaskError as error:
                    assert "nannies" in str(error), error
                print("good")
        """,
        ranks=3,
    )


def test_joined_workers_take_no_part(begin, start):
    """They are no ranks of the job, but their tasks, and clients outside, may ask for it."""
    job = begin(
        """
        @mpi_dask_main(scheduler_file="scheduler.json")
        def main(client):
            client.wait_for_workers(3, timeout=100)
            workers = client.scheduler_info(n_workers=-1)["workers"]
            (joined,) = (address for address in workers if "mpidask-rank" not in workers[address])
            assert client.gather(submit_mpi(where)) == [2, 3]
            piece = client.submit(int, 5, workers=[joined])
            assert client.gather(submit_mpi(total, PerRank([piece, 1]))) == [6, 6]

            def ask(n):
                client = get_client()
                futures = submit_mpi(total, n)
                return client.gather(futures)

            assert client.submit(ask, 3, workers=[joined]).result() == [6, 6]
            print("good", flush=True)
            until(exists("outside"))

        main()
        """,
    )
    joining = start(
        "import mpidask; mpidask.join_existing('scheduler.json', reconnect=False)", ranks=1
    )
    job.wait_for_output("good")
    outside = begin(
        """
        with Client(**mpidask.connection("scheduler.json")) as client:
            works(client)
            assert client.gather(submit_mpi(where, ranks=[3])) == [3]
        open("outside", "w")
        """,
        ranks=None,
    )
    for one in outside, job, joining:
        result = one.result()
        assert result.status == 0, result.stderr


def test_workers_go_on_while_members_wait_in_a_reduction(passes):
    """The first one of objects holds the GIL, unless it is made when all members are there."""
    passes(
        """
        def late(comm, path):
            if comm.rank == 0:
                until(exists(path))
            else:
                print_once(f"waits-{comm.rank}")
            return comm.allreduce(1)

        with mpi_dask() as client:
            futures = submit_mpi(late, "now")
            until(exists("waits-1"))
            for n in range(50):
                assert client.run(lambda: n, workers=[address_of(client, 3)])
                time.sleep(0.01)
            print_once("now")
            assert client.gather(futures) == [2, 2]
            print("good")
        """
    )


def test_resources(passes):
    passes(
        """
        import dask

        async def offer(dask_worker):
            await dask_worker.set_resources(GPU=1)

        with mpi_dask() as client:
            def annotated(amount, **kwargs):
                with dask.annotate(resources={"GPU": amount}):
                    return submit_mpi(where, **kwargs)

            error = str(error_of(annotated(1)[0]))
            assert "no resources {'GPU': 1} on ranks 2, 3, 4" in error, error
            for rank in 4, 3:
                client.run(offer, workers=[address_of(client, rank)])
            assert client.gather(annotated(1, ranks=2)) == [3, 4]
            assert client.gather(annotated(1, ranks=[4])) == [4]
            for impossible in annotated(1), annotated(1, ranks=[2]), annotated(2, ranks=[3]):
                assert "no resources" in str(error_of(impossible[0]))
            works(client)
            print("good")
        """,
        ranks=5,
    )


def test_annotations_around_it(passes):
    passes(
        """
        import dask

        with mpi_dask() as client:
            with dask.annotate(allow_other_workers=True, workers=["elsewhere"], priority=-5):
                works(client, ranks=[3, 2])
                assert client.gather(submit_mpi(where, ranks=[3, 2])) == [3, 2]
            print("good")
        """
    )
