"""Turn an MPI job into a Dask cluster for one function, one block or one script.

>>> from mpidask import mpi_dask_main
>>> @mpi_dask_main
... def main(client):
...     return client.submit(sum, range(10)).result()

Importing this package starts nothing: MPI is initialised, and distributed is
imported, only when you ask for a cluster.
"""

import sys as _sys

try:
    from mpidask._api import join_existing, mpi_dask, mpi_dask_main
except KeyboardInterrupt:  # of a job, which would show a traceback on every rank
    if hasattr(_sys, "ps1"):
        raise
    raise SystemExit(130) from None
from mpidask._broadcast.broadcast import Broadcast, broadcast
from mpidask._compat.python import is_import_statement as _is_import_statement
from mpidask._dask.scheduler_file import connection
from mpidask._errors import (
    MPIDaskError,
    MPITaskError,
    NotEnoughRanksError,
    SchedulerFileError,
    StartupError,
)
from mpidask._gang.distributed_array import DistributedArray
from mpidask._gang.hdf5 import to_hdf5
from mpidask._gang.submit import PerRank, submit_mpi

__all__ = [
    "Broadcast",
    "DistributedArray",
    "MPIDaskError",
    "MPITaskError",
    "NotEnoughRanksError",
    "PerRank",
    "SchedulerFileError",
    "Shared",
    "StartupError",
    "__version__",
    "broadcast",
    "connection",
    "join_existing",
    "mpi_dask",
    "mpi_dask_main",
    "submit_mpi",
    "to_hdf5",
]

#: Another name of `DistributedArray`.
Shared = DistributedArray

#: The version of this package.
__version__ = "0.1.0"

_IN_DASK_MPI = {
    "initialize": "write 'with mpi_dask() as client:', or run python -m mpidask script.py",
    "execute": "decorate the function with @mpi_dask_main",
    "send_close_signal": "leave it out, the end of the block is the end of the cluster",
    "WorldTooSmallException": "it is NotEnoughRanksError here",
}


def __getattr__(name: str) -> object:
    if name in _IN_DASK_MPI:
        hint = f"{name} belongs to dask-mpi, not mpidask: {_IN_DASK_MPI[name]}"
        # `from mpidask import initialize` asks first whether there is one, and would make its
        # own ImportError, without the hint, of an AttributeError.
        raise (ImportError if _is_import_statement(_sys._getframe(1)) else AttributeError)(hint)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
