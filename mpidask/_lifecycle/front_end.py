"""What front ends share: they choose the cluster, of MPI ranks or local, and open it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mpidask._dask.spawn import check_main_guard
from mpidask._errors import MPIDaskError
from mpidask._lifecycle import single_use
from mpidask._lifecycle.gathering import Gathering, refuse
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
from mpidask._lifecycle.transport_plan import possible_transport
from mpidask._log import logger, logging_to_stderr, printing_line_by_line
from mpidask._mpi import freed, leftovers
from mpidask._mpi.deadline import Deadline
from mpidask._mpi.launcher import communicator, require_threads
from mpidask._mpi.launcher import rank as launcher_rank
from mpidask._options import Options

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")

#: Seconds to wait for the other ranks where the options are wrong: to say so once.
_GATHERING_TIMEOUT = 60.0
#: Seconds until a rank that waits for others to tell them of an error says it by itself.
_FIRST_WORD = 10

#: Marks an exception as what this rank has against a start.
_OBJECTION = "_is_mpidask_objection"

Block = contextlib.AbstractContextManager["ConnectionInfo | None"]


@dataclass(frozen=True)
class FrontEnd:
    """What one way in to mpidask makes of the ranks.

    Attributes
    ----------
    assign : callable
        Gives every rank its role.
    local : bool
        Whether a LocalCluster serves where there is no MPI job.
    reporting_rank : str
        The option that names the rank to show an error all ranks have.
    error_status : int
        The status with which the other ranks leave then.
    defaults : mapping
        Defaults of this front end that differ from those declared.
    """

    assign: Callable[[int, Options], Roles]
    local: bool = False
    reporting_rank: str = "client_rank"
    error_status: int = 1
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _roles_of_program(size: int, options: Options) -> Roles:
    return assign_roles(
        size,
        scheduler_rank=options.scheduler_rank,
        client_rank=options.client_rank,
        exclusive_workers=options.exclusive_workers,
    )


def _roles_of_command(size: int, options: Options) -> Roles:
    return assign_command_roles(
        size,
        scheduler_rank=options.scheduler_rank,
        exclusive_workers=options.exclusive_workers,
    )


def _roles_of_join(size: int, options: Options) -> Roles:
    if (options.scheduler_file is None) == (options.address is None):
        raise ValueError("say which cluster to join: a scheduler file, or an address")
    return assign_joining_roles(size)


#: A program: one rank runs a function of the user's.
PROGRAM = FrontEnd(_roles_of_program, local=True)
#: The command: clients come from outside, by a plain ``Client(scheduler_file=...)``.
COMMAND = FrontEnd(
    _roles_of_command, reporting_rank="", error_status=2, defaults={"security": False}
)
#: More workers for a cluster that runs elsewhere.
JOIN = FrontEnd(_roles_of_join, reporting_rank="", defaults={"security": False})


@contextlib.contextmanager
def prepared(
    given: Mapping[str, Any], interrupt: Interrupt, front_end: FrontEnd = PROGRAM
) -> Iterator[tuple[Block, Options]]:
    """Check the options, and set this process up for the time of a cluster.

    Gives the block that starts the cluster, not entered yet.

    Raises
    ------
    TypeError, ValueError, MPIDaskError
        On one rank; the others raise `SystemExit`, so that the error is seen once.
    """
    check_main_guard()
    single_use.check()
    with logging_to_stderr(), handled(interrupt, defer_to_user=True):
        block, options, runs_program = _choose(given, interrupt, front_end)
        with contextlib.ExitStack() as stack:
            if isinstance(block, MPICluster):
                stack.enter_context(printing_line_by_line(restore=not options.exit))
                if options.exit and not runs_program:
                    leftovers.allow_leaving_behind()
            stack.enter_context(handled(interrupt, defer_to_user=runs_program))
            stack.enter_context(noticed_at_once(interrupt))
            yield block, options


def _choose(
    given: Mapping[str, Any], interrupt: Interrupt, front_end: FrontEnd
) -> tuple[Block, Options, bool]:
    """Give the block, the options, and whether this rank runs the user's function."""
    arrived = time.monotonic()
    comm = given.get("comm")
    if not hasattr(comm, "Idup"):
        comm = None
    elif not comm:  # COMM_NULL: this rank was left out
        _check_null(comm, front_end)
        return contextlib.nullcontext(), Options.resolve(given, front_end.defaults), True
    freed.remember(comm)
    options, objection = _attempt(Options.resolve, given, front_end.defaults)
    deadline = Deadline(options.startup_timeout if options else _GATHERING_TIMEOUT, since=arrived)
    with fatal_at_once(interrupt):
        comm = communicator(deadline, comm, alone=not front_end.local)
    if comm is None:
        return _without_mpi(options, objection, interrupt, front_end)
    settled = None
    if options is not None:
        settled, objection = _attempt(_settled, comm.Get_size(), options, front_end)
    roles = settled[0] if settled else None
    reporter = roles.leader if roles else _reporting_rank(comm, given, front_end)
    gathering = Gathering(
        comm, deadline, interrupt, reporter, roles, options, objection, front_end.error_status
    )
    if settled is None:
        refuse(gathering)
    roles, options = settled
    return MPICluster(gathering, options, roles), options, roles.client == comm.Get_rank()


def _without_mpi(
    options: Options | None, objection: Exception | None, interrupt: Interrupt, front_end: FrontEnd
) -> tuple[Block, Options, bool]:
    if objection is None and not front_end.local:
        objection = MPIDaskError("this needs MPI, and mpi4py can't be used here")
    if objection is not None or options is None:
        raise objection or AssertionError
    return local_cluster(options, interrupt), replace(options, transport="socket"), True


def _check_null(comm: Any, front_end: FrontEnd) -> None:
    rank = freed.rank_in_freed(comm)
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
    """Call, and return what is wrong with the options, which the ranks have to agree on."""
    try:
        return function(*args), None
    except (TypeError, ValueError, MPIDaskError) as error:
        setattr(error, _OBJECTION, True)
        return None, error


def is_of_use(error: Exception) -> bool:
    """Tell whether an error is one of use, such as a wrong option, and not one of ours."""
    return isinstance(error, MPIDaskError) or hasattr(error, _OBJECTION)


def _settled(size: int, options: Options, front_end: FrontEnd) -> tuple[Roles, Options]:
    """Check what can be checked when MPI is up; give the roles, and options that fit them."""
    require_threads()
    _check_thread(options)
    roles = front_end.assign(size, options)
    _check_wait(roles, options)
    return roles, replace(options, transport=possible_transport(options, roles))


def serve(given: Mapping[str, Any], front_end: FrontEnd) -> None:
    """Run a cluster, or a part of one, that has no function of the user's.

    Blocks until it is over: by a signal, by the shutdown of the scheduler, or because no
    worker is left. Then all ranks leave (``exit=True``), or go on with the program.
    """
    interrupt = Interrupt()
    with prepared(given, interrupt, front_end) as (block, options), block:
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
    """Raise an error on one rank, for errors before the cluster is asked for.

    It may be one of this rank alone: the others hear of it when they ask for the cluster.
    """
    comm, deadline = given.get("comm"), Deadline(_GATHERING_TIMEOUT)
    if hasattr(comm, "Idup") and not comm:
        raise error
    with logging_to_stderr():
        with contextlib.suppress(MPIDaskError), _said_before(deadline, error):
            comm = communicator(deadline, comm if hasattr(comm, "Idup") else None)
        if comm is None:
            raise error
        reporter = _reporting_rank(comm, given, front_end)
        status = front_end.error_status
        refuse(Gathering(comm, deadline, Interrupt(), reporter, None, None, error, status))


@contextlib.contextmanager
def _said_before(deadline: Deadline, error: Exception) -> Iterator[None]:
    """Say what is wrong on this rank if others, which may not know of it, don't come soon."""
    rank, kind = launcher_rank(), type(error).__name__
    place = f"rank {rank} on {socket.gethostname()}"
    said = f"{place} waits for other ranks to end the job: {kind}: {error}"
    # One after the other: if it is wrong everywhere, the rank that comes last ends the wait.
    timer = threading.Timer(min(_FIRST_WORD + rank, 0.9 * deadline.left), logger.error, [said])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _reporting_rank(comm: MPI.Intracomm, given: Mapping[str, Any], front_end: FrontEnd) -> int:
    """Give the rank that shows an error which all ranks have, if there is such a rank."""
    wanted = given.get(front_end.reporting_rank, 1 if front_end.local else 0)
    return wanted if isinstance(wanted, int) and 0 <= wanted < comm.Get_size() else 0
