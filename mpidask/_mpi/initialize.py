"""MPI comes up, and Python goes on meanwhile.

`MPI_Init` waits until all ranks of the job have called it. mpi4py calls it at import and
holds the GIL: nothing could say what the program waits for, or end it. So it is called here
by ctypes, which lets other threads run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from mpidask._log import flush_output, logger
from mpidask._threads import in_daemon_thread
from mpidask._waiting import FIRST_NOTICE, Deadline, WaitNotice

#: Seconds from one rank's notice to the next one's. The ranks can't talk yet, so the first three
#: take turns, as two of them may be missing.
_INTERVAL, _SPEAKERS = 30, 3
#: Seconds from the end of one rank's wait to that of the next one's, and of how many. The launcher
#: ends the job with the first process that leaves, so the others need not say it again.
_STAGGER, _STAGGERED = 1, 10


def import_mpi(
    rank: int, deadline: Deadline, *, speaks: bool, before_init: Callable[[], None]
) -> None:
    """Import `mpi4py.MPI`, and initialise MPI as mpi4py would.

    The process ends, with status 1, if other ranks have not come at the deadline.

    Parameters
    ----------
    rank : int
        Which rank this is, as the launcher says.
    deadline : Deadline
    speaks : bool
        Whether it says at the deadline why the process ends.
    before_init : callable
        Called when the library is known, and may raise.
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
        before_init()
        with _watched(rank, deadline, speaks):
            _init()
        _set_error_handlers()


def _init() -> None:
    from mpi4py import MPI, rc

    level = {
        "single": MPI.THREAD_SINGLE,
        "funneled": MPI.THREAD_FUNNELED,
        "serialized": MPI.THREAD_SERIALIZED,
    }.get(rc.thread_level if rc.threads else "single", MPI.THREAD_MULTIPLE)
    try:  # the libraries that mpi4py.MPI is linked with are searched, too
        init_thread = ctypes.CDLL(MPI.__file__).MPI_Init_thread
    except (OSError, AttributeError):  # linked in another way: without the GIL's release
        MPI.Init_thread(level)
        return
    if init_thread(None, None, level, ctypes.byref(ctypes.c_int())) != MPI.SUCCESS:
        raise RuntimeError("MPI_Init_thread failed")


def _set_error_handlers() -> None:
    """Do what mpi4py does behind its own call of `MPI_Init_thread`."""
    from mpi4py import MPI, rc

    handlers = {"exception": MPI.ERRORS_RETURN, "fatal": MPI.ERRORS_ARE_FATAL}
    with contextlib.suppress(AttributeError):  # MPI 4.0
        handlers["abort"] = MPI.ERRORS_ABORT
    if rc.errors in handlers:
        for comm in (MPI.COMM_SELF, MPI.COMM_WORLD):
            comm.Set_errhandler(handlers[rc.errors])


@contextlib.contextmanager
def _watched(rank: int, deadline: Deadline, speaks: bool) -> Iterator[None]:
    """Say what is waited for, and end the process at the deadline."""
    done = threading.Event()
    watching = in_daemon_thread(_watch, done, rank, deadline, speaks)
    try:
        yield
    finally:
        done.set()
        watching.result()


def _watch(done: threading.Event, rank: int, deadline: Deadline, speaks: bool) -> None:
    def message(_: int) -> str:
        waited, left = deadline.timeout - deadline.left, deadline.left
        return (
            f"{_place(rank)} waits for other ranks to reach mpidask (MPI_Init): for {waited:.0f} s "
            f"now, for {left:.0f} s more at most (startup_timeout)"
        )

    notice = WaitNotice(
        message, first=FIRST_NOTICE + _INTERVAL * rank, interval=_SPEAKERS * _INTERVAL
    )
    while rank < _SPEAKERS and deadline.left > notice.due_in:
        if done.wait(notice.due_in):
            return
        notice.check()
    if done.wait(deadline.left + _STAGGER * min(rank, _STAGGERED)):
        return
    if speaks or rank < _SPEAKERS:
        logger.error(
            "other ranks did not reach mpidask (MPI_Init) within %g s (startup_timeout): still "
            "busy in the program before the cluster starts, or ended. %s ends the job",
            deadline.timeout,
            _place(rank),
        )
    flush_output()
    os._exit(1)


def _place(rank: int) -> str:
    return f"rank {rank} on {socket.gethostname()}"
