"""Values in one block of bytes."""

from __future__ import annotations

import pytest

from mpidask._broadcast.serialization import Pickled, load

np = pytest.importorskip("numpy")


def block_of(value):
    pickled = Pickled(value)
    block = bytearray(pickled.nbytes)

    def write(offset, data):
        data = memoryview(data).cast("B")
        block[offset : offset + len(data)] = data

    pickled.write_by(write)
    assert len(block) == pickled.nbytes
    return memoryview(block).toreadonly()


@pytest.mark.parametrize("value", [None, 1.5, "text", b"bytes", [1, {"a": (2, 3)}]])
def test_values_without_buffers(value):
    assert load(block_of(value)) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000),
        np.zeros((0, 3)),
        np.array(5.0),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(20)[::2],
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["one", None], dtype=object),
    ],
    ids=str,
)
def test_arrays(array):
    found = load(block_of({"array": array, "again": array}))
    np.testing.assert_array_equal(found["array"], array)
    assert found["array"].dtype == array.dtype
    assert found["again"] is found["array"]


def test_arrays_are_in_the_block():
    block = block_of([np.arange(100.0), np.arange(7, dtype="u1"), np.arange(9)])
    start = np.frombuffer(block, dtype="u1").__array_interface__["data"][0]
    for array in load(block):
        offset = array.__array_interface__["data"][0] - start
        assert 0 <= offset < len(block)
        assert offset % 64 == 0
        assert not array.flags.writeable


def test_tables():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": np.arange(1000.0), "b": list("xy") * 500})
    block = block_of(table)
    found = load(block)
    pandas.testing.assert_frame_equal(found, table)
    assert np.shares_memory(found["a"].to_numpy(), np.frombuffer(block, dtype="u1"))


@pytest.mark.parametrize("dtype", ["M8[ns]", "m8[s]", ">M8[D]"])
def test_times_are_in_the_block(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    block = block_of({"array": array, "view": array[:, ::2]})
    found = load(block)
    np.testing.assert_array_equal(found["array"], array)
    np.testing.assert_array_equal(found["view"], array[:, ::2])
    assert found["array"].dtype == array.dtype
    assert np.shares_memory(found["array"], np.frombuffer(block, dtype="u1"))


def test_functions_of_the_main_program():
    function = eval("lambda x: x + 1", {"__name__": "__main__"})
    assert load(block_of(function))(1) == 2
