"""The workers' side of `to_hdf5`: a file that one or more ranks write beside its target."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mpidask._dask.atomic_file import AtomicFile
from mpidask._errors import MPIDaskError
from mpidask._waiting import backoff, wait

if TYPE_CHECKING:
    import h5py
    from mpi4py import MPI

#: Arrays of a dataset, each with its offset.
_Pieces: TypeAlias = "list[tuple[tuple[int, ...], Any]]"

#: How an HDF5 file begins: at its start, or behind a user's block of 512 bytes or more.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURE_OFFSETS = 0, *(512 << n for n in range(11))
#: Bytes that a chunk of HDF5 has at most.
_LARGEST_CHUNK = 2**32 - 1

#: Temporary files that several ranks have open, each with the number of these ranks. Closing one
#: waits for all of them; so where one has failed, none may begin to, not even in a garbage
#: collection. Besides, HDF5 1.10 crashes in closing a file on a full disk.
_shared: dict[str, tuple[h5py.File, int]] = {}


@dataclass(frozen=True)
class Dataset:
    """A dataset of the file, and the lengths of the blocks that it is made of, along each axis."""

    name: str
    dtype: Any
    blocks: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(sum, self.blocks))

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """The shape of its chunks unless the user says another: that of the largest block."""
        shape = [max(lengths) for lengths in self.blocks]
        if 0 in self.shape or not shape:
            return None
        while math.prod(shape) * self.dtype.itemsize > _LARGEST_CHUNK:
            axis = next(axis for axis, length in enumerate(shape) if length > 1)
            shape[axis] = -(-shape[axis] // 2)
        return tuple(shape)


@dataclass(frozen=True)
class Place:
    """Where in which dataset a block belongs."""

    dataset: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]


# -- The file: tasks of one worker. --------------------------------------------------------


def target(path: str) -> AtomicFile:
    """Return the file to be written, which replaces HDF5 files only."""
    return AtomicFile(path, "HDF5 file", _is_hdf5)


def _is_hdf5(content: bytes) -> bool:
    return any(content.startswith(_SIGNATURE, offset) for offset in _SIGNATURE_OFFSETS)


def create(
    file: AtomicFile, mode: str, datasets: Sequence[Dataset], options: Mapping[str, Any]
) -> tuple[str, bool]:
    """Create the temporary file, with its datasets but not their data.

    Return its path, and whether ranks can write it together.
    """
    import h5py

    file.prepare()
    temporary = file.temporary_path()
    try:
        if mode == "a" and os.path.exists(file.path):
            shutil.copy(file.path, temporary)
        with _open(temporary, "a") as opened:
            for dataset in datasets:
                _require(opened, dataset, options)
    except BaseException:
        remove(temporary)
        raise
    return temporary, h5py.get_config().mpi


def _require(file: h5py.File, dataset: Dataset, options: Mapping[str, Any]) -> None:
    if options.get("chunks", True) is True:
        options = {**options, "chunks": dataset.chunk}
    try:
        file.require_dataset(dataset.name, dataset.shape, dataset.dtype, exact=True, **options)
    except TypeError as error:
        raise TypeError(f"{dataset.name}: {error}") from None


def replace(file: AtomicFile, temporary: str) -> None:
    """Move a temporary file that is complete to its target."""
    try:
        file.replace_by(temporary)
    except OSError as error:
        raise MPIDaskError(f"the HDF5 file can't be replaced: {file.explain(error)}") from None


def remove(temporary: str) -> None:
    """Remove a temporary file, if it exists, and free its space even if ranks have it open."""
    with contextlib.suppress(OSError):
        os.truncate(temporary, 0)
        os.unlink(temporary)


def _open(path: str, mode: str, comm: MPI.Intracomm | None = None) -> h5py.File:
    """Open a file in which what is large begins at a block of the file system."""
    import h5py

    block = os.stat(os.path.dirname(path)).st_blksize
    driver = {} if comm is None else {"driver": "mpio", "comm": comm}
    return h5py.File(path, mode, alignment_threshold=block, alignment_interval=block, **driver)


# -- Its data: a gang, or a task. ----------------------------------------------------------


def write_blocks(
    comm: MPI.Intracomm | None,
    path: str,
    datasets: Sequence[Dataset],
    places: Sequence[Place],
    blocks: Sequence[Any],
) -> None:
    """Write blocks into a temporary file: with a communicator, together with its other ranks."""
    pieces, error = {}, None
    try:
        pieces = _prepared(path, datasets, places, blocks)
    except Exception as problem:
        error = problem
    if _no_rank_fails(comm, error):
        with _opened(path, comm) as file:
            for dataset in datasets:
                _write_dataset(comm, file[dataset.name], dataset.blocks, pieces[dataset.name])


def _prepared(
    path: str, datasets: Sequence[Dataset], places: Sequence[Place], blocks: Sequence[Any]
) -> dict[str, _Pieces]:
    """Check what can be checked by one rank; return the blocks as they are written, by dataset."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: all nodes must share the file system of the file")
    if path in _shared:
        raise RuntimeError(f"{path} is open since a rank failed to write it: write it anew")
    dtypes = {dataset.name: dataset.dtype for dataset in datasets}
    pieces: dict[str, _Pieces] = {name: [] for name in dtypes}
    for place, block in zip(places, blocks, strict=True):
        array = _array(block, place, dtypes[place.dataset])
        pieces[place.dataset].append((place.offset, array))
    return pieces


@contextlib.contextmanager
def _opened(path: str, comm: MPI.Intracomm | None) -> Iterator[h5py.File]:
    """Open a file, and close it if no rank has failed."""
    file = _open(path, "r+", comm)
    if comm is None:
        with file:
            yield file
    else:
        _shared[path] = file, comm.Get_size()
        yield file
        wait(comm.Ibarrier(), None, backoff(0.01))
        file.close()
        del _shared[path]


def close(comm: MPI.Intracomm, path: str) -> None:
    """Close a temporary file that was left open since a rank had failed."""
    file, size = _shared.get(path, (None, 0))
    if sum(comm.allgather(file is not None)) == size and file is not None:
        file.close()
        del _shared[path]


def _array(block: Any, place: Place, dtype: Any) -> Any:
    import numpy as np

    array = np.asarray(block, dtype, order="C")
    if array.shape != place.shape:
        raise ValueError(
            f"a block of {place.dataset} has the shape {array.shape}, and the collection says "
            f"{place.shape}: tell map_blocks() its chunks="
        )
    return array


def _no_rank_fails(comm: MPI.Intracomm | None, error: Exception | None) -> bool:
    """Return whether no rank has an error; raise that of this rank, if it has one."""
    fails = error is not None
    anywhere = fails if comm is None else any(comm.allgather(fails))
    if error is not None:
        raise error
    return not anywhere


def _write_dataset(
    comm: MPI.Intracomm | None,
    dataset: h5py.Dataset,
    blocks: Sequence[Sequence[int]],
    mine: _Pieces,
) -> None:
    """Write this rank's blocks of a dataset, each at its offset."""
    import numpy as np
    from h5py import h5fd, h5p, h5s

    transfer, empty = None, 0
    if comm is not None and _is_collective(dataset, blocks):
        transfer = h5p.create(h5p.DATASET_XFER)
        transfer.set_dxpl_mpio(h5fd.MPIO_COLLECTIVE)
        empty = max(comm.allgather(len(mine))) - len(mine)
    space = dataset.id.get_space()
    for offset, array in mine:
        if offset:
            space.select_hyperslab(offset, array.shape)
        dataset.id.write(h5s.create_simple(array.shape), space, array, dxpl=transfer)
    space.select_none()
    for _ in range(empty):
        dataset.id.write(space, space, np.empty(0, dataset.dtype), dxpl=transfer)


def _is_collective(dataset: h5py.Dataset, blocks: Sequence[Sequence[int]]) -> bool:
    """Whether ranks must write a dataset together, for its filters, or should.

    They should if blocks share chunks, or divide the rows of a dataset without chunks.
    """
    if dataset.id.get_create_plist().get_nfilters():
        return True
    chunk = dataset.chunks or (1, *dataset.shape[1:])[: dataset.ndim]
    return dataset.size > 0 and any(
        edge % length
        for lengths, length in zip(blocks, chunk, strict=True)
        for edge in itertools.accumulate(lengths[:-1])
    )
