"""What a rank does for the gangs of its worker: it passes on what they and the scheduler say."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpidask._gang.execution import Execution
from mpidask._waiting import poll

if TYPE_CHECKING:
    from distributed import Worker
    from mpi4py import MPI

#: What a worker tells the scheduler when it registers: its rank.
RANK = "mpidask-rank"
#: The operations of their conversation.
HERE, FAILED, LEFT = "mpidask-here", "mpidask-failed", "mpidask-left"
GO, STOP = "mpidask-go", "mpidask-stop"
#: Seconds between attempts to interrupt a member that goes on.
_INSISTENCE = 0.2

_current: Rank | None = None


class Rank:
    """The gangs' side of a rank, for as long as the cluster lives.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A private communicator of the whole job.
    grace : float
        Seconds that members have to end when the others have.
    abort : callable
        Ends the job, with a reason.
    """

    def __init__(self, comm: MPI.Intracomm, grace: float, abort: Callable[[str], None]) -> None:
        self.comm = comm
        self.number = comm.Get_rank()
        self.grace = grace
        self._abort = abort
        self._numbers = itertools.count()
        self._inside: dict[str, Execution] = {}
        self._worker: Worker | None = None
        self._closed_by = ""

    # -- In the threads of members. ------------------------------------------------------

    def enter(self, key: Any) -> Execution:
        """Tell the scheduler that a member is here."""
        execution = Execution(f"{self.number}.{next(self._numbers)}", key)
        self._inside[execution.token] = execution
        self._call_in_loop(self._announce, execution)
        return execution

    def tell_failure(self, execution: Execution) -> None:
        """Tell the scheduler at once that a member has failed, and why."""
        self._call_in_loop(functools.partial(self._say, FAILED, execution, why=execution.why))

    def leave(self, execution: Execution) -> None:
        """Tell the scheduler that a member has left, as soon as its worker knows, too."""
        self._call_in_loop(self._leave, execution)

    def _call_in_loop(self, function: Callable[..., object], *args: Any) -> None:
        assert self._worker is not None
        self._worker.loop.add_callback(function, *args)

    # -- In the event loop. --------------------------------------------------------------

    async def attach(self, worker: Worker) -> None:
        """Serve a worker that starts, when nothing of the one before is left."""
        await poll(lambda: self.is_vacant)
        self._worker, self._closed_by = worker, ""
        worker.stream_handlers |= {GO: self._go, STOP: self._stop}
        worker.on_close = self._detach  # type: ignore[attr-defined]  # the lifecycle's workers

    def _detach(self) -> None:
        """End the members on a worker that closes: the scheduler can't reach them."""
        self._close(f"the worker on rank {self.number} was closed", self.grace)

    def stand_down(self) -> None:
        """End all members: the cluster ends."""
        self._close("the cluster ends", None)

    def _close(self, why: str, grace: float | None) -> None:
        self._closed_by = why
        for token in list(self._inside):
            self._stop(token, why, grace)

    @property
    def is_vacant(self) -> bool:
        """Whether no thread of this rank is in a gang."""
        return not self._inside

    def _announce(self, execution: Execution) -> None:
        if self._closed_by:  # nobody would tell it to go, or to stop
            execution.stop(self._closed_by)
        else:
            self._say(HERE, execution)

    def _say(self, op: str, execution: Execution, **more: Any) -> None:
        from distributed.comm.core import CommClosedError

        assert self._worker is not None
        message = {"op": op, "key": execution.key, "token": execution.token, **more}
        try:
            self._worker.batched_stream.send(message)
        except CommClosedError:  # the scheduler takes the whole worker for gone
            execution.stop("the worker has lost its scheduler")

    async def _leave(self, execution: Execution) -> None:
        await poll(lambda: not self._runs(execution), longest=0.001)
        del self._inside[execution.token]
        self._say(LEFT, execution, how=execution.how or "failed")

    def _runs(self, execution: Execution) -> bool:
        """Tell whether the worker still runs the task of a member that has ended.

        If its scheduler wants it once more now, the worker believes that it goes on.
        `Worker.state.executing` is not public.
        """
        from distributed.core import Status

        worker = self._worker
        if execution.how == "returned" or worker is None or worker.status != Status.running:
            return False
        return any(task.key == execution.key for task in worker.state.executing)

    def _go(self, token: str, ranks: tuple[int, ...], tag: int) -> None:
        if (execution := self._inside.get(token)) is not None:
            execution.go(ranks, tag)

    def _stop(self, token: str, why: str, grace: float | None) -> None:
        if (execution := self._inside.get(token)) is not None:
            execution.stop(why)
            loop = asyncio.get_running_loop()
            loop.call_later(_INSISTENCE, self._insist, execution)
            if grace is not None:
                loop.call_later(grace, self._give_up, execution)

    def _insist(self, execution: Execution) -> None:
        if execution.token in self._inside:
            execution.interrupt()
            asyncio.get_running_loop().call_later(_INSISTENCE, self._insist, execution)

    def _give_up(self, execution: Execution) -> None:
        if execution.is_running:
            self._abort(
                f"{execution.key[0]} can't go on, and rank {self.number} does not return from "
                f"it, for {self.grace:g} s now (mpi_task_grace): {execution.why}"
            )


def serve(rank: Rank | None) -> None:
    """Make this process a rank of gangs, or none any more."""
    global _current
    _current = rank


def current() -> Rank | None:
    """Give the rank that this process is, if it is one."""
    return _current
