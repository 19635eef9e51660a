"""When the batch system will end the job, as far as it tells."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

#: What a batch script sets where the batch system itself does not tell: the time at
#: which the job will be ended, in seconds since the epoch, as Slurm's variable has it.
END_VARIABLE = "MPIDASK_JOB_END_TIME"
#: No job ends after the year 6300: more seconds are something else, such as milliseconds.
_LATEST = 2.0**37


def _start_on_this_node() -> float:
    """Give the time, in seconds since the epoch, when this user's part of the job began here.

    That is the start of the oldest of the processes above this one that are of the same
    user: the batch script, or the launcher on another node.
    """
    import psutil

    process = psutil.Process()
    user, start = process.uids().real, float(process.create_time())
    for parent in process.parents():
        if parent.uids().real == user and parent.pid != 1:
            start = float(parent.create_time())
    return start


def end_of_allocation(
    environ: Mapping[str, str] = os.environ, started: Callable[[], float] = _start_on_this_node
) -> float | None:
    """Give the time at which the job will be ended, in seconds since the epoch.

    Slurm tells it (``SLURM_JOB_END_TIME``). Torque tells how long the job may take
    (``PBS_WALLTIME``, in seconds). LSF and other kinds of PBS tell nothing to the job, so
    its script may (``MPIDASK_JOB_END_TIME``, seconds since the epoch).

    Returns
    -------
    float or None
        None if nothing tells.

    Examples
    --------
    >>> end_of_allocation({"SLURM_JOB_END_TIME": "1700003600"})
    1700003600.0
    """
    for name in (END_VARIABLE, "SLURM_JOB_END_TIME"):
        if (end := _seconds(environ.get(name, ""))) is not None:
            return end
    duration = _seconds(environ.get("PBS_WALLTIME", ""))
    return None if duration is None else started() + duration


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() and float(text) < _LATEST else None
