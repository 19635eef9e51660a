"""The client's side: a function becomes one task for each rank."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mpidask._errors import NotEnoughRanksError
from mpidask._gang.jobs import Job, job_of
from mpidask._gang.per_rank import PerRank, piece

if TYPE_CHECKING:
    from distributed import Client, Future

#: Members wait in the scheduler, since their tasks are restricted to this host, which isn't.
HOLD = "mpidask-waits-for-its-ranks"
#: The annotation by which the scheduler's plugin knows members.
ANNOTATION = "mpidask"
#: Before other tasks that wait in a worker: the other members wait with theirs.
_PRIORITY = 1


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
    from distributed import get_client

    _check_function(func)
    client = client or get_client()
    job = job_of(client)
    wanted = _wanted(ranks, _pieces([*args, *kwargs.values()]), job)
    size = wanted if isinstance(wanted, int) else len(wanted)
    # Else the same key for another number of ranks would be one gang, of which some have ended.
    name = f"{key}-{size}" if key else f"mpi-{_name(func)}-{uuid.uuid4().hex}"
    each = range(size)
    calls: list[list[Any]] = [
        [func] * size,
        [{name: piece(value, n) for name, value in kwargs.items()} for n in each],
        *([piece(argument, n) for n in each] for argument in args),
    ]
    keys = [(name, n) for n in each]
    return _submit(client, job, calls, keys, wanted, retries)


def _submit(
    client: Client,
    job: Job,
    calls: Sequence[list[Any]],
    keys: list[tuple[str, int]],
    wanted: int | tuple[int, ...],
    retries: int | None,
) -> list[Future[Any]]:
    from dask import annotate  # type: ignore[attr-defined]

    from mpidask._gang import member

    arguments: dict[str, Any] = {"key": keys, "pure": False, "retries": retries}
    if not job.is_mpi:
        return list(client.map(member.run_alone, *calls, **arguments))
    gang = {"gang": keys[0][0], "size": len(keys), "ranks": wanted}
    with annotate(**{ANNOTATION: gang}, allow_other_workers=False):
        mapped = client.map(member.run, *calls, workers=[HOLD], priority=_PRIORITY, **arguments)
    return list(mapped)


def _check_function(func: Any) -> None:
    if not callable(func):
        raise TypeError(f"submit_mpi runs a function, not {func!r}")
    if inspect.iscoroutinefunction(func):
        raise TypeError("submit_mpi runs functions in threads: this one is async")


def _name(func: Callable[..., Any]) -> str:
    from dask.utils import funcname

    return str(funcname(func))


def _pieces(arguments: Sequence[Any]) -> int | None:
    """Give the number of pieces that the arguments have, if there is a `PerRank`."""
    sizes = {len(argument) for argument in arguments if isinstance(argument, PerRank)}
    if len(sizes) > 1:
        raise ValueError(f"PerRank with different numbers of pieces: {sorted(sizes)}")
    return sizes.pop() if sizes else None


def _wanted(ranks: Any, pieces: int | None, job: Job) -> int | tuple[int, ...]:
    """Check the ranks asked for, and give their number, or which."""
    there = f"workers on {len(job.ranks)} rank{'s' * (len(job.ranks) > 1)}"
    if ranks is None:
        ranks = job.ranks if pieces is None else pieces
    if hasattr(ranks, "tolist"):  # of numpy
        ranks = ranks.tolist()
    if not isinstance(ranks, Iterable):
        size = ranks = _integer(ranks)
    else:
        ranks = tuple(_integer(rank) for rank in ranks)
        size = len(ranks)
        if len(set(ranks)) < size:
            raise ValueError(f"ranks {ranks} has one twice")
        if strangers := sorted(set(ranks) - set(job.ranks)):
            raise ValueError(
                f"ranks {strangers} host no worker of this job: it has {there} {job.ranks}"
            )
    if size < 1:
        raise ValueError("a function needs one rank or more")
    if size > len(job.ranks):
        there = there if job.is_mpi else "one rank: it is no MPI job of mpidask's"
        raise NotEnoughRanksError(f"{size} ranks are asked for, and this cluster has {there}")
    if pieces is not None and pieces != size:
        raise ValueError(f"a PerRank has {pieces} pieces for {size} ranks")
    return ranks  # type: ignore[no-any-return]


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"ranks are whole numbers, not {value!r}")
    return int(value.__index__())
