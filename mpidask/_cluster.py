"""Choose and open the cluster that a program asked for: of MPI ranks, or a local one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpidask import _usage
from mpidask._agreement import Cluster
from mpidask._errors import MPIDaskError
from mpidask._local import local_cluster
from mpidask._log import speaking
from mpidask._mpi import MPICluster
from mpidask._options import Options
from mpidask._roles import Roles, assign_roles
from mpidask._signals import Interrupt, handled
from mpidask._world import communicator

if TYPE_CHECKING:
    from mpi4py import MPI

Block = contextlib.AbstractContextManager["Cluster | None"]


@contextlib.contextmanager
def prepared(given: Mapping[str, Any], interrupt: Interrupt) -> Iterator[tuple[Block, Options]]:
    """Check the options, and set this process up for the time of a cluster.

    Gives the block that starts the cluster, not entered yet.

    Raises
    ------
    TypeError, ValueError, MPIDaskError
        On one rank; the others raise `SystemExit`, so that the error is seen once.
    """
    _usage.check()
    comm = communicator(given.get("comm") if hasattr(given.get("comm"), "Idup") else None)
    try:
        options = Options.resolve(given)
        roles = None if comm is None else _roles(comm.Get_size(), options)
    except (TypeError, ValueError, MPIDaskError):
        if comm is not None and comm.Get_rank() != _speaker(comm, given):
            raise SystemExit(1) from None
        raise
    block: Block
    if comm is None or roles is None:
        block, is_client = local_cluster(options, interrupt), True
    else:
        block, is_client = (
            MPICluster(comm, options, roles, interrupt),
            roles.client == comm.Get_rank(),
        )
    with speaking(), handled(interrupt, defer_to_user=is_client):
        yield block, options


def _roles(size: int, options: Options) -> Roles:
    roles = assign_roles(
        size,
        scheduler_rank=options.scheduler_rank,
        client_rank=options.client_rank,
        exclusive_workers=options.exclusive_workers,
    )
    wanted = options.wait_for_workers
    if wanted is not True and wanted > len(roles.workers):
        raise ValueError(
            f"option wait_for_workers={wanted} is more than the {len(roles.workers)} "
            "workers of this job"
        )
    return roles


def _speaker(comm: MPI.Intracomm, given: Mapping[str, Any]) -> int:
    """Give the rank that shows an error which all ranks have: the client's, if it exists."""
    wanted = given.get("client_rank", 1)
    return wanted if isinstance(wanted, int) and 0 <= wanted < comm.Get_size() else 0
