"""The class of a rank's worker, or of its nanny: as the options say, with a mixin of mpidask's.

The mixins record why a worker was closed, which decides whether it is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import CLUSTER_ENDS, SCHEDULER_GONE, is_starting

if TYPE_CHECKING:
    from mpidask._options import Options

#: The close reason of a worker one of whose tasks has raised SystemExit.
TASK_EXIT = "mpidask-task-exit"


# -- As the options say. -----------------------------------------------------------------


def worker_class(options: Options) -> type:
    """Return the class of the workers, or of their nannies."""
    from distributed import Nanny, Worker
    from distributed.utils import import_term

    from mpidask._dask.nanny import QuietNanny, with_child

    cls = options.worker_class
    if isinstance(cls, str):
        cls = import_term(cls)
    if not isinstance(cls, type):
        raise TypeError(f"worker_class {options.worker_class!r} is not a class")
    if options.nanny and issubclass(cls, Worker):
        return with_child(QuietNanny, cls)
    return QuietNanny if cls is Nanny else cls


def uses_nanny(options: Options) -> bool:
    """Whether workers run in child processes, as far as the options show."""
    from distributed import Worker

    return options.nanny or options.worker_class not in ("distributed.Worker", Worker)


def has_workers_in_ranks(options: Options) -> bool:
    """Whether workers run in the processes of ranks, and not in children of theirs."""
    from distributed import Worker

    try:
        return issubclass(worker_class(options), Worker)
    except Exception:  # no such class: the ranks of workers report that
        return False


def with_mixin(base: type, shutdown_timeout: float) -> type:
    """Derive the class of a rank's worker, with the name that the dashboard shows."""
    from distributed import Nanny, Worker

    mixin: type = RankServer  # of a class that is neither, such as CUDAWorker
    if issubclass(base, Worker):
        mixin = RankWorker
    elif issubclass(base, Nanny):
        mixin = RankNanny
    return type(base.__name__, (mixin, base), {"shutdown_timeout": shutdown_timeout})


# -- The mixins. -------------------------------------------------------------------------


class RankServer:
    """A mixin for any class of workers."""

    #: Seconds that running tasks have at the end of the cluster.
    shutdown_timeout: float
    #: Why it was closed, in distributed's words; None while it is not.
    close_reason: str | None = None
    #: Whether it was closed because it is not wanted any more.
    retired = False
    #: Called when it is closed: because the cluster ends, or for another reason.
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


class RankNanny(RankServer):
    """A mixin for classes of `distributed.Nanny`."""

    #: Why the worker in the child process was closed.
    _child_reason: str | None = None

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
        self._child_reason = kwargs.get("reason")
        base: Any = super()
        return base.close_gracefully(*args, **kwargs)

    def _note_reason(self, reason: str) -> None:
        super()._note_reason(self._child_reason or reason)

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


def status_of(worker: Any) -> Any:
    """Return the status of a worker; one made of several, such as CUDAWorker, has None."""
    return getattr(worker, "status", None)


def _accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Drop the arguments that a function, of the user's class perhaps, does not take."""
    known = inspect.signature(function).parameters
    if any(one.kind == one.VAR_KEYWORD for one in known.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in known}
