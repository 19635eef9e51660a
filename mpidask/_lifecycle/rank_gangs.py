"""Functions that several ranks run at once: one rank's part."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from mpidask._dask.server_options import has_workers_in_ranks
from mpidask._gang import jobs
from mpidask._lifecycle.roles import Roles
from mpidask._log import logger
from mpidask._mpi import job_exit
from mpidask._mpi.communicator import Communicator
from mpidask._mpi.polling import poll
from mpidask._options import Options

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._dask.connection_info import ConnectionInfo
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

    def __init__(self, comm: Communicator, roles: Roles, options: Options) -> None:
        self._comm = comm
        self._options = options
        self._job = job_of(roles, options)
        self._rank: Rank | None = None
        self._ending = False

    def serve(self, scheduler: Scheduler) -> None:
        """Let a scheduler of this rank manage gangs."""
        from mpidask._gang.scheduler_plugin import GangPlugin

        grace, timeout = self._options.mpi_task_grace, self._options.startup_timeout
        scheduler.add_plugin(GangPlugin(scheduler, self._job, grace, timeout, self._abort))

    def options_of_worker(self, options: Options, cluster: ConnectionInfo) -> Options:
        """Let the worker of this rank be known as such, and take part."""
        from mpidask._gang import rank, worker_plugin

        jobs.remember(cluster.address, self._job)
        if self._job.problem:
            return options
        self._rank = rank.Rank(self._comm.mpi, options.mpi_task_grace, self._abort)
        rank.serve(self._rank)
        added = worker_plugin.arguments(self._rank, options.worker_options)
        return dataclasses.replace(options, worker_options={**options.worker_options, **added})

    async def stop(self) -> bool:
        """End what this rank takes part in; tell whether it has ended within the grace."""
        from mpidask._gang import rank

        self._ending = True
        ours = self._rank
        if ours is None:
            return True
        ours.stand_down()
        grace = min(self._options.mpi_task_grace, self._options.shutdown_timeout / 2)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(lambda: ours.is_vacant), grace)
        rank.serve(None)
        return ours.is_vacant

    def _abort(self, reason: str) -> None:
        """End the job, unless the cluster ends anyway."""
        if not self._ending:
            logger.error("ending the job: %s", reason.rstrip())
            job_exit.abort_at_exit(1, at_once=True)
