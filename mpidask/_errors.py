"""The exceptions of mpidask.

::

    RuntimeError
    └── MPIDaskError                the cluster can't be used in this way
        ├── MPITaskError            a function of submit_mpi failed on one of its ranks
        ├── NotEnoughRanksError     the job has too few ranks for the request
        ├── SchedulerFileError      a scheduler file is missing, broken or unsafe
        └── StartupError            a rank failed to start its part, or never arrived

Options are checked before anything starts: a wrong name or type is a
`TypeError`, a wrong value a `ValueError`.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Container
from types import TracebackType


class MPIDaskError(RuntimeError):
    """Base class of all errors of mpidask, except those for wrong options.

    Examples
    --------
    >>> from mpidask import MPIDaskError, mpi_dask
    >>> with mpi_dask(dashboard=False):
    ...     try:
    ...         with mpi_dask():
    ...             pass
    ...     except MPIDaskError as error:
    ...         print(error)
    this program runs inside an mpidask cluster already: clusters can't be nested
    """


class NotEnoughRanksError(MPIDaskError):
    """The communicator has too few ranks: for a cluster, or for a function to run on several.

    Examples
    --------
    >>> from mpidask import NotEnoughRanksError, mpi_dask, submit_mpi
    >>> with mpi_dask(dashboard=False):
    ...     try:
    ...         submit_mpi(print, ranks=2)
    ...     except NotEnoughRanksError as error:
    ...         print(error)
    asked for 2 ranks, but this cluster has only one: it is not an MPI job
    """


class _RankError(MPIDaskError):
    """An error with the rank and host that caused it, if it was one rank."""

    def __init__(self, message: str, *, rank: int | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        self.host = host


class MPITaskError(_RankError):
    """A function of `submit_mpi` failed on one of its ranks, and so on all.

    Its ``__cause__`` is the exception that the function raised, if that could be pickled.

    Attributes
    ----------
    rank : int or None
        The rank that failed, if it was one; a rank of the job, not of the function's ``comm``.
    host : str or None
        The host of that rank.

    Examples
    --------
    In an MPI job, where rank 2 hosts a worker:

    >>> from mpidask import mpi_dask, submit_mpi
    >>> def fail(comm):
    ...     raise OSError("no disk")
    >>> with mpi_dask() as client:                      # doctest: +SKIP
    ...     error = submit_mpi(fail, ranks=[2])[0].exception()
    ...     print(f"rank {error.rank} on {error.host}: {error.__cause__}")
    rank 2 on node1: no disk
    """


class SchedulerFileError(MPIDaskError):
    """A scheduler file is missing, broken, open to others, or can't be read or written.

    Attributes
    ----------
    may_pass : bool
        Whether the problem may be temporary: the cluster may not have written the file yet.

    Examples
    --------
    >>> from mpidask import SchedulerFileError, connection
    >>> try:
    ...     connection("nonesuch.json")
    ... except SchedulerFileError as error:
    ...     print(error, error.may_pass, sep=": ")
    there is no scheduler file nonesuch.json: True
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class StartupError(_RankError):
    """The cluster did not start.

    Raised on one rank: the client's, if it has arrived. The others leave with exit status 1.

    Attributes
    ----------
    rank : int or None
        The rank of the job that failed, or did not arrive, if it was one.
    host : str or None
        The host of that rank, if it is known.

    Examples
    --------
    In an MPI job:

    >>> from mpidask import StartupError, mpi_dask
    >>> try:                                            # doctest: +SKIP
    ...     with mpi_dask(scheduler_file="/nonesuch/scheduler.json") as client:
    ...         ...
    ... except StartupError as error:
    ...     print(f"rank {error.rank} on {error.host} failed")
    rank 0 on node1 failed
    """


for _error in (
    MPIDaskError,
    MPITaskError,
    NotEnoughRanksError,
    SchedulerFileError,
    StartupError,
):
    _error.__module__ = __package__  # where users import them from


class without_internal_frames:  # noqa: N801 (a function to its users)
    """Leave mpidask's own frames out of the tracebacks of usage and startup errors.

    Frames of the user's and of other packages are shown. A frame can't remove itself from a
    traceback, so whatever prints the traceback has to: `sys.excepthook` does it here, and IPython
    and pytest skip frames with ``__tracebackhide__``.
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
    """Install an excepthook for errors that have passed through `without_internal_frames`."""
    show, mark = sys.excepthook, without_internal_frames.__exit__.__code__

    def show_in_brief(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if any(frame.f_code is mark for frame, _ in traceback.walk_tb(trace)):
            error.__traceback__ = trace = _without_our_frames(trace)
            if isinstance(error, MPIDaskError):
                error.__cause__ = None  # its message includes that
        show(kind, error, trace)

    sys.excepthook = show_in_brief


def trace_beyond(trace: TracebackType | None, files: Container[str]) -> TracebackType | None:
    """Return a traceback without its first frames, as far as they are in certain files."""
    while trace is not None and trace.tb_frame.f_code.co_filename in files:
        trace = trace.tb_next
    return trace


def _beyond_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback after mpidask's last frame."""
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
