"""What the launcher (mpirun, srun) tells its processes: of how many ranks they are one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpidask._errors import MPIDaskError
from mpidask._mpi.deadline import Deadline
from mpidask._mpi.initialize import import_mpi

if TYPE_CHECKING:
    from mpi4py import MPI

#: Variables with which launchers tell a process how many it is one of, and which.
_SIZE_AND_RANK = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

#: Variables with which they tell it which it is of those on its node.
_LOCAL_RANK = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")

#: Starts of all variables by which an MPI library knows its launcher.
_VARIABLES = (
    "PMI_",
    "PMI2_",
    "PMIX_",
    "OMPI_COMM_WORLD_",
    "OMPI_APP_CTX",
    "OMPI_FIRST_RANKS",
    "OMPI_NUM_APP_CTX",
    "OMPI_UNIVERSE_SIZE",
    "PRTE_LAUNCHED",
    "HYDI_",
    "MPI_LOCAL",
    "PALS_",
    "SLURM_STEP",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_PMI",
    "SLURM_MPI",
)


#: Whether Open MPI's launcher has started this process, which makes SIGTERM of every signal that
#: it passes on.
BY_OPEN_MPI = "OMPI_COMM_WORLD_SIZE" in os.environ


def rank() -> int:
    """Tell which process of the launcher's this one is: its rank in COMM_WORLD."""
    found = (os.environ.get(name, "") for _, name in _SIZE_AND_RANK)
    return next((int(rank) for rank in found if rank.isdecimal()), 0)


def size() -> int:
    """Tell how many processes the launcher says there are; 1 without a launcher."""
    return max((int(size) for size in size_variables().values() if size.isdecimal()), default=1)


def size_variables() -> dict[str, str]:
    """Give the variables with which the launcher tells this process of how many it is one."""
    return {name: os.environ[name] for name, _ in _SIZE_AND_RANK if name in os.environ}


def speaks_early() -> bool:
    """Tell whether this process speaks for others while they can't agree who does.

    One on each node does, and ranks 0 and 1, of which one may be the rank that is missing.
    """
    local = (os.environ[name] for name in _LOCAL_RANK if name in os.environ)
    return rank() < 2 or next(local, "0") == "0"


@contextlib.contextmanager
def hidden_from_children() -> Iterator[None]:
    """Hide the launcher from the processes that this one starts.

    A nanny's child is no rank: an MPI library in it that tried to be one would fail, or
    hang. Without these variables it is an MPI job of its own, of one process.
    """
    hidden = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def communicator(
    deadline: Deadline, given: Any = None, *, alone: bool = False
) -> MPI.Intracomm | None:
    """Give the communicator to use, or None where there is no MPI job.

    Parameters
    ----------
    deadline : Deadline
        How long MPI may wait for other ranks to come up.
    given : mpi4py.MPI.Intracomm, optional
        The user's choice; default: COMM_WORLD.
    alone : bool
        Whether one rank is a job, too.

    Raises
    ------
    MPIDaskError
        If the launcher started several processes, but MPI does not connect them.
    """
    if given is not None:
        return given if given.Get_size() > 1 or alone else None
    try:
        import_mpi(rank(), deadline, speaks=speaks_early())
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # not installed, or finds no MPI library
        _raise_if_launched_as_several(f"mpi4py can't be used ({error})")
        return None
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise MPIDaskError(
            "MPI is not initialised (mpi4py.rc.initialize is off), or was finalised already"
        )
    if MPI.COMM_WORLD.Get_size() > 1:
        return MPI.COMM_WORLD
    name, version = MPI.get_vendor()
    _raise_if_launched_as_several(f"mpi4py uses {name} {'.'.join(map(str, version))}")
    return MPI.COMM_WORLD if alone else None


def require_threads() -> None:
    """Raise `MPIDaskError` if MPI can't be used from a thread."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise MPIDaskError(
            "MPI was initialised for one thread only, and mpidask talks to the other ranks "
            "from a thread of its own: leave mpi4py.rc.thread_level at its default 'multiple'"
        )


def allows_threads() -> bool:
    """Tell whether several threads may call MPI at once."""
    from mpi4py import MPI

    return bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)


def _raise_if_launched_as_several(found: str) -> None:
    for size_name, rank_name in _SIZE_AND_RANK:
        with contextlib.suppress(ValueError):
            size = int(os.environ.get(size_name, "1"))
            if size > 1 and int(os.environ.get(rank_name, "0")) > 0:
                # Each process is alone and can't ask the others. The first one speaks;
                # some launchers end the job with the first process that leaves.
                time.sleep(5)
                raise SystemExit(1)
            if size > 1:
                raise MPIDaskError(
                    f"the launcher started {size} processes ({size_name}={size}), but MPI "
                    f"sees one: {found}. Start the job with the mpirun of the MPI that "
                    "mpi4py was built for (python -m mpi4py --mpi-library shows which), "
                    "or, under srun, choose the right --mpi= plugin"
                )
