"""The private API of mpi4py behaves as `_compat.mpi4py` expects."""

from __future__ import annotations

import ctypes

import pytest

pytestmark = pytest.mark.loads_mpi


def test_handle_of():
    from mpi4py import MPI

    from mpidask._compat.mpi4py import handle_of

    request = MPI.Request()
    handle = handle_of(request)
    assert ctypes.sizeof(handle) == MPI._sizeof(MPI.Request)
    assert ctypes.addressof(handle) == MPI._addressof(request)
