"""Whether this process may start a cluster: not inside another, nor once ranks have left."""

from __future__ import annotations

import sys

from mpidask._broadcast import copies
from mpidask._errors import MPIDaskError
from mpidask._gang import protocol
from mpidask._log import logger

_inside = False
_left = False
_would_have_left = False
_warned = False


def check() -> None:
    """Raise `MPIDaskError` if no cluster may start now."""
    if _inside:
        raise MPIDaskError(
            "this program runs inside an mpidask cluster already: clusters can't be nested"
        )
    if _left:
        raise MPIDaskError(
            "the other ranks of this job have left, after the first cluster or because it did not "
            "start. For several clusters in one job, give exit=False to each"
        )


def entered() -> None:
    """Record that a cluster starts."""
    global _inside
    check()
    _inside = True


def ended_locally(*, would_leave: bool) -> None:
    """Record that a LocalCluster has ended, and whether ranks of an MPI job would leave now."""
    global _would_have_left
    ended(left=False)
    _would_have_left = would_leave


def warn_if_only_local() -> None:
    """Warn once, except in a notebook, if this cluster could not start in an MPI job."""
    global _warned
    if _would_have_left and not _warned and not hasattr(sys, "ps1"):
        _warned = True
        logger.warning(
            "in an MPI job, this second cluster fails: the other ranks leave after the first, "
            "unless every use has exit=False"
        )


def ended(*, left: bool) -> None:
    """Record that the cluster has ended, and whether the other ranks have left the program."""
    global _inside, _left
    _inside = False
    _left = _left or left
    protocol.forget()
    copies.release_all()
