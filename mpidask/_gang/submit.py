"""The client's side of gangs: `submit_mpi` makes one task of a function for each rank."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mpidask._errors import NotEnoughRanksError
from mpidask._gang.protocol import ANNOTATION, UNKNOWN_HOST, WorkerRanks, ranks_of
from mpidask._text import count

if TYPE_CHECKING:
    from distributed import Client, Future

#: Before other tasks that wait for a thread of the worker: the other ranks of the gang wait, too.
_PRIORITY = 1


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


def submit_mpi(
    func: Callable[..., Any],
    *args: Any,
    ranks: int | Sequence[int] | None = None,
    client: Client | None = None,
    key: str | None = None,
    retries: int | None = None,
    **kwargs: Any,
) -> list[Future[Any]]:
    """Run an MPI function on several worker ranks at once, as one step of a Dask program.

    Each rank calls ``func(comm, *args, **kwargs)``, where ``comm`` is a communicator of
    exactly these ranks. They start together, when all of them are free.

    Parameters
    ----------
    func : callable
        The function; pickled as `distributed.Client.submit` does.
    *args, **kwargs
        Its arguments. Futures among them arrive as their results; of a `PerRank`, each rank
        gets its own piece.
    ranks : int or sequence of int, optional
        How many worker ranks, or which ones, by their numbers in the job's communicator.
        Default: as many as a `PerRank` has pieces; without one, all. Unless you say which
        ones, those that hold the pieces of a `PerRank` are chosen first.
    client : distributed.Client, optional
        Default: the current one; in a task, too.
    key : str, optional
        A unique name for this step; by default made from the name of the function. The keys of the
        futures are made from it.
    retries : int, optional
        How many times the function runs again, on all ranks, if it fails on one.

    Returns
    -------
    list of distributed.Future
        One for each rank, in the order of ``comm``. Each result stays in the memory of its
        worker until you ask for it.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, such as a rank that hosts no worker.
    NotEnoughRanksError
        If the job has fewer worker ranks than asked for.
    MPIDaskError
        If the workers can't run MPI functions, since they are child processes of nannies; or if
        an asynchronous client is outside the job.

    Notes
    -----
    The results are there when the function has returned on all ranks; a rank that is done
    earlier keeps its thread until then. If the function makes blocking calls of Dask, or a
    task calls `submit_mpi` and waits for the results, it has to give up its thread meanwhile
    (`distributed.worker_client`).

    If the function fails, the futures raise `MPITaskError`, which names rank and host; its
    ``__cause__`` is what the function raised.

    Examples
    --------
    >>> from mpidask import mpi_dask, submit_mpi
    >>> def total(comm, x):
    ...     return comm.allreduce(x)
    >>> with mpi_dask(dashboard=False) as client:
    ...     print(client.gather(submit_mpi(total, 5, ranks=1)))
    [5]
    """
    from dask.utils import funcname
    from distributed import get_client

    _check_function(func)
    client = client or get_client()
    available = ranks_of(client)
    wanted = _wanted(ranks, _pieces([*args, *kwargs.values()]), available)
    size = wanted if isinstance(wanted, int) else len(wanted)
    # With its size: the same key for another number of ranks must be another gang.
    name = f"{key}-{size}" if key else f"mpi-{funcname(func)}-{uuid.uuid4().hex}"
    keys = [(name, n) for n in range(size)]
    calls: list[list[Any]] = [
        [func] * size,
        [{word: _piece(value, n) for word, value in kwargs.items()} for n in range(size)],
        *([_piece(argument, n) for n in range(size)] for argument in args),
    ]
    if available.is_mpi:
        annotations = {ANNOTATION: {"gang": name, "size": size, "ranks": wanted}}
    else:
        annotations = {}
    return _map(client, calls, annotations, key=keys, pure=False, retries=retries)


async def wait_for(client: Client, futures: Sequence[Future[Any]]) -> None:
    """Wait for tasks, and raise the error of the first that failed."""
    from distributed import wait

    with client.as_current():
        await wait(futures)
    for future in futures:
        if future.status != "finished":
            await future


def _map(
    client: Client, calls: Sequence[list[Any]], annotations: dict[str, Any], **options: Any
) -> list[Future[Any]]:
    from dask import annotate  # type: ignore[attr-defined]

    from mpidask._gang import rank

    if not annotations:
        return list(client.map(rank.run_alone, *calls, **options))
    with annotate(**annotations, allow_other_workers=False):
        options |= {"workers": [UNKNOWN_HOST], "priority": _PRIORITY}
        return list(client.map(rank.run, *calls, **options))


def _check_function(func: Any) -> None:
    if not callable(func):
        raise TypeError(f"submit_mpi runs a function, not {func!r}")
    if inspect.iscoroutinefunction(func):
        raise TypeError("submit_mpi runs functions in threads: this one is async")


def _piece(argument: Any, index: int) -> Any:
    """Return what one rank gets of an argument."""
    return argument._pieces[index] if isinstance(argument, PerRank) else argument


def _pieces(arguments: Sequence[Any]) -> int | None:
    """Return the number of pieces of the arguments, if there is a `PerRank` among them."""
    sizes = {len(argument) for argument in arguments if isinstance(argument, PerRank)}
    if len(sizes) > 1:
        raise ValueError(f"PerRank with different numbers of pieces: {sorted(sizes)}")
    return sizes.pop() if sizes else None


def _wanted(ranks: Any, pieces: int | None, available: WorkerRanks) -> int | tuple[int, ...]:
    """Check the ranks asked for, and return which, or how many."""
    number = len(available.ranks)
    there = f"workers on {count(number, 'rank')}"
    if ranks is None:
        ranks = available.ranks if pieces is None else pieces
    if hasattr(ranks, "tolist"):  # of numpy
        ranks = ranks.tolist()
    if not isinstance(ranks, Iterable):
        size = ranks = _integer(ranks)
    else:
        ranks = tuple(_integer(rank) for rank in ranks)
        size = len(ranks)
        if len(set(ranks)) < size:
            raise ValueError(f"ranks {ranks} lists one twice")
        if strangers := sorted(set(ranks) - set(available.ranks)):
            raise ValueError(
                f"ranks {strangers} host no worker of this job: it has {there} {available.ranks}"
            )
    if size < 1:
        raise ValueError("a function needs one rank or more")
    if size > number:
        there = there if available.is_mpi else "only one: it is not an MPI job"
        raise NotEnoughRanksError(f"asked for {size} ranks, but this cluster has {there}")
    if pieces is not None and pieces != size:
        raise ValueError(f"a PerRank has {pieces} pieces for {size} ranks")
    return ranks  # type: ignore[no-any-return]


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"ranks are whole numbers, not {value!r}")
    return int(value.__index__())
