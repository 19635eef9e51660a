"""Messages between ranks, and MPI that is slow, or busy with what a dead rank has begun."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from mpi4py import MPI

from mpidask._mpi import communicator
from mpidask._mpi.communicator import Communicator, pack, unpack


class Request:
    """What MPI is asked for, done when the test says so."""

    def __init__(self, done=False):
        self.done, self.tests = done, 0

    def Test(self):
        self.tests += 1
        return self.done


class FakeMPI:
    """The communicator of MPI: keeps what is sent, and has what the test lets arrive."""

    def __init__(self, monkeypatch):
        self.sent, self.arriving, self.sizes = [], [], iter(())
        status = SimpleNamespace(
            Get_source=lambda: self.now[0], Get_count=lambda _: len(self.now[1])
        )
        monkeypatch.setattr(MPI, "Status", lambda: status)

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 4

    def Isend(self, buffer, rank, tag):
        self.sent.append(Request())
        self.sent[-1].data = buffer[0]
        return self.sent[-1]

    def arrive(self, source, message, request):
        self.arriving.append((source, pack(message), request))

    def improbe(self, tag, status):
        if not self.arriving:
            return None
        self.now = _, data, request = self.arriving.pop(0)

        def receive(buffer):
            buffer[0][:] = data
            return request

        return SimpleNamespace(Irecv=receive)


@pytest.fixture
def mpi(monkeypatch):
    return FakeMPI(monkeypatch)


def receive(comm, *, within=10.0):
    return asyncio.wait_for(comm.receive(0, longest=10), within)


# -- Receiving. ------------------------------------------------------------------------


def test_what_a_cancelled_receive_has_begun_comes_with_the_next_one(mpi):
    async def test():
        comm, request = Communicator(mpi, 0), Request()
        mpi.arrive(2, "large", request)
        with pytest.raises(asyncio.TimeoutError):
            await receive(comm, within=0.1)
        request.done = True
        return await receive(comm)

    assert asyncio.run(test()) == (2, "large")


def test_two_receivers_share_what_arrives(mpi):
    """One that is cancelled may not be gone when the next begins."""

    async def test():
        comm, request = Communicator(mpi, 0), Request()
        mpi.arrive(2, "large", request)
        both = [asyncio.create_task(receive(comm)) for _ in range(2)]
        await asyncio.sleep(0)
        request.done = True
        mpi.arrive(3, "small", Request(done=True))
        return sorted(await asyncio.gather(*both))

    assert asyncio.run(test()) == [(2, "large"), (3, "small")]


def test_a_rank_that_died_while_it_sent_holds_up_no_other(mpi):
    async def test():
        comm, last = Communicator(mpi, 0), Request()
        mpi.arrive(1, "begun", Request())
        mpi.arrive(1, "behind it", Request(done=True))
        mpi.arrive(2, "first", Request(done=True))
        mpi.arrive(2, "second", last)
        first = await receive(comm)
        last.done = True
        return first, await receive(comm)

    assert asyncio.run(test()) == ((2, "first"), (2, "second"))


def test_messages_of_a_rank_keep_their_order(mpi):
    async def test():
        comm, large = Communicator(mpi, 0), Request()
        mpi.arrive(1, "large", large)
        mpi.arrive(1, "small", Request(done=True))
        with pytest.raises(asyncio.TimeoutError):
            await receive(comm, within=0.1)
        large.done = True
        return [await receive(comm), await receive(comm)]

    assert asyncio.run(test()) == [(1, "large"), (1, "small")]


# -- Sending. --------------------------------------------------------------------------


def test_sending_costs_the_same_however_many_are_unsent(mpi):
    comm = Communicator(mpi, 0)
    for rank in range(2000):
        comm.send(rank, 1, "order")
    assert sum(request.tests for request in mpi.sent) <= 2000 * communicator._TESTED


def test_what_is_sent_is_dropped_though_a_dead_rank_takes_nothing(mpi):
    comm = Communicator(mpi, 0)
    for rank in range(100):
        comm.send(rank, 1, "order")
        mpi.sent[rank].done = rank != 0
    for _ in range(100):
        comm.send(1, 1, "more")
        mpi.sent[-1].done = True
    assert len(comm._unsent) < 2 * communicator._TESTED
    assert mpi.sent[0] in comm._unsent


def test_a_message_to_all_is_packed_once(mpi, monkeypatch):
    packed = []
    monkeypatch.setattr(communicator, "pack", lambda message: packed.append(message) or b"")
    comm, order = Communicator(mpi, 0), {"same": "for all"}
    for rank in range(10):
        comm.send(rank, 1, order)
    comm.send(0, 1, {"same": "for all"})
    assert len(packed) == 2


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_messages_come_out_as_they_went_in(size):
    message = ("text", b"x" * size)
    assert unpack(bytearray(pack(message))) == message
    assert len(pack(message)) < 2000  # credentials are text
