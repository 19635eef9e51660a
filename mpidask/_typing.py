"""What type checkers know of the front ends: their options, and decorated functions.

A function keeps its parameters and its result, but ``client`` may be left out. There is no
type that says so of every function. So functions are told apart by what stands before
``client``, which the call may leave out:

- ``client`` is the first parameter: all the others are checked.
- Up to three parameters before it: those given by position are checked, and the names of
  the others are not.
- More, or ``*args``: the result is known, the parameters are not checked.
"""

# Where two overloads fit, the first one counts.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, overload

if TYPE_CHECKING:
    from distributed import Client, Security
    from mpi4py import MPI

# -- Options, as callers may write them. -----------------------------------------------


class CommonOptions(TypedDict, total=False):
    """The options that every front end takes as ``**options``."""

    comm: MPI.Intracomm | None
    scheduler_rank: int
    client_rank: int
    exclusive_workers: bool
    interface: str | None
    host: str | None
    protocol: str | None
    security: bool | Security
    transport: Literal["auto", "mpi", "socket"]
    scheduler_port: int
    trust_scheduler_file: bool
    scheduler_options: Mapping[str, Any]
    dashboard: bool
    dashboard_address: str | int
    dashboard_token: bool
    nthreads: int | Literal["auto"]
    memory_limit: float | str | None
    local_directory: str | os.PathLike[str] | None
    worker_class: str | type
    worker_options: Mapping[str, Any]
    name: str
    nanny: bool
    wait_for_workers: bool | int
    startup_timeout: float | str
    shutdown_timeout: float | str
    mpi_task_grace: float | str
    death_timeout: float | str | None
    reconnect: bool
    performance_report: str | os.PathLike[str] | None
    progress: float | str | None
    summary: str | os.PathLike[str] | None
    log_level: int | str


class ProgramOptions(CommonOptions, total=False):
    """Those of programs; the type of the result depends on `exit`."""

    scheduler_file: str | os.PathLike[str] | None
    address: str | None


class JoinOptions(CommonOptions, total=False):
    """Those of `join_existing`, whose first parameters say what to join."""

    exit: bool


class AllOptions(ProgramOptions, JoinOptions):
    """All options; signatures at run time show their types."""


P = ParamSpec("P")
Result = TypeVar("Result")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
R = TypeVar("R", covariant=True)
A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)

# -- Functions as they are written. --------------------------------------------------


class First(Protocol[P, R]):
    def __call__(self, client: Client, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Behind0(Protocol[R]):
    def __call__(self, *, client: Client) -> R: ...


class Behind1(Protocol[A, R]):
    def __call__(self, a: A, /, *, client: Client) -> R: ...


class Behind2(Protocol[A, B, R]):
    def __call__(self, a: A, b: B, /, *, client: Client) -> R: ...


class Behind3(Protocol[A, B, C, R]):
    def __call__(self, a: A, b: B, c: C, /, *, client: Client) -> R: ...


class Behind4(Protocol[R]):
    def __call__(self, a: Any, b: Any, c: Any, d: Any, /, *, client: Client) -> R: ...


class Behind5(Protocol[R]):
    def __call__(self, a: Any, b: Any, c: Any, d: Any, e: Any, /, *, client: Client) -> R: ...


class Behind6(Protocol[R]):
    def __call__(
        self, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, /, *, client: Client
    ) -> R: ...


class BehindMany(Protocol[R]):
    def __call__(self, *args: Any, client: Client) -> R: ...


# -- The same functions, decorated. --------------------------------------------------


class _Main(Protocol[R]):
    def __get__(self, instance: object, owner: Any = None) -> Callable[..., R]: ...


class MainFirst(_Main[R], Protocol[P, R]):
    @overload
    def __call__(self, client: Client, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Main0(_Main[R], Protocol[R]):
    def __call__(self, *, client: Client = ...) -> R: ...


class Main1(_Main[R], Protocol[A, R]):
    @overload
    def __call__(self, a: A, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


class Main2(_Main[R], Protocol[A, B, R]):
    @overload
    def __call__(self, a: A, b: B, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, a: A, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


class Main3(_Main[R], Protocol[A, B, C, R]):
    @overload
    def __call__(self, a: A, b: B, c: C, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, a: A, b: B, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, a: A, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


# -- Decorators. -----------------------------------------------------------------------


class Decorator(Protocol):
    """What options make of `mpi_dask_main`, with ``exit=True``."""

    @overload
    def __call__(self, function: First[P, Result], /) -> MainFirst[P, Result]: ...
    @overload
    def __call__(self, function: BehindMany[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: Behind6[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: Behind5[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: Behind4[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: Behind3[T1, T2, T3, Result], /) -> Main3[T1, T2, T3, Result]: ...
    @overload
    def __call__(self, function: Behind2[T1, T2, Result], /) -> Main2[T1, T2, Result]: ...
    @overload
    def __call__(self, function: Behind1[T1, Result], /) -> Main1[T1, Result]: ...
    @overload
    def __call__(self, function: Behind0[Result], /) -> Main0[Result]: ...
    @overload
    def __call__(self, function: Callable[P, Result], /) -> Callable[P, Result]: ...


class DecoratorOnAllRanks(Protocol):
    """The same with ``exit=False``: a call returns None on all ranks but the client's."""

    @overload
    def __call__(
        self, function: First[P, Coroutine[Any, Any, Result]], /
    ) -> MainFirst[P, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: First[P, Result], /) -> MainFirst[P, Result | None]: ...
    @overload
    def __call__(
        self, function: BehindMany[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: BehindMany[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: Behind6[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Behind6[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: Behind5[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Behind5[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: Behind4[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Behind4[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: Behind3[T1, T2, T3, Coroutine[Any, Any, Result]], /
    ) -> Main3[T1, T2, T3, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(
        self, function: Behind3[T1, T2, T3, Result], /
    ) -> Main3[T1, T2, T3, Result | None]: ...
    @overload
    def __call__(
        self, function: Behind2[T1, T2, Coroutine[Any, Any, Result]], /
    ) -> Main2[T1, T2, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Behind2[T1, T2, Result], /) -> Main2[T1, T2, Result | None]: ...
    @overload
    def __call__(
        self, function: Behind1[T1, Coroutine[Any, Any, Result]], /
    ) -> Main1[T1, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Behind1[T1, Result], /) -> Main1[T1, Result | None]: ...
    @overload
    def __call__(
        self, function: Behind0[Coroutine[Any, Any, Result]], /
    ) -> Main0[Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Behind0[Result], /) -> Main0[Result | None]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, Result]], /
    ) -> Callable[P, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Callable[P, Result], /) -> Callable[P, Result | None]: ...
