"""What the launcher (mpirun, srun) tells its processes: of how many ranks they are one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from mpidask._errors import MPIDaskError
from mpidask._mpi.initialize import import_mpi
from mpidask._waiting import Deadline

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

#: Starts of the variables by which an MPI library knows its launcher, or a program that it is a
#: rank. What users set to tune MPI, `mpirun --mca` too, is not among them.
_LAUNCHERS = (
    # MPICH's and Intel's Hydra, and whatever else speaks PMI
    *("PMI_", "PMI2_", "HYDI_", "MPI_LOCAL", "MPIR_CVAR_CH3_INTERFACE_HOSTNAME", "PALS_"),
    *("HYDRA_BSTRAP_", "HYDRA_IP_VERSION", "HYDRA_LAUNCH_TYPE"),
    # Open MPI
    *("OMPI_APP_CTX", "OMPI_ARGV", "OMPI_COMMAND", "OMPI_COMM_WORLD_", "OMPI_FILE_LOCATION"),
    *("OMPI_FIRST_RANKS", "OMPI_NUM_APP_CTX", "OMPI_UNIVERSE_SIZE", "OMPI_WORLD_"),
    *("OMPI_MCA_initial_wdir", "OMPI_MCA_num_procs", "PMIX_", "PRTE_LAUNCHED"),
    # Open MPI 4
    *("OMPI_MCA_ess_base_", "OMPI_MCA_orte_app_num", "OMPI_MCA_orte_base_applied_binding"),
    *("OMPI_MCA_orte_bound_at_launch", "OMPI_MCA_orte_ess_", "OMPI_MCA_orte_hnp_uri"),
    *("OMPI_MCA_orte_jobfam_session_dir", "OMPI_MCA_orte_launch", "OMPI_MCA_orte_local_daemon"),
    *("OMPI_MCA_orte_num_", "OMPI_MCA_orte_parent_uri", "OMPI_MCA_orte_precondition_transports"),
    *("OMPI_MCA_orte_top_session_dir", "OMPI_MCA_shmem_RUNTIME_QUERY_hint"),
    # Slurm's srun
    *("SLURM_STEP", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS"),
    *("SLURM_SRUN_COMM_", "SLURM_PMI", "SLURM_MPI"),
)
_LAUNCHERS_EXACTLY = frozenset({"OMPI_MCA_ess", "OMPI_MCA_pmix", "OMPI_MCA_mpi_oversubscribe"})
#: Those of them that users set.
_USERS = ("PMIX_MCA_", "PMIX_PREFIX")

#: The programs that start ranks, and those that do it for them on each node.
_COMMANDS = ("mpirun", "mpiexec", "orterun", "prterun", "prte", "srun", "jsrun", "aprun", "palsd")
_DAEMONS = ("hydra_pmi_proxy", "orted", "prted", "slurmstepd")

#: What is hidden from children, and of what this module still tells.
_hidden: dict[str, str] = {}


def _told(name: str) -> str | None:
    return os.environ.get(name, _hidden.get(name))


#: Whether Open MPI's launcher has started this process, which makes SIGTERM of every signal that
#: it passes on.
BY_OPEN_MPI = "OMPI_COMM_WORLD_SIZE" in os.environ


def rank() -> int:
    """Tell which process of the launcher's this one is: its rank in COMM_WORLD."""
    found = (_told(name) or "" for _, name in _SIZE_AND_RANK)
    return next((int(rank) for rank in found if rank.isdecimal()), 0)


def size() -> int:
    """Tell how many processes the launcher says there are; 1 without a launcher."""
    return max((int(size) for size in size_variables().values() if size.isdecimal()), default=1)


def size_variables() -> dict[str, str]:
    """Give the variables with which the launcher tells this process of how many it is one."""
    told = {name: _told(name) for name, _ in _SIZE_AND_RANK}
    return {name: value for name, value in told.items() if value is not None}


def speaks_early() -> bool:
    """Tell whether this process speaks for others while they can't agree who does.

    One on each node does, and ranks 0 and 1, of which one may be the rank that is missing.
    """
    local = (value for name in _LOCAL_RANK if (value := _told(name)) is not None)
    return rank() < 2 or next(local, "0") == "0"


def command() -> str | None:
    """Give the path of the program that started this process as a rank, if it can be found."""
    import psutil

    found: dict[str, str] = {}
    for process in psutil.Process().parents():
        try:
            name = process.name()
            found.setdefault(name, process.exe())
        except psutil.AccessDenied:
            found.setdefault(name, name)
        except psutil.NoSuchProcess:
            break
    for names in (_COMMANDS, _DAEMONS):
        if path := next((path for name, path in found.items() if name.startswith(names)), None):
            return path
    return None


def is_launchers(name: str) -> bool:
    """Tell whether launchers set this variable to tell a process that it is a rank."""
    told = name.startswith(_LAUNCHERS) or name in _LAUNCHERS_EXACTLY
    return told and not name.startswith(_USERS)


@contextlib.contextmanager
def hidden_from_children() -> Iterator[None]:
    """Hide the launcher from the processes that this one starts, once MPI is up.

    A child is no rank: an MPI library in it that tried to be one would fail, or hang, or be
    taken for its parent. Without these variables it is an MPI job of its own, of one process,
    and may start others. MPI itself has read them.
    """
    hidden = {name: value for name, value in os.environ.items() if is_launchers(name)}
    _hidden.update(hidden)
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
        _hidden.clear()


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
        import_mpi(rank(), deadline, speaks=speaks_early(), before_init=_refuse_other_mpi)
        from mpi4py import MPI
    except MPIDaskError:
        raise
    except (ImportError, RuntimeError) as error:  # not installed, or finds no MPI library
        _raise_if_launched_as_several(f"mpi4py can't be used ({error})")
        return None
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise MPIDaskError(
            "MPI is not initialised (mpi4py.rc.initialize is off), or was finalised already"
        )
    if MPI.COMM_WORLD.Get_size() == 1:
        _raise_if_launched_as_several(f"mpi4py uses {_library()}")
    return MPI.COMM_WORLD if alone or MPI.COMM_WORLD.Get_size() > 1 else None


def require_threads() -> None:
    """Raise `MPIDaskError` if several threads can't call MPI at once."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise MPIDaskError(
            "MPI was not initialised for several threads, and mpidask talks to the other ranks "
            "from a thread of its own, at any time: leave mpi4py.rc.thread_level at its default "
            "'multiple'"
        )


def _library() -> str:
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def _refuse_other_mpi() -> None:
    """Raise `MPIDaskError` if `MPI_Init` would fail, or make each rank a job of its own.

    MPICH then ends the process with words of its own; and Open MPI's warn on all ranks.
    """
    from mpi4py import MPI

    library, pmix = MPI.Get_library_version(), _told("PMIX_NAMESPACE") is not None
    hydra = _told("HYDI_CONTROL_FD") is not None
    mpich_needs_pmi = library.startswith("MPICH") and "pmix" not in library.lower()
    open_mpi = library.startswith("Open MPI")  # its mpirun and Slurm speak PMIx, Hydra does not
    if (mpich_needs_pmi and pmix and not hydra) or (open_mpi and hydra and not pmix):
        _refuse(f"mpi4py uses {_library()}, which this launcher can't connect")


def _raise_if_launched_as_several(found: str) -> None:
    if size() > 1:
        _refuse(f"MPI sees one: {found}")


def _refuse(but: str) -> NoReturn:
    if rank() > 0:
        # Each process is alone and can't ask the others. The first one speaks; some
        # launchers end the job with the first process that leaves.
        time.sleep(5)
        raise SystemExit(1)
    found = [f"{name}={value}" for name, value in size_variables().items()]
    by = ", ".join(filter(None, [command(), *found]))
    raise MPIDaskError(
        f"the launcher started {_counted(size())} ({by}), but {but}. Start the job with the "
        "mpirun of the MPI that mpi4py was built for (python -m mpi4py --mpi-library shows "
        "which), or, under srun, choose the right --mpi= plugin"
    )


def _counted(processes: int) -> str:
    return f"{processes} process" + "es" * (processes > 1)
