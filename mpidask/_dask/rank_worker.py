"""What the worker of a rank, or its nanny, knows beyond distributed's: why it was closed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

#: The reason that `Client.restart` and the like give to the workers they close.
RESTARTED = "scheduler-remove-worker"
#: The reason that `Scheduler.close` gives to the workers it closes.
CLUSTER_ENDS = "scheduler-close"
#: The reasons for which a worker closes when its scheduler is gone.
_SCHEDULER_GONE = {
    CLUSTER_ENDS,
    "worker-handle-scheduler-connection-broken",
    "worker-heartbeat-error",
    "worker-heartbeat-missing",
}
#: The reason that the worker of a nanny gives, if the scheduler has retired it.
RETIRED = "mpidask-retired"
#: The reason that mpidask gives to a worker whose process should end, as a task wants.
TASK_EXIT = "mpidask-task-exit"


def rank_worker(base: type, shutdown_timeout: float) -> type:
    """Derive a class for the workers of ranks, with the name that the dashboard shows."""
    return type(base.__name__, (RankWorker, base), {"shutdown_timeout": shutdown_timeout})


def status_of(worker: Any) -> Any:
    """Give the status of a worker, or None: one made of several, such as CUDAWorker, has none."""
    return getattr(worker, "status", None)


class RankWorker:
    """Goes before a class of workers or nannies.

    Attributes
    ----------
    shutdown_timeout : float
        Seconds that running tasks have at the end of the cluster.
    close_reason : str, optional
        Why it was closed, as distributed says it; None while it is not.
    child_reason : str, optional
        Why the worker of a nanny was closed.
    retired : bool
        Whether it was closed since it is not wanted any more.
    on_cluster_end, on_close : callable
        Called when it is closed: because the cluster ends, or for another reason.
    """

    shutdown_timeout: float
    close_reason: str | None = None
    child_reason: str | None = None
    retired = False
    on_cluster_end: Callable[[], object] = staticmethod(lambda: None)
    on_close: Callable[[], object] = staticmethod(lambda: None)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close it, and take note of the reason."""
        if self.close_reason is None:
            self._take_note(self.child_reason or kwargs.get("reason", ""))
        base: Any = super()
        closing = base.close(*args, **_accepted(base.close, kwargs | self._close_arguments()))
        if not self._is_nanny:
            return await closing
        from mpidask._dask.nanny import end_child_that_starts

        this: Any = self
        # In this task and no other: a nanny that closes waits for all of its tasks but the
        # one that closes it, which may be one of them.
        ending = asyncio.create_task(end_child_that_starts(this))
        try:
            return await closing
        finally:
            ending.cancel()

    def close_gracefully(self, *args: Any, **kwargs: Any) -> Any:
        """Close it when its results are elsewhere."""
        # To a nanny, its worker says by this that it closes, for whatever reason.
        if self._is_nanny:
            self.child_reason = kwargs.get("reason")
        base: Any = super()
        return base.close_gracefully(*args, **kwargs)

    @property
    def _is_nanny(self) -> bool:
        from distributed import Nanny

        return isinstance(self, Nanny)

    def _take_note(self, reason: str) -> None:
        from distributed.core import Status

        self.close_reason = reason
        gracefully = status_of(self) == Status.closing_gracefully
        # To a nanny, its worker closes gracefully for whatever reason.
        self.retired = gracefully and not (self._is_nanny and reason in _SCHEDULER_GONE)
        if reason == CLUSTER_ENDS:
            self.on_cluster_end()
        else:
            self.on_close()

    def _close_arguments(self) -> dict[str, Any]:
        from distributed import Worker

        if isinstance(self, Worker):
            # Running tasks may finish at the end of the cluster. When the worker is
            # replaced, its successor shall not wait for them.
            waits = {} if self.close_reason == CLUSTER_ENDS else {"executor_wait": False}
            return {"timeout": self.shutdown_timeout, **waits}
        if self._is_nanny and self.close_reason == CLUSTER_ENDS:
            # Time is needed for the scheduler to close it first, and to kill it at last.
            return {"timeout": 0.75 * self.shutdown_timeout}
        return {}


def _accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out the arguments that a function, which may be of a class of the user's, lacks."""
    known = inspect.signature(function).parameters
    if any(one.kind == one.VAR_KEYWORD for one in known.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in known}
