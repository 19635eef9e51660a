"""What a process holds, and what its tasks get of it."""

from __future__ import annotations

import gc
import weakref

import pytest

from mpidask import MPIDaskError
from mpidask._gang import pieces
from mpidask._gang.handover import Home, check_blocks
from mpidask._gang.pieces import Holder, Piece
from mpidask._gang.shared import _common_axis

np = pytest.importorskip("numpy")
da = pytest.importorskip("dask.array")


@pytest.fixture
def holder():
    holder = Holder(3, np.arange(4.0))
    pieces.register("u", holder)
    return holder


def test_a_task_gets_the_array_itself(holder):
    assert pieces.take("u", 0) is holder.array
    assert pieces.look("u").shape == (4,)
    assert (pieces.look("u").rank, pieces.look("u").dtype) == (3, float)


def test_a_block_is_held_itself(holder):
    block = np.ones(3)
    pieces.replace("u", block)
    assert holder.array is block
    assert pieces.take("u", 1) is block


@pytest.mark.parametrize(
    "block",
    [np.broadcast_to(1.0, 3), np.arange(6.0)[::2], np.float64(2.5)],
    ids=["read-only", "strided", "scalar"],
)
def test_a_block_that_mpi_can_t_use_is_copied(holder, block):
    pieces.replace("u", block)
    assert np.array_equal(holder.array, block)
    assert holder.array.flags.writeable and holder.array.flags.contiguous


def test_columns_first_is_fine_for_mpi(holder):
    block = np.ones((2, 3)).T
    pieces.replace("u", block)
    assert holder.array is block


def test_what_was_held_before_is_not_computed_again(holder):
    pieces.replace("u", np.ones(3))
    with pytest.raises(MPIDaskError, match=r"rank 3 .* to_dask\(\)"):
        pieces.take("u", 0)


def test_a_program_that_drops_its_handle_holds_nothing():
    holder = Holder(0, np.ones(3))
    pieces.register("v", holder)
    array = weakref.ref(holder.array)
    del holder
    gc.collect()
    assert array() is None and pieces.look("v") is None
    with pytest.raises(MPIDaskError, match="has dropped its handle"):
        pieces.take("v", 0)


@pytest.mark.parametrize("array", [None, np.empty((0, 3))], ids=["None", "empty"])
def test_no_piece(array):
    piece = Holder(0, array).describe()
    assert piece.shape is None and piece.dtype is None


def homes(*shapes):
    return [Home(Piece(rank, "host", shape), rank) for rank, shape in enumerate(shapes)]


def test_blocks_that_fit():
    check_blocks(da.ones((5, 4), chunks=((2, 3), 4)), homes((2, 9), (3, 9)), axis=0)
    check_blocks(da.ones((5, 4), chunks=((2, 3), 4)), homes(None, None), axis=0)
    check_blocks(da.ones((4, 5), chunks=(4, (2, 3))), homes((9, 2), (9, 3)), axis=1)
    x = da.ones(4, chunks=2)
    check_blocks(x[x > 0], homes(None, None), axis=0)


@pytest.mark.parametrize(
    "collection, found, axis, message",
    [
        (da.ones((4, 4), chunks=2), homes((2, 4), (2, 4)), 0, r"\(2, 2\) blocks"),
        (da.ones((4, 4), chunks=(2, 4)), homes((4, 2), (4, 2)), 1, r"keep \(1, 2\)"),
        (da.ones(4, chunks=2), homes(None, None), 1, r"along axis 1"),
        (da.ones(4, chunks=2), homes((3,), (1,)), 0, r"rechunk\({0: \(3, 1\)}\)"),
    ],
)
def test_blocks_that_don_t(collection, found, axis, message):
    with pytest.raises(ValueError, match=message):
        check_blocks(collection, found, axis)


def test_an_axis_is_no_bool():
    """Shared(x, True) is a mistake, and not axis 1."""
    with pytest.raises(TypeError, match="an axis is an integer, not True"):
        _common_axis([], [True])
