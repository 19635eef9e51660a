"""How much memory the operating system and the batch system grant to this machine's ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def granted_memory(
    environ: Mapping[str, str] = os.environ,
    groups: Path = Path("/proc/self/cgroup"),
    mounted: Path = Path("/sys/fs/cgroup"),
) -> Iterator[int]:
    """Yield, in bytes, every limit there is for the ranks of this machine together.

    A batch system limits a job by a cgroup, often not the outermost, or only says what it
    has granted (``SLURM_MEM_PER_NODE`` and ``SLURM_MEM_PER_CPU``, in MiB).
    """
    yield from _cgroup_limits(groups, mounted)
    yield from _slurm_limits(environ)


def _cgroup_limits(groups: Path, mounted: Path) -> Iterator[int]:
    """Read the limits of all cgroups this process is in (see cgroups(7))."""
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
