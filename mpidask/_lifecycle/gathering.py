"""All ranks come together, and agree that they can start; or one of them says why not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from mpidask._errors import StartupError
from mpidask._lifecycle import single_use
from mpidask._lifecycle.loop_thread import LoopThread
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.signals import Interrupt, result_of
from mpidask._lifecycle.startup import reporting_progress
from mpidask._log import WORD_INTERVAL
from mpidask._mpi import job_exit
from mpidask._mpi.arrival import arrive, speakers
from mpidask._mpi.communicator import Communicator
from mpidask._mpi.deadline import Deadline

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds until a rank that waits for others says so.
_FIRST_WORD = 10


@dataclass(frozen=True)
class Gathering:
    """What one rank brings when all of them meet.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm
        The user's communicator.
    deadline : Deadline
        For the whole start.
    interrupt : Interrupt
    reporter : int
        The rank that shows what concerns all ranks.
    roles : Roles or None
        As this rank's options say, and
    objection : Exception or None
        what it has against a start.
    error_status : int
        With which the ranks leave that have nothing to say.
    """

    comm: MPI.Intracomm
    deadline: Deadline
    interrupt: Interrupt
    reporter: int
    roles: Roles | None
    objection: Exception | None = None
    error_status: int = 1

    def meet(self, loop: LoopThread) -> Communicator:
        """Wait for all ranks.

        Raises
        ------
        StartupError
            On one rank, if some don't come, or one can't start.
        TypeError, ValueError, MPIDaskError
            On one rank, if all have something against a start.
        SystemExit
            On the other ranks then.
        """

        def abandon(signum: int) -> None:  # nobody can be told yet
            job_exit.abort_at_exit(128 + signum)
            meeting.cancel()

        meeting = loop.submit(self._arrive_and_agree())
        self.interrupt.act(abandon)
        members, status = result_of(meeting, self.interrupt)
        if members is None:
            raise job_exit.ServedExit(status)  # the start has failed, and another rank says so
        return members

    async def _arrive_and_agree(self) -> tuple[Communicator | None, int]:
        size = self.comm.Get_size()
        rank = self.comm.Get_rank()
        where = f"rank {rank} on {socket.gethostname()} is"
        progress = reporting_progress(
            lambda: f"not all of the {size} ranks are here, {where}; each must make this call",
            first=_FIRST_WORD,
            interval=_FIRST_WORD if rank == self.reporter else WORD_INTERVAL,
        )
        speaks = rank in speakers(self.reporter)
        async with progress if speaks else contextlib.nullcontext():
            try:
                members = await arrive(self.comm, self.deadline, reporter=self.reporter)
            except StartupError as error:
                raise self.objection or error from None
            if members is None:
                return None, 1
            with _explained(self.deadline):
                status = await asyncio.wait_for(self._agree(members), self.deadline.left)
        return None if status else members, status

    async def _agree(self, members: Communicator) -> int:
        """Raise what this rank has to say, or give the status to leave with: 0 is to stay."""
        objects = self.objection is not None
        roles = zlib.crc32(repr(self.roles).encode())
        largest = await members.maximum(
            [
                members.size - members.rank if objects else 0,
                0 if objects else 1,
                members.size - self.reporter,
                roles,
                -roles,
            ]
        )
        first, reporter = members.size - largest[0], members.size - largest[2]
        some, all_object, same_roles = largest[0] > 0, largest[1] == 0, largest[3] == -largest[4]
        if all_object and members.rank == reporter:
            assert self.objection is not None
            raise self.objection
        if some and not all_object and members.rank == first:
            raise _on_this_rank(first, self.objection) from self.objection
        if not some and not same_roles and members.rank == reporter:
            raise StartupError(
                "the ranks don't agree on their roles: scheduler_rank, client_rank and "
                "exclusive_workers must be the same on all, also in Dask's configuration"
            )
        if all_object:
            return self.error_status
        return 1 if some or not same_roles else 0


def _on_this_rank(rank: int, cause: Exception | None) -> StartupError:
    host = socket.gethostname()
    return StartupError(
        f"rank {rank} on {host} can't start, other ranks can: {type(cause).__name__}: {cause}",
        rank=rank,
        host=host,
    )


@contextlib.contextmanager
def _explained(deadline: Deadline) -> Iterator[None]:
    try:
        yield
    except asyncio.TimeoutError:
        job_exit.abort_at_exit(1)
        raise StartupError(
            f"a rank that had come to mpidask gave no answer within {deadline.timeout:g} s "
            "(startup_timeout)"
        ) from None


def refuse(gathering: Gathering) -> NoReturn:
    """Meet the others, of which one says why there is no start."""
    loop = LoopThread()
    try:
        gathering.meet(loop)
    finally:
        loop.stop()
        single_use.ended(left=True)
    raise AssertionError("a rank had an objection, and the cluster starts")
