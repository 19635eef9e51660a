"""All ranks come together, and agree that they can start; or one of them says why not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from mpidask._errors import StartupError
from mpidask._lifecycle import single_use
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.signals import Interrupt, result_of
from mpidask._mpi import job_exit
from mpidask._mpi.collectives import arrive, reporting_ranks
from mpidask._mpi.communicator import Communicator
from mpidask._options import Options
from mpidask._threads import LoopThread
from mpidask._waiting import FIRST_NOTICE, NOTICE_INTERVAL, Deadline, WaitNotice

if TYPE_CHECKING:
    from mpi4py import MPI

#: Options on which the ranks act together. The others are for one rank alone (a port, a file, a
#: level), or say what each rank or node has (memory, a network interface).
SHARED_OPTIONS = (
    "exit",
    "scheduler_rank",
    "client_rank",
    "exclusive_workers",
    "protocol",
    "security",
    "transport",
    "worker_class",
    "nanny",
    "startup_timeout",
    "shutdown_timeout",
    "mpi_task_grace",
)
#: Bytes that a rank may take to say what it has.
_LONGEST_WORD = 500


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
        As this rank's options say.
    options : Options or None
        What this rank was given, if it makes sense, and
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
    options: Options | None = None
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
        missing = f"not all of the {size} ranks are here, {where}; each must make this call"
        notice = WaitNotice(
            lambda waited: f"starting for {waited} s: {missing}",
            first=FIRST_NOTICE,
            interval=FIRST_NOTICE if rank == self.reporter else NOTICE_INTERVAL,
        )
        reports = rank in reporting_ranks(self.reporter)
        async with notice if reports else contextlib.nullcontext():
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
        rank, nobody = members.rank, members.size
        shared = self._shared()
        digests = [zlib.crc32(value.encode()) for value in shared.values()]
        own = [rank if self.objection else nobody, self.reporter, *digests]
        (first, last), (reporter, _), *found = await _extremes(members, own)
        if self.objection and last < nobody:  # all object
            if rank == reporter:
                raise self.objection
            return self.error_status
        if first < nobody:
            if rank == first:
                raise _on_this_rank(rank, self.objection) from self.objection
            return 1
        differing = [name for name, (low, high) in zip(shared, found, strict=True) if low < high]
        if not differing:
            return 0
        values = ", ".join(f"{name}={shared[name]}" for name in differing)
        place = list(shared).index(differing[0])
        said = await _two_sides(members, digests[place], found[place], values)
        if rank == reporter:
            raise _disagreement(differing, said)
        return 1

    def _shared(self) -> dict[str, str]:
        """Give what all ranks must have in common, in words that are alike on all of them."""
        shared = {name: _in_words(getattr(self.options, name, None)) for name in SHARED_OPTIONS}
        return shared | {"call": _call(self.roles)}


def _in_words(value: object) -> str:
    """Describe the value of an option, without what differs by process, or is secret."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    plain = value is None or isinstance(value, (str, int, float))
    return repr(value) if plain else type(value).__name__


def _call(roles: Roles | None) -> str:
    if roles is None or roles.scheduler is None:
        return "join_existing"
    return "mpidask" if roles.client is None else "mpi_dask"


async def _extremes(members: Communicator, values: Sequence[int]) -> list[tuple[int, int]]:
    """Give the least and the largest of what all ranks have, for each place."""
    largest = await members.maximum([*values, *(-value for value in values)])
    highest, lowest = largest[: len(values)], largest[len(values) :]
    return [(-low, high) for low, high in zip(lowest, highest, strict=True)]


async def _two_sides(
    members: Communicator, own: int, extremes: tuple[int, int], values: str
) -> list[str]:
    """Let a rank that has the least, and one that has the largest, say what they have."""
    rank, nobody = members.rank, members.size
    sides = [rank if own == extreme else nobody for extreme in extremes]
    speakers = sorted(first for first, _ in await _extremes(members, sides))
    word = f"rank {rank} on {socket.gethostname()} has {values}".encode()[:_LONGEST_WORD]
    silence = bytes(_LONGEST_WORD)
    said = [word.ljust(_LONGEST_WORD, b"\0") if rank == one else silence for one in speakers]
    heard = bytes(await members.maximum(list(b"".join(said))))
    return [
        heard[start : start + _LONGEST_WORD].rstrip(b"\0").decode(errors="replace")
        for start in range(0, len(heard), _LONGEST_WORD)
    ]


def _disagreement(differing: list[str], said: list[str]) -> StartupError:
    if differing == ["call"]:
        return StartupError(f"the ranks don't start the same: {'; '.join(said)}")
    options = [name for name in differing if name != "call"]
    variable = f"DASK_MPIDASK__{options[0].upper()}"
    return StartupError(
        f"the ranks don't agree on {', '.join(options)}: {'; '.join(said)}. These options must be "
        "the same on all ranks, also where they come from Dask's configuration: its files, and "
        f"variables such as {variable}, which some launchers don't pass on to other nodes"
    )


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
