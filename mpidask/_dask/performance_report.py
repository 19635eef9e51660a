"""Dask's HTML report of a run, written now and then: a job that is killed has one, too."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpidask._dask.output_file import OutputFile
from mpidask._log import logger
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Client

    from mpidask._options import Options

#: Seconds before the report is written for the first time, and between two reports.
FIRST, INTERVAL = 60.0, 300.0
#: How Dask's reports begin.
_BEGINNING = re.compile(rb"\s*<!doctype html>.*<title>Dask Performance Report<", re.I | re.S)
#: The most of the time that may go into reports, which cost the scheduler time: up to some
#: seconds in a long job.
_SHARE = 0.01


class PerformanceReport:
    """Writes the report of the time since its start.

    Parameters
    ----------
    path : str
        The file.
    timeout : float
        Seconds that the last version may take.

    Raises
    ------
    MPIDaskError
        If the file can't be written.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._file = OutputFile(path, "performance report", _BEGINNING)
        self._file.check()
        self._timeout = timeout
        self._writing: asyncio.Task[None] | None = None

    async def start(self, client: Client, code: str) -> None:
        """Begin the time that the report is of, in the event loop of the client.

        Parameters
        ----------
        client : distributed.Client
        code : str
            The program, which the report shows.
        """
        from distributed import performance_report

        self._client, self._code = client, code
        self._report: Any = performance_report()
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
                logger.warning(
                    "could not write the performance report: %s: %s", type(error).__name__, error
                )
            pause = max(INTERVAL, (time.monotonic() - before) / _SHARE)

    async def _write(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # Dask writes it in the event loop, which no other file system may hold up.
            path = Path(folder, "report.html")
            self._report.filename = str(path)
            with self._client.as_current():
                await self._report.__aexit__(None, None, None, code=self._code)
            content = path.read_bytes()
        await to_daemon_thread(self._file.write, content)

    def can_be_finished(self) -> bool:
        """Tell whether there is a connection to the scheduler, which makes the report."""
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


def prepared(options: Options) -> PerformanceReport | None:
    """Give the report that the options ask for."""
    if options.performance_report is None:
        return None
    return PerformanceReport(options.performance_report, options.shutdown_timeout)


def code_of_the_program(client: Client) -> str:
    """Find the code that a performance report shows: the program's, not that of this module.

    `performance_report` can only count frames, and how many there are between its exit and
    the program differs. distributed's private search, which `Computation` uses, knows which
    modules to pass over.
    """
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
        frames = client._get_computation_code()
    return frames[0].code if frames else "<Code not available>"
