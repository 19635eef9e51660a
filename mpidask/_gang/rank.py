"""A rank's part in gangs: executions in its worker, and their messages with the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpidask._compat.task_states import is_executing
from mpidask._errors import MPITaskError
from mpidask._gang import protocol
from mpidask._gang.execution import Execution, Stopped
from mpidask._gang.protocol import ARRIVED, FAILED, LEFT, PLUGIN, RANK, START, STOP
from mpidask._waiting import poll

if TYPE_CHECKING:
    from distributed import Scheduler, Worker

    from mpidask._dask.connection_info import ConnectionInfo
    from mpidask._mpi.communicator import Communicator
    from mpidask._options import Options

#: Seconds between attempts to interrupt a function that does not end.
_INTERRUPT_INTERVAL = 0.2

_current: RankService | None = None


# -- The task of a gang. -------------------------------------------------------------------


def run(func: Callable[..., Any], kwargs: Mapping[str, Any], /, *args: Any) -> Any:
    """Call a function on this rank when all ranks of the gang are there."""
    from distributed import Reschedule, get_worker

    service = current()
    if service is None:
        raise MPITaskError(f"the worker on {socket.gethostname()} is not a rank of the MPI job")
    execution = service.enter(get_worker().get_current_task())
    try:
        return execution.run(func, args, kwargs)
    except Stopped:
        execution.outcome = execution.outcome or "stopped"
        # Back to the scheduler, which knows whether it runs again or fails as others did.
        raise Reschedule from None
    finally:
        execution.prevent_interrupts()  # one may have come on the way here
        service.leave(execution)


def run_alone(func: Callable[..., Any], kwargs: Mapping[str, Any], /, *args: Any) -> Any:
    """Call a function on the only rank there is without an MPI job."""
    from mpi4py import MPI

    return func(MPI.COMM_SELF, *args, **kwargs)


def current() -> RankService | None:
    """Return the service of this process, if its worker can be in gangs."""
    return _current


# -- The rank. -----------------------------------------------------------------------------


class RankService:
    """Connects the worker of this rank, and the scheduler on it, to gangs."""

    def __init__(
        self,
        comm: Communicator,
        workers: Sequence[int],
        options: Options,
        end_job: Callable[[str], None],
    ) -> None:
        self.rank = comm.rank
        self._comm = comm
        self._options = options
        self._ranks = protocol.worker_ranks(workers, options)
        self._numbers = itertools.count()
        self._executions: dict[str, Execution] = {}
        self._worker: Worker | None = None
        self._closed_because = ""
        self._end_job = end_job

    def serve(self, scheduler: Scheduler) -> None:
        """Let the scheduler on this rank manage gangs."""
        from mpidask._gang.scheduler_plugin import GangPlugin

        grace, timeout = self._options.mpi_task_grace, self._options.startup_timeout
        scheduler.add_plugin(GangPlugin(scheduler, self._ranks, grace, timeout, self._end_job))

    def worker_options(self, cluster: ConnectionInfo) -> Mapping[str, Any]:
        """Return the arguments for the worker of this rank, with which it can be in gangs."""
        global _current
        protocol.remember(cluster.address, self._ranks)
        given = self._options.worker_options
        if self._ranks.problem:
            return given
        _current = self
        return {**given, **self._gang_options(given)}

    def _gang_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        from distributed import WorkerPlugin

        service = self

        class GangWorkerPlugin(WorkerPlugin):
            name = PLUGIN

            async def setup(self, worker: Worker) -> None:
                await service.attach(worker)

        information = {RANK: lambda worker: self.rank}
        return {
            "plugins": [*given.get("plugins", ()), GangWorkerPlugin()],
            "startup_information": {**given.get("startup_information", {}), **information},
        }

    async def stop(self) -> bool:
        """Stop all executions; return whether they have ended in time."""
        global _current
        if current() is not self:
            return True
        self._stop_all("the cluster ends", None)
        grace = min(self._options.mpi_task_grace, self._options.shutdown_timeout / 2)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(poll(lambda: self.is_idle), grace)
        _current = None
        return self.is_idle

    # -- From the threads of executions. -------------------------------------------------

    def enter(self, key: Any) -> Execution:
        """Announce an execution in this thread to the scheduler."""
        token = f"{self.rank}.{next(self._numbers)}"
        execution = Execution(token, key, self._comm.mpi, self._tell_failure)
        self._executions[token] = execution
        self._call_in_loop(self._announce, execution)
        return execution

    def leave(self, execution: Execution) -> None:
        """Tell the scheduler that an execution has ended, once its worker knows, too."""
        self._call_in_loop(self._leave, execution)

    def _tell_failure(self, execution: Execution) -> None:
        self._call_in_loop(lambda: self._send(FAILED, execution, reason=execution.reason))

    def _call_in_loop(self, function: Callable[..., object], *args: Any) -> None:
        assert self._worker is not None
        self._worker.loop.add_callback(function, *args)

    # -- In the event loop. --------------------------------------------------------------

    async def attach(self, worker: Worker) -> None:
        """Serve a worker that starts, when no execution of the previous one is left."""
        await poll(lambda: self.is_idle)
        self._worker, self._closed_because = worker, ""
        worker.stream_handlers |= {START: self._start, STOP: self._stop}
        worker.on_close = self._detach  # type: ignore[attr-defined]  # see `_dask.worker_class`

    def _detach(self) -> None:
        # The scheduler can't reach the executions of a worker that closes.
        self._stop_all(f"the worker on rank {self.rank} was closed", self._options.mpi_task_grace)

    def _stop_all(self, reason: str, grace: float | None) -> None:
        self._closed_because = reason
        for token in list(self._executions):
            self._stop(token, reason, grace)

    @property
    def is_idle(self) -> bool:
        """Whether no thread of this rank is in a gang."""
        return not self._executions

    def _announce(self, execution: Execution) -> None:
        if self._closed_because:  # nobody would tell it to start, or to stop
            execution.stop(self._closed_because)
        else:
            self._send(ARRIVED, execution)

    def _send(self, op: str, execution: Execution, **details: Any) -> None:
        from distributed.comm.core import CommClosedError

        assert self._worker is not None
        message = {"op": op, "key": execution.key, "token": execution.token, **details}
        try:
            self._worker.batched_stream.send(message)
        except CommClosedError:  # the scheduler treats the whole worker as gone
            execution.stop("the worker has lost its scheduler")

    async def _leave(self, execution: Execution) -> None:
        # The worker would ignore a new compute-task for this key as already executing.
        await poll(lambda: not self._is_executing(execution), longest=0.001)
        del self._executions[execution.token]
        self._send(LEFT, execution, outcome=execution.outcome or "failed")

    def _is_executing(self, execution: Execution) -> bool:
        from distributed.core import Status

        worker = self._worker
        if execution.outcome == "returned" or worker is None or worker.status != Status.running:
            return False
        return is_executing(worker, execution.key)

    def _start(self, token: str, ranks: tuple[int, ...], tag: int) -> None:
        if (execution := self._executions.get(token)) is not None:
            execution.start(ranks, tag)

    def _stop(self, token: str, reason: str, grace: float | None) -> None:
        if (execution := self._executions.get(token)) is not None:
            execution.stop(reason)
            loop = asyncio.get_running_loop()
            loop.call_later(_INTERRUPT_INTERVAL, self._interrupt_again, execution)
            if grace is not None:
                loop.call_later(grace, self._abort_if_running, execution)

    def _interrupt_again(self, execution: Execution) -> None:
        if execution.token in self._executions:
            execution.interrupt()
            loop = asyncio.get_running_loop()
            loop.call_later(_INTERRUPT_INTERVAL, self._interrupt_again, execution)

    def _abort_if_running(self, execution: Execution) -> None:
        if execution.is_running:
            self._end_job(
                f"{execution.key[0]} can't go on, and rank {self.rank} does not return from it, "
                f"for {self._options.mpi_task_grace:g} s now (mpi_task_grace): {execution.reason}"
            )
