"""The only place that makes a Scheduler, a Worker or a Nanny."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mpidask import _dashboard, _scheduler_file
from mpidask._agreement import Cluster, StartWorker, WorkerStarted
from mpidask._errors import MPIDaskError
from mpidask._network import LOOPBACK
from mpidask._node import memory_limit

if TYPE_CHECKING:
    from distributed import Nanny, Scheduler, Worker

    from mpidask._options import Options

#: Seconds that a scheduler may take to answer a knock.
_ANSWER_TIMEOUT = 10

#: The reason that `Scheduler.close` gives to the workers it closes.
CLUSTER_ENDS = "scheduler-close"
#: The reason that mpidask gives to a worker whose process should end, as a task wants.
DROPPED = "mpidask-task-exit"


def make_security(option: Any) -> Any:
    """Give the `distributed.Security` that an option asks for, or None."""
    from distributed import Security

    return Security.temporary() if option is True else option or None


async def start_scheduler(options: Options, host: str | None, security: Any) -> Scheduler:
    """Start the scheduler, its dashboard left for later (see `_dashboard.load`)."""
    from distributed import Scheduler

    arguments = {
        "host": options.host or (None if options.interface else host),
        "interface": options.interface,
        "protocol": options.protocol,
        "port": options.scheduler_port,
        "security": security,
        # Without bokeh, distributed serves a page instead that says what to install.
        "dashboard": options.dashboard and not _dashboard.installed(),
        "dashboard_address": options.dashboard_address if options.dashboard else f"{LOOPBACK}:0",
    }
    with warnings.catch_warnings():
        # A taken port of the dashboard: the one line of output names the port in use.
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        scheduler: Scheduler = await Scheduler(**{**arguments, **options.scheduler_options})
    return scheduler


def describe_cluster(options: Options, scheduler: Scheduler, security: Any) -> Cluster:
    """Say how to reach a scheduler that runs."""
    cluster = Cluster(scheduler.address, security)
    if options.dashboard and "dashboard" in scheduler.services:
        link, tunnel = _dashboard.ways_in(scheduler)
        cluster = dataclasses.replace(cluster, dashboard=link, tunnel=tunnel)
    return cluster


async def find_cluster(options: Options) -> Cluster:
    """Find the cluster to join, and see that its scheduler answers.

    Raises
    ------
    SchedulerFileError
        If there is no usable scheduler file.
    OSError
        If no scheduler answers at the address.
    MPIDaskError
        If it is no address, or one that needs other credentials.
    """
    from distributed import Security
    from distributed.comm.core import connect

    if options.scheduler_file is not None:
        cluster = _scheduler_file.read(options.scheduler_file)
    else:
        assert options.address is not None
        cluster = Cluster(options.address)
    if isinstance(options.security, Security):
        cluster = dataclasses.replace(cluster, security=options.security)
    arguments = (cluster.security or Security()).get_connection_args("worker")
    try:
        comm = await connect(cluster.address, timeout=_ANSWER_TIMEOUT, **arguments)
        await comm.close()
    except (OSError, asyncio.TimeoutError) as error:
        raise OSError(f"no scheduler answers at {cluster.address}: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:  # no address, or no credentials
        source = f"from {options.scheduler_file}" if options.scheduler_file else "as given"
        raise MPIDaskError(f"can't connect to {cluster.address}, {source}: {error}") from None
    return cluster


def make_worker(
    options: Options, order: StartWorker, cluster: Cluster, attempt: int
) -> Worker | Nanny:
    """Make a worker, or the nanny of one, not started yet."""
    from distributed.comm.addressing import get_address_host

    from mpidask._quiet import QuietNanny

    memory = options.memory_limit
    # Where the scheduler keeps to loopback, nobody outside this machine is expected.
    inside = get_address_host(cluster.address) == LOOPBACK
    arguments = {
        "nthreads": order.nthreads,
        "memory_limit": memory_limit() // order.sharers if memory == "auto" else memory,
        "local_directory": options.local_directory,
        "interface": options.interface,
        "host": LOOPBACK if inside and options.interface is None else None,
        "protocol": options.protocol,
        "security": cluster.security,
        # The former worker of this rank may not be forgotten yet: another name.
        "name": order.name + (f"-{attempt}" if attempt else ""),
        "dashboard": False,
        "dashboard_address": ":0" if options.dashboard and not inside else f"{LOOPBACK}:0",
    }
    base = worker_class(options)
    if issubclass(base, QuietNanny):
        arguments["log_level"] = options.log_level
    cls = _rank_worker(base, options.shutdown_timeout)
    worker: Worker | Nanny = cls(cluster.address, **{**arguments, **options.worker_options})
    return worker


def describe_worker(worker: Any, order: StartWorker) -> WorkerStarted:
    """Say what a worker that runs has to offer, as far as its class tells."""
    manager = getattr(worker, "memory_manager", None)
    holder = getattr(worker, "state", worker)  # a Worker's state, or a Nanny
    return WorkerStarted(
        nthreads=getattr(holder, "nthreads", order.nthreads),
        memory_limit=getattr(manager, "memory_limit", None),
    )


def worker_class(options: Options) -> type:
    """Give the class of the workers."""
    from distributed import Nanny, Worker
    from distributed.utils import import_term

    from mpidask._quiet import QuietNanny

    cls = options.worker_class
    if isinstance(cls, str):
        cls = import_term(cls)
    if not isinstance(cls, type):
        raise TypeError(f"worker_class {options.worker_class!r} is not a class")
    return QuietNanny if cls is Nanny or (options.nanny and cls is Worker) else cls


def _rank_worker(base: type, shutdown_timeout: float) -> type:
    """Derive a worker class that knows why it was closed."""
    from distributed import Nanny, Worker
    from distributed.core import Status

    class RankWorker(base):  # type: ignore[misc]
        close_reason: str | None = None
        retired = False
        on_cluster_end: Callable[[], object] = staticmethod(lambda: None)

        async def close(self, *args: Any, **kwargs: Any) -> Any:
            if self.close_reason is None:
                self.close_reason = kwargs.get("reason", "")
                self.retired = status_of(self) == Status.closing_gracefully
                if self.close_reason == CLUSTER_ENDS:
                    self.on_cluster_end()
            if issubclass(base, Worker):
                # Running tasks may finish at the end of the cluster. When the worker is
                # replaced, its successor shall not wait for them.
                if self.close_reason != CLUSTER_ENDS:
                    kwargs["executor_wait"] = False
                kwargs["timeout"] = shutdown_timeout
            elif issubclass(base, Nanny) and self.close_reason == CLUSTER_ENDS:
                # Time is needed for the scheduler to close it first, and to kill it at last.
                kwargs["timeout"] = 0.75 * shutdown_timeout
            accepted = inspect.signature(super().close).parameters
            if all(one.kind != one.VAR_KEYWORD for one in accepted.values()):
                kwargs = {name: value for name, value in kwargs.items() if name in accepted}
            return await super().close(*args, **kwargs)

    RankWorker.__name__ = base.__name__  # shown by the dashboard
    return RankWorker


def status_of(worker: Any) -> Any:
    """Give the status of a worker, or None: one made of several, such as CUDAWorker, has none."""
    return getattr(worker, "status", None)


def stays_away(worker: Any, *, joined: bool) -> bool:
    """Tell whether a worker that has finished shall not be replaced.

    It shall if `Client.restart` closed it, it lost its connection, or closed itself. It
    shall not if it was retired on purpose, nor at the end of the cluster; but one that
    joined the cluster of another job waits for the next.
    """
    if worker.retired and not getattr(worker, "lifetime_restart", False):
        return True
    final = {"scheduler-close-worker"} if joined else {"scheduler-close-worker", CLUSTER_ENDS}
    return worker.close_reason in final


def running_tasks(worker: Any) -> tuple[str, ...]:
    """Name the tasks that a worker's threads are busy with."""
    if getattr(worker, "close_reason", None) == DROPPED:
        return ()  # distributed still lists the task that raised SystemExit
    return tuple(str(key) for key in getattr(worker, "active_threads", {}).values())


#: Variables by which an MPI library knows that a launcher started it, and as which rank.
_LAUNCHER_VARIABLES = (
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


@contextlib.contextmanager
def hidden_launcher() -> Iterator[None]:
    """Hide the launcher from the processes that this one starts.

    A nanny's child is no rank: an MPI library in it that tried to be one would fail, or
    hang. Without these variables it is an MPI job of its own, of one process.
    """
    hidden = {k: v for k, v in os.environ.items() if k.startswith(_LAUNCHER_VARIABLES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def uses_nanny(options: Options) -> bool:
    """Tell whether workers run in child processes, as far as the options show."""
    from distributed import Worker

    return options.nanny or options.worker_class not in ("distributed.Worker", Worker)


def hide_script_from_nannies() -> None:
    """Keep the worker processes of nannies from running the user's script again.

    Python's multiprocessing imports the main module in every process it spawns. That is
    for functions pickled by name, which Dask does not do with those of a script, and it
    breaks scripts without a ``__main__`` guard. There is no public way to turn it off
    for one process; so the private preparation data are made without the main module,
    for the processes that nannies name as theirs.
    """
    from multiprocessing import spawn

    if hasattr(spawn.get_preparation_data, "mpidask"):
        return
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith("Dask Worker process"):
            data.pop("init_main_from_path", None)
            data.pop("init_main_from_name", None)
        return data

    get_preparation_data.mpidask = True  # type: ignore[attr-defined]
    spawn.get_preparation_data = get_preparation_data
