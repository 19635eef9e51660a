"""The client rank's connection to the cluster, and what a bare `Client()` needs for it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from mpidask._agreement import Cluster
from mpidask._errors import MPIDaskError, StartupError
from mpidask._log import hushed, logger
from mpidask._options import Options

if TYPE_CHECKING:
    from distributed import Client


def dask_config(cluster: Cluster) -> dict[str, Any]:
    """Give the configuration with which a bare `distributed.Client()` finds the cluster."""
    config: dict[str, Any] = {"scheduler-address": cluster.address}
    if cluster.security is not None:
        security = cluster.security
        config |= {
            "distributed.comm.require-encryption": security.require_encryption,
            "distributed.comm.tls.ca-file": security.tls_ca_file,
            "distributed.comm.tls.client.cert": security.tls_client_cert,
            "distributed.comm.tls.client.key": security.tls_client_key,
        }
    return config


@contextlib.contextmanager
def connected(cluster: Cluster, options: Options) -> Iterator[Client]:
    """Connect a client, and close it at the end, if the program has not."""
    import dask
    from distributed import Client

    report = _performance_report(options)
    with dask.config.set(dask_config(cluster)):
        with _explained(cluster):
            client = Client(cluster.address, security=cluster.security)
        try:
            if report is not None:
                report.__enter__()
            yield client
        finally:
            with _logged("write the performance report"):
                if report is not None and _usable(client, options):
                    code = _code_of_the_program(client)
                    client.sync(report.__aexit__, None, None, None, code=code)
            with _logged("close the client"):
                client.close()
                for forgotten in _forgotten_clients(cluster):
                    forgotten.close()


@contextlib.asynccontextmanager
async def connected_async(cluster: Cluster, options: Options) -> AsyncIterator[Client]:
    """Do the same as `connected` for a client of the running event loop."""
    import dask
    from distributed import Client

    report = _performance_report(options)
    with dask.config.set(dask_config(cluster)):
        with _explained(cluster):
            client = await Client(cluster.address, security=cluster.security, asynchronous=True)
        try:
            if report is not None:
                await report.__aenter__()
            yield client
        finally:
            with _logged("write the performance report"):
                if report is not None and _usable(client, options):
                    code = _code_of_the_program(client)
                    await report.__aexit__(None, None, None, code=code)
            with _logged("close the client"):
                await client.close()
                for forgotten in _forgotten_clients(cluster):
                    closing = forgotten.close()
                    if inspect.isawaitable(closing):  # one of this event loop
                        await closing


def _forgotten_clients(cluster: Cluster) -> Iterator[Client]:
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


def _performance_report(options: Options) -> Any:
    if options.performance_report is None:
        return None
    from distributed import performance_report

    try:  # What can't be written shall be known now, and not after hours.
        os.makedirs(os.path.dirname(options.performance_report), exist_ok=True)
        open(options.performance_report, "a").close()
    except OSError as error:
        raise MPIDaskError(f"the performance report can't be written: {error}") from None
    return performance_report(filename=options.performance_report)


def _code_of_the_program(client: Client) -> str:
    """Find the code that a performance report shows: the program's, not that of this module.

    `performance_report` can only count frames, and how many there are between its exit and
    the program differs. distributed's private search, which `Computation` uses, knows which
    modules to pass over.
    """
    import dask

    settings = "distributed.diagnostics.computations"
    modules = dask.config.get(f"{settings}.ignore-modules")
    files = dask.config.get(f"{settings}.ignore-files")
    with dask.config.set(
        {
            f"{settings}.ignore-modules": [*modules, "mpidask", "contextlib", "wrapt", "click"],
            f"{settings}.ignore-files": [*files, "mpidask/__main__"],
        }
    ):
        frames = client._get_computation_code()
    return frames[0].code if frames else "<Code not available>"


def _usable(client: Client, options: Options) -> bool:
    if client.status == "running":
        return True
    logger.warning(
        "no performance report in %s: the program closed the client before the end",
        options.performance_report,
    )
    return False


@contextlib.contextmanager
def _explained(cluster: Cluster) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        host = os.uname().nodename
        raise StartupError(
            f"the client on {host} can't reach the scheduler at {cluster.address}: {error}",
            host=host,
        ) from error


@contextlib.contextmanager
def _logged(deed: str) -> Iterator[None]:
    """Let nothing that goes wrong at the end hide how the user's function ended."""
    try:
        with hushed(logging.CRITICAL):  # a client whose scheduler is gone has lost nothing
            yield
    except Exception as error:
        logger.warning("could not %s: %s: %s", deed, type(error).__name__, error)
