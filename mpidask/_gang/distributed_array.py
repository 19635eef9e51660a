"""Arrays that the ranks of an MPI program hold, as a Dask array and back, without a copy."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError
from mpidask._gang import local_array
from mpidask._gang.local_array import LocalArray, Part
from mpidask._gang.protocol import ranks_of
from mpidask._gang.submit import PerRank, submit_mpi, wait_for
from mpidask._mpi import job_exit
from mpidask._mpi.collectives import allgather
from mpidask._mpi.initialize import communicator
from mpidask._waiting import Deadline

if TYPE_CHECKING:
    from distributed import Client, Future
    from mpi4py import MPI

#: Seconds that MPI may take to initialize, where the program has not done so.
_MPI_TIMEOUT = 300


class DistributedArray:
    """An array whose parts the ranks hold, handed to Dask and back without a copy.

    All ranks of a program with ``exit=False`` make this object, the handle, together and
    before the block. In the block, `to_dask` returns a `dask.array.Array` whose chunks are the
    ranks' arrays themselves, and `from_dask` leaves the chunks of a Dask array on the ranks.
    After the block, `local` is the part of this rank.

    ``mpidask.Shared`` is another name of this class.

    Parameters
    ----------
    array : numpy.ndarray, or None
        The part of this rank; None or an empty array if it has none. A rank without a
        worker, such as those of the scheduler and of the client with
        ``exclusive_workers=True``, can't have a part. If all ranks pass None, `from_dask` hands
        a chunk to each rank with a worker.
    axis : int
        The axis along which the parts, in the order of the ranks, make up the array.
    comm : mpi4py.MPI.Intracomm, optional
        The communicator whose ranks make the handle: that of the cluster. Default:
        COMM_WORLD. A rank with COMM_NULL takes no part, and keeps its array as `local`.

    Raises
    ------
    TypeError, ValueError
        On all ranks, if one passes something else, or if the parts don't fit together.
    MPIDaskError
        If it is made inside a block.

    Notes
    -----
    Making a handle is a collective call. You can send a handle to a task or to an MPI
    function: there, ``handle.local`` is the part of the rank that runs it.

    A chunk is the rank's array: what Dask or the rank writes into it, the other one sees.
    If a worker runs out of memory, Dask writes chunks to disk, and reads them back as copies.

    Without an MPI job the array is one chunk, which is copied to a worker, and back.

    Examples
    --------
    >>> import numpy as np
    >>> from mpidask import DistributedArray, mpi_dask
    >>> u = DistributedArray(np.arange(4.0))
    >>> with mpi_dask(exit=False, exclusive_workers=False, dashboard=False) as client:
    ...     if client is not None:
    ...         x = u.to_dask(client)
    ...         u.from_dask(client, x - x.mean())
    >>> u.local
    array([-1.5, -0.5,  0.5,  1.5])
    """

    __module__ = "mpidask"  # where users import it from, and pickles refer to

    def __init__(self, array: Any, axis: int = 0, *, comm: MPI.Intracomm | None = None) -> None:
        if job_exit.cluster_runs():
            raise MPIDaskError(
                "make a DistributedArray on all ranks before the block, not within it"
            )
        left_out = comm is not None and not comm  # COMM_NULL
        ranks = None if left_out else communicator(Deadline(_MPI_TIMEOUT), comm)
        self._local = LocalArray(0 if ranks is None else ranks.Get_rank(), array)
        own = uuid.uuid4().hex, *_examine(self._local), axis
        gathered = [own] if ranks is None else allgather(ranks, own, "mpidask.DistributedArray")
        names, parts, errors, axes = zip(*gathered, strict=True)
        for error in filter(None, errors):
            raise TypeError(error)
        self._name: str = names[0]
        self._is_alone = len(gathered) == 1
        self._parts: list[Part] = [part for part in parts if part.shape is not None]
        self._axis = _common_axis(self._parts, axes)
        local_array.register(self._name, self._local)

    def __repr__(self) -> str:
        part = self._local.describe()
        held = "nothing" if part.shape is None else f"{part.dtype}, shape {part.shape}"
        return f"<DistributedArray along axis {self._axis}; on {part}: {held}>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=local_array.find(state["_name"]))

    @property
    def local(self) -> Any:
        """The part of this rank: the array it passed, or the chunk that `from_dask` left here."""
        return self._local.array

    def to_dask(self, client: Client) -> Any:
        """Return the array as a Dask collection.

        Parameters
        ----------
        client : distributed.Client
            That of the cluster. If it is asynchronous, await the result.

        Returns
        -------
        dask.array.Array
            With one chunk for each rank that holds a part, on the worker of that rank.

        Raises
        ------
        MPIDaskError
            If a rank that holds a part has no worker in its process, or no rank holds one.
        """
        return _sync(client, self._to_dask)

    def from_dask(self, client: Client, collection: Any) -> Any:
        """Compute a Dask array, and let each rank hold one of its chunks from now on.

        A chunk that was computed elsewhere moves to its rank, and one that MPI can't use as
        it is (read-only, not contiguous) is copied. If a chunk can't be computed, the ranks
        hold what they held before.

        ``keep`` is another name of this method.

        Parameters
        ----------
        client : distributed.Client
            That of the cluster. If it is asynchronous, await the call.
        collection : dask.array.Array
            With one chunk for each rank that holds a part, of the same length as the part
            along the axis. The other lengths, and the data type, may differ.

        Raises
        ------
        TypeError, ValueError
            If the collection does not have such chunks.
        MPIDaskError
            If a rank that holds a part has no worker in its process.
        """
        return _sync(client, self._from_dask, collection)

    keep = from_dask

    async def _to_dask(self, client: Client) -> Any:
        from dask.array import Array

        parts = [part for part in await self._find_parts(client) if part.shape is not None]
        if not parts:
            raise MPIDaskError(
                "no rank holds a part of this DistributedArray yet: from_dask() comes first"
            )
        shapes = [part.shape or () for part in parts]
        chunks: list[tuple[int, ...]] = [(length,) for length in shapes[0]]
        chunks[self._axis] = tuple(shape[self._axis] for shape in shapes)
        name = f"distributed-array-{uuid.uuid4().hex}"
        graph = {
            (name, *(n if axis == self._axis else 0 for axis in range(len(chunks)))): future
            for n, future in enumerate(await self._chunks(client, parts))
        }
        return Array(graph, name, tuple(chunks), parts[0].dtype)

    async def _chunks(self, client: Client, parts: Sequence[Part]) -> list[Future[Any]]:
        if parts[0].worker_rank is None:
            return [await client.scatter(self._local.array, hash=False)]
        versions = PerRank(part.version for part in parts)
        futures = _submit(client, "to-dask", parts, local_array.get, self._name, versions)
        await wait_for(client, futures)
        return futures

    async def _from_dask(self, client: Client, collection: Any) -> None:
        parts = await self._find_parts(client)
        parts = [part for part in parts if part.shape is not None] or parts
        check_blocks(collection, parts, self._axis)
        blocks = await _computed_blocks(client, collection)
        declared = list(itertools.product(*collection.chunks))
        if parts[0].worker_rank is None:
            block = await blocks[0]
            if error := local_array.shape_error(block, declared[0]):
                raise ValueError(error)
            local_array.replace(self._name, block)
        else:
            each = PerRank(declared), PerRank(blocks)
            futures = _submit(
                client, "from-dask", parts, local_array.replace_all, self._name, *each
            )
            await wait_for(client, futures)
        self._parts = parts

    async def _find_parts(self, client: Client) -> list[Part]:
        """Return what the ranks hold now, in their order."""
        answers = (await client.run(local_array.describe, self._name, on_error="ignore")).values()
        found: dict[int, Part] = {part.rank: part for part in answers if part is not None}
        if self._is_alone and not found:
            found = {0: self._local.describe()}
        missing = [part for part in self._parts if part.rank not in found]
        if missing or not found:
            raise MPIDaskError(
                f"no worker has the array of {', '.join(map(str, missing)) or 'any rank'}. The "
                "ranks of the scheduler and of the client have a worker with "
                "exclusive_workers=False only; else pass DistributedArray(None) there. And each "
                "rank must keep its handle until the block ends"
            )
        return [found[number] for number in sorted(found)]


def _sync(client: Client, function: Callable[..., Any], *args: Any) -> Any:
    if client is None:
        raise TypeError(
            "the client is None, as on all ranks but the client's: 'if client is not None:'"
        )
    if not client.asynchronous:
        ranks_of(client)  # remembers them: within the event loop it can't ask
    return client.sync(function, client, *args)


# -- Checks. -------------------------------------------------------------------------------


def _examine(local: LocalArray) -> tuple[Part, str]:
    """Describe what this rank passed, and say what is wrong with it."""
    import numpy as np

    if local.array is None or isinstance(local.array, np.ndarray):
        return local.describe(), ""
    passed, local.array = type(local.array).__name__, None
    part = local.describe()
    return part, f"{part} passes DistributedArray a {passed}, not a numpy.ndarray or None"


def _common_axis(parts: Sequence[Part], axes: Sequence[int]) -> int:
    """Return the axis along which parts make up an array, as a number that is not negative."""
    axis = axes[0]
    for passed in axes:
        if not isinstance(passed, Integral) or isinstance(passed, bool):
            raise TypeError(f"DistributedArray: an axis is an integer, not {passed!r}")
    if any(other != axis for other in axes):
        raise ValueError(f"the ranks pass DistributedArray several axes: {sorted(set(axes))}")
    if not parts and axis < 0:
        raise ValueError(
            f"DistributedArray: where no rank has an array, axis {axis} can't be counted"
        )
    if parts:
        ndim = len(parts[0].shape or ())
        if not -ndim <= axis < ndim:
            raise ValueError(f"DistributedArray: an array of {ndim} dimensions has no axis {axis}")
        axis %= ndim
    for part in parts:
        if _form(part, axis) != _form(parts[0], axis):
            raise ValueError(
                f"DistributedArray: parts differ in more than their length along axis {axis}: "
                f"{parts[0]} has {parts[0].dtype} of shape {parts[0].shape}, {part} has "
                f"{part.dtype} of shape {part.shape}"
            )
    return axis


def _form(part: Part, axis: int) -> tuple[Any, ...]:
    """Return what must be the same for all parts."""
    shape = part.shape or ()
    return part.dtype, shape[:axis], shape[axis + 1 :], len(shape)


def check_blocks(collection: Any, parts: Sequence[Part], axis: int) -> None:
    """Raise unless the blocks of a collection are one for each part, of the right lengths."""
    if not hasattr(collection, "numblocks"):
        raise TypeError(f"from_dask() takes a dask.array.Array, not {type(collection).__name__}")
    numblocks = tuple(
        len(parts) if other == axis else 1 for other in range(max(collection.ndim, axis + 1))
    )
    if collection.numblocks != numblocks:
        raise ValueError(
            f"the collection has {collection.numblocks} blocks, and {len(parts)} ranks can keep "
            f"{numblocks}: one each along axis {axis}. rechunk() it"
        )
    lengths = tuple(part.shape[axis] for part in parts if part.shape is not None)
    if lengths and collection.chunks[axis] != lengths:
        raise ValueError(
            f"the blocks have the lengths {collection.chunks[axis]} along axis {axis}, and the "
            f"parts {lengths}: rechunk({{{axis}: {lengths}}}) it, or pass it to another handle, "
            "made as DistributedArray(None) on all ranks"
        )


def _submit(client: Client, key: str, parts: Iterable[Part], *call: Any) -> list[Future[Any]]:
    ranks = [part.worker_rank for part in parts if part.worker_rank is not None]
    return submit_mpi(*call, ranks=ranks, client=client, key=f"{key}-{uuid.uuid4().hex}")


async def _computed_blocks(client: Client, collection: Any) -> list[Future[Any]]:
    from dask.core import flatten
    from distributed import futures_of

    persisted = client.persist(collection)
    futures = {future.key: future for future in futures_of(persisted)}
    blocks = [futures[key] for key in flatten(persisted.__dask_keys__())]
    await wait_for(client, blocks)
    return blocks
