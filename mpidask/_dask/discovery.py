"""Find the cluster to join."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from concurrent.futures import Future
from typing import TYPE_CHECKING

from mpidask._dask import scheduler_file
from mpidask._dask.connection_info import ConnectionInfo
from mpidask._errors import MPIDaskError
from mpidask._threads import in_daemon_thread

if TYPE_CHECKING:
    from mpidask._options import Options

#: Seconds that a scheduler may take to answer a knock.
_ANSWER_TIMEOUT = 10
#: Scheduler files that are being read: one that hangs is not read again and again.
_reading: dict[str, Future[ConnectionInfo]] = {}


async def find_cluster(options: Options, timeout: float) -> ConnectionInfo:
    """Find the cluster to join, and see that its scheduler answers.

    Parameters
    ----------
    options : Options
    timeout : float
        Seconds that the scheduler may take to answer; no more than 10 are given to it.

    Raises
    ------
    SchedulerFileError
        If there is no usable scheduler file.
    OSError
        If no scheduler answers at the address.
    MPIDaskError
        If it is no address, or one that needs other credentials.
    """
    from distributed import Security

    timeout = math.ceil(min(timeout, _ANSWER_TIMEOUT))  # alike in all ranks' messages
    if options.scheduler_file is not None:
        cluster = await _read(options.scheduler_file, timeout, trust=options.trust_scheduler_file)
    else:
        assert options.address is not None
        cluster = ConnectionInfo(options.address)
    if isinstance(options.security, Security):
        cluster = dataclasses.replace(cluster, security=options.security)
    try:
        await _knock(cluster, timeout)
    except (TypeError, ValueError, RuntimeError) as error:  # no address, or no credentials
        source = f"from {options.scheduler_file}" if options.scheduler_file else "as given"
        raise MPIDaskError(f"can't connect to {cluster.address}, {source}: {error}") from None
    return cluster


async def _knock(cluster: ConnectionInfo, timeout: float) -> None:
    """Connect, and let nothing but a wrong address or wrong credentials be final."""
    try:
        comm = await cluster.connect("worker", timeout)
        await comm.close()
    except asyncio.TimeoutError as error:
        raise OSError(f"what listens at {cluster.address} says nothing") from error
    except OSError as error:
        raise OSError(f"no scheduler answers at {cluster.address}: {error}") from error
    except (TypeError, ValueError, RuntimeError):
        raise
    except Exception as error:  # what another program says was taken for a message of Dask's
        raise OSError(
            f"what answers at {cluster.address} is no scheduler ({type(error).__name__}: {error})"
        ) from error


async def _read(path: str, timeout: float, *, trust: bool) -> ConnectionInfo:
    """Read a scheduler file, without waiting for ever for a file system that hangs."""
    reading = _reading.get(path) or in_daemon_thread(scheduler_file.read, path, trust=trust)
    _reading[path] = reading
    try:
        cluster: ConnectionInfo = await asyncio.wait_for(asyncio.wrap_future(reading), timeout)
    except asyncio.TimeoutError:
        raise scheduler_file.no_answer(path, timeout) from None
    finally:
        if reading.done():
            del _reading[path]
    return cluster
