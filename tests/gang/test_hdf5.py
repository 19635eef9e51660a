"""One HDF5 file of Dask arrays: by all ranks where h5py is parallel, else by one process."""

from __future__ import annotations

import os
import textwrap

import pytest

h5py = pytest.importorskip("h5py")
np = pytest.importorskip("numpy")

#: Whether ranks can write together. In the environment py-libraries they can.
PARALLEL = h5py.get_config().mpi
#: What the log says otherwise, for each file.
ALONE = "takes longer: h5py on the workers is built without parallel HDF5"

PRELUDE = """
import asyncio, os, resource, time
import dask
import dask.array as da
import h5py
import numpy as np
from dask.distributed import Client, LocalCluster, futures_of, wait
from mpidask import MPIDaskError, MPITaskError, mpi_dask, to_hdf5

whole = np.random.default_rng(0).random((100, 60))
x = da.from_array(whole, chunks=(17, 25))

def saved(path="out.h5"):
    "What the datasets of a file have, by name"
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]})
                        if isinstance(item, h5py.Dataset) else None)
    return found

def one_process(arrays, path="expected.h5"):
    "Write what to_hdf5 should, as one process does"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = np.asarray(array)
    return saved(path)

def same(found, expected):
    assert found.keys() == expected.keys(), found.keys()
    for name, array in found.items():
        other = expected[name]
        assert array.dtype == other.dtype and array.shape == other.shape, name
        assert array.tobytes() == other.tobytes(), name

def error_of(*args, **kwargs):
    try:
        to_hdf5(*args, **kwargs)
    except Exception as error:
        return error

def files():
    return sorted(name for name in os.listdir() if "h5" in name)
"""


@pytest.fixture
def begin(start):
    return lambda program, **kwargs: start(
        PRELUDE + textwrap.dedent(program), limit=150, **{"ranks": 6, **kwargs}
    )


@pytest.fixture
def passes(begin):
    """Run a program that writes so many files and must succeed."""

    def passes(program, files=1, alone=not PARALLEL, why=ALONE, **kwargs):
        result = begin(program, **kwargs).result()
        assert result.status == 0, result.stderr
        assert result.stdout == "good\n", result.stdout
        said = [line for line in result.messages if why in line]
        assert len(said) == (files if alone else 0), result.stderr
        assert len(result.messages) == len(said) + 1, result.stderr
        return result

    return passes


def test_the_data_are_those_that_one_process_writes(passes):
    passes("""
        arrays = {
            "/blocks": x,
            "/group/sums": x.sum(axis=1),
            "rows": da.from_array(whole, chunks=(30, 60)),
            "columns": da.from_array(whole, chunks=(100, 11)),
            "cube": da.arange(24, chunks=5).reshape(2, 3, 4),
            "scalar": x.sum(),
            "empty": da.zeros((0, 3)),
            "truth": x > 0.5,
            "complex": x[:10] * 1j,
            "records": da.from_array(np.array([(1, 2.0)] * 5, dtype="i4,f8"), chunks=2),
            "small": x.astype("f4"),
            "transposed": x.T,
        }
        with mpi_dask(nthreads=1) as client:
            expected = one_process(dict(zip(arrays, dask.compute(*arrays.values()))))
            to_hdf5("out.h5", arrays)
            same(saved(), expected)
            with h5py.File("out.h5") as file:
                assert file["blocks"].chunks == (17, 25)
                assert file["scalar"].chunks is None
            assert files() == ["expected.h5", "out.h5"]
            print("good")
    """)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"chunks": None},
        {"chunks": (7, 9)},
        {"chunks": (16, 16), "compression": "lzf", "shuffle": True, "fletcher32": True},
        {"fillvalue": 3.0},
    ],
    ids=str,
)
def test_options_of_datasets(passes, options):
    passes(f"""
        options = {options!r}
        with mpi_dask(nthreads=1) as client:
            to_hdf5("out.h5", {{"x": x, "more": (x + 1).rechunk((100, 60))}}, **options)
            same(saved(), one_process({{"x": whole, "more": whole + 1}}))
            with h5py.File("out.h5") as file:
                for name, value in options.items():
                    assert getattr(file["x"], name) == value
            print("good")
    """)


def test_persisted_blocks_are_used_where_they_are(passes):
    passes("""
        def once(block):
            name = f"computed-{np.atleast_1d(block).flat[0]}"
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))  # fails the second time
            return block

        with mpi_dask(nthreads=1) as client:
            computed = x.map_blocks(once, dtype=float).persist()
            wait(computed)
            before = client.who_has(computed)
            to_hdf5("out.h5", {"x": computed, "doubled": computed * 2})
            same(saved(), one_process({"x": whole, "doubled": whole * 2}))
            if h5py.get_config().mpi:
                assert client.who_has(computed) == before
            print("good")
    """)


def test_more_than_memory(passes):
    passes(
        """
        def big(block_info=None):
            (a, b), (c, d) = block_info[None]["array-location"]
            return np.arange(a, b)[:, None] + np.arange(c, d) / 8.0

        side = 14 * 1024
        y = da.map_blocks(big, chunks=((1024,) * 14, (1024,) * 14), dtype=float)

        def spilled(dask_worker):
            return dask_worker.digests_total.get(("memory", "disk-write", "bytes"), 0)

        with mpi_dask(nthreads=1, memory_limit="700 MiB", dashboard=False) as client:
            to_hdf5("out.h5", {"y": y})  # 1.5 GiB, with two workers
            assert not any(client.run(spilled).values())
            with h5py.File("out.h5") as file:
                for row in range(0, side, 1024):
                    rows = np.arange(row, row + 1024)[:, None]
                    assert (file["y"][row : row + 1024] == rows + np.arange(side) / 8.0).all()
            print("good")
        """,
        ranks=4,
    )


def test_what_mode_a_keeps(passes):
    passes(
        """
        with mpi_dask(nthreads=1) as client:
            to_hdf5("out.h5", {"x": x, "other": x + 1}, compression="gzip")
            with h5py.File("out.h5", "a") as file:
                file["x"].attrs["units"] = "m"
                file.attrs["title"] = "first"
            os.chmod("out.h5", 0o640)
            to_hdf5("out.h5", {"x": x + 2, "new": x}, mode="a")
            same(saved(), one_process({"x": whole + 2, "other": whole + 1, "new": whole}))
            with h5py.File("out.h5") as file:
                assert file["x"].attrs["units"] == "m" and file.attrs["title"] == "first"
                assert file["x"].compression == "gzip" and file["new"].compression is None
            assert os.stat("out.h5").st_mode & 0o777 == 0o640

            for other in x[:10], x.astype("f4"):
                error = error_of("out.h5", {"x": other}, mode="a")
                assert type(error) is TypeError and str(error).startswith("x: "), error
            to_hdf5("fresh.h5", {"x": x}, mode="a")
            same(saved("fresh.h5"), one_process({"x": whole}))
            print("good")
        """,
        files=3,
    )


def test_what_fails_leaves_the_old_file(passes):
    """Whatever it is: a block, a block of another shape, an option, a type."""
    passes(
        """
        def late(block, block_info=None):
            return 1 / 0 if block_info[0]["chunk-location"] == (5, 2) else block

        def short(block, block_info=None):
            return block[:1] if block_info[0]["chunk-location"] == (5, 2) else block

        with mpi_dask(nthreads=1) as client:
            to_hdf5("out.h5", {"x": x})
            old = saved()
            error = error_of("out.h5", {"x": x.map_blocks(late, dtype=float)})
            assert type(error) is ZeroDivisionError, error
            for options in {}, {"compression": "gzip"}:
                error = error_of("out.h5", {"x": x.map_blocks(short, dtype=float)}, **options)
                assert "a block of x has the shape (1, 10), and the" in str(error), error
            error = error_of("out.h5", {"x": x}, compression="nonesuch")
            assert "nonesuch" in str(error), error
            error = error_of("out.h5", {"x": x.astype("U3")})
            assert type(error) is TypeError and str(error).startswith("x: "), error

            same(saved(), old)
            assert files() == ["out.h5"], files()
            to_hdf5("out.h5", {"x": x + 1})
            same(saved(), {"x": whole + 1})
            print("good")
        """,
        files=5,
    )


def test_a_full_disk_leaves_the_old_file(begin, tmp_path):
    """HDF5 can't write beyond a limit. It may crash then, at the latest when its process ends."""
    result = begin("""
        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))

        with mpi_dask(nthreads=1) as client:
            to_hdf5("out.h5", {"x": x})
            client.run(limited)
            error = error_of("out.h5", {"wide": da.ones((2000, 1000), chunks=(200, 1000))})
            assert isinstance(error, (OSError, RuntimeError)), repr(error)
            print("raised")
    """).result()
    assert "raised\n" in result.stdout or "Segmentation fault" in result.stdout + result.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == ["x"]
        assert (file["x"][()] == np.random.default_rng(0).random((100, 60))).all()


def test_what_is_refused(passes):
    passes(
        """
        with mpi_dask(nthreads=1) as client:
            open("table.h5", "w").write("no HDF5")
            os.mkdir("folder.h5")
            for arguments, kind, words in [
                ((".", {"x": x}), MPIDaskError, "it is a directory"),
                (("folder.h5", {"x": x}), MPIDaskError, "it is a directory"),
                (("table.h5", {"x": x}), MPIDaskError, "is not a HDF5 file"),
                (("out.h5", {"x": whole}), TypeError, "to_hdf5 writes dask.array.Array"),
                (("out.h5", {1: x}), TypeError, "the name of a dataset"),
                (("out.h5", {"x": x[x > 0.5]}), ValueError, "compute_chunk_sizes()"),
            ]:
                error = error_of(*arguments)
                assert type(error) is kind and words in str(error), repr(error)
            assert type(error_of("out.h5", {"x": x}, mode="r")) is ValueError
            assert open("table.h5").read() == "no HDF5"
            assert files() == ["folder.h5", "table.h5"]
            print("good")
        """,
        files=0,
    )


def test_asynchronous_clients(passes):
    passes("""
        async def main():
            async with mpi_dask(nthreads=1) as client:
                await to_hdf5("out.h5", {"x": x}, client=client)

        asyncio.run(main())
        same(saved(), one_process({"x": whole}))
        print("good")
    """)


def test_from_a_task(passes):
    passes("""
        from distributed import worker_client

        def step():
            with worker_client() as client:
                to_hdf5("out.h5", {"x": x}, client=client)

        with mpi_dask(nthreads=1) as client:
            client.submit(step).result()
            same(saved(), one_process({"x": whole}))
            print("good")
    """)


@pytest.mark.parametrize(
    "options, ranks, why",
    [
        ("nanny=True", 4, "takes longer: its workers are child processes of nannies"),
        ("", None, "takes longer: there is no MPI job"),
    ],
)
def test_one_process_writes_where_ranks_cant(passes, options, ranks, why):
    program = f"""
        if __name__ == "__main__":
            with mpi_dask(nthreads=1, {options}) as client:
                to_hdf5("out.h5", {{"x": x, "sums": x.sum(axis=0)}}, compression="gzip")
                same(saved(), one_process({{"x": whole, "sums": x.sum(axis=0).compute()}}))
                print("good")
    """
    passes(program, ranks=ranks, alone=True, why=why)


def test_a_local_cluster_of_dasks(begin):
    result = begin(
        """
        if __name__ == "__main__":
            with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
                with Client(cluster):
                    to_hdf5("out.h5", {"x": x})
            same(saved(), one_process({"x": whole}))
            print("good")
        """,
        ranks=None,
    ).result()
    assert (result.status, result.stdout) == (0, "good\n"), result.stderr


@pytest.mark.parametrize("rank", range(4))
def test_a_killed_rank_leaves_the_old_file(begin, tmp_path, rank):
    """In the middle: all blocks of a dataset are written, and one of another never ends."""
    job = begin(
        """
        def slow(block):
            open("started", "w").close()
            time.sleep(600)
            return block

        with mpi_dask(nthreads=1) as client:
            to_hdf5("out.h5", {"x": x})
            from mpidask._gang import hdf5

            hdf5._SHARE = 1e-9  # one block a round
            y = x.map_blocks(slow, meta=np.empty((0, 0)))  # or it is tried here
            to_hdf5("out.h5", {"x": x + 1, "slow": y})
        """,
        ranks=4,
    )
    job.wait_for((tmp_path / "started").exists, "to be in the middle")
    assert len([name for name in os.listdir(tmp_path) if name.endswith("-out.h5")]) == 1
    job.rank(rank).kill()
    assert job.result().status != 0
    whole = np.random.default_rng(0).random((100, 60))
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == ["x"] and (file["x"][()] == whole).all()
