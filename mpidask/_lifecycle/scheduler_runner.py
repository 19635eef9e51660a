"""The scheduler of a cluster, and what runs beside it on its rank."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard, scheduler_file
from mpidask._dask.daemon_thread import in_daemon_thread
from mpidask._dask.scheduler import (
    call_before_close,
    connection_info,
    ended_idle,
    enough_files,
    make_security,
    start_scheduler,
    warn_of_nanny_plugins,
)
from mpidask._lifecycle.messages import StartScheduler
from mpidask._log import logger
from mpidask._options import Options

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._watch.monitor import Monitor


class SchedulerRunner:
    """Starts the scheduler, and stops it.

    Parameters
    ----------
    options : Options
    order : StartScheduler
    report : callable
        Called with each message for the leader.
    """

    def __init__(
        self, options: Options, order: StartScheduler, report: Callable[[object], None]
    ) -> None:
        self._options = options
        self._order = order
        self._report = report
        self._scheduler: Scheduler | None = None
        self._monitor: Monitor | None = None
        self._stopping = False
        self._running: asyncio.Task[None] | None = None

    async def run(
        self, on_start: Callable[[Scheduler], object], before_close: Callable[[], object]
    ) -> None:
        """Run the scheduler until it ends."""
        with enough_files(len(self._order.places)):
            await self._run(on_start, before_close)

    async def _run(
        self, on_start: Callable[[Scheduler], object], before_close: Callable[[], object]
    ) -> None:
        from mpidask._watch.monitor import start_monitor

        path = self._options.scheduler_file
        if path is not None:
            await asyncio.wrap_future(in_daemon_thread(scheduler_file.check, path))
        security = make_security(self._options.security)
        prefix = dashboard.choose_prefix(self._options)
        scheduler = await start_scheduler(self._options, self._order.host, security, prefix)
        self._scheduler = scheduler
        call_before_close(scheduler, before_close)
        warn_of_nanny_plugins(scheduler)
        self._monitor = await start_monitor(self._options, scheduler, self._order.places)
        on_start(scheduler)
        cluster = connection_info(self._options, scheduler, security, prefix)
        self._running = asyncio.current_task()
        async with scheduler_file.written(path, scheduler, cluster):
            self._report(cluster)
            await scheduler.finished()
        if ended_idle(scheduler) and not self._stopping:
            logger.warning(
                "the scheduler has ended by itself: nothing to do for %g s "
                "(distributed.scheduler.idle-timeout in Dask's configuration)",
                scheduler.idle_timeout,
            )

    def later_duties(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield, by name, what is to run from when the user's function runs."""
        from mpidask._watch.paused import report_paused

        if self._scheduler is not None:
            yield "memory watch", report_paused(self._scheduler)

    async def stop(self, status: int) -> None:
        """Stop the scheduler of a job that ends with this status."""
        self._stopping = True
        try:
            if self._monitor is not None:
                await self._monitor.finish(status)
        except Exception as error:
            logger.warning("no summary: %s: %s", type(error).__name__, error)
        if self._scheduler is not None:
            await self._scheduler.close(reason="mpidask-end")
        if self._running is not None:
            await asyncio.wait([self._running])  # its file may be slow to go
