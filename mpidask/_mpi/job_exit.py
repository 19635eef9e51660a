"""How a rank leaves the program: together with the others, without spinning.

`MPI_Finalize` waits for all ranks, and spins meanwhile. The ranks that are done first
would burn their cores while the client rank goes on; so all meet in a polled barrier
before. Where a rank will never come, the job is aborted instead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpidask._log import flush_output, logger
from mpidask._mpi.deadline import Deadline
from mpidask._mpi.polling import pauses, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds for the launcher to pass on what was printed: in an abort it may drop the rest.
_FORWARDING_TIME = 0.2
#: Seconds that other ranks have to leave when this one was interrupted.
_INTERRUPTED = 30


class _Plan:
    """What this process does when it leaves."""

    def __init__(self) -> None:
        self.barriers_on: list[tuple[MPI.Intracomm, bool]] = []
        self.abort_with: int | None = None
        self.grace = 0.0
        self.cluster_runs = False
        self.fatal: BaseException | None = None
        self.process = os.getpid()


_plan = _Plan()


def wait_at_exit_for(comm: MPI.Intracomm, *, speaks: bool) -> None:
    """Wait for all ranks of a communicator before MPI is finalised, then free it.

    One rank `speaks` of it when that takes long.
    """
    _register()
    _plan.barriers_on.append((comm, speaks))


def set_cluster_runs(runs: bool) -> None:
    """Say whether a cluster of this job runs, which can't go on without this process or MPI."""
    _plan.cluster_runs = runs


def cluster_runs() -> bool:
    """Tell whether one runs."""
    return _plan.cluster_runs


def abort_at_exit(status: int, *, grace: float = 0, at_once: bool = False) -> None:
    """End the whole job when this process leaves, because some rank never will.

    Parameters
    ----------
    status : int
        Exit status of the job.
    grace : float
        Seconds to give another rank, which has more to say, to end the job first.
    at_once : bool
        Do not wait for the end of this process.
    """
    _register()
    _plan.abort_with, _plan.grace = status, grace
    if at_once:
        _leave()


def abort_if_uncaught(error: BaseException) -> None:
    """End the whole job if the program ends with this exception.

    The other ranks went on with the program, and would wait for this one forever.
    """
    _plan.fatal = error


def skip_last_collections() -> None:
    """Leave out Python's garbage collections at the end of this process.

    They walk over all that distributed has loaded, again and again, which takes a good
    part of a second of CPU on every rank. On one that has only served there is nothing
    they could find that matters; what is not in a cycle is freed all the same.
    """
    atexit.register(gc.freeze)
    atexit.register(gc.disable)


def _register() -> None:
    from mpi4py import MPI

    if _plan.barriers_on or _plan.abort_with is not None:
        return
    _plan.process = os.getpid()
    atexit.register(_leave)
    # A program may call MPI.Finalize() itself, before Python's exit handlers run.
    # Attributes of COMM_SELF are deleted first thing in it (MPI-4.1, 11.4.1).
    keyval = MPI.Comm.Create_keyval(
        delete_fn=lambda comm, key, value: _leave("called MPI.Finalize()")
    )
    MPI.COMM_SELF.Set_attr(keyval, None)


def _leave(how: str = "ended") -> None:
    from mpi4py import MPI

    if MPI.Is_finalized() or os.getpid() != _plan.process:  # a child of this rank's
        return
    flush_output()
    if _plan.fatal is not None and _plan.fatal in _chain(getattr(sys, "last_value", None)):
        abort_at_exit(1)
    if _plan.cluster_runs and _plan.abort_with is None:
        _explain(how)
        abort_at_exit(1)
    if _plan.abort_with is not None:
        time.sleep(max(_plan.grace, _FORWARDING_TIME))
        MPI.COMM_WORLD.Abort(_plan.abort_with)
    while _plan.barriers_on:
        _barrier(*_plan.barriers_on.pop())


def _explain(how: str) -> None:
    from mpi4py import MPI

    logger.error(
        "the program %s on rank %d while its cluster is running, which needs it and MPI: ending "
        "the job. It is in\n%s",
        how,
        MPI.COMM_WORLD.Get_rank(),
        "".join(traceback.format_stack()[:-2]).rstrip(),
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Go from an exception to those it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _barrier(comm: MPI.Intracomm, speaks: bool) -> None:
    said = "waiting for other ranks to leave the program" if speaks else None
    request = comm.Ibarrier()
    try:
        wait(request, said, pauses(longest=0.5, growth=1.1))
    except KeyboardInterrupt:
        _wait_interrupted(request)
    comm.Free()


def _wait_interrupted(request: MPI.Request) -> None:
    """Wait for ranks that may have been interrupted, too, and clean up; but not for ever."""
    from mpi4py import MPI

    deadline = Deadline(_INTERRUPTED)
    with contextlib.suppress(KeyboardInterrupt):  # the second one is meant
        if wait(request, None, pauses(longest=0.5, growth=1.1), unless=lambda: not deadline.left):
            return
    MPI.COMM_WORLD.Abort(128 + signal.SIGINT)
