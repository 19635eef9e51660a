"""The private API of mpi4py behaves as `_compat.mpi4py` expects."""

from __future__ import annotations

import ctypes
import inspect
import sys

import pytest

pytestmark = pytest.mark.loads_mpi


def test_handle_of():
    from mpi4py import MPI

    from mpidask._compat.mpi4py import handle_of

    request = MPI.Request()
    handle = handle_of(request)
    assert ctypes.sizeof(handle) == MPI._sizeof(MPI.Request)
    assert ctypes.addressof(handle) == MPI._addressof(request)


def test_decides_on_abort():
    from mpi4py import run

    from mpidask._compat.mpi4py import decides_on_abort

    assert ".code" in inspect.getsource(run.set_abort_status)
    assert not decides_on_abort(sys._getframe())
