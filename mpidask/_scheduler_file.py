"""The scheduler file: how processes from outside find a cluster, and are let in.

It is the JSON file that distributed writes, so a plain ``Client(scheduler_file=...)``
reads it; the credentials of a secured cluster stand in it beside. It is written in one
go (nobody reads half a file), for the owner alone, and removed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._agreement import Cluster
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


def write(path: str, identity: Mapping[str, Any], cluster: Cluster) -> None:
    """Write what a scheduler tells of itself, and the credentials of its cluster.

    Parameters
    ----------
    path : str
        The file; an older one is replaced.
    identity : mapping
        `distributed.Scheduler.identity` of the scheduler.
    cluster : Cluster
        How to reach it.
    """
    content = dict(identity)
    if cluster.security is not None:
        content["security"] = {name: getattr(cluster.security, name) for name in _CREDENTIALS}
    directory, name = os.path.split(path)
    descriptor, draft = tempfile.mkstemp(prefix=f".{name}-", dir=directory)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=2)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


@contextlib.contextmanager
def written(path: str | None, scheduler: Scheduler, cluster: Cluster) -> Iterator[None]:
    """Let the file, if one is asked for, stand there for the time of a cluster."""
    if path is None:
        yield
        return
    write(path, scheduler.identity(), cluster)
    try:
        yield
    finally:
        remove(path, cluster)


def remove(path: str, cluster: Cluster) -> None:
    """Remove the file, unless another cluster has replaced it meanwhile."""
    try:
        if read(path).address == cluster.address:
            os.unlink(path)
    except (OSError, SchedulerFileError):
        pass  # gone, or not ours


def read(path: str) -> Cluster:
    """Read how to reach a cluster.

    Raises
    ------
    SchedulerFileError
        If the file is not there, can't be read, is not (yet) a scheduler file, or lets
        others read the credentials in it.
    """
    try:
        with open(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = json.load(file)
        address = content["address"]
        credentials = content.get("security")
    except FileNotFoundError:
        raise SchedulerFileError(f"there is no scheduler file {path}", may_pass=True) from None
    except OSError as error:
        raise SchedulerFileError(
            f"can't read the scheduler file {path}: {error.strerror}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SchedulerFileError(
            f"{path} is not a scheduler file: empty, half written, or something else",
            may_pass=True,
        ) from None
    if credentials is not None and stat.S_IMODE(mode) & 0o077:
        raise SchedulerFileError(
            f"others can read the credentials in the scheduler file {path}, so it is not "
            f"used; run: chmod 600 {path}"
        )
    try:
        return Cluster(str(address), _security(credentials))
    except (TypeError, ValueError) as error:
        raise SchedulerFileError(f"the scheduler file {path} is broken: {error}") from None


def _security(credentials: Mapping[str, str] | None) -> Any:
    if credentials is None:
        return None
    from distributed import Security

    return Security(require_encryption=True, **credentials)


def connection(scheduler_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Give the arguments with which a client connects to a cluster from outside.

    Parameters
    ----------
    scheduler_file : path
        The file that the cluster was given as its option ``scheduler_file``; it carries
        the credentials of a secured cluster.

    Returns
    -------
    dict
        ``address`` and, for a secured cluster, ``security``.

    Raises
    ------
    SchedulerFileError
        If the file is missing, broken, or lets others read its credentials.

    Examples
    --------
    >>> from distributed import Client
    >>> import mpidask
    >>> client = Client(**mpidask.connection("scheduler.json"))     # doctest: +SKIP
    """
    cluster = read(os.path.expanduser(os.fspath(scheduler_file)))
    arguments = {"address": cluster.address, "security": cluster.security}
    return {name: value for name, value in arguments.items() if value is not None}
