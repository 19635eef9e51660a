"""The exceptions of mpidask.

::

    RuntimeError
    └── MPIDaskError                a cluster was used in a way that can't work
        ├── NotEnoughRanksError     the job has too few ranks for the roles asked for
        ├── SchedulerFileError      a scheduler file is missing, broken or not safe
        └── StartupError            a rank could not start its part, or never came

Options are checked before anything starts: a wrong name or type is a
`TypeError`, a wrong value a `ValueError`.
"""

from __future__ import annotations


class MPIDaskError(RuntimeError):
    """Base of all errors that mpidask raises, but for wrong options."""


class NotEnoughRanksError(MPIDaskError):
    """The communicator has too few ranks for a scheduler, a client and a worker."""


class SchedulerFileError(MPIDaskError):
    """A scheduler file is missing, can't be read, is broken, or shows its credentials.

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

    Raised on one rank: the client's, if it is there. The others leave with status 1.

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
