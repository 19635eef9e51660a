"""How a rank leaves the program: together with the others, without spinning.

`MPI_Finalize` waits for all ranks, and spins meanwhile. The ranks that are done first
would burn their cores while the client rank goes on; so all meet in a polled barrier
before. Where a rank will never come, the job is aborted instead.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpidask._log import flush_output, logger, logging_to_stderr
from mpidask._mpi import leftovers
from mpidask._mpi.abandoned_calls import CallWatch
from mpidask._mpi.exit_barrier import ExitBarrier
from mpidask._waiting import Deadline

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds for the launcher to pass on what was printed: in an abort it may drop the rest.
_FORWARDING_TIME = 0.2
#: Seconds that other ranks have to leave when this one was interrupted.
_INTERRUPTED = 30
#: Seconds that other ranks have, at most, to fail in the same way as this one; then this one ends
#: the job. Further ranks wait longer, each of so many, as one is enough to say why.
_FAILURE_GRACE, _STAGGER, _STAGGERED = 5, 0.5, 10
#: Exit statuses after signals.
SIGNALLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class ServedExit(SystemExit):
    """Ends a rank that has served, with a status for who catches it, and none for the launcher.

    A job ends with the status of the rank that runs the program, which may catch what `main` has
    raised after the other ranks have left. Launchers give the status that is not 0 if there is
    one; so the others must not have one. Python's own code asks for `code` last, from no frame.

    After a signal all ranks have its status (see `outlast_other_ranks`).
    """

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "code" and value not in SIGNALLED and sys._getframe().f_back is None:
            return 0
        return value


def outlast_other_ranks() -> None:
    """Let this process end a moment after the others, after the ends of MPI and of Python.

    `mpirun` of MPICH before 4.1, if it has passed on a signal, drops the statuses of all ranks that
    end when none has its output open any more (`forced_cleanup` in Hydra's pmip.c). So there must
    be one that has, and the status of one of the others is enough. No public hook comes after
    `MPI_Finalize`, in which ranks wait for each other, but for those of C.
    """
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    if name == "MPICH" and version < (4, 1, 0):
        libc = ctypes.CDLL(None)
        microseconds = ctypes.c_void_p(int(_FORWARDING_TIME * 1e6))
        libc.__cxa_atexit(libc.usleep, microseconds, None)


class _Plan:
    """What this process does when it leaves."""

    def __init__(self) -> None:
        self.barriers: list[ExitBarrier] = []
        self.abort_with: int | None = None
        self.grace = 0.0
        self.failure_grace: float = _FAILURE_GRACE
        self.cluster_runs = False
        self.calls: CallWatch | None = None
        self.process = os.getpid()


_plan = _Plan()


def wait_at_exit_for(comm: MPI.Intracomm, *, speakers: tuple[int, ...]) -> None:
    """Wait for all ranks of a communicator before MPI is finalised, then free it.

    Those that are `speakers` say so when that takes long.
    """
    _register()
    _plan.barriers.append(ExitBarrier(comm, speakers))


def expect_end(
    comm: MPI.Intracomm,
    place: Callable[[int], str],
    *,
    left: bool,
    goes_on_alone: bool,
    timeout: float,
) -> None:
    """Say how the program goes on after a cluster.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        One that this process waits for at exit.
    place : callable
        Names a rank of it, with its host.
    left : bool
        Whether all ranks but one leave the program now.
    goes_on_alone : bool
        Whether this is that one.
    timeout : float
        Seconds that other ranks have at most, should this one end by an error.
    """
    from mpi4py import MPI

    _plan.failure_grace = min(timeout, _FAILURE_GRACE)
    for barrier in _plan.barriers:
        if barrier.comm is comm:
            barrier.place, barrier.left = place, left
            if goes_on_alone and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
                _plan.calls = CallWatch(barrier, functools.partial(_abort_in_call, barrier))


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


def end_job(reason: str, status: int = 1, *, at_once: bool = True) -> None:
    """Log why the whole job has to end, and abort it.

    Parameters
    ----------
    reason : str
    status : int
        Exit status of the job.
    at_once : bool
        Whether to abort now, instead of when this process exits.
    """
    _log_end(reason, status)
    abort_at_exit(status, at_once=at_once)


def _log_end(reason: str, status: int) -> None:
    with logging_to_stderr():
        logger.error("ending the job with exit status %d: %s", status, reason.rstrip())


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

    if _plan.barriers or _plan.abort_with is not None:
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
    if _plan.calls is not None:
        _plan.calls.stop()
    leftovers.wait_until_left_behind()
    flush_output()
    if _plan.cluster_runs and _plan.abort_with is None:
        end_job(_explanation(how), at_once=False)
    if _plan.abort_with is not None:
        _abort(_plan.abort_with, after=_plan.grace)
    while _plan.barriers:
        _wait_for_all(_plan.barriers.pop())


def _abort(status: int, *, after: float = 0) -> None:
    from mpi4py import MPI

    time.sleep(max(after, _FORWARDING_TIME))
    MPI.COMM_WORLD.Abort(status)


def _abort_in_call(barrier: ExitBarrier, call: str) -> None:
    _log_end(
        f"{barrier.place(barrier.comm.Get_rank())} waits in {call} for ranks that have left the "
        "program, as they do after the first cluster: give exit=False, and all go on",
        1,
    )
    flush_output()
    _abort(1)


def _explanation(how: str) -> str:
    from mpi4py import MPI

    stack = "".join(traceback.format_stack()[:-2])
    return (
        f"the program {how} on rank {MPI.COMM_WORLD.Get_rank()} while its cluster is running, "
        f"which needs it and MPI. It is in\n{stack}"
    )


def _wait_for_all(barrier: ExitBarrier) -> None:
    error = getattr(sys, "last_value", None)
    unless = _give_up_after_failure(barrier) if error is not None else lambda: False
    try:
        all_came = barrier.wait(unless)
    except KeyboardInterrupt:
        all_came, error = _wait_interrupted(barrier), KeyboardInterrupt()
    if all_came:
        barrier.comm.Free()
    else:
        _abort_after_failure(barrier, error)


def _give_up_after_failure(barrier: ExitBarrier) -> Callable[[], bool]:
    """End the wait of a rank that an exception has ended: the others may wait for it in MPI."""
    rank = barrier.comm.Get_rank()
    turn = barrier.speakers.index(rank) if barrier.speaks else 2 + min(rank, _STAGGERED)
    deadline = Deadline(_plan.failure_grace + _STAGGER * turn)
    return lambda: not barrier.left and not deadline.left


def _abort_after_failure(barrier: ExitBarrier, error: BaseException | None) -> None:
    interrupted = isinstance(error, KeyboardInterrupt)
    status = 128 + signal.SIGINT if interrupted else 1
    if not interrupted:
        own = barrier.place(barrier.comm.Get_rank())
        others = barrier.missing() if barrier.speaks else "other ranks"
        _log_end(
            f"{own} has ended with {type(error).__name__}; {others} may wait for it in MPI, and "
            f"did not come to the end of the program within {_plan.failure_grace:.3g} s",
            status,
        )
    _abort(status)


def _wait_interrupted(barrier: ExitBarrier) -> bool:
    """Wait for ranks that may have been interrupted, too, and clean up; but not for ever."""
    deadline = Deadline(_INTERRUPTED)
    with contextlib.suppress(KeyboardInterrupt):  # the second one is meant
        return barrier.wait(lambda: not deadline.left)
    return False
