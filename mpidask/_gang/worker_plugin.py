"""What the worker of a rank is given, so that it takes part in gangs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin

from mpidask._gang.rank import RANK, Rank

if TYPE_CHECKING:
    from distributed import Worker


class Membership(WorkerPlugin):
    """Binds a rank to its worker, before that registers."""

    name = "mpidask-gangs"

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    async def setup(self, worker: Worker) -> None:
        """Serve a worker that starts."""
        await self._rank.attach(worker)


def arguments(rank: Rank, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give arguments for `distributed.Worker`, with those of the user in them."""
    return {
        "plugins": [*given.get("plugins", ()), Membership(rank)],
        "startup_information": {
            **given.get("startup_information", {}),
            RANK: lambda worker: rank.number,
        },
    }
