"""Watches over the work where the scheduler runs, for those who read of it later."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from mpidask._dask import summary as summaries
from mpidask._dask.failures import Failures
from mpidask._dask.progress import Progress
from mpidask._dask.scheduler import call_before_close
from mpidask._dask.summary import Summary
from mpidask._dask.tally import Places, Tally
from mpidask._log import logger
from mpidask._threads import in_daemon_thread, to_daemon_thread

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._options import Options

#: Seconds between two looks at the workers for the summary.
_SAMPLING = 2
#: Most seconds between two versions of the summary.
_REWRITING = 60


class Monitor:
    """Tells of progress, and keeps the summary, as the options ask for.

    It lives in the event loop of the scheduler.

    Parameters
    ----------
    options : Options
    scheduler : distributed.Scheduler
    places : Places
    failures : Failures
        What the summary tells of tasks that raised.
    """

    def __init__(
        self, options: Options, scheduler: Scheduler, places: Places, failures: Failures
    ) -> None:
        tally = Tally(scheduler)
        scheduler.add_plugin(tally)
        call_before_close(scheduler, self._stop_counting)
        self._scheduler = scheduler
        self._timeout = options.shutdown_timeout / 2
        self._writing = threading.Lock()
        self._finished = False
        self._tasks: list[asyncio.Task[None]] = []
        self._summary: Summary | None = None
        if options.summary is not None:
            self._file = summaries.file(options.summary)
            self._summary = Summary(scheduler, tally, places, failures)
            self._tasks.append(asyncio.create_task(self._keep_summary(self._summary)))
        if options.progress is not None:
            progress = Progress(scheduler, tally, options.progress, places)
            self._tasks.append(asyncio.create_task(progress.run()))

    def _stop_counting(self) -> None:
        """Take a last look: what becomes of tasks while the scheduler closes is no work."""
        if self._summary is not None:
            self._summary.sample()
        self._scheduler.remove_plugin(Tally.name)

    async def _keep_summary(self, summary: Summary) -> None:
        """Write it again and again, so that it outlives a job that is killed.

        At first that is after each sample, then ever less often.
        """
        age, next_writing = 0, 0
        writing: Future[None] | None = None
        while True:
            summary.sample()
            if age >= next_writing and (writing is None or writing.done()):
                next_writing = age + min(age, _REWRITING)
                # File systems may take their time, in which sampling goes on.
                writing = in_daemon_thread(self._write_draft, summary)
            await asyncio.sleep(_SAMPLING)
            age += _SAMPLING

    def _write_draft(self, summary: Summary) -> None:
        try:
            text = summary.text()
        except (KeyError, RuntimeError):  # the scheduler has changed something meanwhile
            return
        with self._writing:
            if not self._finished:
                self._write(text)

    def _write_last(self, text: str) -> None:
        with self._writing:
            self._finished = True
            self._write(text)

    def _write(self, text: str) -> None:
        try:
            self._file.write(text.encode())
        except OSError as error:
            logger.warning("the summary can't be written: %s", error)

    async def finish(self, status: int) -> None:
        """Write the summary for the last time, and tell it in short."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.warning("progress or summary ended early", exc_info=ended)
        if self._summary is not None:
            self._summary.sample()
            text = self._summary.text(status)
            try:
                await to_daemon_thread(self._write_last, text, timeout=self._timeout)
            except asyncio.TimeoutError:
                logger.warning("writing the summary takes more than %g s: left", self._timeout)
            for line in self._summary.lines():
                logger.info(line)
