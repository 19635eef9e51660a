"""Gangs that are ready start when their ranks are free, or fail if those can't be had."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from mpidask._errors import MPITaskError, name_ranks
from mpidask._gang import scheduler_state as tasks
from mpidask._gang.jobs import Job
from mpidask._gang.records import Gang, Member, Registry, Run
from mpidask._gang.schedule import Request, startable

if TYPE_CHECKING:
    from distributed import Scheduler


class Starter:
    """Knows the ranks and their workers, and lets gangs start there.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    gangs : Registry
    job : Job
    grace : float
        Seconds that a gang waits for a rank whose worker is gone.
    startup_timeout : float
        Seconds that it waits for one whose worker never came.
    """

    def __init__(
        self, scheduler: Scheduler, gangs: Registry, job: Job, grace: float, startup_timeout: float
    ) -> None:
        self._scheduler = scheduler
        self._gangs = gangs
        self._job = job
        self._grace = grace
        self._numbers = itertools.count()
        self._workers: dict[int, str] = {}
        self._gone_at = dict.fromkeys(job.ranks, time.monotonic() + startup_timeout - grace)

    def add(self, rank: int, worker: str) -> None:
        """Take note of the worker of a rank."""
        self._workers[rank] = worker
        self._gone_at.pop(rank, None)

    def remove(self, worker: str) -> None:
        """Take note that a worker is gone."""
        for rank, address in list(self._workers.items()):
            if address == worker:
                del self._workers[rank]
                self._gone_at[rank] = time.monotonic()

    def start_gangs(self) -> None:
        """Let all gangs start that may; fail those that never will."""
        if not self._gangs.ready:
            return
        running = {worker.address for worker in self._scheduler.running}
        up = {rank: worker for rank, worker in self._workers.items() if worker in running}
        in_order = sorted(self._gangs.ready, key=lambda gang: gang.number)
        busy = self._gangs.busy(self._workers)
        for name, ranks in startable(map(self._request, in_order), up, busy):
            self._start(self._gangs.named(name), ranks, [up[rank] for rank in ranks])
        self._fail_hopeless()

    def _request(self, gang: Gang) -> Request:
        homes = {}
        if gang.ranks is None:
            ranks = {worker: rank for rank, worker in self._workers.items()}
            homes = tasks.homes(self._scheduler, gang.keys, ranks)
        return Request(gang.name, len(gang.keys), gang.ranks, homes, self._unfit(gang))

    def _unfit(self, gang: Gang) -> set[int]:
        """Give the ranks whose workers don't offer the resources that a gang asks for."""
        asked = tasks.resources_asked(self._scheduler, gang.keys[0])
        workers = self._workers.items() if asked else ()
        return {rank for rank, at in workers if not tasks.offers(self._scheduler, at, asked)}

    def _start(self, gang: Gang, ranks: tuple[int, ...], workers: list[str]) -> None:
        del self._gangs.ready[gang]
        gang.run = Run(next(self._numbers), ranks, [Member(worker) for worker in workers])
        self._gangs.running[gang] = None
        tasks.share_retries(self._scheduler, gang.keys)
        tasks.release(self._scheduler, dict(zip(gang.keys, workers, strict=True)))

    def _fail_hopeless(self) -> None:
        limit = time.monotonic() - self._grace
        lost = {rank for rank, since in self._gone_at.items() if since < limit}
        for gang in list(self._gangs.ready):
            if why := self._why_not(gang, lost):
                error = MPITaskError(f"{gang.name} can't run: {why}")
                tasks.fail(self._scheduler, gang.keys, error=error)

    def _why_not(self, gang: Gang, lost: set[int]) -> str:
        """Say why a gang never starts, if it doesn't."""
        unfit = self._unfit(gang)
        if not (lost or unfit):
            return ""
        ranks = set(gang.ranks or self._job.ranks)
        missing, unfit = ranks & lost, ranks & unfit
        if len(ranks - missing - unfit) >= len(gang.keys):
            return ""
        reasons = []
        if missing:
            time_out = f"for {self._grace:g} s now (mpi_task_grace)"
            reasons.append(f"no worker on {name_ranks(missing)}, {time_out}")
        if unfit:
            asked = tasks.resources_asked(self._scheduler, gang.keys[0])
            reasons.append(f"its resources {asked} are not to be had on {name_ranks(unfit)}")
        return "; ".join(reasons)
