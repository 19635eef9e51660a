"""Watches over the work in the scheduler's event loop: failures, progress and summary."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpidask._dask.scheduler import call_before_close
from mpidask._log import logger
from mpidask._threads import start_daemon_thread, to_daemon_thread
from mpidask._watch.failures import Failures
from mpidask._watch.progress import Progress
from mpidask._watch.summary import Summary, summary_file
from mpidask._watch.task_counts import TaskCounts

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._options import Options

#: Seconds between two samples of the workers for the summary.
_SAMPLING = 2
#: Seconds between two versions of the summary, at most.
_REWRITING = 60


async def start_monitor(
    options: Options, scheduler: Scheduler, places: Mapping[str, str]
) -> Monitor | None:
    """Watch failures and, if the options ask for them, progress and summary.

    The mapping has the places of ranks by the names of their workers. Raise `MPIDaskError` if the
    summary can't be written.
    """
    if options.summary is not None:
        await to_daemon_thread(summary_file(options.summary).prepare)
    failures = Failures(scheduler, places)
    scheduler.add_plugin(failures)
    if options.progress is None and options.summary is None:
        return None
    return Monitor(options, scheduler, places, failures)


class Monitor:
    """Logs progress, and writes the summary, in the event loop of the scheduler."""

    def __init__(
        self,
        options: Options,
        scheduler: Scheduler,
        places: Mapping[str, str],
        failures: Failures,
    ) -> None:
        counts = TaskCounts(scheduler)
        scheduler.add_plugin(counts)
        call_before_close(scheduler, self._stop_counting)
        self._scheduler = scheduler
        self._timeout = options.shutdown_timeout / 2
        self._writing = threading.Lock()
        self._finished = False
        self._tasks: list[asyncio.Task[None]] = []
        self._summary: Summary | None = None
        if options.summary is not None:
            self._file = summary_file(options.summary)
            self._summary = Summary(scheduler, counts, places, failures)
            self._tasks.append(asyncio.create_task(self._keep_summary(self._summary)))
        if options.progress is not None:
            progress = Progress(scheduler, counts, options.progress, places)
            self._tasks.append(asyncio.create_task(progress.run()))

    def _stop_counting(self) -> None:
        """Take a last sample: what happens to tasks while the scheduler closes does not count."""
        if self._summary is not None:
            self._summary.sample()
        self._scheduler.remove_plugin(TaskCounts.name)

    async def _keep_summary(self, summary: Summary) -> None:
        """Write it again and again, so that a job that is killed has one.

        At first that is after each sample, then ever less often.
        """
        age, next_writing = 0, 0
        writing: threading.Thread | None = None
        while True:
            summary.sample()
            if age >= next_writing and (writing is None or not writing.is_alive()):
                next_writing = age + min(age, _REWRITING)
                # In a thread: sampling goes on while a file system takes its time.
                writing = start_daemon_thread(self._write_meanwhile, summary)
            await asyncio.sleep(_SAMPLING)
            age += _SAMPLING

    def _write_meanwhile(self, summary: Summary) -> None:
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
            logger.warning("the summary can't be written: %s", self._file.explain(error))

    async def finish(self, status: int) -> None:
        """Write the summary for the last time, and log the gist."""
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
                logger.warning(
                    "the summary is not written within %g s: the last version is missing",
                    self._timeout,
                )
            for line in self._summary.lines():
                logger.info(line)
