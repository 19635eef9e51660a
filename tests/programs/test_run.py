"""Programs that go well, and programs whose function ends in another way."""

from __future__ import annotations

import re

import pytest

HELLO = """
from mpidask import mpi_dask_main

@mpi_dask_main
def main(client):
    print("sum", client.submit(sum, range(10)).result())
    return "value"

print("got", main())
"""


def one_line(result):
    """Assert that stderr has the one line of a run that went well, and nothing else."""
    lines = result.messages
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("mpidask: ")
    return lines[0]


@pytest.mark.essential
def test_hello_world(run):
    result = run(HELLO, ranks=4)
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\n"
    line = one_line(result)
    for part in ("2 workers on 1 node", "thread", "memory", "scheduler tls://", "dashboard http"):
        assert part in line


def test_many_ranks(run):
    result = run(HELLO, ranks=12, limit=150)
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\n"
    assert "10 workers" in one_line(result)


@pytest.mark.essential
def test_bare_python_uses_a_local_cluster(run):
    result = run(HELLO, ranks=None)
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\n"
    assert "no MPI job" in one_line(result)


def test_a_local_cluster_says_nothing_of_connections_that_are_given_up(run):
    result = run(
        """
        import contextlib, socket
        from distributed.comm import parse_host_port
        from distributed.comm.addressing import parse_address
        from mpidask import mpi_dask

        with mpi_dask() as client:
            place = parse_host_port(parse_address(client.scheduler.address)[1])
            for _ in range(3):
                with socket.create_connection(place) as stranger:
                    stranger.sendall(b"no TLS")
                    with contextlib.suppress(ConnectionResetError):
                        stranger.recv(100)
            print(client.submit(sum, [1, 2]).result())
        """,
        ranks=None,
    )
    assert (result.status, result.stdout) == (0, "3\n"), result.stderr
    assert "no MPI job" in one_line(result)


def test_no_mpi_job_has_a_scheduler_file_too(run):
    result = run(
        """
        from pathlib import Path
        import mpidask
        from distributed import Client

        FILE = Path("scheduler.json")

        with mpidask.mpi_dask(scheduler_file=str(FILE), security=False):
            with Client(**mpidask.connection(FILE)) as other:
                print(oct(FILE.stat().st_mode), other.submit(sum, [1, 2]).result())
        print(FILE.exists())
        """,
        ranks=None,
    )
    assert (result.status, result.stdout) == (0, "0o100600 3\nFalse\n"), result.stderr
    one_line(result)


def test_one_rank_uses_a_local_cluster(run):
    result = run(HELLO, ranks=1)
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\n"


def test_context_manager(run):
    result = run(
        """
        from distributed import Client, get_client
        import dask
        from mpidask import mpi_dask

        with mpi_dask(nthreads=1) as client:
            with Client() as mine:
                assert mine.scheduler.address == client.scheduler.address
                print("bare client", mine.submit(abs, -1).result())
            print("get_client", get_client() is client)
            print("compute", dask.delayed(abs)(-2).compute())
        print("address", dask.config.get("scheduler-address", None))
        """
    )
    assert result.status == 0, result.stderr
    assert result.stdout == "bare client 1\nget_client True\ncompute 2\naddress None\n"
    one_line(result)


def test_async_function(run):
    result = run(
        """
        import asyncio
        from mpidask import mpi_dask_main

        @mpi_dask_main
        async def main(n, client):
            return await client.submit(sum, range(n))

        print("got", asyncio.run(main(10)))
        """
    )
    assert result.status == 0, result.stderr
    assert result.stdout == "got 45\n"
    one_line(result)


@pytest.mark.essential
@pytest.mark.parametrize("ranks", [4, None])
def test_async_block(run, ranks):
    result = run(
        """
        import asyncio
        from mpidask import mpi_dask

        async def main():
            async with mpi_dask() as client:
                print("sum", await client.submit(sum, range(10)))

        asyncio.run(main())
        """,
        ranks=ranks,
    )
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\n"
    one_line(result)


@pytest.mark.essential
def test_methods_and_commands(run):
    result = run(
        """
        import sys
        import click
        from mpidask import mpi_dask_main

        class Analysis:
            def __init__(self, n):
                self.n = n

            @mpi_dask_main(exit=False)
            def run(self, client, *, power=1):
                return client.submit(pow, self.n, power).result()

        value = Analysis(3).run(power=2)
        if value is not None:
            print("method", value)

        @click.command()
        @click.argument("n", type=int)
        @mpi_dask_main(exit=False)
        def inner(n, client):
            print("command outside", client.submit(abs, n).result(), flush=True)

        inner(["7"], standalone_mode=False)

        @mpi_dask_main
        @click.command()
        @click.argument("n", type=int)
        def outer(n):
            from distributed import get_client
            print("command inside", get_client().submit(abs, n).result())

        outer(["8"])
        """
    )
    assert result.status == 0, result.stderr
    assert result.stdout.splitlines() == ["method 9", "command outside 7", "command inside 8"]


@pytest.mark.essential
def test_error_in_main(run):
    result = run(
        """
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            client.submit(int, "x").result()

        main()
        print("never")
        """
    )
    assert result.status == 1
    assert "never" not in result.stdout
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert result.stderr.count("ValueError: invalid literal") == 1


@pytest.mark.essential
@pytest.mark.parametrize("code, status", [("0", 0), ("7", 7), ("None", 0), ("'text'", 1)])
def test_sys_exit(run, code, status):
    result = run(
        f"""
        import sys
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main():
            sys.exit({code})

        main()
        """
    )
    assert result.status == status, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines().count("text") == (code == "'text'")


def test_client_closed_by_the_user(run):
    result = run(HELLO.replace("return", "client.close(); return"))
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\n"
    one_line(result)


def test_shutdown_by_the_user(run):
    result = run(HELLO.replace("return", "client.shutdown(); return"), limit=40)
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\n"
    one_line(result)


def test_shutdown_by_the_user_without_mpi(start):
    """distributed's LocalCluster would look for its scheduler for 30 s."""
    job = start(
        """
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            client.shutdown()
            print("shut down", flush=True)

        main()
        print("on")
        """,
        ranks=None,
        limit=60,
    )
    job.wait_for_output("shut down")
    begin = job.seconds
    result = job.result()
    assert (result.status, result.stdout) == (0, "shut down\non\n"), result.stderr
    assert len(result.messages) == 1
    assert job.seconds - begin < 25


@pytest.mark.essential
def test_several_clusters_in_one_mpi_program(run):
    result = run(
        """
        import logging, signal
        import dask
        from mpi4py import MPI
        from mpidask import mpi_dask, mpi_dask_main

        def state():
            import distributed
            return (
                signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT),
                logging.getLogger("distributed").level, logging.getLogger("mpidask").level,
                len(logging.getLogger("mpidask").handlers),
                dask.config.get("scheduler-address", None),
                dask.config.get("distributed.comm.require-encryption"),
            )

        comm = MPI.COMM_WORLD
        before = state()
        for n in range(3):
            with mpi_dask(exit=False) as client:
                if client is not None:
                    print("rank", comm.rank, client.submit(sum, range(n)).result(), flush=True)
            assert state() == before, (state(), before)
            assert comm.allreduce(1) == comm.size

        half = comm.Split(comm.rank // 3)
        with mpi_dask(comm=half, exit=False) as client:
            if client is not None:
                print("half", comm.rank, client.submit(sum, [comm.rank]).result(), flush=True)
        half.Free()

        @mpi_dask_main(exit=False, scheduler_rank=5, client_rank=0)
        def last(client):
            return len(client.scheduler_info()["workers"])

        print("last", comm.gather(last()), flush=True) if comm.rank == 0 else comm.gather(last())
        """,
        ranks=6,
        limit=150,
    )
    assert result.status == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == ["rank 1 0", "rank 1 0", "rank 1 1"]
    assert sorted(lines[3:5]) == ["half 1 1", "half 4 4"]
    assert lines[5] == "last [4, None, None, None, None, None]"
    assert len(result.messages) == len(result.said) == 6


@pytest.mark.parametrize("ranks", [2, 3])
def test_inclusive_workers(run, ranks):
    result = run(
        """
        from mpidask import mpi_dask_main

        @mpi_dask_main(exclusive_workers=False)
        def main(client):
            client.wait_for_workers(1)
            names = [w["name"] for w in client.scheduler_info(-1)["workers"].values()]
            print(sorted(names), sum(client.run(abs, -1).values()))

        main()
        """,
        ranks=ranks,
    )
    assert result.status == 0, result.stderr
    assert result.stdout == f"{[f'mpidask-{r}' for r in range(ranks)]} {ranks}\n"
    one_line(result)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_is_scheduler_and_client(run, rank):
    options = f"scheduler_rank={rank}, client_rank={rank}"
    result = run(
        f"""
        from mpi4py import MPI
        from mpidask import mpi_dask, mpi_dask_main

        with mpi_dask({options}, exit=False) as client:
            if client is not None:
                print("block", sum(client.run(abs, -1).values()), flush=True)

        @mpi_dask_main({options}, exclusive_workers=False)
        def main(client):
            print("inclusive", sum(client.run(abs, -1).values()))
            return MPI.COMM_WORLD.Get_rank()

        print("rank", main())
        """,
        ranks=2,
    )
    assert result.status == 0, result.stderr
    assert result.stdout == f"block 1\ninclusive 2\nrank {rank}\n"
    assert len(result.messages) == len(result.said) == 2


@pytest.mark.parametrize("nanny", [False, True])
def test_the_client_on_the_scheduler_s_rank_goes_on_after_a_shutdown(run, nanny):
    """The worker that watches over this rank takes it for dead 3 s after the scheduler."""
    result = run(
        f"""
        import time
        from mpidask import mpi_dask_main

        @mpi_dask_main(client_rank=0, nanny={nanny})
        def main(client):
            client.submit(abs, -1).result()
            client.shutdown()
            time.sleep(5)
            return "value"

        print(main())
        """,
        ranks=2,
    )
    assert (result.status, result.stdout) == (0, "value\n"), result.stderr
    one_line(result)


@pytest.mark.parametrize("ends", ["1 / 0", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_how_a_client_on_the_scheduler_s_rank_ends(run, ends):
    result = run(
        f"""
        import os, signal, sys
        from mpidask import mpi_dask_main

        @mpi_dask_main(client_rank=0)
        def main(client):
            client.submit(abs, -1).result()
            {ends}

        main()
        """,
        ranks=3,
        limit=60,
    )
    assert result.status == {"1": 1, "s": 3, "o": 143}[ends[0]], result.stderr
    assert result.stderr.count("Traceback") == (ends == "1 / 0")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("nthread=2", "TypeError: mpidask has no option 'nthread' (did you mean 'nthreads'?)"),
        ("nthreads=0", "ValueError: option nthreads=0 must be 1 or more"),
        ("4", "TypeError: mpi_dask_main decorates a function, not 4"),
    ],
)
def test_wrong_options_are_said_once_where_the_decorator_stands(run, wrong, error):
    result = run(
        f"""
        from mpidask import mpi_dask_main

        @mpi_dask_main({wrong})
        def main(client):
            pass

        print("never")
        """,
        ranks=3,
        limit=60,
    )
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.count(error) == 1, result.stderr
    assert result.stderr.count("Traceback") == 1
    assert f"@mpi_dask_main({wrong})" in result.stderr
    assert "mpidask/" not in result.stderr  # no frame of ours


@pytest.mark.parametrize("asynchronous", [False, True])
def test_errors_of_the_start_are_shown_without_our_frames(run, asynchronous):
    result = run(
        f"""
        import asyncio
        from mpidask import mpi_dask_main

        @mpi_dask_main(worker_class="nonesuch.Worker")
        {"async " * asynchronous}def main(client):
            pass

        {"asyncio.run(main())" if asynchronous else "main()"}
        """,
        ranks=3,
        limit=60,
    )
    assert result.status == 1
    assert result.stderr.count("mpidask.StartupError: the worker on rank 2") == 1, result.stderr
    assert "mpidask/" not in result.stderr


def test_error_with_exit_false_does_not_hang(run):
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        @mpi_dask_main(exit=False)
        def main():
            raise ZeroDivisionError("mine")

        main()
        MPI.COMM_WORLD.Barrier()
        """,
        limit=40,
    )
    assert result.status != 0
    assert result.stderr.count("ZeroDivisionError: mine") == 1


def test_error_caught_with_exit_false_lets_the_program_go_on(run):
    result = run(
        """
        from mpi4py import MPI
        from mpidask import mpi_dask_main

        @mpi_dask_main(exit=False)
        def main():
            raise ZeroDivisionError("mine")

        try:
            main()
        except ZeroDivisionError:
            print("caught", flush=True)
        print(MPI.COMM_WORLD.allreduce(1), flush=True)
        """
    )
    assert result.status == 0, result.stderr
    assert result.stdout.count("caught") == 1
    assert result.stdout.count("4") == 4


def test_program_that_finalizes_mpi_itself(run):
    result = run(HELLO + "from mpi4py import MPI\nMPI.Finalize()\nprint('end')\n", limit=40)
    assert result.status == 0, result.stderr
    assert result.stdout == "sum 45\ngot value\nend\n"


REPORTED = {
    "decorator": """
from mpidask import mpi_dask_main

@mpi_dask_main(performance_report="report.html")
def the_program(client):
    client.submit(sum, range(10)).result()

the_program()
""",
    "with": """
from mpidask import mpi_dask

def the_program():
    with mpi_dask(performance_report="report.html") as client:
        client.submit(sum, range(10)).result()

the_program()
""",
    "async with": """
import asyncio
from mpidask import mpi_dask

async def the_program():
    async with mpi_dask(performance_report="report.html") as client:
        await client.submit(sum, range(10))

asyncio.run(the_program())
""",
}


@pytest.mark.parametrize("program", REPORTED.values(), ids=REPORTED)
def test_performance_report_shows_the_program(run, tmp_path, program):
    pytest.importorskip("bokeh")
    # By default, Dask passes over all code in files whose path has "pytest" in it.
    files = {"DASK_DISTRIBUTED__DIAGNOSTICS__COMPUTATIONS__IGNORE_FILES": "['runpy']"}
    result = run(program, env=files)
    assert result.status == 0, result.stderr
    report = (tmp_path / "report.html").read_text()
    assert "Dask Performance Report" in report
    _, code = report.split("Calling Code", 1)
    assert "def the_program" in code
    assert "contextlib" not in code
    one_line(result)


CANCELLED = """
import asyncio, time
from mpi4py import MPI
from mpidask import mpi_dask

async def work():
    async with mpi_dask():
        await asyncio.sleep(60)

async def main():
    task = asyncio.create_task(work())
    if MPI.COMM_WORLD.Get_rank() == 1:
        await asyncio.sleep(0.2)
        {meanwhile}
        task.cancel()
    await task

asyncio.run(main())
"""


@pytest.mark.parametrize("meanwhile", ["pass", "time.sleep(8)"], ids=["starting", "just started"])
def test_cancelled_while_it_starts(run, meanwhile):
    """The second one holds up the event loop, so that the cluster is up by then."""
    result = run(CANCELLED.format(meanwhile=meanwhile))
    assert result.status == 1, result.stderr
    assert "CancelledError" in result.stderr


def test_strangers_are_refused_without_a_word(run):
    result = run(
        """
        import contextlib, socket
        from mpidask import mpi_dask_main

        @mpi_dask_main
        def main(client):
            host, port = client.scheduler.address.removeprefix("tls://").split(":")
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b"let me in" * 100)
                with contextlib.suppress(ConnectionResetError):
                    print(stranger.recv(100) or "no")

        main()
        """
    )
    assert result.status == 0, result.stderr
    one_line(result)


def test_connections_that_break_at_the_very_end_are_not_told(run):
    """What Dask still logs after its servers have closed, until their event loop is gone."""
    result = run(
        """
        from mpidask import mpi_dask

        def complain():
            import asyncio, logging
            async def go_on():
                while True:
                    await asyncio.sleep(0)
                    logging.getLogger("distributed.core").warning("a connection broke")
            asyncio.create_task(go_on())  # the loop, which has it at every turn, keeps it

        with mpi_dask(log_level="critical") as client:
            client.run_on_scheduler(complain)
        """
    )
    assert result.status == 0, result.stderr
    one_line(result)


FORGETFUL = """
import asyncio, sys
from distributed import Client
from mpidask import mpi_dask

async def use():
    client = await Client(asynchronous=True)
    print(await client.submit(sum, [1, 2]))

async def main():
    async with mpi_dask():
        await use()
        Client()

if sys.argv[1] == "with":
    with mpi_dask():
        asyncio.run(use())  # ends an event loop, and leaves its client
        Client()
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("block", ["with", "async with"])
def test_clients_that_the_program_forgot(run, block):
    result = run(FORGETFUL, block)
    assert (result.status, result.stdout) == (0, "3\n"), result.stderr


@pytest.mark.parametrize("ranks, nanny", [(4, False), (4, True), (None, False)])
def test_clients_that_tasks_make(run, ranks, nanny):
    """They are of the job's cluster, need no closing, and leave no configuration behind."""
    result = run(
        f"""
        import threading

        import dask
        from distributed import Client
        from mpidask import mpi_dask

        def add_up(*address):
            client = Client(*address, timeout=20)
            return client.scheduler.address, client.submit(sum, [1, 2]).result(), client.security

        with mpi_dask(dashboard=False, exit=False, nanny={nanny}) as client:
            if client is not None:
                own, found = client.scheduler.address, []
                for address in client.scheduler_info(n_workers=-1)["workers"]:
                    for given in ([], [own]):
                        made = client.submit(add_up, *given, workers=[address], pure=False)
                        found.append(made.result())
                thread = threading.Thread(target=lambda: found.append(add_up()))
                thread.start()
                thread.join()
                assert {{(at, total) for at, total, _ in found}} == {{(own, 3)}}, found
                assert all(security.require_encryption for _, _, security in found)
        print(*map(dask.config.get, ["scheduler-address", "distributed.client.security-loader"],
                   ["as found", None]))
        """,
        ranks=ranks,
    )
    assert result.status == 0, result.stderr
    assert result.stdout.splitlines() == ["as found None"] * (ranks or 1)
    one_line(result)


def test_used_twice_or_nested(run):
    result = run(
        """
        from mpidask import MPIDaskError, mpi_dask, mpi_dask_main

        @mpi_dask_main
        def main(client):
            try:
                main()
            except MPIDaskError as error:
                print("nested:", error)
            try:
                client.submit(lambda: mpi_dask().__enter__()).result()
            except MPIDaskError as error:
                print("in a task:", error)

        main()
        try:
            with mpi_dask():
                pass
        except MPIDaskError as error:
            print("again:", error)
        """
    )
    assert result.status == 0, result.stderr
    nested, task, again = result.stdout.splitlines()
    assert nested.startswith("nested: ") and "inside" in nested
    assert task.startswith("in a task: ") and "inside" in task
    assert again.startswith("again: ") and "exit=False" in again


def test_batch_job_shows_the_way_to_its_dashboard(run):
    batch = {"SLURM_SUBMIT_HOST": "login1", "USER": "ana"}
    result = run(HELLO, ranks=4, env=batch)
    assert (result.status, result.stdout) == (0, "sum 45\ngot value\n"), result.stderr
    link = r", dashboard http://(\S+):(\d+)/([\w-]{22})/status "
    way = r"\(from outside: ssh -N -L \2:\1:\2 ana@login1, then http://localhost:\2/\3/status\)$"
    assert re.search(link + way, one_line(result))


@pytest.mark.parametrize("ranks", [3, None])
def test_a_dashboard_for_its_node_alone_without_a_secret(run, ranks):
    plain = {
        "DASK_MPIDASK__DASHBOARD_ADDRESS": "127.0.0.1:0",
        "DASK_MPIDASK__DASHBOARD_TOKEN": "false",
    }
    result = run(HELLO, ranks=ranks, env=plain | {"PBS_O_HOST": "login1", "USER": "ana"})
    assert (result.status, result.stdout) == (0, "sum 45\ngot value\n"), result.stderr
    line = one_line(result)
    assert line.endswith(", open to everyone on its node")
    assert re.search(r", dashboard http://127.0.0.1:\d+/status", line)
    if ranks:
        assert re.search(r"ssh -N -L (\d+):127.0.0.1:\1 -J ana@login1 ana@", line)


@pytest.mark.parametrize("ranks", [4, None])
def test_the_dashboard_is_loaded_when_it_is_asked_for(run, ranks):
    """Also: its link has a secret, which the scheduler file has, and which no other page tells."""
    pytest.importorskip("bokeh")
    result = run(
        """
        import json, sys
        from urllib.error import HTTPError
        from urllib.request import urlopen
        from mpidask import mpi_dask

        def loaded():
            return "bokeh" in sys.modules

        def status(url):
            try:
                return urlopen(url, timeout=60).status
            except HTTPError as error:
                return error.code

        with mpi_dask(scheduler_file="file", dashboard_address=":0") as client:
            client.submit(sum, [1, 2]).result()
            there = [loaded(), client.run_on_scheduler(loaded), *client.run(loaded).values()]
            print(any(there), len(there) > 2)
            link = client.dashboard_link
            print(link == json.load(open("file"))["dashboard_link"])
            root, secret, page = link.rsplit("/", 2)
            others = ("", page, "sitemap.json")
            print(len(secret), page, [status(f"{root}/{path}") for path in others])
            text = urlopen(link, timeout=60).read().decode()
            print("Dask" in text, "bokeh" in text.lower(), client.run_on_scheduler(loaded))
        """,
        ranks=ranks,
    )
    expected = "False True\nTrue\n22 status [404, 404, 404]\nTrue True True\n"
    assert (result.status, result.stdout) == (0, expected), result.stderr
    one_line(result)
