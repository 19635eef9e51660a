"""The client rank's connection to the cluster, and what a bare `Client()` needs for it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._dask import dashboard, performance_report
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._dask.log_level import at_log_level
from mpidask._dask.performance_report import code_of_the_program
from mpidask._errors import StartupError
from mpidask._log import logger
from mpidask._options import Options
from mpidask._threads import to_daemon_thread

if TYPE_CHECKING:
    from distributed import Client


#: The credentials of the clusters, by address, that this process is connected to.
_credentials: dict[str, Any] = {}
#: Seconds in which a client notices that its scheduler has ended.
_NOTICE = 0.5
#: Seconds that clients which tasks have left open have to close.
_CLOSE_TIMEOUT = 2


def credentials_for(connection: Mapping[str, Any]) -> Any:
    """Give the credentials of a cluster to a bare `distributed.Client()`.

    Dask's configuration names this function, as its ``distributed.client.security-loader``,
    and does not hold the credentials: it is dumped, logged and shown.

    Parameters
    ----------
    connection : mapping
        Has the ``address`` to connect to.
    """
    return _credentials.get(connection["address"])


@contextlib.contextmanager
def found_by_clients(cluster: ConnectionInfo, *, direct: bool = False) -> Iterator[None]:
    """Let a bare `distributed.Client()` find the cluster, and be let in.

    Of each process, one thing does this at a time: the block of the client rank, or its worker.

    Parameters
    ----------
    cluster : ConnectionInfo
    direct : bool
        Whether data go between client and workers, and not by way of the scheduler.
    """
    import dask

    from mpidask._tls import expect_ends_of_processes

    config: dict[str, Any] = {"scheduler-address": cluster.address}
    direct_to_workers = "distributed.client.direct-to-workers"
    if direct and dask.config.get(direct_to_workers, None) is None:
        config[direct_to_workers] = True
    if cluster.security is not None:
        loader = f"{credentials_for.__module__}.{credentials_for.__name__}"
        config["distributed.client.security-loader"] = loader
    expect_ends_of_processes()
    for log in _client_logs():
        log.addFilter(_is_news)
    _credentials[cluster.address] = cluster.security
    try:
        with dask.config.set(config), dashboard.linked_below(cluster.http_prefix or ""):
            yield
    finally:
        _credentials.pop(cluster.address, None)
        for log in _client_logs():
            log.removeFilter(_is_news)


def _client_logs() -> list[logging.Logger]:
    return [logging.getLogger("distributed.client"), logging.getLogger("distributed.batched")]


def _is_news(record: logging.LogRecord) -> bool:
    # A scheduler that ends, or is gone, is told of by the leader.
    gone = ("Failed to reconnect to scheduler", "Batched Comm Closed")
    return not str(record.msg).startswith(gone)


def give_up_reconnecting(cluster: ConnectionInfo) -> None:
    """Close the clients of a scheduler that has ended: they would try for half a minute."""
    for client, loop in _clients_of(cluster.address):
        loop.add_callback(_close_if_lost, client)


def _clients_of(address: str) -> Iterator[tuple[Client, Any]]:
    """Find all clients of a cluster in this process, and their loops, whoever has made them."""
    from distributed import Client

    for client in list(Client._instances):  # there is no public list of all
        ours = client.scheduler is not None and client.scheduler.address == address
        if ours and client.loop is not None and client.status != "closed":
            yield client, client.loop


async def close_clients_of_tasks(address: str) -> None:
    """Close the clients that tasks have left open in the process of a worker that ends.

    They would try to reconnect while Python ends, and say so at length.
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
def connected(cluster: ConnectionInfo, options: Options, *, direct: bool) -> Iterator[Client]:
    """Connect a client, and close it at the end, if the program has not."""
    from distributed import Client

    report = performance_report.prepared(options)
    with found_by_clients(cluster, direct=direct):
        with _explained(cluster):
            client = Client(cluster.address, security=cluster.security)
        try:
            if report is not None:
                client.sync(report.start, client, code_of_the_program(client))
            yield client
        finally:
            with _logged("write the performance report"):
                if report is not None and report.can_be_finished():
                    client.sync(report.finish)
            with _logged("close the client"):
                client.close()
                for forgotten in _forgotten_clients(cluster):
                    forgotten.close()


@contextlib.asynccontextmanager
async def connected_async(
    cluster: ConnectionInfo, options: Options, *, direct: bool
) -> AsyncIterator[Client]:
    """Do the same as `connected` for a client of the running event loop."""
    from distributed import Client

    # The file system may take its time, which the user's event loop has not.
    report = await to_daemon_thread(performance_report.prepared, options)
    with found_by_clients(cluster, direct=direct):
        with _explained(cluster):
            client = await Client(cluster.address, security=cluster.security, asynchronous=True)
        try:
            if report is not None:
                await report.start(client, code_of_the_program(client))
            yield client
        finally:
            with _logged("write the performance report"):
                if report is not None and report.can_be_finished():
                    await report.finish()
            with _logged("close the client"):
                await client.close()
                for forgotten in _forgotten_clients(cluster):
                    closing = forgotten.close()
                    if inspect.isawaitable(closing):  # one of this event loop
                        await closing


def _forgotten_clients(cluster: ConnectionInfo) -> Iterator[Client]:
    """Find the clients that the program has made by `Client()` and not closed.

    They would try to reconnect, and say so at length, until the program ends.
    """
    from distributed import Client

    last = None
    while True:
        try:
            client = Client.current()
        except ValueError:
            return
        ours = client.scheduler is not None and client.scheduler.address == cluster.address
        if not ours or client is last:
            return
        last = client
        if client.loop.asyncio_loop.is_running():
            yield client
        else:
            # An asynchronous one, whose event loop has ended: it can do nothing any more,
            # but to distributed it is the current client until it has this status.
            client.status = "closed"


@contextlib.contextmanager
def _explained(cluster: ConnectionInfo) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        host = os.uname().nodename
        raise StartupError(
            f"the client on {host} can't reach the scheduler at {cluster.address}: "
            f"{error or 'it does not answer'}",
            host=host,
        ) from error


@contextlib.contextmanager
def _logged(deed: str) -> Iterator[None]:
    """Let nothing that goes wrong at the end hide how the user's function ended."""
    try:
        with at_log_level(logging.CRITICAL):  # a client whose scheduler is gone has lost nothing
            yield
    except Exception as error:
        logger.warning("could not %s: %s: %s", deed, type(error).__name__, error)
