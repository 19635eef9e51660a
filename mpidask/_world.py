"""The communicator as mpidask sees it: messages between ranks, polled, never spinning.

MPI's blocking calls spin: a rank that waits in one burns a core, which the rank it
waits for may need. Here every wait is a non-blocking call that is tested again and
again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpidask import _departure
from mpidask._errors import MPIDaskError, StartupError
from mpidask._polling import poll

if TYPE_CHECKING:
    from mpi4py import MPI

#: Tags on the private communicator: what the leader reads, and what every rank reads.
TO_LEADER, TO_MEMBER = 0, 1

#: Private duplicates made so far, and how many clusters used each. They stay until the
#: program leaves, because the ranks meet on them once more then.
_duplicates: list[tuple[MPI.Intracomm, Iterator[int]]] = []


class World:
    """The ranks of one cluster, talking on a private communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The private communicator.
    number : int
        How many clusters have used it before: ranks that are done early may send
        messages of the next cluster while others still wait for those of this one.
    """

    def __init__(self, comm: MPI.Intracomm, number: int) -> None:
        self._comm = comm
        self._first_tag = number % 10_000 * 2  # MPI guarantees tags up to 32767
        self._unsent: list[MPI.Request] = []
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    @classmethod
    async def enter(cls, comm: MPI.Intracomm, *, timeout: float, leader: int) -> World | None:
        """Duplicate a communicator, or take its duplicate, once all of its ranks are here.

        Parameters
        ----------
        comm : mpi4py.MPI.Intracomm
            The user's communicator.
        timeout : float
            Seconds to wait for the other ranks.
        leader : int
            The rank that reports those who did not come.

        Returns
        -------
        World or None
            None after the time-out, on ranks that leave it to another to report it.

        Raises
        ------
        StartupError
            After the time-out, on the leader, or the first rank that is here.
        """
        known = _known_duplicate(comm)
        # Either way, the request completes when all ranks have come.
        duplicate, request = comm.Idup() if known is None else (known[0], known[0].Ibarrier())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(lambda: request.Test() or _roll_is_called(comm)), timeout)
        if not request.Test():
            await _call_roll(comm, timeout, leader)
            return None
        if known is None:
            _duplicates.append(known := (duplicate, itertools.count()))
            _departure.wait_at_exit_for(duplicate)
        return cls(duplicate, next(known[1]))

    def send(self, rank: int, tag: int, message: object) -> None:
        """Send a message; delivery goes on while this rank polls."""
        self._all_sent()
        self._unsent.append(self._comm.isend(message, rank, self._first_tag + tag))

    async def flush(self) -> None:
        """Wait until everything sent is on its way, but no longer than a second."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(self._all_sent), 1)

    def _all_sent(self) -> bool:
        self._unsent = [request for request in self._unsent if not request.Test()]
        return not self._unsent

    async def receive(self, tag: int, *, longest: float = 0.02) -> tuple[int, Any]:
        """Wait for the next message, with pauses of at most `longest` seconds."""
        from mpi4py import MPI

        status = MPI.Status()
        matched = await poll(lambda: self._probe(tag, status), longest=longest)
        # A large message is on its way only while its sender polls.
        request = matched.irecv()
        _, message = await poll(lambda: _completed(request))
        return status.Get_source(), message

    def _probe(self, tag: int, status: MPI.Status) -> MPI.Message | None:
        self._all_sent()
        return self._comm.improbe(tag=self._first_tag + tag, status=status)


def _known_duplicate(comm: MPI.Intracomm) -> tuple[MPI.Intracomm, Iterator[int]] | None:
    from mpi4py import MPI

    same = (MPI.IDENT, MPI.CONGRUENT)
    return next((known for known in _duplicates if MPI.Comm.Compare(comm, known[0]) in same), None)


def _completed(request: MPI.Request) -> tuple[bool, Any] | None:
    done, message = request.test()
    return (done, message) if done else None


# -- Naming the ranks that never came. ----------------------------------------------
#
# There is no private communicator yet, so this talks on the user's own, with a tag
# nobody else uses, and only when the job has failed already.


def _roll_tag(comm: MPI.Intracomm) -> int:
    from mpi4py import MPI

    return int(comm.Get_attr(MPI.TAG_UB) or 32767) - 77


def _roll_is_called(comm: MPI.Intracomm) -> bool:
    return bool(comm.iprobe(tag=_roll_tag(comm)))


async def _call_roll(comm: MPI.Intracomm, timeout: float, leader: int) -> None:
    """Tell every rank that this one is here, hear who else is, and give up."""
    import socket

    from mpi4py import MPI

    rank, size, tag = comm.Get_rank(), comm.Get_size(), _roll_tag(comm)
    present = {rank: socket.gethostname()}
    requests = [comm.isend(present[rank], other, tag) for other in range(size) if other != rank]
    status = MPI.Status()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and len(present) < size:
        while comm.iprobe(tag=tag, status=status):
            present[status.Get_source()] = comm.recv(source=status.Get_source(), tag=tag)
        for request in requests:
            request.Test()
        await asyncio.sleep(0.03)
    missing = sorted(set(range(size)) - set(present))
    reporter = next(r for r in (leader, 0, *sorted(present)) if r in present)
    # The program can't end in peace: MPI_Finalize would wait for the missing ranks.
    _departure.abort_at_exit(1, patience=0 if rank == reporter else 15)
    if rank != reporter:
        return
    raise StartupError(
        f"{_ranks(missing)} did not reach mpidask within {timeout:g} s "
        f"(startup_timeout): still busy in the program before the cluster starts, "
        f"or ended. Here are {_ranks(present)} on {', '.join(sorted(set(present.values())))}",
        rank=missing[0] if missing else None,
    )


def _ranks(ranks: Any) -> str:
    ranks = sorted(ranks)
    shown = ", ".join(map(str, ranks[:20])) + (", ..." if len(ranks) > 20 else "")
    return f"rank{'s' if len(ranks) != 1 else ''} {shown}"


# -- Is this an MPI job? -------------------------------------------------------------

#: Variables with which launchers tell a process how many it is one of, and which.
_LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


def was_launched() -> bool:
    """Tell whether an MPI launcher started this process."""
    return any(size in os.environ for size, _ in _LAUNCHERS)


def communicator(given: Any = None, *, alone: bool = False) -> MPI.Intracomm | None:
    """Give the communicator to use, or None where there is no MPI job.

    Parameters
    ----------
    given : mpi4py.MPI.Intracomm, optional
        The user's choice; default: COMM_WORLD.
    alone : bool
        Whether one rank is a job, too.

    Raises
    ------
    MPIDaskError
        If the launcher started several processes, but MPI does not connect them.
    """
    if given is not None:
        return given if given.Get_size() > 1 or alone else None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # not installed, or finds no MPI library
        _reject_lone_ranks(f"mpi4py can't be used ({error})")
        return None
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise MPIDaskError(
            "MPI is not initialised (mpi4py.rc.initialize is off), or was finalised already"
        )
    if MPI.COMM_WORLD.Get_size() > 1:
        return MPI.COMM_WORLD
    name, version = MPI.get_vendor()
    _reject_lone_ranks(f"mpi4py uses {name} {'.'.join(map(str, version))}")
    return MPI.COMM_WORLD if alone else None


def require_threads() -> None:
    """Raise `MPIDaskError` if MPI can't be used from a thread."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise MPIDaskError(
            "MPI was initialised for one thread only, and mpidask talks to the other ranks "
            "from a thread of its own: leave mpi4py.rc.thread_level at its default 'multiple'"
        )


def _reject_lone_ranks(found: str) -> None:
    for size_name, rank_name in _LAUNCHERS:
        with contextlib.suppress(ValueError):
            size = int(os.environ.get(size_name, "1"))
            rank = int(os.environ.get(rank_name, "0"))
            if size > 1 and rank > 0:
                # Each process is alone and can't ask the others. The first one speaks;
                # some launchers end the job with the first process that leaves.
                time.sleep(5)
                raise SystemExit(1)
            if size > 1:
                raise MPIDaskError(
                    f"the launcher started {size} processes ({size_name}={size}), but MPI "
                    f"sees one: {found}. Start the job with the mpirun of the MPI that "
                    "mpi4py was built for (python -m mpi4py --mpi-library shows which), "
                    "or, under srun, choose the right --mpi= plugin"
                )
