"""What a job looks like from inside, as text to paste into a problem report.

Rank 0 prints what it knows without the others first, so that there is something to read even if MPI
does not come up; then what all ranks know.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from mpidask._compat.distributed import cpu_quota
from mpidask._dask.memory import memory_limit
from mpidask._errors import MPIDaskError
from mpidask._log import logging_to_stderr
from mpidask._mpi import job_exit, launcher
from mpidask._mpi.collectives import arrive
from mpidask._mpi.communicator import TO_LEADER
from mpidask._mpi.initialize import communicator
from mpidask._options import Options
from mpidask._placement.node import Node, interfaces, scheduler_host, this_node
from mpidask._text import count, describe, name_rank
from mpidask._waiting import Deadline

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds to wait for other ranks at most; a shorter `startup_timeout` is kept.
_TIMEOUT = 60.0
_PACKAGES = (
    *("mpidask", "dask", "distributed", "mpi4py", "wrapt", "cloudpickle", "tornado"),
    *("numpy", "pandas", "bokeh"),
)

#: A variable that each batch system sets in its jobs.
_BATCH_SYSTEMS = {"SLURM_JOB_ID": "Slurm", "PBS_JOBID": "PBS", "LSB_JOBID": "LSF"}

#: Prefixes of the variables with which users tune MPI. Others, perhaps keys, are not shown.
_TUNING = """
    MPI4PY_RC_ MPICH_ MPIR_CVAR_ UCX_
    FI_PROVIDER FI_LOG_ FI_TCP_ FI_SOCKETS_ FI_VERBS_ FI_CXI_ FI_EFA_
    I_MPI_ADJUST I_MPI_ASYNC I_MPI_DEBUG I_MPI_FABRICS I_MPI_OFI_ I_MPI_PIN I_MPI_PMI_LIB
    I_MPI_HYDRA_BOOTSTRAP I_MPI_HYDRA_IFACE I_MPI_SHM I_MPI_THREAD
    OMPI_MCA_btl OMPI_MCA_coll OMPI_MCA_hwloc_ OMPI_MCA_io OMPI_MCA_mpi_ OMPI_MCA_mtl
    OMPI_MCA_opal_ OMPI_MCA_osc OMPI_MCA_plm OMPI_MCA_pml
    OMPI_MCA_rmaps_ OMPI_MCA_oob_ OMPI_MCA_orte_base_help_aggregate
    PRTE_MCA_hwloc_ PRTE_MCA_oob_ PRTE_MCA_plm PRTE_MCA_ras PRTE_MCA_rmaps_
    PMIX_MCA_gds PMIX_MCA_psec SLURM_MPI_TYPE
"""


def diagnose(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> int:
    """Print what this job looks like, and return the exit status: 1 if something is wrong.

    All ranks call it, with the options of the command line and the command's own defaults; rank 0
    prints.
    """
    own = facts_of_this_process(given, defaults)
    if launcher.rank() == 0:
        print(of_process(own), flush=True)
    try:
        with logging_to_stderr():
            found, size = _gathered(own, Deadline(min(_TIMEOUT, own.startup_timeout)))
    except MPIDaskError as error:
        if launcher.rank() == 0:
            print(f"problem      {own.problem or error}", flush=True)
        return 1
    if found:
        print(of_job(found, size, mpi_library()), flush=True)
    problem = own.problem or any(facts.problem for facts in found.values())
    return 1 if problem or len(found) < size else 0


def _gathered(own: Facts, deadline: Deadline) -> tuple[dict[int, Facts], int]:
    """Return, on rank 0, what the ranks know, and how many ranks there are."""
    comm = communicator(deadline, alone=True)
    if comm is None:
        raise MPIDaskError(f"mpi4py can't be used: {_why_not()}")
    return asyncio.run(_collected(comm, own, deadline))


def _why_not() -> str:
    try:
        import mpi4py.MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:  # not installed, or finds no MPI library
        return describe(error)
    return "MPI did not start"


async def _collected(
    comm: MPI.Intracomm, own: Facts, deadline: Deadline
) -> tuple[dict[int, Facts], int]:
    members = await arrive(comm, deadline, reporter=0)
    if members is None:  # rank 0 says who is missing
        return {}, 0
    if members.rank != 0:
        members.send(0, TO_LEADER, own)
        await members.flush()
        return {}, 0
    found = {0: own}
    with contextlib.suppress(asyncio.TimeoutError):
        while len(found) < members.size:
            rank, facts = await asyncio.wait_for(members.receive(TO_LEADER), deadline.left)
            found[rank] = facts
    if len(found) < members.size:  # else the end would wait for the others
        job_exit.abort_at_exit(1)
    return found, members.size


# -- What one process knows. ------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What one process knows."""

    node: Node
    memory: int  # bytes that the ranks of its machine may use together
    networks: tuple[str, ...]  # interfaces with addresses, such as "ib0 10.1.0.7/16"
    software: Mapping[str, str]  # should be the same on all ranks: versions, options and so on
    launched: str  # what the launcher and the batch system report
    tuning: str  # environment variables that tune MPI
    import_time: float  # seconds from the start of the process until Dask was imported
    problem: str | None = None  # what is wrong with the options
    startup_timeout: float = float("inf")


def facts_of_this_process(
    given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Facts:
    """Examine this process, without MPI."""
    from distributed.utils import get_ip_interface

    imported = _age()
    problem, timeout = None, float("inf")
    try:
        options = Options.resolve(given, defaults)
        timeout = options.startup_timeout
        if options.interface is not None:
            get_ip_interface(options.interface)
    except (TypeError, ValueError) as error:
        problem = describe(error)
    return Facts(
        node=this_node(cpu_quota()),
        memory=memory_limit(),
        networks=tuple(f"{name} {address}" for name, address in interfaces()),
        software={
            "versions": _versions(),
            "system": platform.platform(),
            "python": _interpreter(),
            "options": _options(given),
        },
        launched=_launched(),
        tuning=_tuning(),
        import_time=imported,
        problem=problem,
        startup_timeout=timeout,
    )


def mpi_library() -> str:
    """Return the name of the MPI library, which is initialised."""
    from mpi4py import MPI

    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    standard = ".".join(map(str, MPI.Get_version()))
    return f"{launcher.library()}, MPI {standard}, thread level {levels[MPI.Query_thread()]}"


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _interpreter() -> str:
    """Name the interpreter, and the file systems that it imports from."""
    own, base = (file_system(os.path.realpath(path)) for path in (sys.prefix, sys.base_prefix))
    library = "" if own == base else f"; standard library on {base}"
    return f"{sys.executable} on {own}{library}"


def file_system(path: str) -> str:
    """Return the type of the file system that an absolute path is on, such as ``"lustre"``."""
    types = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    above = (place for place in types if os.path.commonpath([place, path]) == place)
    return types.get(max(above, key=len, default=""), "an unknown file system")


def _age() -> float:
    """Return the seconds since this process was started."""
    started = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):  # macOS
        return time.time() - started
    # The time of the boot, which is part of `started`, is known in whole seconds only.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (started - psutil.boot_time())


def _options(given: Mapping[str, Any]) -> str:
    import dask

    configured = dask.config.get("mpidask", None)
    return _shown(given) + (f"; in Dask's configuration: {configured}" if configured else "")


def _launched() -> str:
    sizes = _shown(launcher.size_variables())
    batch = [name for variable, name in _BATCH_SYSTEMS.items() if variable in os.environ]
    command = launcher.command()
    by = f"; started by {command}" if command else ""
    return f"{sizes}; batch system: {', '.join(batch) or 'none'}{by}"


def _tuning() -> str:
    names = (name for name in os.environ if name.startswith(tuple(_TUNING.split())))
    return _shown({name: os.environ[name] for name in names if not launcher.is_launchers(name)})


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"


# -- The text. ---------------------------------------------------------------------------


def of_process(facts: Facts) -> str:
    """Return what one process knows without the others, as text."""
    lines = [
        *facts.software.items(),
        ("launcher", facts.launched),
        ("environment", facts.tuning),
        ("this node", f"{facts.node.host}; {_machine([facts])}"),
    ]
    return "\n".join(f"{name:12} {value}" for name, value in lines)


def of_job(found: Mapping[int, Facts], size: int, library: str) -> str:
    """Return what those of the job's `size` ranks know that have answered, as text."""
    by_host: dict[str, list[int]] = defaultdict(list)
    for rank, facts in sorted(found.items()):
        by_host[facts.node.host].append(rank)
    ranks = f"{size} on {count(len(by_host), 'node')}"
    missing = sorted(set(range(size)) - found.keys())
    if missing:
        ranks += f"; no answer from ranks {_ranges(missing)}"
    lines = [("MPI", library), ("ranks", ranks)]
    for host, here in by_host.items():
        lines.append((host, f"ranks {_ranges(here)}; {_machine([found[rank] for rank in here])}"))
    lines.append(("scheduler", _listens_on(found)))
    lines += [("differs", f"rank {rank}: {what}") for rank, what in _differences(found)]
    lines += [("problem", what) for what in _problems(found)]
    return "\n".join(f"{name:12} {value}" for name, value in lines)


def _machine(facts: list[Facts]) -> str:
    """Describe one machine, as its ranks see it."""
    cpus = frozenset[int]().union(*(each.node.cpus for each in facts))
    bound = {len(each.node.cpus) for each in facts}
    per_rank = _span(min(bound), max(bound))
    imports = [round(each.import_time, 1) for each in facts]
    quota = facts[0].node.cpu_quota
    limited = f" (a cgroup allows the use of {quota})" if quota else ""
    networks = ", ".join(facts[0].networks) or "only loopback"
    return (
        f"{len(cpus)} CPUs{limited}, {per_rank} for each rank; "
        f"memory {facts[0].memory / 2**30:.1f} GiB; {networks}; "
        f"imports {_span(min(imports), max(imports))} s"
    )


def _listens_on(found: Mapping[int, Facts]) -> str:
    nodes = {rank: facts.node for rank, facts in found.items()}
    address = scheduler_host(nodes, 0, outside=False)
    if address is None:
        return (
            "no address of rank 0's node is in a network that all nodes are in: "
            "Dask chooses one; set interface or host"
        )
    return f"listens on {address}, unless interface or host are given"


def _differences(found: Mapping[int, Facts]) -> Iterable[tuple[int, str]]:
    """Yield what differs from rank 0, for the first such rank on each node."""
    seen = set()
    for rank, facts in sorted(found.items()):
        for name, value in facts.software.items():
            different = value != found[0].software[name]
            if different and (facts.node.host, name, value) not in seen:
                seen.add((facts.node.host, name, value))
                yield rank, f"{name} {value}"


def _problems(found: Mapping[int, Facts]) -> Iterable[str]:
    """Yield what is wrong with the options, each problem once."""
    seen = set[str]()
    for rank, facts in sorted(found.items()):
        if facts.problem is not None and facts.problem not in seen:
            seen.add(facts.problem)
            yield f"{name_rank(rank, facts.node.host)}: {facts.problem}"


def _span(low: float, high: float) -> str:
    return f"{low}" if low == high else f"{low}-{high}"


def _ranges(ranks: list[int]) -> str:
    """Abbreviate a list of ranks.

    Examples
    --------
    >>> _ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][-1] + 1:
            spans[-1][1:] = [rank]
        else:
            spans.append([rank])
    return ", ".join("-".join(map(str, span)) for span in spans)
