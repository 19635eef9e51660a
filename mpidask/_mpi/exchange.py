"""What each rank has to say, told to all."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

from mpidask._waiting import backoff, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds between looks, at most.
_LONGEST_PAUSE = 0.02


def allgather(comm: MPI.Intracomm, item: object, what: str) -> list[Any]:
    """Give the items of all ranks, in their order.

    A collective call that does not spin. Where it takes long, it says for `what` it waits.
    """
    from mpi4py import MPI

    said = f"rank {comm.Get_rank()} waits for other ranks to reach {what}"
    speaks = comm.Get_rank() < 2  # one of them may be the rank that is missing
    data = pickle.dumps(item)
    length, lengths = _integers(1), _integers(comm.Get_size())
    length[0] = len(data)
    request = comm.Iallgather([length, MPI.INT64_T], [lengths, 1, MPI.INT64_T])
    wait(request, said if speaks else None, backoff(_LONGEST_PAUSE))
    gathered = bytearray(sum(lengths))
    request = comm.Iallgatherv([data, MPI.BYTE], [gathered, list(lengths), None, MPI.BYTE])
    wait(request, None, backoff(_LONGEST_PAUSE))
    return [
        pickle.loads(gathered[end - size : end])
        for end, size in zip(itertools.accumulate(lengths), lengths, strict=True)
    ]


def _integers(number: int) -> memoryview[int]:
    return memoryview(bytearray(8 * number)).cast("q")
