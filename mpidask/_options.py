"""The options of mpidask, declared once.

Signatures, command-line flags, Dask's configuration and the reference page of the documentation
are all generated from `Options`. Type checkers need literal types: those are the `TypedDict`
classes at the end, which a test compares with the declaration.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import operator
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from distributed import Security
    from mpi4py import MPI

Check = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an option accepts."""

    check: Check  # returns the value to use, or raises TypeError or ValueError
    metavar: str  # on command lines; empty where the flag takes no value, or there is none
    description: str  # for the documentation, with units


def _declare(group: str, default: Any, kind: Kind, help: str) -> Any:
    return dataclasses.field(
        metadata={"default": default, "kind": kind, "help": help, "group": group}
    )


_role = functools.partial(_declare, "Roles")
_network = functools.partial(_declare, "Network and security")
_worker = functools.partial(_declare, "Workers")
_lifetime = functools.partial(_declare, "Start and end")
_output = functools.partial(_declare, "Output")

# -- Checks: each returns the value to use, or raises. -----------------------------------


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("must be True or False")


def _integer(minimum: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number = _plain(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError("must be a whole number")
        if number < minimum:
            raise ValueError(f"must be {minimum} or more")
        return number

    return check


def _either(literal: str | None, otherwise: Check) -> Check:
    """Accept a special value, or what another check accepts."""

    def check(value: Any) -> Any:
        if value is literal or (isinstance(value, str) and value == literal):
            return value
        try:
            return otherwise(value)
        except TypeError as error:
            raise TypeError(f"{error}, or {literal!r}") from None

    return check


def _optional(kind: Kind) -> Kind:
    return dataclasses.replace(kind, check=_either(None, kind.check))


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise TypeError("must be a non-empty string")


def _path(value: Any) -> str:
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return os.path.abspath(os.path.expanduser(os.fspath(value)))
    raise TypeError("must be a path")


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise TypeError("must be a dict with string keys")


def _worker_options(value: Any) -> dict[str, Any]:
    options = _mapping(value)
    if "name" in options:
        raise ValueError("can't name the workers, names must differ: use the option 'name'")
    return options


def _seconds(value: Any) -> float:
    from dask.utils import parse_timedelta

    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError("must be a time in seconds or a string such as '5 min'")
    if isinstance(value, str):  # dask knows "minutes" and "m", but not the usual "min"
        value = re.sub(r"(?<![a-z])mins?$", "minutes", value.strip())
    try:
        seconds = float(parse_timedelta(value))
    except (KeyError, ValueError, IndexError, OverflowError):
        raise ValueError("must be a time in seconds or a string such as '5 min'") from None
    if not 0 < seconds < float("inf"):
        raise ValueError("must be more than 0 and finite: every wait has a limit")
    return seconds


def _memory(value: Any) -> int | float | str | None:
    from dask.utils import parse_bytes

    message = "must be a number of bytes, a fraction, a string such as '4 GiB', or 'auto'"
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(message)
    try:
        if value == "" or (value != "auto" and parse_bytes(value) < 0):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(message) from None
    return value


def _plain(value: Any) -> Any:
    """Convert integers of other types, such as numpy's, to int."""
    is_integer = hasattr(value, "__index__") and not isinstance(value, bool)
    return operator.index(value) if is_integer else value


def _port(value: Any) -> int:
    port = _integer(0)(value)
    if port > 65535:
        raise ValueError("must be a port, 0 to 65535")
    return port


def _port_or_address(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    try:
        return f":{_port(value)}"
    except TypeError:
        raise TypeError("must be a non-empty string or a port") from None


def _worker_class(value: Any) -> str | type:
    return value if isinstance(value, type) else _text(value)


def _security(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    from distributed import Security

    if isinstance(value, Security):
        return value
    raise TypeError("must be True, False or a distributed.Security")


def _wait_for_workers(value: Any) -> bool | int:
    if isinstance(value, bool):
        return value
    try:
        return _integer(0)(value)
    except TypeError:
        raise TypeError("must be True, False or a number of workers") from None


def _log_level(value: Any) -> int:
    import logging

    level = logging.getLevelName(value.upper()) if isinstance(value, str) else _plain(value)
    if isinstance(level, bool) or not isinstance(level, int):
        raise ValueError("must be a logging level such as 'warning' or 'info'")
    return level


def _transport(value: Any) -> str:
    if value in ("auto", "mpi", "socket"):
        return str(value)
    raise ValueError("must be 'auto', 'mpi' or 'socket'")


def _communicator(value: Any) -> Any:
    if value is None or (hasattr(value, "Idup") and not (value and value.Is_inter())):
        return value  # COMM_NULL, which is falsy, on ranks that are left out
    raise TypeError("must be an intracommunicator of mpi4py")


BOOLEAN = Kind(_boolean, "", "bool")
RANK = Kind(_integer(0), "INT", "int")
PORT = Kind(_port, "PORT", "int, 0 to 65535")
PATH = Kind(_path, "PATH", "path")
NAME = Kind(_text, "NAME", "str")
ADDRESS = Kind(_text, "ADDRESS", "str")
SECONDS = Kind(_seconds, "TIME", "seconds, or text such as '5 min'")
MAPPING = Kind(_mapping, "JSON", "dict")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """All options, checked; made by `Options.resolve`."""

    comm: Any = _role(
        None,
        Kind(_communicator, "", "mpi4py.MPI.Intracomm"),
        "communicator whose ranks form the cluster (default: COMM_WORLD); mpidask uses a private "
        "duplicate of it; ranks that are not in it (COMM_NULL) get None",
    )
    exit: bool = _role(
        True,
        BOOLEAN,
        "when the cluster ends, all ranks but the client's leave the program; False: they get None "
        "and go on",
    )
    scheduler_rank: int = _role(0, RANK, "rank that runs the scheduler")
    client_rank: int = _role(1, RANK, "rank that runs your function or script")
    exclusive_workers: bool = _role(
        True,
        BOOLEAN,
        "keep the rank of the scheduler, and that of the client if there is one, free of workers; "
        "otherwise they host one, too",
    )
    interface: str | None = _network(
        None,
        _optional(NAME),
        "network interface that the scheduler and the workers use, such as 'ib0'",
    )
    host: str | None = _network(
        None,
        _optional(ADDRESS),
        "address that the scheduler listens on; workers use their own addresses in that network",
    )
    protocol: str | None = _network(
        None,
        _optional(NAME),
        "protocol of Dask's connections: 'tls' (the default) or 'wss'; without security: 'tcp' "
        "(the default then), 'ucx' or others",
    )
    security: Any = _network(
        True,
        Kind(_security, "", "bool or distributed.Security"),
        "encrypt Dask's connections, with credentials made for this job, so that nobody else can "
        "connect; in Python also a distributed.Security of your own",
    )
    transport: str = _network(
        "auto",
        Kind(_transport, "auto|mpi|socket", "'auto', 'mpi' or 'socket'"),
        "how large data goes from rank to rank: by MPI, by sockets, or by whichever is faster "
        "('auto'); workers with a nanny, and workers of another job, always use sockets",
    )
    scheduler_port: int = _network(0, PORT, "port of the scheduler; 0: any free port")
    scheduler_file: str | None = _network(
        None,
        _optional(PATH),
        "file for the scheduler's address and the job's credentials (mode 0600); the job of the "
        "scheduler writes it, jobs and clients that join read it",
    )
    trust_scheduler_file: bool = _network(
        False,
        BOOLEAN,
        "only with join_existing or --no-scheduler: use a scheduler file even if it belongs to "
        "another user, or others may read or write it; whoever can write it can run code as you",
    )
    address: str | None = _network(
        None,
        _optional(ADDRESS),
        "only with join_existing or --no-scheduler: address of the scheduler, if there is no "
        "scheduler file",
    )
    scheduler_options: Mapping[str, Any] = _network(
        {}, MAPPING, "more arguments for distributed.Scheduler"
    )
    dashboard: bool = _network(True, BOOLEAN, "serve Dask's dashboard")
    dashboard_address: str = _network(
        ":8787",
        Kind(_port_or_address, "[HOST]:PORT", "str, or a port"),
        "where the dashboard listens; if the port is in use, another is chosen",
    )
    dashboard_token: bool = _network(
        True,
        BOOLEAN,
        "with security, put a secret of this job into the path of the dashboard, so that only "
        "those who have its link can open it",
    )
    nthreads: int | str = _worker(
        "auto",
        Kind(_either("auto", _integer(1)), "INT|auto", "int or 'auto'"),
        "threads per worker; 'auto': the node's CPUs divided among its workers",
    )
    memory_limit: int | float | str | None = _worker(
        "auto",
        Kind(
            _memory,
            "BYTES|auto",
            "bytes, text such as '4 GiB', a fraction of the node's memory, or 'auto'",
        ),
        "memory per worker, as for distributed.Worker; 'auto': the node's memory divided among "
        "its ranks; 0: no limit",
    )
    local_directory: str | None = _worker(
        None,
        _optional(PATH),
        "directory for data that workers spill to disk; default: Dask's own choice",
    )
    worker_class: str | type = _worker(
        "distributed.Worker",
        Kind(_worker_class, "CLASS", "str or class"),
        "class of the workers, such as 'dask_cuda.CUDAWorker'",
    )
    worker_options: Mapping[str, Any] = _worker(
        {},
        dataclasses.replace(MAPPING, check=_worker_options),
        "more arguments for the worker class",
    )
    name: str = _worker(
        "mpidask", NAME, "prefix of the workers' names, as in 'mpidask-2' for the worker of rank 2"
    )
    nanny: bool = _worker(
        False, BOOLEAN, "run each worker in a child process, which is restarted if it dies"
    )
    wait_for_workers: bool | int = _lifetime(
        True,
        Kind(_wait_for_workers, "INT|true|false", "bool or int"),
        "how many workers the start waits for: True (all), a number, or False (none)",
    )
    startup_timeout: float = _lifetime(
        "5 min",
        SECONDS,
        "how long the start may take; after that the job ends, and the missing ranks are named",
    )
    shutdown_timeout: float = _lifetime(
        "30 s",
        SECONDS,
        "how long running tasks may delay the end; after that their ranks are named, and the job "
        "ends without them",
    )
    mpi_task_grace: float = _lifetime(
        "30 s",
        SECONDS,
        "if a function of submit_mpi fails on one rank, how long it may stay in MPI on others "
        "before the job is aborted; also how long it waits for ranks that have lost their worker",
    )
    death_timeout: float | None = _lifetime(
        None,
        _optional(SECONDS),
        "only with join_existing or --no-scheduler: how long to wait for a scheduler; default: no "
        "limit",
    )
    reconnect: bool = _lifetime(
        True,
        BOOLEAN,
        "only with join_existing or --no-scheduler: when the scheduler goes away, wait for it to "
        "come back; False: the job ends",
    )
    performance_report: str | None = _output(
        None,
        _optional(PATH),
        "file for Dask's HTML performance report of the whole run, written every few minutes and "
        "at the end",
    )
    progress: float | None = _output(
        None,
        _optional(SECONDS),
        "interval, such as '5 min', at which a line in the log says how far the work has come; if "
        "no task has ended for three intervals, a line says which tasks still run",
    )
    summary: str | None = _output(
        None,
        _optional(PATH),
        "JSON file for what the job did and used, kept up to date while the job runs; at the end, "
        "two lines in the log sum it up",
    )
    log_level: int = _output(
        "warning",
        Kind(_log_level, "LEVEL", "str or int"),
        "level of distributed's log messages on the ranks of the scheduler and the workers, such "
        "as 'info'; in Python also a number",
    )

    @classmethod
    def resolve(
        cls, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> Options:
        """Check the options given; those left out come from Dask's configuration.

        `defaults` are those of one front end that differ from those declared. Raises `TypeError`
        for a name that does not exist or a value of the wrong type, and `ValueError` for an
        invalid value or options that contradict each other.
        """
        import dask

        fields = _fields()
        configured = dask.config.get("mpidask", None) or {}
        if not isinstance(configured, Mapping):
            raise TypeError(f"Dask's configuration has mpidask: {configured!r}, not its options")
        configured = {str(key).replace("-", "_"): value for key, value in configured.items()}
        _reject_unknown(given, fields, "")
        _reject_unknown(configured, fields.keys() - {"comm"}, " in Dask's configuration (mpidask:)")
        values = {name: field.metadata["default"] for name, field in fields.items()}
        values |= defaults or {}
        values |= configured
        values |= given
        checked = {name: _checked(fields[name], value) for name, value in values.items()}
        options = cls(**checked)
        options._check_together()
        return options

    @staticmethod
    def check(given: Mapping[str, Any]) -> None:
        """Check the options given, without Dask's configuration."""
        fields = _fields()
        _reject_unknown(given, fields, "")
        for name, value in given.items():
            _checked(fields[name], value)

    def _check_together(self) -> None:
        if self.security is not False and self.protocol not in (None, "tls", "wss"):
            raise ValueError(
                f"protocol {self.protocol!r} can't carry the job's credentials: "
                "add security=False, or leave the protocol out"
            )
        if self.performance_report is not None and importlib.util.find_spec("bokeh") is None:
            raise ValueError(
                "option performance_report needs bokeh: pip install 'mpidask[dashboard]'"
            )
        if self.interface is not None and self.host is not None:
            raise ValueError("give interface or host, not both")


def _fields() -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(Options)}


#: Names that distributed, dask-mpi and dask-jobqueue use, and the options meant.
_ELSEWHERE = {
    "cores": "nthreads",
    "env": "worker_options",
    "memory": "memory_limit",
    "plugins": "worker_options",
    "preload": "worker_options",
    "resources": "worker_options",
    "scheduler": "address",
    "scheduler_address": "address",
    "scheduler_kwargs": "scheduler_options",
    "silence_logs": "log_level",
    "threads_per_worker": "nthreads",
    "timeout": "startup_timeout",
    "worker_name": "name",
}
#: Names of options for a number that the number of ranks determines here.
_NUMBERS = {"n_workers", "num_workers", "nworkers", "processes", "nprocs", "jobs"}


def _reject_unknown(names: Any, known: Any, where: str) -> None:
    for name in names:
        if name not in known:
            raise TypeError(
                f"mpidask has no option {name!r}{where}{_hint(name, known)}; "
                f"its options are {', '.join(sorted(known))}"
            )


def _hint(name: str, known: Any) -> str:
    import difflib

    if name in _NUMBERS:
        return " (the number of ranks decides how many workers there are: mpirun -n ...)"
    close = [_ELSEWHERE.get(name, ""), *difflib.get_close_matches(name, known, n=1)]
    meant = next((one for one in close if one in known), None)
    return f" (did you mean {meant!r}?)" if meant else ""


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    try:
        return field.metadata["kind"].check(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"option {field.name}={value!r} {error}") from None


# -- Types for callers: more than `Options` holds, as checks convert. ---------------------


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
    """The options of programs except `exit`, which has its own overloads."""

    scheduler_file: str | os.PathLike[str] | None
    address: str | None


class JoinOptions(CommonOptions, total=False):
    """The options of `join_existing` except its first parameters."""

    exit: bool


class AllOptions(ProgramOptions, JoinOptions):
    """All options; the source of the types in signatures at run time."""
