"""What one process knows of its machine, its software and its options."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpidask._dask.system import cpu_quota, memory_limit
from mpidask._mpi import launcher
from mpidask._options import Options
from mpidask._placement.node import Node, interfaces, this_node

_PACKAGES = (
    *("mpidask", "dask", "distributed", "mpi4py", "wrapt", "cloudpickle", "tornado"),
    *("numpy", "pandas", "bokeh"),
)

#: A variable of each batch system that is set in its jobs.
_BATCH_SYSTEMS = {"SLURM_JOB_ID": "Slurm", "PBS_JOBID": "PBS", "LSB_JOBID": "LSF"}

#: Starts of the variables by which users tune MPI; of others, launchers' or keys, none is shown.
_TUNING = (
    "MPI4PY_RC_",
    *("MPICH_", "MPIR_CVAR_", "UCX_"),
    *(f"FI_{name}" for name in ("PROVIDER", "LOG_", "TCP_", "SOCKETS_", "VERBS_", "CXI_", "EFA_")),
    *(
        f"I_MPI_{name}"
        for name in ("ADJUST", "ASYNC", "DEBUG", "FABRICS", "OFI_", "PIN", "PMI_LIB")
    ),
    *(f"I_MPI_{name}" for name in ("HYDRA_BOOTSTRAP", "HYDRA_IFACE", "SHM", "THREAD")),
    *(
        f"OMPI_MCA_{name}"
        for name in ("btl", "coll", "hwloc_", "io", "mpi_", "mtl", "opal_", "osc", "plm", "pml")
    ),
    *("OMPI_MCA_rmaps_", "OMPI_MCA_oob_", "OMPI_MCA_orte_base_help_aggregate"),
    *(f"PRTE_MCA_{name}" for name in ("hwloc_", "oob_", "plm", "ras", "rmaps_")),
    *("PMIX_MCA_gds", "PMIX_MCA_psec", "SLURM_MPI_TYPE"),
)


@dataclass(frozen=True)
class Facts:
    """What one process knows.

    Attributes
    ----------
    node : Node
        Its machine.
    memory : int
        Bytes that the ranks of its machine may use together.
    networks : tuple of str
        Its interfaces with their addresses, such as ``"ib0 10.1.0.7/16"``.
    software : mapping of str to str
        What should be the same on all ranks: versions, the interpreter, the options.
    launched : str
        What the launcher and the batch system tell.
    tuning : str
        Environment variables that change how MPI works.
    problem : str, optional
        What is wrong with the options.
    startup_timeout : float
        Seconds that the options allow for the start.
    """

    node: Node
    memory: int
    networks: tuple[str, ...]
    software: Mapping[str, str]
    launched: str
    tuning: str
    problem: str | None = None
    startup_timeout: float = float("inf")


def facts_of_this_process(
    given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Facts:
    """Look at this process, without MPI."""
    from distributed.utils import get_ip_interface

    problem, timeout = None, float("inf")
    try:
        options = Options.resolve(given, defaults)
        timeout = options.startup_timeout
        if options.interface is not None:
            get_ip_interface(options.interface)
    except (TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Facts(
        node=this_node(cpu_quota()),
        memory=memory_limit(),
        networks=tuple(f"{name} {address}" for name, address in interfaces()),
        software={
            "versions": _versions(),
            "system": platform.platform(),
            "python": sys.executable,
            "options": _options(given),
        },
        launched=_launched(),
        tuning=_tuning(),
        problem=problem,
        startup_timeout=timeout,
    )


def mpi_library() -> str:
    """Name the MPI library, which has been initialised."""
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    standard = ".".join(map(str, MPI.Get_version()))
    return (
        f"{vendor} {'.'.join(map(str, version))}, MPI {standard}, "
        f"thread level {levels[MPI.Query_thread()]}"
    )


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _options(given: Mapping[str, Any]) -> str:
    import dask

    configured = dask.config.get("mpidask", None)
    return _shown(given) + (f"; in Dask's configuration: {configured}" if configured else "")


def _launched() -> str:
    told = _shown(launcher.size_variables())
    batch = [name for variable, name in _BATCH_SYSTEMS.items() if variable in os.environ]
    command = launcher.command()
    by = f"; started by {command}" if command else ""
    return f"{told}; batch system: {', '.join(batch) or 'none'}{by}"


def _tuning() -> str:
    names = (name for name in os.environ if name.startswith(_TUNING))
    return _shown({name: os.environ[name] for name in names if not launcher.is_launchers(name)})


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"
