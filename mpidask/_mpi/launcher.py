"""The launcher (mpirun, srun): its environment variables, and whether MPI understands them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NoReturn

from mpidask._errors import MPIDaskError

#: Variables for the number of processes, and for the rank of this one.
_SIZE_AND_RANK = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

#: Variables for the rank among the processes of a node.
_LOCAL_RANK = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")

# Prefixes of the variables by which an MPI library finds its launcher, or a program that it is a
# rank. What users set to tune MPI, also by `mpirun --mca`, is not among them.

#: MPICH's and Intel's Hydra, and whatever else speaks PMI.
_PMI = """
    PMI_ PMI2_ HYDI_ MPI_LOCAL MPIR_CVAR_CH3_INTERFACE_HOSTNAME PALS_
    HYDRA_BSTRAP_ HYDRA_IP_VERSION HYDRA_LAUNCH_TYPE
"""
_OPEN_MPI = """
    OMPI_APP_CTX OMPI_ARGV OMPI_COMMAND OMPI_COMM_WORLD_ OMPI_FILE_LOCATION OMPI_FIRST_RANKS
    OMPI_NUM_APP_CTX OMPI_UNIVERSE_SIZE OMPI_WORLD_ OMPI_MCA_initial_wdir OMPI_MCA_num_procs
    PMIX_ PRTE_LAUNCHED
"""
_OPEN_MPI_4 = """
    OMPI_MCA_ess_base_ OMPI_MCA_orte_app_num OMPI_MCA_orte_base_applied_binding
    OMPI_MCA_orte_bound_at_launch OMPI_MCA_orte_ess_ OMPI_MCA_orte_hnp_uri
    OMPI_MCA_orte_jobfam_session_dir OMPI_MCA_orte_launch OMPI_MCA_orte_local_daemon
    OMPI_MCA_orte_num_ OMPI_MCA_orte_parent_uri OMPI_MCA_orte_precondition_transports
    OMPI_MCA_orte_top_session_dir OMPI_MCA_shmem_RUNTIME_QUERY_hint
"""
_SRUN = """
    SLURM_STEP SLURM_PROCID SLURM_LOCALID SLURM_NODEID SLURM_GTIDS
    SLURM_SRUN_COMM_ SLURM_PMI SLURM_MPI
"""
_LAUNCHER_PREFIXES = tuple((_PMI + _OPEN_MPI + _OPEN_MPI_4 + _SRUN).split())
_LAUNCHER_VARIABLES = frozenset({"OMPI_MCA_ess", "OMPI_MCA_pmix", "OMPI_MCA_mpi_oversubscribe"})
#: Exceptions: users set these.
_USER_PREFIXES = ("PMIX_MCA_", "PMIX_PREFIX")

#: Programs that start ranks, and their daemons on each node.
_COMMANDS = ("mpirun", "mpiexec", "orterun", "prterun", "prte", "srun", "jsrun", "aprun", "palsd")
_DAEMONS = ("hydra_pmi_proxy", "orted", "prted", "slurmstepd")

#: Variables that `hidden_from_children` has removed.
_hidden: dict[str, str] = {}

#: Whether this process was started by Open MPI's launcher, which forwards every signal as SIGTERM.
BY_OPEN_MPI = "OMPI_COMM_WORLD_SIZE" in os.environ


def variable(name: str) -> str | None:
    """Return the value of a launcher's variable, even while it is hidden from children."""
    return os.environ.get(name, _hidden.get(name))


def rank() -> int:
    """Return the rank of this process in COMM_WORLD; 0 without a launcher."""
    found = (variable(name) or "" for _, name in _SIZE_AND_RANK)
    return next((int(rank) for rank in found if rank.isdecimal()), 0)


def size() -> int:
    """Return the number of processes; 1 without a launcher."""
    return max((int(size) for size in size_variables().values() if size.isdecimal()), default=1)


def size_variables() -> dict[str, str]:
    """Return the variables in which the launcher has put the number of processes."""
    values = {name: variable(name) for name, _ in _SIZE_AND_RANK}
    return {name: value for name, value in values.items() if value is not None}


def reports_early() -> bool:
    """Whether this process reports problems before the ranks can communicate.

    One on each node does, as do ranks 0 and 1: one of them may be the missing rank.
    """
    local = (value for name in _LOCAL_RANK if (value := variable(name)) is not None)
    return rank() < 2 or next(local, "0") == "0"


def command() -> str | None:
    """Return the path of the launcher that started this process, if it can be found."""
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
    """Whether launchers set this environment variable for their ranks."""
    known = name.startswith(_LAUNCHER_PREFIXES) or name in _LAUNCHER_VARIABLES
    return known and not name.startswith(_USER_PREFIXES)


@contextlib.contextmanager
def hidden_from_children() -> Iterator[None]:
    """Remove the launcher's variables, for the sake of child processes, once MPI is initialised.

    A child is not a rank: its MPI library would fail, hang, or pose as the parent. Without these
    variables the child is an MPI job of one process, and may start others.
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


# -- An MPI library that the launcher can't connect. ----------------------------------


def library() -> str:
    """Name the MPI library that mpi4py uses."""
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def refuse_other_mpi() -> None:
    """Raise `MPIDaskError` if `MPI_Init` would fail, or make each rank a separate job.

    MPICH would end the process, and Open MPI print warnings on all ranks.
    """
    from mpi4py import MPI

    version = MPI.Get_library_version()
    pmix = variable("PMIX_NAMESPACE") is not None
    hydra = variable("HYDI_CONTROL_FD") is not None
    mpich_needs_pmi = version.startswith("MPICH") and "pmix" not in version.lower()
    open_mpi = version.startswith("Open MPI")  # its mpirun and Slurm speak PMIx, Hydra does not
    if (mpich_needs_pmi and pmix and not hydra) or (open_mpi and hydra and not pmix):
        _refuse(f"mpi4py uses {library()}, which this launcher can't connect")


def refuse_if_several(found: str) -> None:
    """Raise `MPIDaskError` if there are several processes, given what MPI is that sees one."""
    if size() > 1:
        _refuse(f"MPI sees one: {found}")


def _refuse(but: str) -> NoReturn:
    if rank() > 0:
        # The ranks can't communicate. Rank 0 reports; some launchers end the job with the first
        # process that exits.
        time.sleep(5)
        raise SystemExit(1)
    number = size()
    found = [f"{name}={value}" for name, value in size_variables().items()]
    by = ", ".join(filter(None, [command(), *found]))
    raise MPIDaskError(
        f"the launcher started {number} process{'es' * (number > 1)} ({by}), but {but}. Start the "
        "job with the mpirun of the MPI that mpi4py was built for (python -m mpi4py --mpi-library "
        "shows which), or, under srun, choose the right --mpi= plugin"
    )
