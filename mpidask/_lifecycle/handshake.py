"""The handshake of all ranks: they wait for each other, and agree to start or on an error."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from mpidask._errors import StartupError
from mpidask._lifecycle import single_use
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.signals import Interrupt, result_of
from mpidask._mpi import job_exit
from mpidask._mpi.collectives import arrive, reporting_ranks
from mpidask._mpi.communicator import TO_LEADER, Communicator
from mpidask._options import Options
from mpidask._text import describe, name_rank, name_this_rank
from mpidask._threads import LoopThread
from mpidask._waiting import FIRST_NOTICE, NOTICE_INTERVAL, Deadline, WaitNotice

if TYPE_CHECKING:
    from mpi4py import MPI

#: Options that must be the same on all ranks. The others concern one rank (a port, a file, a log
#: level), or describe each rank or node (memory, a network interface).
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
#: Longest description of one rank's options in an error message.
_LONGEST_DESCRIPTION = 500


@dataclass(frozen=True)
class Handshake:
    """One rank's part in the handshake."""

    comm: MPI.Intracomm  # the user's
    deadline: Deadline  # of the whole start
    interrupt: Interrupt
    reporting_rank: int  # raises errors which concern all ranks
    roles: Roles | None  # according to this rank's options
    options: Options | None = None  # if they are valid
    error: Exception | None = None  # why this rank can't start
    error_status: int = 1  # exit status of the other ranks if all have an error

    def run(self, loop: LoopThread) -> Communicator:
        """Wait for all ranks, and return their private communicator.

        One rank raises `StartupError` if some don't arrive or can't start, or its own error if all
        ranks have one; the other ranks raise `SystemExit` then.
        """

        def abandon(signum: int) -> None:  # there is nobody to tell yet
            job_exit.abort_at_exit(128 + signum)
            running.cancel()

        running = loop.submit(self._arrive_and_agree())
        self.interrupt.act(abandon)
        members, status = result_of(running, self.interrupt)
        if members is None:
            raise job_exit.ServedExit(status)  # another rank raises the error
        return members

    async def _arrive_and_agree(self) -> tuple[Communicator | None, int]:
        size = self.comm.Get_size()
        rank = self.comm.Get_rank()
        where = f"{name_this_rank(rank)} is"
        missing = f"not all of the {size} ranks are here, {where}; each must make this call"
        notice = WaitNotice(
            lambda waited: f"starting for {waited} s: {missing}",
            first=FIRST_NOTICE,
            interval=FIRST_NOTICE if rank == self.reporting_rank else NOTICE_INTERVAL,
        )
        reports = rank in reporting_ranks(self.reporting_rank)
        async with notice if reports else contextlib.nullcontext():
            try:
                members = await arrive(self.comm, self.deadline, reporter=self.reporting_rank)
            except StartupError as error:
                raise self.error or error from None
            if members is None:
                return None, 1
            with _explained(self.deadline):
                status = await asyncio.wait_for(self._agree(members), self.deadline.left)
        return None if status else members, status

    async def _agree(self, members: Communicator) -> int:
        """Raise the error if this rank has to; else return the exit status, 0 for a start.

        One reduction suffices if all ranks can start, whatever their number.
        """
        rank, nobody = members.rank, members.size
        shared = self._shared()
        digest = zlib.crc32(repr(shared).encode())
        own = [rank if self.error else nobody, self.reporting_rank, digest]
        largest = await members.maximum([*own, *(-value for value in own)])
        last, _, high = largest[:3]
        first, reporting_rank, low = (-value for value in largest[3:])
        if self.error and last < nobody:  # all ranks have an error
            if rank == reporting_rank:
                raise self.error
            return self.error_status
        if first < nobody:
            if rank == first:
                raise _on_this_rank(rank, self.error) from self.error
            return 1
        if low == high:
            return 0
        members.send(reporting_rank, TO_LEADER, (socket.gethostname(), shared))
        await members.flush()
        if rank == reporting_rank:
            received = [await members.receive(TO_LEADER) for _ in range(members.size)]
            raise _disagreement(dict(received))
        return 1

    def _shared(self) -> dict[str, str]:
        """Describe what must be the same on all ranks."""
        shared = {name: _described(getattr(self.options, name, None)) for name in SHARED_OPTIONS}
        return shared | {"call": _call(self.roles)}


def _described(value: object) -> str:
    """Describe the value of an option, leaving out what differs between processes, or is secret."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    plain = value is None or isinstance(value, (str, int, float))
    return repr(value) if plain else type(value).__name__


def _call(roles: Roles | None) -> str:
    if roles is None or roles.scheduler is None:
        return "join_existing"
    return "mpidask" if roles.client is None else "mpi_dask"


def _disagreement(ranks: Mapping[int, tuple[str, Mapping[str, str]]]) -> StartupError:
    """Return the error that shows two ranks which differ; `ranks` has host and values of each."""
    usual = ranks[0][1]
    differing = [name for name in usual if any(usual[name] != v[name] for _, v in ranks.values())]
    other = min(rank for rank, (_, v) in ranks.items() if v[differing[0]] != usual[differing[0]])
    described = []
    for rank in 0, other:
        host, values = ranks[rank]
        own = ", ".join(f"{name}={values[name]}" for name in differing)
        described.append(f"{name_rank(rank, host)} has {own}"[:_LONGEST_DESCRIPTION])
    if differing == ["call"]:
        return StartupError(f"the ranks make different calls: {'; '.join(described)}")
    options = [name for name in differing if name != "call"]
    variable = f"DASK_MPIDASK__{options[0].upper()}"
    return StartupError(
        f"the ranks don't agree on {', '.join(options)}: {'; '.join(described)}. These options "
        "must be the same on all ranks, also where they come from Dask's configuration: its files, "
        f"and variables such as {variable}, which some launchers don't pass on to other nodes"
    )


def _on_this_rank(rank: int, cause: Exception | None) -> StartupError:
    return StartupError(
        f"{name_this_rank(rank)} can't start, other ranks can: {describe(cause)}",
        rank=rank,
        host=socket.gethostname(),
    )


@contextlib.contextmanager
def _explained(deadline: Deadline) -> Iterator[None]:
    try:
        yield
    except asyncio.TimeoutError:
        job_exit.abort_at_exit(1)
        raise StartupError(
            f"a rank that had reached mpidask did not answer within {deadline.timeout:g} s "
            "(startup_timeout)"
        ) from None


def refuse(handshake: Handshake) -> NoReturn:
    """Take part in a handshake with an error, which one of the ranks raises."""
    loop = LoopThread()
    try:
        handshake.run(loop)
    finally:
        loop.stop()
        single_use.ended(left=True)
    raise AssertionError("the cluster starts although a rank has an error")
