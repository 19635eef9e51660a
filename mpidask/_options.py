"""The options of mpidask, declared once.

The decorator, the context manager, the command lines, dask's configuration and the
reference page of the documentation are all made from `Options`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], Any]


def _declare(default: Any, check: Check, help: str, *, group: str, kind: str) -> Any:
    """Declare one option: its default, what it accepts, what it means."""
    return dataclasses.field(
        metadata={"default": default, "check": check, "help": help, "group": group, "kind": kind}
    )


# -- What an option accepts. Each check returns the value to use, or raises. --------


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("must be True or False")


def _integer(minimum: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("must be a whole number")
        if value < minimum:
            raise ValueError(f"must be {minimum} or more")
        return value

    return check


def _either(literal: Any, otherwise: Check) -> Check:
    """Accept one special value beside what another check accepts."""

    def check(value: Any) -> Any:
        if value is literal or (isinstance(literal, str) and value == literal):
            return value
        try:
            return otherwise(value)
        except TypeError as error:
            raise TypeError(f"{error}, or {literal!r}") from None

    return check


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

    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError("must be a time in seconds or a string such as '5 min'")
    if isinstance(value, str):  # dask knows "minutes" and "m", but not the usual "min"
        value = re.sub(r"(?<![a-z])mins?$", "minutes", value.strip())
    try:
        seconds = float(parse_timedelta(value))
    except (KeyError, ValueError, IndexError, OverflowError):
        raise ValueError("must be a time in seconds or a string such as '5 min'") from None
    if not 0 < seconds < float("inf"):
        raise ValueError("must be more than 0 and finite: nothing waits without a bound")
    return seconds


def _memory(value: Any) -> int | float | str | None:
    from dask.utils import parse_bytes

    message = "must be a number of bytes, a fraction, a string such as '4 GiB', or 'auto'"
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


def _port(value: Any) -> int:
    port: int = _integer(0)(value)
    if port > 65535:
        raise ValueError("must be a port, 0 to 65535")
    return port


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
        count: int = _integer(0)(value)
    except TypeError:
        raise TypeError("must be True, False or a number of workers") from None
    return count


def _log_level(value: Any) -> int:
    import logging

    level = logging.getLevelName(value.upper()) if isinstance(value, str) else value
    if isinstance(level, bool) or not isinstance(level, int):
        raise ValueError("must be a logging level such as 'warning' or 'info'")
    return level


def _communicator(value: Any) -> Any:
    if value is None or (hasattr(value, "Idup") and not (value and value.Is_inter())):
        return value  # COMM_NULL, which is false, is that of the ranks left out
    raise TypeError("must be an intracommunicator of mpi4py")


ROLES, NETWORK, WORKERS, LIFE, OUTPUT = (
    "Roles",
    "Network and security",
    "Workers",
    "Start and end",
    "Output",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """All options, checked. Make one with `Options.resolve`."""

    comm: Any = _declare(
        None,
        _communicator,
        "communicator whose ranks make the cluster; a private duplicate of it is used; "
        "ranks that it leaves out (COMM_NULL) get None",
        group=ROLES,
        kind="mpi4py.MPI.Intracomm",
    )
    exit: bool = _declare(
        True,
        _boolean,
        "whether the ranks that are not the client leave the program at the end",
        group=ROLES,
        kind="bool",
    )
    scheduler_rank: int = _declare(0, _integer(0), "rank of the scheduler", group=ROLES, kind="int")
    client_rank: int = _declare(
        1, _integer(0), "rank that runs the user's function", group=ROLES, kind="int"
    )
    exclusive_workers: bool = _declare(
        True,
        _boolean,
        "whether the ranks of scheduler and client, where there are such, host no worker",
        group=ROLES,
        kind="bool",
    )
    interface: str | None = _declare(
        None,
        _either(None, _text),
        "network interface that scheduler and workers listen on, such as 'ib0'",
        group=NETWORK,
        kind="str",
    )
    host: str | None = _declare(
        None,
        _either(None, _text),
        "address that the scheduler listens on; workers take the one that faces it",
        group=NETWORK,
        kind="str",
    )
    protocol: str | None = _declare(
        None,
        _either(None, _text),
        "protocol: 'tls' (the default) or 'wss'; without security 'tcp' (the default there), "
        "'ucx' or others",
        group=NETWORK,
        kind="str",
    )
    security: Any = _declare(
        True,
        _security,
        "whether to make credentials for this job alone, without which nobody can connect; "
        "in Python also a distributed.Security of your own",
        group=NETWORK,
        kind="bool or distributed.Security",
    )
    scheduler_port: int = _declare(
        0, _port, "port of the scheduler; 0: any free one", group=NETWORK, kind="int"
    )
    scheduler_file: str | None = _declare(
        None,
        _either(None, _path),
        "file for the scheduler's address and the job's credentials (mode 0600): written "
        "where the scheduler is, read by joined workers",
        group=NETWORK,
        kind="path",
    )
    address: str | None = _declare(
        None,
        _either(None, _text),
        "joined workers: address of the scheduler, where no scheduler file names it",
        group=NETWORK,
        kind="str",
    )
    scheduler_options: Mapping[str, Any] = _declare(
        {}, _mapping, "more arguments for distributed.Scheduler", group=NETWORK, kind="dict"
    )
    dashboard: bool = _declare(
        True, _boolean, "whether the scheduler serves its dashboard", group=NETWORK, kind="bool"
    )
    dashboard_address: str = _declare(
        ":8787",
        _text,
        "where the dashboard listens; a taken port means another port",
        group=NETWORK,
        kind="str",
    )
    nthreads: int | str = _declare(
        "auto",
        _either("auto", _integer(1)),
        "threads of each worker; 'auto': the node's CPUs divided among its workers",
        group=WORKERS,
        kind="int",
    )
    memory_limit: int | float | str | None = _declare(
        "auto",
        _memory,
        "memory of each worker, as for distributed.Worker; 'auto': the node's memory "
        "divided among its ranks; 0: no limit",
        group=WORKERS,
        kind="bytes",
    )
    local_directory: str | None = _declare(
        None,
        _either(None, _path),
        "directory for spilled data; default: dask's own choice",
        group=WORKERS,
        kind="path",
    )
    worker_class: str | type = _declare(
        "distributed.Worker",
        _worker_class,
        "class of the workers, such as 'dask_cuda.CUDAWorker'",
        group=WORKERS,
        kind="str or class",
    )
    worker_options: Mapping[str, Any] = _declare(
        {}, _worker_options, "more arguments for the worker class", group=WORKERS, kind="dict"
    )
    name: str = _declare(
        "mpidask", _text, "start of the workers' names; the rank follows", group=WORKERS, kind="str"
    )
    nanny: bool = _declare(
        False,
        _boolean,
        "whether each worker runs in a child process that is restarted when it dies",
        group=WORKERS,
        kind="bool",
    )
    wait_for_workers: bool | int = _declare(
        True,
        _wait_for_workers,
        "workers that the start waits for: True (all), a number, or False (none)",
        group=LIFE,
        kind="bool or int",
    )
    startup_timeout: float = _declare(
        "5 min",
        _seconds,
        "how long the start may take before it fails and names who is missing",
        group=LIFE,
        kind="time",
    )
    shutdown_timeout: float = _declare(
        "30 s",
        _seconds,
        "how long running tasks may hold up the end before their ranks are left behind",
        group=LIFE,
        kind="time",
    )
    death_timeout: float | None = _declare(
        None,
        _either(None, _seconds),
        "joined workers: how long to wait for a scheduler; default: no bound",
        group=LIFE,
        kind="time",
    )
    reconnect: bool = _declare(
        True,
        _boolean,
        "joined workers: whether to wait for a scheduler that comes back",
        group=LIFE,
        kind="bool",
    )
    performance_report: str | None = _declare(
        None,
        _either(None, _path),
        "file for Dask's HTML report of the whole run",
        group=OUTPUT,
        kind="path",
    )
    log_level: int = _declare(
        "warning",
        _log_level,
        "level such as 'info' of distributed's loggers where scheduler and workers run; in "
        "Python also a number",
        group=OUTPUT,
        kind="str",
    )

    @classmethod
    def resolve(
        cls, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> Options:
        """Check the options given, and take the others from dask's configuration.

        Parameters
        ----------
        given : mapping
            Names and values, as the user wrote them.
        defaults : mapping, optional
            Defaults of one front end that differ from those declared.

        Raises
        ------
        TypeError
            For a name that does not exist, or a value of the wrong type.
        ValueError
            For a value that can't be, or options that contradict each other.
        """
        import dask

        fields = {field.name: field for field in dataclasses.fields(cls)}
        configured = dask.config.get("mpidask", None) or {}
        if not isinstance(configured, Mapping):
            raise TypeError(f"dask's configuration has mpidask: {configured!r}, not its options")
        configured = {str(key).replace("-", "_"): value for key, value in configured.items()}
        _reject_unknown(given, fields, "")
        _reject_unknown(configured, fields.keys() - {"comm"}, " in dask's configuration (mpidask:)")
        values = {name: field.metadata["default"] for name, field in fields.items()}
        values |= defaults or {}
        values |= configured
        values |= given
        checked = {name: _checked(fields[name], value) for name, value in values.items()}
        options = cls(**checked)
        options._check_together()
        return options

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
            raise ValueError("interface and host exclude each other: give one of them")


def _reject_unknown(names: Any, known: Any, where: str) -> None:
    import difflib

    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise TypeError(
                f"mpidask has no option {name!r}{where}"
                + (f" (did you mean {close[0]!r}?)" if close else "")
                + f"; its options are {', '.join(sorted(known))}"
            )


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    try:
        return field.metadata["check"](value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"option {field.name}={value!r} {error}") from None
