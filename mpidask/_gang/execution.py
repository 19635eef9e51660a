"""One rank's execution of a gang's function: in a thread, with a communicator of the gang."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPITaskError, trace_beyond
from mpidask._text import name_rank
from mpidask._waiting import backoff, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Set by ``mpirun --with-ft ulfm``.
_FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
#: Seconds to wait for the reason when only the revoked communicator shows a failure.
_REASON_TIMEOUT = 10

#: Communicators that may have messages left on them, since their gangs failed. They are never
#: freed: under MPICH, such messages reach the next communicator with the same context id.
_leaked: list[MPI.Intracomm] = []
#: Non-blocking calls that did not complete on them.
_unfinished: list[MPI.Request] = []


class Stopped(BaseException):
    """Raised in the thread of an execution whose gang can't go on."""


class Execution:
    """One execution of a gang's function, by the thread of a worker that makes this object.

    The token distinguishes it from other executions of the same task. `on_failure` is called when
    the function fails, before the other ranks are waited for.
    """

    def __init__(
        self, token: str, key: Any, comm: MPI.Intracomm, on_failure: Callable[[Execution], object]
    ) -> None:
        self.token = token
        self.key = key
        #: How it ended: "returned", "failed" or "stopped".
        self.outcome = ""
        #: What failed, here or elsewhere.
        self.reason = ""
        self._job_comm = comm  # of all ranks of the job
        self._on_failure = on_failure
        self._answer: Future[tuple[tuple[int, ...], int] | None] = Future()
        self._stopped = threading.Event()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._comm: MPI.Intracomm | None = None
        self._interruptible = False

    # -- From the event loop. --------------------------------------------------------------

    def start(self, ranks: tuple[int, ...], tag: int) -> None:
        """Let it start: all ranks of the gang are there."""
        if not self._answer.done():
            self._answer.set_result((ranks, tag))

    def stop(self, reason: str) -> None:
        """End it as soon as possible."""
        self.reason = self.reason or reason
        self._stopped.set()
        if not self._answer.done():
            self._answer.set_result(None)
        self.interrupt(revoke=True)

    def interrupt(self, *, revoke: bool = False) -> None:
        """Raise `Stopped` in its thread, if that is in the user's function."""
        with self._lock:
            if self._interruptible:
                _raise_in_thread(self._thread, Stopped)
                if revoke and can_be_revoked():
                    assert self._comm is not None
                    self._comm.Revoke()

    @property
    def is_running(self) -> bool:
        """Whether it has started and not ended."""
        return self._answer.done() and self._answer.result() is not None and not self.outcome

    # -- In its thread. --------------------------------------------------------------------

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function when all ranks are there, and return when all have returned.

        Raise `MPITaskError` if it fails, and `Stopped` if it was stopped, or another rank failed.
        """
        start = self._answer.result()
        if start is None:
            raise Stopped
        comm = None
        try:
            comm = create_communicator(self._job_comm, *start)
            self._allow_interrupts(comm)
            result = func(comm, *args, **kwargs)
            self.prevent_interrupts()
            if not comm:
                raise RuntimeError("the function has freed its communicator, which is not its own")
            self._wait_for_others(comm)
            self.outcome = "returned"
            return result
        except BaseException as error:
            self.prevent_interrupts()
            failure = self._end_with(error, comm)
        finally:
            if comm is not None:
                _discard(comm, clean=self.outcome == "returned")
        raise failure  # outside of the handler, else its context would have to be pickled

    def _allow_interrupts(self, comm: MPI.Intracomm) -> None:
        if _is_revoked(comm):
            raise Stopped
        with self._lock:
            self._comm = comm
            self._interruptible = True
        if self._stopped.is_set():
            raise Stopped

    def prevent_interrupts(self) -> None:
        """Disable interruption from here on."""
        while self._interruptible or self._comm is not None:
            # `Stopped` may be raised at any moment until this is through.
            with contextlib.suppress(Stopped), self._lock:
                self._interruptible = False
                _raise_in_thread(self._thread, None)
                self._comm = None

    def _wait_for_others(self, comm: MPI.Intracomm) -> None:
        """Wait until all ranks have returned: their results are good together, or none is."""
        request = comm.Ibarrier()
        notifies = comm.Get_rank() < 2  # two of them, as one may be the rank that is missing
        notice = (
            f"rank {self._job_comm.Get_rank()} waits for other ranks to return from {self.key[0]}"
        )
        looks = backoff(0.01, growth=1.1, shortest=1e-4)
        if not wait(request, notice if notifies else None, looks, unless=self._stopped.is_set):
            _unfinished.append(request)
            raise Stopped

    def _end_with(self, error: BaseException, comm: MPI.Intracomm | None) -> BaseException:
        """Turn what was raised into what the task raises."""
        if self._is_consequence(comm):
            self.outcome = "stopped"
            return Stopped()
        failure = self._failure(error)
        self.outcome = "failed"
        self._on_failure(self)
        if comm is not None and can_be_revoked():
            comm.Revoke()
        return failure

    def _is_consequence(self, comm: MPI.Intracomm | None) -> bool:
        """Whether this rank was only affected by the failure of another one."""
        if comm is not None and not self._stopped.is_set() and _is_revoked(comm):
            return self._stopped.wait(_REASON_TIMEOUT)
        return self._stopped.is_set()

    def _failure(self, error: BaseException) -> MPITaskError:
        host = socket.gethostname()
        cause = traceback.format_exception_only(type(error), error)[-1].strip()
        rank = self._job_comm.Get_rank()
        text = f"{self.key[0]} failed on {name_rank(rank, host)}: {cause}"
        trace = trace_beyond(error.__traceback__, {__file__})
        lines = traceback.format_exception(type(error), error, trace)
        reason = f"{text}\n{''.join(lines)}"
        # Names of files may have lone surrogates, which can't be sent.
        self.reason = reason.encode(errors="backslashreplace").decode()
        if not _can_be_pickled(trace):  # too deep: distributed would send nothing at all
            trace = None
        failure = MPITaskError(text, rank=rank, host=host)
        if _can_be_pickled(error):
            failure.__cause__ = error.with_traceback(trace)
        return failure.with_traceback(trace)


def _raise_in_thread(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread when it next runs Python code; None takes it back."""
    exception = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)


def _can_be_pickled(value: BaseException | TracebackType | None) -> bool:
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(value))
    except Exception:
        return False
    return True


# -- The communicator of a gang. -----------------------------------------------------------


def create_communicator(comm: MPI.Intracomm, ranks: Sequence[int], tag: int) -> MPI.Intracomm:
    """Create a communicator of some ranks of another one; a collective call of these ranks."""
    from mpi4py import MPI

    try:
        created = _create_group(comm, ranks, tag)
        _meet(created)
    except MPI.Exception as error:
        if not _leaked:
            raise
        raise RuntimeError(
            f"MPI could not make a communicator. {len(_leaked)} are in use by functions of "
            "submit_mpi that failed on this rank before, or left messages: each keeps one to the "
            "end of the job, and some MPI libraries have room for about 1,000"
        ) from error
    return created


def _create_group(comm: MPI.Intracomm, ranks: Sequence[int], tag: int) -> MPI.Intracomm:
    from mpi4py import MPI

    everyone = comm.Get_group()
    group = everyone.Incl(list(ranks))
    try:
        created = comm.Create_group(group, tag)
    finally:
        group.Free()
        everyone.Free()
    created.Set_errhandler(MPI.ERRORS_RETURN)
    return created


def _meet(comm: MPI.Intracomm) -> None:
    """Reduce an object now, when all ranks come at once.

    In the first reduction of objects on a communicator, mpi4py duplicates it while holding the
    GIL; in the user's function, that could block the worker until the last rank comes. Besides,
    Open MPI 5.0.11 may crash if the communicator is revoked before all ranks have created it.
    """
    from mpi4py import MPI

    try:
        comm.allreduce(0)
    except MPI.Exception:
        if not can_be_revoked():  # else a fast rank has failed already, and revoked it
            raise


def _discard(comm: MPI.Intracomm, *, clean: bool) -> None:
    """Free a communicator, unless messages may be left on it."""
    if clean and not comm.Iprobe():
        comm.Free()
    else:
        _leaked.append(comm)


def can_be_revoked() -> bool:
    """Whether revoking a communicator wakes ranks that wait in it.

    Open MPI without ``mpirun --with-ft ulfm`` accepts the call and does nothing.
    """
    from mpi4py import MPI

    enabled = os.environ.get(_FAULT_TOLERANCE) == "1"
    return enabled and hasattr(MPI.Comm, "Revoke")


def _is_revoked(comm: MPI.Intracomm) -> bool:
    return can_be_revoked() and bool(comm.Is_revoked())
