"""What this process holds of distributed arrays, and the tasks that get and replace it.

A rank and its worker are one process. So a task on that worker finds the rank's array, by a name
that all ranks have agreed on, and gets or replaces the array itself.
"""

from __future__ import annotations

import math
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError
from mpidask._gang import rank
from mpidask._text import name_rank

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Part:
    """A description of what a rank holds."""

    rank: int
    host: str
    #: None: it holds nothing.
    shape: tuple[int, ...] | None = None
    dtype: Any = None
    #: Increases when the array is replaced.
    version: int = 0
    #: The rank that gangs know the worker in this process by. Without an MPI job there may be none:
    #: the process of the client has the array.
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
    """Return the array of that name in this process."""
    local = _arrays.get(name)
    if local is None:
        raise MPIDaskError(
            f"a process on {socket.gethostname()} has no part of this DistributedArray: it is not "
            "that of a rank which made the handle, or the rank has dropped its handle"
        )
    return local


def describe(name: str) -> Part | None:
    """Describe the array of that name in the process of a worker, if there is one."""
    local, service = _arrays.get(name), rank.current()
    return None if local is None else local.describe(0 if service is None else service.rank)


# Gangs run the next two functions: they reach a rank whichever worker it has by then.


def get(comm: MPI.Intracomm, name: str, version: int) -> Any:
    """Return the array itself that this rank holds, unless it was replaced since this version."""
    local = find(name)
    if local.version != version:
        raise MPIDaskError(
            f"rank {local.rank} holds another array since from_dask(): make the collection again, "
            "by to_dask()"
        )
    return local.array


def replace_all(comm: MPI.Intracomm, name: str, declared: tuple[float, ...], block: Any) -> None:
    """Let each rank hold its block, if all have the shapes that are declared."""
    error = shape_error(block, declared)
    if not any(comm.allgather(error)):
        replace(name, block)
    elif error:
        raise ValueError(error)


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
