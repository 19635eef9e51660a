"""What the leader orders during the start, as an answer to what it has heard."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from mpidask._lifecycle.messages import ConnectionInfo, RankReady, StartScheduler, StartWorker
from mpidask._lifecycle.startup import Startup
from mpidask._lifecycle.transport_plan import TransportPlan
from mpidask._options import Options
from mpidask._placement.network import scheduler_host
from mpidask._placement.resources import worker_settings


def start_orders(
    rank: int, message: object, startup: Startup, options: Options
) -> Iterator[tuple[int, object]]:
    """Yield ranks and the orders to send them now, as an answer to the message of a rank.

    When all ranks are ready the scheduler is to start; when it has, the transport and the
    workers are.
    """
    if isinstance(message, ConnectionInfo):
        startup.transport = TransportPlan.of(options, startup.nodes, startup.roles)
    if startup.transport is not None:
        yield from startup.transport.orders(rank, message, startup.workers)
    match message:
        case RankReady() if startup.everyone_is_ready and startup.roles.scheduler is None:
            yield from _worker_orders(None, startup, options)  # the scheduler runs elsewhere
        case RankReady() if startup.everyone_is_ready:
            yield _scheduler_order(startup, options)
        case ConnectionInfo():
            # By itself: it has the credentials, and is the same for all.
            yield from ((worker, message) for worker in startup.roles.workers)
            yield from _worker_orders(message, startup, options)


def _scheduler_order(startup: Startup, options: Options) -> tuple[int, StartScheduler]:
    rank = startup.roles.scheduler
    assert rank is not None
    # Clients come from outside where there is none inside, or a file invites them.
    outside = startup.roles.client is None or options.scheduler_file is not None
    host = scheduler_host(startup.nodes, rank, outside=outside)
    places = {f"{options.name}-{n}": startup.place(n) for n in startup.roles.workers}
    return rank, StartScheduler(host, places)


def _worker_orders(
    cluster: ConnectionInfo | None, startup: Startup, options: Options
) -> Iterator[tuple[int, StartWorker]]:
    roles, name = startup.roles, options.name
    if cluster is None:
        name += f"-{uuid.uuid4().hex[:8]}"  # other jobs may join the same cluster
    settings = worker_settings(startup.nodes, roles.workers, name=name, nthreads=options.nthreads)
    for rank in roles.workers:
        yield rank, StartWorker(settings[rank], announces=rank == roles.workers[0])
