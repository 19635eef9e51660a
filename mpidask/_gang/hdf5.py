"""One HDF5 file of Dask arrays: which blocks are computed at once, and which rank writes which.

::

    compute a round of blocks  ->  who holds them?  ->  a gang: each rank writes those it holds
            ^                                                       |
            +-------------------- drop them ------------------------+

The file is created, written and replaced by tasks (`hdf5_file`): the client may be in an event
loop, which files would block.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidask._gang import hdf5_file
from mpidask._gang.hdf5_file import Dataset, Place
from mpidask._gang.protocol import WorkerRanks, find_ranks
from mpidask._gang.submit import PerRank, submit_mpi, wait_for
from mpidask._log import logger, logging_to_stderr

if TYPE_CHECKING:
    from distributed import Client, Future, Scheduler

#: The part of the workers' memory that the blocks of a round may take. What they are computed
#: from takes some, too, and Dask begins to spill at 0.6.
_SHARE = 0.25
#: Seconds that removing and closing a temporary file may take.
_DROP_TIMEOUT = 10


@dataclass(frozen=True)
class _Block:
    place: Place
    key: Any
    nbytes: int


def to_hdf5(
    path: str | os.PathLike[str],
    collections: Mapping[str, Any],
    *,
    client: Client | None = None,
    mode: str = "w",
    **dataset_options: Any,
) -> Any:
    """Write Dask arrays into one HDF5 file, which all worker ranks write at once.

    The blocks are computed, unless they are persisted, and stay where they are: each rank
    writes those that it holds. That takes an h5py with parallel HDF5; see Notes.

    Parameters
    ----------
    path : str or path-like
        The file, which all nodes must see under this name.
    collections : mapping of str to dask.array.Array
        By the names of their datasets, such as ``"/group/name"``.
    client : distributed.Client, optional
        Default: the current one. If it is asynchronous, await the result.
    mode : {"w", "a"}
        "w" replaces the file. "a" keeps what else is in it; datasets that are there must have the
        shape and type of their array, and keep their attributes, chunks and filters.
    **dataset_options
        Arguments of `h5py.Group.create_dataset` for all datasets that are created, such as
        ``compression="gzip"``. By default, their chunks are the blocks.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, such as an array whose chunks have unknown sizes, or data of a type
        that HDF5 does not have.
    MPIDaskError
        If the file can't be written, or there is another one that is no HDF5 file.
    MPITaskError
        If a rank fails to write, as with a full disk.

    Notes
    -----
    The file is written under another name in the same folder, with mode "a" to a copy of the old
    one, and renamed when it is complete. Whatever fails before, the old file stays as it is.

    If the blocks don't fit into a quarter of the workers' memory, they are computed and
    written in rounds.

    One process writes all, which takes longer and is logged, where h5py has no parallel
    HDF5, workers are child processes of nannies, or there is no MPI job.

    Examples
    --------
    >>> import dask.array as da
    >>> from mpidask import mpi_dask, to_hdf5
    >>> x = da.ones((1000, 1000), chunks=(100, 1000))
    >>> with mpi_dask(dashboard=False) as client:
    ...     to_hdf5("results.h5", {"/ones": x, "/sums": x.sum(axis=1)})
    """
    from distributed import get_client

    if mode not in ("w", "a"):
        raise ValueError(f'mode is "w" or "a", not {mode!r}')
    datasets = [_dataset(name, array) for name, array in collections.items()]
    path, arrays = os.path.abspath(os.fspath(path)), list(collections.values())
    client = client or get_client()
    if not client.asynchronous:
        find_ranks(client)  # remembers them: within the event loop it can't ask
    return client.sync(_to_hdf5, client, path, arrays, datasets, mode, dataset_options)


def _dataset(name: Any, array: Any) -> Dataset:
    if not isinstance(name, str) or not name.strip("/"):
        raise TypeError(f"the name of a dataset is a string such as '/x', not {name!r}")
    if not hasattr(array, "numblocks"):
        raise TypeError(
            f"to_hdf5 writes dask.array.Array: {name} is {type(array).__name__} "
            "(dask.array.from_array takes arrays, and an xarray.DataArray has one as .data)"
        )
    if any(math.isnan(length) for length in itertools.chain(*array.chunks)):
        raise ValueError(f"the chunks of {name} have unknown sizes: call compute_chunk_sizes()")
    return Dataset(name, array.dtype, array.chunks)


async def _to_hdf5(
    client: Client,
    path: str,
    collections: Sequence[Any],
    datasets: Sequence[Dataset],
    mode: str,
    options: Mapping[str, Any],
) -> None:
    file, available = hdf5_file.target(path), find_ranks(client)
    temporary, is_parallel = await _run(client, hdf5_file.create, file, mode, datasets, options)
    obstacle = _obstacle(available, is_parallel)
    ranks = 0 if obstacle else len(available.ranks)
    if obstacle:
        with logging_to_stderr():
            logger.info("one process writes %s, which takes longer: %s", path, obstacle)
    try:
        await _fill(client, temporary, collections, datasets, ranks)
        await _run(client, hdf5_file.replace, file, temporary)
    except BaseException:
        with contextlib.suppress(Exception):  # the workers may be gone
            await asyncio.wait_for(_drop(client, temporary, ranks), _DROP_TIMEOUT)
        raise


async def _drop(client: Client, temporary: str, ranks: int) -> None:
    await _run(client, hdf5_file.remove, temporary)
    if ranks:
        await wait_for(client, submit_mpi(hdf5_file.close, temporary, client=client))


def _obstacle(ranks: WorkerRanks, is_parallel: bool) -> str:
    """Return why ranks can't write the file together, if so."""
    if ranks.problem or not ranks.is_mpi:
        return ranks.problem or "there is no MPI job"
    return "" if is_parallel else "h5py on the workers is built without parallel HDF5"


async def _fill(
    client: Client,
    temporary: str,
    collections: Sequence[Any],
    datasets: Sequence[Dataset],
    ranks: int,
) -> None:
    """Compute and write all blocks, in rounds that fit into memory; without ranks, by one task."""
    from dask import optimize  # type: ignore[attr-defined]
    from dask.highlevelgraph import HighLevelGraph
    from distributed import futures_of

    arrays = optimize(*collections)
    graph = HighLevelGraph.merge(*(array.dask for array in arrays))
    persisted = {future.key: future for future in futures_of(list(collections))}
    blocks = [block for pair in zip(datasets, arrays, strict=True) for block in _blocks(*pair)]
    memory, workers = await client.run_on_scheduler(_memory)
    limit = _SHARE * memory
    for portion in _portions(blocks, limit * (workers if ranks else 1), persisted):
        missing = [block.key for block in portion if block.key not in persisted]
        computed = client.get(graph.cull(missing), missing, sync=False) if missing else []
        futures = persisted | dict(zip(missing, computed, strict=True))
        await _write(client, temporary, datasets, portion, futures, ranks, limit)
        del computed, futures  # before the next ones are computed


async def _write(
    client: Client,
    temporary: str,
    datasets: Sequence[Dataset],
    blocks: Sequence[_Block],
    futures: Mapping[Any, Future[Any]],
    ranks: int,
    limit: float,
) -> None:
    """Write blocks, each rank those that it holds and so many bytes at a time."""
    needed = [futures[block.key] for block in blocks]
    await wait_for(client, needed)
    groups = _by_holder(blocks, await client.who_has(needed), ranks) if ranks else [blocks]
    for batch in itertools.zip_longest(*(_portions(group, limit) for group in groups)):
        shares = [share for share in batch if share]
        places = [[block.place for block in share] for share in shares]
        arrays = [[futures[block.key] for block in share] for share in shares]
        if ranks:
            each = PerRank(places), PerRank(arrays)
            calls = submit_mpi(hdf5_file.write_blocks, temporary, datasets, *each, client=client)
        else:
            call = None, temporary, datasets, places[0], arrays[0]
            calls = [client.submit(hdf5_file.write_blocks, *call, pure=False)]
        await wait_for(client, calls)


def _blocks(dataset: Dataset, array: Any) -> Iterator[_Block]:
    from dask.core import flatten

    offsets = (itertools.accumulate(lengths[:-1], initial=0) for lengths in dataset.blocks)
    places = zip(itertools.product(*offsets), itertools.product(*dataset.blocks), strict=True)
    for key, (offset, shape) in zip(flatten(array.__dask_keys__()), places, strict=True):
        place = Place(dataset.name, offset, shape)
        yield _Block(place, key, math.prod(shape) * dataset.dtype.itemsize)


def _memory(dask_scheduler: Scheduler) -> tuple[float, int]:
    """Return the memory of the smallest worker, and the number of workers."""
    limits = [worker.memory_limit or math.inf for worker in dask_scheduler.workers.values()]
    return min(limits), len(limits)


def _portions(
    blocks: Sequence[_Block], limit: float, free: Container[Any] = ()
) -> Iterator[list[_Block]]:
    """Divide blocks into portions of so many bytes, not counting those with keys in `free`."""
    portion: list[_Block] = []
    total = 0
    for block in blocks:
        nbytes = 0 if block.key in free else block.nbytes
        if portion and total + nbytes > limit:
            yield portion
            portion, total = [], 0
        portion.append(block)
        total += nbytes
    if portion:
        yield portion


def _by_holder(
    blocks: Sequence[_Block], holders: Mapping[Any, Sequence[str]], ranks: int
) -> list[list[_Block]]:
    """Group blocks by the workers that hold them, into one group for each rank at most."""
    groups: defaultdict[str, list[_Block]] = defaultdict(list)
    for block in blocks:
        groups[min(holders.get(block.key) or [""])].append(block)
    found = list(groups.values())
    for n, group in enumerate(found[ranks:]):  # workers of another job hold blocks, too
        found[n % ranks] += group
    return found[:ranks]


async def _run(client: Client, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a task of any worker."""
    return await client.submit(function, *args, pure=False)
