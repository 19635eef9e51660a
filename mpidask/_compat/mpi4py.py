"""Private API of mpi4py, and what it takes to call MPI itself by ctypes."""

from __future__ import annotations

import ctypes
from types import FrameType
from typing import TYPE_CHECKING

from mpidask._compat.check import require

if TYPE_CHECKING:
    from mpi4py import MPI


def handle_of(request: MPI.Request) -> ctypes.c_int | ctypes.c_void_p:
    """Return the C handle of a request, in the request's own memory.

    mpi4py has it in public as a number only (``request.handle``, since 4.0), to which MPI could
    not write.
    """
    from mpi4py import MPI

    require("mpi4py.MPI:_addressof", "mpi4py.MPI:_sizeof")
    # A number with MPICH, a pointer with Open MPI.
    kind = ctypes.c_int if MPI._sizeof(MPI.Request) == 4 else ctypes.c_void_p
    return kind.from_address(MPI._addressof(request))


def decides_on_abort(caller: FrameType) -> bool:
    """Whether ``python -m mpi4py`` reads an exit status, to abort the job unless it is 0."""
    return caller.f_code.co_name == "set_abort_status"
