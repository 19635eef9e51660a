"""What becomes of the others when a member fails, is cancelled, or loses its worker."""

from __future__ import annotations

import pytest


@pytest.mark.essential
def test_the_error_names_rank_and_host(passes):
    passes(
        """
        import traceback

        def fails(comm, rank):
            if comm.rank == rank:
                raise ValueError("no such luck")
            return comm.rank

        def in_python(comm):
            if comm.rank == 1:
                raise ValueError("no such luck")
            while True:
                time.sleep(0.01)

        class Odd(Exception):
            "One that can't be pickled"
            def __init__(self, one, two):
                super().__init__(one)
                self.lock = threading.Lock()

        def odd(comm):
            raise Odd("strange", 2)

        def leaves(comm):
            raise SystemExit(3)

        with mpi_dask() as client:
            for function, name in (lambda comm: fails(comm, 1), "fails"), (in_python, "in_python"):
                futures = submit_mpi(function)
                for future in futures:
                    error = error_of(future)
                    assert (error.rank, error.host) == (3, os.uname().nodename)
                    assert f"rank 3 on {error.host}: ValueError: no such luck" in str(error), error
                    assert isinstance(error.__cause__, ValueError)
                    lines = "".join(traceback.format_tb(future.traceback()))
                    assert f", in {name}" in lines, lines
                works(client)
            for function, cause in (odd, "Odd: strange"), (leaves, "SystemExit: 3"):
                for future in submit_mpi(function):
                    assert cause in str(error_of(future))
                works(client)
            # All of them at once, and again and again.
            for n in range(20):
                for future in submit_mpi(lambda comm: 1 / 0):
                    assert "ZeroDivisionError" in str(error_of(future))
            works(client)
            print("good")
        """,
        ranks=5,
    )


def test_endless_recursion(passes):
    passes("""
        def deeper(comm):
            return deeper(comm)

        with mpi_dask() as client:
            error = submit_mpi(deeper)[0].exception(timeout=60)
            assert "RecursionError: maximum recursion depth exceeded" in str(error)
            print("good")
    """)


def test_nothing_of_a_failed_one_reaches_the_next(passes):
    """Messages that nobody received must not be those of a later communicator."""
    passes(
        """
        def abandons(comm, n):
            stale = np.full(4, -1.0 - n)
            if comm.rank == 0:
                comm.Send(stale, 1, 5)
                comm.Bcast(stale, 0)
            comm.send(None, 1 - comm.rank, 6) if comm.rank == 0 else comm.recv(source=0, tag=6)
            raise ValueError

        def exchanges(comm, n):
            data = np.full(4, float(n)) if comm.rank == 0 else np.empty(4)
            more = data.copy()
            comm.Send(data, 1, 5) if comm.rank == 0 else comm.Recv(data, 0, 5)
            comm.Bcast(more, 0)
            return data[0], more[0]

        with mpi_dask() as client:
            for n in range(10):
                for future in submit_mpi(abandons, n):
                    error_of(future)
                assert client.gather(submit_mpi(exchanges, n)) == [(n, n)] * 2
            print("good")
        """
    )


def test_mpi_that_waits_for_one_that_failed_ends_the_job(fails):
    result = fails(
        """
        def fails(comm):
            if comm.rank == 1:
                raise ValueError("the cause")
            comm.recv(source=1)

        @mpi_dask_main(mpi_task_grace=1)
        def main(client):
            wait(submit_mpi(fails))
            print("unexpected")

        main()
        """,
        ranks=5,
    )
    assert "unexpected" not in result.stdout
    last = result.stderr[result.stderr.rindex("mpidask: ending the job") :]
    assert "rank 3 on" in last and "mpi_task_grace" in last, result.stderr
    assert ", in fails" in last and "ValueError: the cause" in last


def test_a_rank_that_lets_no_python_run_ends_the_job(fails):
    """Its own timers don't run; the scheduler's do."""
    result = fails(
        """
        def fails(comm):
            own = comm.Dup()
            if comm.rank == 1:
                until(lambda: exists("held-0")() and exists("held-2")())
                raise ValueError("the cause")
            print_once(f"held-{comm.rank}")
            own.allreduce(1)  # mpi4py duplicates it, and holds the GIL

        @mpi_dask_main(mpi_task_grace=1)
        def main(client):
            error_of(submit_mpi(fails)[1])
            print("the rest goes on", flush=True)
            time.sleep(100)
            print("unexpected")

        main()
        """,
        ranks=5,
    )
    assert result.stdout == "the rest goes on\n"
    last = result.stderr[result.stderr.rindex("mpidask: ending the job") :]
    assert "ranks 2, 4 can't leave it" in last and "mpi_task_grace" in last, result.stderr
    assert ", in fails" in last and "ValueError: the cause" in last


def test_text_that_is_not_unicode(passes):
    """Names of files may be such, and appear in exceptions."""
    passes(r"""
        def fails(comm):
            raise FileNotFoundError(os.fsdecode(b"caf\xe9.h5"))

        with mpi_dask() as client:
            for future in submit_mpi(fails):
                assert r"caf\udce9.h5" in ascii(str(error_of(future)))
            works(client)
            print("good")
    """)


def test_revoked_where_the_job_can(begin, open_mpi, launch, tmp_path):
    """Under ULFM the others are woken in MPI, and the job goes on."""
    if not open_mpi:
        pytest.skip("no ULFM")
    job = begin(
        """
        def fails(comm, n):
            if comm.rank == n % comm.size:
                raise ValueError("the cause")
            if n % 2:
                comm.recv(source=n % comm.size)
            else:
                comm.Barrier()

        with mpi_dask(mpi_task_grace=100) as client:
            for n in range(6):
                for future in submit_mpi(fails, n):
                    error = error_of(future)
                    assert "ValueError: the cause" in str(error) and error.rank == 2 + n % 3, error
                works(client)
            print("good")
        """,
        ranks=5,
        env={"PRTE_MCA_prte_enable_ft": "1", "OMPI_MCA_mpi_ft_enable": "1"},
    )
    result = job.result()
    assert (result.status, result.stdout) == (0, "good\n"), result.stderr


def test_retries_run_it_again_on_all_ranks(passes):
    passes(
        """
        def attempt(comm, path, fails):
            "Fail a number of times, on one rank after the other; return the number of attempts"
            for n in range(100):
                mine = f"{path}-{comm.rank}-{n}"
                if not os.path.exists(mine):
                    print_once(mine)
                    break
            assert comm.allreduce(n) == n * comm.size, "not all in the same attempt"
            if n < fails and comm.rank == n % comm.size:
                raise ValueError(f"attempt {n}")
            return n

        with mpi_dask() as client:
            assert client.gather(submit_mpi(attempt, "a", 3, retries=3)) == [3] * 3
            futures = submit_mpi(attempt, "b", 3, retries=2)
            for future in futures:
                assert "attempt 2" in str(error_of(future))
            client.retry(futures)
            assert client.gather(futures) == [3] * 3
            print("good")
        """,
        ranks=5,
    )


def test_dependencies_that_fail(passes):
    """That of one member is that of all, which are not held for ever."""
    passes(
        """
        def slow(path):
            until(exists(path))
            return 1

        with mpi_dask(nthreads=2) as client:
            bad = client.submit(lambda: 1 / 0)
            good = client.submit(slow, "later")
            for pieces in ([bad, 1], [1, bad], [good, bad], [bad, good]):
                for future in submit_mpi(total, PerRank(pieces)):
                    if good in pieces:
                        print_once("later")
                    assert isinstance(future.exception(timeout=30), ZeroDivisionError)
            for future in submit_mpi(total, bad):
                assert isinstance(future.exception(timeout=30), ZeroDivisionError)
            works(client)
            print("good")
        """
    )


def test_cancelled_at_each_stage(passes):
    passes(
        """
        def depends(path):
            until(exists(path))
            return 1

        def ends(client, futures):
            "All are cancelled, and their ranks are free"
            for future in futures:
                until(future.cancelled, f"{future} is not cancelled")
            works(client)

        with mpi_dask(nthreads=1) as client:
            # While what they depend on is computed.
            first = client.submit(depends, "first")
            futures = submit_mpi(total, PerRank([first, 1, 2]))
            futures[1].cancel()
            print_once("first")
            ends(client, futures)

            # While they wait for ranks, behind another one.
            before = submit_mpi(stays, "second", ranks=[2, 3])
            until(exists("second-started"))
            futures = submit_mpi(total)
            client.cancel(futures[:1])
            print_once("second")
            assert client.gather(before) == [2, 2]
            ends(client, futures)

            # While some have begun, and one waits for the thread of its worker.
            address = address_of(client, 3)
            busy = client.submit(depends, "third", workers=[address])
            futures = submit_mpi(total)
            until(lambda: sum(map(len, client.processing().values())) == 4)
            time.sleep(0.1)
            futures[2].cancel()
            for future in futures:
                until(future.cancelled)
            assert client.gather(submit_mpi(total, ranks=[4, 2])) == [2, 2]
            print_once("third")
            ends(client, futures)

            # While they run: they go on, as Dask's tasks do.
            futures = submit_mpi(stays, "fourth")
            until(exists("fourth-started"))
            futures[0].cancel()
            until(lambda: all(future.cancelled() for future in futures))
            print_once("fourth")
            ends(client, futures)
            futures = submit_mpi(stays, "fifth")
            until(exists("fifth-started"))
            del futures
            print_once("fifth")
            works(client)

            # After the end.
            futures = submit_mpi(total)
            wait(futures)
            futures[1].cancel()
            assert client.gather([futures[0], futures[2]]) == [3, 3]
            works(client)
            print("good")
        """,
        ranks=5,
    )


def test_who_keeps_one_future_keeps_all(passes):
    passes(
        """
        with mpi_dask() as client:
            assert submit_mpi(stays, "now")[0] is not None
            print_once("now")
            for n in range(10):
                assert submit_mpi(total)[n % 2].result() == 2
            future = client.submit(sum, [submit_mpi(total)[0]])
            assert future.result() == 2
            # Results that nobody wants are not kept.
            del future
            keys = lambda: [key for key in client.run_on_scheduler(
                lambda dask_scheduler: [str(k) for k in dask_scheduler.tasks]) if "mpi-" in key]
            until(lambda: not keys(), "tasks are left")
            print("good")
        """
    )


def test_client_that_goes(passes):
    passes(
        """
        with mpi_dask(nthreads=1) as client:
            other = Client(set_as_default=False)
            running = submit_mpi(stays, "go", ranks=[2, 3], client=other)
            waiting = submit_mpi(total, client=other)
            until(exists("go-started"))
            other.close()
            works(client, ranks=[4])
            print_once("go")
            works(client)
            print("good")
        """,
        ranks=5,
    )


@pytest.mark.parametrize("how", ["cancel", "release", "close"])
def test_one_that_nobody_wants_any_more_is_let_go_on(passes, how):
    """To interrupt some would leave the others in MPI for ever."""
    passes(
        f"""
        how = {how!r}

        def one_works_while_others_wait(comm, path):
            print_once(f"in-{{comm.rank}}")
            if comm.rank == 0:
                until(exists(path))
            comm.Barrier()
            print_once(f"out-{{comm.rank}}")

        with mpi_dask(nthreads=1, mpi_task_grace=0.5) as client:
            other = Client(set_as_default=False)
            futures = submit_mpi(one_works_while_others_wait, "go", client=other)
            for rank in range(3):
                until(exists(f"in-{{rank}}"))
            if how == "cancel":
                futures[1].cancel()
                until(lambda: all(future.cancelled() for future in futures))
            elif how == "close":
                other.close()
            del futures
            waiting = submit_mpi(total)
            assert client.submit(sum, [1, 2], workers=[address_of(client, 2)]) is not None
            time.sleep(3)  # longer than the grace
            assert not os.path.exists("out-0") and waiting[0].status == "pending"
            print_once("go")
            assert client.gather(waiting) == [3] * 3
            assert all(os.path.exists(f"out-{{rank}}") for rank in range(3))
            other.close()
            print("good")
        """,
        ranks=5,
    )


def test_one_that_is_cancelled_and_does_not_return_is_named(begin):
    result = begin(
        """
        from mpidask._gang import scheduler_plugin

        scheduler_plugin.NOTICE_INTERVAL = 0.1

        def waits(comm):
            print_once(f"in-{comm.rank}")
            until(exists("told"))

        @mpi_dask_main
        def main(client):
            futures = submit_mpi(waits)
            until(exists("in-0"))
            until(exists("in-1"))
            client.cancel(futures)
            until(exists("told"))
            works(client)
            print("good")

        print_once_when_said("told", "was cancelled")
        main()
        """,
        ranks=4,
    ).result()
    assert (result.status, result.stdout) == (0, "good\n"), result.stderr
    assert " was cancelled, but still runs on ranks 2, 3, " in result.stderr


def test_who_retries_one_future_retries_all(passes):
    passes(
        """
        def fails_at_first(comm):
            first = comm.bcast(not os.path.exists("again"))
            comm.Barrier()
            if first:
                raise ValueError("the first time")
            return total(comm)

        with mpi_dask() as client:
            for retry in (
                lambda futures: futures[1].retry(),
                lambda futures: [future.retry() for future in futures],
                client.retry,
            ):
                futures = submit_mpi(fails_at_first)
                wait(futures)
                assert {future.status for future in futures} == {"error"}
                print_once("again")
                retry(futures)
                assert client.gather(futures) == [3] * 3
                os.remove("again")
            # Of other tasks, only what is asked for; futures that are in order stay so.
            plain = client.submit(lambda: 1 / int(os.path.exists("again")))
            wait(plain)
            print_once("again")
            client.retry([plain, futures[0]])
            assert (plain.result(), futures[0].result()) == (1, 3)
            works(client)
            print("good")
        """,
        ranks=5,
    )


def test_client_restart(passes):
    passes(
        """
        with mpi_dask(nthreads=1) as client:
            for n in range(3):
                running = submit_mpi(stays, f"never{n}", ranks=[2, 3])
                waiting = submit_mpi(total)
                until(exists(f"never{n}-started"))
                client.restart()
                assert running[0].cancelled() and waiting[0].cancelled()
                works(client)
            print("good")
        """,
        ranks=5,
    )


def test_a_member_that_comes_when_its_worker_has_begun_to_close(passes):
    """Nobody would tell it to start, or to stop."""
    passes(
        """
        def come_late():
            from mpidask._gang.rank import RankService
            enter = RankService.enter
            def late(self, key):
                print_once(f"late-{self.rank}")
                RankService.enter = enter
                until(lambda: self._closed_because)
                return enter(self, key)
            RankService.enter = late

        with mpi_dask(nthreads=1) as client:
            client.run(come_late)
            submitted = submit_mpi(total)
            for rank in 2, 3:
                until(exists(f"late-{rank}"))
            client.restart()
            works(client)
            print("good")
        """
    )


def test_results_lost_with_their_worker(passes):
    """All ranks run again, if all futures are still held."""
    passes(
        """
        def count(comm, path):
            open(path, "a").write("x") if comm.rank == 0 else None
            return comm.allreduce(1)

        def lose(client, future):
            "Let the worker of a result be replaced"
            (address,) = client.who_has([future])[future.key]
            client.run(close_soon, workers=[address])
            until(lambda: address not in client.scheduler_info(n_workers=-1)["workers"])

        with mpi_dask(nthreads=1) as client:
            futures = submit_mpi(count, "a")
            more = client.map(lambda x: 2 * x, futures)
            assert client.gather(more) == [6] * 3
            lose(client, futures[1])
            del more
            assert client.gather(futures) == [3] * 3
            assert open("a").read() == "xx"

            kept = submit_mpi(count, "b")[1]
            assert kept.result() == 3
            until(lambda: len(client.run_on_scheduler(lambda dask_scheduler: [
                k for k in dask_scheduler.tasks if k[0] == kept.key[0]])) == 1)
            lose(client, kept)
            until(lambda: kept.status != "finished")  # the client hears of it
            assert "Keep all of them" in str(error_of(kept))
            works(client)
            print("good")
        """,
        ranks=5,
        env={
            "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical",
            "DASK_MPIDASK__LOG_LEVEL": "critical",
        },
    )


def test_worker_that_closes_in_the_middle(passes):
    """It runs again when the worker is back."""
    passes(
        """
        def lose(client, rank):
            address = address_of(client, rank)
            client.run(close_soon, workers=[address])
            until(lambda: address not in client.scheduler_info(n_workers=-1)["workers"])

        def stays_or_not(comm, path):
            try:
                return stays(comm, path)
            finally:
                print_once(f"left-{comm.rank}")

        with mpi_dask(nthreads=1, log_level="critical") as client:
            futures = submit_mpi(stays_or_not, "go")
            until(exists("go-started"))
            lose(client, 3)
            for rank in range(3):
                until(exists(f"left-{rank}"))
            print_once("go")
            assert client.gather(futures) == [3] * 3
            works(client)
            print("good")
        """,
        ranks=5,
    )


def test_rank_without_a_worker(passes):
    """One that was retired does not come back."""
    passes(
        """
        with mpi_dask(mpi_task_grace=2, log_level="critical") as client:
            client.retire_workers([address_of(client, 3)])
            for ranks in None, [3, 2]:
                for future in submit_mpi(total, ranks=ranks):
                    assert "no worker on rank 3" in str(error_of(future))
            works(client, ranks=2)
            works(client, ranks=[4, 2])
            print("good")
        """,
        ranks=5,
    )


def test_the_end_of_the_cluster_while_one_is_in_mpi(fails):
    """Main's exit status stands, and the job ends in time."""
    result = fails(
        """
        import sys

        def hangs(comm):
            print_once("started")
            if comm.rank == 0:
                comm.recv(source=1)
            while True:
                time.sleep(0.01)

        @mpi_dask_main(shutdown_timeout=1000, mpi_task_grace=2)
        def main(client):
            futures = submit_mpi(hangs)
            until(exists("started"))
            time.sleep(0.2)
            sys.exit(7)

        main()
        """
    )
    assert result.status == 7, result.stderr
    assert "rank 2 on" in result.stderr and "does not end" in result.stderr
    assert result.seconds < 60


def test_a_long_wait_for_others_to_return_is_told(begin):
    """Such as one that never ends, as they wait for what nobody sends."""
    result = begin(
        """
        from mpidask import _waiting

        _waiting.NOTICE_INTERVAL = 0.1

        def lags(comm):
            if comm.rank == 1:
                until(exists("told"))

        @mpi_dask_main
        def main(client):
            client.gather(submit_mpi(lags))
            print("good")

        print_once_when_said("told", "waits for other ranks to return")
        main()
        """,
        ranks=4,
    ).result()
    assert (result.status, result.stdout) == (0, "good\n"), result.stderr
    assert "rank 2 waits for other ranks to return from mpi-lags-" in result.stderr


def test_main_that_ends_with_the_error(fails):
    """It is shown, and those in MPI don't hold up the end for longer than the grace."""
    result = fails(
        """
        def fails(comm):
            if comm.rank == 1:
                raise ValueError("the cause")
            comm.recv(source=1)

        @mpi_dask_main(mpi_task_grace=1, shutdown_timeout=1000)
        def main(client):
            client.gather(submit_mpi(fails))

        main()
        """
    )
    assert result.status == 1
    assert "mpidask.MPITaskError: mpi-fails" in result.stderr
    assert "ValueError: the cause" in result.stderr


def test_the_end_of_the_cluster_while_one_is_in_python(passes):
    passes(
        """
        @mpi_dask_main(shutdown_timeout=60)
        def main(client):
            futures = submit_mpi(stays, "never")
            until(exists("never-started"))
            print("good")

        main()
        """
    )


def test_interrupts_reach_nothing_else(passes):
    """Members that catch everything are told again; who ends at that moment is left in peace."""
    passes(
        """
        def stubborn(comm):
            if comm.rank == 0:
                until(exists("stubborn"))
                raise ValueError("deliberate")
            print_once("stubborn")
            for n in range(3):
                try:
                    while True:
                        time.sleep(0.01)
                except BaseException:
                    pass

        def one_fails(comm, seconds):
            return time.sleep(seconds) if comm.rank else 1 / 0

        def innocent(n):
            total = 0
            for m in range(2000):
                total += m
            return total

        with mpi_dask(nthreads=1) as client:
            assert error_of(submit_mpi(stubborn)[1]).rank == 2
            works(client)
            for n in range(60):
                futures = submit_mpi(one_fails, n / 2000)
                tasks = client.map(innocent, range(4), pure=False)
                assert client.gather(tasks) == [1999000] * 4
                assert error_of(futures[1]).rank == 2
            works(client)
            print("good")
        """
    )


def test_a_communicator_that_the_function_has_freed(fails):
    result = fails(
        """
        @mpi_dask_main(mpi_task_grace=2)
        def main(client):
            client.gather(submit_mpi(lambda comm: comm.Free()))

        main()
        """
    )
    assert "the function has freed its communicator" in result.stderr
