"""Choose and open the cluster that a program asked for: of MPI ranks, or a local one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpidask import _usage
from mpidask._agreement import Cluster
from mpidask._errors import MPIDaskError
from mpidask._local import local_cluster
from mpidask._log import speaking
from mpidask._mpi import MPICluster
from mpidask._options import Options
from mpidask._roles import Roles, assign_command_roles, assign_joining_roles, assign_roles
from mpidask._signals import Interrupt, handled, raise_as_python_would
from mpidask._world import communicator, require_threads

if TYPE_CHECKING:
    from mpi4py import MPI

Block = contextlib.AbstractContextManager["Cluster | None"]


@dataclass(frozen=True)
class Use:
    """What a front end uses the ranks for.

    Attributes
    ----------
    assign : callable
        Gives every rank its role.
    local : bool
        Whether a LocalCluster serves where there is no MPI job.
    speaker : str
        The option that names the rank to show an error all ranks have.
    error_status : int
        The status with which the other ranks leave then.
    defaults : mapping
        Defaults of this front end that differ from those declared.
    """

    assign: Callable[[int, Options], Roles]
    local: bool = False
    speaker: str = "client_rank"
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
PROGRAM = Use(_roles_of_program, local=True)
#: The command: clients come from outside, by a plain ``Client(scheduler_file=...)``.
COMMAND = Use(_roles_of_command, speaker="", error_status=2, defaults={"security": False})
#: More workers for a cluster that runs elsewhere.
JOIN = Use(_roles_of_join, speaker="", defaults={"security": False})


@contextlib.contextmanager
def prepared(
    given: Mapping[str, Any], interrupt: Interrupt, use: Use = PROGRAM
) -> Iterator[tuple[Block, Options]]:
    """Check the options, and set this process up for the time of a cluster.

    Gives the block that starts the cluster, not entered yet.

    Raises
    ------
    TypeError, ValueError, MPIDaskError
        On one rank; the others raise `SystemExit`, so that the error is seen once.
    """
    _usage.check()
    with handled(interrupt, defer_to_user=True):  # MPI starts, and Dask is imported
        block, options, runs_program = _choose(given, interrupt, use)
        with speaking(), handled(interrupt, defer_to_user=runs_program):
            yield block, options


def _choose(
    given: Mapping[str, Any], interrupt: Interrupt, use: Use
) -> tuple[Block, Options, bool]:
    """Give the block, the options, and whether this rank runs the user's function."""
    comm = given.get("comm")
    if hasattr(comm, "Idup") and not comm:  # COMM_NULL: this rank was left out
        return contextlib.nullcontext(), Options.resolve(given, use.defaults), True
    comm = communicator(comm if hasattr(comm, "Idup") else None, alone=not use.local)
    try:
        options = Options.resolve(given, use.defaults)
        roles = None
        if comm is not None:
            require_threads()
            _check_thread(options)
            roles = use.assign(comm.Get_size(), options)
            _check_wait(roles, options)
        elif not use.local:
            raise MPIDaskError("this needs MPI, and mpi4py can't be used here")
    except (TypeError, ValueError, MPIDaskError):
        if comm is not None and comm.Get_rank() != _speaker(comm, given, use):
            raise SystemExit(use.error_status) from None
        raise
    if comm is None or roles is None:
        return local_cluster(options, interrupt), options, True
    block = MPICluster(comm, options, roles, interrupt)
    return block, options, roles.client == comm.Get_rank()


def serve(given: Mapping[str, Any], use: Use) -> None:
    """Run a cluster, or a part of one, that has no function of the user's.

    Blocks until it is over: by a signal, by the shutdown of the scheduler, or because no
    worker is left. Then all ranks leave (``exit=True``), or go on with the program.
    """
    interrupt = Interrupt()
    with prepared(given, interrupt, use) as (block, options), block:
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


def _speaker(comm: MPI.Intracomm, given: Mapping[str, Any], use: Use) -> int:
    """Give the rank that shows an error which all ranks have, if there is such a rank."""
    wanted = given.get(use.speaker, 1 if use.local else 0)
    return wanted if isinstance(wanted, int) and 0 <= wanted < comm.Get_size() else 0
