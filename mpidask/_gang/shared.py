"""Arrays that the ranks hold, as a Dask collection and back, without a copy."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError
from mpidask._gang import handover, pieces
from mpidask._gang.pieces import Holder, Piece
from mpidask._gang.protocol import ranks_of as job_of
from mpidask._mpi import job_exit
from mpidask._mpi.deadline import Deadline
from mpidask._mpi.exchange import allgather
from mpidask._mpi.launcher import communicator

if TYPE_CHECKING:
    from distributed import Client
    from mpi4py import MPI

#: Seconds that MPI may take to come up, where the program has not done so.
_MPI_TIMEOUT = 300


class Shared:
    """An array whose pieces the ranks hold, handed to Dask and back without a copy.

    All ranks of a program with ``exit=False`` make this object, the handle, together and
    before the block. In the block, `to_dask` gives a `dask.array.Array` whose chunks are the
    ranks' arrays themselves, and `keep` leaves the chunks of a Dask array on the ranks.
    After the block, `local` is the piece of this rank.

    Parameters
    ----------
    array : numpy.ndarray, or None
        The piece of this rank; None or an empty array if it has none. A rank without a
        worker, such as those of the scheduler and of the client with
        ``exclusive_workers=True``, can't have a piece. If all ranks give None, `keep` hands
        a chunk to each rank with a worker.
    axis : int
        The axis along which the pieces, in the order of the ranks, make up the array.
    comm : mpi4py.MPI.Intracomm, optional
        The communicator whose ranks make the handle: that of the cluster. Default:
        COMM_WORLD. A rank with COMM_NULL takes no part, and keeps its array as `local`.

    Raises
    ------
    TypeError, ValueError
        On all ranks, if one gives something else, or if the pieces don't fit together.
    MPIDaskError
        If it is made inside a block.

    Notes
    -----
    Making a handle is a collective call. You can send a handle to a task or to an MPI
    function: there, ``handle.local`` is the piece of the rank that runs it.

    A chunk is the rank's array: what Dask or the rank writes into it, the other one sees.
    If a worker runs out of memory, Dask writes chunks to disk, and reads them back as copies.

    Without an MPI job the array is one chunk, which is copied to a worker, and back.

    Examples
    --------
    >>> import numpy as np
    >>> from mpidask import Shared, mpi_dask
    >>> u = Shared(np.arange(4.0))
    >>> with mpi_dask(exit=False, exclusive_workers=False, dashboard=False) as client:
    ...     if client is not None:
    ...         x = u.to_dask(client)
    ...         u.keep(client, x - x.mean())
    >>> u.local
    array([-1.5, -0.5,  0.5,  1.5])
    """

    def __init__(self, array: Any, axis: int = 0, *, comm: MPI.Intracomm | None = None) -> None:
        if job_exit.cluster_runs():
            raise MPIDaskError("make a Shared array on all ranks before the block, not within it")
        left_out = comm is not None and not comm  # COMM_NULL
        ranks = None if left_out else communicator(Deadline(_MPI_TIMEOUT), comm)
        self._holder = Holder(0 if ranks is None else ranks.Get_rank(), array)
        own = uuid.uuid4().hex, *_examined(self._holder), axis
        told = [own] if ranks is None else allgather(ranks, own, "mpidask.Shared")
        names, described, objections, axes = zip(*told, strict=True)
        for objection in filter(None, objections):
            raise TypeError(objection)
        self._name: str = names[0]
        self._alone = len(told) == 1
        self._parts: list[Piece] = [piece for piece in described if piece.shape is not None]
        self._axis = _common_axis(self._parts, axes)
        pieces.register(self._name, self._holder)

    def __repr__(self) -> str:
        part = self._holder.describe()
        held = "nothing" if part.shape is None else f"{part.dtype}, shape {part.shape}"
        return f"<Shared array along axis {self._axis}; on {part}: {held}>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_holder"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _holder=pieces.find(state["_name"]))

    @property
    def local(self) -> Any:
        """The piece of this rank: the array it gave, or the chunk that `keep` left here."""
        return self._holder.array

    def to_dask(self, client: Client) -> Any:
        """Give the array as a Dask collection.

        Parameters
        ----------
        client : distributed.Client
            That of the cluster. If it is asynchronous, await the result.

        Returns
        -------
        dask.array.Array
            With one chunk for each rank that holds a piece, on the worker of that rank.

        Raises
        ------
        MPIDaskError
            If a rank that holds a piece has no worker in its process, or no rank holds one.
        """
        return _with_client(client, self._to_dask)

    def keep(self, client: Client, collection: Any) -> Any:
        """Compute a Dask array, and let each rank hold one of its chunks from now on.

        A chunk that was computed elsewhere moves to its rank, and one that MPI can't use as
        it is (read-only, not contiguous) is copied. If a chunk can't be computed, the ranks
        hold what they held before.

        Parameters
        ----------
        client : distributed.Client
            That of the cluster. If it is asynchronous, await the call.
        collection : dask.array.Array
            With one chunk for each rank that holds a piece, of the same length as the piece
            along the axis. The other lengths, and the data type, may differ.

        Raises
        ------
        TypeError, ValueError
            If the collection does not have such chunks.
        MPIDaskError
            If a rank that holds a piece has no worker in its process.
        """
        return _with_client(client, self._keep, collection)

    async def _to_dask(self, client: Client) -> Any:
        homes = [home for home in await self._homes(client) if home.piece.shape is not None]
        if not homes:
            raise MPIDaskError("no rank holds a piece of this Shared array yet: keep() comes first")
        return await handover.to_dask(client, self._name, homes, self._axis)

    async def _keep(self, client: Client, collection: Any) -> None:
        homes = await self._homes(client)
        homes = [home for home in homes if home.piece.shape is not None] or homes
        handover.check_blocks(collection, homes, self._axis)
        await handover.keep(client, self._name, homes, collection)
        self._parts = [home.piece for home in homes]

    async def _homes(self, client: Client) -> list[handover.Home]:
        return await handover.homes(client, self._name, self._parts, alone=self._alone)


def _with_client(client: Client, function: Callable[..., Any], *args: Any) -> Any:
    if client is None:
        raise TypeError(
            "the client is None, as on all ranks but the client's: 'if client is not None:'"
        )
    if not client.asynchronous:
        job_of(client)  # which can't be asked for within the event loop
    return client.sync(function, client, *args)


def _examined(holder: Holder) -> tuple[Piece, str]:
    """Describe what a rank gives, and say what is wrong with it."""
    import numpy as np

    if holder.array is None or isinstance(holder.array, np.ndarray):
        return holder.describe(), ""
    given, holder.array = type(holder.array).__name__, None
    place = holder.describe()
    return place, f"{place} gives Shared a {given}, not a numpy.ndarray or None"


def _common_axis(parts: Sequence[Piece], axes: Sequence[int]) -> int:
    """Give the axis, counted from the front, along which pieces make up an array."""
    axis = axes[0]
    for given in axes:
        if not isinstance(given, Integral) or isinstance(given, bool):
            raise TypeError(f"Shared: an axis is an integer, not {given!r}")
    if any(other != axis for other in axes):
        raise ValueError(f"the ranks give Shared several axes: {sorted(set(axes))}")
    if not parts and axis < 0:
        raise ValueError(f"Shared: where no rank gives an array, axis {axis} can't be counted")
    if parts:
        ndim = len(parts[0].shape or ())
        if not -ndim <= axis < ndim:
            raise ValueError(f"Shared: an array of {ndim} dimensions has no axis {axis}")
        axis %= ndim
    for part in parts:
        if _form(part, axis) != _form(parts[0], axis):
            raise ValueError(
                f"Shared: pieces differ in more than their length along axis {axis}: {parts[0]} "
                f"gives {parts[0].dtype} of shape {parts[0].shape}, {part} gives {part.dtype} of "
                f"shape {part.shape}"
            )
    return axis


def _form(part: Piece, axis: int) -> tuple[Any, ...]:
    """Give what must be the same for all pieces."""
    shape = part.shape or ()
    return part.dtype, shape[:axis], shape[axis + 1 :], len(shape)
