"""An argument that differs from rank to rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn


class PerRank:
    """An argument of `submit_mpi` of which each rank gets its own piece.

    Parameters
    ----------
    pieces : iterable
        One for each rank, in the order of the ranks. They may be futures.

    Raises
    ------
    TypeError
        If `pieces` is a Dask collection, whose rows or elements would be taken one by one.

    Examples
    --------
    >>> from mpidask import PerRank
    >>> PerRank([10, 20])
    PerRank([10, 20])
    """

    def __init__(self, pieces: Iterable[Any]) -> None:
        from dask.base import is_dask_collection

        if is_dask_collection(pieces):
            raise TypeError(
                "PerRank takes one piece for each rank, not a collection: give the futures of its "
                "chunks, PerRank(distributed.futures_of(x.persist()))"
            )
        self._pieces = list(pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pieces)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "PerRank is an argument of submit_mpi itself: it can't be inside another one, nor be "
            "sent to plain tasks"
        )

    def __repr__(self) -> str:
        return f"PerRank({self._pieces!r})"


def piece(argument: Any, rank: int) -> Any:
    """Give what one rank gets of an argument."""
    return argument._pieces[rank] if isinstance(argument, PerRank) else argument
