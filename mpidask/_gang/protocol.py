"""What client, scheduler and workers of gangs agree on: names, and the ranks there are."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidask._dask.worker_class import has_workers_in_ranks
from mpidask._errors import MPIDaskError

if TYPE_CHECKING:
    from distributed import Client, Scheduler

    from mpidask._options import Options

#: The name of the plugins of scheduler and workers.
PLUGIN = "mpidask-gangs"
#: The annotation by which the scheduler recognizes the tasks of a gang.
ANNOTATION = "mpidask"
#: Tasks wait in the scheduler because they are restricted to this host, which does not exist.
UNKNOWN_HOST = "mpidask-waits-for-its-ranks"
#: The name under which a worker gives its rank when it registers.
RANK = "mpidask-rank"
#: Messages from workers to the scheduler.
ARRIVED, FAILED, LEFT = "mpidask-arrived", "mpidask-failed", "mpidask-left"
#: Messages from the scheduler to workers.
START, STOP = "mpidask-start", "mpidask-stop"


@dataclass(frozen=True)
class WorkerRanks:
    """The ranks of a job that host a worker, and can be in a gang."""

    ranks: tuple[int, ...]
    #: Whether there is an MPI job: without one, any worker is rank 0.
    is_mpi: bool = True
    #: Why there can't be gangs; empty if there can.
    problem: str = ""


NO_MPI_JOB = WorkerRanks((0,), is_mpi=False)

#: Those of the cluster that this process is a part of, by the scheduler's address.
_own: dict[str, WorkerRanks] = {}
#: Those of clusters that clients in this process have asked.
_asked: weakref.WeakKeyDictionary[Client, WorkerRanks] = weakref.WeakKeyDictionary()


def worker_ranks(ranks: Sequence[int], options: Options) -> WorkerRanks:
    """Return the ranks that can be in a gang, of those that host a worker with these options."""
    problem = ""
    if not has_workers_in_ranks(options):
        problem = (
            "its workers are child processes of nannies, which MPI does not know: leave out "
            "nanny=True, or the worker_class"
        )
    return WorkerRanks(tuple(ranks), problem=problem)


def remember(address: str, ranks: WorkerRanks) -> None:
    """Record the ranks of the cluster at an address, for clients in this process."""
    _own[address] = ranks


def forget() -> None:
    """Undo `remember` when the cluster ends: another one may get its address."""
    _own.clear()


def ranks_of(client: Client) -> WorkerRanks:
    """Return the ranks of a client's cluster; raise `MPIDaskError` if they can't be in gangs."""
    ranks = find_ranks(client)
    if ranks.problem:
        raise MPIDaskError(f"no function can run on the ranks of this cluster: {ranks.problem}")
    return ranks


def find_ranks(client: Client) -> WorkerRanks:
    """Return the ranks of a client's cluster, whether or not they can be in gangs.

    Raise `MPIDaskError` if they are unknown, and an asynchronous client can't ask.
    """
    address = getattr(client.scheduler, "address", "")
    return _own.get(address) or _asked.get(client) or _ask(client)


def _ask(client: Client) -> WorkerRanks:
    if client.asynchronous:
        if client.cluster is not None:
            return NO_MPI_JOB
        raise MPIDaskError(
            "an asynchronous client of another process can't ask for the ranks of the job: "
            "use a synchronous one for submit_mpi"
        )
    ranks: WorkerRanks = client.run_on_scheduler(_ranks_of_scheduler)
    _asked[client] = ranks
    return ranks


def _ranks_of_scheduler(dask_scheduler: Scheduler) -> WorkerRanks:
    plugin: Any = dask_scheduler.plugins.get(PLUGIN)
    return NO_MPI_JOB if plugin is None else plugin.ranks
