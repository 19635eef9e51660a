"""What a process holds, and what its tasks get of it."""

from __future__ import annotations

import gc
import weakref

import pytest

import mpidask
from mpidask import MPIDaskError
from mpidask._gang import local_array
from mpidask._gang.distributed_array import _common_axis, check_blocks
from mpidask._gang.local_array import LocalArray, Part

np = pytest.importorskip("numpy")
da = pytest.importorskip("dask.array")


@pytest.fixture
def local():
    local = LocalArray(3, np.arange(4.0))
    local_array.register("u", local)
    return local


def test_a_task_gets_the_array_itself(local):
    assert local_array.get(None, "u", 0) is local.array
    assert local_array.describe("u").shape == (4,)
    assert (local_array.describe("u").rank, local_array.describe("u").dtype) == (3, float)


def test_a_block_is_held_itself(local):
    block = np.ones(3)
    local_array.replace("u", block)
    assert local.array is block
    assert local_array.get(None, "u", 1) is block


@pytest.mark.parametrize(
    "block",
    [np.broadcast_to(1.0, 3), np.arange(6.0)[::2], np.float64(2.5)],
    ids=["read-only", "strided", "scalar"],
)
def test_a_block_that_mpi_can_t_use_is_copied(local, block):
    local_array.replace("u", block)
    assert np.array_equal(local.array, block)
    assert local.array.flags.writeable and local.array.flags.contiguous


def test_columns_first_is_fine_for_mpi(local):
    block = np.ones((2, 3)).T
    local_array.replace("u", block)
    assert local.array is block


def test_what_was_held_before_is_not_computed_again(local):
    local_array.replace("u", np.ones(3))
    with pytest.raises(MPIDaskError, match=r"rank 3 .* to_dask\(\)"):
        local_array.get(None, "u", 0)


def test_a_program_that_drops_its_handle_holds_nothing():
    local = LocalArray(0, np.ones(3))
    local_array.register("v", local)
    array = weakref.ref(local.array)
    del local
    gc.collect()
    assert array() is None and local_array.describe("v") is None
    with pytest.raises(MPIDaskError, match="has dropped its handle"):
        local_array.get(None, "v", 0)


@pytest.mark.parametrize("array", [None, np.empty((0, 3))], ids=["None", "empty"])
def test_no_part(array):
    part = LocalArray(0, array).describe()
    assert part.shape is None and part.dtype is None


def parts(*shapes):
    return [Part(rank, "host", shape, worker_rank=rank) for rank, shape in enumerate(shapes)]


def test_blocks_that_fit():
    check_blocks(da.ones((5, 4), chunks=((2, 3), 4)), parts((2, 9), (3, 9)), axis=0)
    check_blocks(da.ones((5, 4), chunks=((2, 3), 4)), parts(None, None), axis=0)
    check_blocks(da.ones((4, 5), chunks=(4, (2, 3))), parts((9, 2), (9, 3)), axis=1)
    x = da.ones(4, chunks=2)
    check_blocks(x[x > 0], parts(None, None), axis=0)


@pytest.mark.parametrize(
    "collection, found, axis, message",
    [
        (da.ones((4, 4), chunks=2), parts((2, 4), (2, 4)), 0, r"\(2, 2\) blocks"),
        (da.ones((4, 4), chunks=(2, 4)), parts((4, 2), (4, 2)), 1, r"keep \(1, 2\)"),
        (da.ones(4, chunks=2), parts(None, None), 1, r"along axis 1"),
        (da.ones(4, chunks=2), parts((3,), (1,)), 0, r"rechunk\({0: \(3, 1\)}\)"),
    ],
)
def test_blocks_that_don_t(collection, found, axis, message):
    with pytest.raises(ValueError, match=message):
        check_blocks(collection, found, axis)


def test_an_axis_is_no_bool():
    """DistributedArray(x, True) is a mistake, and not axis 1."""
    with pytest.raises(TypeError, match="an axis is an integer, not True"):
        _common_axis([], [True])


def test_older_names_are_the_same_objects():
    assert mpidask.Shared is mpidask.DistributedArray
    assert mpidask.Shared.keep is mpidask.DistributedArray.from_dask
