"""The scheduler's side of gangs: a plugin that starts their tasks, and ends them, together."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from mpidask._compat import task_states
from mpidask._compat.task_states import NO_WORKER
from mpidask._errors import MPITaskError
from mpidask._gang.gangs import Assignment, Gang, Gangs, Run
from mpidask._gang.protocol import (
    ANNOTATION,
    ARRIVED,
    FAILED,
    LEFT,
    PLUGIN,
    RANK,
    START,
    STOP,
    UNKNOWN_HOST,
    WorkerRanks,
)
from mpidask._gang.schedule import Request, shortage, startable
from mpidask._log import logger
from mpidask._text import name_ranks
from mpidask._waiting import NOTICE_INTERVAL

if TYPE_CHECKING:
    from distributed import Scheduler

#: The name under which gangs keep tasks that no client wants from being forgotten.
_CLIENT = "mpidask-gangs"
#: Seconds between updates while gangs wait: no event tells that a worker is paused, for example.
_INTERVAL = 0.1
#: The number of different tags for creating communicators.
_TAGS = 10_000
#: Seconds between ranks that abort the job, so that only one of them reports the reason.
_ABORT_STAGGER = 2


class GangPlugin(SchedulerPlugin):
    """Takes gangs from their submission to a common end.

    It is level-triggered: hooks only record what they hear and mark gangs for an update, which
    decides by current states, since transitions arrive in any order, and several at once.

    Ranks have `grace` seconds to end when others have, and a gang waits as long for a rank whose
    worker is gone; for one whose worker never came, `startup_timeout` seconds.
    """

    name = PLUGIN

    def __init__(
        self,
        scheduler: Scheduler,
        ranks: WorkerRanks,
        grace: float,
        startup_timeout: float,
        abort: Callable[[str], None],
    ) -> None:
        self.ranks = ranks
        self._scheduler = scheduler
        self._grace = grace
        self._abort = abort
        self._gangs = Gangs()
        self._runs = itertools.count()
        self._workers: dict[int, str] = {}
        self._gone_at = dict.fromkeys(ranks.ranks, time.monotonic() + startup_timeout - grace)
        self._marked: dict[Gang, None] = {}
        self._update_is_due = False
        self._updates = PeriodicCallback(self._update, 1000 * _INTERVAL)
        handlers: dict[str, Any] = {ARRIVED: self._arrived, FAILED: self._failed, LEFT: self._left}
        scheduler.stream_handlers |= handlers
        task_states.call_before_release(scheduler, self._before_release)
        task_states.call_before_retry(scheduler, self._before_retry)

    # -- Events: clients and tasks. --------------------------------------------------------

    def update_graph(self, scheduler: Scheduler, **kwargs: Any) -> None:
        """Add new gangs."""
        for gang in self._gangs.add(kwargs["annotations"].get(ANNOTATION, {}).values()):
            self._mark(gang)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Update the gang of a task."""
        if (gang := self._gangs.by_key.get(key)) is not None:
            self._mark(gang)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Update all gangs: this client may have been the only one that wants them."""
        for gang in self._gangs.by_name.values():
            self._mark(gang)

    def restart(self, scheduler: Scheduler) -> None:
        """Forget all gangs, as the scheduler forgets all tasks."""
        self._gangs.forget_all()
        for gang in self._gangs.running:
            self._mark(gang)

    def _before_release(self, keys: Iterable[Any]) -> None:
        for gang in dict.fromkeys(map(self._gangs.by_key.get, keys)):
            if gang is not None:
                self._hold(gang)
                self._mark(gang)

    def _before_retry(self, keys: Iterable[Any]) -> Iterator[Any]:
        """Retry all tasks of a gang that has failed, and none of one that runs again already."""
        for key in keys:
            gang = self._gangs.by_key.get(key)
            if gang is None:
                yield key
            else:
                yield from (each for each, state in self._states(gang).items() if state == "erred")

    # -- Events: workers, and messages of theirs. ------------------------------------------

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Record the worker of a rank; it is not running yet."""
        rank = scheduler.workers[worker].extra.get(RANK)
        if rank is not None:
            self._workers[rank] = worker
            self._gone_at.pop(rank, None)
            self._update_soon()

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Record that a worker is gone, and all that it executed."""
        for rank in [rank for rank, address in self._workers.items() if address == worker]:
            del self._workers[rank]
            self._gone_at[rank] = time.monotonic()
        strays = self._gangs.strays
        self._gangs.strays = {token: at for token, at in strays.items() if at != worker}
        for gang, _, assignment in self._gangs.on_worker(worker):
            assignment.outcome = assignment.outcome or "lost"
            self._mark(gang)

    def _arrived(self, worker: str, key: Any, token: str) -> None:
        if worker not in self._scheduler.workers:  # removed before its last messages came
            return
        for gang, run, assignment in self._gangs.on_worker(worker):
            if gang is self._gangs.by_key.get(key) and not (assignment.token or run.broken):
                assignment.token = token
                self._mark(gang)
                return
        self._gangs.strays[token] = worker
        self._stop(worker, token, "it is not wanted any more")

    def _failed(self, worker: str, key: Any, token: str, reason: str) -> None:
        for gang, run, assignment in self._gangs.on_worker(worker):
            if assignment.token == token:
                assignment.failed = True
                run.broken = run.broken or reason
                self._mark(gang)

    def _left(self, worker: str, key: Any, token: str, outcome: str) -> None:
        self._gangs.strays.pop(token, None)
        for gang, _, assignment in self._gangs.on_worker(worker):
            if assignment.token == token:
                assignment.outcome = outcome
                self._mark(gang)
        self._update_soon()

    # -- Updates, once for all events that come at a time. ---------------------------------

    def _mark(self, gang: Gang) -> None:
        self._marked[gang] = None
        self._update_soon()

    def _update_soon(self) -> None:
        if not self._update_is_due:
            self._update_is_due = True
            asyncio.get_running_loop().call_soon(self._update)

    def _update(self) -> None:
        self._update_is_due = False
        self._marked |= self._gangs.held
        while self._marked:  # transitions mark others meanwhile
            gang = next(iter(self._marked))
            del self._marked[gang]
            self._update_gang(gang)
        self._start_gangs()
        waiting = (key for gang in self._gangs.ready for key in gang.keys)
        task_states.postpone_no_workers_timeout(self._scheduler, waiting)
        if not (self._gangs.ready or self._gangs.held):
            self._updates.stop()
        elif not self._updates.is_running():
            self._updates.start()

    def _update_gang(self, gang: Gang) -> None:
        if gang.run is not None:
            self._update_run(gang, gang.run, self._states(gang))
        self._gangs.ready.pop(gang, None)
        self._drop_hold(gang)
        states = self._states(gang)
        if not any(states.values()):
            self._gangs.forget(gang)
        elif gang.run is None and "processing" not in states.values():
            self._prepare(gang, states)

    def _states(self, gang: Gang) -> dict[Any, str]:
        if self._gangs.by_name.get(gang.name) is not gang:  # its tasks may be another's by now
            return dict.fromkeys(gang.keys, "")
        return {key: task_states.state_of(self._scheduler, key) for key in gang.keys}

    # -- All tasks of a gang are kept while one is wanted, until a run has ended well. -----

    def _hold(self, gang: Gang) -> None:
        if not gang.done and gang not in self._gangs.held:
            self._gangs.held[gang] = None
            task_states.add_interest(self._scheduler, gang.keys, _CLIENT)

    def _drop_hold(self, gang: Gang) -> None:
        if gang in self._gangs.held and (gang.done or not self._is_wanted(gang)):
            del self._gangs.held[gang]
            task_states.drop_interest(self._scheduler, gang.keys, _CLIENT)

    def _is_wanted(self, gang: Gang) -> bool:
        return any(
            task_states.is_wanted(self._scheduler, key, except_by=_CLIENT) for key in gang.keys
        )

    # -- A gang that runs. -----------------------------------------------------------------

    def _update_run(self, gang: Gang, run: Run, states: dict[Any, str]) -> None:
        run.broken = run.broken or run.find_breakage(states)
        if run.broken:
            self._stop_run(gang, run, states)
        elif run.can_start:
            self._start_run(run)
        elif "" in states.values() and not run.cancelled:
            run.cancelled = True
            self._cancel(gang, states)
            self._notify_later(gang.name, run)
        if run.is_over:
            gang.run, gang.done = None, not run.broken
            self._gangs.running.pop(gang, None)

    def _start_run(self, run: Run) -> None:
        run.started = True
        ranks = tuple(each.rank for each in run.assignments)
        for each in run.assignments:
            message = {"op": START, "token": each.token, "ranks": ranks, "tag": run.tag}
            task_states.send_at_once(self._scheduler, each.worker, message)

    def _stop_run(self, gang: Gang, run: Run, states: dict[Any, str]) -> None:
        stuck_in_mpi = run.has_lost_ranks
        if run.stop_level < 1 + stuck_in_mpi:
            run.stop_level = 1 + stuck_in_mpi
            for index, each in enumerate(run.executing):
                grace = self._grace + _ABORT_STAGGER * index if stuck_in_mpi else None
                self._stop(each.worker, each.token, run.broken, grace)
            if stuck_in_mpi:
                grace = self._grace + _ABORT_STAGGER * (len(run.executing) + 1)
                asyncio.get_running_loop().call_later(grace, self._abort_if_stuck, gang.name, run)
        never_begun = [each.key for each in run.assignments if not each.token]
        processing = [key for key in never_begun if states[key] == "processing"]
        task_states.reset(self._scheduler, processing)

    def _stop(self, worker: str, token: str, reason: str, grace: float | None = None) -> None:
        """Tell a worker to stop an execution, and to abort the job after `grace` seconds."""
        message = {"op": STOP, "token": token, "reason": reason, "grace": grace}
        self._scheduler.worker_send(worker, message)

    def _abort_if_stuck(self, name: str, run: Run) -> None:
        """Abort the job for ranks that can't do so themselves, as they let no Python run."""
        if stuck := [each.rank for each in run.executing]:
            self._abort(
                f"{name} can't go on, and {name_ranks(stuck)} can't leave it, for "
                f"{self._grace:g} s now (mpi_task_grace): {run.broken}"
            )

    def _notify_later(self, name: str, run: Run) -> None:
        asyncio.get_running_loop().call_later(NOTICE_INTERVAL, self._notify, name, run)

    def _notify(self, name: str, run: Run) -> None:
        if not (run.is_over or run.broken):
            logger.info(
                "%s was cancelled, but still runs on %s, which can run no other function of "
                "submit_mpi until it returns",
                name,
                name_ranks(each.rank for each in run.executing),
            )
            self._notify_later(name, run)

    # -- A gang that does not run: all its tasks meet in no-worker, or share one's failure. -

    def _prepare(self, gang: Gang, states: dict[Any, str]) -> None:
        waiting = [key for key, state in states.items() if state == NO_WORKER]
        elsewhere = [key for key, state in states.items() if state in ("memory", "released")]
        erred = next((key for key, state in states.items() if state == "erred"), None)
        if erred is not None:
            task_states.fail(self._scheduler, waiting, like=erred)
            task_states.reset(self._scheduler, elsewhere)
        elif "" in states.values():
            self._give_up(gang, states)
        elif len(waiting) == len(states):
            self._gangs.ready[gang] = None
        elif waiting:  # results were lost: all ranks run again
            task_states.reset(self._scheduler, elsewhere)

    def _give_up(self, gang: Gang, states: dict[Any, str]) -> None:
        """End a gang some of whose tasks are forgotten."""
        reason = f"{gang.name} was cancelled"
        if gang.done:
            reason = (
                f"results of {gang.name} were lost with their worker, and it can't run again: "
                "futures of its other ranks were released. Keep all of them as long as one "
                "is needed"
            )
        else:
            self._cancel(gang, states)
        waiting = [key for key, state in self._states(gang).items() if state == NO_WORKER]
        task_states.fail(self._scheduler, waiting, error=MPITaskError(reason))

    def _cancel(self, gang: Gang, states: dict[Any, str]) -> None:
        """Cancel the other tasks of a gang of which one was cancelled."""
        left = [key for key, state in states.items() if state]
        task_states.cancel(self._scheduler, left, f"{gang.name} was cancelled")

    # -- Gangs that are ready start, or fail if they never can. ----------------------------

    def _start_gangs(self) -> None:
        if not self._gangs.ready:
            return
        running = {worker.address for worker in self._scheduler.running}
        up = {rank: worker for rank, worker in self._workers.items() if worker in running}
        in_order = sorted(self._gangs.ready, key=lambda gang: gang.number)
        busy = self._gangs.busy(self._workers)
        for name, ranks in startable(map(self._request, in_order), up, busy):
            self._assign(self._gangs.by_name[name], {rank: up[rank] for rank in ranks})
        self._fail_hopeless()

    def _request(self, gang: Gang) -> Request:
        preferred = {}
        if gang.ranks is None:
            ranks = {worker: rank for rank, worker in self._workers.items()}
            preferred = task_states.ranks_with_data(self._scheduler, gang.keys, ranks)
        return Request(gang.name, len(gang.keys), gang.ranks, preferred, self._unfit(gang))

    def _unfit(self, gang: Gang) -> set[int]:
        """Return the ranks whose workers lack the resources that a gang asks for."""
        asked = task_states.resources_of(self._scheduler, gang.keys[0])
        workers = self._workers.items() if asked else ()
        return {rank for rank, at in workers if not task_states.offers(self._scheduler, at, asked)}

    def _assign(self, gang: Gang, workers: Mapping[int, str]) -> None:
        del self._gangs.ready[gang]
        assigned = zip(gang.keys, workers.items(), strict=True)
        assignments = [Assignment(key, rank, worker) for key, (rank, worker) in assigned]
        gang.run = Run(next(self._runs) % _TAGS, assignments)
        self._gangs.running[gang] = None
        task_states.share_retries(self._scheduler, gang.keys)
        places = {each.key: each.worker for each in assignments}
        task_states.assign(self._scheduler, places, UNKNOWN_HOST)

    def _fail_hopeless(self) -> None:
        limit = time.monotonic() - self._grace
        lost = {rank for rank, since in self._gone_at.items() if since < limit}
        for gang in list(self._gangs.ready):
            wanted = set(gang.ranks or self.ranks.ranks)
            missing, unfit = shortage(len(gang.keys), wanted, lost, self._unfit(gang))
            reasons = []
            if missing:
                time_out = f"for {self._grace:g} s now (mpi_task_grace)"
                reasons.append(f"no worker on {name_ranks(missing)}, {time_out}")
            if unfit:
                asked = task_states.resources_of(self._scheduler, gang.keys[0])
                reasons.append(f"no resources {asked} on {name_ranks(unfit)}")
            if reasons:
                error = MPITaskError(f"{gang.name} can't run: {'; '.join(reasons)}")
                task_states.fail(self._scheduler, gang.keys, error=error)
