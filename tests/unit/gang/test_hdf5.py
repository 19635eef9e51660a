"""Which blocks are written when, by which rank, and into what chunks."""

from __future__ import annotations

import itertools

import pytest

np = pytest.importorskip("numpy")

from mpidask._gang import hdf5  # noqa: E402
from mpidask._gang.hdf5_file import Dataset, Place, target  # noqa: E402


def block(key, nbytes=1):
    return hdf5._Block(Place("x", (0,), (1,)), key, nbytes)


def keys(portions):
    return [[block.key for block in portion] for portion in portions]


@pytest.mark.parametrize(
    "limit, expected",
    [
        (0, [["a"], ["b"], ["c"], ["d"]]),
        (4, [["a", "b"], ["c"], ["d"]]),
        (float("inf"), [["a", "b", "c", "d"]]),
    ],
)
def test_portions_are_bounded_but_have_one_block(limit, expected):
    blocks = [block("a", 2), block("b", 2), block("c", 3), block("d", 9)]
    assert keys(hdf5._portions(blocks, limit)) == expected


def test_what_is_there_already_counts_nothing():
    blocks = [block(n, 5) for n in range(6)]
    assert keys(hdf5._portions(blocks, 5, {0, 1, 2})) == [[0, 1, 2, 3], [4], [5]]
    assert keys(hdf5._portions([], 5)) == []


def test_blocks_are_grouped_by_who_holds_them():
    blocks = [block(n) for n in range(6)]
    holders = {0: ["a"], 1: ["b"], 2: ["b", "a"], 3: ["a"], 4: ["stranger"], 5: []}
    assert keys(hdf5._by_holder(blocks, holders, 4)) == [[0, 2, 3], [1], [4], [5]]
    assert keys(hdf5._by_holder(blocks, holders, 2)) == [[0, 2, 3, 4], [1, 5]]


@pytest.mark.parametrize(
    "blocks, dtype, chunk",
    [
        (((3, 3, 1), (4, 5)), "f8", (3, 5)),
        ((), "f8", None),
        (((0,), (3,)), "f8", None),
        (((2**20,), (2**12,)), "f8", (2**16, 2**12)),
        (((3,), (2**30,)), "f8", (1, 2**28)),
    ],
)
def test_chunks_are_blocks_as_far_as_hdf5_has_such_large_ones(blocks, dtype, chunk):
    dataset = Dataset("x", np.dtype(dtype), blocks)
    assert dataset.chunk == chunk
    if chunk:
        assert np.prod(chunk, dtype=object) * 8 < 2**32


def test_blocks_cover_the_array_once():
    da = pytest.importorskip("dask.array")
    x = da.ones((7, 5), chunks=((3, 4), (2, 2, 1)))
    covered = np.zeros((7, 5))
    for one in hdf5._blocks(Dataset("x", x.dtype, x.chunks), x):
        where = zip(one.place.offset, one.place.shape)
        covered[tuple(slice(start, start + length) for start, length in where)] += 1
        assert x.name == one.key[0]
        assert one.nbytes == 8 * np.prod(one.place.shape)
    assert (covered == 1).all()
    assert len(list(itertools.product(*x.chunks))) == 6


@pytest.mark.parametrize(
    "content, may",
    [
        (b"", True),
        (b"\x89HDF\r\n\x1a\n and more", True),
        (bytes(1024) + b"\x89HDF\r\n\x1a\n", True),
        (bytes(1000) + b"\x89HDF\r\n\x1a\n", False),
        (b"a table", False),
    ],
)
def test_only_hdf5_files_are_replaced(tmp_path, content, may):
    path, temporary = tmp_path / "x.h5", tmp_path / "temporary"
    path.write_bytes(content)
    temporary.write_bytes(b"new")
    if may:
        target(str(path)).replace_by(str(temporary))
        assert path.read_bytes() == b"new"
    else:
        with pytest.raises(OSError, match="is not a HDF5 file, and is left as it is"):
            target(str(path)).replace_by(str(temporary))
        assert path.read_bytes() == content
