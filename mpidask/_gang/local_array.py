"""What this process holds of distributed arrays, for the tasks that run in it.

A rank and its worker are one process. So a task on that worker finds the rank's array, by a name
that all ranks have agreed on, and gets or replaces the array itself.
"""

from __future__ import annotations

import math
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpidask._errors import MPIDaskError
from mpidask._text import name_rank


@dataclass(frozen=True)
class Part:
    """A description of what a rank holds.

    Attributes
    ----------
    rank : int
    host : str
    shape : tuple of int, or None
        None: it holds nothing.
    dtype : numpy.dtype, or None
    version : int
        Increases when the array is replaced.
    worker_rank : int, optional
        The rank that gangs know the worker in this process by. Without an MPI job there may be
        none: the process of the client has the array.
    """

    rank: int
    host: str
    shape: tuple[int, ...] | None = None
    dtype: Any = None
    version: int = 0
    worker_rank: int | None = None

    def __str__(self) -> str:
        return name_rank(self.rank, self.host)


class LocalArray:
    """A distributed array's part on this rank."""

    def __init__(self, rank: int, array: Any) -> None:
        self.rank = rank
        self.array = array
        self.version = 0

    def describe(self, worker_rank: int | None = None) -> Part:
        """Describe it. An empty array counts as none."""
        shape = dtype = None
        if self.array is not None and self.array.size:
            shape, dtype = self.array.shape, self.array.dtype
        return Part(self.rank, socket.gethostname(), shape, dtype, self.version, worker_rank)


#: Those of this process, as long as the program keeps the distributed arrays.
_arrays: weakref.WeakValueDictionary[str, LocalArray] = weakref.WeakValueDictionary()


def register(name: str, array: LocalArray) -> None:
    """Let tasks in this process find an array, as long as it lives."""
    _arrays[name] = array


def find(name: str) -> LocalArray:
    """Return the array of that name in this process.

    Raises
    ------
    MPIDaskError
        If there is none.
    """
    local = _arrays.get(name)
    if local is None:
        raise MPIDaskError(
            f"a process on {socket.gethostname()} has no part of this DistributedArray: it is not "
            "that of a rank which made the handle, or the rank has dropped its handle"
        )
    return local


def describe(name: str, worker_rank: int | None = None) -> Part | None:
    """Describe the array of that name in this process, if there is one."""
    local = _arrays.get(name)
    return None if local is None else local.describe(worker_rank)


def get(name: str, version: int) -> Any:
    """Return the array that this process holds, itself.

    Raises
    ------
    MPIDaskError
        If it has been replaced since this version.
    """
    local = find(name)
    if local.version != version:
        raise MPIDaskError(
            f"rank {local.rank} holds another array since from_dask(): make the collection again, "
            "by to_dask()"
        )
    return local.array


def replace(name: str, block: Any) -> None:
    """Let this process hold a block, or a copy where MPI can't use the block as it is."""
    import numpy as np

    block = np.asanyarray(block)
    contiguous = block.flags.c_contiguous or block.flags.f_contiguous
    local = find(name)
    local.array = block if contiguous and block.flags.writeable else block.copy()
    local.version += 1


def shape_error(block: Any, declared: Sequence[float]) -> str:
    """Return what is wrong with the shape of a block; a declared length of NaN is any."""
    shape = getattr(block, "shape", ())
    if len(shape) == len(declared) and all(
        math.isnan(length) or length == found for length, found in zip(declared, shape, strict=True)
    ):
        return ""
    return (
        f"a block has the shape {shape}, and the collection says {tuple(declared)}: nothing is "
        "kept. Tell map_blocks() its chunks="
    )
