"""The front ends for programs: each a few lines over the same block."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import wrapt

from mpidask._client import connected, connected_async
from mpidask._cluster import JOIN, Block, prepared, serve
from mpidask._errors import MPIDaskError
from mpidask._signals import Interrupt, raise_as_python_would

if TYPE_CHECKING:
    from distributed import Client

    from mpidask._agreement import Cluster


class mpi_dask:  # noqa: N801 (a function to its users)
    """Make the MPI job a Dask cluster for the length of a block.

    Without an MPI job, the cluster is a `distributed.LocalCluster`.

    Parameters
    ----------
    **options
        Any of the options of mpidask; see the reference of options.

    Returns
    -------
    distributed.Client or None
        What the block gets: on the client rank the connected client (asynchronous in an
        ``async with`` block). The other ranks serve as scheduler and workers until the
        block ends there; then they leave the program by `SystemExit`, with the job's
        status, so that their block never runs. With ``exit=False`` it runs, with None.

    Raises
    ------
    TypeError, ValueError
        If an option can't be, before anything starts.
    NotEnoughRanksError
        If the job is too small for the roles asked for.
    StartupError
        If a rank fails to start its part, or does not come in time.
    MPIDaskError
        If no cluster can be made here: inside another one, after one that the other
        ranks have left, or where the launcher and mpi4py use different MPIs.

    Examples
    --------
    >>> from mpidask import mpi_dask
    >>> with mpi_dask(dashboard=False) as client:
    ...     print(client.submit(sum, range(10)).result())
    45
    """

    def __init__(self, **options: Any) -> None:
        self._given = options
        self._process = os.getpid()

    def __enter__(self) -> Client | None:
        interrupt = Interrupt()
        with _Brief(), contextlib.ExitStack() as stack:
            block, options = stack.enter_context(prepared(self._given, interrupt))
            cluster = stack.enter_context(block)
            interrupt.act(raise_as_python_would)
            client = None
            if cluster is not None:
                client = stack.enter_context(connected(cluster, options))
                stack.callback(interrupt.disarm)
            self._leave = stack.pop_all().__exit__
        return client

    def __exit__(self, *error: Any) -> bool | None:
        if os.getpid() != self._process:  # a child that the block forked has no cluster
            return None
        return self._leave(*error)

    async def __aenter__(self) -> Client | None:
        interrupt = Interrupt()
        with _Brief():
            async with contextlib.AsyncExitStack() as stack:
                block, options = stack.enter_context(prepared(self._given, interrupt))
                cluster = await stack.enter_async_context(_in_thread(block, interrupt))
                interrupt.act(_cancelling_current_task())
                client = None
                if cluster is not None:
                    client = await stack.enter_async_context(connected_async(cluster, options))
                    stack.callback(interrupt.disarm)
                self._leave_async = stack.pop_all().__aexit__
        return client

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._leave_async(*error)


class _Brief:
    """Show our own errors without the frames of ours they came through.

    A class, because `contextlib.contextmanager` restores the traceback.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (MPIDaskError, TypeError, ValueError)):
            raise error.with_traceback(None) from None


@contextlib.asynccontextmanager
async def _in_thread(block: Block, interrupt: Interrupt) -> AsyncIterator[Cluster | None]:
    """Enter and leave a block without holding up the event loop."""
    entering = asyncio.ensure_future(asyncio.to_thread(_outcome, block.__enter__))
    try:
        cluster, failure = await asyncio.shield(entering)
    except asyncio.CancelledError as error:
        interrupt.abandon_start()
        await asyncio.wait([entering])
        if entering.result()[1] is None:  # the cluster came up all the same
            await _leave_in_thread(block, error)
        raise
    if failure is not None:
        raise failure
    try:
        yield cluster
    except BaseException as error:
        await _leave_in_thread(block, error)
        raise error from None
    else:
        await _leave_in_thread(block, None)


async def _leave_in_thread(block: Block, error: BaseException | None) -> None:
    parts = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    _, failure = await asyncio.to_thread(_outcome, block.__exit__, *parts)
    if failure is not None:
        raise failure from None


def _outcome(call: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Call, and return what is raised: a SystemExit must not pass through a task."""
    try:
        return call(*args), None
    except BaseException as error:
        return None, error


def _cancelling_current_task() -> Callable[[int], object]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    return lambda signum: loop.call_soon_threadsafe(task.cancel)


def mpi_dask_main(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make the MPI job a Dask cluster for the length of a call of this function.

    Called on every rank, the function runs on the client rank alone, and its value is
    returned there. If it has a parameter named ``client`` that the call leaves out, it
    gets the connected `distributed.Client`.

    Parameters
    ----------
    function : callable, optional
        A function, an ``async def`` function, a method, or another callable such as a
        `click.Command`. Left out where options are given.
    **options
        Any of the options of mpidask; see the reference of options.

    Returns
    -------
    callable
        The function, with the same name, signature and documentation.

    See Also
    --------
    mpi_dask : the same for a block, with what is raised and what other ranks do.

    Examples
    --------
    >>> from mpidask import mpi_dask_main
    >>> @mpi_dask_main(dashboard=False)
    ... def main(numbers, client):
    ...     return client.submit(sum, numbers).result()
    >>> main([1, 2, 3])
    6
    """
    if function is None:
        return lambda function: mpi_dask_main(function, **options)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("a generator can't be the function: it would run after the cluster's end")

    def run(
        wrapped: Callable[..., Any], instance: object, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if any(map(inspect.iscoroutinefunction, (wrapped, type(wrapped).__call__))):
            return _run_async(wrapped, args, kwargs)
        with mpi_dask(**options) as client:
            if client is None:
                return None
            return wrapped(*args, **_with_client(wrapped, args, kwargs, client))

    async def _run_async(wrapped: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        async with mpi_dask(**options) as client:
            if client is None:
                return None
            return await wrapped(*args, **_with_client(wrapped, args, kwargs, client))

    return _Main(function, run)


def join_existing(
    scheduler_file: str | os.PathLike[str] | None = None,
    *,
    address: str | None = None,
    **options: Any,
) -> None:
    """Make every rank of this MPI job a worker of a cluster that runs elsewhere.

    Blocks until the job is told to stop: by SIGINT or SIGTERM, or because its workers
    were retired. When the scheduler goes away, the workers wait for one that comes back
    under the same file, and they may start before it. Ending this job does not end the
    cluster.

    Parameters
    ----------
    scheduler_file : path, optional
        The scheduler file of the cluster. It is read again for every attempt.
    address : str, optional
        The scheduler's address instead, for a cluster that does not move; one with
        credentials needs ``security=`` too.
    **options
        Any of the options of mpidask that concern workers; ``death_timeout`` bounds
        the wait for a scheduler, ``reconnect=False`` ends with the cluster.

    Raises
    ------
    TypeError, ValueError
        If an option can't be, before anything starts.
    StartupError
        If a rank does not come in time.
    SystemExit
        At the end, on all ranks, with the job's status; with ``exit=False`` they go on.

    Examples
    --------
    >>> import mpidask
    >>> mpidask.join_existing("scheduler.json", death_timeout="10 min")  # doctest: +SKIP
    """
    if scheduler_file is not None or address is not None:  # else dask's configuration says it
        options |= {"scheduler_file": scheduler_file, "address": address}
    with _Brief():
        serve(options, JOIN)


class _AsFunction:
    """Pickled by name and copied as itself, as functions are; wrapt leaves that open."""

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


class _BoundMain(_AsFunction, wrapt.BoundFunctionWrapper[..., Any]):
    def __reduce_ex__(self, protocol: object) -> Any:
        owner = getattr(self, "__self__", None)
        return self.__qualname__ if owner is None else (getattr, (owner, self.__name__))


class _Main(_AsFunction, wrapt.FunctionWrapper[..., Any]):
    __bound_function_wrapper__ = _BoundMain

    def __reduce_ex__(self, protocol: object) -> str:
        return str(self.__qualname__)


def _with_client(
    function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], client: Client
) -> dict[str, Any]:
    """Add the client to the arguments, if the function wants it and the call has none."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or one that the call will find wrong
        return dict(kwargs)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    wanted = signature.parameters.get("client")
    if wanted is None or wanted.kind not in named or "client" in bound:
        return dict(kwargs)
    return {**kwargs, "client": client}
