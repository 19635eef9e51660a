"""Initialise MPI, and get the communicator to use.

`MPI_Init` waits until all ranks of the job have called it. mpi4py calls it on import and holds the
GIL meanwhile, so that nothing could report the wait or end it. Here it is called through ctypes,
which releases the GIL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError
from mpidask._log import flush_output, logger
from mpidask._mpi import launcher
from mpidask._text import name_this_rank
from mpidask._threads import start_daemon_thread
from mpidask._waiting import FIRST_NOTICE, Deadline, WaitNotice

if TYPE_CHECKING:
    from mpi4py import MPI

#: The ranks can't communicate yet, so the first three take turns to log notices, with this many
#: seconds in between: two of them may be missing.
_REPORTING, _INTERVAL = 3, 30
#: Seconds between the timeouts of ranks, and how many ranks are staggered. The launcher ends the
#: job with the first process that exits, so the others need not report the timeout again.
_STAGGER, _STAGGERED = 1, 10
#: Communicators of the program: object by identity, and this process's rank in it.
_seen: dict[int, tuple[weakref.ref[Any], int]] = {}


def communicator(
    deadline: Deadline, given: Any = None, *, alone: bool = False
) -> MPI.Intracomm | None:
    """Return the communicator given, or COMM_WORLD, or None if there is no MPI job.

    With `alone`, a single rank counts as an MPI job. Other ranks have to reach `MPI_Init` by the
    deadline. Raises `MPIDaskError` if the launcher started several processes, but MPI does not
    connect them.
    """
    if given is not None:
        return given if given.Get_size() > 1 or alone else None
    try:
        _import_mpi(deadline)
        from mpi4py import MPI
    except MPIDaskError:
        raise
    except (ImportError, RuntimeError) as error:  # not installed, or finds no MPI library
        launcher.refuse_if_several(f"mpi4py can't be used ({error})")
        return None
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise MPIDaskError(
            "MPI is not initialised (mpi4py.rc.initialize is off), or was finalised already"
        )
    if MPI.COMM_WORLD.Get_size() == 1:
        launcher.refuse_if_several(f"mpi4py uses {launcher.library()}")
    return MPI.COMM_WORLD if alone or MPI.COMM_WORLD.Get_size() > 1 else None


def require_threads() -> None:
    """Raise `MPIDaskError` if several threads can't call MPI at once."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise MPIDaskError(
            "MPI was not initialised for several threads, and mpidask talks to the other ranks "
            "from a separate thread, at any time: leave mpi4py.rc.thread_level at its default "
            "'multiple'"
        )


def remember(comm: Any) -> None:
    """Remember a communicator, for `rank_in_freed`."""
    if hasattr(comm, "Idup") and comm:
        key = id(comm)
        forget = weakref.ref(comm, lambda _: _seen.pop(key, None))
        _seen[key] = forget, comm.Get_rank()


def rank_in_freed(comm: Any) -> int | None:
    """Return the rank that this process had in a communicator that was freed since, or None.

    MPI turns the handle of a freed communicator into COMM_NULL, which is also what `Split` returns
    on a rank that is left out.
    """
    seen, rank = _seen.get(id(comm), (None, None))
    return rank if seen is not None and seen() is comm and not comm else None


# -- MPI_Init. ------------------------------------------------------------------------


def _import_mpi(deadline: Deadline) -> None:
    """Import `mpi4py.MPI`, and initialise MPI as mpi4py would.

    If other ranks have not come by the deadline, the process exits with status 1.
    """
    import mpi4py

    rc = mpi4py.rc
    if "mpi4py.MPI" in sys.modules or not rc.initialize or "MPI4PY_RC_INITIALIZE" in os.environ:
        from mpi4py import MPI

        return
    before = rc.initialize, rc.finalize
    rc.initialize = False
    if rc.finalize is None:
        rc.finalize = True
    try:
        from mpi4py import MPI
    finally:
        rc.initialize, rc.finalize = before
    if not MPI.Is_initialized():
        launcher.refuse_other_mpi()
        with _exit_after(deadline):
            _init()
        _set_error_handlers()


def _init() -> None:
    from mpi4py import MPI, rc

    level = {
        "single": MPI.THREAD_SINGLE,
        "funneled": MPI.THREAD_FUNNELED,
        "serialized": MPI.THREAD_SERIALIZED,
    }.get(rc.thread_level if rc.threads else "single", MPI.THREAD_MULTIPLE)
    try:  # finds symbols of the libraries that mpi4py.MPI is linked with, too
        init_thread = ctypes.CDLL(MPI.__file__).MPI_Init_thread
    except (OSError, AttributeError):  # linked in another way: can't release the GIL
        MPI.Init_thread(level)
        return
    if init_thread(None, None, level, ctypes.byref(ctypes.c_int())) != MPI.SUCCESS:
        raise RuntimeError("MPI_Init_thread failed")


def _set_error_handlers() -> None:
    """Do what mpi4py does after its own call of `MPI_Init_thread`."""
    from mpi4py import MPI, rc

    handlers = {"exception": MPI.ERRORS_RETURN, "fatal": MPI.ERRORS_ARE_FATAL}
    with contextlib.suppress(AttributeError):  # MPI 4.0
        handlers["abort"] = MPI.ERRORS_ABORT
    if rc.errors in handlers:
        for comm in (MPI.COMM_SELF, MPI.COMM_WORLD):
            comm.Set_errhandler(handlers[rc.errors])


@contextlib.contextmanager
def _exit_after(deadline: Deadline) -> Iterator[None]:
    """Report a long wait, and end the process if it has not ended by the deadline."""
    done = threading.Event()
    watching = start_daemon_thread(_watch, done, launcher.rank(), deadline)
    try:
        yield
    finally:
        done.set()
        watching.join()


def _watch(done: threading.Event, rank: int, deadline: Deadline) -> None:
    def message(_: int) -> str:
        waited, left = deadline.timeout - deadline.left, deadline.left
        return (
            f"{name_this_rank(rank)} waits for other ranks to reach mpidask (MPI_Init): "
            f"for {waited:.0f} s now, for {left:.0f} s more at most (startup_timeout)"
        )

    notice = WaitNotice(
        message, first=FIRST_NOTICE + _INTERVAL * rank, interval=_REPORTING * _INTERVAL
    )
    while rank < _REPORTING and deadline.left > notice.due_in:
        if done.wait(notice.due_in):
            return
        notice.check()
    if done.wait(deadline.left + _STAGGER * min(rank, _STAGGERED)):
        return
    if launcher.reports_early() or rank < _REPORTING:
        logger.error(
            "other ranks did not reach mpidask (MPI_Init) within %g s (startup_timeout): still "
            "busy in the program before the cluster starts, or ended. %s ends the job",
            deadline.timeout,
            name_this_rank(rank),
        )
    flush_output()
    os._exit(1)
