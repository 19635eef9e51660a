"""Functions that several ranks run at once: one rank's part."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._dask.worker import has_workers_in_ranks
from mpidask._gang import jobs
from mpidask._lifecycle.roles import Roles
from mpidask._mpi.communicator import Communicator
from mpidask._options import Options
from mpidask._waiting import poll

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._dask.cluster import Cluster
    from mpidask._gang.rank import Rank


def job_of(roles: Roles, options: Options) -> jobs.Job:
    """Give the ranks that can run functions together, or say why none can."""
    problem = ""
    if not has_workers_in_ranks(options):
        problem = (
            "its workers are child processes of nannies, which MPI does not know: leave out "
            "nanny=True, or the worker_class"
        )
    return jobs.Job(roles.workers, problem=problem)


class RankGangs:
    """Lets the worker of this rank, or the scheduler on it, take part in gangs."""

    def __init__(
        self, comm: Communicator, roles: Roles, options: Options, end_job: Callable[[str], None]
    ) -> None:
        self._comm = comm
        self._options = options
        self._job = job_of(roles, options)
        self._rank: Rank | None = None
        self._end_job = end_job

    def serve(self, scheduler: Scheduler) -> None:
        """Let a scheduler of this rank manage gangs."""
        from mpidask._gang.scheduler_plugin import GangPlugin

        grace, timeout = self._options.mpi_task_grace, self._options.startup_timeout
        scheduler.add_plugin(GangPlugin(scheduler, self._job, grace, timeout, self._end_job))

    def worker_options(self, cluster: Cluster) -> Mapping[str, Any]:
        """Let the worker of this rank take part; return the arguments for its class."""
        from mpidask._gang import rank, worker_plugin

        jobs.remember(cluster.address, self._job)
        given = self._options.worker_options
        if self._job.problem:
            return given
        self._rank = rank.Rank(self._comm.mpi, self._options.mpi_task_grace, self._end_job)
        rank.serve(self._rank)
        return {**given, **worker_plugin.arguments(self._rank, given)}

    async def stop(self) -> bool:
        """End what this rank takes part in; tell whether it has ended within the grace."""
        from mpidask._gang import rank

        ours = self._rank
        if ours is None:
            return True
        ours.stand_down()
        grace = min(self._options.mpi_task_grace, self._options.shutdown_timeout / 2)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(lambda: ours.is_vacant), grace)
        rank.serve(None)
        return ours.is_vacant
