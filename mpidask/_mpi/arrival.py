"""All ranks come together, and those that don't are named."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mpidask._errors import StartupError, name_ranks
from mpidask._mpi import job_exit
from mpidask._mpi.communicator import Communicator
from mpidask._waiting import Deadline, poll

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds that ranks have to say that they are here, when others are missing.
_ANSWERING = 3
#: Private duplicates made so far, and how many clusters used each. They stay until the
#: program leaves, because the ranks meet on them once more then.
_duplicates: list[tuple[MPI.Intracomm, Iterator[int]]] = []


async def arrive(comm: MPI.Intracomm, deadline: Deadline, *, reporter: int) -> Communicator | None:
    """Duplicate a communicator, or take its duplicate, once all of its ranks are here.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The user's communicator.
    deadline : Deadline
        How long to wait for the other ranks.
    reporter : int
        The rank that reports those who did not come.

    Returns
    -------
    Communicator or None
        None after the time-out, on ranks that leave it to another to report it.

    Raises
    ------
    StartupError
        After the time-out, on the reporter, or the first rank that is here.
    """
    known = _known_duplicate(comm)
    # Either way, the request completes when all ranks have come.
    duplicate, request = comm.Idup() if known is None else (known[0], known[0].Ibarrier())
    with contextlib.suppress(asyncio.TimeoutError):
        arriving = poll(lambda: request.Test() or _missing_are_reported(comm))
        await asyncio.wait_for(arriving, deadline.left)
    if not request.Test():
        await _report_missing_ranks(comm, deadline.timeout, reporter)
        return None
    if known is None:
        _duplicates.append(known := (duplicate, itertools.count()))
        job_exit.wait_at_exit_for(duplicate, speakers=speakers(reporter))
    return Communicator(duplicate, next(known[1]))


def speakers(reporter: int) -> tuple[int, int]:
    """Give the ranks that speak of a wait for others: one of them may be waited for."""
    return reporter, int(reporter == 0)


def _known_duplicate(comm: MPI.Intracomm) -> tuple[MPI.Intracomm, Iterator[int]] | None:
    from mpi4py import MPI

    same = (MPI.IDENT, MPI.CONGRUENT)
    return next((known for known in _duplicates if MPI.Comm.Compare(comm, known[0]) in same), None)


# -- Naming the ranks that never came. ----------------------------------------------
#
# There is no private communicator yet, so this talks on the user's own, with a tag
# nobody else uses, and only when the job has failed already.


def _report_tag(comm: MPI.Intracomm) -> int:
    from mpi4py import MPI

    return int(comm.Get_attr(MPI.TAG_UB) or 32767) - 77


def _missing_are_reported(comm: MPI.Intracomm) -> bool:
    return bool(comm.iprobe(tag=_report_tag(comm)))


async def _report_missing_ranks(comm: MPI.Intracomm, timeout: float, reporter: int) -> None:
    """Find out who is here, and give up."""
    import socket

    everyone = range(comm.Get_size())
    speakers = _possible_speakers(reporter, comm.Get_size())
    present = {comm.Get_rank(): socket.gethostname()}
    await _roll_call(comm, speakers, present)
    if present.keys().isdisjoint(speakers):  # then few ranks are here, and each may speak
        speakers = everyone
        await _roll_call(comm, speakers, present)
    reporter = next(one for one in speakers if one in present)
    # The program can't end in peace: MPI_Finalize would wait for the missing ranks.
    job_exit.abort_at_exit(1, grace=0 if comm.Get_rank() == reporter else 15)
    if comm.Get_rank() != reporter:
        return
    missing = sorted(set(everyone) - set(present))
    hosts = sorted(set(present.values()))
    raise StartupError(
        f"{name_ranks(missing)} did not reach mpidask within {timeout:g} s "
        f"(startup_timeout): still busy in the program before the cluster starts, "
        f"or ended. Here are {name_ranks(present)} on {', '.join(hosts[:20])}"
        + (", ..." if len(hosts) > 20 else ""),
        rank=missing[0] if missing else None,
    )


def _possible_speakers(reporter: int, size: int) -> Sequence[int]:
    """Give the ranks of which one reports the missing: few, on many nodes, any may be missing."""
    powers = (2**n for n in range(size.bit_length()))
    spread = [one for one in (reporter, 0, *powers, size - 1) if one < size]
    return list(dict.fromkeys(spread))


async def _roll_call(comm: MPI.Intracomm, speakers: Sequence[int], present: dict[int, str]) -> None:
    """Tell the speakers that this rank is here, speakers all; note who is, and on which host."""
    from mpi4py import MPI

    rank, size, tag = comm.Get_rank(), comm.Get_size(), _report_tag(comm)
    told = range(size) if rank in speakers else speakers
    requests = [comm.isend(present[rank], other, tag) for other in told if other != rank]
    status = MPI.Status()
    answering = Deadline(_ANSWERING)
    others_speak = False
    while answering.left and len(present) < size and not others_speak:
        while comm.iprobe(tag=tag, status=status):
            present[status.Get_source()] = comm.recv(source=status.Get_source(), tag=tag)
        requests = [request for request in requests if not request.Test()]
        # Speakers alone speak to other ranks, unless none was found.
        others_speak = rank not in speakers and not present.keys() <= {rank, *speakers}
        await asyncio.sleep(0.03)
