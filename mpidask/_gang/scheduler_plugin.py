"""The scheduler's side: what it hears of gangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from mpidask._gang import scheduler_state as tasks
from mpidask._gang.jobs import PLUGIN, Job
from mpidask._gang.rank import FAILED, HERE, LEFT, RANK
from mpidask._gang.records import Gang, Registry
from mpidask._gang.starter import Starter
from mpidask._gang.submit import ANNOTATION
from mpidask._gang.supervisor import Supervisor

if TYPE_CHECKING:
    from distributed import Scheduler

#: Seconds between looks at what nobody tells of, such as a worker that is paused.
_INTERVAL = 0.1


class GangPlugin(SchedulerPlugin):
    """Takes note of what clients, workers and tasks do, and looks after the gangs then.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    job : Job
    grace, startup_timeout : float
    abort : callable
        As for `Supervisor` and `Starter`.
    """

    name = PLUGIN

    def __init__(
        self,
        scheduler: Scheduler,
        job: Job,
        grace: float,
        startup_timeout: float,
        abort: Callable[[str], None],
    ) -> None:
        self.job = job
        self._scheduler = scheduler
        self._gangs = Registry()
        self._supervisor = Supervisor(scheduler, self._gangs, grace, abort)
        self._starter = Starter(scheduler, self._gangs, job, grace, startup_timeout)
        self._dirty: dict[Gang, None] = {}
        self._next_look: asyncio.Handle | None = None
        said: dict[str, Any] = {HERE: self._here, FAILED: self._failed, LEFT: self._left}
        scheduler.stream_handlers |= said
        tasks.call_before_release(scheduler, self._before_release)
        tasks.call_before_retry(scheduler, self._before_retry)

    # -- The scheduler, of clients and tasks. ----------------------------------------------

    def update_graph(self, scheduler: Scheduler, **kwargs: Any) -> None:
        """Take note of new gangs."""
        for gang in self._gangs.add(kwargs["annotations"].get(ANNOTATION, {}).values()):
            self._touch(gang)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Look at a gang of which a task has a new state."""
        if (gang := self._gangs.of(key)) is not None:
            self._touch(gang)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Look whether somebody else wants the gangs of a client that has gone."""
        for gang in self._gangs:
            self._touch(gang)

    def restart(self, scheduler: Scheduler) -> None:
        """Forget all gangs, as the scheduler forgets all tasks."""
        self._gangs.clear()
        for gang in self._gangs.running:
            self._touch(gang)

    def _before_release(self, keys: Iterable[Any]) -> None:
        for gang in dict.fromkeys(map(self._gangs.of, keys)):
            if gang is not None:
                self._supervisor.hold(gang)
                self._touch(gang)

    def _before_retry(self, keys: Iterable[Any]) -> Iterator[Any]:
        """Retry all tasks of a gang that has failed, and none of one that runs again."""
        for key in keys:
            gang = self._gangs.of(key)
            if gang is None:
                yield key
            else:
                yield from (
                    each for each in gang.keys if tasks.state_of(self._scheduler, each) == "erred"
                )

    # -- The scheduler, of workers; and these themselves. ----------------------------------

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Take note of the worker of a rank; it is not running yet."""
        rank = scheduler.workers[worker].extra.get(RANK)
        if rank is not None:
            self._starter.add(rank, worker)
            self._look_soon()

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Take all members on a worker for gone."""
        self._starter.remove(worker)
        strays = self._gangs.strays
        self._gangs.strays = {token: at for token, at in strays.items() if at != worker}
        for gang, _, member in self._gangs.members_on(worker):
            member.left = member.left or "gone"
            self._touch(gang)

    def _here(self, worker: str, key: Any, token: str) -> None:
        if worker not in self._scheduler.workers:  # its last words
            return
        for gang, run, member in self._gangs.members_on(worker):
            if gang is self._gangs.of(key) and not member.token and not run.broken:
                member.token = token
                self._touch(gang)
                return
        self._gangs.strays[token] = worker
        self._supervisor.stop(worker, token, "it is not wanted any more", None)

    def _failed(self, worker: str, key: Any, token: str, why: str) -> None:
        for gang, run, member in self._gangs.members_on(worker):
            if member.token == token:
                member.failed = True
                run.broken = run.broken or why
                self._touch(gang)

    def _left(self, worker: str, key: Any, token: str, how: str) -> None:
        self._gangs.strays.pop(token, None)
        for gang, _, member in self._gangs.members_on(worker):
            if member.token == token:
                member.left = how
                self._touch(gang)
        self._look_soon()

    # -- Looking after them, when all that happens at a time has happened. -----------------

    def _touch(self, gang: Gang) -> None:
        self._dirty[gang] = None
        self._look_soon()

    def _look_soon(self, delay: float = 0) -> None:
        if delay == 0 and isinstance(self._next_look, asyncio.TimerHandle):
            self._next_look.cancel()
            self._next_look = None
        if self._next_look is None:
            loop = asyncio.get_running_loop()
            look = loop.call_soon(self._look) if delay == 0 else loop.call_later(delay, self._look)
            self._next_look = look

    def _look(self) -> None:
        self._next_look = None
        self._dirty |= self._gangs.held
        while self._dirty:
            gang = next(iter(self._dirty))
            del self._dirty[gang]
            self._supervisor.settle(gang)
        self._starter.start_gangs()
        ready = self._gangs.ready
        tasks.keep_waiting(self._scheduler, (key for gang in ready for key in gang.keys))
        if ready or self._gangs.held:
            self._look_soon(_INTERVAL)
