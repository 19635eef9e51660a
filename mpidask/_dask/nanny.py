"""Nannies, and the workers in their child processes (`spawn`: how these start)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from typing import Any

import cloudpickle
from distributed import Nanny, Worker
from distributed.core import Status

from mpidask._compat.distributed import count_shared_memory_once
from mpidask._dask.client import close_clients_of_tasks, found_by_clients
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._dask.memory import watch_memory

#: What the child process of a nanny sets for itself, for as long as it lives.
_settings = contextlib.ExitStack()


class QuietNanny(Nanny):
    """A nanny whose child logs as little as its rank, and leaves Ctrl-C to it."""

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
            if "reason" in kwargs and self.status == Status.closing_gracefully:
                kwargs["reason"] = "mpidask-retired"
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
