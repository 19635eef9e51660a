"""The scheduler file: how processes from outside find a cluster, and are let in.

It is the JSON file that distributed writes, so a plain ``Client(scheduler_file=...)``
reads it; the credentials of a secured cluster stand in it beside. It is written in one
go (nobody reads half a file), for the owner alone, and removed at the end. Nothing but an
older one is replaced, and none is believed that others can have written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from mpidask import _threads
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.output_file import draft
from mpidask._errors import SchedulerFileError

if TYPE_CHECKING:
    from distributed import Scheduler

_CREDENTIALS = (
    "tls_ca_file",
    *(
        f"tls_{role}_{part}"
        for role in ("client", "scheduler", "worker")
        for part in ("cert", "key")
    ),
)


#: Seconds that a file system may take to answer.
ANSWER_TIMEOUT = 10
#: More bytes than a scheduler file has.
_LARGEST = 1 << 20
#: What distributed writes there of itself, among other things.
_IDENTITY = {"type", "id", "address", "workers"}
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


def check_replaceable(path: str) -> None:
    """Check that a scheduler file can be written, and that nothing else is lost by it.

    Raises
    ------
    SchedulerFileError
        If something stands there that is not a scheduler file of one's own, or there is
        no folder.
    """
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise _not_written(path, f"there is no folder {folder}")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise _not_written(path, f"it is {_kind(status)}, which is left as it is")
    if status.st_uid != os.geteuid():
        raise _not_written(path, f"the file there belongs to {_owner(status)}")
    if status.st_size and not _is_of_a_scheduler(path):
        raise _not_written(path, "the file there is not a scheduler file, and is left as it is")


def write(path: str, identity: Mapping[str, Any], cluster: ConnectionInfo) -> None:
    """Write what a scheduler tells of itself, and the credentials of its cluster.

    Parameters
    ----------
    path : str
        The file; an older one is replaced.
    identity : mapping
        `distributed.Scheduler.identity` of the scheduler.
    cluster : ConnectionInfo
        How to reach it.

    Raises
    ------
    SchedulerFileError
        If it can't be written, or something else stands there.
    """
    check_replaceable(path)
    content = dict(identity)
    credentials = {name: getattr(cluster.security, name, None) for name in _CREDENTIALS}
    if any(credentials.values()):
        content["security"] = credentials
    if cluster.dashboard is not None:
        content["dashboard_link"] = cluster.dashboard  # for people: it may have a secret
    try:
        with draft(path, check_replaceable) as name, open(name, "x", opener=_for_the_owner) as file:
            json.dump(content, file, indent=2)
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from None


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def written(path: str | None, scheduler: Scheduler, cluster: ConnectionInfo) -> Iterator[None]:
    """Let the file, if one is asked for, stand there for the time of a cluster."""
    if path is None:
        yield
        return
    identity = scheduler.identity()
    call_in_time(write, path, identity, cluster)
    try:
        yield
    finally:
        with contextlib.suppress(SchedulerFileError):  # it stays
            call_in_time(remove, path, identity)


@contextlib.asynccontextmanager
async def written_in_time(
    path: str | None, scheduler: Scheduler, cluster: ConnectionInfo
) -> AsyncIterator[None]:
    """Do the same in an event loop, which a file system that hangs does not hold up."""
    if path is None:
        yield
        return
    identity = scheduler.identity()
    await in_time(write, path, identity, cluster)
    try:
        yield
    finally:
        with contextlib.suppress(SchedulerFileError):  # it stays
            await in_time(remove, path, identity)


def call_in_time(function: Callable[..., None], path: str, *args: Any) -> None:
    """Call one of these functions, and give it up if the file system does not answer."""
    try:
        _threads.in_daemon_thread(function, path, *args).result(ANSWER_TIMEOUT)
    except FutureTimeoutError:
        raise no_answer(path, ANSWER_TIMEOUT) from None


async def in_time(function: Callable[..., None], path: str, *args: Any) -> None:
    """Do the same in an event loop."""
    try:
        await _threads.to_daemon_thread(function, path, *args, timeout=ANSWER_TIMEOUT)
    except asyncio.TimeoutError:
        raise no_answer(path, ANSWER_TIMEOUT) from None


def no_answer(path: str, timeout: float) -> SchedulerFileError:
    """Make the error for a file system that hangs."""
    return SchedulerFileError(
        f"the file system of {path} does not answer within {timeout:.3g} s", may_pass=True
    )


def remove(path: str, identity: Mapping[str, Any]) -> None:
    """Remove the file of a scheduler, unless something else has replaced it meanwhile."""
    with contextlib.suppress(OSError, SchedulerFileError, ValueError):  # gone, or not ours
        content = json.loads(_load(path, os.O_NOFOLLOW)[0])
        if isinstance(content, dict) and content.get("id") == identity["id"]:
            os.unlink(path)


def read(path: str, *, trust: bool = False) -> ConnectionInfo:
    """Read how to reach a cluster.

    Parameters
    ----------
    path : str
    trust : bool
        Whether to believe a file that others have, or may have, written.

    Raises
    ------
    SchedulerFileError
        If the file is not there, can't be read, is not (yet) a scheduler file, lets
        others read the credentials in it, or may have been written by others.
    """
    text, status = _load(path)
    if not trust:
        _refuse_strangers(path, status)
    try:
        content = json.loads(text)
        address = content["address"]
        credentials = content.get("security")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SchedulerFileError(
            f"{path} is not a scheduler file: empty, half written, or something else",
            may_pass=True,
        ) from None
    if credentials is not None and status.st_mode & 0o077 and not trust:
        raise SchedulerFileError(
            f"others can read the credentials in the scheduler file {path}, so it is not "
            f"used; run: chmod 600 {path}"
        )
    try:
        return ConnectionInfo(str(address), _security(credentials))
    except (TypeError, ValueError, OSError) as error:
        raise SchedulerFileError(f"the scheduler file {path} is broken: {error}") from None


def _load(path: str, flags: int = 0) -> tuple[bytes, os.stat_result]:
    """Read what may be anything, and never wait for a writer or a terminal."""

    def opened(path: str, mode: int) -> int:
        return os.open(path, mode | flags | os.O_NONBLOCK | os.O_NOCTTY)

    try:
        with open(path, "rb", opener=opened) as file:
            status = os.fstat(file.fileno())  # of what was opened: the name may mean another now
            if not stat.S_ISREG(status.st_mode):
                raise SchedulerFileError(f"{path} is {_kind(status)}, not a scheduler file")
            return file.read(_LARGEST), status
    except FileNotFoundError:
        raise SchedulerFileError(f"there is no scheduler file {path}", may_pass=True) from None
    except OSError as error:
        raise SchedulerFileError(
            f"can't read the scheduler file {path}: {error.strerror}"
        ) from None


def _refuse_strangers(path: str, status: os.stat_result) -> None:
    """Raise if others can have written a file: they would choose what this job runs."""
    if status.st_uid not in (os.geteuid(), 0):
        raise SchedulerFileError(
            f"the scheduler file {path} belongs to {_owner(status)}, who could make this job "
            "run anything, so it is not used; if you trust them, set trust_scheduler_file"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SchedulerFileError(
            f"others may write the scheduler file {path}, and make this job run anything, so "
            f"it is not used; run: chmod go-w {path} (if you trust them, set "
            "trust_scheduler_file)"
        )


def _is_of_a_scheduler(path: str) -> bool:
    try:
        content = json.loads(_load(path, os.O_NOFOLLOW)[0])
    except (SchedulerFileError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= _IDENTITY


def _not_written(path: str, reason: str) -> SchedulerFileError:
    return SchedulerFileError(f"the scheduler file {path} can't be written: {reason}")


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a device")


def _owner(status: os.stat_result) -> str:
    try:
        return f"user {pwd.getpwuid(status.st_uid).pw_name}"
    except KeyError:
        return f"user {status.st_uid}"


def _security(credentials: Mapping[str, str] | None) -> Any:
    if credentials is None:
        return None
    from distributed import Security

    security = Security(require_encryption=True, **credentials)
    security.get_connection_args("client")  # raises ssl.SSLError if they are broken
    return security


def connection(
    scheduler_file: str | os.PathLike[str], *, trust_scheduler_file: bool = False
) -> dict[str, Any]:
    """Give the arguments with which a client connects to a cluster from outside.

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
