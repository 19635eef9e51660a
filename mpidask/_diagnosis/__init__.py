"""What a job looks like from inside, as text to paste into a report of a problem.

Rank 0 prints what it knows by itself first, so that there is something to read even if MPI
does not come up; then what all ranks know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpidask._diagnosis.facts import Facts, facts_of_this_process, mpi_library
from mpidask._diagnosis.report import of_job, of_process
from mpidask._errors import MPIDaskError
from mpidask._log import logging_to_stderr
from mpidask._mpi import initialize, job_exit, launcher
from mpidask._mpi.collectives import arrive
from mpidask._mpi.communicator import TO_LEADER
from mpidask._waiting import Deadline

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds to wait for other ranks at most; a shorter `startup_timeout` is kept.
_TIMEOUT = 60.0


def diagnose(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> int:
    """Print what this job looks like; every rank calls it, and rank 0 prints.

    Parameters
    ----------
    given : mapping
        Options of the command line.
    defaults : mapping, optional
        Defaults of the command that differ from those declared.

    Returns
    -------
    int
        Exit status of this rank: 1 if something is wrong.
    """
    own = facts_of_this_process(given, defaults)
    if launcher.rank() == 0:
        print(of_process(own), flush=True)
    try:
        with logging_to_stderr():
            found, size = _gathered(own, Deadline(min(_TIMEOUT, own.startup_timeout)))
    except MPIDaskError as error:
        if launcher.rank() == 0:
            print(f"problem      {own.problem or error}", flush=True)
        return 1
    if found:
        print(of_job(found, size, mpi_library()), flush=True)
    problem = own.problem or any(facts.problem for facts in found.values())
    return 1 if problem or len(found) < size else 0


def _gathered(own: Facts, deadline: Deadline) -> tuple[dict[int, Facts], int]:
    """Give what the ranks know, on rank 0, and how many ranks there are."""
    comm = initialize.communicator(deadline, alone=True)
    if comm is None:
        raise MPIDaskError(f"mpi4py can't be used: {_why_not()}")
    return asyncio.run(_collected(comm, own, deadline))


def _why_not() -> str:
    try:
        import mpi4py.MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:  # not installed, or finds no MPI library
        return f"{type(error).__name__}: {error}"
    return "MPI did not start"


async def _collected(
    comm: MPI.Intracomm, own: Facts, deadline: Deadline
) -> tuple[dict[int, Facts], int]:
    members = await arrive(comm, deadline, reporter=0)
    if members is None:  # rank 0 says who is missing
        return {}, 0
    if members.rank != 0:
        members.send(0, TO_LEADER, own)
        await members.flush()
        return {}, 0
    found = {0: own}
    with contextlib.suppress(asyncio.TimeoutError):
        while len(found) < members.size:
            rank, facts = await asyncio.wait_for(members.receive(TO_LEADER), deadline.left)
            found[rank] = facts
    if len(found) < members.size:  # the others would be waited for at the end
        job_exit.abort_at_exit(1)
    return found, members.size
