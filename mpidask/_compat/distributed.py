"""Private or undocumented API of distributed, and of dask and tornado behind it."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client, Nanny, Scheduler, Worker
    from distributed.comm.core import Comm
    from distributed.http.routing import RoutingApplication
    from tornado.routing import Rule


# -- Clients. ----------------------------------------------------------------------------


def all_clients() -> list[Client]:
    """Return all clients of this process; in public, distributed has only the current one."""
    from distributed import Client

    return list(Client._instances)


def forget_client(client: Client) -> None:
    """Keep an asynchronous client whose event loop has ended from being the current one.

    It can't be closed any more, and `Client.current` looks at this status.
    """
    client.status = "closed"


@contextlib.contextmanager
def wrapped_init(cls: type, wrapper: Callable[[Any], Any]) -> Iterator[None]:
    """Wrap the `__init__` of `Client` or `LocalCluster`: there is no hook for when one is made."""
    original = cls.__init__  # type: ignore[misc]
    cls.__init__ = wrapper(original)  # type: ignore[misc]
    try:
        yield
    finally:
        cls.__init__ = original  # type: ignore[misc]


def calling_code(client: Client) -> str:
    """Return the source of the program's function that runs now, for a performance report.

    In public, `performance_report` counts frames, whose number between its exit and the program
    differs. This search, which `Computation` uses, skips modules by Dask's configuration.
    """
    frames = client._get_computation_code()
    return frames[0].code if frames else "<Code not available>"


def connections_of(client: Client) -> Callable[[str], Any]:
    """Return what connects to a worker at an address, as `Client.scatter` and `gather` do."""
    return client.rpc


def send_to_scheduler(client: Client, message: dict[str, Any]) -> None:
    """Send a message behind all that a client has sent before; none if it is closed.

    Public calls of the scheduler go another way, and may overtake tasks that were submitted.
    """
    from distributed.client import ClosedClientError

    with contextlib.suppress(ClosedClientError, RuntimeError):  # its event loop has ended
        client._send_to_scheduler(message)


# -- Connections. ------------------------------------------------------------------------


def set_addresses(comm: Comm, local: str, peer: str) -> None:
    """Set the addresses of a comm's ends by the names that `distributed.comm.connect` reads.

    It reads neither of the public properties.
    """
    comm._local_addr, comm._peer_addr = local, peer  # type: ignore[attr-defined]


# -- Workers and nannies. ----------------------------------------------------------------


def adjust_process_memory(worker: Worker, adjust: Callable[[int], int]) -> None:
    """Adjust the number that a worker takes for the memory of its process.

    It spills and pauses by that, and reports it. The method exists to be replaced (in tests).
    """
    measure = worker.monitor.get_process_memory
    worker.monitor.get_process_memory = lambda: adjust(measure())  # type: ignore[method-assign]


@functools.cache  # a second wrapper would do no more
def free_sent_shards() -> None:
    """Let P2P shuffles free what they have sent to other workers, or written to disk.

    Each of their tasks that do so, `ShardsBuffer._background_task`, keeps its last message until
    there is another one: up to ten messages for each shuffle. Where several shuffles run at once,
    these can be large enough to pause all workers, for good.
    """
    from distributed.shuffle._comms import CommShardsBuffer
    from distributed.shuffle._disk import DiskShardsBuffer

    for cls in CommShardsBuffer, DiskShardsBuffer:
        cls._process = _freeing(cls._process)  # type: ignore[method-assign]


def _freeing(process: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(process)
    async def wrapper(self: Any, destination: str, shards: list[Any]) -> None:
        await process(self, destination, shards)
        if destination.startswith("inproc://"):  # the receiver has the same objects
            return
        for shard in shards:
            match shard:
                case (_, list(pieces)):
                    pieces.clear()
        shards.clear()

    return wrapper


def count_shared_memory_once(nanny: Nanny) -> None:
    """Let a nanny that does not run yet terminate its child for the child's share of memory only.

    It looks at the resident set, which counts memory that processes share in each of them.
    """
    from tornado.ioloop import PeriodicCallback

    manager: Any = nanny.memory_manager
    if "memory_monitor" not in nanny.periodic_callbacks:  # no limit
        return

    def check() -> None:
        limit = manager.memory_limit * manager.memory_terminate_fraction
        if nanny.pid is not None and _uses_more(nanny.pid, limit):
            manager.memory_monitor(nanny)

    interval = manager.memory_monitor_interval * 1000
    nanny.periodic_callbacks["memory_monitor"] = PeriodicCallback(check, interval)


def _uses_more(pid: int, limit: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.memory_info().rss <= limit:  # which is cheaper to ask for
            return False
        memory = process.memory_full_info()
    except psutil.Error:
        return False
    return bool(getattr(memory, "pss", memory.rss) > limit)


# Why a worker was closed, in the words of distributed. They have no public names.

#: By `Client.restart` and the like.
RESTARTED = "scheduler-remove-worker"
#: By `Scheduler.close`.
CLUSTER_ENDS = "scheduler-close"
#: By `Scheduler.close_worker`.
CLOSED_BY_SCHEDULER = "scheduler-close-worker"
#: By itself, without its scheduler.
SCHEDULER_GONE = frozenset(
    {
        CLUSTER_ENDS,
        "worker-handle-scheduler-connection-broken",
        "worker-heartbeat-error",
        "worker-heartbeat-missing",
    }
)

#: How nannies name their child processes.
_NANNYS_CHILD = "Dask Worker process"


def is_child_of_nanny(process_name: str) -> bool:
    """Whether a process is the one that a nanny runs its worker in, by its name."""
    return process_name.startswith(_NANNYS_CHILD)


def is_starting(worker: Any) -> bool:
    """Whether this is a nanny whose worker starts, or starts again.

    Only the status of `Nanny.process` shows that, not `Nanny.status`.
    """
    from distributed.core import Status

    return getattr(getattr(worker, "process", None), "status", None) == Status.starting


async def addresses_of_worker(nanny: Nanny) -> list[str]:
    """Return the address of a nanny's worker, if the scheduler knows of it: it does first.

    `Scheduler.identity` names the nannies of workers, which ``Client.scheduler_info`` shows.
    """
    workers = (await nanny.scheduler.identity())["workers"]
    return [address for address, one in workers.items() if one["nanny"] == nanny.address]


# -- What the scheduler knows of tasks and workers. ----------------------------------------


def on_client_desires(scheduler: Scheduler, callback: Callable[[Iterable[Any], str], None]) -> None:
    """Call a function with keys and client whenever a client asks to keep results.

    Plugins learn of tasks, not of who wants them. `fire_and_forget` uses this message only.
    """
    op = "client-desires-keys"
    handler: Any = scheduler.stream_handlers[op]

    def desires(keys: Iterable[Any], client: str) -> None:
        handler(keys=keys, client=client)
        callback(keys, client)

    scheduler.stream_handlers[op] = desires


#: The client that `distributed.fire_and_forget` names.
FIRE_AND_FORGET = "fire-and-forget"


def before_nanny_plugin(scheduler: Scheduler, callback: Callable[[str | None], None]) -> None:
    """Call a function with the name of each nanny plugin that a client registers."""
    op = "register_nanny_plugin"
    register: Any = scheduler.handlers[op]

    @functools.wraps(register)  # distributed looks at the parameters
    async def register_nanny_plugin(*args: Any, **kwargs: Any) -> Any:
        callback(kwargs.get("name"))
        return await register(*args, **kwargs)

    scheduler.handlers[op] = register_nanny_plugin


def was_sent_to_worker(task: Any) -> bool:
    """Whether the scheduler has sent a task to a worker before: it numbers these runs."""
    return task.run_id is not None


def compute_seconds(transition: Mapping[str, Any]) -> float:
    """Return how long a task ran, from the arguments of `SchedulerPlugin.transition`.

    They include the worker's timings as ``startstops``, undocumented.
    """
    parts = transition.get("startstops") or ()
    return sum(float(one["stop"] - one["start"]) for one in parts if one["action"] == "compute")


def metered_bytes(scheduler: Scheduler, *, context: str = "", activity: str = "") -> int:
    """Add up the bytes that workers metered in one context, or for one activity.

    The keys of these *fine performance metrics* are documented as subject to change: here
    ``(context, ..., activity, unit)``.
    """
    return int(
        sum(
            amount
            for key, amount in list(scheduler.cumulative_worker_metrics.items())
            if isinstance(key, tuple) and key[-1] == "bytes"
            if (key[0] == context if context else key[-2] == activity)
        )
    )


def spilled_bytes(metrics: Mapping[str, Any]) -> int:
    """Return the bytes on disk that a worker's heartbeat named."""
    return int(metrics.get("spilled_bytes", {}).get("disk", 0))


# -- Web pages. ----------------------------------------------------------------------------


def connect_dashboard(scheduler: Scheduler, prefix: str) -> None:
    """Add the dashboard to a scheduler that runs; its module takes long to import.

    ``Scheduler(dashboard=True)`` does the same, and there is no public way to do it later.
    """
    from distributed.dashboard.scheduler import connect

    connect(scheduler.http_application, scheduler.http_server, scheduler, prefix=prefix or "/")


def route_first(application: RoutingApplication, rule: Rule) -> None:
    """Let a rule go before all routes of a server: tornado takes the first that matches.

    Its public way, `add_handlers`, puts new ones behind those that are there.
    """
    application.default_router.rules.insert(0, rule)


# -- Logs. -----------------------------------------------------------------------------------

# Texts of log messages, before values are put in.

#: Logged by workers, and reported in other ways: the client gets the error of a task; a worker that
#: lost its scheduler closes, and its rank starts another; tasks that the end cuts off, or that
#: raised SystemExit, are named; the other end of a refused or abandoned connection reports that,
#: data transfers included. The last is logged by a nanny's child at its end.
REPORTED_ELSEWHERE = (
    "Compute Failed",
    "Failed to communicate with scheduler during heartbeat",
    "failed during get data with",
    "Async instruction for",
    "Unhandled exception in async instruction for",
    "Listener on %r: TLS handshake failed",
    "Worker process died unexpectedly",
)
#: Warnings that the scheduler logs whenever data is shuffled, although all is well.
ROUTINE = (
    "Shuffle %s initialized by task",
    "Shuffle %s deactivated due to stimulus",
)
#: Logged by the scheduler at `Client.restart`, and wrong here: ranks restart their workers.
NOT_RESTARTED = re.compile(
    "Workers .* do not use a nanny and will be terminated without restarting"
)
#: Logged by clients whose scheduler has ended or is gone.
SCHEDULER_LOST = ("Failed to reconnect to scheduler", "Batched Comm Closed")
#: The method of distributed's listeners whose failures tornado logs.
LISTENERS_HANDLER = "_handle_stream"


# -- Warnings. -------------------------------------------------------------------------------

# Patterns for the beginnings of their texts.

#: From servers whose dashboard gets another port than asked for.
PORT_IN_USE = r"\s*Port \d+ is already in use"
#: From servers on a machine whose only network is loopback.
ONLY_LOOPBACK = "Couldn't detect a suitable IP address"
#: From workers whose `local_directory` is on a slow file system.
SLOW_FILES = "Creating scratch directories is taking a surprisingly long time"


@contextlib.contextmanager
def without_warnings(*texts: str) -> Iterator[None]:
    """Ignore some warnings, which have no categories of their own."""
    with warnings.catch_warnings():
        for text in texts:
            warnings.filterwarnings("ignore", message=text)
        yield


# -- dask. -----------------------------------------------------------------------------------


def cpu_quota() -> int | None:
    """Return how many CPUs the cgroup of this process may keep busy, if that is limited.

    `dask.system.CPU_COUNT`, which is public, mixes the quota with the affinity mask; for ranks
    that are bound to CPUs of their own, the quota alone is what they share.
    """
    from dask import system

    extract = getattr(system, "_try_extract_cgroup_cpu_quota", lambda: (None, None))
    quota, period = extract()
    return max(1, quota // period) if quota and period and quota > 0 else None
