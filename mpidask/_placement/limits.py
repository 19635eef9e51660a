"""What the operating system and the batch system grant a job: memory and time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

#: For batch systems that don't tell a job when it will be ended: set by the user's script, in
#: seconds since the epoch, as Slurm's variable.
END_VARIABLE = "MPIDASK_JOB_END_TIME"
#: The year 6300: larger numbers are something else, such as milliseconds.
_LATEST = 2.0**37


def granted_memory(
    environ: Mapping[str, str] = os.environ,
    groups: Path = Path("/proc/self/cgroup"),
    mounted: Path = Path("/sys/fs/cgroup"),
) -> Iterator[int]:
    """Yield all limits, in bytes, for the ranks of this machine together.

    A batch system limits a job by a cgroup, often not the outermost one, or only announces the
    limit (``SLURM_MEM_PER_NODE`` and ``SLURM_MEM_PER_CPU``, in MiB).
    """
    yield from _cgroup_limits(groups, mounted)
    yield from _slurm_limits(environ)


def _cgroup_limits(groups: Path, mounted: Path) -> Iterator[int]:
    """Read the limits of all cgroups of this process (see cgroups(7))."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        innermost = root / path.lstrip("/")
        for group in (innermost, *innermost.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit: "max"
                yield int((group / name).read_text())
            if group == root:
                break


def _slurm_limits(environ: Mapping[str, str]) -> Iterator[int]:
    def number(name: str) -> int:
        text = environ.get(name, "")
        return int(text) if text.isdecimal() else 0

    per_node, per_cpu = number("SLURM_MEM_PER_NODE"), number("SLURM_MEM_PER_CPU")
    for megabytes in (per_node, per_cpu * number("SLURM_CPUS_ON_NODE")):
        if megabytes:  # 0 is no limit
            yield megabytes * 2**20


def _start_on_this_node() -> float:
    """Return when this user's part of the job began on this node, in seconds since the epoch.

    That is the start of the oldest ancestor of this process that has the same user: the batch
    script, or on other nodes the launcher's daemon.
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
    """Return the time at which the job will be ended, in seconds since the epoch, if known.

    Slurm sets it (``SLURM_JOB_END_TIME``). Torque sets the job's wall time (``PBS_WALLTIME``, in
    seconds). LSF and other kinds of PBS set neither, so the user's script may
    (``MPIDASK_JOB_END_TIME``, seconds since the epoch).

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
