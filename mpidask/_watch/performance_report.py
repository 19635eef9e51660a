"""Dask's performance report of a run, rewritten regularly: a job that is killed has one too."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from mpidask._compat.distributed import calling_code
from mpidask._dask.atomic_file import AtomicFile
from mpidask._dask.client import logged
from mpidask._log import logger
from mpidask._text import describe
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Client

    from mpidask._options import Options

#: Seconds before the report is written for the first time, and between two reports.
FIRST, INTERVAL = 60.0, 300.0
#: What is within the first bytes of Dask's reports, and how many those are.
_BEGINNING = re.compile(rb"\s*<!doctype html>.*<title>Dask Performance Report<", re.I | re.S)
_HEAD = 4096
#: The share of the time that reports may take: in a long job, each costs the scheduler seconds.
_SHARE = 0.01
#: Where distributed writes the report, which takes any URL of fsspec's.
_IN_MEMORY = "memory://mpidask-performance-report.html"


@contextlib.contextmanager
def reported(client: Client, options: Options) -> Iterator[None]:
    """Write the performance report of a block, if the options ask for one."""
    if options.performance_report is None:
        yield
        return
    report = PerformanceReport(options.performance_report, options.shutdown_timeout)
    client.sync(report.start, client, program_code(client))
    try:
        yield
    finally:
        with logged("write the performance report"):
            if report.can_be_finished():
                client.sync(report.finish)


@contextlib.asynccontextmanager
async def reported_async(client: Client, options: Options) -> AsyncIterator[None]:
    """Do the same as `reported` for a client of the running event loop."""
    if options.performance_report is None:
        yield
        return
    path, timeout = options.performance_report, options.shutdown_timeout
    # The file system must not block the user's event loop.
    report = await to_daemon_thread(PerformanceReport, path, timeout)
    await report.start(client, program_code(client))
    try:
        yield
    finally:
        with logged("write the performance report"):
            if report.can_be_finished():
                await report.finish()


class PerformanceReport:
    """Writes a report of the time since its start, for the last time within a timeout.

    Raises `MPIDaskError` if the file can't be written.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._file = AtomicFile(path, "performance report", _is_report)
        self._file.prepare()
        self._timeout = timeout
        self._writing: asyncio.Task[None] | None = None

    async def start(self, client: Client, code: str) -> None:
        """Begin the time that the report covers, in the event loop of the client.

        The code is that of the program, which the report shows.
        """
        from distributed import performance_report

        self._client, self._code = client, code
        self._report: Any = performance_report(_IN_MEMORY)
        with client.as_current():
            await self._report.__aenter__()
        self._writing = asyncio.create_task(self._write_now_and_then())

    async def _write_now_and_then(self) -> None:
        pause = FIRST
        while True:
            await asyncio.sleep(pause)
            before = time.monotonic()
            try:
                await self._write()
            except Exception as error:
                logger.warning("could not write the performance report: %s", describe(error))
            pause = max(INTERVAL, (time.monotonic() - before) / _SHARE)

    async def _write(self) -> None:
        import fsspec

        with self._client.as_current():
            await self._report.__aexit__(None, None, None, code=self._code)
        memory = fsspec.filesystem("memory")
        content = memory.cat_file(_IN_MEMORY)
        memory.rm(_IN_MEMORY)
        await to_daemon_thread(self._file.write, content)

    def can_be_finished(self) -> bool:
        """Whether there still is a connection to the scheduler, which makes the report."""
        if self._client.status == "running":
            return True
        logger.warning(
            "the performance report %s lacks the end of the run: the program closed the client "
            "before",
            self._file.path,
        )
        return False

    async def finish(self) -> None:
        """Write the report for the last time."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        try:
            await asyncio.wait_for(self._write(), self._timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"no answer of the scheduler or the disk for {self._timeout:g} s"
            ) from None


def _is_report(content: bytes) -> bool:
    return bool(_BEGINNING.match(content[:_HEAD]))


def program_code(client: Client) -> str:
    """Return the code that a report shows: the program's, not mpidask's."""
    import dask

    settings = "distributed.diagnostics.computations"
    modules = dask.config.get(f"{settings}.ignore-modules")
    files = dask.config.get(f"{settings}.ignore-files")
    with dask.config.set(
        {
            f"{settings}.ignore-modules": [*modules, "mpidask", "contextlib", "wrapt", "click"],
            f"{settings}.ignore-files": [*files, "mpidask/__main__"],
        }
    ):
        return calling_code(client)
