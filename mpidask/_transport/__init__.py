"""Bulk data between the ranks of a job by MPI: distributed's back end ``mpi://``.

A comm of this back end is a stream of distributed's own, TLS or TCP, that carries all small
messages. A large message between two ranks of one job goes like this::

    sender                                        receiver
    ------                                        --------
    write()   announcement: sizes, small frames ->
                                                  read()  takes buffers of its pool,
                                                          posts a receive for each
              <------------------- clear: the tag
    posts the sends      ======= MPI ========>
                                                  read()  returns the message

`write` waits for nothing, as it does on a stream; `close` waits for what was announced.
Whatever was cleared is sent and received to its end, also when one of the two closes the
comm meanwhile: so MPI is left with no message that nobody receives, and the stream stays
open until then. A stream that breaks tells that the other end is gone.

One thread of each rank moves the data, `mover.Mover`; no event loop calls MPI.

`enable` lets a rank take part, `disable` ends it. Any other process, a child of a nanny or
a client from outside, uses ``mpi://`` addresses with the stream alone, and needs no MPI.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from mpidask._transport import fabric as fabrics
from mpidask._transport.backend import Backend
from mpidask._transport.buffers import Pool
from mpidask._transport.probe import answer_probes, compare

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = [
    "Backend",
    "answer_probes",
    "buffer_pool",
    "compare",
    "disable",
    "enable",
    "limit_pool",
    "send_to",
    "traffic",
]


def enable(
    comm: MPI.Intracomm,
    *,
    job: str,
    peers: Container[int],
    threshold: int = 2 * 2**20,
    tags: Sequence[int] = range(20_002, 32_768),
    chunk: int = 2**25,
    pool: int = 2**29,
) -> None:
    """Let this rank send and receive by MPI. Connections made before stay as they are.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Its owner may use it too, with other tags; `disable` leaves it to its owner.
    job : str
        What the ranks of `comm`, and nobody else, share: it tells who is a rank of this job.
    peers : container of int
        The ranks that this one sends to by MPI. Receiving is not limited.
    threshold : int
        Bytes from which a message goes by MPI. 0: every message, for tests.
    tags : sequence of int
        Tags of the messages of `comm`; the same on all ranks. The default ends where MPI's
        guarantee does. There are as many transfers to a rank at once as there are tags.
    chunk : int
        Most bytes of one call of MPI, below 2 GiB. A rank sees progress with each that ends.
    pool : int
        Most bytes of free buffers that are kept to be used again.

    Raises
    ------
    RuntimeError
        It is enabled already.
    """
    from mpidask._transport.mover import Mover  # imports MPI, which initialises it

    if fabrics.current() is not None:
        raise RuntimeError("this process uses the transport already")
    mover = Mover(comm, tags, chunk)
    fabrics.replace(fabrics.Fabric(mover, job=job, peers=peers, threshold=threshold, pool=pool))


def send_to(peers: Container[int]) -> None:
    """Change the ranks that this one sends to by MPI, at any time, for all connections."""
    fabric = fabrics.current()
    if fabric is not None:
        fabric.peers = peers


def buffer_pool() -> Pool | None:
    """Give the buffers that this rank keeps to be used again, if it takes part."""
    fabric = fabrics.current()
    return None if fabric is None else fabric.pool


def limit_pool(nbytes: int) -> None:
    """Keep at most so many bytes of free buffers, if fewer than now."""
    fabric = fabrics.current()
    if fabric is not None:
        fabric.pool.limit = min(nbytes, fabric.pool.limit)


def traffic() -> dict[str, int]:
    """Give the bytes that this rank has ``sent`` and ``received`` by MPI, for tests."""
    fabric = fabrics.current()
    return {"sent": 0, "received": 0} if fabric is None else dict(fabric.traffic)


def disable(timeout: float) -> bool:
    """Use MPI no more; connections go on with their streams alone.

    Call it when the servers of this process are closed.

    Parameters
    ----------
    timeout : float
        Seconds that transfers under way have to end.

    Returns
    -------
    bool
        Whether MPI is done with all of them: the communicator may be freed. If not, another
        rank is dead or stopped, and the buffers of its transfers are kept for good.
    """
    fabric = fabrics.replace(None)
    return fabric is None or fabric.stop(timeout)
