"""Which gangs may start: the rules, without Dask or MPI.

A rank serves one gang at a time. Gangs start first come, first served. One that waits
reserves its ranks, so that later ones don't overtake it for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """The ranks that a gang asks for.

    Attributes
    ----------
    gang : str
    size : int
        How many.
    ranks : tuple of int, optional
        Which, in the order of its members; None: whichever.
    homes : mapping of int to int
        Where the choice is open: the ranks that hold the data of members, by their numbers.
    unfit : set of int
        The ranks that don't have the resources it asks for.
    """

    gang: str
    size: int
    ranks: tuple[int, ...] | None = None
    homes: Mapping[int, int] = field(default_factory=dict)
    unfit: Set[int] = frozenset()


def startable(
    requests: Iterable[Request], up: Collection[int], busy: Collection[int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the gangs that may start now, and their ranks in the order of their members.

    Parameters
    ----------
    requests : iterable of Request
        Those of the gangs that are ready, in the order in which they came.
    up : collection of int
        The ranks whose workers run.
    busy : collection of int
        The ranks that are in a gang.
    """
    taken = set(busy)
    for request in requests:
        if taken.issuperset(up):
            return
        fit = set(up) - request.unfit
        ranks = request.ranks or _choice(request, fit, taken)
        if len(ranks) == request.size and fit.difference(taken).issuperset(ranks):
            yield request.gang, ranks
        taken.update(ranks)


def _choice(request: Request, fit: set[int], taken: set[int]) -> tuple[int, ...]:
    """Choose ranks: those that hold data first, whatever they do now, then those that are free.

    There are fewer than asked for if too few are fit.
    """
    chosen: dict[int, int] = {}
    for member, rank in request.homes.items():
        if rank in fit and rank not in chosen.values():
            chosen[member] = rank
    others = sorted(fit.difference(chosen.values()), key=lambda rank: (rank in taken, rank))
    fill = iter(sorted(others[: request.size - len(chosen)]))
    ranks = (chosen[n] if n in chosen else next(fill, None) for n in range(request.size))
    return tuple(rank for rank in ranks if rank is not None)
