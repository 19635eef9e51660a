"""How a rank leaves the program: together with the others, without spinning.

`MPI_Finalize` waits for all ranks, and spins meanwhile. Ranks that are done early would burn their
cores while the client rank goes on; so all ranks meet in a polled barrier before. Where a rank will
never come, the job is aborted instead.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from mpidask._compat.mpi4py import decides_on_abort
from mpidask._log import flush_output, logger, logging_to_stderr
from mpidask._mpi import exit_blockers
from mpidask._text import name_ranks
from mpidask._waiting import Deadline, WaitNotice, backoff, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds for the launcher to forward the output: in an abort it may drop the rest.
_FORWARDING_TIME = 0.2
#: Seconds that other ranks have to exit after this one was interrupted.
_INTERRUPTED = 30
#: Seconds that other ranks have, at most, to fail in the same way as this one; then this one aborts
#: the job. Further ranks wait longer, each by `STAGGER`, as one report is enough.
_FAILURE_GRACE, STAGGER, STAGGERED = 5, 0.5, 10
#: Exit statuses after signals.
SIGNALLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)

#: Seconds of waiting in an `ExitBarrier` after which a rank announces that it is there, and in
#: which the last one can receive a message if Python runs there.
_ANNOUNCEMENT, _RECEPTION = 5, 10
#: The tags of that, and of the message to the last rank; no `Communicator` or transfer uses them.
_PRESENT, _LAST = 20_000, 20_001
#: How many missing ranks are named with their hosts.
_PLACES = 5


# -- Exit statuses. --------------------------------------------------------------------


def exit_status(error: BaseException | None) -> int:
    """Return the status with which Python exits because of an exception."""
    match error:
        case None | SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 0xFF
        case KeyboardInterrupt():
            return 128 + signal.SIGINT
        case _:
            return 1


class ServedExit(SystemExit):
    """Exits a rank that has served: its `code` is the job's status, but 0 for the launcher.

    The job's status is that of the rank that runs the program, which may catch what `main` has
    raised after the other ranks have left. Launchers report any status that is not 0, so the other
    ranks must have none. Python's own exit reads `code` last, from no frame; ``python -m mpi4py``
    reads it before, and aborts the job unless it is 0.

    After a signal all ranks exit with its status (see `outlast_other_ranks`).
    """

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "code" and value not in SIGNALLED:
            reader = sys._getframe().f_back
            if reader is None or decides_on_abort(reader):
                return 0
        return value


def exit_forked_child(error: BaseException | None) -> NoReturn:
    """Exit a child process that the user's function has forked, and that leaves it.

    The status and the output are Python's. A normal exit would finalise MPI and close the
    connections to Dask on behalf of the parent.
    """
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    flush_output()
    os._exit(exit_status(error))


def outlast_other_ranks() -> None:
    """Delay the end of this process, after `MPI_Finalize`, until the others have ended.

    `mpirun` of MPICH before 4.1, once it has forwarded a signal, drops the statuses of all ranks
    that end when no process has its output open any more (`forced_cleanup` in Hydra's pmip.c). So
    one must keep it open; the status of any other rank is enough. Only C has a hook that is called
    after `MPI_Finalize`, in which ranks wait for each other.
    """
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    if name == "MPICH" and version < (4, 1, 0):
        libc = ctypes.CDLL(None)
        microseconds = ctypes.c_void_p(int(_FORWARDING_TIME * 1e6))
        libc.__cxa_atexit(libc.usleep, microseconds, None)


def skip_last_collections() -> None:
    """Skip Python's garbage collections at exit.

    They traverse all that distributed has loaded, several times: a good part of a second of CPU on
    every rank. A rank that has only served has no garbage that matters.
    """
    atexit.register(gc.freeze)
    atexit.register(gc.disable)


# -- Meeting the other ranks. ----------------------------------------------------------


class ExitBarrier:
    """A polled barrier at exit, which knows the missing ranks."""

    def __init__(self, comm: MPI.Intracomm, reporters: tuple[int, ...]) -> None:
        self.comm = comm
        self.left = False  # all ranks but one have left the program because of exit=True
        self.place: Callable[[int], str] = "rank {}".format  # with the host, if that is known
        self.reporters = [rank for rank in reporters if rank < comm.Get_size()]
        self._present = {comm.Get_rank()}
        self._sent: list[MPI.Request] = []
        self._notified: MPI.Request | None = None
        self._silence: WaitNotice | None = None
        self._is_last = False
        self._barriers: list[MPI.Request] = []

    @property
    def reports(self) -> bool:
        """Whether this rank is a reporter."""
        return self.comm.Get_rank() in self.reporters

    @property
    def own_place(self) -> str:
        return self.place(self.comm.Get_rank())

    def wait(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for all ranks, and return whether they have come; ends early if `unless`.

        An interrupted wait can be continued.
        """
        quiet = Deadline(_ANNOUNCEMENT)

        def check() -> bool:
            if not quiet.left and not self._sent:
                self._announce()
            self._receive()
            self._notify_last()
            self._report_silence()
            return unless()

        notice = self._notice if self.reports else None
        if not wait(self._barrier(0), notice, _pauses(), unless=check):
            return False
        # All messages must be received, and no rank knows how many there are: so all meet again.
        for request in self._sent:
            wait(request, None, _pauses(), unless=self._receive)
        return wait(self._barrier(1), None, _pauses(), unless=self._receive)

    def _barrier(self, number: int) -> MPI.Request:
        if len(self._barriers) == number:
            self._barriers.append(self.comm.Ibarrier())
        return self._barriers[number]

    def others_wait(self) -> bool:
        """Whether all others wait for this rank; known to the last one after ``exit=True``."""
        if not self._is_last and self.comm.Iprobe(tag=_LAST):
            self._receive_last()
            self._is_last = True
        return self._is_last

    def missing(self) -> str:
        """Name the ranks that have not come, as far as this rank knows."""
        missing = self._missing()
        if len(missing) > _PLACES:
            return name_ranks(missing)
        return ", ".join(map(self.place, missing)) or "other ranks"

    def _missing(self) -> list[int]:
        return [rank for rank in range(self.comm.Get_size()) if rank not in self._present]

    def _notice(self) -> str:
        hint = " (if it waits there for ranks that have left, in MPI: give exit=False)"
        return f"waiting for {self.missing()} to leave the program{hint if self.left else ''}"

    def _announce(self) -> None:
        others = (rank for rank in self.reporters if rank != self.comm.Get_rank())
        self._sent = [self._send(rank, _PRESENT) for rank in others]

    def _notify_last(self) -> None:
        missing = self._missing() if self.left and self.reports else []
        if len(missing) == 1 and self._notified is None:
            self._notified = self._send(missing[0], _LAST)
            self._sent.append(self._notified)

    def _report_silence(self) -> None:
        """Log, once, that the last rank is in a call in which no `CallWatch` can look for it."""
        if self._notified is None:
            return
        if self._silence is None:
            self._silence = WaitNotice(self._silence_notice, first=_RECEPTION, interval=math.inf)
        if not self._notified.Test():
            self._silence.check()

    def _silence_notice(self, waited: int) -> str:
        return (
            f"{self.missing()} is in a call that lets no Python run. If it waits there for ranks "
            "that have left, as the first comm.allreduce() of an object does, the job will not end "
            "by itself: give exit=False"
        )

    def _send(self, rank: int, tag: int) -> MPI.Request:
        from mpi4py import MPI

        # Synchronous: complete when received.
        return self.comm.Issend([b"", MPI.BYTE], rank, tag)

    def _receive_last(self) -> None:
        from mpi4py import MPI

        self.comm.Recv([bytearray(), MPI.BYTE], tag=_LAST)

    def _receive(self) -> bool:
        from mpi4py import MPI

        status = MPI.Status()
        while self.comm.Iprobe(tag=_LAST):
            self._receive_last()
        while self.comm.Iprobe(tag=_PRESENT, status=status):
            self.comm.Recv([bytearray(), MPI.BYTE], status.Get_source(), _PRESENT)
            self._present.add(status.Get_source())
        return False


def _pauses() -> Iterator[float]:
    return backoff(longest=0.5, growth=1.1)


# -- What this process does at exit. ---------------------------------------------------


class _Plan:
    """What this process does at exit."""

    def __init__(self) -> None:
        self.barriers: list[ExitBarrier] = []
        self.abort_with: int | None = None
        self.grace = 0.0
        self.failure_grace: float = _FAILURE_GRACE
        self.cluster_runs = False
        self.calls: exit_blockers.CallWatch | None = None
        self.process = os.getpid()


_plan = _Plan()


def wait_at_exit_for(comm: MPI.Intracomm, *, reporters: tuple[int, ...]) -> None:
    """Wait for all ranks of a communicator before MPI is finalised, then free it.

    The `reporters` log long waits.
    """
    _register()
    _plan.barriers.append(ExitBarrier(comm, reporters))


def expect_end(
    comm: MPI.Intracomm,
    place: Callable[[int], str],
    *,
    left: bool,
    goes_on_alone: bool,
    timeout: float,
) -> None:
    """Record how the program goes on after a cluster.

    Either all ranks but one have `left` the program, and this rank may go on alone, or all go on.
    If this one ends with an error, the others have `timeout` seconds at most.
    """
    from mpi4py import MPI

    _plan.failure_grace = min(timeout, _FAILURE_GRACE)
    for barrier in _plan.barriers:
        if barrier.comm is comm:
            barrier.place, barrier.left = place, left
            if goes_on_alone and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
                on_call = functools.partial(_abort_in_call, barrier)
                _plan.calls = exit_blockers.CallWatch(comm, barrier.others_wait, on_call)


def set_cluster_runs(runs: bool) -> None:
    """Record whether a cluster is running, which needs this process and MPI."""
    _plan.cluster_runs = runs


def cluster_runs() -> bool:
    """Whether a cluster is running."""
    return _plan.cluster_runs


def end_job(reason: str, status: int = 1, *, at_once: bool = True) -> None:
    """Log why the whole job has to end, and abort it: now, or when this process exits."""
    _log_end(reason, status)
    abort_at_exit(status, at_once=at_once)


def abort_at_exit(status: int, *, grace: float = 0, at_once: bool = False) -> None:
    """Abort the whole job when this process exits, or `at_once`: some rank never will exit.

    Another rank, which has more to report, has `grace` seconds to abort the job first.
    """
    _register()
    _plan.abort_with, _plan.grace = status, grace
    if at_once:
        _leave()


def _register() -> None:
    from mpi4py import MPI

    if _plan.barriers or _plan.abort_with is not None:
        return
    _plan.process = os.getpid()
    atexit.register(_leave)
    # A program may call MPI.Finalize() itself, before Python's exit handlers run. It begins by
    # deleting the attributes of COMM_SELF (MPI-4.1, 11.4.1).
    keyval = MPI.Comm.Create_keyval(
        delete_fn=lambda comm, key, value: _leave("called MPI.Finalize()")
    )
    MPI.COMM_SELF.Set_attr(keyval, None)


def _leave(how: str = "ended") -> None:
    from mpi4py import MPI

    if MPI.Is_finalized() or os.getpid() != _plan.process:  # a forked child
        return
    if _plan.calls is not None:
        _plan.calls.stop()
    exit_blockers.wait_for_processes()
    flush_output()
    if _plan.cluster_runs and _plan.abort_with is None:
        end_job(_left_running_cluster(how), at_once=False)
    if _plan.abort_with is not None:
        _abort(_plan.abort_with, after=_plan.grace)
    while _plan.barriers:
        _wait_for_all(_plan.barriers.pop())


def _log_end(reason: str, status: int) -> None:
    with logging_to_stderr():
        logger.error("ending the job with exit status %d: %s", status, reason.rstrip())


def _left_running_cluster(how: str) -> str:
    from mpi4py import MPI

    stack = "".join(traceback.format_stack()[:-2])
    where = f". It is in\n{stack}" if stack else ""  # none: its last line has run
    return (
        f"the program {how} on rank {MPI.COMM_WORLD.Get_rank()} while its cluster is running, "
        f"which needs it and MPI{where}"
    )


def _abort(status: int, *, after: float = 0) -> None:
    from mpi4py import MPI

    time.sleep(max(after, _FORWARDING_TIME))
    MPI.COMM_WORLD.Abort(status)


def _abort_in_call(barrier: ExitBarrier, call: str) -> None:
    _log_end(
        f"{barrier.own_place} waits in {call} for ranks that have left the program, as they do "
        "after the first cluster: give exit=False, and all go on",
        1,
    )
    flush_output()
    _abort(1)


def _wait_for_all(barrier: ExitBarrier) -> None:
    error = getattr(sys, "last_value", None)
    unless = _give_up_after_failure(barrier) if error is not None else lambda: False
    try:
        all_came = barrier.wait(unless)
    except KeyboardInterrupt:
        all_came, error = _wait_interrupted(barrier), KeyboardInterrupt()
    if all_came:
        if error is not None:
            _warn_of_other_ranks(barrier, error)
        barrier.comm.Free()
    else:
        _abort_after_failure(barrier, error)


def _warn_of_other_ranks(barrier: ExitBarrier, error: BaseException) -> None:
    """Warn of ranks outside the communicator: mpidask can't know whether they wait for this one."""
    from mpi4py import MPI

    if barrier.comm.Get_size() < MPI.COMM_WORLD.Get_size():
        with logging_to_stderr():
            logger.warning(
                "%s has ended with %s. Ranks outside its communicator go on; if they wait for it "
                "in MPI, the job hangs. Started by python -m mpi4py, the program would end the job",
                barrier.own_place,
                type(error).__name__,
            )


def _give_up_after_failure(barrier: ExitBarrier) -> Callable[[], bool]:
    """Limit the wait of a rank that an exception has ended: others may wait for it in MPI."""
    rank = barrier.comm.Get_rank()
    turn = barrier.reporters.index(rank) if barrier.reports else 2 + min(rank, STAGGERED)
    deadline = Deadline(_plan.failure_grace + STAGGER * turn)
    return lambda: not barrier.left and not deadline.left


def _abort_after_failure(barrier: ExitBarrier, error: BaseException | None) -> None:
    interrupted = isinstance(error, KeyboardInterrupt)
    status = 128 + signal.SIGINT if interrupted else 1
    if not interrupted:
        others = barrier.missing() if barrier.reports else "other ranks"
        _log_end(
            f"{barrier.own_place} has ended with {type(error).__name__}; {others} may wait for it "
            "in MPI, and did not come to the end of the program within "
            f"{_plan.failure_grace:.3g} s",
            status,
        )
    _abort(status)


def _wait_interrupted(barrier: ExitBarrier) -> bool:
    """Wait a limited time for ranks that may have been interrupted, too, and clean up."""
    deadline = Deadline(_INTERRUPTED)
    with contextlib.suppress(KeyboardInterrupt):  # the second one is meant
        return barrier.wait(lambda: not deadline.left)
    return False
