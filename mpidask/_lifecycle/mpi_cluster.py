"""The ranks of an MPI job as a cluster, from one rank's point of view."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError

from mpidask._gang import jobs
from mpidask._lifecycle import signals, single_use
from mpidask._lifecycle.gathering import Gathering
from mpidask._lifecycle.leader import Leader
from mpidask._lifecycle.loop_thread import LoopThread
from mpidask._lifecycle.member import Member
from mpidask._lifecycle.messages import ConnectionInfo, End
from mpidask._lifecycle.rank_gangs import job_of
from mpidask._lifecycle.reaction import ReactionWatch
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.shutdown import REPORT_GRACE, end_job
from mpidask._log import logger
from mpidask._mpi import job_exit, leftovers
from mpidask._mpi.communicator import Communicator
from mpidask._options import Options

#: Seconds that the leader's event loop may be held up at the end, beyond all others' time.
_LOOP_GRACE = 2


def exit_status(error: BaseException | None) -> int:
    """Give the status with which Python leaves because of an exception."""
    match error:
        case None | SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 0xFF
        case KeyboardInterrupt():
            return 128 + signal.SIGINT
        case _:
            return 1


class MPICluster:
    """A block within which the ranks of a communicator are a cluster.

    The client rank gets the `ConnectionInfo` to connect to. The other ranks serve in
    `__enter__` until the cluster ends; then they leave the program, or get None.

    Everything that talks to other ranks runs in an event loop in a thread, on all
    ranks alike; the main thread waits, or runs the user's function.
    """

    def __init__(self, gathering: Gathering, options: Options, roles: Roles) -> None:
        self._gathering = gathering
        self._options = options
        self._roles = roles
        self._interrupt = gathering.interrupt
        self._members: Communicator | None = None
        self._leader: Leader | None = None
        self._settings = contextlib.ExitStack()
        self.leads = gathering.comm.Get_rank() == roles.leader

    def __enter__(self) -> ConnectionInfo | None:
        single_use.entered()
        self._loop = LoopThread()
        self._reaction = self._loop.submit(self._watch_reaction()).result()
        try:
            self._members = self._gathering.meet(self._loop)
            job_exit.set_cluster_runs(True)
            if self.leads:
                return self._lead()
            self._serve()
            return None
        except BaseException as error:
            if self.leads:
                self._end(error, leave=True)
            elif self._members is None:
                self._stop(left=True)
            elif not isinstance(error, SystemExit):
                job_exit.abort_at_exit(1)  # an error of ours; the others wait for this rank
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self.leads:
            return
        leave = self._options.exit or isinstance(error, (SystemExit, KeyboardInterrupt))
        self._end(error, leave=leave)

    async def _watch_reaction(self) -> ReactionWatch:
        rank = self._gathering.comm.Get_rank()
        return ReactionWatch(self._interrupt, rank, self._options.shutdown_timeout)

    def _member(self) -> Member:
        assert self._members is not None
        member = Member(self._members, self._roles, self._options, self._settings)
        self._loop.on_exit = member.replace_worker
        return member

    def _serve(self) -> None:
        member = self._member()
        serving = self._loop.submit(member.serve())
        self._interrupt.act(lambda signum: self._loop.call(member.report_signal, signum))
        order = serving.result()
        self._interrupt.act(lambda signum: None)  # the loop that would report it ends
        self._stop(left=order.leave)
        self._expect_end(lambda rank: order.leader if rank == self._roles.leader else "", order)
        if order.leave:
            job_exit.skip_last_collections()
            raise job_exit.ServedExit(order.status)

    @property
    def _place(self) -> str:
        return f"rank {self._gathering.comm.Get_rank()} on {socket.gethostname()}"

    def _expect_end(self, place: Callable[[int], str], order: End) -> None:
        """Prepare for the end of the program on this rank."""
        assert self._members is not None
        own = self._members.rank

        def name(rank: int) -> str:
            return self._place if rank == own else place(rank) or f"rank {rank}"

        timeout = self._options.shutdown_timeout
        goes_on_alone = order.leave and own == self._roles.client
        job_exit.expect_end(
            self._members.mpi,
            name,
            left=order.leave,
            goes_on_alone=goes_on_alone,
            timeout=timeout,
        )
        if own == self._roles.leader and order.status in job_exit.SIGNALLED:
            job_exit.outlast_other_ranks()
        if order.leave and not goes_on_alone:
            leftovers.leave_behind(self._place, timeout)
        else:
            leftovers.tell_of_threads(self._place)

    def _lead(self) -> ConnectionInfo | None:
        starting = self._loop.submit(self._start())
        self._interrupt.act(lambda signum: starting.cancel())
        self._interrupt.abandon_start = starting.cancel
        # Here and now, while the ranks gather.
        import distributed  # noqa: F401

        return signals.result_of(starting, self._interrupt)

    async def _start(self) -> ConnectionInfo | None:
        assert self._members is not None
        # An attribute: the event loop alone would let it be collected.
        self._serving = serving = asyncio.create_task(self._member().serve())

        def on_signal(signum: int) -> None:
            self._reaction.expect(signum)
            signals.raise_in_main_thread(signum)

        self._leader = Leader(self._members, self._roles, self._options, on_signal)
        serving.add_done_callback(self._leader.give_up_if_failed)
        cluster = await self._leader.start(self._gathering.deadline)
        if cluster is not None:
            jobs.remember(cluster.address, job_of(self._roles, self._options))
        return cluster

    def wait_until_over(self) -> int:
        """Wait on the leader until the cluster ends by itself, and return the status."""

        async def over() -> int:
            assert self._leader is not None
            return await self._leader.over

        waiting = self._loop.submit(over())
        try:
            return waiting.result()
        finally:
            waiting.cancel()

    def _stop(self, *, left: bool) -> None:
        self._loop.stop()
        self._settings.close()  # not before: what still runs may log
        job_exit.set_cluster_runs(False)
        single_use.ended(left=left)

    def _end_in_time(self, leader: Leader, order: End) -> None:
        """Let the leader end the cluster, if nothing of the user's blocks its event loop."""
        timeout = self._options.shutdown_timeout + REPORT_GRACE + _LOOP_GRACE
        try:
            self._loop.submit(leader.end(order)).result(timeout)
        except FutureTimeoutError:
            rank, call = self._gathering.comm.Get_rank(), self._loop.innermost_call()
            end_job(order, f"the event loop of rank {rank} is blocked, in {call}")

    def _end(self, error: BaseException | None, *, leave: bool) -> None:
        """End the cluster, because of an error or in peace."""
        self._interrupt.disarm()
        signum = self._interrupt.signum
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit, asyncio.CancelledError))
        broken = self._leader is not None and self._leader.broken
        status = 128 + signum if signum and interrupted else exit_status(error)
        if broken and interrupted:
            status = 1
        if self._leader is not None:
            order = End(status, leave, self._place)
            self._end_in_time(self._leader, order)
            self._expect_end(self._leader.place, order)
        elif self._members is not None:
            job_exit.abort_at_exit(status)  # given up before anybody could be told
        self._stop(left=leave)
        if signum and interrupted and not broken:
            logger.warning("ended by %s", signal.Signals(signum).name)
        if isinstance(error, KeyboardInterrupt) or (signum and interrupted):
            # A status says it all; a traceback of Python's own would say no more, and
            # Python would end a process by SIGINT itself, which launchers report as a crash.
            raise SystemExit(status) from None
