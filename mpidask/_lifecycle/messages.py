"""The messages between ranks.

Every rank is a member, and reports to the leader: the client rank, if there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mpidask._dask.connection_info import ConnectionInfo as ConnectionInfo
from mpidask._placement.node import Node
from mpidask._placement.worker_settings import WorkerSettings

# -- To the leader. `ConnectionInfo` is another one, sent once the scheduler runs; the leader passes
# -- it on to the ranks that host a worker. -------------------------------------------


@dataclass(frozen=True)
class RankReady:
    """A rank takes orders."""

    node: Node


@dataclass(frozen=True)
class WorkerStarted:
    """A worker has registered with the scheduler."""

    nthreads: int
    memory_limit: int | None
    address: str = ""


@dataclass(frozen=True)
class TransportMeasured:
    """How many times as fast as sockets MPI is between nodes."""

    gain: float


@dataclass(frozen=True)
class Finished:
    """A rank's scheduler is being shut down, or its worker was retired."""

    duty: str


@dataclass(frozen=True)
class Failed:
    """A server of a rank has failed; unless this is `final`, the rank tries again."""

    duty: str
    cause: str
    final: bool = True


@dataclass(frozen=True)
class Signalled:
    """A rank received SIGINT or SIGTERM."""

    signum: int


@dataclass(frozen=True)
class LeaderSought:
    """A worker has no scheduler: is the leader there? It answers `LeaderThere`."""


@dataclass(frozen=True)
class Done:
    """A rank has stopped its servers, except for what is named here."""

    stuck: tuple[str, ...] = ()
    transfers_stuck: bool = False
    gangs_stuck: bool = False


# -- To the members ------------------------------------------------------------------


@dataclass(frozen=True)
class StartScheduler:
    """Start the scheduler."""

    host: str | None  # the address to listen on; None: distributed's choice
    places: Mapping[str, str] = field(default_factory=dict)  # rank and host by worker's name


@dataclass(frozen=True)
class StartTransport:
    """Receive data by MPI, and send it to `peers`."""

    job: str  # a secret of the ranks that do, by which they recognise each other
    peers: Collection[int]


@dataclass(frozen=True)
class MeasureTransport:
    """Compare MPI with sockets between this rank and the worker of another one."""

    rank: int
    address: str


@dataclass(frozen=True)
class SendByMPI:
    """Send data by MPI to all ranks."""


@dataclass(frozen=True)
class StartWorker:
    """Start a worker in the cluster of the `ConnectionInfo` before, or that the options name."""

    settings: WorkerSettings
    announces: bool = False  # logs what concerns all workers, such as a slow file system


@dataclass(frozen=True)
class SignalHeard:
    """The leader knows of the signal, and ends the cluster once the user's function has ended."""


@dataclass(frozen=True)
class LeaderThere:
    """The leader lives, and deals with the scheduler if that is dead."""


@dataclass(frozen=True)
class Running:
    """The cluster is up, and the user's function starts."""


@dataclass(frozen=True)
class SchedulerClosed:
    """The scheduler was shut down, as opposed to dead; the user's function may go on."""


@dataclass(frozen=True)
class End:
    """Stop everything, then leave the program, or go on with it."""

    status: int  # of the job
    leave: bool
    leader: str = ""  # its rank and host, for messages while waiting for it at exit
