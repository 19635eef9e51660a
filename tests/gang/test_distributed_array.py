"""Arrays that go from the ranks to Dask and back."""

from __future__ import annotations

import re

import pytest

np = pytest.importorskip("numpy")

PRELUDE = """
import gc, weakref
import dask
import dask.array as da
import numpy as np
from distributed import futures_of
from mpi4py import MPI
from mpidask import DistributedArray, MPIDaskError, mpi_dask, submit_mpi

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()

def address(array):
    return array.__array_interface__["data"][0]

def held(dask_worker):
    "Return a worker's rank, and the addresses of the arrays in its memory, by key."
    from mpi4py import MPI

    found = {key: address(value) for key, value in dask_worker.data.items()
             if isinstance(value, np.ndarray)}
    return MPI.COMM_WORLD.Get_rank(), found

def addresses(client, collection):
    "Return for each block of a collection its address on the rank of the same number."
    on = dict(client.run(held).values())
    keys = [future.key for future in futures_of(collection)]
    return [on[rank].get(key) for rank, key in enumerate(keys)]

def raised(function, *args):
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


@pytest.fixture
def through(run):
    """Run a program that must succeed, and return what it printed."""

    def through(program, **kwargs):
        result = run(PRELUDE + program, **kwargs)
        assert result.status == 0, result.stderr
        clusters = program.count("with mpi_dask")
        assert len(result.messages) == clusters == len(result.said), result.stderr
        return result.stdout

    return through


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_chunks_are_the_arrays_of_the_ranks(through, axis):
    output = through(
        f"""
shape = [2, 2]
shape[{axis}] = 1 + rank
local = np.random.default_rng(rank).random(shape)
u = DistributedArray(local, axis={axis})
whole = np.concatenate(world.allgather(local), axis={axis})
before = world.allgather(address(local))
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        x = u.to_dask(client)
        assert x.chunks[{axis}] == (1, 2, 3, 4), x.chunks
        assert addresses(client, x) == before
        assert np.array_equal(x.compute(), whole)
        result = (2 * x + x.sum()).persist()
        u.from_dask(client, result)
        # As it was computed there, or came there; and as it is handed to Dask again.
        after = addresses(client, result)
        assert addresses(client, u.to_dask(client)) == after
    else:
        after = None
assert address(u.local) == world.bcast(after, root=1)[rank]
assert np.allclose(np.concatenate(world.allgather(u.local), axis={axis}), 2 * whole + whole.sum())
u.local[...] = rank  # MPI may write into it
print("rank", rank)
"""
    )
    assert sorted(output.splitlines()) == ["rank 0", "rank 1", "rank 2", "rank 3"]


def test_nothing_is_left_when_the_program_drops_its_arrays(through):
    output = through("""
local = np.ones(1000 + rank)
u = DistributedArray(local)
ends = [weakref.ref(local)]
del local
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        u.from_dask(client, u.to_dask(client) + 1)
ends.append(weakref.ref(u.local))
assert (u.local == 2).all()
del u, client
gc.collect()
print([end() for end in ends])
""")
    assert output == "[None, None]\n" * 4


def test_ranks_without_a_worker_take_no_part(through):
    """One way is None, another is an empty array; and another communicator."""
    output = through(
        """
comm = world.Create(world.Get_group().Excl([5]))  # COMM_NULL on rank 5
own = [None, np.empty((0, 3)), *np.arange(30.0).reshape(3, 1, 10), np.ones(2)][rank]
u, v = DistributedArray(own, comm=comm), DistributedArray(None, comm=comm)
with mpi_dask(exit=False, comm=comm) as client:
    if client is not None:
        x = u.to_dask(client)
        assert x.shape == (3, 10) and x.numblocks == (3, 1), x
        print(raised(v.to_dask, client))
        v.from_dask(client, x.sum(axis=1).astype(int).rechunk((1,)))  # of other shape and type
        y = v.to_dask(client)
        assert y.compute().tolist() == [45, 145, 245]
        print(raised(v.from_dask, client, y.rechunk(3)))
        v.from_dask(client, y // 5)
assert u.local is own
locals = world.gather(v.local)
if rank == 0:
    print(locals)
    print(u, v)
""",
        ranks=6,
    )
    none, unfit, locals, handles = output.splitlines()
    assert none == (
        "MPIDaskError: no rank holds a part of this DistributedArray yet: from_dask() comes first"
    )
    assert unfit == (
        "ValueError: the collection has (1,) blocks, and 3 ranks can keep (3,): one each along "
        "axis 0. rechunk() it"
    )
    assert locals == "[None, None, array([9]), array([29]), array([49]), None]"
    assert handles.count("nothing") == 2


def test_parts_in_no_worker_s_process_are_named(through):
    output = through("""
u = DistributedArray(np.ones(3))
v = DistributedArray(np.ones(3) if rank > 1 else None)
w = DistributedArray(None)
with mpi_dask(exit=False, nanny=True) as client:
    if client is not None:
        print(raised(v.to_dask, client))
        print(raised(w.from_dask, client, da.ones(2, chunks=1)))
if rank > 1:
    del v, w
with mpi_dask(exit=False) as client:
    if client is not None:
        print(raised(u.to_dask, client))
        print(raised(v.to_dask, client))
        print(raised(w.from_dask, client, da.ones(2, chunks=1)))
""")
    *nannies, other, dropped, nowhere = output.splitlines()
    assert all("MPIDaskError" in line and "leave out nanny=True" in line for line in nannies)
    for line, ranks in (other, ["0", "1"]), (dropped, ["2", "3"]), (nowhere, []):
        assert line.startswith("MPIDaskError: no worker has the array of ")
        assert re.findall(r"rank (\d) on \S+", line) == ranks
        for cause in "exclusive_workers=False", "DistributedArray(None)", "keep its handle":
            assert cause in line


def test_parts_that_make_up_no_array_are_refused_on_all_ranks(run):
    result = run(
        PRELUDE
        + """
other = rank == 2
print("\\n".join([
    raised(DistributedArray, [1, 2] if other else np.ones(3)),
    raised(DistributedArray, np.ones((3, 2 + other))),
    raised(DistributedArray, np.ones(3, "f4" if other else "f8")),
    raised(DistributedArray, np.ones((3, 2) if other else (3,))),
    raised(DistributedArray, np.ones((3, 2)), int(other)),
    raised(DistributedArray, np.ones(3), "x" if other else 0),
    raised(DistributedArray, np.ones(3), 1),
    raised(DistributedArray, np.ones((2, 3)), -3),
    raised(DistributedArray, None, -1),
    raised(DistributedArray, np.array(1.0)),
]))
""",
        ranks=3,
    )
    assert (result.status, result.stderr) == (0, "")
    lines = sorted(result.stdout.splitlines())
    assert lines[::3] == lines[1::3] == lines[2::3]
    said = re.sub(r" on \S+ (has|passes)", r" \1", "\n".join(lines[::3]))
    differ = "ValueError: DistributedArray: parts differ in more than their length along axis 0: "
    differ += "rank 0 has "
    assert said.splitlines() == sorted(
        [
            "TypeError: rank 2 passes DistributedArray a list, not a numpy.ndarray or None",
            f"{differ}float64 of shape (3, 2), rank 2 has float64 of shape (3, 3)",
            f"{differ}float64 of shape (3,), rank 2 has float32 of shape (3,)",
            f"{differ}float64 of shape (3,), rank 2 has float64 of shape (3, 2)",
            "TypeError: DistributedArray: an axis is an integer, not 'x'",
            "ValueError: the ranks pass DistributedArray several axes: [0, 1]",
            "ValueError: DistributedArray: an array of 1 dimensions has no axis 1",
            "ValueError: DistributedArray: an array of 2 dimensions has no axis -3",
            "ValueError: DistributedArray: where no rank has an array, axis -1 can't be counted",
            "ValueError: DistributedArray: an array of 0 dimensions has no axis 0",
        ]
    )


def test_what_can_t_be_kept_changes_nothing(through):
    output = through("""
u = DistributedArray(np.arange(3.0) + rank)
before = address(u.local)
def fail(block, block_info=None):
    if block_info[0]["chunk-location"] == (2,):
        raise LookupError("the third block")
    return block
def shorten(block, block_info=None):
    return block[:2] if block_info[0]["chunk-location"] == (1,) else block
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        x = u.to_dask(client)
        for collection in (
            x.rechunk(4), x.rechunk(((1, 3, 3, 5),)), x.sum(), x.compute(),
            x.map_blocks(fail, dtype=float),
            x.map_blocks(shorten, dtype=float, meta=np.ones(0)),
        ):
            print(raised(u.from_dask, client, collection))
        print(raised(DistributedArray, np.ones(3)))
        print((x.sum() + 0.5).compute())
    elif rank == 0:
        print(raised(u.to_dask, client))
assert address(u.local) == before
""")
    few, unfit, scalar, array, failed, short, inside, result, none = output.splitlines()
    assert few == (
        "ValueError: the collection has (3,) blocks, and 4 ranks can keep (4,): one each along "
        "axis 0. rechunk() it"
    )
    assert unfit.startswith(
        "ValueError: the blocks have the lengths (1, 3, 3, 5) along axis 0, and the parts "
        "(3, 3, 3, 3): rechunk({0: (3, 3, 3, 3)}) it"
    )
    assert scalar.startswith("ValueError: the collection has () blocks")
    assert array == "TypeError: from_dask() takes a dask.array.Array, not ndarray"
    assert failed == "LookupError: the third block"
    assert "failed on rank 1 on " in short
    assert "a block has the shape (2,), and the collection says (3,): nothing is kept" in short
    assert inside.startswith("MPIDaskError: make a DistributedArray on all ranks before the block")
    assert result == "30.5"
    assert none.startswith("TypeError: the client is None, as on all ranks but the client's")


def test_a_handle_is_that_of_the_rank_where_a_task_runs(through):
    """So gangs, and other tasks, work on the arrays in their place."""
    output = through(
        """
u = DistributedArray(np.full(3, rank + 1))

def clear(u):
    u.local[1] = 0

def add_up(comm, u):
    comm.Allreduce(MPI.IN_PLACE, u.local)

with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        x = u.to_dask(client)
        for worker in client.scheduler_info(-1)["workers"]:
            client.submit(clear, u, workers=[worker], pure=False).result()
        print(x.compute().tolist())
        client.gather(submit_mpi(add_up, u))
        print(x.compute().tolist())
assert u.local.tolist() == [6, 0, 6]
""",
        ranks=3,
    )
    assert output == "[1, 0, 1, 2, 0, 2, 3, 0, 3]\n[6, 0, 6, 6, 0, 6, 6, 0, 6]\n"


def test_after_workers_were_replaced(through):
    output = through(
        """
u = DistributedArray(np.full(2, rank))
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        u.to_dask(client)
        client.restart()
        print(u.to_dask(client).compute().tolist())
        u.from_dask(client, u.to_dask(client) + 1)
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        print(u.to_dask(client).compute().tolist())
""",
        ranks=3,
    )
    assert output == "[0, 0, 1, 1, 2, 2]\n[1, 1, 2, 2, 3, 3]\n"


def test_a_worker_that_was_replaced_on_the_way(run):
    """Its rank has the array still, and the next worker finds it."""
    result = run(
        PRELUDE
        + """
u = DistributedArray(np.full(2, rank))
with mpi_dask(exit=False, exclusive_workers=False) as client:
    if client is not None:
        x = u.to_dask(client)
        workers = set(client.scheduler_info(-1)["workers"])
        client.submit(exit, workers=[max(workers)])
        while workers <= set(client.scheduler_info(-1)["workers"]):
            pass
        print(x.compute().tolist())
        u.from_dask(client, x + 1)
print(u.local[0] == rank + 1)
""",
        ranks=3,
    )
    assert result.status == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["True", "True", "True", "[0, 0, 1, 1, 2, 2]"]


def test_asynchronous_client(through):
    output = through(
        """
import asyncio
u = DistributedArray(np.full(2, rank))
async def main():
    async with mpi_dask(exit=False, exclusive_workers=False) as client:
        if client is not None:
            x = await u.to_dask(client)
            await u.from_dask(client, x * 2)
            x = await u.to_dask(client)
            print((await client.compute(x)).tolist())
asyncio.run(main())
""",
        ranks=2,
    )
    assert output == "[0, 0, 2, 2]\n"


def test_without_an_mpi_job(through):
    """The array is copied to a worker in another process, and back."""
    output = through(
        """
u = DistributedArray(np.arange(6.0).reshape(2, 3), axis=1)
v = DistributedArray(None)
with mpi_dask(exit=False) as client:
    x = u.to_dask(client)
    print(x.chunks)
    u.from_dask(client, x - x.mean())
    print(u.to_dask(client).sum().compute())
    v.from_dask(client, da.arange(3, chunks=3))
print(u.local.tolist(), v.local.tolist())
u.local[0] = 1
""",
        ranks=None,
    )
    assert output == "((2,), (3,))\n0.0\n[[-2.5, -1.5, -0.5], [0.5, 1.5, 2.5]] [0, 1, 2]\n"


def test_workers_of_the_same_process(through):
    output = through(
        """
from distributed import Client
u = DistributedArray(np.arange(6.0))
before = address(u.local)
with Client(processes=False, n_workers=2, dashboard_address=":0") as client:
    x = u.to_dask(client)
    assert before in {one for _, found in client.run(held).values() for one in found.values()}
    u.from_dask(client, x + 1)
    print(u.to_dask(client).compute().tolist())
""",
        ranks=None,
    )
    assert output == "[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]\n"
