"""A worker's part in broadcasts: it gets, serves and drops copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distributed import WorkerPlugin

from mpidask._broadcast import shared_file
from mpidask._broadcast.copies import Copies
from mpidask._broadcast.protocol import (
    JOIN,
    MAP,
    MAPPED,
    OBTAIN,
    PLUGIN,
    READ,
    RELEASE,
    WRITE,
    call,
)
from mpidask._compat.distributed import adjust_process_memory
from mpidask._threads import start_task

if TYPE_CHECKING:
    from distributed import Worker

#: The workers of this process: one, unless they are threads of a LocalCluster.
_workers: dict[Worker, Copies] = {}


def any_worker() -> tuple[Worker, Copies] | None:
    """Return a worker of this process, and what it gets copies by."""
    return next(iter(_workers.items()), None)


class BroadcastWorkerPlugin(WorkerPlugin):
    """Lets a worker take part in broadcasts."""

    name = PLUGIN

    async def setup(self, worker: Worker) -> None:
        """Begin, and tell the scheduler on which node the worker is."""
        directory = worker.local_directory
        copies = Copies(worker.rpc, worker.scheduler, worker.address, directory)
        _workers[worker] = copies

        def obtain(name: str, nbytes: int) -> None:
            start_task(copies.try_to_obtain(name, nbytes))

        def map_copy(name: str, nbytes: int, location: Sequence[int], sharers: int) -> None:
            copy = copies.map(name, nbytes, location, sharers)
            own = None if copy is None else copy.file.location
            worker.batched_stream.send({"op": MAPPED, "name": name, "location": own})

        worker.handlers |= {READ: copies.read, WRITE: copies.write}
        worker.stream_handlers |= {OBTAIN: obtain, MAP: map_copy, RELEASE: copies.release}
        adjust_process_memory(worker, lambda nbytes: _own_share(nbytes, copies.sharers))
        node = shared_file.node_id()
        for order in await call(worker.scheduler, JOIN, who=worker.address, node=node):
            copies.map(**order)

    def teardown(self, worker: Worker) -> None:
        """Drop what no other worker or client of this process holds."""
        if (copies := _workers.pop(worker, None)) is not None:
            copies.close()


def _own_share(nbytes: int, sharers: int) -> int:
    """Count the memory that the workers of a node share once, in equal parts."""
    shared = shared_file.resident_bytes()
    return nbytes - shared + shared // sharers
