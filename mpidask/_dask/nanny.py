"""Nannies, and the workers in their child processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from typing import Any

import cloudpickle
from distributed import Nanny, Worker
from distributed.core import Status

from mpidask._compat.distributed import (
    CLUSTER_ENDS,
    SCHEDULER_GONE,
    addresses_of_worker,
    count_shared_memory_once,
    is_starting,
)
from mpidask._dask.client import close_clients_of_tasks, found_by_clients
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._dask.memory import watch_memory
from mpidask._dask.rank_worker import RETIRED, RankServer, status_of

#: What the child process of a nanny sets for itself, for as long as it lives.
_settings = contextlib.ExitStack()


class RankNanny(RankServer):
    """A mixin for the classes of ranks' nannies.

    Attributes
    ----------
    child_reason : str, optional
        Why the worker was closed.
    """

    child_reason: str | None = None

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close it, and note the reason."""
        # Closed in this very task: a nanny that closes awaits all of its other tasks, and this one
        # may be among its tasks.
        ending = asyncio.create_task(self._kill_starting_child())
        try:
            return await super().close(*args, **kwargs)
        finally:
            ending.cancel()

    def close_gracefully(self, *args: Any, **kwargs: Any) -> Any:
        """Note why the worker closes: a worker calls this for any reason, not just to retire."""
        self.child_reason = kwargs.get("reason")
        base: Any = super()
        return base.close_gracefully(*args, **kwargs)

    def _note_reason(self, reason: str) -> None:
        super()._note_reason(self.child_reason or reason)

    def _is_retiring(self) -> bool:
        return super()._is_retiring() and self.close_reason not in SCHEDULER_GONE

    def _close_arguments(self) -> dict[str, Any]:
        if self.close_reason != CLUSTER_ENDS:
            return {}
        # The rest is for the scheduler, which closes it first, and for killing the child.
        return {"timeout": 0.75 * self.shutdown_timeout}

    async def _kill_starting_child(self) -> None:
        """Kill the child if its worker has not started yet.

        `Nanny.close` waits for the start, and a worker whose scheduler has ended tries for half
        a minute.
        """
        nanny: Any = self
        while is_starting(nanny):
            if nanny.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)
            await asyncio.sleep(0.02)


class QuietNanny(Nanny):
    """A nanny whose child logs as little as its rank, and leaves Ctrl-C to it.

    Parameters
    ----------
    log_level : int
        Level of distributed's loggers in the child process.
    worker_class : type, optional
        Class of the worker there.
    """

    def __init__(
        self, *args: Any, log_level: int, worker_class: type = Worker, **kwargs: Any
    ) -> None:
        # By value, if it is of the user's script, which the child does not import.
        pickled = cloudpickle.dumps(worker_class)
        kwargs["worker_class"] = functools.partial(_make_worker, pickled, log_level)
        super().__init__(*args, **kwargs)
        count_shared_memory_once(self)
        self._one_start = asyncio.Lock()

    async def instantiate(self) -> Status:
        """Start a child, once the previous start has ended.

        A start polls for its child's message that it is up. If the child is killed right after
        that message, distributed starts the next one at once, and the previous start would take
        that one for up.
        """
        async with self._one_start:
            if self.status in (Status.closing, Status.closed, Status.failed):
                return self.status  # closed in the meantime: nothing would end a child
            return await super().instantiate()


def with_child(nanny: type, child: type) -> type:
    """Derive a class of nannies whose workers are of a given class."""

    class NannyOfChild(nanny):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"worker_class": child, **kwargs})

    NannyOfChild.__name__ = nanny.__name__
    return NannyOfChild


async def retire_child(nanny: Nanny) -> None:
    """Move the results of a nanny's worker elsewhere: `Nanny.close_gracefully` moves nothing.

    The scheduler knows of a worker, and may have given it results, before its nanny does.
    """
    addresses: list[str | None] = [nanny.worker_address]
    if is_starting(nanny):
        addresses = [*await addresses_of_worker(nanny)]
    await nanny.scheduler.retire_workers(workers=addresses, close_workers=False)


# -- In the child process. ---------------------------------------------------------------


def _make_worker(pickled_class: bytes, log_level: int, **kwargs: Any) -> Any:
    _settings.enter_context(at_log_level(log_level))
    cluster = ConnectionInfo(kwargs["scheduler_ip"], kwargs["security"])
    _settings.enter_context(found_by_clients(cluster))
    _leave_interrupts_to_the_nanny()
    worker = _worker_of_nanny(cloudpickle.loads(pickled_class))(**kwargs)
    watch_memory(worker)
    return worker


def _worker_of_nanny(base: type) -> type:
    """Derive a class of workers that report to their nanny that the scheduler has retired them.

    The scheduler forgets such a worker, and the answer to a heartbeat may close it, for another
    reason, before the order to close arrives. Its process ends with it.
    """

    class WorkerOfNanny(base):  # type: ignore[misc]
        async def close(self, *args: Any, **kwargs: Any) -> Any:
            if "reason" in kwargs and status_of(self) == Status.closing_gracefully:
                kwargs["reason"] = RETIRED
            await close_clients_of_tasks(self.scheduler.address)
            return await super().close(*args, **kwargs)

    WorkerOfNanny.__name__ = base.__name__
    return WorkerOfNanny


def _leave_interrupts_to_the_nanny() -> None:
    """Ignore Ctrl-C, which a terminal sends to children too: their nannies end them."""
    with contextlib.suppress(ValueError):  # not in the main thread: no child of a nanny
        # Blocked until now, see `shield_children`. A handler rather than SIG_IGN, which the
        # programs that tasks start would inherit.
        signal.signal(signal.SIGINT, lambda signum, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
