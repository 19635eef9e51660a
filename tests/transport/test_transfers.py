"""Messages that go by MPI between two ranks: what arrives, and what goes wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from mpidask._transport.comm import _is_short
from mpidask._transport.progress_thread import Transfer

PRELUDE = """
import asyncio, gc, os, signal, time, uuid
import numpy as np
import psutil
from distributed import Security
from distributed.comm import CommClosedError, connect, listen
from distributed.protocol import to_serialize
from mpi4py import MPI
from mpidask import _transport
from mpidask._transport import context as contexts

world = MPI.COMM_WORLD
rank = world.Get_rank()
job = world.bcast(uuid.uuid4().hex)
security = Security(require_encryption=False)  # of the streams
private = world.Dup()
_transport.enable(private, job=job, peers={0, 1}, threshold=0)

def array(nbytes, seed=0):
    return np.random.default_rng(seed).integers(0, 255, nbytes, dtype="u1")

async def write(comm, data):
    return await comm.write({"data": to_serialize(data)})

async def read(comm):
    return (await comm.read())["data"]

async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)

async def pairs(number):
    "Give so many comms; rank 0 listens, rank 1 connects."
    got = asyncio.Queue()
    if rank == 0:
        args = security.get_listen_args("worker")
        async with listen("mpi://127.0.0.1", got.put, **args) as listener:
            world.send(listener.contact_address, 1)
            return [await got.get() for _ in range(number)]
    address = world.recv(source=0)
    args = security.get_connection_args("worker")
    return [await connect(address, **args) for _ in range(number)]

def play(part0, part1, number=1):
    "Run a part on each rank; MPI must have ended all it has begun."
    async def run():
        comms = await pairs(number)
        await asyncio.wait_for((part0, part1)[rank](*comms), 240)
        for comm in comms:
            await comm.close()
    asyncio.run(run())
    assert _transport.disable(20), "transfers are left"
    private.Free()
    print(f"rank {rank} is through")
"""


@pytest.fixture
def start_pair(start: Callable[..., Any]) -> Callable[..., Any]:
    """Start a program on two ranks that calls `play`."""

    def start_pair(program: str, **kwargs: Any) -> Any:
        return start(PRELUDE + textwrap.dedent(program), ranks=2, **kwargs)

    return start_pair


@pytest.fixture
def pair(start_pair: Callable[..., Any]) -> Callable[..., None]:
    """Run a program on two ranks that calls `play`; it must end well and say nothing else."""

    def pair(program: str, **kwargs: Any) -> None:
        result = start_pair(program, **kwargs).result()
        assert result.status == 0, result.stderr
        said = sorted(result.stdout.splitlines())
        assert said == ["rank 0 is through", "rank 1 is through"], result.stdout
        assert result.stderr == ""

    return pair


def test_messages_arrive_as_they_were_sent_in_their_order(pair):
    pair(
        """
        sizes = [1, 10, 0, 65536, 10**6, 3 * 10**6 + 1, 7]

        async def talk(comm):
            for round in range(20):
                for size in sizes:
                    await write(comm, array(size, round))
                for size in sizes:
                    assert (await read(comm) == array(size, round)).all()

        play(talk, talk)
        """
    )


def test_messages_of_all_kinds_keep_their_order(pair):
    """Plain ones, frames on the stream, and frames by MPI."""
    pair(
        """
        assert _transport.disable(20)
        _transport.enable(private, job=job, peers={0, 1}, threshold=10**6)
        plain = ["OK", None, {"op": "get", "keys": ["a", ("b", 1)], "reply": True}, 7.5]

        async def talk(comm):
            for size in (10**6, 10, 2 * 10**6, 10**5, 10**6):
                for message in plain:
                    await comm.write(message)
                    await write(comm, array(size))
                await comm.write({"deep": [[[["long" * 1000]]]], "many": list(range(1000))})
                for message in ("OK", None, {**plain[2], "keys": ("a", ("b", 1))}, 7.5):
                    assert await comm.read() == message
                    assert (await read(comm) == array(size)).all()
                rest = await comm.read()
                assert rest == {"deep": (((("long" * 1000,),),),), "many": tuple(range(1000))}
            assert _transport.traffic()["received"] == 4 * (10**6 + 2 * 10**6 + 10**6)

        play(talk, talk)
        """
    )


def test_who_waits_for_a_message_can_send_meanwhile(pair):
    pair(
        """
        async def send(comm):
            answer = asyncio.create_task(comm.read())
            await until(lambda: comm._channel._reading)
            await write(comm, array(10**8))
            await write(comm, array(10))
            assert await answer == "both are here"
            await write(comm, array(10**8))

        async def receive(comm):
            assert len(await read(comm)) == 10**8
            assert len(await read(comm)) == 10
            await comm.write("both are here")
            assert len(await read(comm)) == 10**8

        play(send, receive)
        """
    )


def test_both_write_before_either_reads(pair):
    pair(
        """
        async def talk(comm):
            for _ in range(5):
                await write(comm, array(2**25))
                assert len(await read(comm)) == 2**25

        play(talk, talk)
        """
    )


def test_many_comms_at_once(pair):
    pair(
        """
        async def one(comm):
            for n in range(20):
                await write(comm, array(10**5 * n, n))
                assert (await read(comm) == array(10**5 * n, n)).all()

        async def talk(*comms):
            await asyncio.gather(*map(one, comms))

        play(talk, talk, number=8)
        """
    )


def test_a_message_of_many_frames(pair):
    pair(
        """
        async def send(comm):
            await comm.write({n: to_serialize(array(n * 1000, n)) for n in range(200)})

        async def receive(comm):
            message = await comm.read()
            assert all((message[n] == array(n * 1000, n)).all() for n in range(200))

        play(send, receive)
        """
    )


def test_close_completes_pending_sends(pair):
    pair(
        """
        async def send(comm):
            await write(comm, array(10**7))
            await comm.close()
            assert comm.closed()

        async def receive(comm):
            await asyncio.sleep(0.2)
            assert len(await read(comm)) == 10**7
            try:
                await comm.read()
            except CommClosedError:
                return
            raise AssertionError("a closed comm is read")

        play(send, receive)
        """
    )


def test_close_completes_pending_sends_though_another_task_reads(pair):
    pair(
        """
        async def send(comm):
            reading = asyncio.create_task(comm.read())
            await until(lambda: comm._channel._reading)
            for n in range(4):
                await write(comm, array(10**6, n))
            await comm.close()
            assert isinstance(reading.exception(), CommClosedError)

        async def receive(comm):
            for n in range(4):
                assert (await read(comm) == array(10**6, n)).all()

        play(send, receive)
        """
    )


def test_who_is_cancelled_while_reading_loses_the_comm_and_nothing_else(pair):
    pair(
        """
        async def send(one, other):
            await write(one, array(10**8))
            await write(other, array(10**7))
            await until(one.closed)

        async def receive(one, other):
            reading = asyncio.create_task(one.read())
            await until(lambda: one._channel._transfers)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled() and one.closed()
            assert len(await read(other)) == 10**7

        play(send, receive, number=2)
        """
    )


def test_an_answer_that_cannot_be_read_ends_the_comm_it_was_asked_on(start_pair):
    """The end that has sent it may wait for an acknowledgement, and not for a request."""
    result = start_pair(
        """
        class Odd:
            def __reduce__(self):
                return int, ("unreadable", array(10**7))

        async def answer(one):
            await write(one, Odd())
            try:
                await one.read()
            except CommClosedError:
                return
            raise AssertionError("it goes on")

        async def ask(one):
            try:
                await one.read()
            except TypeError:
                assert one.closed()
            else:
                raise AssertionError("it was read")

        play(answer, ask)
        """
    ).result()
    assert result.status == 0, result.stderr


def test_abort_between_request_and_transfer(pair):
    pair(
        """
        async def send(one, other):
            await write(one, array(10**7))
            one.abort()
            assert one.closed()
            await write(other, array(10**7))

        async def receive(one, other):
            try:
                await read(one)
            except CommClosedError:
                assert len(await read(other)) == 10**7
            else:
                raise AssertionError("what was taken back has arrived")

        play(send, receive, number=2)
        """
    )


def test_what_comes_too_late_meets_no_receive_of_a_later_cluster(pair):
    pair(
        """
        def begin_to_receive():
            context = contexts.current()
            buffers = context.allocate([100])
            return context.progress.receive(1, buffers), buffers[0]

        if rank == 0:
            lost, _ = begin_to_receive()
            contexts.current().progress.give_up(lost)
        assert _transport.disable(20)
        _transport.enable(private, job=job, peers={0, 1}, threshold=0)
        if rank == 0:
            transfer, received = begin_to_receive()
            world.send((lost.tag, transfer.tag), 1)
            transfer.result(60)
            assert bytes(received) == b"b" * 100
        else:
            for tag, byte in zip(world.recv(source=0), b"ab"):
                private.Send(bytes([byte] * 100), 0, tag)
        if rank == 0:
            private.Recv(bytearray(100), 1, lost.tag)  # it is still there
        assert _transport.disable(20)
        print(f"rank {rank} is through")
        """
    )


def test_abort_while_sending(pair):
    pair(
        """
        async def send(comm):
            await write(comm, array(10**8))
            await until(lambda: comm._channel._transfers)
            comm.abort()
            assert comm.closed()
            await until(lambda: not comm._channel._transfers)

        async def receive(comm):
            assert len(await read(comm)) == 10**8  # what was cleared arrives

        play(send, receive)
        """
    )


def test_abort_wakes_who_waits_for_a_message(pair):
    pair(
        """
        async def send(comm):
            answer = asyncio.create_task(comm.read())
            await until(lambda: comm._channel._reading)
            await write(comm, array(10**8))
            await until(lambda: comm._channel._transfers)
            comm.abort()
            await asyncio.wait([answer])
            assert isinstance(answer.exception(), CommClosedError)
            await until(lambda: not comm._channel._transfers)

        async def receive(comm):
            assert len(await read(comm)) == 10**8  # what was cleared arrives

        play(send, receive)
        """
    )


def test_a_receiver_out_of_memory_loses_the_comm(pair):
    pair(
        """
        async def send(one, other):
            await write(one, array(10**6))
            await until(one.closed)
            await write(other, array(10**6))

        async def receive(one, other):
            def take(nbytes):
                raise MemoryError
            take, pool.take = pool.take, take
            try:
                await read(one)
            except MemoryError:
                pool.take = take
            assert one.closed()
            assert len(await read(other)) == 10**6

        pool = contexts.current().pool
        play(send, receive, number=2)
        """
    )


def test_a_rank_whose_mpi_fails_goes_on_by_sockets_and_says_so(start_pair):
    """What fails in its thread is no silent end of the thread."""
    job = start_pair(
        """
        class Broken:
            def Irecv(self, *args):
                raise MPI.Exception(MPI.ERR_OTHER)

        def cancel(transfer):
            raise RuntimeError("there is no cancelling")

        async def send(comm):
            await write(comm, array(10**6))
            await until(comm.closed)

        async def receive(comm):
            progress = contexts.current().progress
            progress._comm, progress._cancel = Broken(), cancel
            try:
                await read(comm)
            except CommClosedError as error:
                assert "MPI failed" in str(error)
            await until(lambda: not progress.usable)

        async def run():
            await asyncio.wait_for((send, receive)[rank](*await pairs(1)), 60)
            (comm,) = await pairs(1)
            for part in (write(comm, array(10**6)), comm.read())[:: 1 if rank else -1]:
                await asyncio.wait_for(part, 60)
            await comm.close()

        asyncio.run(run())
        print(rank, "done with all:", _transport.disable(1))
        """
    )
    result = job.result()
    assert result.status == 0, result.stderr
    assert "1 done with all: False" in result.stdout.splitlines()
    assert "MPI has failed on rank 1, whose data goes by sockets now" in result.stderr
    assert "there is no cancelling" in result.stderr


def test_a_stream_out_of_memory_loses_the_comm(pair):
    """As with sockets alone, also where another task does the reading."""
    pair(
        """
        async def send(one, other):
            try:
                await one.write("it may be read")
            except CommClosedError:
                pass
            await write(other, array(10))

        async def receive(one, other):
            async def read_nothing(*args, **kwargs):
                raise MemoryError("no room")
            one._stream.read = read_nothing
            try:
                while True:
                    assert await one.read() == "it may be read"
            except CommClosedError:
                assert one.closed()
            assert len(await read(other)) == 10

        play(send, receive, number=2)
        """
    )


@pytest.mark.parametrize(
    "message, short",
    [
        ("OK", True),
        ({"op": "get_data", "keys": ["a", ("b", 1)], "who": None, "reply": True}, True),
        ({"keys": [("a key of many", n) for n in range(200)]}, True),
        ("x" * 20_000, False),
        ({"x" * 20_000: 1}, False),
        ({object(): 1}, False),
        ([[[0] * 100] * 100] * 100, False),
        ({"data": object()}, False),
    ],
)
def test_what_is_sent_without_a_look_at_its_frames(message, short):
    assert _is_short(message) == short


def test_a_transfer_ends_once_whoever_ends_it():
    """Its progress thread and a time-out may do so at a time."""
    transfer = Transfer(1, 5, [], receives=True)
    transfer.end()
    transfer.fail(RuntimeError("too late"))
    assert transfer.result(timeout=0) is None


def test_who_holds_the_gil_in_mpi_does_not_wait_for_the_progress_thread(start):
    """Nor the reverse: mpi4py holds it when it duplicates a communicator for objects."""
    job = start(
        """
        import threading
        from mpi4py import MPI
        from mpidask._transport.timed_wait import TimedWait

        timed, ended = TimedWait(), threading.Event()

        def wait():
            while not ended.is_set():
                request = MPI.COMM_SELF.Irecv(bytearray(8), tag=5)
                timed.wait([request], 0.0005, ended.is_set)
                request.Cancel()
                request.Wait()

        def wake():
            while not ended.wait(0.0001):
                timed.wake()

        threads = [threading.Thread(target=part) for part in (wait, wake)]
        for thread in threads:
            thread.start()
        world = MPI.COMM_WORLD
        for n in range(1000):
            comm = world.Create_group(world.group, 7)
            assert comm.allreduce(1) == 2
            comm.Free()
        ended.set()
        for thread in threads:
            thread.join()
        timed.stop()
        print("through")
        """,
        ranks=2,
        limit=90,
    )
    result = job.result()
    assert (result.status, result.stdout) == (0, "through\nthrough\n"), result.stderr


def test_memory_is_used_again(pair):
    pair(
        """
        data = array(2**20)
        used = []

        async def send(*comms):
            async def one(comm):
                for _ in range(250):
                    await write(comm, data)
                    await comm.read()
            await asyncio.gather(*map(one, comms))

        async def receive(*comms):
            async def one(comm):
                for _ in range(250):
                    assert len(await read(comm)) == 2**20
                    await comm.write("next")
                    used.append(psutil.Process().memory_info().rss)
            await asyncio.gather(*map(one, comms))
            assert max(used[1500:]) - max(used[:500]) < 2**24, used[::100]
            assert contexts.current().pool.free <= 2**24

        play(send, receive, number=8)
        """,
        limit=280,
    )


def test_no_buffer_of_a_lost_transfer_is_left_to_the_garbage_collector(pair):
    # Python before 3.12.7 may crash when it collects a memoryview in a cycle.
    pair(
        """
        async def send(comm):
            await write(comm, array(10**7))
            comm.abort()

        async def receive(comm):
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await read(comm)
            except CommClosedError:
                pass
            await until(lambda: not contexts.current().progress._active)
            gc.collect()
            assert not [found for found in gc.garbage if isinstance(found, memoryview)]
            gc.set_debug(0)

        play(send, receive)
        """
    )


def test_encrypted_streams(pair):
    pair(
        """
        security = world.bcast(Security.temporary() if rank == 0 else None)

        async def talk(comm):
            assert "TLS" in type(comm._stream).__name__
            for size in (1, 10**7):
                await write(comm, array(size, rank))
                assert (await read(comm) == array(size, 1 - rank)).all()

        play(talk, talk)
        """
    )


def test_ranks_of_other_jobs_use_the_stream(pair):
    pair(
        """
        contexts.current()._job += str(rank)
        contexts.current().progress.receive = contexts.current().progress.send = None

        async def talk(comm):
            await write(comm, array(10**7, rank))
            assert (await read(comm) == array(10**7, 1 - rank)).all()

        play(talk, talk)
        """
    )


def test_a_process_without_mpi_uses_the_stream(start_pair):
    result = start_pair(
        """
        import subprocess, sys
        OUTSIDER = (
            "import asyncio, sys\\n"
            "from distributed.comm import connect\\n"
            "async def main():\\n"
            "    comm = await connect(sys.argv[1])\\n"
            "    await comm.write(await comm.read())\\n"
            "    await comm.close()\\n"
            "    assert 'mpi4py' not in sys.modules\\n"
            "asyncio.run(main())"
        )

        async def echo(comm):
            await write(comm, array(10**7))
            print(len(await read(comm)), "bytes came back")
            await comm.close()

        async def talk(_):
            got = asyncio.Queue()
            async with listen("mpi://127.0.0.1", got.put) as listener:
                command = [sys.executable, "-c", OUTSIDER, listener.contact_address]
                child = await asyncio.create_subprocess_exec(*command)
                await echo(await got.get())
                assert await child.wait() == 0

        play(talk, talk)
        """
    ).result()
    assert result.status == 0, result.stderr
    assert result.stdout.count("10000000 bytes came back") == 2


def test_a_rank_that_is_stopped_and_wakes(start_pair):
    job = start_pair(
        """
        async def send(comm):
            await write(comm, array(10**6))
            await comm.read()
            print("stop me", flush=True)
            await until(lambda: os.path.exists("stopped"))
            await write(comm, array(10**8))
            await comm.read()

        async def receive(comm):
            await read(comm)
            await comm.write("I stop")
            assert len(await read(comm)) == 10**8
            await comm.write("done")

        play(send, receive)
        """
    )
    job.wait_for_output("stop me")
    stopped = job.rank(1)
    stopped.suspend()
    (job.directory / "stopped").touch()
    before = sum(job.rank(0).cpu_times()[:2])
    job.let_pass(3)
    assert sum(job.rank(0).cpu_times()[:2]) - before < 1.5
    stopped.resume()
    result = job.result()
    assert result.status == 0, result.stderr
    assert result.stdout.count("is through") == 2


def test_a_rank_that_is_stopped_while_it_receives(start_pair):
    job = start_pair(
        """
        async def send(comm):
            await write(comm, array(10**8))
            await comm.read()

        async def receive(comm):
            reading = asyncio.create_task(read(comm))
            await until(lambda: comm._channel._transfers)
            print("I stop", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            assert len(await reading) == 10**8
            await comm.write("done")

        play(send, receive)
        """
    )
    job.wait_for_output("I stop")
    stopped = job.rank(1)
    job.wait_for(lambda: stopped.status() == "stopped", "to stop")
    job.let_pass(1)
    before = sum(job.rank(0).cpu_times()[:2])
    job.let_pass(2)
    assert sum(job.rank(0).cpu_times()[:2]) - before < 1
    stopped.resume()
    result = job.result()
    assert result.status == 0, result.stderr
    assert result.stdout.count("is through") == 2


def test_a_rank_does_not_spin_before_its_peer_sends(start_pair):
    """The peer may need the CPU for just that."""
    job = start_pair(
        """
        async def send(comm):
            for _ in range(20):
                await write(comm, array(10**7))
                time.sleep(0.15)  # its event loop is busy, and sees no clear to send
                await comm.read()

        async def receive(comm):
            before = sum(psutil.Process().cpu_times()[:2])
            for _ in range(20):
                assert len(await read(comm)) == 10**7
                await comm.write("next")
            used = sum(psutil.Process().cpu_times()[:2]) - before
            print("sleeps" if used < 1.5 else f"spins: {used} s", flush=True)

        play(send, receive)
        """
    )
    result = job.result()
    assert result.status == 0, result.stderr
    assert "sleeps\n" in result.stdout, result.stdout


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_a_rank_that_is_killed_during_a_transfer(start_pair, victim):
    program = f"""
        sends = rank == {["receiver", "sender"].index(victim)}
        survives = rank == 0
        """
    program += """
        def cpu():
            return sum(psutil.Process().cpu_times()[:2])

        async def transfer(comm):
            await (write(comm, array(10**8)) if sends else read(comm))
            await comm.read()

        async def main():
            comm, = await pairs(1)
            moving = asyncio.create_task(transfer(comm))
            if not survives:
                await until(lambda: comm._channel._transfers)
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                await moving
            except CommClosedError:
                print("the other end is lost")
            assert comm.closed()
            before = cpu()
            await asyncio.sleep(2)
            print("idle" if cpu() - before < 1 else "busy", flush=True)

        asyncio.run(main())
        _transport.disable(1)
        open("ended", "w").close()
        os._exit(0)  # where a rank is missing, MPI has no end
        """
    # A launcher that sees a rank die ends the job: it sees a shell instead.
    shell = ["sh", "-c", '"$@"; until [ -e ended ]; do sleep 0.1; done', "sh"]
    job = start_pair(program, through=shell)
    assert job.result().stdout.splitlines()[:2] == ["the other end is lost", "idle"]
    assert (job.directory / "ended").exists()
