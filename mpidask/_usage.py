"""Whether this process is inside a cluster, or past the only one it may have."""

from __future__ import annotations

from mpidask._errors import MPIDaskError

_inside = False
_left = False


def check() -> None:
    """Raise `MPIDaskError` if no cluster may start now."""
    if _inside:
        raise MPIDaskError("this program is inside an mpidask cluster already: they don't nest")
    if _left:
        raise MPIDaskError(
            "the other ranks of this job have left after the first cluster. "
            "Give exit=False to every use, and a job can have several"
        )


def entered() -> None:
    """Note that a cluster starts."""
    global _inside
    check()
    _inside = True


def ended(*, left: bool) -> None:
    """Note that the cluster has ended, and whether the job's ranks have left."""
    global _inside, _left
    _inside = False
    _left = _left or left
