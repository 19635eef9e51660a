"""What ranks tell each other.

Every rank is a member, and reports to one of them, the leader: the client rank, where
there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mpidask._dask.connection_info import ConnectionInfo
from mpidask._placement.node import Node
from mpidask._placement.resources import WorkerSettings

__all__ = [
    "ConnectionInfo",
    "Done",
    "End",
    "Failed",
    "Finished",
    "MeasureTransport",
    "RankReady",
    "Running",
    "SchedulerClosed",
    "SendByMPI",
    "SignalHeard",
    "Signalled",
    "StartScheduler",
    "StartTransport",
    "StartWorker",
    "TransportMeasured",
    "WorkerStarted",
]

# -- To the leader; one more of them is `ConnectionInfo`, when the scheduler runs, which the
# -- leader passes on to all that host a worker. -------------------------------------


@dataclass(frozen=True)
class RankReady:
    """A rank has arrived."""

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
    """A rank's scheduler is being shut down, or its worker has retired for good."""

    duty: str


@dataclass(frozen=True)
class Failed:
    """A rank could not start, or go on with, its part; unless it is `final`, it tries again."""

    duty: str
    cause: str
    final: bool = True


@dataclass(frozen=True)
class Signalled:
    """A rank was sent a signal that ends programs."""

    signum: int


@dataclass(frozen=True)
class Done:
    """A rank has stopped all it ran, but for the tasks named, and maybe what is in MPI."""

    stuck: tuple[str, ...] = ()
    transfers_stuck: bool = False
    gangs_stuck: bool = False


# -- To the members ------------------------------------------------------------------


@dataclass(frozen=True)
class StartScheduler:
    """Start the scheduler on this address (None: distributed chooses).

    It is told where the ranks are, by the names of their workers.
    """

    host: str | None
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StartTransport:
    """Take part in the transport of a cluster's data by MPI, and send so to `peers`.

    The name of the `job` tells who else does.
    """

    job: str
    peers: Collection[int]


@dataclass(frozen=True)
class MeasureTransport:
    """Compare MPI with sockets, on the way to the worker of a rank."""

    rank: int
    address: str


@dataclass(frozen=True)
class SendByMPI:
    """Send data to all ranks by MPI."""


@dataclass(frozen=True)
class StartWorker:
    """Start a worker of the cluster that was told before, or else of the one the options name.

    One rank `announces` what concerns all: a cluster to join has to be waited for, or the file
    system is slow.
    """

    settings: WorkerSettings
    announces: bool = False


@dataclass(frozen=True)
class SignalHeard:
    """The leader knows of the signal, and will end the cluster when its function has ended."""


@dataclass(frozen=True)
class Running:
    """The cluster is up, the user's function starts."""


@dataclass(frozen=True)
class SchedulerClosed:
    """The scheduler was shut down, and is not dead; the user's function may go on."""


@dataclass(frozen=True)
class End:
    """Stop everything. Then leave the program with `status`, or go on with it.

    `leader` names the leader's rank and host, for ranks that wait for it later.
    """

    status: int
    leave: bool
    leader: str = ""
