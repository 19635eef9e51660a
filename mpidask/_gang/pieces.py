"""What the ranks hold of shared arrays, and the tasks that take and replace it.

A rank and its worker are one process. So a task on that worker finds what the rank holds,
by a name that all ranks have agreed on, and gets or puts the array itself.
"""

from __future__ import annotations

import math
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpidask._errors import MPIDaskError


@dataclass(frozen=True)
class Piece:
    """A description of what a rank holds.

    Attributes
    ----------
    rank : int
    host : str
    shape : tuple of int, or None
        None: it holds nothing.
    dtype : numpy.dtype, or None
    version : int
        Tells this array from others that the rank has held before.
    """

    rank: int
    host: str
    shape: tuple[int, ...] | None = None
    dtype: Any = None
    version: int = 0

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"


class Holder:
    """Holds this rank's piece of a shared array."""

    def __init__(self, rank: int, array: Any) -> None:
        self.rank = rank
        self.array = array
        self.version = 0

    def describe(self) -> Piece:
        """Describe what is held. An empty array is nothing."""
        host = socket.gethostname()
        if self.array is None or not self.array.size:
            return Piece(self.rank, host, version=self.version)
        return Piece(self.rank, host, self.array.shape, self.array.dtype, self.version)


#: The holders of this process. They live as long as the program keeps its handles.
_holders: weakref.WeakValueDictionary[str, Holder] = weakref.WeakValueDictionary()


def register(name: str, holder: Holder) -> None:
    """Let tasks of this process find a holder, as long as it lives."""
    _holders[name] = holder


def find(name: str) -> Holder:
    """Give the holder of this process.

    Raises
    ------
    MPIDaskError
        If there is none of that name.
    """
    holder = _holders.get(name)
    if holder is None:
        raise MPIDaskError(
            f"a process on {socket.gethostname()} has no piece of this Shared array: it is that "
            "of no rank which made the handle, or the rank has dropped its handle"
        )
    return holder


def look(name: str) -> Piece | None:
    """Describe what this process holds, if it has such a holder."""
    holder = _holders.get(name)
    return None if holder is None else holder.describe()


def take(name: str, version: int) -> Any:
    """Give the array that this process holds, itself.

    Raises
    ------
    MPIDaskError
        If it is another one by now.
    """
    holder = find(name)
    if holder.version != version:
        raise MPIDaskError(
            f"rank {holder.rank} holds another array since keep(): make the collection again, "
            "by to_dask()"
        )
    return holder.array


def misfit(block: Any, declared: Sequence[float]) -> str:
    """Say so if a block has not the shape that its collection declares; NaN is any length."""
    shape = getattr(block, "shape", ())
    if len(shape) == len(declared) and all(
        math.isnan(length) or length == found for length, found in zip(declared, shape, strict=True)
    ):
        return ""
    return (
        f"a block has the shape {shape}, and the collection says {tuple(declared)}: nothing is "
        "kept. Tell map_blocks() its chunks="
    )


def replace(name: str, block: Any) -> None:
    """Let this process hold a block: itself, if MPI can use it as it is."""
    import numpy as np

    block = np.asanyarray(block)
    contiguous = block.flags.c_contiguous or block.flags.f_contiguous
    holder = find(name)
    holder.array = block if contiguous and block.flags.writeable else block.copy()
    holder.version += 1
