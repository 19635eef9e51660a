"""Mixins for the classes of ranks' workers, which record why a worker was closed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mpidask._compat.distributed import CLUSTER_ENDS

#: The close reason of a nanny's worker that the scheduler has retired.
RETIRED = "mpidask-retired"
#: The close reason of a worker one of whose tasks has raised SystemExit.
TASK_EXIT = "mpidask-task-exit"


def status_of(worker: Any) -> Any:
    """Return the status of a worker; one made of several, such as CUDAWorker, has None."""
    return getattr(worker, "status", None)


class RankServer:
    """A mixin for any class of workers.

    Attributes
    ----------
    shutdown_timeout : float
        Seconds that running tasks have at the end of the cluster.
    close_reason : str, optional
        Why it was closed, in distributed's words; None while it is not.
    retired : bool
        Whether it was closed because it is not wanted any more.
    on_cluster_end, on_close : callable
        Called when it is closed: because the cluster ends, or for another reason.
    """

    shutdown_timeout: float
    close_reason: str | None = None
    retired = False
    on_cluster_end: Callable[[], object] = staticmethod(lambda: None)
    on_close: Callable[[], object] = staticmethod(lambda: None)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close it, and note the reason."""
        if self.close_reason is None:
            self._note_reason(kwargs.get("reason", ""))
        base: Any = super()
        return await base.close(*args, **_accepted(base.close, kwargs | self._close_arguments()))

    def _note_reason(self, reason: str) -> None:
        self.close_reason = reason
        self.retired = self._is_retiring()
        if reason == CLUSTER_ENDS:
            self.on_cluster_end()
        else:
            self.on_close()

    def _is_retiring(self) -> bool:
        from distributed.core import Status

        return bool(status_of(self) == Status.closing_gracefully)

    def _close_arguments(self) -> dict[str, Any]:
        return {}


class RankWorker(RankServer):
    """A mixin for classes of `distributed.Worker`."""

    def _close_arguments(self) -> dict[str, Any]:
        # Running tasks may finish at the end of the cluster. A successor does not wait for them.
        waits = {} if self.close_reason == CLUSTER_ENDS else {"executor_wait": False}
        return {"timeout": self.shutdown_timeout, **waits}


def _accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Drop the arguments that a function, of the user's class perhaps, does not take."""
    known = inspect.signature(function).parameters
    if any(one.kind == one.VAR_KEYWORD for one in known.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in known}
