"""Turn an MPI job into a Dask cluster for one function, one block or one script.

>>> from mpidask import mpi_dask_main
>>> @mpi_dask_main
... def main(client):
...     return client.submit(sum, range(10)).result()

Importing this package starts nothing: MPI is initialised, and distributed is
imported, when a cluster is asked for.
"""

from mpidask._api import join_existing, mpi_dask, mpi_dask_main
from mpidask._errors import MPIDaskError, NotEnoughRanksError, SchedulerFileError, StartupError
from mpidask._scheduler_file import connection

__all__ = [
    "MPIDaskError",
    "NotEnoughRanksError",
    "SchedulerFileError",
    "StartupError",
    "__version__",
    "connection",
    "join_existing",
    "mpi_dask",
    "mpi_dask_main",
]

__version__ = "0.1.0"
