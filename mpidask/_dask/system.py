"""The limits of this machine, where Dask knows of them."""

from __future__ import annotations

from mpidask._placement.limits import granted_memory


def cpu_quota() -> int | None:
    """Give how many CPUs the cgroup of this process may keep busy, if that is limited."""
    # dask.system.CPU_COUNT, which is public, mixes the cgroup's quota with the affinity
    # mask; for ranks bound to CPUs of their own the quota alone is what they share.
    from dask import system

    extract = getattr(system, "_try_extract_cgroup_cpu_quota", lambda: (None, None))
    quota, period = extract()
    return max(1, quota // period) if quota and period and quota > 0 else None


def memory_limit() -> int:
    """Give the bytes that the ranks of this machine may use together.

    What `distributed.system.MEMORY_LIMIT` says, or less: that looks at the outermost
    cgroup alone.
    """
    from distributed.system import MEMORY_LIMIT

    return min([MEMORY_LIMIT, *granted_memory()])
