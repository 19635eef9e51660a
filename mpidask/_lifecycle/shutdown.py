"""Abort the job of a cluster that does not end as ordered."""

from __future__ import annotations

from mpidask._lifecycle.messages import End
from mpidask._log import logger
from mpidask._mpi import job_exit


def end_job(order: End, reason: str) -> None:
    """Abort the job of a cluster that does not end as ordered, and say why."""
    status = order.status if order.leave else 1
    logger.error("%s. Ending the job with exit status %d", reason, status)
    # Is there an end, or an error, to come to? What would follow in a program that goes
    # on is MPI, and would wait for the dead.
    leaves = order.leave or order.status != 0
    job_exit.abort_at_exit(status, at_once=not leaves)
