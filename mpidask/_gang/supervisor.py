"""What is to be done for a gang, as the states of its tasks are now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPITaskError, name_ranks
from mpidask._gang import scheduler_state as tasks
from mpidask._gang.communicators import can_be_revoked
from mpidask._gang.rank import GO, STOP
from mpidask._gang.records import Gang, Registry, Run
from mpidask._log import WORD_INTERVAL, logger

if TYPE_CHECKING:
    from distributed import Scheduler

#: Who holds tasks that no client wants, to the scheduler.
_HOLDER = "mpidask-gangs"
#: Tags for making communicators.
_TAGS = 10_000
#: Seconds between members that give up, so that one alone has the last word.
_TURN = 2


class Supervisor:
    """Sees gangs through to a common end.

    States count here, and not their changes: those come in any order, and several at once.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    gangs : Registry
    grace : float
        Seconds that members have to end when others have.
    abort : callable
        Ends the job, with a reason.
    """

    def __init__(
        self, scheduler: Scheduler, gangs: Registry, grace: float, abort: Callable[[str], None]
    ) -> None:
        self._scheduler = scheduler
        self._gangs = gangs
        self._grace = grace
        self._abort = abort

    def settle(self, gang: Gang) -> None:
        """Do what the states of its tasks ask for."""
        states = self._states(gang)
        if gang.run is not None:
            self._follow(gang, gang.run, states)
        self._gangs.ready.pop(gang, None)
        self._let_go(gang)
        states = self._states(gang)
        if not any(states.values()):
            self._gangs.forget(gang)
        elif gang.run is None and "processing" not in states.values():
            self._prepare(gang, states)

    def _states(self, gang: Gang) -> dict[Any, str]:
        if self._gangs.of(gang.keys[0]) is not gang:  # its tasks are another's by now
            return dict.fromkeys(gang.keys, "")
        return {key: tasks.state_of(self._scheduler, key) for key in gang.keys}

    # -- Who wants it. ---------------------------------------------------------------------

    def hold(self, gang: Gang) -> None:
        """Keep all tasks of a gang, while anybody wants one, until all have ended."""
        if not gang.done and gang not in self._gangs.held:
            self._gangs.held[gang] = None
            tasks.hold(self._scheduler, gang.keys, _HOLDER)

    def _let_go(self, gang: Gang) -> None:
        if gang not in self._gangs.held:
            return
        wanted = any(tasks.is_wanted(self._scheduler, key, but_by=_HOLDER) for key in gang.keys)
        if gang.done or not wanted:
            del self._gangs.held[gang]
            tasks.let_go(self._scheduler, gang.keys, _HOLDER)

    # -- While it runs. --------------------------------------------------------------------

    def _follow(self, gang: Gang, run: Run, states: dict[Any, str]) -> None:
        if not run.broken:
            run.broken = _breakage(run, states)
        if run.broken:
            self._break(gang, run, states)
        elif run.can_start:
            run.started = True
            for member in run.members:
                tag = run.number % _TAGS
                message = {"op": GO, "token": member.token, "ranks": run.ranks, "tag": tag}
                tasks.send_at_once(self._scheduler, member.address, message)
        elif "" in states.values() and not run.unwanted:
            run.unwanted = True
            self._cancel(gang, states)
            self._say_that_it_goes_on(gang.name, run, first=True)
        if run.is_over:
            gang.run, gang.done = None, not run.broken
            self._gangs.running.pop(gang, None)

    def _break(self, gang: Gang, run: Run, states: dict[Any, str]) -> None:
        """End all members of a run that can't end well."""
        hurry = run.has_lost_members
        if not run.stopped or (hurry and not run.hurried):
            run.stopped, run.hurried = True, hurry
            inside = list(run.inside())
            for number, (_, member) in enumerate(inside):
                grace = self._grace + _TURN * number if hurry else None
                self.stop(member.address, member.token, run.broken, grace)
            if hurry:
                grace = self._grace + _TURN * (len(inside) + 1)
                asyncio.get_running_loop().call_later(grace, self._end_job, gang.name, run)
        pairs = zip(gang.keys, run.members, strict=True)
        waiting = [key for key, member in pairs if not member.token]
        tasks.call_back(self._scheduler, [key for key in waiting if states[key] == "processing"])

    def _end_job(self, name: str, run: Run) -> None:
        """End a job of which ranks can't do so themselves, as they let no Python run."""
        if stuck := [rank for rank, _ in run.inside()]:
            self._abort(
                f"{name} can't go on, and {name_ranks(stuck)} can't leave it, for "
                f"{self._grace:g} s now (mpi_task_grace): {run.broken}"
            )

    def _say_that_it_goes_on(self, name: str, run: Run, *, first: bool = False) -> None:
        if run.is_over or run.broken:
            return
        if not first:
            logger.info(
                "%s was cancelled, but still runs on %s, which can run no other function of "
                "submit_mpi until it returns",
                name,
                name_ranks(rank for rank, _ in run.inside()),
            )
        loop = asyncio.get_running_loop()
        loop.call_later(WORD_INTERVAL, self._say_that_it_goes_on, name, run)

    def stop(self, worker: str, token: str, why: str, grace: float | None) -> None:
        """Let a member end, within so many seconds."""
        message = {"op": STOP, "token": token, "why": why, "grace": grace}
        self._scheduler.worker_send(worker, message)

    # -- While it doesn't. -----------------------------------------------------------------

    def _prepare(self, gang: Gang, states: dict[Any, str]) -> None:
        at_gate = [key for key, state in states.items() if state == tasks.AT_GATE]
        elsewhere = [key for key, state in states.items() if state in ("memory", "released")]
        erred = next((key for key, state in states.items() if state == "erred"), None)
        if erred is not None:
            tasks.fail(self._scheduler, at_gate, as_task=self._scheduler.tasks[erred])
            tasks.call_back(self._scheduler, elsewhere)
        elif "" in states.values():
            self._give_up(gang, states)
        elif len(at_gate) == len(states):
            self._gangs.ready[gang] = None
        elif at_gate:  # results were lost: all members run again
            tasks.call_back(self._scheduler, elsewhere)

    def _give_up(self, gang: Gang, states: dict[Any, str]) -> None:
        """End a gang of which some tasks are forgotten."""
        why = _cancelled(gang)
        if gang.done:
            why = (
                f"results of {gang.name} were lost with their worker, and it can't run again: "
                "futures of its other ranks were released. Keep all of them as long as one "
                "is needed"
            )
        else:
            self._cancel(gang, states)
        left = [key for key, state in self._states(gang).items() if state == tasks.AT_GATE]
        tasks.fail(self._scheduler, left, error=MPITaskError(why))

    def _cancel(self, gang: Gang, states: dict[Any, str]) -> None:
        """Cancel what is left of a gang of which a task was cancelled."""
        left = [key for key, state in states.items() if state]
        tasks.cancel(self._scheduler, left, _cancelled(gang))


def _cancelled(gang: Gang) -> str:
    return f"{gang.name} was cancelled"


def _breakage(run: Run, states: dict[Any, str]) -> str:
    """Say why a run can't end well, if the states of its tasks show it."""
    found = set(states.values()) - {"processing", "memory"}
    if not found:
        return ""
    if run.lost:
        return f"the worker of {name_ranks(run.lost)} was lost"
    if "" in found:
        return "" if _goes_on(run) else "it was cancelled"
    return "one of its tasks failed" if "erred" in found else "a worker was lost"


def _goes_on(run: Run) -> bool:
    """Tell whether a run that is cancelled ends by itself, as Dask's tasks do.

    Members that are interrupted leave the others in MPI for ever, unless it can wake them.
    """
    return run.started and not run.has_lost_members and not can_be_revoked()
