"""The ranks of an MPI job as a cluster, seen from one of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError

from mpidask._gang import protocol
from mpidask._lifecycle import single_use
from mpidask._lifecycle.handshake import Handshake
from mpidask._lifecycle.leader import Leader, end_job
from mpidask._lifecycle.member import REPORT_GRACE, Member
from mpidask._lifecycle.messages import ConnectionInfo, End
from mpidask._lifecycle.roles import Roles
from mpidask._lifecycle.signals import result_of
from mpidask._lifecycle.stuck_main import StuckMainWatch
from mpidask._log import logger
from mpidask._mpi import exit_blockers, job_exit
from mpidask._mpi.communicator import Communicator
from mpidask._options import Options
from mpidask._text import name_this_rank
from mpidask._threads import LoopThread, raise_in_main_thread, start_task

#: Seconds that the leader's event loop may be blocked at the end, beyond all other time-outs.
_LOOP_GRACE = 2


class MPICluster:
    """Context manager within which the ranks of a communicator are a cluster.

    The client rank gets the `ConnectionInfo` to connect to. The other ranks serve in
    `__enter__` until the cluster ends; then they leave the program, or get None.

    On every rank, an event loop in a thread talks to the other ranks; the main thread waits, or
    runs the user's function.
    """

    def __init__(self, handshake: Handshake, options: Options, roles: Roles) -> None:
        self._handshake = handshake
        self._options = options
        self._roles = roles
        self._interrupt = handshake.interrupt
        self._members: Communicator | None = None
        self._leader: Leader | None = None
        self._settings = contextlib.ExitStack()
        self.leads = handshake.comm.Get_rank() == roles.leader
        self.runs_program = handshake.comm.Get_rank() == roles.client

    def __enter__(self) -> ConnectionInfo | None:
        single_use.entered()
        self._loop = LoopThread()
        self._stuck_main = self._loop.submit(self._watch_main()).result()
        try:
            self._members = self._handshake.run(self._loop)
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
                job_exit.abort_at_exit(1)  # a bug, and the other ranks wait for this one
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self.leads:
            return
        leave = self._options.exit or isinstance(error, (SystemExit, KeyboardInterrupt))
        self._end(error, leave=leave)

    async def _watch_main(self) -> StuckMainWatch:
        rank = self._handshake.comm.Get_rank()
        return StuckMainWatch(self._interrupt, rank, self._options.shutdown_timeout)

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
        return name_this_rank(self._handshake.comm.Get_rank())

    def _expect_end(self, place: Callable[[int], str], order: End) -> None:
        """Prepare for the exit of this process."""
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
            exit_blockers.limit_exit(self._place, timeout)
        else:
            exit_blockers.report_threads_at_exit(self._place)

    def _lead(self) -> ConnectionInfo | None:
        starting = self._loop.submit(self._start())
        self._interrupt.act(lambda signum: starting.cancel())
        self._interrupt.abandon_start = starting.cancel
        # Now, while the other ranks arrive.
        import distributed  # noqa: F401

        return result_of(starting, self._interrupt)

    async def _start(self) -> ConnectionInfo | None:
        assert self._members is not None
        serving = start_task(self._member().serve())

        def on_signal(signum: int) -> None:
            self._stuck_main.expect(signum)
            raise_in_main_thread(signum)

        self._leader = Leader(self._members, self._roles, self._options, on_signal)
        serving.add_done_callback(self._leader.give_up_if_failed)
        cluster = await self._leader.start(self._handshake.deadline)
        if cluster is not None:
            ranks = protocol.worker_ranks(self._roles.workers, self._options)
            protocol.remember(cluster.address, ranks)
        return cluster

    def wait_until_over(self) -> int:
        """On the leader: wait until the cluster ends by itself, and return the exit status."""

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
        self._settings.close()  # last, as what still runs may log
        job_exit.set_cluster_runs(False)
        single_use.ended(left=left)

    def _end_in_time(self, leader: Leader, order: End) -> None:
        """Let the leader end the cluster, unless user code blocks its event loop."""
        timeout = self._options.shutdown_timeout + REPORT_GRACE + _LOOP_GRACE
        try:
            self._loop.submit(leader.end(order)).result(timeout)
        except FutureTimeoutError:
            rank, call = self._handshake.comm.Get_rank(), self._loop.innermost_call()
            end_job(order, f"the event loop of rank {rank} is blocked, in {call}")

    def _end(self, error: BaseException | None, *, leave: bool) -> None:
        """End the cluster; `error` ended the user's function, if it is not None."""
        self._interrupt.disarm()
        signum = self._interrupt.signum
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit, asyncio.CancelledError))
        broken = self._leader is not None and self._leader.broken
        status = 128 + signum if signum and interrupted else job_exit.exit_status(error)
        if broken and interrupted:
            status = 1
        if self._leader is not None:
            order = End(status, leave, self._place)
            self._end_in_time(self._leader, order)
            self._expect_end(self._leader.place, order)
        elif self._members is not None:
            job_exit.abort_at_exit(status)  # there was no leader yet to tell the others
        self._stop(left=leave)
        if signum and interrupted and not broken:
            logger.warning("ended by %s", signal.Signals(signum).name)
        if isinstance(error, KeyboardInterrupt) or (signum and interrupted):
            # On KeyboardInterrupt, Python prints a traceback of no use and kills the process by
            # SIGINT, which launchers report as a crash.
            raise SystemExit(status) from None
