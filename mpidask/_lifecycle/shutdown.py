"""The end of a cluster, on the leader: it waits for all ranks, and names those that don't stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from mpidask._lifecycle.messages import Done, End
from mpidask._lifecycle.startup import Startup, some_of
from mpidask._log import logger
from mpidask._mpi import job_exit
from mpidask._waiting import WaitNotice

#: Seconds beyond `shutdown_timeout` that members have to report.
REPORT_GRACE = 5


class Shutdown:
    """Waits until all ranks have reported that they have stopped.

    Parameters
    ----------
    order : End
        What they were sent.
    startup : Startup
        What the leader knows about the ranks.
    timeout : float
        Seconds that running tasks may delay the end.
    """

    def __init__(self, order: End, startup: Startup, timeout: float) -> None:
        self._order = order
        self._startup = startup
        self._timeout = timeout
        self._busy = set(range(startup.size))

    async def wait(self, hear: Callable[[], Awaitable[tuple[int, object]]]) -> None:
        """Receive the reports; end the job if some ranks don't answer."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with WaitNotice(self._notice):
                await asyncio.wait_for(self._collect(hear), self._timeout + REPORT_GRACE)
        if self._busy:
            self._give_up()

    async def _collect(self, hear: Callable[[], Awaitable[tuple[int, object]]]) -> None:
        while self._busy:
            rank, message = await hear()
            if isinstance(message, Done):
                self._busy.discard(rank)
                if message.transfers_stuck:
                    end_job(
                        self._order, f"transfers by MPI on {self._startup.place(rank)} don't end"
                    )
                if message.gangs_stuck:
                    place = self._startup.place(rank)
                    end_job(self._order, f"a function of submit_mpi on {place} does not end")
                elif message.stuck:
                    logger.warning(
                        "left behind on %s after %g s (shutdown_timeout), still running: %s",
                        self._startup.place(rank),
                        self._timeout,
                        ", ".join(message.stuck),
                    )

    def _notice(self, waited: int) -> str:
        return f"ending for {waited} s: no answer from {self._places()} yet"

    def _places(self) -> str:
        return some_of(self._busy, self._startup.place)

    def _give_up(self) -> None:
        end_job(
            self._order,
            f"no answer from {self._places()} within {self._timeout:g} s (shutdown_timeout): "
            "dead, or in a call that does not let Python run",
        )


def end_job(order: End, reason: str) -> None:
    """Abort the job of a cluster that does not end as ordered."""
    # A program that goes on would use MPI, and wait for dead ranks.
    goes_on = not order.leave and order.status == 0
    job_exit.end_job(reason, order.status if order.leave else 1, at_once=goes_on)
