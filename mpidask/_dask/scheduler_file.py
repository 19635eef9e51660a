"""The scheduler file: where processes from outside find a cluster, and its credentials.

It is the JSON file that distributed writes, so a plain ``Client(scheduler_file=...)`` reads it,
with the credentials of a secured cluster added. It is written in one go, for its owner alone, and
removed at the end. It replaces nothing but an older one, and a file that others may have written
is not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mpidask._dask import atomic_file, security
from mpidask._dask.atomic_file import (
    AtomicFile,
    NotRegularError,
    SlowFileSystemError,
    owner_of,
    read_regular_file,
)
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._errors import MPIDaskError, SchedulerFileError
from mpidask._text import describe
from mpidask._threads import in_daemon_thread, to_daemon_thread

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._options import Options

#: What distributed writes to each such file, among other things.
_IDENTITY = {"type", "id", "address", "workers"}
#: Scheduler files that are being read: one that hangs is not read again and again.
_reading: dict[str, Future[ConnectionInfo]] = {}


# -- Write it. ---------------------------------------------------------------------------


def check(path: str) -> None:
    """Raise `SchedulerFileError` if the file can't be written, or something else is there."""
    _call_in_time(path, _file(path).check)


def write(path: str, identity: Mapping[str, Any], cluster: ConnectionInfo) -> None:
    """Write `distributed.Scheduler.identity`, and the credentials of the cluster.

    Raise `SchedulerFileError` if the file can't be written, or something else is there.
    """
    content = dict(identity)
    if credentials := security.to_json(cluster.security):
        content["security"] = credentials
    if cluster.dashboard is not None:
        content["dashboard_link"] = cluster.dashboard  # for people: it may have a secret
    _call_in_time(path, _file(path).write, json.dumps(content, indent=2).encode())


def remove(path: str, identity: Mapping[str, Any]) -> None:
    """Remove the file of a scheduler, unless something else has replaced it."""
    with contextlib.suppress(OSError):  # gone, not ours, or the file system hangs
        atomic_file.call_in_time(path, _remove, path, identity)


def _remove(path: str, identity: Mapping[str, Any]) -> None:
    content = _parsed(read_regular_file(path, os.O_NOFOLLOW)[0])
    if content.get("id") == identity["id"]:
        os.unlink(path)


@contextlib.asynccontextmanager
async def written(
    path: str | None, scheduler: Scheduler, cluster: ConnectionInfo
) -> AsyncIterator[None]:
    """Write the file, if one is asked for, for the time of a cluster."""
    if path is None:
        yield
        return
    identity = scheduler.identity()
    # A file system that hangs must not block the event loop.
    await to_daemon_thread(write, path, identity, cluster)
    try:
        yield
    finally:
        await to_daemon_thread(remove, path, identity)


def _file(path: str) -> AtomicFile:
    return AtomicFile(path, "scheduler file", _is_of_a_scheduler, private=True)


def _is_of_a_scheduler(content: bytes) -> bool:
    return _parsed(content).keys() >= _IDENTITY


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _call_in_time(path: str, function: Callable[..., object], *args: Any) -> None:
    try:
        atomic_file.call_in_time(path, function, *args)
    except SlowFileSystemError as error:
        raise SchedulerFileError(str(error), may_pass=True) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise SchedulerFileError(f"the scheduler file {path} can't be written: {reason}") from None


# -- Read it. ----------------------------------------------------------------------------


def read(path: str, *, trust: bool = False) -> ConnectionInfo:
    """Read how to reach a cluster, from a file that only its owner may have written, or may read.

    Raise `SchedulerFileError` otherwise, or if the file is not there, or not (yet) a scheduler
    file. With `trust`, others may have written it, or read the credentials in it.
    """
    text, status = _load(path)
    if not trust:
        _refuse_strangers(path, status)
    content = _parsed(text)
    if "address" not in content:
        raise SchedulerFileError(
            f"{path} is not a scheduler file: empty, half written, or something else",
            may_pass=True,
        )
    credentials = content.get("security")
    if credentials is not None and status.st_mode & 0o077 and not trust:
        raise SchedulerFileError(
            f"others can read the credentials in the scheduler file {path}, so it is not "
            f"used; run: chmod 600 {path}"
        )
    try:
        return ConnectionInfo(str(content["address"]), security.from_json(credentials))
    except (TypeError, ValueError, OSError) as error:
        raise SchedulerFileError(f"the scheduler file {path} is broken: {error}") from None


def _load(path: str) -> tuple[bytes, os.stat_result]:
    try:
        return read_regular_file(path)
    except NotRegularError as error:
        raise SchedulerFileError(f"{path} is {error}, not a scheduler file") from None
    except FileNotFoundError:
        raise SchedulerFileError(f"there is no scheduler file {path}", may_pass=True) from None
    except OSError as error:
        raise SchedulerFileError(
            f"can't read the scheduler file {path}: {error.strerror}"
        ) from None


def _refuse_strangers(path: str, status: os.stat_result) -> None:
    """Raise if others may have written the file: they would choose what this job runs."""
    if status.st_uid not in (os.geteuid(), 0):
        raise SchedulerFileError(
            f"the scheduler file {path} belongs to {owner_of(status)}, who could make this job "
            "run anything, so it is not used; if you trust them, set trust_scheduler_file"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SchedulerFileError(
            f"others may write the scheduler file {path}, and make this job run anything, so "
            f"it is not used; run: chmod go-w {path} (if you trust them, set "
            "trust_scheduler_file)"
        )


def connection(
    scheduler_file: str | os.PathLike[str], *, trust_scheduler_file: bool = False
) -> dict[str, Any]:
    """Return the arguments with which a client connects to a cluster from outside.

    Parameters
    ----------
    scheduler_file : path
        The file that the cluster has as its option ``scheduler_file``. It carries the
        credentials of a secured cluster.
    trust_scheduler_file : bool
        Use a file even if it belongs to another user, or others may read or write it.
        Whoever can write it can run code as you.

    Returns
    -------
    dict
        ``address`` and, for a secured cluster, ``security``.

    Raises
    ------
    SchedulerFileError
        If the file is missing or broken, belongs to another user (except root), or if
        others may write it or read its credentials.

    Examples
    --------
    >>> from distributed import Client
    >>> import mpidask
    >>> client = Client(**mpidask.connection("scheduler.json"))     # doctest: +SKIP
    """
    path = os.path.expanduser(os.fspath(scheduler_file))
    cluster = read(path, trust=trust_scheduler_file)
    arguments = {"address": cluster.address, "security": cluster.security}
    return {name: value for name, value in arguments.items() if value is not None}


# -- Find the cluster to join. -------------------------------------------------------------


async def find_cluster(options: Options, timeout: float) -> ConnectionInfo:
    """Find the cluster to join, and check that its scheduler answers, within 10 s at most.

    Raise OSError if none answers, `SchedulerFileError` if there is no usable scheduler file, and
    `MPIDaskError` if the address is invalid or needs other credentials.
    """
    from distributed import Security

    # Rounded, so that the messages of all ranks are alike.
    timeout = math.ceil(min(timeout, atomic_file.ANSWER_TIMEOUT))
    if options.scheduler_file is not None:
        cluster = await _read_in_time(
            options.scheduler_file, timeout, trust=options.trust_scheduler_file
        )
    else:
        assert options.address is not None
        cluster = ConnectionInfo(options.address)
    if isinstance(options.security, Security):
        cluster = dataclasses.replace(cluster, security=options.security)
    try:
        await _try_to_connect(cluster, timeout)
    except (TypeError, ValueError, RuntimeError) as error:
        source = f"from {options.scheduler_file}" if options.scheduler_file else "as given"
        raise MPIDaskError(f"can't connect to {cluster.address}, {source}: {error}") from None
    return cluster


async def _try_to_connect(cluster: ConnectionInfo, timeout: float) -> None:
    """Raise OSError for what may be temporary: all but a wrong address or wrong credentials."""
    try:
        comm = await cluster.connect("worker", timeout)
        await comm.close()
    except asyncio.TimeoutError as error:
        raise OSError(f"{cluster.address} accepts connections, but does not answer") from error
    except OSError as error:
        raise OSError(f"no scheduler answers at {cluster.address}: {error}") from error
    except (TypeError, ValueError, RuntimeError):
        raise
    except Exception as error:  # distributed took another program's answer for a message
        raise OSError(
            f"what answers at {cluster.address} is not a scheduler ({describe(error)})"
        ) from error


async def _read_in_time(path: str, timeout: float, *, trust: bool) -> ConnectionInfo:
    reading = _reading.get(path) or in_daemon_thread(read, path, trust=trust)
    _reading[path] = reading
    try:
        return await asyncio.wait_for(asyncio.wrap_future(reading), timeout)
    except asyncio.TimeoutError:
        error = SlowFileSystemError(path, timeout)
        raise SchedulerFileError(str(error), may_pass=True) from None
    finally:
        if reading.done():
            del _reading[path]
