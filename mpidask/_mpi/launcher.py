"""Rank, size and more, read from the environment that the launcher (mpirun, srun) sets up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

#: Variables for the number of processes, and for the rank of this one.
_SIZE_AND_RANK = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

#: Variables for the rank among the processes of a node.
_LOCAL_RANK = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")

#: Prefixes of the variables by which an MPI library finds its launcher, or a program that it is a
#: rank. What users set to tune MPI, also by `mpirun --mca`, is not among them.
_LAUNCHER_PREFIXES = (
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
