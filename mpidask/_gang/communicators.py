"""The communicator of a gang: made when all members are there, freed when all is well."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpidask._waiting import backoff, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Set by ``mpirun --with-ft ulfm``.
_FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
#: Communicators of gangs that failed, or left messages. What was sent on them and not received
#: would, on MPICH, reach the next communicator of these ranks: their identifiers must not be
#: used again.
_spoilt: list[MPI.Intracomm] = []
#: What was begun on them.
_unfinished: list[MPI.Request] = []


def make(comm: MPI.Intracomm, ranks: Sequence[int], tag: int) -> MPI.Intracomm:
    """Make a communicator of some ranks of another one; all of them call this at a time."""
    from mpi4py import MPI

    try:
        made = _create(comm, ranks, tag)
        _let_all_arrive(made)
    except MPI.Exception as error:
        if not _spoilt:
            raise
        raise RuntimeError(
            f"MPI could not make a communicator. {len(_spoilt)} are in use by functions of "
            "submit_mpi that failed on this rank before, or left messages: each keeps one to the "
            "end of the job, and some MPI libraries have room for about 1,000"
        ) from error
    return made


def _create(comm: MPI.Intracomm, ranks: Sequence[int], tag: int) -> MPI.Intracomm:
    from mpi4py import MPI

    everyone = comm.Get_group()
    group = everyone.Incl(list(ranks))
    try:
        made = comm.Create_group(group, tag)
    finally:
        group.Free()
        everyone.Free()
    made.Set_errhandler(MPI.ERRORS_RETURN)
    return made


def _let_all_arrive(comm: MPI.Intracomm) -> None:
    """Reduce an object, as the first who do so wait for the others with the GIL.

    mpi4py duplicates a communicator then, and lets no other thread run meanwhile. So this is
    done here, where all members come at once, and not in the user's function.

    And Open MPI 5.0.11 may crash if it is revoked before all have made it.
    """
    from mpi4py import MPI

    try:
        comm.allreduce(0)
    except MPI.Exception:
        if not can_be_revoked():  # else it is revoked, by one that was fast
            raise


def all_well(comm: MPI.Intracomm, said: str, is_stopped: Callable[[], bool]) -> bool:
    """Wait until all members have ended well; tell whether they have.

    The results of a gang are right together, or none is. Where it takes long, this is `said`.
    """
    request = comm.Ibarrier()
    speaks = comm.Get_rank() < 2  # one of them may be the rank that is waited for
    looks = backoff(0.01, growth=1.1, shortest=1e-4)
    if not wait(request, said if speaks else None, looks, unless=is_stopped):
        _unfinished.append(request)
        return False
    return True


def discard(comm: MPI.Intracomm, *, clean: bool) -> None:
    """Free a communicator, if nothing can be left on it."""
    if clean and not comm.Iprobe():
        comm.Free()
    else:
        _spoilt.append(comm)


def can_be_revoked() -> bool:
    """Tell whether revoking a communicator wakes who waits in it.

    Without this setting of its launcher (``mpirun --with-ft ulfm``) Open MPI accepts the call
    and does nothing.
    """
    from mpi4py import MPI

    enabled = os.environ.get(_FAULT_TOLERANCE) == "1"
    return enabled and hasattr(MPI.Comm, "Revoke")


def is_revoked(comm: MPI.Intracomm) -> bool:
    """Tell whether a member has revoked a communicator."""
    return can_be_revoked() and bool(comm.Is_revoked())
