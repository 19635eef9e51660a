"""Large read-only values for all tasks: one copy on each node, in memory that its ranks share."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpidask._broadcast import copies

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from distributed import Client

Value = TypeVar("Value")


class Broadcast(Generic[Value]):
    """A handle of a value that `broadcast` has put into the memory of each node.

    Pass it to tasks as any other argument, or refer to it in their function: it takes about a
    hundred bytes. `value` is the value itself, in any process of the cluster.

    The memory is released on all nodes by `free`, at the end of the cluster, and when the client
    that made the broadcast has no handle of it any more, and no task that was pending then, nor one
    of `distributed.fire_and_forget`. A process that still refers to the value keeps its own node's
    copy.

    Notes
    -----
    Arrays in the value are read-only, as all ranks of a node see the same memory. Change a copy
    (``handle.value.copy()``).

    Examples
    --------
    >>> import numpy as np
    >>> from mpidask import broadcast, mpi_dask
    >>> with mpi_dask(dashboard=False) as client:
    ...     handle = broadcast({"name": "ones", "array": np.ones(100)})
    ...     print(handle.value["name"], handle.value["array"].flags.writeable)
    ...     handle.free()
    ones False
    """

    __module__ = "mpidask"  # where users import it from, and pickles refer to

    def __init__(self, name: str, nbytes: int) -> None:
        self._name = name
        self._nbytes = nbytes
        self._nodes = 0
        self._client: weakref.ref[Client] | None = None  # the one that made the broadcast

    def __repr__(self) -> str:
        from dask.utils import format_bytes

        nodes = f" on {self._nodes} node{'s' * (self._nodes > 1)}" if self._nodes else ""
        return f"<Broadcast: {format_bytes(self._nbytes)}{nodes}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Broadcast, (self._name, self._nbytes)

    def __dask_tokenize__(self) -> str:
        return self._name

    @property
    def value(self) -> Value:
        """The value. The first access in a process unpickles it, all others return that object.

        Raises
        ------
        MPIDaskError
            If it was freed; or if this is a coroutine in an event loop, and this process has to
            get it first: ``await asyncio.to_thread(lambda: handle.value)``.
        """
        copy = copies.held(self._name)
        if copy is None:
            from mpidask._broadcast import client  # which takes longer to import than to unpickle

            copy = client.obtain(self._name, self._nbytes)
        value: Value = copy.value
        return value

    def free(self) -> Awaitable[None] | None:
        """Release the memory on all nodes.

        With an asynchronous client, await the result.
        """
        from distributed import get_client

        from mpidask._broadcast.client import free

        client = (self._client and self._client()) or get_client()
        return client.sync(free, client, self._name)  # type: ignore[no-any-return]


def broadcast(value: Any, *, client: Client | None = None) -> Any:
    """Put a large read-only value into the memory of each node, for all tasks.

    The bytes of its arrays go to each node once, into memory that all ranks there share, by MPI
    where the data of the job does. That is what pickle's protocol 5 takes out of band: NumPy
    arrays, pandas and Arrow tables, most of scikit-learn's models (not forests), and dicts, lists
    and objects of such. All the rest, such as strings and lists of numbers, each rank has a copy
    of.

    Parameters
    ----------
    value : object
        Anything that can be pickled; or a `distributed.Future` of it, whose value goes to the
        nodes from the worker that holds it.
    client : distributed.Client, optional
        Default: the current one; in a task, too.

    Returns
    -------
    Broadcast
        The handle, when each node with a worker has the value. With an asynchronous client,
        await it.

    Raises
    ------
    MPIDaskError
        If a node has no room for the value, neither in memory nor in `local_directory`.

    Examples
    --------
    >>> import numpy as np
    >>> from mpidask import broadcast, mpi_dask
    >>> def nearest(x, grid):
    ...     return grid.value[np.abs(grid.value - x).argmin()]
    >>> with mpi_dask(dashboard=False) as client:
    ...     grid = broadcast(np.linspace(0, 1, 5))
    ...     print(client.submit(nearest, 0.3, grid).result())
    0.25
    """
    from distributed import get_client

    from mpidask._broadcast.client import is_in_task

    client = client or get_client()
    return client.sync(_broadcast, client, value, in_task=is_in_task())


async def _broadcast(client: Client, value: Any, *, in_task: bool) -> Broadcast[Any]:
    from distributed import Future

    from mpidask._broadcast.client import free_with, publish, publish_result

    if isinstance(value, Future):
        name, nbytes, nodes = await publish_result(client, value)
    else:
        name, nbytes, nodes = await publish(client, value, in_task=in_task)
    handle: Broadcast[Any] = Broadcast(name, nbytes)
    handle._nodes, handle._client = nodes, weakref.ref(client)
    if not in_task:  # else the task may return a copy of the handle
        free_with(handle, name, client)
    return handle
