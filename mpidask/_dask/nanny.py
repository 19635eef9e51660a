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

from mpidask._dask.client import close_clients_of_tasks, found_by_clients
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._dask.memory import watch_memory
from mpidask._dask.rank_worker import RETIRED, status_of

#: What the child process of a nanny sets for itself, for as long as it lives.
_settings = contextlib.ExitStack()


class QuietNanny(Nanny):
    """A nanny whose child says as little as its rank, and leaves Ctrl-C to it.

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
        # By value, if it is of the user's script, which the child does not run.
        pickled = cloudpickle.dumps(worker_class)
        kwargs["worker_class"] = functools.partial(_make_worker, pickled, log_level)
        super().__init__(*args, **kwargs)
        self._one_start = asyncio.Lock()

    async def instantiate(self) -> Status:
        """Start a child, once the start of the former one has ended.

        A start looks for the word of its child every now and then. If the child is killed
        right after its word, distributed starts the next one at once, and the former start
        takes that for one that is up.
        """
        async with self._one_start:
            if self.status in (Status.closing, Status.closed, Status.failed):
                return self.status  # closed in the meantime: nobody would end a child
            return await super().instantiate()


def with_child(nanny: type, child: type) -> type:
    """Derive the class of nannies whose workers have a class of their own."""

    class NannyOfChild(nanny):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"worker_class": child, **kwargs})

    NannyOfChild.__name__ = nanny.__name__
    return NannyOfChild


def _make_worker(pickled_class: bytes, log_level: int, **kwargs: Any) -> Any:
    """Make the worker in the child process of a `QuietNanny`."""
    _settings.enter_context(at_log_level(log_level))
    cluster = ConnectionInfo(kwargs["scheduler_ip"], kwargs["security"])
    _settings.enter_context(found_by_clients(cluster))
    _leave_interrupts_to_the_nanny()
    worker = _worker_of_nanny(cloudpickle.loads(pickled_class))(**kwargs)
    watch_memory(worker)
    return worker


def _worker_of_nanny(base: type) -> type:
    """Derive a class of workers that tell their nanny if the scheduler has retired them.

    The scheduler forgets such a worker, and the answer to a heartbeat may close it before
    the order to close does, for another reason. Its process ends with it.
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
    """Do nothing on Ctrl-C, which a terminal sends to children, too: their nannies end them."""
    with contextlib.suppress(ValueError):  # not in the main thread: no child of a nanny
        # Blocked until now, see `shield_worker_processes`. A handler and no SIG_IGN, which
        # the programs that tasks start would inherit.
        signal.signal(signal.SIGINT, lambda signum, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def child_starts(worker: Any) -> bool:
    """Tell whether this is a nanny whose worker starts, or starts again.

    Only `Nanny.process` knows, which is private.
    """
    return getattr(getattr(worker, "process", None), "status", None) == Status.starting


async def retire_child(nanny: Nanny) -> None:
    """Move the results of a nanny's worker elsewhere: its `close_gracefully` moves nothing.

    The scheduler knows of a worker, and may have given it results, before its nanny does.
    """
    if child_starts(nanny):
        workers = (await nanny.scheduler.identity())["workers"]
        addresses = [at for at, worker in workers.items() if worker["nanny"] == nanny.address]
    else:
        addresses = [nanny.worker_address]
    await nanny.scheduler.retire_workers(workers=addresses, close_workers=False)


async def end_child_that_starts(nanny: Nanny) -> None:
    """Kill the child of a nanny that closes, if its worker has not started yet.

    `Nanny.close` waits for the start, and a worker whose scheduler has ended tries for half
    a minute.
    """
    while child_starts(nanny):
        if nanny.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)
        await asyncio.sleep(0.02)
