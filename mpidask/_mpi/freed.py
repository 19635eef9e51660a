"""Tell a communicator that was freed from the COMM_NULL of a rank that was left out.

MPI makes the handle of a freed communicator COMM_NULL, so only memory can tell.
"""

from __future__ import annotations

import weakref
from typing import Any

#: What was a communicator when it was seen: the object, by its identity, and the rank in it.
_seen: dict[int, tuple[weakref.ref[Any], int]] = {}


def remember(comm: Any) -> None:
    """Take note of a communicator that the program has given, if it is one."""
    if hasattr(comm, "Idup") and comm:
        key = id(comm)
        forget = weakref.ref(comm, lambda _: _seen.pop(key, None))
        _seen[key] = forget, comm.Get_rank()


def rank_in_freed(comm: Any) -> int | None:
    """Give the rank that this process had in a communicator since freed, or None."""
    seen, rank = _seen.get(id(comm), (None, None))
    return rank if seen is not None and seen() is comm and not comm else None
