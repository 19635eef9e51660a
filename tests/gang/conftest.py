"""Programs whose functions run on several ranks."""

from __future__ import annotations

import textwrap

import pytest

#: What the programs share.
PRELUDE = """
import contextlib, os, threading, time
import numpy as np
import mpidask
from distributed import Client, as_completed, get_client, wait
from mpidask import MPITaskError, PerRank, mpi_dask, mpi_dask_main, submit_mpi

def total(comm, x=1):
    "The result is right on each rank only if all of them take part"
    return comm.allreduce(x)

def where(comm):
    from mpi4py import MPI
    return MPI.COMM_WORLD.rank

def stays(comm, path, function=None):
    "Wait in Python until a file exists; then go on"
    print_once(path + "-started")
    while not os.path.exists(path):
        time.sleep(0.01)
    return total(comm) if function is None else function(comm)

def print_once(path):
    open(path, "a").close()

def print_once_when_said(path, text):
    "Create a file when mpidask logs a text on this rank, which still goes to stderr"
    import logging, sys

    class Telling(logging.StreamHandler):
        def emit(self, record):
            super().emit(record)
            if text in record.getMessage():
                print_once(path)

    logging.getLogger("mpidask").addHandler(Telling(sys.stderr))

def until(condition, what=""):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)

def exists(path):
    return lambda: os.path.exists(path)

def error_of(future):
    "The MPITaskError of a future"
    error = future.exception(timeout=60)
    assert isinstance(error, MPITaskError), repr(error)
    return error

def address_of(client, rank):
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return next(address for address, worker in workers.items() if worker["mpidask-rank"] == rank)

def close_soon(dask_worker):
    dask_worker.loop.call_later(0.1, lambda: dask_worker.loop.add_callback(dask_worker.close))

def works(client, ranks=None):
    "Gangs work, on all ranks"
    futures = submit_mpi(total, ranks=ranks, client=client)
    assert client.gather(futures) == [len(futures)] * len(futures)
"""

LIMIT = 150


def indented(program: str) -> str:
    return PRELUDE + textwrap.dedent(program)


@pytest.fixture
def begin(start):
    """Start a program, with what they share."""
    return lambda program, *args, **kwargs: start(indented(program), *args, limit=LIMIT, **kwargs)


@pytest.fixture
def passes(begin):
    """Run a program that must succeed, and log nothing but the one line."""

    def passes(program, *args, ranks=4, lines=1, **kwargs):
        result = begin(program, *args, ranks=ranks, **kwargs).result()
        assert result.status == 0, result.stderr
        assert result.stdout.splitlines() == ["good"], result.stdout + result.stderr
        assert len(result.messages) == lines, result.stderr
        return result

    return passes


@pytest.fixture
def fails(begin):
    """Run a program that must end with an error, and return its result."""

    def fails(program, *args, ranks=4, **kwargs):
        result = begin(program, *args, ranks=ranks, **kwargs).result()
        assert result.status not in (0, None), result.stdout + result.stderr
        return result

    return fails
