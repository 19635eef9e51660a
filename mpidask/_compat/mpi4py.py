"""Private API of mpi4py, and what it takes to call MPI itself by ctypes."""

from __future__ import annotations

import ctypes

from mpi4py import MPI

from mpidask._compat.check import require

require("mpi4py.MPI:_addressof", "mpi4py.MPI:_sizeof")

#: A request in C: a number with MPICH, a pointer with Open MPI.
_HANDLE = ctypes.c_int if MPI._sizeof(MPI.Request) == 4 else ctypes.c_void_p


def handle_of(request: MPI.Request) -> ctypes.c_int | ctypes.c_void_p:
    """Return the C handle of a request, in the request's own memory.

    mpi4py has it in public as a number only (``request.handle``, since 4.0), to which MPI could
    not write.
    """
    return _HANDLE.from_address(MPI._addressof(request))
