"""What the task of a member does: it waits for the others, and calls the user's function."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cloudpickle

from mpidask._errors import MPITaskError
from mpidask._gang import communicators
from mpidask._gang.execution import Execution, Stopped
from mpidask._gang.rank import Rank, current

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds to wait for the word of what failed, when this member has only felt it.
_WORD = 10


def run_alone(func: Callable[..., Any], kwargs: Mapping[str, Any], /, *args: Any) -> Any:
    """Call a function on a rank that is alone: there is no MPI job."""
    from mpi4py import MPI

    return func(MPI.COMM_SELF, *args, **kwargs)


def run(func: Callable[..., Any], kwargs: Mapping[str, Any], /, *args: Any) -> Any:
    """Call a function on this rank when all ranks of the gang are here."""
    from distributed import Reschedule, get_worker

    rank = current()
    if rank is None:
        raise MPITaskError(f"the worker on {socket.gethostname()} is no rank of the MPI job")
    execution = rank.enter(get_worker().get_current_task())
    try:
        return _run(rank, execution, lambda comm: func(comm, *args, **kwargs))
    except Stopped:
        execution.how = execution.how or "stopped"
        # Back to the scheduler, which knows whether it runs again or fails as others did.
        raise Reschedule from None
    finally:
        execution.shield()  # once more, should it have been interrupted on its way to this
        rank.leave(execution)


def _run(rank: Rank, execution: Execution, call: Callable[[MPI.Intracomm], Any]) -> Any:
    start = execution.wait_for_start()
    if start is None:
        raise Stopped
    comm = None
    try:
        comm = communicators.make(rank.comm, *start)
        if communicators.is_revoked(comm):
            raise Stopped
        execution.expose(comm)
        result = call(comm)
        execution.shield()
        if not comm:
            raise RuntimeError("the function has freed its communicator, which is not its own")
        said = f"rank {rank.number} waits for other ranks to return from {execution.key[0]}"
        if not communicators.all_well(comm, said, lambda: execution.is_stopped):
            raise Stopped
        execution.how = "returned"
        return result
    except BaseException as error:
        execution.shield()
        failure = _outcome(rank, execution, comm, error)
    finally:
        if comm is not None:
            communicators.discard(comm, clean=execution.how == "returned")
    raise failure  # here, where nothing hangs on it that could not be pickled


def _outcome(
    rank: Rank, execution: Execution, comm: MPI.Intracomm | None, error: BaseException
) -> BaseException:
    """Make of what a member has raised what its task raises."""
    if _is_innocent(execution, comm):
        execution.how = "stopped"
        return Stopped()
    failure = _failure(rank, execution, error)
    execution.how = "failed"
    rank.tell_failure(execution)
    if comm is not None and communicators.can_be_revoked():
        comm.Revoke()
    return failure


def _is_innocent(execution: Execution, comm: MPI.Intracomm | None) -> bool:
    """Tell whether a member has only felt that another one failed."""
    if comm is not None and not execution.is_stopped and communicators.is_revoked(comm):
        return execution.wait_for_stop(_WORD)
    return execution.is_stopped


def _failure(rank: Rank, execution: Execution, error: BaseException) -> MPITaskError:
    """Make the error that names rank and host."""
    host = socket.gethostname()
    cause = traceback.format_exception_only(type(error), error)[-1].strip()
    text = f"{execution.key[0]} failed on rank {rank.number} on {host}: {cause}"
    trace = _of_the_user(error.__traceback__)
    lines = traceback.format_exception(type(error), error, trace)
    why = f"{text}\n{''.join(lines)}"
    # Names of files may hold what can't be sent.
    execution.why = why.encode(errors="backslashreplace").decode()
    if not _can_be_pickled(trace):  # too deep: distributed would send nothing at all
        trace = None
    failure = MPITaskError(text, rank=rank.number, host=host).with_traceback(trace)
    if _can_be_pickled(error):
        failure.__cause__ = error.with_traceback(trace)
    return failure


def _of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of this module."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _can_be_pickled(thing: BaseException | TracebackType | None) -> bool:
    try:
        cloudpickle.loads(cloudpickle.dumps(thing))
    except Exception:
        return False
    return True
