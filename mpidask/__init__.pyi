"""Turn an MPI job into a Dask cluster, as type checkers and editors see it.

Made by tools/stub.py from the declaration of the options.
"""

# Which of two overloads is meant, if both are right, their order says.
# mypy: disable-error-code="overload-overlap"

import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from distributed import Client, Security
from mpi4py import MPI

from mpidask import _typing as t
from mpidask._dask.scheduler_file import connection as connection
from mpidask._errors import MPIDaskError as MPIDaskError
from mpidask._errors import MPITaskError as MPITaskError
from mpidask._errors import NotEnoughRanksError as NotEnoughRanksError
from mpidask._errors import SchedulerFileError as SchedulerFileError
from mpidask._errors import StartupError as StartupError
from mpidask._gang.per_rank import PerRank as PerRank
from mpidask._gang.shared import Shared as Shared
from mpidask._gang.submit import submit_mpi as submit_mpi

_P = ParamSpec("_P")
_R = TypeVar("_R")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_Yields = TypeVar("_Yields", covariant=True)

class _Block(
    AbstractContextManager[_Yields, bool | None],
    AbstractAsyncContextManager[_Yields, bool | None],
    Protocol[_Yields],
): ...

class _Decorator(Protocol):
    @overload
    def __call__(self, function: t.First[_P, _R], /) -> t.MainFirst[_P, _R]: ...
    @overload
    def __call__(self, function: t.BehindMany[_R], /) -> Callable[..., _R]: ...
    @overload
    def __call__(self, function: t.Behind6[_R], /) -> Callable[..., _R]: ...
    @overload
    def __call__(self, function: t.Behind5[_R], /) -> Callable[..., _R]: ...
    @overload
    def __call__(self, function: t.Behind4[_R], /) -> Callable[..., _R]: ...
    @overload
    def __call__(self, function: t.Behind3[_A, _B, _C, _R], /) -> t.Main3[_A, _B, _C, _R]: ...
    @overload
    def __call__(self, function: t.Behind2[_A, _B, _R], /) -> t.Main2[_A, _B, _R]: ...
    @overload
    def __call__(self, function: t.Behind1[_A, _R], /) -> t.Main1[_A, _R]: ...
    @overload
    def __call__(self, function: t.Behind0[_R], /) -> t.Main0[_R]: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> Callable[_P, _R]: ...

class _DecoratorOfAll(Protocol):
    @overload
    def __call__(
        self, function: t.First[_P, Coroutine[Any, Any, _R]], /
    ) -> t.MainFirst[_P, Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.First[_P, _R], /) -> t.MainFirst[_P, _R | None]: ...
    @overload
    def __call__(
        self, function: t.BehindMany[Coroutine[Any, Any, _R]], /
    ) -> Callable[..., Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.BehindMany[_R], /) -> Callable[..., _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind6[Coroutine[Any, Any, _R]], /
    ) -> Callable[..., Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.Behind6[_R], /) -> Callable[..., _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind5[Coroutine[Any, Any, _R]], /
    ) -> Callable[..., Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.Behind5[_R], /) -> Callable[..., _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind4[Coroutine[Any, Any, _R]], /
    ) -> Callable[..., Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.Behind4[_R], /) -> Callable[..., _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind3[_A, _B, _C, Coroutine[Any, Any, _R]], /
    ) -> t.Main3[_A, _B, _C, Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(
        self, function: t.Behind3[_A, _B, _C, _R], /
    ) -> t.Main3[_A, _B, _C, _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind2[_A, _B, Coroutine[Any, Any, _R]], /
    ) -> t.Main2[_A, _B, Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.Behind2[_A, _B, _R], /) -> t.Main2[_A, _B, _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind1[_A, Coroutine[Any, Any, _R]], /
    ) -> t.Main1[_A, Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.Behind1[_A, _R], /) -> t.Main1[_A, _R | None]: ...
    @overload
    def __call__(
        self, function: t.Behind0[Coroutine[Any, Any, _R]], /
    ) -> t.Main0[Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: t.Behind0[_R], /) -> t.Main0[_R | None]: ...
    @overload
    def __call__(
        self, function: Callable[_P, Coroutine[Any, Any, _R]], /
    ) -> Callable[_P, Coroutine[Any, Any, _R | None]]: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> Callable[_P, _R | None]: ...

@overload
def mpi_dask(
    *,
    comm: MPI.Intracomm | None = None,
    exit: Literal[True] = True,
    scheduler_rank: int = 0,
    client_rank: int = 1,
    exclusive_workers: bool = True,
    interface: str | None = None,
    host: str | None = None,
    protocol: str | None = None,
    security: bool | Security = True,
    transport: Literal["auto", "mpi", "socket"] = "auto",
    scheduler_port: int = 0,
    scheduler_file: str | os.PathLike[str] | None = None,
    trust_scheduler_file: bool = False,
    address: str | None = None,
    scheduler_options: Mapping[str, Any] = {},
    dashboard: bool = True,
    dashboard_address: str | int = ":8787",
    dashboard_token: bool = True,
    nthreads: int | Literal["auto"] = "auto",
    memory_limit: float | str | None = "auto",
    local_directory: str | os.PathLike[str] | None = None,
    worker_class: str | type = "distributed.Worker",
    worker_options: Mapping[str, Any] = {},
    name: str = "mpidask",
    nanny: bool = False,
    wait_for_workers: bool | int = True,
    startup_timeout: float | str = "5 min",
    shutdown_timeout: float | str = "30 s",
    mpi_task_grace: float | str = "30 s",
    death_timeout: float | str | None = None,
    reconnect: bool = True,
    performance_report: str | os.PathLike[str] | None = None,
    progress: float | str | None = None,
    summary: str | os.PathLike[str] | None = None,
    log_level: int | str = "warning",
) -> _Block[Client]: ...
@overload
def mpi_dask(
    *,
    comm: MPI.Intracomm | None = None,
    exit: bool,
    scheduler_rank: int = 0,
    client_rank: int = 1,
    exclusive_workers: bool = True,
    interface: str | None = None,
    host: str | None = None,
    protocol: str | None = None,
    security: bool | Security = True,
    transport: Literal["auto", "mpi", "socket"] = "auto",
    scheduler_port: int = 0,
    scheduler_file: str | os.PathLike[str] | None = None,
    trust_scheduler_file: bool = False,
    address: str | None = None,
    scheduler_options: Mapping[str, Any] = {},
    dashboard: bool = True,
    dashboard_address: str | int = ":8787",
    dashboard_token: bool = True,
    nthreads: int | Literal["auto"] = "auto",
    memory_limit: float | str | None = "auto",
    local_directory: str | os.PathLike[str] | None = None,
    worker_class: str | type = "distributed.Worker",
    worker_options: Mapping[str, Any] = {},
    name: str = "mpidask",
    nanny: bool = False,
    wait_for_workers: bool | int = True,
    startup_timeout: float | str = "5 min",
    shutdown_timeout: float | str = "30 s",
    mpi_task_grace: float | str = "30 s",
    death_timeout: float | str | None = None,
    reconnect: bool = True,
    performance_report: str | os.PathLike[str] | None = None,
    progress: float | str | None = None,
    summary: str | os.PathLike[str] | None = None,
    log_level: int | str = "warning",
) -> _Block[Client | None]: ...
@overload
def mpi_dask_main(function: t.First[_P, _R], /) -> t.MainFirst[_P, _R]: ...
@overload
def mpi_dask_main(function: t.BehindMany[_R], /) -> Callable[..., _R]: ...
@overload
def mpi_dask_main(function: t.Behind6[_R], /) -> Callable[..., _R]: ...
@overload
def mpi_dask_main(function: t.Behind5[_R], /) -> Callable[..., _R]: ...
@overload
def mpi_dask_main(function: t.Behind4[_R], /) -> Callable[..., _R]: ...
@overload
def mpi_dask_main(function: t.Behind3[_A, _B, _C, _R], /) -> t.Main3[_A, _B, _C, _R]: ...
@overload
def mpi_dask_main(function: t.Behind2[_A, _B, _R], /) -> t.Main2[_A, _B, _R]: ...
@overload
def mpi_dask_main(function: t.Behind1[_A, _R], /) -> t.Main1[_A, _R]: ...
@overload
def mpi_dask_main(function: t.Behind0[_R], /) -> t.Main0[_R]: ...
@overload
def mpi_dask_main(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def mpi_dask_main(
    *,
    comm: MPI.Intracomm | None = None,
    exit: Literal[True] = True,
    scheduler_rank: int = 0,
    client_rank: int = 1,
    exclusive_workers: bool = True,
    interface: str | None = None,
    host: str | None = None,
    protocol: str | None = None,
    security: bool | Security = True,
    transport: Literal["auto", "mpi", "socket"] = "auto",
    scheduler_port: int = 0,
    scheduler_file: str | os.PathLike[str] | None = None,
    trust_scheduler_file: bool = False,
    address: str | None = None,
    scheduler_options: Mapping[str, Any] = {},
    dashboard: bool = True,
    dashboard_address: str | int = ":8787",
    dashboard_token: bool = True,
    nthreads: int | Literal["auto"] = "auto",
    memory_limit: float | str | None = "auto",
    local_directory: str | os.PathLike[str] | None = None,
    worker_class: str | type = "distributed.Worker",
    worker_options: Mapping[str, Any] = {},
    name: str = "mpidask",
    nanny: bool = False,
    wait_for_workers: bool | int = True,
    startup_timeout: float | str = "5 min",
    shutdown_timeout: float | str = "30 s",
    mpi_task_grace: float | str = "30 s",
    death_timeout: float | str | None = None,
    reconnect: bool = True,
    performance_report: str | os.PathLike[str] | None = None,
    progress: float | str | None = None,
    summary: str | os.PathLike[str] | None = None,
    log_level: int | str = "warning",
) -> _Decorator: ...
@overload
def mpi_dask_main(
    *,
    comm: MPI.Intracomm | None = None,
    exit: bool,
    scheduler_rank: int = 0,
    client_rank: int = 1,
    exclusive_workers: bool = True,
    interface: str | None = None,
    host: str | None = None,
    protocol: str | None = None,
    security: bool | Security = True,
    transport: Literal["auto", "mpi", "socket"] = "auto",
    scheduler_port: int = 0,
    scheduler_file: str | os.PathLike[str] | None = None,
    trust_scheduler_file: bool = False,
    address: str | None = None,
    scheduler_options: Mapping[str, Any] = {},
    dashboard: bool = True,
    dashboard_address: str | int = ":8787",
    dashboard_token: bool = True,
    nthreads: int | Literal["auto"] = "auto",
    memory_limit: float | str | None = "auto",
    local_directory: str | os.PathLike[str] | None = None,
    worker_class: str | type = "distributed.Worker",
    worker_options: Mapping[str, Any] = {},
    name: str = "mpidask",
    nanny: bool = False,
    wait_for_workers: bool | int = True,
    startup_timeout: float | str = "5 min",
    shutdown_timeout: float | str = "30 s",
    mpi_task_grace: float | str = "30 s",
    death_timeout: float | str | None = None,
    reconnect: bool = True,
    performance_report: str | os.PathLike[str] | None = None,
    progress: float | str | None = None,
    summary: str | os.PathLike[str] | None = None,
    log_level: int | str = "warning",
) -> _DecoratorOfAll: ...
def join_existing(
    scheduler_file: str | os.PathLike[str] | None = None,
    *,
    address: str | None = None,
    comm: MPI.Intracomm | None = None,
    exit: bool = True,
    scheduler_rank: int = 0,
    client_rank: int = 1,
    exclusive_workers: bool = True,
    interface: str | None = None,
    host: str | None = None,
    protocol: str | None = None,
    security: bool | Security = False,
    transport: Literal["auto", "mpi", "socket"] = "auto",
    scheduler_port: int = 0,
    trust_scheduler_file: bool = False,
    scheduler_options: Mapping[str, Any] = {},
    dashboard: bool = True,
    dashboard_address: str | int = ":8787",
    dashboard_token: bool = True,
    nthreads: int | Literal["auto"] = "auto",
    memory_limit: float | str | None = "auto",
    local_directory: str | os.PathLike[str] | None = None,
    worker_class: str | type = "distributed.Worker",
    worker_options: Mapping[str, Any] = {},
    name: str = "mpidask",
    nanny: bool = False,
    wait_for_workers: bool | int = True,
    startup_timeout: float | str = "5 min",
    shutdown_timeout: float | str = "30 s",
    mpi_task_grace: float | str = "30 s",
    death_timeout: float | str | None = None,
    reconnect: bool = True,
    performance_report: str | os.PathLike[str] | None = None,
    progress: float | str | None = None,
    summary: str | os.PathLike[str] | None = None,
    log_level: int | str = "warning",
) -> None: ...

__version__: str
