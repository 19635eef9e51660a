"""Which rank does what, and how many ranks that takes."""

from __future__ import annotations

from dataclasses import dataclass

from mpidask._errors import NotEnoughRanksError
from mpidask._options import Options
from mpidask._text import count


@dataclass(frozen=True)
class Roles:
    """The roles of the ranks in one cluster.

    The *leader* decides when the cluster is up, and with which exit status it ends; all other
    ranks report to it.
    """

    leader: int
    workers: tuple[int, ...]
    scheduler: int | None
    client: int | None

    def of(self, rank: int) -> str:
        """Return the roles of a rank in words."""
        names = {"scheduler": self.scheduler, "client": self.client}
        duties = [name for name, holder in names.items() if holder == rank]
        if rank in self.workers:
            duties.append("worker")
        return " and ".join(duties) or "idle"


def assign_roles(size: int, options: Options) -> Roles:
    """Assign the roles for a program, whose function one rank runs."""
    scheduler, client = options.scheduler_rank, options.client_rank
    exclusive = options.exclusive_workers
    special = {scheduler, client}
    needed = max(len(special) + 1 if exclusive else 2, 1 + max(special))
    if size < needed:
        raise NotEnoughRanksError(
            f"this job has {size} ranks, but needs {needed} or more: scheduler on rank "
            f"{scheduler}, client on rank {client} and at least one worker"
            + (" on a rank of its own" if exclusive else "")
            + f". Start it with more ranks (mpirun -n {needed} ...)"
            + (
                ", or let those two ranks work too (exclusive_workers=False)"
                if exclusive and size >= 2 and max(special) < size
                else ""
            )
        )
    workers = tuple(rank for rank in range(size) if not (exclusive and rank in special))
    return Roles(leader=client, workers=workers, scheduler=scheduler, client=client)


def assign_command_roles(size: int, options: Options) -> Roles:
    """Assign the roles for the command, whose clients connect from outside."""
    scheduler, exclusive = options.scheduler_rank, options.exclusive_workers
    needed = max(2 if exclusive else 1, 1 + scheduler)
    if size < needed:
        raise NotEnoughRanksError(
            f"this job has {count(size, 'rank')}, but needs {needed} or more: scheduler "
            f"on rank {scheduler} and at least one worker. Start it with more ranks "
            f"(mpirun -n {needed} ...), or let the scheduler's rank work too "
            "(--inclusive-workers)"
        )
    workers = tuple(rank for rank in range(size) if not (exclusive and rank == scheduler))
    return Roles(leader=scheduler, workers=workers, scheduler=scheduler, client=None)


def assign_joining_roles(size: int, options: Options) -> Roles:
    """Assign the roles for joining a cluster: all ranks are workers."""
    if (options.scheduler_file is None) == (options.address is None):
        raise ValueError("say which cluster to join: a scheduler file, or an address")
    return Roles(leader=0, workers=tuple(range(size)), scheduler=None, client=None)
