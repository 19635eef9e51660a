"""What front ends share: check the options, then start a cluster of MPI ranks or a local one."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from mpidask._dask.spawn import check_main_guard
from mpidask._errors import MPIDaskError
from mpidask._lifecycle import single_use
from mpidask._lifecycle.handshake import Handshake, refuse
from mpidask._lifecycle.local_cluster import local_cluster
from mpidask._lifecycle.messages import ConnectionInfo
from mpidask._lifecycle.mpi_cluster import MPICluster
from mpidask._lifecycle.roles import (
    Roles,
    assign_command_roles,
    assign_joining_roles,
    assign_roles,
)
from mpidask._lifecycle.signals import (
    Interrupt,
    fatal_at_once,
    handled,
    noticed_at_once,
    raise_as_python_would,
)
from mpidask._lifecycle.startup import possible_transport
from mpidask._log import logger, logging_to_stderr, printing_line_by_line
from mpidask._mpi import exit_blockers, initialize
from mpidask._mpi.initialize import communicator, require_threads
from mpidask._mpi.launcher import rank as launcher_rank
from mpidask._options import Options
from mpidask._text import describe, name_this_rank
from mpidask._waiting import FIRST_NOTICE, Deadline, WaitNotice

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")

#: Seconds to wait for the other ranks if this one has an error, so that one rank raises it for all.
_ERROR_TIMEOUT = 60.0

#: Attribute of exceptions that report a mistake in the use of mpidask.
_USAGE_ERROR = "_is_mpidask_usage_error"

Block = contextlib.AbstractContextManager["ConnectionInfo | None"]


@dataclass(frozen=True)
class FrontEnd:
    """One way to use mpidask: a program, the command, or joining a cluster."""

    assign: Callable[[int, Options], Roles]
    local: bool = False  # without an MPI job, a LocalCluster is used
    reporting_rank: str = "client_rank"  # option for the rank that raises an error all ranks have
    error_status: int = 1  # exit status of the other ranks in that case
    defaults: Mapping[str, Any] = field(default_factory=dict)  # that differ from those declared


#: A program: one rank runs a function of the user's.
PROGRAM = FrontEnd(assign_roles, local=True)
#: The command: clients come from outside, by a plain ``Client(scheduler_file=...)``.
COMMAND = FrontEnd(
    assign_command_roles, reporting_rank="", error_status=2, defaults={"security": False}
)
#: More workers for a cluster that runs elsewhere.
JOIN = FrontEnd(assign_joining_roles, reporting_rank="", defaults={"security": False})


class Prepared(NamedTuple):
    """A cluster that can be started."""

    block: Block  # starts the cluster when it is entered, and ends it
    options: Options
    direct: bool  # the client exchanges data with the workers, not through the scheduler


@contextlib.contextmanager
def prepared(
    given: Mapping[str, Any], interrupt: Interrupt, front_end: FrontEnd = PROGRAM
) -> Iterator[Prepared]:
    """Check the options, and set this process up for the time of a cluster.

    One rank raises an error; the others raise `SystemExit`, so that users see it once.
    """
    check_main_guard()
    single_use.check()
    with logging_to_stderr(), handled(interrupt, defer_to_user=True):
        chosen = _choose(given, interrupt, front_end)
        block, leaves = chosen.block, chosen.options.exit
        runs_program = not isinstance(block, MPICluster) or block.runs_program
        with contextlib.ExitStack() as stack:
            if isinstance(block, MPICluster):
                stack.enter_context(printing_line_by_line(restore=not leaves))
                if leaves and not runs_program:
                    exit_blockers.allow_interrupting_exit()
            stack.enter_context(handled(interrupt, defer_to_user=runs_program))
            stack.enter_context(noticed_at_once(interrupt))
            yield chosen


def _choose(given: Mapping[str, Any], interrupt: Interrupt, front_end: FrontEnd) -> Prepared:
    arrived = time.monotonic()
    comm = given.get("comm")
    if not hasattr(comm, "Idup"):
        comm = None
    elif not comm:  # COMM_NULL: this rank was left out
        _check_null(comm, front_end)
        unused = Options.resolve(given, front_end.defaults)
        return Prepared(contextlib.nullcontext(), unused, direct=False)
    initialize.remember(comm)
    options, error = _attempt(Options.resolve, given, front_end.defaults)
    deadline = Deadline(options.startup_timeout if options else _ERROR_TIMEOUT, since=arrived)
    with fatal_at_once(interrupt):
        comm = communicator(deadline, comm, alone=not front_end.local)
    if comm is None:
        return _without_mpi(options, error, interrupt, front_end)
    roles = None
    if options is not None:
        roles, error = _attempt(_assigned, comm.Get_size(), options, front_end)
    reporting = roles.leader if roles else _reporting_rank(comm, given, front_end)
    handshake = Handshake(
        comm, deadline, interrupt, reporting, roles, options, error, front_end.error_status
    )
    if options is None or roles is None:
        refuse(handshake)
    direct = possible_transport(options, roles) != "socket"
    return Prepared(MPICluster(handshake, options, roles), options, direct)


def _without_mpi(
    options: Options | None, error: Exception | None, interrupt: Interrupt, front_end: FrontEnd
) -> Prepared:
    if error is None and not front_end.local:
        error = MPIDaskError("this needs MPI, and mpi4py can't be used here")
    if error is not None or options is None:
        raise error or AssertionError
    return Prepared(local_cluster(options, interrupt), options, direct=False)


def _check_null(comm: Any, front_end: FrontEnd) -> None:
    rank = initialize.rank_in_freed(comm)
    if rank is None and launcher_rank() == 0:
        logger.info(
            "rank 0 takes no part in the cluster: its comm is COMM_NULL (left out, or freed)"
        )
    if rank == 0:
        raise ValueError("option comm was freed (it is COMM_NULL now): free it after its last use")
    if rank is not None:
        raise SystemExit(front_end.error_status)


def _attempt(
    function: Callable[..., Result], *args: Any
) -> tuple[Result, None] | tuple[None, Exception]:
    """Return the result, or the error, which the ranks have to agree on."""
    try:
        return function(*args), None
    except (TypeError, ValueError, MPIDaskError) as error:
        setattr(error, _USAGE_ERROR, True)
        return None, error


def is_usage_error(error: Exception) -> bool:
    """Whether an error reports wrong use of mpidask, such as a wrong option, and not a bug."""
    return isinstance(error, MPIDaskError) or hasattr(error, _USAGE_ERROR)


def _assigned(size: int, options: Options, front_end: FrontEnd) -> Roles:
    """Check what can be checked only once MPI is up, and return the roles."""
    require_threads()
    _check_thread(options)
    roles = front_end.assign(size, options)
    _check_wait(roles, options)
    return roles


def serve(given: Mapping[str, Any], front_end: FrontEnd) -> None:
    """Run a cluster, or workers of another one, without a function of the user's.

    Blocks until a signal arrives, the scheduler is shut down, or no worker is left. Then all
    ranks leave the program (``exit=True``), or go on with it.
    """
    interrupt = Interrupt()
    with prepared(given, interrupt, front_end) as (block, options, _), block:
        if isinstance(block, MPICluster) and block.leads:
            interrupt.act(raise_as_python_would)
            status = block.wait_until_over()
            interrupt.disarm()
            if status or options.exit:
                raise SystemExit(status)


def _check_thread(options: Options) -> None:
    if options.exit and threading.current_thread() is not threading.main_thread():
        raise MPIDaskError(
            "ranks can leave the program from their main thread only: call mpidask there, "
            "or give exit=False"
        )


def _check_wait(roles: Roles, options: Options) -> None:
    wanted = options.wait_for_workers
    if wanted is not True and wanted > len(roles.workers):
        raise ValueError(
            f"option wait_for_workers={wanted} is more than the {len(roles.workers)} "
            "workers of this job"
        )


def raise_once(
    error: Exception, given: Mapping[str, Any], front_end: FrontEnd = PROGRAM
) -> NoReturn:
    """Raise an error that was found before the cluster is started, on one of the ranks.

    It may concern this rank alone: the others learn of it when they start the cluster.
    """
    comm, deadline = given.get("comm"), Deadline(_ERROR_TIMEOUT)
    if hasattr(comm, "Idup") and not comm:
        raise error
    with logging_to_stderr():
        with contextlib.suppress(MPIDaskError), _error_notice(deadline, error):
            comm = communicator(deadline, comm if hasattr(comm, "Idup") else None)
        if comm is None:
            raise error
        reporting = _reporting_rank(comm, given, front_end)
        status = front_end.error_status
        refuse(Handshake(comm, deadline, Interrupt(), reporting, None, None, error, status))


def _error_notice(deadline: Deadline, error: Exception) -> WaitNotice:
    """Log an error of this rank if others, which may not have it, don't arrive soon."""
    rank = launcher_rank()
    text = f"{name_this_rank(rank)} waits for other ranks to end the job: {describe(error)}"
    # Staggered: if all ranks have the error, the last one to arrive ends the wait.
    first = min(FIRST_NOTICE + rank, 0.9 * deadline.left)
    return WaitNotice(lambda _: text, first=first, interval=math.inf, level=logging.ERROR)


def _reporting_rank(comm: MPI.Intracomm, given: Mapping[str, Any], front_end: FrontEnd) -> int:
    """Return the rank that raises an error which all ranks have."""
    wanted = given.get(front_end.reporting_rank, 1 if front_end.local else 0)
    return wanted if isinstance(wanted, int) and 0 <= wanted < comm.Get_size() else 0
