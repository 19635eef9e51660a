"""The exceptions of mpidask.

::

    RuntimeError
    └── MPIDaskError                a cluster was used in a way that can't work
        ├── MPITaskError            a function that several ranks ran has failed on one
        ├── NotEnoughRanksError     the job has too few ranks for what is asked for
        ├── SchedulerFileError      a scheduler file is missing, broken or not safe
        └── StartupError            a rank could not start its part, or never came

Options are checked before anything starts: a wrong name or type is a
`TypeError`, a wrong value a `ValueError`.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Iterable
from types import TracebackType


class MPIDaskError(RuntimeError):
    """Base class of all errors of mpidask, except those for wrong options."""


class NotEnoughRanksError(MPIDaskError):
    """The communicator has too few ranks: for a cluster, or for a function to run on several."""


class MPITaskError(MPIDaskError):
    """A function of `submit_mpi` failed on one of its ranks, and so on all.

    Its ``__cause__`` is what the function raised, if that could be pickled.

    Parameters
    ----------
    message : str
        What happened, with rank, host and cause.
    rank : int, optional
        The rank of the job that failed, if it was one.
    host : str, optional
        The host of that rank.
    """

    def __init__(self, message: str, *, rank: int | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        self.host = host


class SchedulerFileError(MPIDaskError):
    """A scheduler file is missing, broken, open to others, or can't be read or written.

    Parameters
    ----------
    message : str
        What is wrong, with the file's name.
    may_pass : bool
        Whether it may be right later: the cluster may not have written the file yet.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class StartupError(MPIDaskError):
    """The cluster did not come up.

    Raised on one rank: the client's, if it is there. The others leave with exit status 1.

    Parameters
    ----------
    message : str
        What happened, with rank, host and cause.
    rank : int, optional
        The rank that failed, if it was one.
    host : str, optional
        The host of that rank.
    """

    def __init__(self, message: str, *, rank: int | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        self.host = host


for _error in (
    MPIDaskError,
    MPITaskError,
    NotEnoughRanksError,
    SchedulerFileError,
    StartupError,
):
    _error.__module__ = __package__  # where users import them from


class without_internal_frames:  # noqa: N801 (a function to its users)
    """Show errors of use or of the start without the frames of ours they came through.

    What they came through beyond those, code of the user's or of other packages, is shown. A
    frame can't leave itself out of a traceback, so what shows the error leaves ours out:
    Python's hook here; IPython and pytest pass over frames with ``__tracebackhide__``.
    (A class, because `contextlib.contextmanager` restores the traceback.)
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        __tracebackhide__ = True
        if isinstance(error, (MPIDaskError, TypeError, ValueError)):
            _show_in_brief()
            raise error.with_traceback(_beyond_our_frames(error.__traceback__))


@functools.cache
def _show_in_brief() -> None:
    """Set a hook, once for all errors; it knows them by a frame of `without_internal_frames`."""
    show, mark = sys.excepthook, without_internal_frames.__exit__.__code__

    def show_in_brief(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if any(frame.f_code is mark for frame, _ in traceback.walk_tb(trace)):
            error.__traceback__ = trace = _without_our_frames(trace)
            if isinstance(error, MPIDaskError):
                error.__cause__ = None  # its message says it
        show(kind, error, trace)

    sys.excepthook = show_in_brief


def _beyond_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """Give the part of a traceback that comes after the last frame of ours."""
    beyond = trace
    while trace is not None:
        is_ours, trace = _is_ours(trace), trace.tb_next
        if is_ours:
            beyond = trace
    return beyond


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    if trace is None:
        return None
    trace.tb_next = _without_our_frames(trace.tb_next)
    return trace.tb_next if _is_ours(trace) else trace


def _is_ours(trace: TracebackType) -> bool:
    ours = os.path.dirname(__file__) + os.sep
    return trace.tb_frame.f_code.co_filename.startswith(ours)


def name_ranks(ranks: Iterable[int]) -> str:
    """Name ranks in a message, the first 20 of many."""
    listed = sorted(ranks)
    shown = ", ".join(map(str, listed[:20])) + (", ..." if len(listed) > 20 else "")
    return f"rank{'s' if len(listed) != 1 else ''} {shown}"
