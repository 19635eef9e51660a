"""The memory of workers: how much there is, and the release of what is only cached.

Dask pauses a worker because of the size of its process. That includes unused memory: what malloc
keeps after `free`, the transport's buffers, and what a shuffle has sent. Once all results
are on disk, nothing of Dask's reduces it further, and the worker would stay paused. Nannies start
their workers with ``MALLOC_TRIM_THRESHOLD_``, which glibc reads when a process starts; ranks run
already.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, Protocol

from mpidask._compat.distributed import free_sent_shards
from mpidask._placement.limits import granted_memory
from mpidask._threads import to_daemon_thread

#: Name of the additional metric in a worker's heartbeats, see `MemoryWatch.metrics`.
METRICS = "mpidask-memory"
#: Seconds between two trims, at least, and how many times the CPU time of the last one.
_TRIM_INTERVAL, _TRIM_SHARE = 0.5, 20


def memory_limit() -> int:
    """Return the bytes that the ranks of this machine may use together.

    This is `distributed.system.MEMORY_LIMIT`, or less: that looks at the outermost cgroup only.
    """
    from distributed.system import MEMORY_LIMIT

    return min([MEMORY_LIMIT, *granted_memory()])


class Pool(Protocol):
    """Free memory that is kept for later use."""

    @property
    def free(self) -> int:
        """Bytes that are kept."""

    def keep(self, wanted: bool) -> None:
        """Keep free memory from now on, or release all of it and keep none."""


class MemoryWatch:
    """Watches the memory of a worker, and that of the transport's pool if there is one."""

    def __init__(self, worker: Any, pool: Pool | None) -> None:
        self._worker = worker
        self._pool = pool
        self._next_trim = 0.0

    @property
    def _short_from(self) -> float | None:
        """Bytes from which memory is short: where Dask begins to spill results to disk."""
        manager = self._worker.memory_manager
        fractions = (
            manager.memory_target_fraction,
            manager.memory_spill_fraction,
            manager.memory_pause_fraction,
        )
        limits = [manager.memory_limit * part for part in fractions if part is not False]
        return min(limits, default=None)

    def metrics(self, worker: Any) -> dict[str, Any]:
        """Return what the scheduler can't know: bytes in the pool, and when this worker pauses."""
        return {
            "pool": self._pool.free if self._pool else 0,
            "pause": worker.memory_manager.memory_pause_fraction,
        }

    async def look(self) -> None:
        """Release memory if it is short."""
        short_from = self._short_from
        # The same measure as that of Dask's own memory monitor.
        short = short_from is not None and self._worker.monitor.get_process_memory() > short_from
        if self._pool:
            self._pool.keep(not short)
        if short and time.monotonic() >= self._next_trim:
            seconds = await to_daemon_thread(trim_malloc)
            self._next_trim = time.monotonic() + max(_TRIM_INTERVAL, _TRIM_SHARE * seconds)


def watch_memory(worker: Any, pool: Pool | None = None) -> None:
    """Let a worker that is not started yet watch its memory, if it has a limit.

    A nanny has no memory to watch; the worker in its child process has.
    """
    from distributed import Worker
    from tornado.ioloop import PeriodicCallback

    if isinstance(worker, Worker) and worker.memory_manager.memory_limit:
        free_sent_shards()
        manager = worker.memory_manager
        watch = MemoryWatch(worker, pool)
        worker.metrics[METRICS] = watch.metrics
        interval = manager.memory_monitor_interval * 1000
        worker.periodic_callbacks[METRICS] = PeriodicCallback(watch.look, interval)


def trim_malloc() -> float:
    """Have glibc return free memory to the system; other C libraries keep little.

    Return the CPU time in seconds. On a busy machine the time that passes is many times as long,
    and a worker would stay paused until the next trim.
    """
    started = time.thread_time()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return time.thread_time() - started
