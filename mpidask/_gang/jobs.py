"""What is known of the MPI job behind a cluster: the ranks that gangs can have."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError

if TYPE_CHECKING:
    from distributed import Client, Scheduler

#: Name of the scheduler's plugin.
PLUGIN = "mpidask-gangs"


@dataclass(frozen=True)
class Job:
    """The ranks that gangs can have.

    Attributes
    ----------
    ranks : tuple of int
        Those that host a worker; (0,) without an MPI job.
    is_mpi : bool
        Whether there is an MPI job: without one, any worker is rank 0.
    problem : str
        Why there can't be gangs, if so.
    """

    ranks: tuple[int, ...]
    is_mpi: bool = True
    problem: str = ""


#: A cluster that is no MPI job of ours.
ALONE = Job((0,), is_mpi=False)

#: That of the cluster that this process is a part of, by the scheduler's address.
_own: dict[str, Job] = {}
#: Those that clients from outside have asked for.
_asked: weakref.WeakKeyDictionary[Client, Job] = weakref.WeakKeyDictionary()


def remember(address: str, job: Job) -> None:
    """Take note of the job of a cluster, for clients in this process."""
    _own[address] = job


def forget() -> None:
    """Forget it: the cluster has ended, and another may come to have its address."""
    _own.clear()


def job_of(client: Client) -> Job:
    """Give the job behind a client's cluster.

    Raises
    ------
    MPIDaskError
        If it is not known, and an asynchronous client can't ask here.
    """
    address = getattr(client.scheduler, "address", "")
    job = _own.get(address) or _asked.get(client) or _ask(client)
    if job.problem:
        raise MPIDaskError(f"no function can run on the ranks of this cluster: {job.problem}")
    return job


def _ask(client: Client) -> Job:
    if client.asynchronous:
        if client.cluster is not None:
            return ALONE
        raise MPIDaskError(
            "an asynchronous client of another process can't ask for the ranks of the job: "
            "use a synchronous one for submit_mpi"
        )
    job: Job = client.run_on_scheduler(_job_of_scheduler)
    _asked[client] = job
    return job


def _job_of_scheduler(dask_scheduler: Scheduler) -> Job:
    plugin: Any = dask_scheduler.plugins.get(PLUGIN)
    return ALONE if plugin is None else plugin.job
