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
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpidask._polling import pauses

if TYPE_CHECKING:
    from mpi4py import MPI


class _Plan:
    """What this process does when it leaves."""

    def __init__(self) -> None:
        self.meet_on: list[MPI.Intracomm] = []
        self.abort_with: int | None = None
        self.patience = 0.0
        self.fatal: BaseException | None = None
        self.process = os.getpid()


_plan = _Plan()


def wait_at_exit_for(comm: MPI.Intracomm) -> None:
    """Wait for all ranks of a communicator before MPI is finalised, then free it."""
    _register()
    _plan.meet_on.append(comm)


def abort_at_exit(status: int, *, patience: float = 0, at_once: bool = False) -> None:
    """End the whole job when this process leaves, because some rank never will.

    Parameters
    ----------
    status : int
        Exit status of the job.
    patience : float
        Seconds to give another rank, which has more to say, to end the job first.
    at_once : bool
        Do not wait for the end of this process.
    """
    _register()
    _plan.abort_with, _plan.patience = status, patience
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

    if _plan.meet_on or _plan.abort_with is not None:
        return
    _plan.process = os.getpid()
    atexit.register(_leave)
    # A program may call MPI.Finalize() itself, before Python's exit handlers run.
    # Attributes of COMM_SELF are deleted first thing in it (MPI-4.1, 11.4.1).
    keyval = MPI.Comm.Create_keyval(delete_fn=lambda comm, key, value: _leave())
    MPI.COMM_SELF.Set_attr(keyval, None)


def _leave() -> None:
    from mpi4py import MPI

    if MPI.Is_finalized() or os.getpid() != _plan.process:  # a child of this rank's
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()
    if _plan.fatal is not None and _plan.fatal in _chain(getattr(sys, "last_value", None)):
        abort_at_exit(1)
    if _plan.abort_with is not None:
        time.sleep(_plan.patience)
        MPI.COMM_WORLD.Abort(_plan.abort_with)
    while _plan.meet_on:
        _meet(_plan.meet_on.pop())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Go from an exception to those it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _meet(comm: MPI.Intracomm) -> None:
    request = comm.Ibarrier()
    for pause in pauses(longest=0.02):
        if request.Test():
            break
        time.sleep(pause)
    comm.Free()
