"""Collective calls that don't spin: `arrive`, which names missing ranks, and `allgather`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mpidask._errors import StartupError
from mpidask._mpi import job_exit
from mpidask._mpi.communicator import Communicator
from mpidask._text import and_more, name_ranks
from mpidask._waiting import Deadline, backoff, poll, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds between polls, at most.
_LONGEST_PAUSE = 0.02
#: Seconds that ranks have to answer the roll call.
_ANSWERING = 3
#: How many hosts the report lists.
_HOSTS = 20
#: Private duplicates made so far, each with a count of the clusters that used it. They are kept
#: until the program exits, as the ranks meet on them again then.
_duplicates: list[tuple[MPI.Intracomm, Iterator[int]]] = []


def allgather(comm: MPI.Intracomm, item: object, what: str) -> list[Any]:
    """Return the items of all ranks, in order of rank; notices about a long wait name `what`."""
    from mpi4py import MPI

    notice = f"rank {comm.Get_rank()} waits for other ranks to reach {what}"
    reports = comm.Get_rank() in reporting_ranks(0)
    data = pickle.dumps(item)
    length, lengths = _integers(1), _integers(comm.Get_size())
    length[0] = len(data)
    request = comm.Iallgather([length, MPI.INT64_T], [lengths, 1, MPI.INT64_T])
    wait(request, notice if reports else None, backoff(_LONGEST_PAUSE))
    gathered = bytearray(sum(lengths))
    request = comm.Iallgatherv([data, MPI.BYTE], [gathered, list(lengths), None, MPI.BYTE])
    wait(request, None, backoff(_LONGEST_PAUSE))
    return [
        pickle.loads(gathered[end - size : end])
        for end, size in zip(itertools.accumulate(lengths), lengths, strict=True)
    ]


def _integers(number: int) -> memoryview[int]:
    return memoryview(bytearray(8 * number)).cast("q")


async def arrive(comm: MPI.Intracomm, deadline: Deadline, *, reporter: int) -> Communicator | None:
    """Wait for all ranks of the user's communicator, and return a private duplicate of it.

    After the deadline, the reporter, or the first rank that has arrived, raises `StartupError`,
    which names the missing ranks; the others return None.
    """
    known = _known_duplicate(comm)
    # Either request completes when all ranks have arrived.
    duplicate, request = comm.Idup() if known is None else (known[0], known[0].Ibarrier())
    with contextlib.suppress(asyncio.TimeoutError):
        arriving = poll(lambda: request.Test() or _roll_call_has_begun(comm))
        await asyncio.wait_for(arriving, deadline.left)
    if not request.Test():
        await _report_missing_ranks(comm, deadline.timeout, reporter)
        return None
    if known is None:
        _duplicates.append(known := (duplicate, itertools.count()))
        job_exit.wait_at_exit_for(duplicate, reporters=reporting_ranks(reporter))
    return Communicator(duplicate, next(known[1]))


def reporting_ranks(reporter: int) -> tuple[int, int]:
    """Return the ranks that log long waits for others: two, as one may be the missing rank."""
    return reporter, int(reporter == 0)


def _known_duplicate(comm: MPI.Intracomm) -> tuple[MPI.Intracomm, Iterator[int]] | None:
    from mpi4py import MPI

    same = (MPI.IDENT, MPI.CONGRUENT)
    return next((known for known in _duplicates if MPI.Comm.Compare(comm, known[0]) in same), None)


# -- Naming the missing ranks. ---------------------------------------------------------
#
# There is no private communicator yet, so this uses the user's own, with an unlikely tag, and only
# once the job has failed.


def _roll_call_tag(comm: MPI.Intracomm) -> int:
    from mpi4py import MPI

    return int(comm.Get_attr(MPI.TAG_UB) or 32767) - 77


def _roll_call_has_begun(comm: MPI.Intracomm) -> bool:
    return bool(comm.iprobe(tag=_roll_call_tag(comm)))


async def _report_missing_ranks(comm: MPI.Intracomm, timeout: float, reporter: int) -> None:
    """Find out which ranks are present, and give up."""
    import socket

    everyone = range(comm.Get_size())
    candidates = _candidates(reporter, comm.Get_size())
    present = {comm.Get_rank(): socket.gethostname()}
    await _roll_call(comm, candidates, present)
    if present.keys().isdisjoint(candidates):  # then few ranks are here, and any may report
        candidates = everyone
        await _roll_call(comm, candidates, present)
    reporter = next(rank for rank in candidates if rank in present)
    # The program can't exit normally: MPI_Finalize would wait for the missing ranks.
    job_exit.abort_at_exit(1, grace=0 if comm.Get_rank() == reporter else 15)
    if comm.Get_rank() != reporter:
        return
    missing = sorted(set(everyone) - set(present))
    hosts = sorted(set(present.values()))
    raise StartupError(
        f"{name_ranks(missing)} did not reach mpidask within {timeout:g} s "
        f"(startup_timeout): still busy in the program before the cluster starts, "
        f"or ended. Present: {name_ranks(present)} on {and_more(hosts[:_HOSTS], len(hosts))}",
        rank=missing[0] if missing else None,
    )


def _candidates(reporter: int, size: int) -> Sequence[int]:
    """Return the ranks of which one reports: few, but spread over nodes, as any may be missing."""
    powers = (2**n for n in range(size.bit_length()))
    spread = [rank for rank in (reporter, 0, *powers, size - 1) if rank < size]
    return list(dict.fromkeys(spread))


async def _roll_call(
    comm: MPI.Intracomm, candidates: Sequence[int], present: dict[int, str]
) -> None:
    """Collect in `present` which ranks are here, and on which host.

    Ranks announce themselves to the candidates, and candidates to all ranks.
    """
    from mpi4py import MPI

    rank, size, tag = comm.Get_rank(), comm.Get_size(), _roll_call_tag(comm)
    receivers = range(size) if rank in candidates else candidates
    requests = [comm.isend(present[rank], other, tag) for other in receivers if other != rank]
    status = MPI.Status()
    deadline = Deadline(_ANSWERING)
    second_call = False
    while deadline.left and len(present) < size and not second_call:
        while comm.iprobe(tag=tag, status=status):
            present[status.Get_source()] = comm.recv(source=status.Get_source(), tag=tag)
        requests = [request for request in requests if not request.Test()]
        # Ranks that are not candidates send to each other only if no candidate is here.
        second_call = rank not in candidates and not present.keys() <= {rank, *candidates}
        await asyncio.sleep(0.03)
