"""Which rank does what, and how many ranks that takes."""

from __future__ import annotations

from dataclasses import dataclass

from mpidask._errors import NotEnoughRanksError
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


def assign_roles(
    size: int,
    *,
    scheduler_rank: int = 0,
    client_rank: int = 1,
    exclusive_workers: bool = True,
) -> Roles:
    """Assign the roles for a program, whose function one rank runs.

    Parameters
    ----------
    size : int
        Ranks in the communicator, 2 or more.
    scheduler_rank, client_rank : int
        The ranks of the scheduler and of the user's function, possibly the same.
    exclusive_workers : bool
        Whether these ranks host no worker.

    Raises
    ------
    NotEnoughRanksError
        If one of these ranks does not exist, or none is left for a worker.
    """
    special = {scheduler_rank, client_rank}
    needed = max(len(special) + 1 if exclusive_workers else 2, 1 + max(special))
    if size < needed:
        raise NotEnoughRanksError(
            f"this job has {size} ranks, but needs {needed} or more: scheduler on rank "
            f"{scheduler_rank}, client on rank {client_rank} and at least one worker"
            + (" on a rank of its own" if exclusive_workers else "")
            + f". Start it with more ranks (mpirun -n {needed} ...)"
            + (
                ", or let those two ranks work too (exclusive_workers=False)"
                if exclusive_workers and size >= 2 and max(special) < size
                else ""
            )
        )
    workers = tuple(r for r in range(size) if not (exclusive_workers and r in special))
    return Roles(leader=client_rank, workers=workers, scheduler=scheduler_rank, client=client_rank)


def assign_command_roles(size: int, *, scheduler_rank: int, exclusive_workers: bool) -> Roles:
    """Assign the roles for the command, whose clients connect from outside.

    Raises
    ------
    NotEnoughRanksError
        If the scheduler's rank does not exist, or none is left for a worker.
    """
    needed = max(2 if exclusive_workers else 1, 1 + scheduler_rank)
    if size < needed:
        raise NotEnoughRanksError(
            f"this job has {count(size, 'rank')}, but needs {needed} or more: scheduler "
            f"on rank {scheduler_rank} and at least one worker. Start it with more ranks "
            f"(mpirun -n {needed} ...), or let the scheduler's rank work too "
            "(--inclusive-workers)"
        )
    workers = tuple(r for r in range(size) if not (exclusive_workers and r == scheduler_rank))
    return Roles(leader=scheduler_rank, workers=workers, scheduler=scheduler_rank, client=None)


def assign_joining_roles(size: int) -> Roles:
    """Assign the roles for joining a cluster: all ranks are workers."""
    return Roles(leader=0, workers=tuple(range(size)), scheduler=None, client=None)
