"""The front ends for programs: each a few lines over the same block."""

# Where two overloads match, the first one counts.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import wrapt

from mpidask._dask.client import connected, connected_async
from mpidask._errors import without_internal_frames
from mpidask._lifecycle.front_end import JOIN, prepared, raise_once, serve
from mpidask._lifecycle.signals import Interrupt, raise_as_python_would
from mpidask._mpi import initialize, job_exit
from mpidask._options import JoinOptions, Options, ProgramOptions
from mpidask._signatures import with_options
from mpidask._threads import in_daemon_thread
from mpidask._watch.performance_report import reported, reported_async

if TYPE_CHECKING:
    from distributed import Client
    from typing_extensions import Unpack  # in typing from Python 3.11 on

    from mpidask import _signatures as t
    from mpidask._lifecycle.front_end import Block as ClusterBlock
    from mpidask._lifecycle.messages import ConnectionInfo

Yields = TypeVar("Yields")


@overload
def mpi_dask(*, exit: Literal[True] = True, **options: Unpack[ProgramOptions]) -> Block[Client]: ...
@overload
def mpi_dask(*, exit: bool, **options: Unpack[ProgramOptions]) -> Block[Client | None]: ...
@with_options()
def mpi_dask(**options: Any) -> Block[Any]:
    """Make the MPI job a Dask cluster for the length of a block.

    Without an MPI job, the cluster is a `distributed.LocalCluster`.

    Parameters
    ----------
    **options
        Any option of mpidask, such as ``nthreads=4``. Reference: ``options.html#nthreads``.

    Returns
    -------
    context manager
        For ``with`` and ``async with``. On the client rank the block runs at once, and gets
        the connected `distributed.Client` (an asynchronous one with ``async with``). The
        other ranks serve as scheduler and workers until that block ends. Then they leave
        the program by `SystemExit`, with the job's exit status, and never run the block.
        With ``exit=False`` they run it then, and get None instead of the client.

    Raises
    ------
    TypeError, ValueError
        If an option is wrong; before anything starts.
    NotEnoughRanksError
        If the job has too few ranks for a scheduler, a client and a worker.
    StartupError
        If a rank fails to start its part, or does not arrive in time.
    SchedulerFileError
        If the scheduler file can't be written, without MPI (a `StartupError` in an MPI job).
    MPIDaskError
        If no cluster can start here: inside another one, after one with ``exit=True``, where
        the launcher and mpi4py use different MPIs, where MPI was initialised for too few
        threads, or a file that an option names can't be written.

    Examples
    --------
    >>> from mpidask import mpi_dask
    >>> with mpi_dask(dashboard=False) as client:
    ...     print(client.submit(sum, range(10)).result())
    45
    """
    return Block(options)


class Block(Generic[Yields]):
    """What `mpi_dask` returns: a cluster from its entry to its exit."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._given = options
        self._process = os.getpid()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items())
        return f"<a block to enter: with mpi_dask({given}) as client>"

    if not TYPE_CHECKING:  # else type checkers would accept any attribute

        def __getattr__(self, name):
            raise AttributeError(
                f"mpi_dask(...) is a block and has no {name!r}: the client is what the block "
                "gets, 'with mpi_dask(...) as client:'"
            )

    def __enter__(self) -> Yields:
        __tracebackhide__ = True
        interrupt = Interrupt()
        with without_internal_frames(), contextlib.ExitStack() as stack:
            block, options, direct = stack.enter_context(prepared(self._given, interrupt))
            cluster = stack.enter_context(block)
            interrupt.act(raise_as_python_would)
            client = None
            if cluster is not None:
                client = stack.enter_context(connected(cluster, direct=direct))
                stack.enter_context(reported(client, options))
                stack.callback(interrupt.disarm)
            self._leave = stack.pop_all().__exit__
        return cast(Yields, client)

    def __exit__(self, *error: Any) -> bool | None:
        if os.getpid() != self._process:  # a child process forked by the block has no cluster
            job_exit.exit_forked_child(error[1])
        return self._leave(*error)

    async def __aenter__(self) -> Yields:
        __tracebackhide__ = True
        interrupt = Interrupt()
        with without_internal_frames():
            async with contextlib.AsyncExitStack() as stack:
                block, options, direct = stack.enter_context(prepared(self._given, interrupt))
                cluster = await stack.enter_async_context(_in_thread(block, interrupt))
                interrupt.act(_cancelling_current_task(interrupt))
                client = None
                if cluster is not None:
                    connecting = connected_async(cluster, direct=direct)
                    client = await stack.enter_async_context(connecting)
                    await stack.enter_async_context(reported_async(client, options))
                    stack.callback(_end_interruptible, interrupt)
                self._leave_async = stack.pop_all().__aexit__
        return cast(Yields, client)

    async def __aexit__(self, *error: Any) -> bool | None:
        if os.getpid() != self._process:
            job_exit.exit_forked_child(error[1])
        return await self._leave_async(*error)


@contextlib.asynccontextmanager
async def _in_thread(
    block: ClusterBlock, interrupt: Interrupt
) -> AsyncIterator[ConnectionInfo | None]:
    """Enter and leave a block without blocking the event loop."""
    entering = _start_in_thread(block.__enter__)
    cancelled = await _outlast(entering, lambda: interrupt.abandon_start())
    cluster, failure = entering.result()
    if cancelled is not None:
        if failure is None:  # the cluster has started nevertheless
            await _leave_in_thread(block, cancelled)
        if not isinstance(failure, SystemExit):  # on a rank that has served: the job's status
            failure = cancelled
    if failure is not None:
        raise failure
    try:
        yield cluster
    except BaseException as error:
        await _leave_in_thread(block, error)
        raise error from None
    else:
        await _leave_in_thread(block, None)


async def _leave_in_thread(block: ClusterBlock, error: BaseException | None) -> None:
    parts = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    leaving = _start_in_thread(block.__exit__, *parts)
    cancelled = await _outlast(leaving)
    _, failure = leaving.result()
    if failure is not None:
        raise failure from None
    if cancelled is not None:
        raise cancelled


def _start_in_thread(call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    # A future, since a task would be cancelled like all others when the loop ends.
    run = contextvars.copy_context().run
    return asyncio.wrap_future(in_daemon_thread(run, _outcome, call, *args))


async def _outlast(
    future: asyncio.Future[Any], on_cancel: Callable[[], object] = lambda: None
) -> asyncio.CancelledError | None:
    """Wait until a future is done, and return the cancellation that arrived meanwhile, if any."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    return cancelled


def _outcome(call: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Return the result or the exception: a SystemExit must not pass through a task."""
    try:
        return call(*args), None
    except BaseException as error:
        return None, error


def _cancelling_current_task(interrupt: Interrupt) -> Callable[[int], object]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        if interrupt.take_pending():
            task.cancel()

    def act(signum: int) -> None:
        interrupt.pending = True
        loop.call_soon_threadsafe(cancel)

    return act


def _end_interruptible(interrupt: Interrupt) -> None:
    """Ignore signals from now on, after raising one that the event loop has not handled yet."""
    interrupt.disarm()
    if interrupt.take_pending():
        raise asyncio.CancelledError


@overload
def mpi_dask_main(function: t.ClientFirst[t.P, t.Result], /) -> t.DecoratedFirst[t.P, t.Result]: ...
@overload
def mpi_dask_main(function: t.ClientAfterArgs[t.Result], /) -> Callable[..., t.Result]: ...
@overload
def mpi_dask_main(function: t.ClientAfter6[t.Result], /) -> Callable[..., t.Result]: ...
@overload
def mpi_dask_main(function: t.ClientAfter5[t.Result], /) -> Callable[..., t.Result]: ...
@overload
def mpi_dask_main(function: t.ClientAfter4[t.Result], /) -> Callable[..., t.Result]: ...
@overload
def mpi_dask_main(
    function: t.ClientAfter3[t.T1, t.T2, t.T3, t.Result], /
) -> t.Decorated3[t.T1, t.T2, t.T3, t.Result]: ...
@overload
def mpi_dask_main(
    function: t.ClientAfter2[t.T1, t.T2, t.Result], /
) -> t.Decorated2[t.T1, t.T2, t.Result]: ...
@overload
def mpi_dask_main(function: t.ClientAfter1[t.T1, t.Result], /) -> t.Decorated1[t.T1, t.Result]: ...
@overload
def mpi_dask_main(function: t.ClientAfter0[t.Result], /) -> t.Decorated0[t.Result]: ...
@overload
def mpi_dask_main(function: Callable[t.P, t.Result], /) -> Callable[t.P, t.Result]: ...
@overload
def mpi_dask_main(
    *, exit: Literal[True] = True, **options: Unpack[ProgramOptions]
) -> t.Decorator: ...
@overload
def mpi_dask_main(*, exit: bool, **options: Unpack[ProgramOptions]) -> t.DecoratorOnAllRanks: ...
@with_options()
def mpi_dask_main(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make the MPI job a Dask cluster for the length of each call of a function.

    Call the function on every rank: it runs on the client rank alone, and returns its
    value there. If it has a parameter named ``client`` for which the call gives no value,
    it gets the connected `distributed.Client`.

    Parameters
    ----------
    function : callable, optional
        A function, an ``async def`` function, a method, or another callable such as a
        `click.Command`. Leave it out if you give options: ``@mpi_dask_main(nthreads=4)``.
    **options
        Any option of mpidask, such as ``nthreads=4``. Reference: ``options.html#nthreads``.

    Returns
    -------
    callable
        The function, with the same name, signature and documentation. With
        ``exit=False`` the call returns None on all ranks but the client's.

    Raises
    ------
    TypeError, ValueError
        If an option is wrong; raised by the decorator, before any call.

    See Also
    --------
    mpi_dask : the same for a block; describes what the other ranks do, and which errors occur.

    Examples
    --------
    >>> from mpidask import mpi_dask_main
    >>> @mpi_dask_main(dashboard=False)
    ... def main(numbers, client):
    ...     return client.submit(sum, numbers).result()
    >>> main([1, 2, 3])
    6
    """
    __tracebackhide__ = True
    with without_internal_frames():
        _check(function, options)
    if function is None:
        return functools.partial(_decorated, options=options)
    return _decorated(function, options)


def _check(function: Any, options: Mapping[str, Any]) -> None:
    """Check the arguments of a decorator; one of the ranks raises the error."""
    __tracebackhide__ = True
    try:
        if function is not None:
            _check_function(function)
        Options.check(options)
    except (TypeError, ValueError) as error:
        raise_once(error, options)
    initialize.remember(options.get("comm"))


def _check_function(function: Any) -> None:
    if not callable(function) and not hasattr(function, "__func__"):  # as a classmethod has
        raise TypeError(
            f"mpi_dask_main decorates a function, not {function!r}; options need their names, "
            "as in @mpi_dask_main(nthreads=4)"
        )
    plain = getattr(function, "__func__", function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError("a generator can't be the function: it would run after the cluster's end")


def _decorated(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    with without_internal_frames():
        _check_function(function)

    def run(
        wrapped: Callable[..., Any], instance: object, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        __tracebackhide__ = True
        if any(map(inspect.iscoroutinefunction, (wrapped, type(wrapped).__call__))):
            return _run_async(wrapped, args, kwargs)
        with mpi_dask(**options) as client:
            if client is None:
                return None
            return wrapped(*args, **_with_client(wrapped, args, kwargs, client))

    async def _run_async(wrapped: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        async with mpi_dask(**options) as client:
            if client is None:
                return None
            return await wrapped(*args, **_with_client(wrapped, args, kwargs, client))

    return _Main(function, run)


@with_options(JOIN.defaults)
def join_existing(
    scheduler_file: str | os.PathLike[str] | None = None,
    *,
    address: str | None = None,
    **options: Unpack[JoinOptions],
) -> None:
    """Make every rank of this MPI job a worker of a cluster that runs elsewhere.

    Blocks until the job is sent SIGINT or SIGTERM, or all its workers have been retired.
    The job may start before the cluster. When the scheduler goes away, the workers wait
    for the next one that writes the same file. Ending this job does not end the cluster.

    Parameters
    ----------
    scheduler_file : path, optional
        The scheduler file of the cluster. It is read again for every attempt to connect.
    address : str, optional
        The scheduler's address instead, for a cluster whose address stays the same. If the
        cluster has credentials, give ``security=``, too.
    **options
        Any option of mpidask; those for workers have an effect. ``death_timeout`` limits the
        wait for a scheduler, and with ``reconnect=False`` the job ends with the cluster.
        Reference: ``options.html#nthreads``.

    Raises
    ------
    TypeError, ValueError
        If an option is wrong; before anything starts.
    StartupError
        If a rank does not arrive in time.
    MPIDaskError
        If MPI can't be used, or this is inside a cluster or after one with ``exit=True``.
    SystemExit
        At the end, on all ranks, with the job's exit status; with ``exit=False`` only if that
        is not 0. It is 1, and a message says why, if the scheduler file is not safe to use, or
        there is no scheduler within ``death_timeout``.

    Examples
    --------
    >>> import mpidask
    >>> mpidask.join_existing("scheduler.json", death_timeout="10 min")  # doctest: +SKIP
    """
    __tracebackhide__ = True
    given: dict[str, Any] = {**options}
    if scheduler_file is not None or address is not None:  # else dask's configuration says it
        given |= {"scheduler_file": scheduler_file, "address": address}
    with without_internal_frames():
        serve(given, JOIN)


class _AsFunction:
    """Pickle by name and copy as itself, as functions do; wrapt does not define either.

    wrapt's own classes are generic for type checkers, but before 2.2 not at run time.
    """

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


class _BoundMain(_AsFunction, wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    def __reduce_ex__(self, protocol: object) -> Any:
        owner = getattr(self, "__self__", None)
        return self.__qualname__ if owner is None else (getattr, (owner, self.__name__))


class _Main(_AsFunction, wrapt.FunctionWrapper):  # type: ignore[type-arg]
    __bound_function_wrapper__ = _BoundMain

    def __reduce_ex__(self, protocol: object) -> str:
        return str(self.__qualname__)


def _with_client(
    function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], client: Client
) -> dict[str, Any]:
    """Add the client to the arguments if the function has such a parameter and the call none."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or the call itself will raise
        return dict(kwargs)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    wanted = signature.parameters.get("client")
    if wanted is None:
        _raise_if_missing(function, signature, args, kwargs)
    if wanted is None or wanted.kind not in named or "client" in bound:
        return dict(kwargs)
    return {**kwargs, "client": client}


def _raise_if_missing(
    function: Callable[..., Any], signature: inspect.Signature, args: Any, kwargs: Any
) -> None:
    """Raise a helpful TypeError if the call is about to fail for lack of an argument."""
    __tracebackhide__ = True
    with without_internal_frames():
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            if str(error).startswith("missing a required"):
                name = getattr(function, "__name__", "the function")
                raise TypeError(
                    f"{name}(): {error}; the client goes to a parameter named 'client', and "
                    f"{name}() has none"
                ) from None
