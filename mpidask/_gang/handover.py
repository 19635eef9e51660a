"""A shared array becomes a Dask collection, and its blocks come back to the ranks.

Functions of gangs take and replace what ranks hold: so they reach the rank, whichever worker
it has by then, also when a result was lost with an earlier one.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError
from mpidask._gang import pieces, rank
from mpidask._gang.pieces import Piece
from mpidask._gang.submit import PerRank, submit_mpi

if TYPE_CHECKING:
    from distributed import Client, Future
    from mpi4py import MPI


@dataclass(frozen=True)
class Home:
    """A piece, and the rank of gangs that holds it.

    Without an MPI job that may be None: the process of the client has the array, and no worker.
    """

    piece: Piece
    rank: int | None


def _look(name: str) -> Home | None:
    """Tell what this process holds."""
    piece, here = pieces.look(name), rank.current()
    return None if piece is None else Home(piece, 0 if here is None else here.rank)


async def homes(client: Client, name: str, expected: Iterable[Piece], *, alone: bool) -> list[Home]:
    """Find the ranks that have a handle, in their order.

    Raises
    ------
    MPIDaskError
        If one that is expected is in no worker's process.
    """
    answers = (await client.run(_look, name, on_error="ignore")).values()
    found: dict[int, Home] = {home.piece.rank: home for home in answers if home is not None}
    if alone and not found:
        found = {0: Home(pieces.find(name).describe(), None)}
    missing = [piece for piece in expected if piece.rank not in found]
    if missing or not found:
        raise MPIDaskError(
            f"no worker has the array of {', '.join(map(str, missing)) or 'any rank'}. The ranks "
            "of the scheduler and of the client have a worker with exclusive_workers=False "
            "only; else give Shared(None) there. And each rank must keep its handle until the "
            "block ends"
        )
    return [found[number] for number in sorted(found)]


async def to_dask(client: Client, name: str, homes: Sequence[Home], axis: int) -> Any:
    """Give the arrays that ranks hold as one collection, with a chunk each."""
    from dask.array import Array

    shapes = [home.piece.shape for home in homes]
    chunks: list[tuple[int, ...]] = [(length,) for length in shapes[0] or ()]
    chunks[axis] = tuple(shape[axis] for shape in shapes if shape is not None)
    token = uuid.uuid4().hex
    if homes[0].rank is None:
        futures = [await client.scatter(pieces.find(name).array, hash=False)]
    else:
        versions = PerRank(home.piece.version for home in homes)
        futures = _gang(client, f"take-{token}", homes, _take, name, versions)
        await _done(client, futures)
    graph = {
        (f"shared-{token}", *(n if other == axis else 0 for other in range(len(chunks)))): future
        for n, future in enumerate(futures)
    }
    return Array(graph, f"shared-{token}", tuple(chunks), homes[0].piece.dtype)


async def keep(client: Client, name: str, homes: Sequence[Home], collection: Any) -> None:
    """Compute the blocks of a collection, and let each rank hold one."""
    from dask.core import flatten
    from distributed import futures_of

    persisted = client.persist(collection)
    futures = {future.key: future for future in futures_of(persisted)}
    blocks = [futures[key] for key in flatten(persisted.__dask_keys__())]
    await _done(client, blocks)
    declared = list(itertools.product(*collection.chunks))
    if homes[0].rank is None:
        block = await blocks[0]
        if problem := pieces.misfit(block, declared[0]):
            raise ValueError(problem)
        pieces.replace(name, block)
    else:
        key, each = f"keep-{uuid.uuid4().hex}", (PerRank(declared), PerRank(blocks))
        await _done(client, _gang(client, key, homes, _replace, name, *each))


def _gang(client: Client, key: str, homes: Sequence[Home], *call: Any) -> list[Future[Any]]:
    ranks = [home.rank for home in homes if home.rank is not None]
    return submit_mpi(*call, ranks=ranks, client=client, key=key)


def _take(comm: MPI.Intracomm, name: str, version: int) -> Any:
    return pieces.take(name, version)


def _replace(comm: MPI.Intracomm, name: str, declared: tuple[float, ...], block: Any) -> None:
    problem = pieces.misfit(block, declared)
    if not any(comm.allgather(problem)):
        pieces.replace(name, block)
    elif problem:
        raise ValueError(problem)


async def _done(client: Client, futures: Sequence[Future[Any]]) -> None:
    """Wait for tasks, and raise the error of the first that failed."""
    from distributed import wait

    with client.as_current():
        await wait(futures)
    for future in futures:
        if future.status != "finished":
            await future


def check_blocks(collection: Any, homes: Sequence[Home], axis: int) -> None:
    """Raise if the blocks of a collection are not one for each rank, of the right lengths.

    Raises
    ------
    TypeError, ValueError
    """
    if not hasattr(collection, "numblocks"):
        raise TypeError(f"keep() takes a dask.array.Array, not {type(collection).__name__}")
    numblocks = tuple(
        len(homes) if other == axis else 1 for other in range(max(collection.ndim, axis + 1))
    )
    if collection.numblocks != numblocks:
        raise ValueError(
            f"the collection has {collection.numblocks} blocks, and {len(homes)} ranks can keep "
            f"{numblocks}: one each along axis {axis}. rechunk() it"
        )
    shapes = [home.piece.shape for home in homes]
    lengths = tuple(shape[axis] for shape in shapes if shape is not None)
    if lengths and collection.chunks[axis] != lengths:
        raise ValueError(
            f"the blocks have the lengths {collection.chunks[axis]} along axis {axis}, and the "
            f"pieces {lengths}: rechunk({{{axis}: {lengths}}}) it, or keep it by another "
            "handle, made as Shared(None) on all ranks"
        )
