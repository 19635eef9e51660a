"""Bulk data between the ranks of a job by MPI: distributed's back end ``mpi://``.

A comm of this back end is one of distributed's streams, TLS or TCP, that carries all small
messages. A large message between two ranks of one job goes by a rendezvous protocol::

    sender                                        receiver
    ------                                        --------
    write()   request to send: sizes, small frames ->
                                                  read()  takes buffers from its pool,
                                                          posts a receive for each
              <------------- clear to send: the tag
    posts the sends      ======= MPI ========>
                                                  read()  returns the message

`write` never waits, as on a stream; `close` waits for pending sends. What is clear to send is
sent and received to its end, even if one of the two closes the comm meanwhile, so MPI is left with
no unmatched message; the stream stays open until then. A stream that breaks means that the peer
is gone.

One thread of each rank moves the data, `progress_thread.ProgressThread`; no event loop calls MPI.

`enable` lets a rank take part, `disable` ends it. Any other process, a child of a nanny or
a client from outside, uses ``mpi://`` addresses with the stream alone, and needs no MPI.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from mpidask._transport import context as contexts
from mpidask._transport.backend import Backend
from mpidask._transport.buffer_pool import BufferPool
from mpidask._transport.probe import answer_probes, compare

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = [
    "Backend",
    "answer_probes",
    "compare",
    "current_pool",
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
    """Let this rank send and receive by MPI. Existing connections stay as they are.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The caller may use it too, with other tags, and frees it after `disable`.
    job : str
        Identifier shared by the ranks of `comm` alone, by which they recognize each other.
    peers : container of int
        The ranks to which this one sends by MPI. Receiving is not limited.
    threshold : int
        Bytes from which a message goes by MPI. 0, for tests: every message.
    tags : sequence of int
        Tags to use on `comm`, the same on all ranks: at most as many transfers to a rank at once.
        The default ends at the largest tag that MPI guarantees.
    chunk : int
        Most bytes of one MPI call, below 2 GiB. Each that completes counts as progress.
    pool : int
        Most bytes of free buffers to keep for reuse.

    Raises
    ------
    RuntimeError
        The transport is already enabled.
    """
    from mpidask._transport.progress_thread import (
        ProgressThread,  # imports MPI, which initialises it
    )

    if contexts.current() is not None:
        raise RuntimeError("the transport is already enabled in this process")
    progress = ProgressThread(comm, tags, chunk)
    contexts.replace(
        contexts.Context(progress, job=job, peers=peers, threshold=threshold, pool=pool)
    )


def send_to(peers: Container[int]) -> None:
    """Change the ranks to which this one sends by MPI, for all connections."""
    context = contexts.current()
    if context is not None:
        context.peers = peers


def current_pool() -> BufferPool | None:
    """Return the receive buffers of this rank, if the transport is enabled."""
    context = contexts.current()
    return None if context is None else context.pool


def limit_pool(nbytes: int) -> None:
    """Lower the limit of free buffers that are kept to this many bytes."""
    context = contexts.current()
    if context is not None:
        context.pool.limit = min(nbytes, context.pool.limit)


def traffic() -> dict[str, int]:
    """Return the bytes that this rank has ``sent`` and ``received`` by MPI, for tests."""
    context = contexts.current()
    return {"sent": 0, "received": 0} if context is None else dict(context.progress.traffic)


def disable(timeout: float) -> bool:
    """Stop using MPI; existing connections go on with their streams alone.

    Call it after the servers of this process were closed.

    Parameters
    ----------
    timeout : float
        Seconds for transfers under way to end.

    Returns
    -------
    bool
        Whether all of them have ended, so that the communicator may be freed. If not, another
        rank is dead or stopped, and the buffers of its transfers are kept for good.
    """
    context = contexts.replace(None)
    return context is None or context.progress.stop(timeout)
