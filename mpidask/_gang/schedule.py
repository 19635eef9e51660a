"""Which gangs may start on which ranks, and which never will: rules without Dask or MPI.

A rank serves one gang at a time. Gangs start first come, first served, and one that waits
reserves its ranks, so that later ones can't starve it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """The ranks that a gang asks for."""

    gang: str
    #: The number of ranks.
    size: int
    #: In the order of the gang's communicator; None: any.
    ranks: tuple[int, ...] | None = None
    #: Where any rank will do: the rank that holds the data of a task, by the task's index.
    preferred: Mapping[int, int] = field(default_factory=dict)
    #: The ranks whose workers lack the resources that the gang asks for.
    unfit: Set[int] = frozenset()


def startable(
    requests: Iterable[Request], up: Collection[int], busy: Collection[int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the gangs that may start now, each with its ranks in the order of its tasks.

    The requests are those of the gangs that are ready, first come first. The workers of the ranks
    `up` run; those that are `busy` are in a gang.
    """
    taken = set(busy)
    for request in requests:
        if taken.issuperset(up):
            return
        fit = set(up) - request.unfit
        ranks = request.ranks or _choose(request, fit, taken)
        if len(ranks) == request.size and fit.difference(taken).issuperset(ranks):
            yield request.gang, ranks
        taken.update(ranks)


def _choose(request: Request, fit: set[int], taken: set[int]) -> tuple[int, ...]:
    """Choose ranks that hold data first, even if they are taken, then free ones.

    There are fewer than asked for if too few are fit.
    """
    chosen: dict[int, int] = {}
    for index, rank in request.preferred.items():
        if rank in fit and rank not in chosen.values():
            chosen[index] = rank
    others = sorted(fit.difference(chosen.values()), key=lambda rank: (rank in taken, rank))
    fill = iter(sorted(others[: request.size - len(chosen)]))
    ranks = (chosen[n] if n in chosen else next(fill, None) for n in range(request.size))
    return tuple(rank for rank in ranks if rank is not None)


def shortage(
    size: int, wanted: Set[int], lost: Set[int], unfit: Set[int]
) -> tuple[Set[int], Set[int]]:
    """Return the ranks for which a gang can never start: those lost, and those unfit for it.

    There are none if it can. It needs `size` of the ranks `wanted`; the workers of those `lost`
    don't come back.
    """
    if len(wanted - lost - unfit) >= size:
        return frozenset(), frozenset()
    return wanted & lost, wanted & unfit
