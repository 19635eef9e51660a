"""Clients of the cluster: the one of the block, and how a bare `Client()` finds it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from mpidask._compat.check import check_private_api
from mpidask._compat.distributed import (
    SCHEDULER_LOST,
    all_clients,
    forget_client,
    wrapped_init,
)
from mpidask._dask import dashboard, security
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._errors import StartupError
from mpidask._log import logger
from mpidask._text import describe
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Client


#: Seconds in which a client notices that its scheduler has ended.
_NOTICE = 0.5
#: Seconds that clients which tasks have left open have to close.
_CLOSE_TIMEOUT = 2


@contextlib.contextmanager
def found_by_clients(cluster: ConnectionInfo, *, direct: bool = False) -> Iterator[None]:
    """Let a bare `distributed.Client()` find the cluster, with its credentials.

    A process uses this once at a time: for the block of the client rank, or for its worker. With
    `direct`, data go between client and workers, not through the scheduler.
    """
    import dask

    from mpidask._compat.tls import raise_oserror_for_closed_tls

    check_private_api()
    config: dict[str, Any] = {"scheduler-address": cluster.address}
    direct_to_workers = "distributed.client.direct-to-workers"
    if direct and dask.config.get(direct_to_workers, None) is None:
        config[direct_to_workers] = True
    if cluster.security is not None:
        loader = security.credentials_for
        name = f"{loader.__module__}.{loader.__name__}"
        config["distributed.client.security-loader"] = name
    raise_oserror_for_closed_tls()
    for log in _client_logs():
        log.addFilter(_is_relevant)
    security.of_clusters[cluster.address] = cluster.security
    try:
        with dask.config.set(config), dashboard.linked_below(cluster.http_prefix or ""):
            yield
    finally:
        security.of_clusters.pop(cluster.address, None)
        for log in _client_logs():
            log.removeFilter(_is_relevant)


def _client_logs() -> list[logging.Logger]:
    return [logging.getLogger("distributed.client"), logging.getLogger("distributed.batched")]


def _is_relevant(record: logging.LogRecord) -> bool:
    # The leader reports the end or the loss of the scheduler.
    return not str(record.msg).startswith(SCHEDULER_LOST)


def give_up_reconnecting(cluster: ConnectionInfo) -> None:
    """Close the clients of a scheduler that has ended: they would retry for half a minute."""
    for client, loop in _clients_of(cluster.address):
        loop.add_callback(_close_if_lost, client)


def _clients_of(address: str) -> Iterator[tuple[Client, Any]]:
    """Find all clients of a cluster in this process, and their loops."""
    for client in all_clients():
        ours = client.scheduler is not None and client.scheduler.address == address
        if ours and client.loop is not None and client.status != "closed":
            yield client, client.loop


async def close_clients_of_tasks(address: str) -> None:
    """Close the clients that tasks have left open in the process of a worker that ends.

    They would try to reconnect while Python exits, with long tracebacks.
    """
    # In threads: in its event loop, a client that tries to reconnect would first wait for that.
    closing = [
        to_daemon_thread(client.close, _CLOSE_TIMEOUT)
        for client, loop in _clients_of(address)
        if loop.asyncio_loop.is_running()
    ]
    closed = asyncio.gather(*closing, return_exceptions=True)
    with at_log_level(logging.CRITICAL), contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(closed, _CLOSE_TIMEOUT + 1)


async def _close_if_lost(client: Client) -> None:
    await asyncio.sleep(_NOTICE)
    if client.status == "connecting":  # else the program closes it
        await client.close()


@contextlib.contextmanager
def connected(cluster: ConnectionInfo, *, direct: bool) -> Iterator[Client]:
    """Connect a client, and close it at the end, if the program has not."""
    from distributed import Client

    with found_by_clients(cluster, direct=direct):
        with _explained(cluster):
            client = Client(cluster.address, security=cluster.security)
        try:
            yield client
        finally:
            with logged("close the client"):
                client.close()
                for forgotten in _forgotten_clients(cluster):
                    forgotten.close()


@contextlib.asynccontextmanager
async def connected_async(cluster: ConnectionInfo, *, direct: bool) -> AsyncIterator[Client]:
    """Do the same as `connected` for a client of the running event loop."""
    from distributed import Client

    with found_by_clients(cluster, direct=direct):
        with _explained(cluster):
            client = await Client(cluster.address, security=cluster.security, asynchronous=True)
        try:
            yield client
        finally:
            with logged("close the client"):
                await client.close()
                for forgotten in _forgotten_clients(cluster):
                    closing = forgotten.close()
                    if inspect.isawaitable(closing):  # one of this event loop
                        await closing


def _forgotten_clients(cluster: ConnectionInfo) -> Iterator[Client]:
    """Find the clients that the program has made by `Client()` and not closed.

    They would try to reconnect until the program ends, with long tracebacks.
    """
    for client, loop in _clients_of(cluster.address):
        if loop.asyncio_loop.is_running():
            yield client
        else:
            forget_client(client)  # an asynchronous one, whose event loop has ended


@contextlib.contextmanager
def _explained(cluster: ConnectionInfo) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        host = socket.gethostname()
        raise StartupError(
            f"the client on {host} can't reach the scheduler at {cluster.address}: "
            f"{error or 'it does not answer'}",
            host=host,
        ) from error


@contextlib.contextmanager
def logged(what: str) -> Iterator[None]:
    """Log what goes wrong at the end, so that it does not hide how the user's function ended."""
    try:
        with at_log_level(logging.CRITICAL):  # a client whose scheduler is gone has lost nothing
            yield
    except Exception as error:
        logger.warning("could not %s: %s", what, describe(error))


# -- Scripts that were written for one machine, under ``python -m mpidask``. --------------------


@contextlib.contextmanager
def local_scripts_use_the_job() -> Iterator[None]:
    """Treat `Client(n_workers=2)` as a plain `Client()`, and warn of a `LocalCluster`.

    Since Dask's configuration has the address of a scheduler, distributed would refuse a client's
    arguments for a `LocalCluster`.
    """
    from distributed import Client, LocalCluster

    with wrapped_init(Client, _using_the_job), wrapped_init(LocalCluster, _with_warning):
        yield


def _using_the_job(original: Any) -> Any:
    known = inspect.signature(original).parameters.keys()

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        of_local_cluster = sorted(kwargs.keys() - known)
        if of_local_cluster and not args and kwargs.get("address") is None:
            logger.warning(
                "Client(%s=...) uses the workers of this job, as a plain Client() does",
                "=..., ".join(of_local_cluster),
            )
            kwargs = {name: value for name, value in kwargs.items() if name in known}
        original(self, *args, **kwargs)

    return init


def _with_warning(original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        logger.warning(
            "%s() starts workers on this rank's node alone, and leaves those of the job idle: a "
            "plain Client() uses them",
            type(self).__name__,
        )
        original(self, *args, **kwargs)

    return init
